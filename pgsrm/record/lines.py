"""A file of JSON objects that grows line by line, and what a killed command resumes from."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from pgsrm.util.errors import UserError, writing_to


class Lines:
    """A file of JSON objects, one per line. As a context manager it is held by one process.

    key: the config's key that names it, for messages. durable: each line is on the disk when `add` returns; otherwise a kill
    loses none, but a power cut may.

    Raises UserError if another process has it, or if it can't be written.
    """

    def __init__(self, path: Path, key: str, durable: bool = True) -> None:
        self._path, self._key, self._durable = path, key, durable

    def __enter__(self) -> Self:
        with self._writing():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self._path, "a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise UserError(f"{self._path}: another process is asking; wait for its end") from error
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, *lines: Mapping[str, Any]) -> None:
        """Append lines; what was added is the file's, whatever happens to this process."""
        with self._writing():
            self._file.write(b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines))
            self._file.flush()
            if self._durable:
                os.fsync(self._file.fileno())

    def read(self, *needed: str) -> Iterator[dict[str, Any]]:
        """The lines, each with the keys that are `needed`; a last line that a kill cut off is dropped.

        Raises UserError for a line that is not so, also for a last one that is whole: then another program wrote the file, which
        stays as it is.
        """
        self._file.seek(0)
        content = self._file.read()
        *records, last = content.split(b"\n")
        lines = [_read(record) for record in records]
        if last and (cut := _read(last)) is not None and not cut.keys() >= set(needed):
            lines.append(cut)
        for number, line in enumerate(lines, start=1):
            if line is None or not line.keys() >= set(needed):
                raise UserError(f"{self._path}: line {number}: not written by this command; remove the line")
        self._file.truncate(len(content) - len(last))
        yield from (line for line in lines if line is not None)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with writing_to(self._key, self._path.parent, "name a folder of yours, or free some space"):
            yield


def _read(record: bytes) -> dict[str, Any] | None:
    """The object of one line; None for what is none."""
    try:
        line = json.loads(record)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None
