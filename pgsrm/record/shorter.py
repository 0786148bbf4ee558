"""Where a longer run can begin: at a checkpoint of a run that differs in its number of updates alone.

No update depends on how many follow it. So a run of 400 updates that begins at the checkpoint of one of 300 has the numbers
of a run that was never cut, and the same test says so as for any resumed run.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from pgsrm.record import checkpoint
from pgsrm.record.files import DiskFull, writing
from pgsrm.record.run_folder import FORMAT, RunFolder


@dataclass(frozen=True)
class Beginning:
    """A run's checkpoint after `update`, from which a longer run of the same course goes on."""

    folder: RunFolder
    update: int

    def copy_to(self, folder: RunFolder) -> bool:
        """Give `folder` the checkpoint and the record; False where the other run's is damaged, or has gone meanwhile.

        The checkpoint comes last, so that none stands beside half a record. The record ends with it: a tracker reads the
        folder before the run cuts it back.

        Raises:
            DiskFull: what was copied gives way when the same command is started again.
        """
        try:
            with writing(folder.path):
                for source, target in ((self.folder.metrics, folder.metrics), (self.folder.samples, folder.samples)):
                    if source.exists():
                        shutil.copyfile(source, target)
            folder.truncate_after(self.update)
            checkpoint.copy(self.folder, self.update, folder)
        except DiskFull:
            raise
        except (FileNotFoundError, PermissionError, ValueError):
            folder.truncate_after(-1)
            return False
        return True


class Beginnings:
    """The checkpoints below some outputs, by the course of their runs (`pgsrm.config.identity`); each place is listed once."""

    def __init__(self) -> None:
        self._known: dict[Path, dict[str, list[RunFolder]]] = {}

    def find(self, runs: Path, course: str, updates: int) -> Beginning | None:
        """The furthest one for a run of `updates`, of equal ones the shortest run's; None where there is none."""
        if runs not in self._known:
            self._known[runs] = _by_course(runs)
        found = [
            Beginning(folder, update)
            for folder in self._known[runs].get(course, [])
            if folder.state() != "running"
            for update in checkpoint.saved(folder)
            if update < min(updates, _before(folder))
        ]
        return max(found, key=lambda beginning: (beginning.update, -_before(beginning.folder)), default=None)


def _before(folder: RunFolder) -> int:
    """The update whose line is another one in a longer run: a run's last update is evaluated whenever it comes."""
    status = folder.status() or {}
    return int(status["update" if status.get("state") == "finished" else "updates"])


def _by_course(runs: Path) -> dict[str, list[RunFolder]]:
    found: dict[str, list[RunFolder]] = {}
    for path in sorted(runs.iterdir()) if runs.is_dir() else []:
        folder = RunFolder(path)
        try:
            status = (folder.status() if checkpoint.saved(folder) else None) or {}
        except OSError:  # another user's, who lets nobody look
            continue
        if status.get("format") == FORMAT and "course" in status:
            found.setdefault(status["course"], []).append(folder)
    return found
