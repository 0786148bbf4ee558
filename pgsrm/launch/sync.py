"""`python -m pgsrm.sync [FOLDER ...]`: send MLflow what it has not got of the runs in these folders.

For runs that could not send it themselves: the server was away, or they were jobs on a cluster and MLflow's store is an
SQLite file, which the processes of several machines would break. May be called at any time and as often as one likes.
"""

import argparse
import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pgsrm.launch.slurm.queue import Queue
from pgsrm.launch.status import find_runs
from pgsrm.record import RunFolder
from pgsrm.util.errors import UserError

_ENDED = ("finished", "failed", "stopped")


@dataclass
class Sent:
    """What came of it, in runs."""

    new: int = 0  # something was sent
    complete: int = 0  # MLflow had everything
    themselves: int = 0  # a running one, whose process sends
    without: int = 0  # tracking=none, or nothing recorded yet

    def __str__(self) -> str:
        return (
            f"{self.new} runs sent, {self.complete} complete before, {self.themselves} are running and send themselves, "
            f"{self.without} have nothing to send"
        )


def sync(folders: Sequence[RunFolder]) -> Sent:
    """Send MLflow what it has not got; a run that has ended is ended there too.

    Raises:
        UserError: MLflow does not answer; what it has taken until then stays.
    """
    from pgsrm.config.plan import load_settings
    from pgsrm.record.mlflow_mirror import is_complete
    from pgsrm.train import make_mirror

    queue, sent = Queue.ask(folders), Sent()
    for folder in folders:
        state, status = queue.state(folder), folder.status() or {}
        if state == "running" and status.get("mirrored"):
            sent.themselves += 1
        elif is_complete(folder, _address(folder)):
            sent.complete += 1
        elif not folder.metrics.exists() or (mirror := make_mirror(folder, load_settings(folder)[1])) is None:
            sent.without += 1
        else:
            mirror.send_now((state, status.get("reason")) if state in _ENDED else None)
            sent.new += 1
    return sent


def _address(folder: RunFolder) -> str | None:
    """Where MLflow has the run, by its config; read in full only if the folder is not where it was frozen."""
    from pgsrm.config.plan import load_settings
    from pgsrm.record.config_file import read_config

    config = read_config(folder.config) or {}
    outputs = Path((config.get("paths") or {}).get("outputs") or "")
    if folder.path.absolute().parent.parent != outputs and "paths" in config:
        config = load_settings(folder)[1]
    return (config.get("tracking") or {}).get("uri")


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """One at a time on this machine: two would make two runs of one in MLflow."""
    with open(place / ".sync.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{place}: another python -m pgsrm.sync is sending its runs; wait for it") from error
        yield


def main() -> None:
    """The command line."""
    from pgsrm.config.messages import exit_with_line

    parser = argparse.ArgumentParser(prog="python -m pgsrm.sync", description="Send MLflow what it has not got.")
    parser.add_argument(
        "folders", nargs="*", type=Path, metavar="FOLDER", help="outputs, or run folders (default: outputs)"
    )
    options = parser.parse_args()
    try:
        folders = find_runs(options.folders or [Path("outputs")])
        if not folders:
            raise UserError("no runs there; name paths.outputs of a sweep")
        with _alone(folders[0].path.parent):
            print(sync(folders))
    except Exception as error:
        exit_with_line(error, "pgsrm")
