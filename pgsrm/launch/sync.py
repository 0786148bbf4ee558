"""`python -m pgsrm.sync [FOLDER ...]`: send the trackers what they have not got of the runs in these folders.

For runs that could not send it themselves: the server was away, or they were jobs on a cluster and MLflow's store is an
SQLite file, which the processes of several machines would break. May be called at any time and as often as one likes.
"""

import argparse
import fcntl
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgsrm.launch.slurm.queue import Queue
from pgsrm.launch.status import find_runs, outputs_folder
from pgsrm.record import RunFolder
from pgsrm.util.errors import UserError
from pgsrm.util.numbers import counted

_ENDED = ("finished", "failed", "stopped")


@dataclass
class Sent:
    """What came of it, in runs."""

    new: int = 0  # something was sent
    complete: int = 0  # the trackers had everything
    themselves: int = 0  # a running one, whose process sends
    without: int = 0  # no tracker, or nothing recorded yet

    def __str__(self) -> str:
        return (
            f"{counted(self.new, 'run')} sent, {self.complete} complete before, {self.themselves} are running and send themselves, "
            f"{self.without} have nothing to send"
        )


def sync(folders: Sequence[RunFolder], also: Collection[str] = ()) -> Sent:
    """Send the trackers what they have not got; a run that has ended is ended there too.

    also: trackers beside those that the runs' configs name.

    Raises:
        UserError: a tracker does not answer; what it has taken until then stays.
    """
    from pgsrm.config.plan import load_settings
    from pgsrm.record.trackers import PACKAGES, check_trackers, is_complete, make_mirror, trackers_of

    queue, sent = Queue.ask(folders), Sent()
    for folder in folders:
        state, status = queue.state(folder), folder.status() or {}
        try:
            config = _config(folder)
            trackers = list(dict.fromkeys([*trackers_of(config), *also]))
            if state == "running" and (own := status.get("mirrored")):
                trackers = [] if own is True else [tracker for tracker in trackers if tracker not in own]
                sent.themselves += not trackers
            elif not trackers or not folder.metrics.exists():
                sent.without += 1
                continue
            lacking = [tracker for tracker in trackers if not is_complete(tracker, folder, config)]
            whole = load_settings(folder)[1] if lacking else {}
        except UserError as error:  # one run's config that can't be read keeps no other run back
            print(f"left out: {error}", file=sys.stderr)
            sent.without += 1
            continue
        sent.complete += bool(trackers) and not lacking
        check_trackers([tracker for tracker in lacking if tracker in PACKAGES])
        for tracker in lacking:
            mirror = make_mirror(tracker, folder, whole)
            mirror.send_now((state, status.get("reason")) if state in _ENDED else None)
        sent.new += bool(lacking)
    return sent


def _config(folder: RunFolder) -> dict[str, Any]:
    """The run's frozen config; with its paths as they are now only if the folder is not where it was frozen."""
    from pgsrm.config.plan import load_settings
    from pgsrm.record.config_file import read_config

    config = read_config(folder.config) or {}
    outputs = Path((config.get("paths") or {}).get("outputs") or "")
    if folder.path.absolute().parent.parent != outputs and "paths" in config:
        return load_settings(folder)[1]
    return config


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """One at a time on this machine: two would make two runs of one in MLflow."""
    try:
        file = open(place / ".sync.lock", "w")  # noqa: SIM115 - closed below
    except OSError as error:
        raise UserError(
            f"{place}: can't be written ({error.strerror}), and what was sent is noted there; copy the runs to a folder of yours"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{place}: another python -m pgsrm.sync is sending its runs; wait for it") from error
        yield


def main() -> None:
    """The command line."""
    from pgsrm.config.messages import ending_with_line
    from pgsrm.record.trackers import PACKAGES, check_trackers

    parser = argparse.ArgumentParser(
        prog="python -m pgsrm.sync", description="Send the trackers what they have not got."
    )
    parser.add_argument(
        "folders", nargs="*", default=["outputs"], metavar="FOLDER", help="outputs, or run folders (default: outputs)"
    )
    parser.add_argument("--to", action="append", default=[], choices=sorted(PACKAGES), help="this tracker too")
    options = parser.parse_args()
    with ending_with_line("pgsrm", "interrupted; the same command sends the rest"):
        check_trackers(options.to)
        folders = find_runs(map(outputs_folder, options.folders))
        if not folders:
            raise UserError("no runs there; name paths.outputs of a sweep")
        with _alone(folders[0].path.parent):
            print(sync(folders, options.to))
