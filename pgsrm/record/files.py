"""Writing files so that a crash or a full disk leaves either the old content or the new."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pgsrm.util.errors import UserError

# No space, over quota, over the file size limit (ulimit -f).
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class DiskFull(UserError):
    """The run's folder cannot grow any more. What it holds stays valid, so that the run can resume later."""


def disk_full(folder: Path) -> DiskFull:
    """The error to raise when writing below `folder` (a run folder) found no space."""
    return DiskFull(
        f"{folder}: the disk is full or the quota used up; free some space, then the same command resumes it"
    )


def is_disk_full(error: BaseException) -> bool:
    """Whether `error` says that the disk is full. safetensors, written in Rust, says it in the text only."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    number = re.search(r"\(os error (\d+)\)", str(error))
    return number is not None and int(number[1]) in _FULL


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns a full disk inside the block into `DiskFull`, naming the run folder."""
    try:
        yield
    except Exception as error:
        if is_disk_full(error):
            raise disk_full(folder) from error
        raise


def sync(path: Path) -> None:
    """Waits until a file or a directory is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """An empty folder to write into, which takes the place of `target` once all of it is on the disk.

    A crash at any moment leaves the old one, none, or the new one; an error leaves the old one.
    """
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for path in (*temporary.rglob("*"), temporary):
            sync(path)
        shutil.rmtree(target, ignore_errors=True)
        os.rename(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync(target.parent)


def replace(path: Path, content: bytes, durable: bool = True) -> None:
    """Replaces a file atomically; `durable` also waits until the new content is on the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
