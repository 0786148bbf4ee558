"""The result of a run, read from its folder: the line after a run, and the tables after a sweep and of `pgsrm.status`.

docs/metrics.md says what each number is; the report has the same ones.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from pgsrm.record.config_file import read_config
from pgsrm.record.differences import in_common, labels, short_names, words
from pgsrm.record.run_folder import RunFolder
from pgsrm.record.tenths import course, tenth_bounds

_SHARED = (
    "task",
    "reward",
    "model",
    "ppo",
    "algorithm",
    "seed",
)  # what is said of all runs, where they have it in common
_BLOCK = 65536  # bytes read at a time from either end of a file of metrics


@dataclass(frozen=True)
class Summary:
    """A run's result. A number is NaN where the run has not come to it."""

    folder: RunFolder
    state: str
    reason: str | None
    update: int
    updates: int  # planned
    seconds: float
    reward_first: float  # mean of reward/mean over the first tenth of its updates: planned, or made if it stopped early
    reward_last: float  # and over the last
    reward_now: float  # of the last update that was made, like entropy and kl
    entropy: float
    kl: float
    match: float  # share of right greedy answers at the last evaluation, on the prompts that are trained on
    held_out: float  # and on those that are kept out
    # At the last evaluation, of sampled answers to held-out prompts, for tasks without right answers.
    extrinsic: float = math.nan
    gold: float = math.nan  # the share that the gold measure takes for good
    gold_mean: float = math.nan  # or, of a measure that has no such share, its mean
    left: float = math.nan  # seconds until a running run has made its updates; of any other NaN
    tokens_per_second: float = math.nan  # generated, of the last update
    memory: float = math.nan  # the peak in GiB: a GPU's where there is one, else that of the resident memory

    @property
    def gold_text(self) -> str:
        """The share in per cent, or the mean; `-` without a gold measure."""
        return number(self.gold_mean, 2) if math.isnan(self.gold) else percent(self.gold)


class _Line(msgspec.Struct):
    """What a summary reads of a line of metrics.jsonl."""

    # Updates made; 0 is the evaluation before training.
    update: int
    # Mean reward of the batch.
    reward: float | None = msgspec.field(name="reward/mean", default=None)
    # In nats per token.
    entropy: float | None = msgspec.field(name="policy/entropy", default=None)
    # From the reference policy, in nats per token.
    kl: float | None = msgspec.field(name="policy/kl", default=None)
    # Share of right greedy answers on trained prompts, where this line has an evaluation.
    match: float | None = msgspec.field(name="eval/train_exact_match", default=None)
    # The same on held-out prompts.
    held_out: float | None = msgspec.field(name="eval/holdout_exact_match", default=None)
    # The task's own reward of sampled answers to held-out prompts.
    extrinsic: float | None = msgspec.field(name="eval/holdout_extrinsic", default=None)
    # The share of these answers that the gold measure takes for good.
    gold: float | None = msgspec.field(name="eval/holdout_gold_share", default=None)
    # The mean of the gold measure over them.
    gold_mean: float | None = msgspec.field(name="eval/holdout_gold", default=None)
    # Seconds of the evaluation, where this line has one.
    evaluation: float | None = msgspec.field(name="time/evaluation", default=None)
    # Seconds until all updates are made.
    left: float | None = msgspec.field(name="time/left", default=None)
    # Generated tokens per second of the update.
    tokens_per_second: float | None = msgspec.field(name="time/tokens_per_second", default=None)
    # Most resident memory of the process so far, in GiB.
    resident: float | None = msgspec.field(name="memory/resident_peak", default=None)
    # Most memory of its tensors on a GPU so far, in GiB.
    cuda: float | None = msgspec.field(name="memory/cuda_peak", default=None)

    @property
    def evaluated(self) -> bool:
        """Whether the line has an evaluation, also of a task without right answers."""
        return any(value is not None for value in (self.match, self.extrinsic, self.gold, self.evaluation))


_decode = msgspec.json.Decoder(_Line).decode


def summarise(folder: RunFolder, state: str | None = None) -> Summary:
    """Reads status.json and either end of metrics.jsonl; `state` is the folder's by default.

    A run that has not begun is waiting.
    """
    status = folder.status() or {}
    updates = int(status.get("updates") or 0)
    whole = course(status)  # less than planned, of a run that stopped early
    tenths = tenth_bounds(whole)
    last = _last_lines(folder.metrics, after=tenths[-1][0])
    made = max(last, default=0)
    first = _first_lines(folder.metrics, tenths[0][1]) if made >= tenths[0][1] > 0 else {}
    evaluated = next((last[update] for update in sorted(last, reverse=True) if last[update].evaluated), _Line(0))
    state = state or folder.state()
    newest = next((last[update] for update in sorted(last, reverse=True) if last[update].reward is not None), _Line(0))
    return Summary(
        folder=folder,
        state=state,
        reason=status.get("reason"),
        update=made,
        updates=updates,
        seconds=status.get("seconds") or math.nan,
        reward_first=_mean_reward(first, tenths[0]),
        reward_last=_mean_reward(last, tenths[-1]) if made >= whole else math.nan,
        reward_now=_number(newest.reward),
        entropy=_number(newest.entropy),
        kl=_number(newest.kl),
        match=_number(evaluated.match),
        held_out=_number(evaluated.held_out),
        extrinsic=_number(evaluated.extrinsic),
        gold=_number(evaluated.gold),
        gold_mean=_number(evaluated.gold_mean),
        left=seconds_left(state, status, newest.update, newest.left),
        tokens_per_second=_number(newest.tokens_per_second),
        memory=_number(newest.resident if newest.cuda is None else newest.cuda),
    )


def seconds_left(state: str, status: Mapping[str, Any], update: int, left: float | None) -> float:
    """What a run's last line of metrics says of the time that is left; NaN where the run has made no update since it started.

    state, status: the run's; update, left: of its last line. `began_at` is the update from which this start goes on, null until it
    has read its checkpoint; a folder of an earlier version has none.
    """
    began = status.get("began_at", 0)
    is_stale = began is None or update <= began
    return math.nan if state != "running" or is_stale else _number(left)


def end_of_run_line(run: Summary) -> str:
    """`NAME finished in 2:41: reward 0.10 -> 0.78, right answers 61 %`: rewards of the first and last tenth.

    A run that did not get to its last tenth has the last update's reward, and says so.
    """
    how_far = "" if run.state == "finished" else f" at update {run.update} of {run.updates}"
    passed = "" if math.isnan(run.seconds) else f" in {clock(run.seconds)}"
    now = f"{number(run.reward_now, 2)} now" if math.isnan(run.reward_last) else number(run.reward_last, 2)
    if math.isnan(run.extrinsic) and run.gold_text == "-":
        held_out = "" if math.isnan(run.held_out) else f", {percent(run.held_out)} held out"
        outcome = f"right answers {percent(run.match)}{held_out}"
    else:
        outcome = f"held out: extrinsic reward {number(run.extrinsic, 2)}, gold measure {run.gold_text}"
    reason = f"; {run.reason}" if run.reason else ""
    return (
        f"{short_names([run.folder.name])[0]} {run.state}{how_far}{passed}: "
        f"reward {number(run.reward_first, 2)} -> {now}, {outcome}{reason}"
    )


def end_of_sweep_table(runs: Sequence[Summary]) -> str:
    """What the runs share, a table with a line for each, then the reasons of those that did not finish."""
    names = labels([run.folder for run in runs])
    columns = [
        ("run", "", names),
        ("state", "", [run.state for run in runs]),
        ("updates", "", [how_far(run) for run in runs]),
        ("reward", "first", [number(run.reward_first, 3) for run in runs]),
        ("", "last", [number(run.reward_last, 3) for run in runs]),
        *answers(runs),
        ("time", "", [clock(run.seconds) for run in runs]),
    ]
    reasons = [f"{name}: {run.reason}" for name, run in zip(names, runs, strict=True) if run.reason]
    return "\n".join([*shared_line([run.folder for run in runs]), *in_columns(columns), *reasons])


def how_far(run: Summary) -> str:
    """Updates made of those planned, `60/100`."""
    return f"{run.update}/{run.updates or '?'}"


Column = tuple[str, str, Sequence[str]]  # two lines of head, and a cell for each run


def answers(runs: Sequence[Summary]) -> list[Column]:
    """The columns of right answers, or of what tasks without them are measured by; of held-out prompts where there are any."""

    def known(values: Sequence[float]) -> bool:
        return not all(map(math.isnan, values))

    extrinsic, gold = [run.extrinsic for run in runs], [run.gold_text for run in runs]
    columns: list[Column] = []
    if known([run.match for run in runs]) or not (known(extrinsic) or set(gold) != {"-"}):
        columns.append(("right", "trained", [percent(run.match) for run in runs]))
    if known([run.held_out for run in runs]):
        columns.append(("", "held out", [percent(run.held_out) for run in runs]))
    if known(extrinsic):
        columns.append(("extrinsic", "held out", [number(value, 2) for value in extrinsic]))
    if set(gold) != {"-"}:
        columns.append(("gold measure", "held out", gold))
    return columns


def in_columns(columns: Sequence[Column], shown: Sequence[int] | None = None) -> list[str]:
    """A table as lines, of all runs or of those `shown`; its first two columns are texts."""
    rows = range(len(columns[0][2])) if shown is None else shown
    first, second = ([column[0] for column in columns], [column[1] for column in columns])
    return aligned([first, second, *([column[2][row] for column in columns] for row in rows)], left=2)


def shared_line(folders: Sequence[RunFolder]) -> list[str]:
    """`all runs: reward=pgsrm model=nano`, as a list of one line; empty for a single run, whose name says it."""
    configs = [config for folder in folders if (config := read_config(folder.config))]
    shared = {key: value for key, value in in_common(configs).items() if key in _SHARED}
    return [f"all runs: {words(shared)}"] if shared and len(configs) == len(folders) > 1 else []


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
    """Fixed digits; `-` for NaN."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def percent(value: float) -> str:
    """A share in whole percent; `-` for NaN."""
    return "-" if math.isnan(value) else f"{100 * value:.0f} %"


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _mean_reward(lines: Mapping[int, _Line], tenth: tuple[int, int]) -> float:
    after, until = tenth
    rewards = [line.reward for update, line in lines.items() if after < update <= until and line.reward is not None]
    return math.fsum(rewards) / len(rewards) if rewards else math.nan


def _first_lines(path: Path, until: int) -> dict[int, _Line]:
    """The lines of the updates up to `until`, read from the beginning of the file."""
    lines: dict[int, _Line] = {}
    with open(path, "rb") as file:
        for content in file:
            line = next(_whole([content]), None)
            if line is not None:
                lines[line.update] = line
                if line.update >= until:
                    break
    return lines


def _last_lines(path: Path, after: int) -> dict[int, _Line]:
    """The lines of the updates after `after`, at least the last line and the last evaluation, read from the file's end."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            span = min(size, _BLOCK)
            while True:
                file.seek(size - span)
                content = file.read(span)
                if span < size:  # the first piece may be the rest of a line that starts further up
                    content = content[content.find(b"\n") + 1 :]
                lines = {line.update: line for line in _whole(content.splitlines(keepends=True))}
                enough = min(lines, default=0) <= after and any(line.evaluated for line in lines.values())
                if enough or span == size:
                    return lines
                span = min(size, 4 * span)
    except FileNotFoundError:
        return {}


def _whole(contents: Sequence[bytes]) -> Iterator[_Line]:
    """The lines that can be read: a crash leaves the last one half-written."""
    for content in contents:
        if content.endswith(b"\n"):
            try:
                yield _decode(content)
            except msgspec.DecodeError:
                continue
