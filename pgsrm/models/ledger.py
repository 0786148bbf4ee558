"""What all processes and starts have spent at a server, in one SQLite file: limits hold for their sum."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

from pgsrm.util.errors import UserError
from pgsrm.util.paths import local_path

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS starts (owner TEXT, start TEXT, calls INTEGER, input_tokens INTEGER, "
    "output_tokens INTEGER, PRIMARY KEY (owner, start))"
)
_BUSY_SECONDS = 30.0


class Spent(NamedTuple):
    """Calls and tokens, those of calls under way with the most that they can take."""

    calls: int
    input_tokens: int
    output_tokens: int


class Ledger:
    """The spending of one owner, a server's user under one set of settings; a row for each start of a process.

    Unlike a `pgsrm.util.store.Store` it must not be lost: what can't be written stops the run.

    Raises UserError where the file can't be used.
    """

    def __init__(self, path: Path, owner: str) -> None:
        self.path, self._owner, self._start = path, owner, uuid.uuid4().hex
        self._opened: sqlite3.Connection | None = None

    @classmethod
    def at(cls, path: str | None, section: str, owner: str) -> Self | None:
        """The ledger that the key `ledger` of a config's section names; None where it names none."""
        return None if path is None else cls(local_path(path, f"{section}.ledger"), owner)

    @contextmanager
    def exclusive(self) -> Iterator[Spent]:
        """The spending of all other starts, which nobody changes while the block lasts."""
        with self._writing() as database:
            query = (
                "SELECT COALESCE(SUM(calls), 0), COALESCE(SUM(input_tokens), 0), COALESCE(SUM(output_tokens), 0) "
                "FROM starts WHERE owner = ? AND start != ?"
            )
            yield Spent(*database.execute(query, (self._owner, self._start)).fetchone())

    def write(self, spent: Spent) -> None:
        """Set what this start has spent so far; within `exclusive` or by itself."""
        row = (self._owner, self._start, *spent)
        with self._errors():
            self._database.execute("INSERT OR REPLACE INTO starts VALUES (?, ?, ?, ?, ?)", row)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._errors():
            database = self._database
            database.execute("BEGIN IMMEDIATE")
        try:
            yield database
        finally:
            with self._errors():
                database.execute("COMMIT")

    @property
    def _database(self) -> sqlite3.Connection:
        if self._opened is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # no write-ahead log: this file may lie on a network's file system, and is written once per call of a server
            database = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            database.execute(_SCHEMA)
            self._opened = database
        return self._opened

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise UserError(
                f"{self.path}: can't keep what calls cost ({error}); free or repair the disk, or move the file away"
            ) from error
