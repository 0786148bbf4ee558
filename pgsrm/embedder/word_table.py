"""Word vectors in memory: a sorted list of words, searched by halving, and their vectors.

Text (Numberbatch, GloVe …) takes 75 µs a line to read. So it is converted once, into a file that later
processes map into their memory: that takes milliseconds, and parallel runs share the pages. The converted
file lies beside its source (`numberbatch-en-19.08.txt.gz.en.vectors`) or, where that folder can't be written,
in the user's cache folder. It holds, after a header of 4096 bytes:

    words    (n,) bytes of one length, sorted
    vectors  (n, d) float16, at length 1, beginning at a multiple of 4096

The header says which source it was made of (size, modification time, SHA-256, language); of another one it is
made again. A converted file that can't be written costs the time of reading at every start, nothing else.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgsrm.embedder.vector_files import files_of, is_gensim, read_vectors
from pgsrm.util.digest import content_digest
from pgsrm.util.errors import UserError
from pgsrm.util.paths import cache_folder
from pgsrm.util.text import only_word

if TYPE_CHECKING:
    import numpy as np

BLOCK = 4096  # the header's size, and what the vectors begin at a multiple of: a page of memory
FORMAT = 2  # of the converted file; another number makes all of them again

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WordTable:
    """n words and where their vectors are.

    words: (n,) UTF-8 bytes, sorted; rows: (n,) each word's row in `vectors` (m, d).
    """

    words: np.ndarray
    rows: np.ndarray
    vectors: np.ndarray

    def find(self, words: Sequence[str]) -> np.ndarray:
        """The row of each word's vector, -1 for an unknown word, an empty one among them."""
        import numpy as np

        encoded = [word.encode(errors="replace") for word in words]
        wanted = np.array(encoded, dtype=self.words.dtype)  # cuts what is longer than all words: never one of them
        whole = np.array([0 < len(word) <= self.words.dtype.itemsize for word in encoded], dtype=bool)
        places = np.minimum(np.searchsorted(self.words, wanted), len(self.words) - 1)
        return np.where(whole & (self.words[places] == wanted), self.rows[places], -1)


def load_table(path: Path, language: str) -> WordTable:
    """The words and vectors of a file; raises UserError, naming `embedder.path`, for a damaged one."""
    source = _source(path, language)
    if _loads_at_once(path):
        return _read_at_once(path, source["size"], source["mtime_ns"])
    places = _places(path, language)
    for place in places:
        table = _map(place, source)
        if table is not None:
            return table
    with _one_at_a_time(path):
        for place in places:
            with suppress(OSError):
                place.parent.mkdir(parents=True, exist_ok=True)
            if os.access(place.parent, os.W_OK):
                return _map(place, source) or _convert(path, place, source)  # made while this process waited
    return _table(path, *read_vectors(path, language))


def source_digest(path: Path, language: str) -> str:
    """Hash of the content of `files_of(path)`, without reading them where a converted file knows it."""
    for place in () if _loads_at_once(path) else _places(path, language):
        header = _header(place, _source(path, language))
        if header is not None:
            return hashlib.sha256(header["sha256"].encode()).hexdigest()
    return content_digest(files_of(path))


def _loads_at_once(path: Path) -> bool:
    """Whether there is nothing to gain by converting the file."""
    return path.suffix == ".kv" and is_gensim(path)


@lru_cache(maxsize=2)
def _read_at_once(path: Path, size: int, mtime_ns: int) -> WordTable:
    """The table of a file of this size and time; a process's runs share it, and the check before them."""
    return _table(path, *read_vectors(path))


def _table(path: Path, keys: Sequence[str], vectors: np.ndarray) -> WordTable:
    """Each word's row. Keys that are not one word (phrases, "##", "cold_ADJ") are out: no text can contain them.

    Raises UserError when no key is left: every text would be without a vector.
    """
    import numpy as np

    rows: dict[bytes, int] = {}
    for row, key in enumerate(keys):
        word = only_word(key)
        if word is not None:
            rows.setdefault(word.encode(), row)  # of "May" and "may" the first, as a rule the more frequent one
    if not rows:
        example = f" (such as {keys[0][:40]!r})" if keys else ""
        problem = f"none of its {len(keys)} keys{example} is usable"
        raise UserError(f"embedder.path={path}: {problem}; keys must be words of letters alone, like 'cold'")
    words = np.array(list(rows))
    order = np.argsort(words)
    return WordTable(words[order], np.array(list(rows.values()))[order], vectors)


def _source(path: Path, language: str) -> dict[str, Any]:
    """What a converted file must have been made of."""
    statuses = [file.stat() for file in files_of(path)]
    size, changed = sum(status.st_size for status in statuses), max(status.st_mtime_ns for status in statuses)
    return {"format": FORMAT, "size": size, "mtime_ns": changed, "language": language}


def _places(path: Path, language: str) -> list[Path]:
    """Where the converted file may be: beside its source, and in the user's cache folder."""
    name = f"{path.name}.{language}.vectors"
    folder = cache_folder() / "vectors"
    absolute = hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:16]
    return [path.with_name(name), folder / f"{absolute}-{name}"]


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Hold the source's lock, so that of many processes that start at once one converts it and the others wait.

    Where there are no locks (some network file systems) each converts for itself, which is only slow.
    """
    with path.open("rb") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _convert(path: Path, place: Path, source: dict[str, Any]) -> WordTable:
    import numpy as np

    sha256 = "".join(_checked_sha256(file) for file in sorted(files_of(path)))
    if source["size"] > 10_000_000:
        logger.warning("%s: being converted for quick loading, once; English Numberbatch takes about a minute", path)
    read = _table(path, *read_vectors(path, source["language"]))
    vectors = read.vectors[read.rows].astype(np.float16, copy=False)
    header = {**source, "sha256": sha256, "words": len(read.words), "width": read.words.dtype.itemsize}
    header["dimension"] = vectors.shape[1]
    temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(json.dumps(header).encode().ljust(BLOCK))
            file.write(read.words.tobytes())
            file.seek(_vectors_offset(header))
            file.write(vectors.data)
        os.replace(temporary, place)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        logger.warning("%s: can't be written (%s); %s is read again at every start", place, error.strerror, path.name)
        return read
    return _map(place, source) or read


def _checked_sha256(path: Path) -> str:
    """The source's SHA-256, compared with the one that its download noted, if it did."""
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    noted = path.with_name(f"{path.name}.sha256")
    if noted.is_file() and noted.read_text().split()[:1] != [checksum]:
        raise UserError(f"embedder.path={path}: its SHA-256 is {checksum}, not the one in {noted.name}; fetch it again")
    return checksum


def _vectors_offset(header: dict[str, Any]) -> int:
    return -(-(BLOCK + header["words"] * header["width"]) // BLOCK) * BLOCK


def _header(place: Path, source: dict[str, Any]) -> dict[str, Any] | None:
    """The header of a whole converted file of `source`; None for anything else."""
    try:
        with place.open("rb") as file:
            header = json.loads(file.read(BLOCK))
        size = _vectors_offset(header) + header["words"] * header["dimension"] * 2
        current = header.items() >= source.items() and place.stat().st_size == size
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return header if current else None


def _map(place: Path, source: dict[str, Any]) -> WordTable | None:
    import numpy as np

    header = _header(place, source)
    if header is None:
        return None
    n, d = header["words"], header["dimension"]
    words = np.memmap(place, f"S{header['width']}", "r", BLOCK, (n,))
    vectors = np.memmap(place, np.float16, "r", _vectors_offset(header), (n, d))
    return WordTable(words, np.arange(n), vectors)
