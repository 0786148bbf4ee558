"""The runs of a sweep, however they are started: what each needs, the order of a launch, and what is said of it."""

from __future__ import annotations

import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from pgsrm.launch.slurm.queue import Queue
from pgsrm.record import RunFolder, lock
from pgsrm.train import in_main_thread
from pgsrm.util.errors import UserError, unwritable
from pgsrm.util.numbers import counted
from pgsrm.util.shell import python, quoted

if TYPE_CHECKING:  # a wrong value is told before what a plan needs is imported
    from pgsrm.config.plan import Plan

# What a run needs, by its state; `waiting` is a run that was frozen and never started.
_NEEDS = {
    "waiting": "new",
    "stopped": "to resume",
    "cut off": "to resume",
    "failed": "failed before",
    "finished": "finished",
    "queued": "queued",
    "running": "running",
}
_PATIENCE = 120.0  # seconds to wait for another launch from the same outputs


class SweepFailed(UserError):
    """Some runs of a sweep did not finish."""


@dataclass(frozen=True)
class Survey:
    """The runs of a sweep, each once, and what each needs: a value of `_NEEDS`."""

    plans: list[Plan]
    needs: list[str]
    retry_failed: bool

    @property
    def to_start(self) -> list[Plan]:
        """What this launch has to start, in the sweep's order."""
        wanted = {"new", "to resume"} | ({"failed before"} if self.retry_failed else set())
        return [plan for plan, need in zip(self.plans, self.needs, strict=True) if need in wanted]

    def line(self) -> str:
        """`12 runs: 6 new, 2 to resume, 1 failed before (tried again), 3 finished`."""
        counts = Counter(self.needs)
        again = "tried again" if self.retry_failed else "left, retry_failed=false"
        parts = {need: f"{counts[need]} {need}" for need in dict.fromkeys(_NEEDS.values()) if counts[need]}
        if "failed before" in parts:
            parts["failed before"] += f" ({again})"
        if begun := sum(map(bool, self._beginnings())):
            parts["new"] += f" ({begun} from where a shorter run left off)"
        return f"{counted(len(self.plans), 'run')}: {', '.join(parts.values())}"

    def lines(self) -> str:
        """The same, then one line per run: what a dry run shows."""
        width = max(map(len, self.needs))
        runs = [
            f"  {need:{width}}  {plan.folder.name}{begins}"
            for plan, need, begins in zip(self.plans, self.needs, self._beginnings(), strict=True)
        ]
        return "\n".join([self.line(), *runs, "dry_run=true: nothing was started"])

    def _beginnings(self) -> list[str]:
        """Where each run begins; empty at its beginning, and of one that is not new: another launch may have begun it since."""
        return [
            f", from update {plan.beginning.update} of {plan.beginning.folder.name}"
            if need == "new" and plan.beginning is not None
            else ""
            for plan, need in zip(self.plans, self.needs, strict=True)
        ]


def survey(plans: Sequence[Plan], retry_failed: bool = True) -> Survey:
    """What each of the runs needs, from its folder and Slurm's queue; equal runs count once."""
    plans = list({plan.identity: plan for plan in plans}.values())
    queue = Queue.ask(plan.folder for plan in plans)
    return Survey(plans, [_NEEDS[queue.state(plan.folder)] for plan in plans], retry_failed)


def freeze(plans: Sequence[Plan]) -> None:
    """Make the folders of the runs to start, before the first of them starts."""
    sweep = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
    for plan in plans:
        plan.freeze(sweep)


@contextmanager
def launching(outputs: Path) -> Iterator[None]:
    """One launch at a time, from whichever machine: between looking at what is queued and submitting what is not.

    A file that only one process can create does it on every shared file system, where flock may be for one machine alone.

    Raises:
        UserError: another launch keeps the file for two minutes, or died and left it on another machine.
    """
    path = outputs / "launching.lock"
    try:
        outputs.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + _PATIENCE
        while not lock.create(path):
            if time.monotonic() > deadline:
                held = lock.holder(path) or {"pid": "?", "host": "?"}
                who = f"process {held['pid']} on {held['host']}"
                raise UserError(f"{path}: {who} is launching runs; wait for it, or delete the file if it has gone")
            time.sleep(0.2)
    except OSError as error:
        raise unwritable("paths.outputs", outputs, error) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def outputs_of(plans: Sequence[Plan]) -> Path:
    """Where the sweep's run folders lie."""
    return Path(plans[0].config["paths"]["outputs"])


def prepare_tracking(tracking: dict[str, Any] | None) -> str | None:
    """Make database and experiment once: several processes that open a fresh SQLite file break each other."""
    if tracking is None:
        return None
    from pgsrm.record.mlflow_store import prepare

    with _heeding_ctrl_c():
        return prepare(tracking)


@contextmanager
def _heeding_ctrl_c() -> Iterator[None]:
    """Raise KeyboardInterrupt at the end if Ctrl-C came within: Python drops it where it meets a callback of a weak reference."""
    came = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True
        signal.default_int_handler(number, frame)

    if not in_main_thread() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # the caller's own
        yield
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt


def send_the_rest(folders: Sequence[RunFolder]) -> None:
    """Send the trackers what they have not got of these runs, as of those that ended while MLflow's server was away."""
    from pgsrm.launch.sync import sync

    try:
        sync(folders)
    except UserError as error:
        print(error, file=sys.stderr, flush=True)


def print_where(config: dict[str, Any], experiment: str | None) -> None:
    """Where everything is."""
    outputs = Path(config["paths"]["outputs"])
    print(f"runs: {outputs / 'runs'}")
    if config["tracking"] is not None:
        from pgsrm.record.mlflow_store import ui_hint

        print(ui_hint(config["tracking"], experiment))
    if "tensorboard" in config["trackers"]:
        print(f"TensorBoard: tensorboard --logdir {quoted(str(outputs / 'tensorboard'))}")
    figures = outputs / "figures"
    print(
        f"report: {figures / 'report.html'}, which {python()} -m pgsrm.analysis --runs {quoted(str(outputs / 'runs'))} "
        f"--out {quoted(str(figures))} makes",
        flush=True,
    )


def report(plans: Sequence[Plan], experiment: str | None) -> None:
    """The table at the end of these runs.

    Raises:
        SweepFailed: one of them failed or was stopped; the same command runs what is missing.
    """
    from pgsrm.record.summary import end_of_sweep_table, summarise

    folders = [plan.folder for plan in plans]
    print(end_of_sweep_table([summarise(folder) for folder in folders]), flush=True)
    print_where(plans[0].config, experiment)
    unfinished = [folder for folder in folders if folder.state() != "finished"]
    if unfinished:
        which = "the run" if len(folders) == 1 else f"{len(unfinished)} of {len(folders)} runs"
        reasons = {folder.name: (folder.status() or {}).get("reason") for folder in unfinished}
        name = next((name for name, reason in reasons.items() if reason), unfinished[0].name)  # a waiting one has none
        raise SweepFailed(
            f"{which} did not finish ({name}: {reasons[name] or unfinished[0].state()}); "
            f"the same command resumes {'it' if len(unfinished) == 1 else 'them'}"
        )
