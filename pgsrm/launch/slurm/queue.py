"""What Slurm's queue knows of runs. squeue alone is asked: many clusters keep no accounting for sacct.

A run's folder holds job.json with the name of the submission and its index in the job array; the name is new with each
submission. It is written before sbatch is called, so that a job is found even if whoever submitted it dies in between.
"""

import re
import shutil
import subprocess
from collections.abc import Iterable
from typing import Self

import msgspec

from pgsrm.record import RunFolder
from pgsrm.record.files import replace
from pgsrm.util.errors import UserError

_SECONDS = 60  # that squeue may take
_ENDED_BY = re.compile(r"slurmstepd: error: (.*)|srun: error: (.*)|(.*Error: .*)")


class Job(msgspec.Struct, frozen=True):
    """job.json: the last job that a run was submitted as."""

    # The submission's name, squeue's job name.
    name: str
    # Place in the job array; null for a job of one run.
    index: int | None
    # Slurm's id, 12 or 12_3; null until sbatch has answered.
    id: str | None
    # Folder of the submission's logs.
    logs: str
    # When it was submitted (UTC).
    submitted: str

    def write(self, folder: RunFolder) -> None:
        """Makes this the run's job."""
        replace(folder.path / "job.json", msgspec.json.format(msgspec.json.encode(self)) + b"\n", durable=False)

    @property
    def log(self) -> str | None:
        """The job's output, of all its starts."""
        return None if self.id is None else f"{self.logs}/{self.id}_0_log.out"


def job_of(folder: RunFolder) -> Job | None:
    """The last job that the run was submitted as, if it ever was."""
    try:
        return msgspec.json.decode((folder.path / "job.json").read_bytes(), type=Job)
    except (OSError, msgspec.DecodeError):
        return None


class Queue:
    """The jobs of some runs as squeue showed them at one moment."""

    def __init__(self, live: dict[tuple[str, int | None], tuple[str, str]] | None, asked: frozenset[str]) -> None:
        """`live`: (name, index) -> (state, reason) as Slurm names them; None where no squeue could be asked."""
        self._live, self._asked = live, asked

    @classmethod
    def ask(cls, folders: Iterable[RunFolder]) -> Self:
        """One call of squeue for all of them, and none where no run was ever submitted.

        Raises:
            UserError: squeue does not answer.
        """
        names = frozenset(job.name for folder in folders if (job := job_of(folder)) is not None)
        if not names:
            return cls({}, names)
        if shutil.which("squeue") is None:
            return cls(None, names)
        listed = _call("squeue", "--noheader", "--array", f"--name={','.join(sorted(names))}", "--format=%j|%K|%T|%r")
        live = {}
        for line in listed.splitlines():
            name, index, state, reason = line.strip().split("|")
            live[name, int(index) if index.isdigit() else None] = state, reason
        return cls(live, names)

    def state(self, folder: RunFolder) -> str:
        """As `RunFolder.state`, and `queued`: Slurm will start the run, or start it again.

        The run of a job that has ended without writing how is cut off, wherever its process was.
        """
        state, job = folder.state(), job_of(folder)
        if state == "finished" or job is None or self._live is None:
            return state
        if job.name not in self._asked:  # submitted since squeue was asked
            return "queued"
        live = self._live.get((job.name, job.index))
        if live is not None:
            return "running" if state == "running" and live[0] != "PENDING" else "queued"
        trained_by_a_job = (folder.status() or {}).get("job") is not None
        if state == "waiting" or (state == "running" and trained_by_a_job):
            return "cut off"
        return state

    def reason(self, folder: RunFolder, state: str) -> str | None:
        """Why a run is in `state`, in one line: from its status, squeue or the log of its job."""
        job = job_of(folder)
        if state == "queued" and job is not None:
            slurm, reason = (self._live or {}).get((job.name, job.index), ("PENDING", "None"))
            return f"job {job.id}: {slurm.lower()}" + (f", {reason}" if reason != "None" else "")
        if state == "cut off":
            return _last_words(folder, job)
        return (folder.status() or {}).get("reason") if state in ("failed", "stopped", "finished") else None


def _last_words(folder: RunFolder, job: Job | None) -> str:
    """What the end of a log says of a run that could not say so itself."""
    by_job = job is not None and ((folder.status() or {}).get("job") is not None or folder.state() == "waiting")
    log = (job.log if job is not None else None) if by_job else str(folder.path / "log.txt")
    if log is None:
        return "its job was never submitted"
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - 4096))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return f"job {job.id} ended before the run began" if by_job and job is not None else "its process was killed"
    ending = next((match for line in reversed(lines) if (match := _ENDED_BY.fullmatch(line.strip()))), None)
    words = "killed without a word" if ending is None else next(filter(None, ending.groups())).strip("* ")
    return f"{words}; see {log}"


def _call(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = "no answer" if isinstance(error, subprocess.TimeoutExpired) else error.strerror
    else:
        if done.returncode == 0:
            return done.stdout
        reason = done.stderr.strip().partition("\n")[0]
    raise UserError(f"{command[0]}: {reason}; which runs are queued is not known, try again when Slurm answers")
