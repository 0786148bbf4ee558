"""One run, from its frozen config to its last line: sample, reward, update, record.

`python -m pgsrm.train FOLDER` trains the run of that folder; `pgsrm.run` makes such folders.
"""

import argparse
import math
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from pgsrm.record import Onlooker, RunFolder
from pgsrm.record.files import DiskFull
from pgsrm.record.links import run_path
from pgsrm.util.errors import UserError
from pgsrm.util.memory import keep_freed_memory, says_what_takes_less

if TYPE_CHECKING:
    from pgsrm.config.schema import Settings
    from pgsrm.record.mirror import Mirror
    from pgsrm.util.distributed import Processes


OTHERS = 4  # exit code of a process whose run another one trains
STOPPED = "stopped by a signal; the same command resumes it"
_ENDING = b"stopping after this update, with a checkpoint; Ctrl-C again ends it at once\n"


def in_main_thread() -> bool:
    """Whether signals can be handled here: Python allows it in the main thread alone."""
    return threading.current_thread() is threading.main_thread()


class Stopped(Exception):
    """The run was asked to stop (Ctrl-C, SIGTERM) and has written a checkpoint."""


class Signals:
    """SIGINT, SIGTERM and SIGHUP end the run after this update, SIGUSR2 writes a checkpoint; a second SIGINT ends it at once.

    A context: after it the earlier handlers are back. In a thread other than the main one, where Python lets nobody
    set handlers, it sets none.
    """

    def __init__(self) -> None:
        self.ending = False
        self._checkpoint = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        if in_main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                self._before[number] = signal.signal(number, self._end)
            self._before[signal.SIGUSR2] = signal.signal(signal.SIGUSR2, self._save)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: set by no Python code
        self._before.clear()

    def _end(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            # Not by print, which the signal may have interrupted. On a terminal the progress has begun the line.
            os.write(2, b"\n" * os.isatty(2) + _ENDING)
        self.ending = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def _save(self, number: int, frame: FrameType | None) -> None:
        self._checkpoint = True

    @property
    def asked(self) -> bool:
        """Whether a checkpoint is wanted now; asking answers a SIGUSR2."""
        wanted, self._checkpoint = self._checkpoint or self.ending, False
        return wanted


def train(
    folder: RunFolder, show: Callable[[dict[str, float]], None], stop: Signals, processes: "Processes"
) -> str | None:
    """Train the run of `folder` to its end, from its latest checkpoint if it has one; why it stopped early, if it did.

    Raises:
        Stopped: after a signal; the same command resumes the run.
        UserError: for what the user can mend (a full disk, a model that went away).
    """
    from pgsrm.trainer import Trainer  # torch and transformers, about three seconds

    run = Trainer.from_folder(folder, processes)
    run.resume()
    folder.write_status(began_at=run.update)
    if run.agreed(folder.last_metrics() is None and not stop.ending):
        run.record_evaluation()
    saved = time.monotonic()
    while not run.done and not run.agreed(stop.ending):
        started = time.perf_counter()
        with run.checkpoint_on_outage():
            rollout = run.sample(run.draw_prompts())
            scored = run.score(rollout)
            metrics = run.learn(rollout, scored)
            show(run.record(rollout, scored, metrics, started))
        due = run.settings.checkpoint.due(run.update, run.updates)
        if run.agreed(stop.asked or due or time.monotonic() - saved > run.settings.checkpoint.minutes * 60):
            run.save_checkpoint()
            saved = time.monotonic()
    if not run.done:
        raise Stopped
    run.finish()
    return run.stopped_early


def run(
    folder: RunFolder,
    show_progress: bool = True,
    stop: Signals | None = None,
    sqlite: bool = True,
    show: Callable[[dict[str, float]], None] | None = None,
) -> str:
    """Train one run with its lock, status, trackers and progress; returns the state it ended in.

    Every end is written to status.json: finished, stopped (resumable), or failed with its reason. Signal handlers and
    torch's number of threads are afterwards what they were before.

    Args:
        folder: the run's, with its frozen config.
        show_progress: whether the terminal shows how far the run is.
        stop: what to do at signals, if not as `Signals` does; the caller enters it.
        sqlite: False keeps away from an SQLite file of MLflow's, which processes of several machines would break;
            `python -m pgsrm.sync` then sends what the run's folder has.
        show: called with the metrics of each update, in the place of the terminal's progress.

    Raises:
        UserError: the folder is no run's, or of another version of the package; nothing is written then.
        DiskFull: there is no room for status.json; as for every full disk, the same command resumes the run.
    """
    if not folder.config.is_file():
        raise UserError(f"{folder.path}: no run folder (no config.yaml); `python -m pgsrm.run` makes them")
    if folder.state() == "finished":
        return "finished"
    folder.check_resumable()
    if not folder.acquire():
        return "running"
    try:
        if folder.state() == "finished":  # by another process, since this start was planned
            return "finished"
        with nullcontext(stop) if stop else Signals() as stopping, _same_threads_afterwards():
            return _train_to_an_end(folder, show_progress, stopping, sqlite, show)
    finally:
        folder.release()


def _train_to_an_end(
    folder: RunFolder,
    show_progress: bool,
    stop: Signals,
    sqlite: bool,
    show: Callable[[dict[str, float]], None] | None,
) -> str:
    """Train, and write how it ended; the folder is this process's."""
    from pgsrm.config.plan import keys_as_written, load_settings
    from pgsrm.record.mlflow_store import is_sqlite
    from pgsrm.record.trackers import MLFLOW, make_mirror, trackers_of

    before, started = max((folder.status() or {}).get("seconds", 0.0), _seconds_on_file(folder)), time.monotonic()
    mirrors: list[Mirror] = []
    state, reason, early, keep = "failed", None, False, True
    patience: float | None = None  # with the trackers: as long as each has it
    try:
        settings, config = load_settings(folder)
        keep = settings.checkpoint.keep
        _begin(folder, settings)
        mirrored = trackers_of(config)
        if not sqlite and is_sqlite(config["tracking"]):
            mirrored.remove(MLFLOW)
        mirrors = [make_mirror(tracker, folder, config) for tracker in mirrored]
        for mirror in mirrors:
            mirror.start()
        folder.write_status(mirrored=mirrored)
        with keys_as_written(config), _progress(folder, settings, show_progress, show) as shown:
            reason = _train_together(folder, settings, shown, stop)
        _check_not_deleted(folder)
        state, early = "finished", reason is not None
    except Stopped:
        state, reason = "stopped", STOPPED
    except KeyboardInterrupt:
        state, reason, patience = "stopped", STOPPED, 0
    except UserError as error:
        reason = str(error)
        if not folder.config.is_file():  # no status.json to say it in
            raise
    except (Exception, SystemExit) as error:  # a reward or a critic may be anybody's code, and call sys.exit
        _check_not_deleted(folder, error)
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise
    finally:
        last = folder.last_metrics() or {}
        update, episodes = int(last.get("update", 0)), int(last.get("episodes", 0))
        seconds = before + time.monotonic() - started
        ended: dict[str, Any] = {"state": state, "reason": reason, **({"stopped_early": True} if early else {})}
        unwritten = _write_end(folder, **ended, ended=_now(), seconds=seconds, update=update, episodes=episodes)
        if state == "finished" and unwritten is None and not keep:
            shutil.rmtree(folder.checkpoints, ignore_errors=True)  # only now: a kill before would have needed them
        for mirror in mirrors:
            mirror.finish(state, reason, patience)
    if unwritten is not None:
        raise unwritten
    return state


def _seconds_on_file(folder: RunFolder) -> float:
    """What the recorded updates took: a start that was killed wrote no time, and a shorter run's are in its own status."""
    parts = [row.get(f"time/{part}", 0.0) for row in folder.read_metrics() for part in ("update", "evaluation")]
    return math.fsum(part for part in parts if math.isfinite(part))


@contextmanager
def _progress(
    folder: RunFolder, settings: "Settings", on_terminal: bool, show: Callable[[dict[str, float]], None] | None
) -> Iterator[Callable[[dict[str, float]], None]]:
    """What to call with the metrics of each update."""
    if show is not None or not on_terminal:
        yield show or (lambda metrics: None)
        return
    from pgsrm.record.progress import RunProgress

    done = int((folder.last_metrics() or {}).get("update", 0))
    with RunProgress(folder.name, settings.ppo.updates, done) as progress:
        yield progress.show


@contextmanager
def _same_threads_afterwards() -> Iterator[None]:
    """Around a run, which sets torch's number of threads for itself."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch is not None else None
    try:
        yield
    finally:
        if torch is not None:
            torch.set_num_threads(before)


def _train_together(
    folder: RunFolder, settings: "Settings", show: Callable[[dict[str, float]], None], stop: Signals
) -> str | None:
    from pgsrm.util.distributed import together  # torch

    fitting = says_what_takes_less(settings.ppo.micro_batch, settings.ppo.batch_size // settings.processes)
    with fitting, together(settings.processes, ["-m", "pgsrm.train", str(folder.path)]) as processes:
        return train(folder, show, stop, processes)


def follow(path: Path) -> None:
    """The part of every process of a run but the first: compute, write nothing, end when that one ends."""
    from pgsrm.config.plan import load_settings

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # the first process has them too, and says what they mean for all
    folder = Onlooker(path)
    settings, _ = load_settings(folder)
    _set_up(settings)
    with suppress(Stopped):
        _train_together(folder, settings, lambda metrics: None, Signals())


def _set_up(settings: "Settings") -> None:
    """Set the process up as the run's settings say."""
    keep_freed_memory()
    if settings.threads is not None:
        import torch

        torch.set_num_threads(settings.threads)


def _begin(folder: RunFolder, settings: "Settings") -> None:
    """Set the process up, and note what it runs on."""
    from pgsrm.models.load import resolve_device
    from pgsrm.record.environment import environment

    _set_up(settings)
    device = str(resolve_device(settings.model.device))
    started = (folder.status() or {}).get("started") or _now()
    folder.write_status(state="running", reason=None, started=started, ended=None, began_at=None, **environment(device))


def _check_not_deleted(folder: RunFolder, cause: BaseException | None = None) -> None:
    """Raise UserError where the folder was deleted, or its config.yaml alone.

    What was written after the folder was deleted is no run without the rest, and is removed. Metrics from update 0 on say that
    the folder is still the old one: then nothing is removed, and the command writes the config again.
    """
    if folder.config.is_file():
        return
    if any(row.get("update") == 0 for row in folder.read_metrics()):
        raise UserError(
            f"{folder.config}: was deleted while its run trained; the run's command writes it again and resumes"
        ) from cause
    shutil.rmtree(folder.path, ignore_errors=True)
    raise UserError(f"{folder.path}: was deleted while its run trained; the run's command begins it anew") from cause


def _write_end(folder: RunFolder, **fields: Any) -> DiskFull | None:
    """Write how the run ended, or return why there is no room for it."""
    if not folder.config.is_file():
        return None
    try:
        folder.write_status(**fields)
    except DiskFull as error:
        return error
    return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def main() -> None:
    """`python -m pgsrm.train FOLDER [--quiet]`: what a sweep's slots start.

    Exit code: 0 finished, 1 failed, 2 no run that can be trained, 3 stopped, 4 another process trains it. Of a run's several
    processes (RANK in the environment) this is the first one's.
    """
    parser = argparse.ArgumentParser(
        prog="python -m pgsrm.train",
        description="Train the run of a folder, or resume it; python -m pgsrm.run makes such folders.",
        epilog="exit code: 0 finished, 1 failed, 2 no run that can be trained, 3 stopped, 4 another process trains it",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a folder of outputs/runs")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    options = parser.parse_args()
    if int(os.environ.get("RANK", "0")) > 0:
        follow(options.folder)
        return
    folder = RunFolder(run_path(Path(options.folder)))
    try:
        state = run(folder, show_progress=not options.quiet)
    except UserError as error:
        parser.exit(1 if isinstance(error, DiskFull) else 2, f"pgsrm: {error}\n")
    if state == "failed":
        print((folder.status() or {}).get("reason"), file=sys.stderr)
    sys.exit({"finished": 0, "stopped": 3, "running": OTHERS}.get(state, 1))


if __name__ == "__main__":
    main()
