"""What a file holds, as a hash: runs are identified by content, not by file name."""

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path


def content_digest(paths: Iterable[Path]) -> str:
    """SHA-256 over the files' contents, in the order of their names."""
    digests = [_file_digest(path, path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(paths)]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def folder_digest(folder: Path, files: Iterable[Path]) -> str:
    """SHA-256 over files of a folder, their names within it and their contents."""
    named = sorted((str(path.relative_to(folder)), path) for path in files)
    lines = [f"{name} {_file_digest(path, path.stat().st_mtime_ns, path.stat().st_size)}" for name, path in named]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@lru_cache(maxsize=256)
def _file_digest(path: Path, changed: int, size: int) -> str:
    """Read once a process, since a sweep asks for the same weights at every run."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
