"""A run's folder: config, metrics, samples, status, checkpoints, and the lock of the process that trains it.

It is the only truth about a run: resuming, the MLflow mirror, tables and figures read nothing else.
Only the process that holds the lock writes; anyone may read at any time.
"""

import errno
import fcntl
import json
import math
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from pgsrm.record import lock
from pgsrm.record.files import disk_full, is_disk_full, replace, writing
from pgsrm.util.errors import UserError

# NumPy's and torch's scalars become floats; NaN and infinities become null, since JSON has neither.
_encode = msgspec.json.Encoder(enc_hook=float).encode

# Version of a run folder's format, in its status.json. Older folders have no version, which means 1.
# 2: `format` and `parts` in status.json; `reward` in samples.jsonl is the total also where a reward is per token.
FORMAT = 2

# What flock says on a file system that has none.
_NO_FLOCK = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL}


class RunFolder:
    """The folder of one run. Making the object touches nothing; `create` makes the directory."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.samples = self.path / "samples.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.model = self.path / "model"
        self.adapter = self.path / "adapter"
        self.reward = self.path / "reward.json"
        self.best = self.path / "best"
        self.mlflow = self.path / "mlflow.json"
        self.tensorboard = self.path / "tensorboard.json"
        self.wandb = self.path / "wandb.json"
        self._status = self.path / "status.json"
        self.owner = self.path / "owner.json"
        self._lock: int | None = None
        self._owns = False
        self._appending: int | None = None

    @property
    def name(self) -> str:
        """The folder's name, which is also the run's."""
        return self.path.name

    def create(self) -> None:
        """Makes the directory where it is not there yet."""
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)

    # Lock

    def acquire(self) -> bool:
        """Takes the run for this process until `release` or the process's end; False if another one has it.

        The lock is the kernel's (flock), so that a killed process leaves none behind. On a file system without flock it
        is the file owner.json. A killed process leaves that file. It is removed once its machine or its
        Slurm job shows that the process has ended.
        """
        self.create()
        with writing(self.path):
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _NO_FLOCK:
                raise
            self._owns = lock.create(self.owner)
            return self._owns
        self._lock = descriptor
        return True

    def release(self) -> None:
        """Gives the lock back and closes the metrics file."""
        self._close_metrics()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        if self._owns:
            self.owner.unlink(missing_ok=True)
            self._owns = False

    # Status

    def status(self) -> dict[str, Any] | None:
        """status.json, or None where there is none that can be read, or one without a state: of a folder that was deleted."""
        try:
            status = json.loads(self._status.read_bytes())
        except (OSError, ValueError):
            return None
        return status if isinstance(status, dict) and "state" in status else None

    def write_status(self, **fields: Any) -> None:
        """Merges `fields` into status.json, atomically and durably: milliseconds, so not every update."""
        content = json.dumps({**(self.status() or {}), **fields}, indent=1) + "\n"
        with writing(self.path):
            replace(self._status, content.encode())

    def check_resumable(self) -> None:
        """Raise UserError where another version of the package made the folder, whose checkpoint may mean something else."""
        status = self.status()
        if status is None:
            raise UserError(f"{self.name}: its status.json can't be read; run its command again, which writes it")
        made = status.get("format", 1)
        if made != FORMAT:
            which = "an earlier" if made < FORMAT else "a later"
            raise UserError(
                f"{self.name}: was made by {which} version of pgsrm (run folder format {made}, not {FORMAT}) and can't be "
                "resumed by this one; run its command again for a new run, or resume it with the version that made it"
            )

    def state(self) -> str:
        """What the run is doing: waiting, running, cut off, finished, failed or stopped.

        A run is cut off when its status says running and its process, if it was one of this host, has gone.
        """
        status = self.status()
        if status is None:
            return "waiting"
        here = status.get("host") == socket.gethostname()
        if status["state"] == "running" and here and not lock.alive(status.get("pid")):
            return "cut off"
        return str(status["state"])

    # The trained model

    def check_is_run(self) -> None:
        """Raise UserError where this is not a run's folder."""
        if not self.config.is_file():
            raise UserError(f"{self.path}: no run's folder (it has no config.yaml); name one of outputs/runs")

    def saved_model(self, best: bool = False) -> Path:
        """The folder of the final model, or of that of the best evaluation (`stop.keep_best`), in the hub's layout.

        Raises:
            UserError: this is no run's folder, or the run has not finished, or it has not kept its best model.
        """
        self.check_is_run()
        if not (self.model / "config.json").is_file():
            raise UserError(f"{self.path}: has no final model, it is {self.state()}; train it to its end first")
        if not best:
            return self.model
        if not (self.best / "config.json").is_file():
            raise UserError(
                f"{self.path}: has no best model (no {self.best.name}/); a run keeps one where stop.keep_best=true is "
                "set from its start"
            )
        return self.best

    # Metrics and samples

    def append_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Appends one line to metrics.jsonl; `metrics` has `update` and numbers (or scalar tensors).

        One write call and no buffer in this process: a crash of the process loses nothing.

        Raises:
            DiskFull: and leaves the file with whole lines only.
        """
        if self._appending is None:
            self._appending = _open_to_append(self.path, self.metrics)
        _append(self.path, self._appending, _encode(metrics) + b"\n")

    def append_samples(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends `rows`, each with an `update`, to samples.jsonl. Raises DiskFull, as above."""
        descriptor = _open_to_append(self.path, self.samples)
        try:
            _append(self.path, descriptor, b"".join(_encode(row) + b"\n" for row in rows))
        finally:
            os.close(descriptor)

    def truncate_after(self, update: int) -> None:
        """Cuts metrics and samples back to the lines of updates up to `update`, a checkpoint's.

        Half-written lines go too. -1 cuts everything: the run starts again.
        """
        self._close_metrics()
        for path in (self.metrics, self.samples):
            if not path.exists():
                continue
            with writing(self.path):
                content = path.read_bytes()
                kept = b"".join(line for line, row in parse_lines(content) if row["update"] <= update)
                if kept != content:
                    replace(path, kept)

    def read_metrics(self) -> list[dict[str, float]]:
        """All whole lines of metrics.jsonl; a null is read as NaN."""
        return self.read_metrics_and_broken()[0]

    def read_metrics_and_broken(self) -> tuple[list[dict[str, float]], int]:
        """`read_metrics`, and how many lines it leaves out, but for a last one that is being written."""
        if not self.metrics.exists():
            return [], 0
        content = self.metrics.read_bytes()
        rows = [_with_nan(row) for _, row in parse_lines(content)]
        return rows, content.count(b"\n") - len(rows)

    def last_metrics(self) -> dict[str, float] | None:
        """The last whole line of metrics.jsonl, found from the file's end, or None where there is none."""
        try:
            with open(self.metrics, "rb") as file:
                size = file.seek(0, os.SEEK_END)
                span = 4096
                while True:
                    file.seek(max(0, size - span))
                    tail = file.read(min(span, size))
                    if span < size:
                        # The first piece may be the rest of a line that starts further up.
                        tail = tail[tail.find(b"\n") + 1 :]
                    rows = [row for _, row in parse_lines(tail)]
                    if rows or span >= size:
                        return _with_nan(rows[-1]) if rows else None
                    span *= 4
        except FileNotFoundError:
            return None

    # What the reward remembers

    def write_reward_state(self, state: Mapping[str, Any]) -> None:
        """Keep what the reward of a finished run and its measures remember (`pgsrm.util.objects.remembered_by`), if any does."""
        if any(own is not None for own in (state["reward"], *state["measures"].values())):
            with writing(self.path):
                replace(self.reward, json.dumps(state).encode())

    def reward_state(self) -> dict[str, Any] | None:
        """What `write_reward_state` kept; None where there is nothing."""
        try:
            state = json.loads(self.reward.read_bytes())
        except (OSError, ValueError):
            return None
        return state if isinstance(state, dict) else None

    def _close_metrics(self) -> None:
        if self._appending is not None:
            os.close(self._appending)
            self._appending = None


class Onlooker(RunFolder):
    """The folder of a run for those of its processes that don't write it (`pgsrm.util.distributed`)."""

    def write_status(self, **fields: Any) -> None:
        """Writes nothing."""

    def append_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Writes nothing."""

    def append_samples(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes nothing."""

    def truncate_after(self, update: int) -> None:
        """Cuts nothing."""


def parse_lines(content: bytes) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The whole lines of a JSONL file with their rows; skips what a crash left half-written."""
    for line in content.splitlines(keepends=True):
        if not line.endswith(b"\n"):
            continue
        with suppress(msgspec.DecodeError):
            row = msgspec.json.decode(line)
            if isinstance(row, dict) and isinstance(row.get("update"), int):
                yield line, row


def _with_nan(row: dict[str, Any]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in row.items()}


def _open_to_append(folder: Path, path: Path) -> int:
    with writing(folder):
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)


def _append(folder: Path, descriptor: int, content: bytes) -> None:
    """Writes all of `content`, or nothing and raises DiskFull."""
    written = 0
    try:
        while written < len(content):
            written += os.write(descriptor, content[written:])
    except OSError as error:
        if not is_disk_full(error):
            raise
        if written:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
        raise disk_full(folder) from error
