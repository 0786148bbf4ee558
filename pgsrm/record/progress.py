"""Progress on standard error: a bar for a run or for what is counted, a live table for a sweep; plain lines off a terminal.

In a notebook a run has one line below its cell, which is rewritten in place.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from math import isnan, nan
from typing import TYPE_CHECKING, Self, TextIO

from pgsrm.record.differences import labels, short_names
from pgsrm.record.run_folder import RunFolder
from pgsrm.record.summary import clock, number, seconds_left
from pgsrm.util.numbers import counted

if TYPE_CHECKING:
    from rich.live import Live
    from rich.progress import Progress
    from rich.table import Table

_SHARE_A_LINE = 10  # percent of a run, or of what is counted, between two plain lines
_SECONDS_BETWEEN = 0.25  # two rewritings of a notebook's line
_SECONDS_A_LINE = 60.0  # between two plain lines of a sweep
_BESIDE_BAR = 62  # columns that a bar of 6 and the numbers take beside a run's name
_BESIDE_NAME = 57  # and those that the numbers take in a sweep's table
_COST = 24  # columns of throughput and memory, which a bar has on a terminal of _WIDE or more columns
_WIDE = 100
_PLAIN_NAME = 35  # longest name in a plain line, which then has at most 100 columns
_PLAIN_NAME_BESIDE_COST = 18  # and in one with throughput and memory; a notebook's line may be longer
_ORDER = ("failed", "cut off", "stopped", "running", "queued", "waiting", "finished")


class RunProgress:
    """The progress of one run, as a context manager: call `show` after each update."""

    def __init__(self, name: str, updates: int, done: int = 0, stream: TextIO | None = None) -> None:
        """`done` of `updates` were made before this start; `stream` is standard error by default."""
        self._name = short_names([name])[0]
        self._updates = updates
        self._before = done
        self._stream = stream or sys.stderr
        self._bar: Progress | None = None
        self._cell = _notebook_line() if stream is None else None
        self._next_line = 0.0

    def __enter__(self) -> Self:
        if self._cell is None and self._stream.isatty():
            self._bar = _bar(self._stream)
            width = self._bar.console.width
            name = _fitted(self._name, width - _BESIDE_BAR - (_COST if width >= _WIDE else 0))
            self._task = self._bar.add_task(
                name,
                total=self._updates,
                completed=self._before,
                reward="-",
                entropy="-",
                kl="-",
                left="-",
                cost="",
            )
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, metrics: Mapping[str, float]) -> None:
        """Shows one line of metrics.jsonl."""
        update = int(metrics["update"])
        left = clock(metrics.get("time/left", nan))
        reward, entropy, kl = _numbers(metrics)
        cost = _cost(metrics)
        if self._bar is not None:
            self._bar.update(
                self._task, completed=update, reward=reward, entropy=entropy, kl=kl, left=left, cost=" ".join(cost)
            )
            return
        name = _fitted(self._name, _PLAIN_NAME_BESIDE_COST if cost and self._cell is None else _PLAIN_NAME)
        numbers = [f"{update}/{self._updates}", f"reward {reward}", f"entropy {entropy}", f"KL {kl}", f"left {left}"]
        line = "  ".join([name, *numbers, *cost])
        if self._cell is not None:
            now = time.monotonic()
            if now >= self._next_line or update == self._updates:
                self._next_line = now + _SECONDS_BETWEEN
                self._cell(line)
        elif update >= self._next_line:
            step = self._updates * _SHARE_A_LINE / 100
            self._next_line = (update // step + 1) * step
            print(line, file=self._stream, flush=True)


def _notebook_line() -> Callable[[str], None] | None:
    """What rewrites a new line below the notebook's cell that is executed now; None outside a notebook.

    IPython's own display, which every notebook has: rich's bar needs ipywidgets there.
    """
    ipython = sys.modules.get("IPython")  # a kernel has imported it
    shell = None if ipython is None else ipython.get_ipython()
    if getattr(shell, "kernel", None) is None:
        return None
    from IPython.display import display

    handle = display({"text/plain": ""}, raw=True, display_id=True)
    return lambda text: handle.update({"text/plain": text}, raw=True)


def _bar(stream: TextIO) -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    def text(content: str, width: int) -> TextColumn:
        return TextColumn(content, table_column=Column(no_wrap=True, min_width=width))

    terminal = Console(file=stream)
    return Progress(
        text("{task.description}", 1),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        text("{task.completed}/{task.total}", 9),
        text("reward {task.fields[reward]}", 12),
        text("entropy {task.fields[entropy]}", 12),
        text("KL {task.fields[kl]}", 8),
        text("left {task.fields[left]}", 9),
        *([text("{task.fields[cost]}", _COST - 1)] if terminal.width >= _WIDE else []),
        console=terminal,
        refresh_per_second=4,
        expand=True,
    )


class CountProgress:
    """How many of something are done, on standard error: a bar, or plain lines off a terminal. A context manager.

    what: their name in the plural, as `references` or `gradient steps`; done: how many of the `total` there were before.
    """

    def __init__(self, what: str, total: int, done: int = 0, stream: TextIO | None = None) -> None:
        self._what, self._total, self._before = what, total, done
        self._stream = stream or sys.stderr
        self._bar: Progress | None = None
        self._next_line = 0.0

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        if self._stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn(self._what), BarColumn(bar_width=None), MofNCompleteColumn(), TimeRemainingColumn())
            own = sys.stdout.isatty()  # else what is printed meanwhile goes where stdout goes, and not beside the bar
            self._bar = Progress(*columns, console=Console(file=self._stream), expand=True, redirect_stdout=own)
            self._task = self._bar.add_task(self._what, total=self._total, completed=self._before)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: int) -> None:
        """Shows that `done` of all are done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done)
        elif done >= self._next_line:
            step = self._total * _SHARE_A_LINE / 100
            self._next_line = (done // step + 1) * step
            print(f"{self._what}  {done}/{self._total}{self._left(done)}", file=self._stream, flush=True)

    def _left(self, done: int) -> str:
        """The time that is left at the speed since the start; nothing before the first one and after the last one."""
        new = done - self._before
        if new <= 0 or done >= self._total:
            return ""
        return f"  left {clock((time.monotonic() - self._started) / new * (self._total - done))}"


class TrainingProgress(CountProgress):
    """The gradient steps of a training on examples that are given, and a line on standard output after each epoch."""

    def __init__(self, epochs: int, steps: int, stream: TextIO | None = None) -> None:
        super().__init__("gradient steps", steps, stream=stream)
        self._epochs = epochs

    def epoch(self, made: int, loss: float) -> None:
        """Says that so many epochs are made, the mean loss of the last one, and the seconds since the start."""
        passed = time.monotonic() - self._started
        print(f"epoch {made}/{self._epochs}: training loss {loss:.3f}, {passed:.0f} s", flush=True)


class SweepTable:
    """All runs of a sweep in one live table, read from their folders; call `refresh` every second or two."""

    def __init__(
        self,
        runs: Sequence[RunFolder],
        stream: TextIO | None = None,
        state: Callable[[RunFolder], str] = RunFolder.state,
    ) -> None:
        """`state` tells a run's state; by default its folder does."""
        self._runs, self._state = runs, state
        self._names = labels(runs)
        self._fitted_names: dict[int, list[str]] = {}  # by the width that there is for them
        self._stream = stream or sys.stderr
        self._live: Live | None = None
        self._line_due = 0.0
        self._states: list[str] = []

    def __enter__(self) -> Self:
        if self._stream.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(file=self._stream), auto_refresh=False)
            self._live.start()
        self.refresh()
        return self

    def __exit__(self, *_: object) -> None:
        self._line_due = 0.0
        self.refresh()
        if self._live is not None:
            self._live.stop()

    def refresh(self) -> None:
        """Reads every run's status and last metrics (two small reads per run) and shows them."""
        states = [self._state(run) for run in self._runs]
        if self._live is not None:
            size = self._live.console.size
            self._live.update(self._table(states, size.width, size.height), refresh=True)
        elif states != self._states or time.monotonic() >= self._line_due:
            self._line_due = time.monotonic() + _SECONDS_A_LINE
            print(self._lines(states), file=self._stream, flush=True)
        self._states = states

    def _lines(self, states: list[str]) -> str:
        """How many are in which state, then a line for each that runs."""
        counts = ", ".join(f"{states.count(state)} {state}" for state in _ORDER if state in states)
        running = []
        for name, run, state in zip(self._names, self._runs, states, strict=True):
            if state == "running":
                metrics = run.last_metrics() or {"update": 0}
                updates = (run.status() or {}).get("updates", 0)
                reward, entropy, kl = _numbers(metrics)
                so_far = f"{int(metrics['update'])}/{updates}"
                running.append(f"  {name}  {so_far}  reward {reward}  entropy {entropy}  KL {kl}")
        return "\n".join([f"{counted(len(states), 'run')}: {counts}", *running])

    def _table(self, states: list[str], width: int, height: int) -> "Table":
        from rich.table import Table

        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column("run", no_wrap=True)
        table.add_column("state", min_width=8)
        for head, narrowest in (("updates", 9), ("reward", 6), ("entropy", 7), ("KL", 5), ("time", 10)):
            table.add_column(head, justify="right", min_width=narrowest)
        # What needs a look comes first; a terminal shows only so many lines.
        order = sorted(range(len(states)), key=lambda index: _ORDER.index(states[index]))
        shown = order if len(order) <= height - 3 else order[: height - 4]
        names = self._names_within(width - _BESIDE_NAME)
        for index in shown:
            table.add_row(names[index], states[index], *self._cells(index, states[index]))
        if len(shown) < len(order):
            table.add_row(f"and {len(order) - len(shown)} more")
        return table

    def _names_within(self, width: int) -> list[str]:
        if width not in self._fitted_names:
            self._fitted_names[width] = [_fitted(name, width) for name in labels(self._runs, width)]
        return self._fitted_names[width]

    def _cells(self, index: int, state: str) -> list[str]:
        status = self._runs[index].status() or {}
        metrics = self._runs[index].last_metrics() or {"update": 0}
        update, updates = int(metrics["update"]), status.get("updates", 0)
        left, passed = seconds_left(state, status, update, metrics.get("time/left")), status.get("seconds") or nan
        time_text = f"{clock(left)} left" if state == "running" else clock(passed)
        return [f"{update}/{updates}", *_numbers(metrics), time_text]


def _fitted(name: str, width: int) -> str:
    """`name`, its middle left out where a terminal is too narrow for it: the ends tell runs apart."""
    half = max(4, width // 2 - 1)
    return name if len(name) <= width else f"{name[:half]}…{name[-half:]}"


def _cost(metrics: Mapping[str, float]) -> list[str]:
    """Throughput and the most memory so far, a GPU's where there is one; what a line of metrics does not have is left out."""
    speed = metrics.get("time/tokens_per_second", nan)
    memory = metrics.get("memory/cuda_peak", metrics.get("memory/resident_peak", nan))
    of_speed = [] if isnan(speed) else [f"{speed:.0f} tokens/s"]
    return of_speed + ([] if isnan(memory) else [f"{number(memory, 1)} GiB"])


def _numbers(metrics: Mapping[str, float]) -> tuple[str, str, str]:
    """Reward, entropy and KL of one line of metrics, as they are shown."""
    return (
        number(metrics.get("reward/mean", nan), 3),
        number(metrics.get("policy/entropy", nan), 2),
        number(metrics.get("policy/kl", nan), 3),
    )
