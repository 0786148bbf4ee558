"""A Markdown table of results from run folders, one by seed, and a verdict on each claim of the main job.

    python analysis/results_table.py [--runs DIR ...] [--out FILE.md]

A tenth is a tenth of the planned updates; its reward is the mean of `reward/mean` over them. Means over seeds
take the finished seeds alone; an unfinished one stands in the second table, with a dash for what it has not
reached.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runs import DEFAULT_RUNS, NoRunsError, Run, print_notes
from variants import REWARD_TITLES, Variant, load_variants

if TYPE_CHECKING:
    import numpy as np

TRAINED, HELD_OUT = "eval/train_exact_match", "eval/holdout_exact_match"
RISE, KEPT = 0.1, 0.8
NEXT_TO_NOTHING = 0.005
CLAIMED_FOR = "pgsrm"
NONE = "-"
HOW_TO_READ = (
    "Reward in a tenth: mean of `reward/mean` over that tenth of the updates. Best tenth: the best of ten.",
    f"Last / best is left out where the best tenth is below {NEXT_TO_NOTHING:g}.",
    "Exact match: greedy decoding, before training → at the last evaluation.",
    "Means over the finished seeds; in brackets the lowest and the highest seed.",
)


@dataclass(frozen=True)
class Result:
    """What one run came to; NaN where it has not got there or did not record it."""

    run: Run
    first: float
    last: float
    best: float
    trained: tuple[float, float]
    held_out: tuple[float, float]
    minutes: float

    @property
    def change(self) -> float:
        return self.last - self.first

    @property
    def kept(self) -> float:
        """Last tenth over best tenth; NaN where even the best earned next to nothing."""
        return self.last / self.best if self.best >= NEXT_TO_NOTHING else float("nan")


@dataclass(frozen=True)
class Claim:
    """A statement about one number of each seed: it holds for a run where the number is at least `bound`."""

    text: str
    number: Callable[[Result], float]
    bound: float
    write: Callable[[float], str]


CLAIMS = (
    Claim(f"rises by at least {RISE:g} in every seed", lambda r: r.change, RISE, lambda x: f"{x:+z.3f}"),
    Claim(f"last tenth at least {KEPT:.0%} of the best tenth", lambda r: r.kept, KEPT, lambda x: f"{x:.0%}"),
)


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        variants, notes = load_variants(args.runs, ["reward/mean", TRAINED, HELD_OUT])
        print_notes(notes)
        text = report(variants)
        if args.out is None:
            print(text, end="")
        else:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(text, encoding="utf-8")
            print(args.out)
    except NoRunsError as error:
        print(f"results_table: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"results_table: --out={args.out}: cannot write there: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Results of run folders as Markdown tables, with verdicts.")
    parser.add_argument("--runs", type=Path, nargs="+", metavar="DIR", default=[DEFAULT_RUNS],
                        help="run folders, or folders above them (default: outputs/runs)")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="the file to write (default: standard output)")
    return parser


def result(run: Run) -> Result:
    """Tenths of the reward, exact match before and after, minutes, of one run."""
    tenths = tenth_means(*run.series("reward/mean"), run.updates)
    reached = [mean for mean in tenths if mean == mean]
    return Result(
        run,
        first=tenths[0],
        last=tenths[-1],
        best=max(reached, default=float("nan")),
        trained=before_and_after(run, TRAINED),
        held_out=before_and_after(run, HELD_OUT),
        minutes=float(run.status.get("seconds") or float("nan")) / 60,
    )


def tenth_means(updates: np.ndarray, values: np.ndarray, planned: int) -> list[float]:
    """Mean of `values` (n,) over each tenth of the planned updates 1..planned; NaN for one not run through.

    Below ten updates every update is a window of its own.
    """
    windows = min(10, planned)
    means = []
    for k in range(windows):
        start, end = round(k * planned / windows), round((k + 1) * planned / windows)
        inside = values[(updates > start) & (updates <= end)]
        passed = len(updates) > 0 and updates[-1] >= end
        means.append(float(inside.mean()) if passed and len(inside) else float("nan"))
    return means


def before_and_after(run: Run, column: str) -> tuple[float, float]:
    """The evaluation at update 0, and the last one after it; NaN for one that is not there."""
    updates, values = run.series(column)
    before, after = values[updates == 0], values[updates > 0]
    nan = float("nan")
    return float(before[0]) if len(before) else nan, float(after[-1]) if len(after) else nan


def report(variants: Sequence[Variant]) -> str:
    """The whole Markdown text: how to read it, the table by variant, the one by seed, the verdicts."""
    results = {id(variant): [result(run) for run in variant.runs] for variant in variants}
    settings = any(variant.settings for variant in variants)
    names = ["task", "reward", *(["settings"] if settings else [])]
    rewards = ["first tenth", "last tenth", "change", "best tenth", "last / best"]
    matches = ["exact match, trained", "exact match, held out"]
    head_by_variant = [*names, "seeds", *rewards, *matches, "minutes a run"]
    head_by_seed = [*names, "seed", *rewards, *matches, "minutes", "state"]
    by_variant = [[*_names(v, settings), *_variant_cells(results[id(v)])] for v in variants]
    by_seed = [[*_names(v, settings), *_seed_cells(r)] for v in variants for r in results[id(v)]]
    verdicts = [line for v in variants if v.reward == CLAIMED_FOR for line in _verdicts(v, results[id(v)])]
    lines = [
        *HOW_TO_READ,
        "",
        *_table(head_by_variant, by_variant, len(names)),
        "",
        "By seed:",
        "",
        *_table(head_by_seed, by_seed, len(names)),
        "",
        "Verdicts:",
        "",
        *(verdicts or [f"- No run with `reward={CLAIMED_FOR}`: nothing to judge."]),
    ]
    return "\n".join(lines) + "\n"


def _names(variant: Variant, settings: bool) -> list[str]:
    reward = REWARD_TITLES.get(variant.reward, variant.reward)
    return [variant.task, reward, *([variant.settings] if settings else [])]


def _variant_cells(results: Sequence[Result]) -> list[str]:
    done = [r for r in results if r.run.complete]
    unfinished = len(results) - len(done)
    return [
        f"{len(done)}" + (f" (+{unfinished} unfinished)" if unfinished else ""),
        _decimals(_mean(r.first for r in done)),
        _decimals(_mean(r.last for r in done)),
        _with_range([r.change for r in done], "+z.3f"),
        _decimals(_mean(r.best for r in done)),
        _with_range([r.kept for r in done], ".2f"),
        _arrow(_mean(r.trained[0] for r in done), _mean(r.trained[1] for r in done)),
        _arrow(_mean(r.held_out[0] for r in done), _mean(r.held_out[1] for r in done)),
        _decimals(_mean(r.minutes for r in done), ".1f"),
    ]


def _seed_cells(r: Result) -> list[str]:
    state = "finished" if r.run.complete else f"{r.run.state}, {r.run.progress:.0%} of the updates"
    return [
        f"{r.run.seed}",
        _decimals(r.first),
        _decimals(r.last),
        _decimals(r.change, "+z.3f"),
        _decimals(r.best),
        _decimals(r.kept, ".2f"),
        _arrow(*r.trained),
        _arrow(*r.held_out),
        _decimals(r.minutes, ".1f"),
        state,
    ]


def _verdicts(variant: Variant, results: Sequence[Result]) -> list[str]:
    return [f"- {variant.task}, {variant.title}: {claim.text}: {verdict(claim, results)}" for claim in CLAIMS]


def verdict(claim: Claim, results: Sequence[Result]) -> str:
    """Holds; or fails, with the seeds that do; or undecided, while a seed that could fail is unfinished."""
    done = [r for r in results if r.run.complete]
    failing = [r for r in done if not claim.number(r) >= claim.bound]  # NaN fails
    pending = [r for r in results if not r.run.complete]
    if failing:
        seeds = ", ".join(f"{r.run.seed} ({_or_none(claim.number(r), claim.write)})" for r in failing)
        return f"**fails** in {len(failing)} of {len(done)} finished seeds: seed {seeds}"
    lowest = f"lowest {claim.write(min(map(claim.number, done)))}" if done else ""
    if pending:
        seeds = ", ".join(str(r.run.seed) for r in pending)
        held = f"; the {len(done)} finished seed(s) hold, {lowest}" if done else ""
        return f"**undecided**, unfinished: seed {seeds}{held}"
    return f"**holds** in {'the one seed' if len(done) == 1 else f'all {len(done)} seeds'}, {lowest}"


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return sum(known) / len(known) if known else float("nan")


def _or_none(value: float, write: Callable[[float], str]) -> str:
    return write(value) if value == value else NONE


def _decimals(value: float, spec: str = ".3f") -> str:
    return _or_none(value, lambda x: format(x, spec))


def _arrow(before: float, after: float) -> str:
    return NONE if before != before and after != after else f"{_decimals(before)} → {_decimals(after)}"


def _with_range(values: Sequence[float], spec: str) -> str:
    known = [value for value in values if value == value]
    if len(known) < 2 or len(known) < len(values):
        return _decimals(_mean(values), spec)
    return f"{_mean(known):{spec}} ({min(known):{spec}} .. {max(known):{spec}})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Markdown lines; the first `left` columns are names, the others are aligned right. Unused columns go."""
    used = [i for i in range(len(head)) if i < left or any(row[i] != NONE for row in rows)]
    lines = [[head[i] for i in used], ["---" if i < left else "---:" for i in used]]
    lines += [[row[i].replace("|", "\\|") for i in used] for row in rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


if __name__ == "__main__":
    sys.exit(main())
