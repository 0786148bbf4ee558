"""What a job does: train the run of a folder, and see to it that the run resumes when the job has to end.

Slurm warns a job `cluster.signal_seconds` before its time is over (SIGUSR2); some clusters do so before preemption too.
The run then writes a checkpoint, and the job puts itself back into the queue. SIGTERM comes with preemption, where a job
that just ended would not be started again, and with `scancel` and `scontrol requeue`, where Slurm has decided already:
squeue tells the two apart. The pickle that submitit makes of this holds a folder's name; everything else is in the folder.
"""

import signal
import subprocess
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING

from pgsrm.record import RunFolder, checkpoint, lock
from pgsrm.record.environment import slurm_job
from pgsrm.train import Signals, run
from pgsrm.util.errors import UserError

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

_PATIENCE = 150  # seconds to wait for a run that another process holds, as that of a requeued job's dead node may
_BUSY = 0.75  # share of the time from warning to end, after which a job is requeued even if the run is still busy
_IDLE_JOBS = 3  # in a row that run out of time before a checkpoint: one may have met a slow node
_ASKED = 20  # times, of which a signal ended all but the last; they come at most some in a second
_TOLERANCE = 90  # seconds by which Slurm may be early with its warning


class TrainRun:
    """A job's function.

    Args:
        folder: the run's.
        warned_seconds: from SIGUSR2 to the job's end.
    """

    def __init__(self, folder: str, warned_seconds: int) -> None:
        self.folder, self.warned_seconds = folder, warned_seconds

    def __call__(self) -> str:
        """Train the run; returns the state that it ended in, and raises UserError with the reason if it failed."""
        folder = RunFolder(self.folder)
        _free(folder)
        ending = Ending(folder, self.warned_seconds)
        with JobSignals(ending) as stop:
            state = run(folder, show_progress=False, stop=stop, sqlite=False)
            deadline = time.monotonic() + _PATIENCE
            while state == "running" and time.monotonic() < deadline and not stop.ending:
                time.sleep(5)
                state = run(folder, show_progress=False, stop=stop, sqlite=False)
            if state == "stopped":
                ending.requeue()
        if folder.state() == "failed":
            raise UserError((folder.status() or {}).get("reason") or "failed")
        return state

    def checkpoint(self) -> "DelayedSubmission":
        """What submitit calls to resume a job, for a signal before the first line of `__call__` has run."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _free(folder: RunFolder) -> None:
    """Where there is no flock: take the run from a job that ended without giving it back, as this one's last start may have."""
    held = lock.holder(folder.owner)
    if held is None or held["job"] is None:
        return
    listed = _call("squeue", "--noheader", f"--jobs={held['job']}")
    ended = listed.returncode != 0 and "Invalid job id" in listed.stderr  # or squeue knows it, with nothing to show
    if held["job"] == slurm_job() or ended or (listed.returncode == 0 and not listed.stdout.strip()):
        lock.remove(folder.owner, held)


class Ending:
    """The end of this job before that of its run."""

    def __init__(self, folder: RunFolder, warned_seconds: int) -> None:
        self._folder, self._warned_seconds = folder, warned_seconds
        # Not SLURM_JOB_ID: the last task of an array has the id of the whole array
        self._job = slurm_job() or ""
        self._checkpoint = checkpoint.newest(folder)

    def expect(self) -> None:
        """After Slurm's warning: an update may take longer than it was ahead, so that no one comes to `requeue`."""
        timer = threading.Timer(_BUSY * self._warned_seconds, self.requeue)
        timer.daemon = True
        timer.start()

    def requeue(self) -> None:
        """Put this job back into the queue, unless Slurm is ending it already or its time is too short for the run."""
        state, left = self._state()
        if state != "RUNNING":
            return
        idle = 0
        if left < self._warned_seconds + _TOLERANCE and checkpoint.newest(self._folder) == self._checkpoint:
            idle = (self._folder.status() or {}).get("jobs_without_checkpoint", 0) + 1
        self._folder.write_status(jobs_without_checkpoint=idle)
        if idle == _IDLE_JOBS:
            remedy = "raise resources.hours, or lower checkpoint.minutes"
            self._fail(f"the time of {idle} jobs in a row passed without a checkpoint; {remedy}")
            return
        done = _call("scontrol", "requeue", self._job)
        if done.returncode != 0:
            self._fail(f"job {self._job} could not be put back into the queue ({done.stderr.strip()})")

    def _state(self) -> tuple[str, float]:
        """Slurm's state of this job, and the seconds that are left of its time."""
        done = _call("squeue", "--noheader", f"--jobs={self._job}", "--format=%T|%L")
        state, _, left = done.stdout.strip().partition("|")
        return state, _seconds(left)

    def _fail(self, reason: str) -> None:
        print(reason, flush=True)
        self._folder.write_status(state="failed", reason=f"{reason}; the same command resumes it")


class JobSignals(Signals):
    """As elsewhere, but SIGUSR2 too ends the run."""

    def __init__(self, ending: Ending) -> None:
        super().__init__()
        self._job_ending = ending

    def _save(self, number: int, frame: FrameType | None) -> None:
        self.ending = True
        self._job_ending.expect()


def _call(*command: str) -> "subprocess.CompletedProcess[str]":
    """Slurm's signals reach every process of a job, the one that asks Slurm too: it is then asked again, a few times."""
    for _ in range(_ASKED):
        done = subprocess.run(command, capture_output=True, text=True)
        if -done.returncode not in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT):
            break
    return done


def _seconds(left: str) -> float:
    """The time left as squeue shows it, `1-02:03:04`, `03:04` or `UNLIMITED`, in seconds."""
    days, _, clock = left.rpartition("-")
    try:
        parts = [int(part) for part in clock.split(":")]
    except ValueError:
        return float("inf")
    return 86400 * int(days or 0) + sum(part * 60**place for place, part in enumerate(reversed(parts)))
