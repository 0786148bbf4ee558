"""Files of word vectors: gensim's native KeyedVectors (`.kv`) and word2vec's text format (everything else).

**`.kv`** is what gensim's `KeyedVectors.save` writes and `KeyedVectors.load` reads: the shipped vectors are
one such file. It keeps float16 as float16 (word2vec's binary format is float32 by definition) and loads in
milliseconds. It is also a pickle, which may run code when it is read; hence `_KeyedVectorsUnpickler`, which
builds a KeyedVectors out of strings, numbers and arrays and refuses everything else, so that a `.kv` from
elsewhere is data and nothing more.

**Text** (`.txt`, `.vec`, …, also with `.gz`) is the format of word2vec, fastText, GloVe and ConceptNet
Numberbatch: a word and its numbers a line, after an optional first line "words dimension". gensim's own
reader turns each number into a Python float (240 µs a Numberbatch line, two minutes for English Numberbatch)
and holds every language before one can be chosen; this one takes 75 µs a line and passes over other
languages' lines unread. `pgsrm.embedder.word_table` does it once a file.
"""

from __future__ import annotations

import gzip
import io
import pickle
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgsrm.util.errors import UserError

if TYPE_CHECKING:
    import numpy as np

# All that a pickled KeyedVectors object refers to.
PICKLED_NAMES = {
    ("gensim.models.keyedvectors", "KeyedVectors"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "_reconstruct"),  # the same function as NumPy 1 named it
}


def read_vectors(path: Path, language: str = "en") -> tuple[list[str], np.ndarray]:
    """Read a file of word vectors; returns n words and their vectors (n, d), of the file's own lengths.

    Of words that are ConceptNet's URIs (/c/en/cold, /c/de/kalt) those of `language` are read.

    Raises UserError, naming `embedder.path` and where there is one the line, if the file is damaged or of
    another format.
    """
    return _read_keyed_vectors(path) if path.suffix == ".kv" else _read_text(path, language)


def check_vectors(path: Path) -> None:
    """Raise UserError if `path` is no file, or does not begin as word vectors do. Reads little of it."""
    if not path.is_file():
        raise _bad(path, "there is no such file", "name a file of word vectors, or null for the shipped ones")
    if path.suffix != ".kv":
        _text_header(path)
        return
    with _damage_reported(path), path.open("rb") as file:
        beginning = file.read(1)
    if beginning != pickle.PROTO:
        raise _bad(path, "this is no gensim KeyedVectors file", "save it with KeyedVectors.save")


class _KeyedVectorsUnpickler(pickle.Unpickler):
    """Unpickles a KeyedVectors object, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in PICKLED_NAMES:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which word vectors have no need of")
        return super().find_class(module, name)


def _read_keyed_vectors(path: Path) -> tuple[list[str], np.ndarray]:
    import numpy as np

    try:
        with path.open("rb") as file:
            keyed_vectors = _KeyedVectorsUnpickler(file).load()
        vectors = vars(keyed_vectors).get("vectors")
        if vectors is None:  # gensim puts arrays of 10 MB and more into a file beside the pickle
            vectors = np.load(f"{path}.vectors.npy", mmap_mode="r", allow_pickle=False)
        return keyed_vectors.index_to_key, vectors
    except (pickle.UnpicklingError, EOFError, AttributeError, TypeError, ValueError, OSError) as error:
        problem = f"it can't be read as gensim KeyedVectors ({error})"
        raise _bad(path, problem, "save it again with gensim 4") from error


def _read_text(path: Path, language: str) -> tuple[list[str], np.ndarray]:
    import numpy as np

    dimension, announced = _text_header(path)
    header_lines = 0 if announced is None else 1
    prefix = f"/c/{language}/".encode()
    words: list[str] = []
    numbers_read = bytearray()  # half the memory of as many arrays
    number = 0
    with _damage_reported(path), _open(path) as file, warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # NumPy's word for a text that is no numbers
        for number, line in enumerate(file, start=1):
            word, _, numbers = line.strip().partition(b" ")
            if number <= header_lines or (word.startswith(b"/c/") and not word.startswith(prefix)):
                continue
            row = _numbers(numbers)
            if row is None or len(row) != dimension:
                problem = f"line {number} is not a word and {dimension} numbers"
                raise _bad(path, problem, "repair or remove that line")
            words.append(word.removeprefix(prefix).decode(errors="replace"))
            numbers_read += row.astype(np.float16).tobytes()  # four decimals lose nothing by it
    follow = number - header_lines
    if announced is not None and follow != announced:
        raise _bad(path, f"line 1 announces {announced} words, {follow} follow", "fetch the file again")
    if not words:
        problem = f"it has no word of embedder.language={language}"
        raise _bad(path, problem, f"its keys must be plain words or begin with /c/{language}/")
    return words, np.frombuffer(numbers_read, np.float16).reshape(len(words), dimension)


def _numbers(text: bytes) -> np.ndarray | None:
    """The numbers (d,) of a line, None if it holds anything else."""
    import numpy as np

    try:
        row = np.fromstring(text, dtype=np.float32, sep=" ")
    except (ValueError, DeprecationWarning):
        return None
    return row if np.isfinite(row).all() else None


def _text_header(path: Path) -> tuple[int, int | None]:
    """The vectors' length, and the number of words where a first line "words dimension" announces it."""
    with _damage_reported(path), _open(path) as file:
        fields = file.readline(1 << 16).split()
    try:
        if len(fields) == 2:
            return int(fields[1]), int(fields[0])
        numbers = [float(field) for field in fields[1:]]
        if numbers:
            return len(numbers), None
    except ValueError:
        pass
    problem = "line 1 is neither a word and its numbers nor 'words dimension'"
    raise _bad(path, problem, "name a file in word2vec's text format, or gensim's as .kv")


def _open(path: Path) -> gzip.GzipFile | io.BufferedReader:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


@contextmanager
def _damage_reported(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError, zlib.error) as error:
        raise _bad(path, f"it can't be read to its end ({error})", "fetch the file again") from error


def _bad(path: Path, problem: str, remedy: str) -> UserError:
    return UserError(f"embedder.path={path}: {problem}; {remedy}")
