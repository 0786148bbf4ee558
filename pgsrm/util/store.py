"""Results that cost something, kept on disk: one SQLite file for all runs and processes of a user.

Many processes on one machine share it (SQLite's write-ahead log). It may be lost at any time, and it is never
needed: where it can't be used (a read-only or full disk, a damaged file, a network file system, on which the
log does not work) results are kept in this process's memory instead, after one warning. Each row carries a
checksum, so that no damage becomes a wrong result.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pgsrm.util.paths import cache_folder, local_path

SCHEMA = "CREATE TABLE IF NOT EXISTS results (key BLOB PRIMARY KEY, used INTEGER, checksum INTEGER, result BLOB)"
BUSY_SECONDS = 30.0  # what a process waits for others, whose transactions take milliseconds
USED_SECONDS = 3600  # to the hour is enough to know what was used last, and spares most reads a write
SLICE = 500  # keys a query
NETWORK = ("nfs", "cifs", "smb", "lustre", "beegfs", "gpfs", "ceph", "afs", "9p", "fuse", "glusterfs", "panfs")

logger = logging.getLogger(__name__)


class Store:
    """key -> bytes, on disk, for any number of processes and threads.

    file: its name. folder: where; None is `pgsrm.util.paths.cache_folder()`. megabytes: above which the results go that were
    not used for longest; 0 keeps nothing on the disk. section: the config group of `cache`, the folder's key, for messages.
    Opening is put off to the first use.
    """

    def __init__(self, file: str, folder: str | None = None, megabytes: int = 1000, section: str = "embedder") -> None:
        self._folder = cache_folder() if folder is None else local_path(folder, f"{section}.cache")
        self._file, self._key = file, f"{section}.cache"
        self._limit = (megabytes or 1000) * 1_000_000
        self._on_disk = megabytes > 0
        self._opened: sqlite3.Connection | None = None
        self._lock = threading.RLock()  # a connection has one transaction at a time

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The results of those keys that are there."""
        with self._lock:
            try:
                return self._get(keys)
            except sqlite3.Error as error:
                self._give_up(str(error))
                return self._get(keys)

    def put(self, results: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        """Keep `results`; returns what is kept under their keys.

        That is another process's result where it came first: a server's answers differ from call to call, and
        this way every run, and every resumed run, computes with the same ones.
        """
        with self._lock:
            try:
                self._put(results)
                return {**results, **self._get(list(results))}
            except sqlite3.Error as error:
                self._give_up(str(error))
                self._put(results)
                return dict(results)

    def _get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        results: dict[bytes, bytes] = {}
        old, damaged, now = [], [], int(time.time())
        for start in range(0, len(keys), SLICE):
            some = keys[start : start + SLICE]
            marks = ",".join("?" * len(some))
            query = f"SELECT key, used, checksum, result FROM results WHERE key IN ({marks})"
            for key, used, checksum, result in self._database.execute(query, some):
                if not isinstance(result, bytes) or zlib.crc32(key + result) != checksum:
                    damaged.append((key,))
                    continue
                results[key] = result
                if now - used > USED_SECONDS:
                    old.append((now, key))
        if old or damaged:
            with self._writing() as database:
                database.executemany("UPDATE results SET used = ? WHERE key = ?", old)
                database.executemany("DELETE FROM results WHERE key = ?", damaged)
        return results

    def _put(self, results: Mapping[bytes, bytes]) -> None:
        now = int(time.time())
        rows = [(key, now, zlib.crc32(key + result), result) for key, result in results.items()]
        with self._writing() as database:
            database.executemany("INSERT OR IGNORE INTO results VALUES (?, ?, ?, ?)", rows)
            while self._bytes() > self._limit:
                oldest = "SELECT key FROM results ORDER BY used, rowid LIMIT 1 + (SELECT COUNT(*) FROM results) / 10"
                database.execute(f"DELETE FROM results WHERE key IN ({oldest})")

    def _bytes(self) -> int:
        """What the rows take; the file keeps its size when some go, and new ones fill it."""
        pages, free, size = (
            self._database.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that has the right to write from its start, so that it can't fail half-way for another's."""
        database = self._database
        database.execute("BEGIN IMMEDIATE")
        try:
            yield database
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise

    @property
    def _database(self) -> sqlite3.Connection:
        if self._opened is None:
            self._opened = self._open_file() if self._on_disk else _in_memory()
        return self._opened

    def _open_file(self) -> sqlite3.Connection:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise sqlite3.OperationalError(error.strerror) from error
        kind = _network_file_system(self._folder)
        if kind is not None:
            raise sqlite3.OperationalError(f"{kind} is a network file system")
        return _connect(self._folder / self._file)

    def _give_up(self, reason: str) -> None:
        """From here on in memory."""
        remedy = f"delete it, or set {self._key} to a folder on a local disk"
        logger.warning(
            "%s: can't be used (%s), this process keeps what it gets in memory; %s",
            self._folder / self._file,
            reason,
            remedy,
        )
        self._opened = _in_memory()


def _in_memory() -> sqlite3.Connection:
    database = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    database.execute(SCHEMA)
    return database


def _connect(path: Path) -> sqlite3.Connection:
    """Open or make the file. Going over to the write-ahead log is not waited for by SQLite's own time-out."""
    end = time.monotonic() + BUSY_SECONDS
    while True:
        database = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute(SCHEMA)
            return database
        except sqlite3.OperationalError as error:
            database.close()
            if "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.05)


def _network_file_system(folder: Path) -> str | None:
    """The type of the file system that `folder` is on, where that is one of a network; None where it can't be told."""
    try:
        lines = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return None
    real = folder.resolve()
    mounts = [(Path(fields[1].replace("\\040", " ")), fields[2]) for fields in map(str.split, lines)]
    over = [(len(place.parts), kind) for place, kind in mounts if real.is_relative_to(place)]
    # of equal ones the last covers the others
    kind = max(reversed(over), key=lambda mount: mount[0], default=(0, ""))[1]
    return kind if kind.startswith(NETWORK) else None
