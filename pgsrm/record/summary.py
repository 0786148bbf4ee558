"""What a run came to, read from its folder: the line after a run and the table after a sweep."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pgsrm.record.differences import short_names
from pgsrm.record.run_folder import RunFolder


@dataclass(frozen=True)
class Summary:
    """A run's result. A number is NaN where the run did not get as far as having it."""

    name: str
    state: str
    reason: str | None
    update: int
    updates: int
    seconds: float
    reward_first: float  # mean of reward/mean over the first tenth of the run's updates
    reward_last: float  # and over the last tenth of those it made
    exact_match: float  # on the trained prompts: the last evaluation, else the last tenth's samples
    holdout: float  # exact match on the prompts kept out, at the last evaluation


def summarise(folder: RunFolder) -> Summary:
    """Reads status.json and metrics.jsonl; a run that has not begun is waiting."""
    status = folder.status() or {}
    rows = folder.read_metrics()
    steps = [row for row in rows if "reward/mean" in row]
    tenth = max(1, math.ceil(len(steps) / 10))
    evaluated = _last(rows, "eval/train_exact_match")
    return Summary(
        name=folder.name,
        state=folder.state(),
        reason=status.get("reason"),
        update=int(rows[-1]["update"]) if rows else 0,
        updates=status.get("updates", 0),
        seconds=status.get("seconds") or math.nan,
        reward_first=_mean(steps[:tenth], "reward/mean"),
        reward_last=_mean(steps[-tenth:], "reward/mean"),
        exact_match=_mean(steps[-tenth:], "reward/exact_match") if math.isnan(evaluated) else evaluated,
        holdout=_last(rows, "eval/holdout_exact_match"),
    )


def end_of_run_line(run: Summary) -> str:
    """`NAME finished in 2:41: reward 0.10 -> 0.78, exact match 61 %`: rewards of the first and last tenth."""
    how_far = "" if run.state == "finished" else f" at update {run.update} of {run.updates}"
    passed = "" if math.isnan(run.seconds) else f" in {clock(run.seconds)}"
    reason = f"; {run.reason}" if run.reason else ""
    return (
        f"{short_names([run.name])[0]} {run.state}{how_far}{passed}: "
        f"reward {number(run.reward_first, 2)} -> {number(run.reward_last, 2)}, "
        f"exact match {percent(run.exact_match)}{reason}"
    )


def end_of_sweep_table(runs: Sequence[Summary]) -> str:
    """A table with a line a run, then the reasons of those that did not finish."""
    names = short_names([run.name for run in runs])
    with_holdout = any(not math.isnan(run.holdout) for run in runs)
    head = ["run", "state", "updates", "reward", "", "match", "time"]
    table = [head, ["", "", "", "first", "last", "", ""]]
    for name, run in zip(names, runs, strict=True):
        table.append(
            [
                name,
                run.state,
                str(run.update),
                number(run.reward_first, 3),
                number(run.reward_last, 3),
                percent(run.exact_match),
                clock(run.seconds),
            ]
        )
    if with_holdout:
        head.insert(6, "holdout")
        table[1].insert(6, "")
        for row, run in zip(table[2:], runs, strict=True):
            row.insert(6, percent(run.holdout))
    lines = aligned(table, left=2)
    lines += [f"{name}: {run.reason}" for name, run in zip(names, runs, strict=True) if run.reason]
    return "\n".join(lines)


def aligned(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """The rows of a table as lines: the first `left` columns to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def clock(seconds: float) -> str:
    """`2:41` or `1:02:41`; `-` for NaN or infinity."""
    if not math.isfinite(seconds):
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def number(value: float, digits: int) -> str:
    """Fixed digits; `-` for what is not there."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def percent(value: float) -> str:
    """A share in whole percent; `-` for what is not there."""
    return "-" if math.isnan(value) else f"{100 * value:.0f} %"


def _mean(rows: Sequence[dict[str, float]], name: str) -> float:
    values = [row[name] for row in rows if name in row]
    return math.fsum(values) / len(values) if values else math.nan


def _last(rows: Sequence[dict[str, float]], name: str) -> float:
    return next((row[name] for row in reversed(rows) if name in row), math.nan)
