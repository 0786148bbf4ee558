"""A model's folder that a command makes: named before the work starts, and there as a whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pgsrm.record.files import is_disk_full
from pgsrm.util.errors import UserError
from pgsrm.util.paths import check_writable, local_path


def new_folder(name: str) -> Path:
    """The folder that `out=name` means, which is not there yet, or empty.

    Raises:
        UserError: for one that is there with something in it, or that can't be made.
    """
    if not name:
        raise UserError("out: missing; name a new folder for the model")
    folder = local_path(name, "out")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"out={name}: is there already; name a new folder, or an empty one")
    check_writable(folder, "out")
    return folder


@contextmanager
def written_whole(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write to, which is moved there at the end: what is there is whole.

    Raises:
        UserError: where it can't be written. Then, as after any other error, `out` is as it was.
    """
    work = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        yield work
        if out.is_dir():
            out.rmdir()
        work.rename(out)
    except Exception as error:
        if isinstance(error, UserError) or (not isinstance(error, OSError) and not is_disk_full(error)):
            raise
        raise UserError(f"out={out}: can't be written ({error}); free some space, or name another folder") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
