"""Paths: those that a user names, and where the package's own files lie, in a checkout and in an installed wheel."""

import os
import tempfile
from pathlib import Path

from pgsrm.util.errors import UserError, writing_to

PACKAGE = Path(__file__).parent.parent


def local_path(value: str | Path, key: str) -> Path:
    """A file or folder as a user names it: `~` and `~name` stand for home folders, all else is taken literally.

    Every key and option that names a path is read by this. The path need not exist; a relative one stays relative, so
    that messages show the user's own words.

    Raises:
        UserError: naming `key`, for a name that no file system takes, or `~` where there is no home folder.
    """
    try:
        path = Path(value).expanduser()
    except RuntimeError as error:
        remedy = "this user has none; set HOME, or give the path without ~"
        raise UserError(f"{key}={value}: {str(value).split('/')[0]} stands for a home folder; {remedy}") from error
    try:
        str(path).encode()
        os.lstat(path)
    except UnicodeEncodeError as error:
        raise UserError(f"{key}={str(value)!a}: the name is not UTF-8; rename the file or folder") from error
    except (FileNotFoundError, NotADirectoryError):  # what is not there is the caller's business
        pass
    except OSError as error:  # a name that is too long, a folder above it that this user may not enter
        raise UserError(f"{key}={value}: can't be read ({error.strerror}); name another") from error
    except ValueError as error:  # a NUL character
        raise UserError(f"{key}={str(value)!a}: can't be the name of a file ({error}); name another") from error
    return path


def check_writable(path: Path, key: str) -> None:
    """Make the folder that a new file or folder goes into, before the work on it starts.

    Raises:
        UserError: naming `key`, where it can't be written.
    """
    remedy = "name a place of yours"
    with writing_to(key, path, remedy):
        path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UserError(f"{key}={path}: can't be written (no permission); {remedy}")


def cache_folder() -> Path:
    """Where this user's caches lie: $XDG_CACHE_HOME/pgsrm, ~/.cache/pgsrm, or a folder for temporary files.

    The last for a user without a home folder, as in a container, or with one that can't be written.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    if base and os.path.isabs(base):
        return Path(base) / "pgsrm"
    try:
        cache = Path.home() / ".cache" / "pgsrm"
        nearest = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
        if nearest != Path("/") and os.access(nearest, os.W_OK):  # not /: that would make a home folder
            return cache
    except (RuntimeError, OSError):  # no home folder, or one that this user may not enter
        pass
    temporary = Path(tempfile.gettempdir()) / f"pgsrm-{os.getuid()}"
    temporary.mkdir(mode=0o700, exist_ok=True)
    return temporary if temporary.stat().st_uid == os.getuid() else Path(tempfile.mkdtemp(prefix="pgsrm-"))


def conf_folder() -> Path:
    """The Hydra configuration: `pgsrm/conf` in an installed wheel, `conf/` beside the package in a checkout."""
    installed = PACKAGE / "conf"
    return installed if installed.is_dir() else PACKAGE.parent / "conf"
