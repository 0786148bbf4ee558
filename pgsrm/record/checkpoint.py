"""Checkpoints that survive a crash at any moment: checkpoints/<update>/{tensors.safetensors,state.json}.

A checkpoint is written beside the others under a temporary name, brought to the disk, then renamed. The last
two are kept, so that a damaged one costs some updates and never the run. Nothing is pickled.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgsrm.record.files import whole_folder, writing
from pgsrm.record.run_folder import RunFolder

if TYPE_CHECKING:
    from torch import Tensor

_KEPT = 2
_TENSORS = "tensors.safetensors"
_STATE = "state.json"

logger = logging.getLogger(__name__)


def save(folder: RunFolder, update: int, tensors: Mapping[str, "Tensor"], state: Mapping[str, Any]) -> None:
    """Writes the checkpoint of `update` and removes all but the last two.

    Args:
        folder: the run's.
        update: how many updates the tensors have been through; 0 before the first.
        tensors: name -> tensor of any shape, dtype and device. Tied tensors are stored once. They come
            back on the CPU.
        state: what JSON can hold: None, bools, numbers (of any size, NaN too), strings, lists, dicts with
            string keys. Tuples come back as lists.

    Raises:
        DiskFull: the earlier checkpoints are still there.
        TypeError: `state` holds something that JSON cannot.
    """
    from safetensors.torch import save_file

    stored, aliases = _without_ties(tensors)
    with _in_place(folder, update) as temporary:
        save_file(stored, temporary / _TENSORS)
        content = {
            "update": update,
            "sha256": _sha256(temporary / _TENSORS),
            "aliases": aliases,
            "state": dict(state),
        }
        (temporary / _STATE).write_text(json.dumps(content))
    earlier = [number for number in saved(folder) if number <= update]
    for number in saved(folder):
        # Later ones are of a course of this run that was given up: they could not be loaded.
        if number not in earlier[-_KEPT:]:
            shutil.rmtree(folder.checkpoints / f"{number:06d}")


def copy(source: RunFolder, update: int, target: RunFolder) -> None:
    """Give the run of `target` the checkpoint of `update` that the run of `source` has: all of it or nothing.

    Raises:
        DiskFull: `target` has no more checkpoints than before.
        FileNotFoundError: `source` has it no longer.
        ValueError: what `source` has is damaged.
    """
    with _in_place(target, update) as temporary:
        for name in (_TENSORS, _STATE):
            shutil.copyfile(source.checkpoints / f"{update:06d}" / name, temporary / name)
        _read_state(temporary)


@contextmanager
def _in_place(folder: RunFolder, update: int) -> Iterator[Path]:
    """Where the files of a checkpoint are to be written; they come to their place once all are on the disk."""
    with writing(folder.path):
        for leftover in folder.checkpoints.glob(".*.tmp"):
            shutil.rmtree(leftover)
        # One of this update may be there: it is reached again after going back to an earlier one, as when it was damaged.
        with whole_folder(folder.checkpoints / f"{update:06d}") as temporary:
            yield temporary


def load_latest(
    folder: RunFolder, warn: Callable[[str], None] = logger.warning
) -> tuple[int, dict[str, "Tensor"], dict[str, Any]] | None:
    """The newest checkpoint that is whole: (update, tensors on the CPU, state), or None where there is none.

    Each damaged one that is passed over is told to `warn` in one line.
    """
    for update in reversed(saved(folder)):
        path = folder.checkpoints / f"{update:06d}"
        try:
            tensors, state = _load(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            warn(f"{path}: damaged checkpoint ({_first_line(error)}); going back to the one before")
        else:
            return update, tensors, state
    return None


def saved(folder: RunFolder) -> list[int]:
    """The updates of the checkpoints, whole or damaged, in order."""
    if not folder.checkpoints.is_dir():
        return []
    return sorted(int(path.name) for path in folder.checkpoints.iterdir() if path.name.isdigit())


def newest(folder: RunFolder) -> int:
    """The update of the newest checkpoint, whole or damaged; -1 where there is none."""
    return max(saved(folder), default=-1)


def _load(path: Path) -> tuple[dict[str, "Tensor"], dict[str, Any]]:
    from safetensors.torch import load_file

    content = _read_state(path)
    tensors = load_file(path / _TENSORS)
    for name, original in content["aliases"].items():
        tensors[name] = tensors[original]
    return tensors, content["state"]


def _read_state(path: Path) -> dict[str, Any]:
    """What state.json holds. Raises ValueError where it, or the file of tensors beside it, is damaged."""
    content: dict[str, Any] = json.loads((path / _STATE).read_bytes())
    if _sha256(path / _TENSORS) != content["sha256"]:
        raise ValueError(f"{_TENSORS} differs from its checksum")
    return content


def _without_ties(tensors: Mapping[str, "Tensor"]) -> tuple[dict[str, "Tensor"], dict[str, str]]:
    """Tensors as safetensors takes them (dense, on the CPU, no shared memory), and name -> name tied to."""
    stored: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    names: dict[tuple[object, ...], str] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if tensor.numel() and place in names:
            aliases[name] = names[place]
            continue
        names[place] = name
        dense = tensor.detach().cpu().contiguous()
        storage = dense.untyped_storage()
        if storage.nbytes() != dense.numel() * dense.element_size() or storage.data_ptr() in storages:
            dense = dense.clone()
        storages.add(dense.untyped_storage().data_ptr())
        stored[name] = dense
    return stored, aliases


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
