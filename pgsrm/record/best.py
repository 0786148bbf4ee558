"""The model of a run's best evaluation (`stop.keep_best`): checkpoints/best-<update>/ while the run goes on, best/ at its end.

Each is written under a temporary name, brought to the disk, then renamed. Besides the best so far, the best up to each
checkpoint is kept: a run that resumes there may find another one afterwards.
"""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from pgsrm.record import checkpoint
from pgsrm.record.files import whole_folder, writing
from pgsrm.record.run_folder import RunFolder


def save(folder: RunFolder, update: int, write: Callable[[Path], None]) -> None:
    """Keep what `write` writes into an empty folder: the model of the evaluation after `update`, the best so far.

    Raises:
        DiskFull: what was kept before is still there.
    """
    with writing(folder.path), whole_folder(_place(folder, update)) as empty:
        write(empty)
    kept = _saved(folder)
    needed = {kept[-1], *(max((each for each in kept if each <= at), default=-1) for at in checkpoint.saved(folder))}
    for each in kept:
        if each not in needed:
            shutil.rmtree(_place(folder, each))


def cut_back(folder: RunFolder, update: int) -> None:
    """Remove the models of evaluations after `update`, from which the run resumes."""
    for each in _saved(folder):
        if each > update:
            shutil.rmtree(_place(folder, each))


def finish(folder: RunFolder, update: int | None) -> bool:
    """Leave the model of the best evaluation, after `update`, in best/, and the update in the status as `best_update`.

    Nothing happens where that model was not saved, as in a run that had `stop.keep_best` only later or only before, or where
    this was done before. Whether best/ is there.
    """
    kept = _saved(folder)
    if not kept or kept[-1] != update:
        return folder.best.is_dir()
    folder.write_status(best_update=kept[-1])
    for earlier in kept[:-1]:  # else a run that is killed now would take one of them for the best
        shutil.rmtree(_place(folder, earlier))
    shutil.rmtree(folder.best, ignore_errors=True)
    os.rename(_place(folder, kept[-1]), folder.best)
    return True


def _place(folder: RunFolder, update: int) -> Path:
    return folder.checkpoints / f"best-{update:06d}"


def _saved(folder: RunFolder) -> list[int]:
    names = (re.fullmatch(r"best-(\d+)", path.name) for path in folder.checkpoints.glob("best-*"))
    return sorted(int(name[1]) for name in names if name)
