"""Files of word vectors: what gensim saves (`.kv`, `.model`), and word2vec's text and binary formats.

Which of them a file is, its first bytes say, not its name; each may be compressed (gzip, bzip2, xz).

**gensim's own** is what `KeyedVectors.save`, `Word2Vec.save` and `FastText.save` write: the shipped vectors are one such
file. It keeps float16 as float16 and loads in milliseconds. It is also a pickle, which may run code when it is read; hence
`_VectorsUnpickler`, which keeps strings, numbers and arrays, puts a plain record in the place of gensim's classes, and
refuses everything else, so that a file from elsewhere is data and nothing more.

**Text** (`.txt`, `.vec` …) is the format of word2vec, fastText, GloVe and ConceptNet Numberbatch: a word and its numbers a
line, after an optional first line "words dimension". The numbers are counted from the right, so a key may hold spaces.
gensim's own reader turns each number into a Python float (240 µs a Numberbatch line, two minutes for English Numberbatch)
and holds every language before one can be chosen; this one takes 75 µs a line and passes over other languages' lines
unread. `pgsrm.embedder.word_table` does it once a file.

**Binary** (`.bin`) is the other format of word2vec, GoogleNews's: the same first line, then each word, a space, and its
numbers as float32.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import pickle
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pgsrm.util.errors import UserError
from pgsrm.util.numbers import counted

if TYPE_CHECKING:
    import numpy as np

# All that is built as it is of what a pickled object refers to; a class of `STAND_INS` becomes a record without methods.
PICKLED_NAMES = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy._core.multiarray", "scalar"),
}
STAND_INS = re.compile(
    r"gensim\..+|numpy\.random\..+|builtins\.(hash|int|object)|collections\.(defaultdict|OrderedDict)"
)
KEYS = ("index_to_key", "index2word", "index2entity")  # in the order of gensim's versions
COMPRESSED: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}
FACEBOOK = b"\xba\x16\x4f\x2f"  # fastText's own binary model
BEGINNING = 1 << 20  # bytes that show what a file is: a line of word vectors is shorter
HEADERLESS = 50  # lines that show the vectors' length where no first line says it
ROWS = 4096  # at once to unit length
LONGEST_KEY = 1 << 12  # bytes
NOT_UTF8 = 0.01  # share of keys that may be damaged: some published files have a few


def read_vectors(path: Path, language: str = "en") -> tuple[list[str], np.ndarray]:
    """Read a file of word vectors; returns n words and their vectors (n, d).

    The vectors of text and of binary files are float16, at length 1: in float16 a longer one could overflow, a shorter one
    vanish. gensim's keep their own type and lengths. Of words that are ConceptNet's URIs (/c/en/cold, /c/de/kalt) those of
    `language` are read.

    Raises UserError, naming `embedder.path` and where there is one the line, if the file is damaged or of another format.
    """
    beginning = _beginning(path)
    if beginning.startswith(pickle.PROTO):
        return _read_gensim(path)
    reader = _read_binary if _is_binary(path, beginning) else _read_text
    return reader(path, beginning, language)


def check_vectors(path: Path) -> None:
    """Raise UserError if `path` is no file, or does not begin as word vectors do. Reads little of it."""
    if not path.is_file():
        raise _bad(path, "there is no such file", "name a file of word vectors, or null for the shipped ones")
    beginning = _beginning(path)
    if path.suffix in (".kv", ".model") and not beginning.startswith(pickle.PROTO):
        raise _bad(path, "this is no gensim KeyedVectors file", "save it with KeyedVectors.save")
    if not beginning.startswith(pickle.PROTO):
        _header(path, beginning)


def is_gensim(path: Path) -> bool:
    """Whether the file is gensim's own, by its first byte."""
    return _beginning(path).startswith(pickle.PROTO)


def files_of(path: Path) -> list[Path]:
    """The file, and those beside it that hold its arrays: gensim puts arrays of 10 MB and more there."""
    beside = (other for other in path.parent.iterdir() if other.name.startswith(f"{path.name}."))
    return [path, *(other for other in beside if other.suffix in (".npy", ".npz"))]


# gensim's own


class _Record:
    """Stands for an object of a class that word vectors have no need of: takes its state, does nothing."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)

    def __setitem__(self, key: object, value: object) -> None: ...

    def append(self, value: object) -> None: ...

    def extend(self, values: object) -> None: ...


class _VectorsUnpickler(pickle.Unpickler):
    """Unpickles what gensim saves, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core.", "numpy._core.")  # as NumPy 1 named it
        if (module, name) in PICKLED_NAMES:
            return super().find_class(module, name)
        if STAND_INS.fullmatch(f"{module}.{name}"):
            return _Record
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which word vectors have no need of")


def _read_gensim(path: Path) -> tuple[list[str], np.ndarray]:
    import numpy as np

    try:
        with _open(path) as file:
            saved = vars(_VectorsUnpickler(file).load())
        inner = "wv" in saved  # a whole model, which has its vectors as `wv`
        holder = vars(saved["wv"]) if inner else saved
        holder |= _arrays_beside(f"{path}.wv." if inner else f"{path}.", holder)
        keys = next(list(holder[name]) for name in KEYS if name in holder)
        vectors = np.asanyarray(_vectors_of(holder))
        whole = vectors.ndim == 2 and vectors.dtype.kind == "f" and vectors.shape[1] > 0 and len(vectors) >= len(keys)
    except StopIteration:
        raise _bad(path, "it holds no word vectors", "save them with KeyedVectors.save") from None
    except Exception as error:  # whatever damaged bytes make of pickle and NumPy
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise _bad(
            path, f"it can't be read as gensim KeyedVectors ({reason})", "save it again with gensim 4"
        ) from error
    if not whole or not all(isinstance(key, str) for key in keys):
        problem = (
            f"its {counted(len(keys), 'key')} and its vectors {vectors.shape} of {vectors.dtype} don't fit together"
        )
        raise _bad(path, problem, "save it again with gensim 4")
    for start in range(0, len(keys), ROWS):
        finite = np.isfinite(vectors[start : start + ROWS]).all(axis=1)
        if not finite.all():
            key = keys[start + int(np.argmin(finite))]
            raise _bad(path, f"the vector of {key!r} has a number that is not finite", "remove that word")
    return keys, vectors


def _arrays_beside(prefix: str, holder: dict[str, Any]) -> dict[str, Any]:
    """The arrays that gensim put into files of their own, where `holder` has None (compressed: .npz)."""
    import numpy as np

    arrays_by_name = {}
    for name in ("vectors", "vectors_vocab", "vectors_ngrams"):
        if holder.get(name) is None and Path(f"{prefix}{name}.npy").is_file():
            arrays_by_name[name] = np.load(f"{prefix}{name}.npy", mmap_mode="r", allow_pickle=False)
        elif holder.get(name) is None and Path(f"{prefix}{name}.npz").is_file():
            with np.load(f"{prefix}{name}.npz", allow_pickle=False) as arrays:
                arrays_by_name[name] = arrays["val"]
    return arrays_by_name


def _vectors_of(holder: dict[str, Any]) -> Any:
    """The vectors (n, d) of an unpickled object; fastText's are the means of a word's own and its parts'."""
    vectors = holder.get("vectors", holder.get("syn0"))
    if vectors is not None:
        return vectors
    if "vectors_ngrams" not in holder:
        raise pickle.UnpicklingError("its array of vectors is not beside it")
    from gensim.models.fasttext import FastTextKeyedVectors

    whole = FastTextKeyedVectors.__new__(FastTextKeyedVectors)
    vars(whole).update(holder)
    whole.recalc_char_ngram_buckets()
    whole.adjust_vectors()
    return whole.vectors


# word2vec's text


def _read_text(path: Path, beginning: bytes, language: str) -> tuple[list[str], np.ndarray]:
    dimension, announced = _header(path, beginning)
    kept = _Kept(path, dimension, language)
    follow = 0
    with _damage_reported(path), _open(path) as file, warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # NumPy's word for a text that is no numbers
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
                if announced is not None:
                    continue
            line = line.strip()
            if not line:
                continue
            follow += 1
            if line.startswith(b"/c/") and not line.startswith(kept.prefix):
                continue
            key, row = _key_and_numbers(line, dimension)
            if row is None:
                raise _bad(path, f"line {number} {_line_problem(line, dimension)}", "repair or remove that line")
            kept.add(key, row, f"line {number}")
    if announced is not None and follow != announced:
        raise _bad(path, f"line 1 announces {counted(announced, 'word')}, {follow} follow", "fetch the file again")
    return kept.result()


def _key_and_numbers(line: bytes, dimension: int) -> tuple[bytes, np.ndarray | None]:
    """A line's key and its numbers (d,), the last `dimension` of it; None where they are none."""
    key, _, text = line.partition(b" ")
    row = _numbers(text)
    if row is None or len(row) != dimension:  # tabs, or a key with spaces: slower
        key, *fields = line.rsplit(None, dimension)
        row = _numbers(b" ".join(fields)) if len(fields) == dimension and _can_be_key(key, fields) else None
    return key, row


def _can_be_key(key: bytes, numbers: list[bytes]) -> bool:
    """Whether what stands before the numbers is a key, rather than a word and numbers too many for the dimension.

    A number at its end belongs to it where it differs in kind from those that follow: "catch 22 0.1 0.2".
    """
    rest = key.split()[1:]
    if not rest or not all(map(_is_number, rest)):
        return True
    return all(map(bytes.isdigit, rest)) and all(b"." in number for number in numbers)


def _numbers(text: bytes) -> np.ndarray | None:
    """The numbers (n,) of a text, float64; None if it holds anything else, or one that is not finite."""
    import numpy as np

    try:
        row = np.fromstring(text, dtype=np.float64, sep=" ")
    except (ValueError, DeprecationWarning):
        return None
    return row if np.isfinite(row).all() else None


def _line_problem(line: bytes, dimension: int) -> str:
    """What is wrong with a line that is not a key and `dimension` numbers."""
    what = f"is not a word and {counted(dimension, 'number')}"
    for field in line.split()[1:]:
        text = field.decode(errors="replace")[:40]
        if re.fullmatch(rb"[-+]?\d*,\d+([eE][-+]?\d+)?", field):
            return f"{what}: {text!r} has a comma, write a decimal point"
        if re.fullmatch(rb"[-+]?(nan|inf|infinity)", field, re.IGNORECASE):
            return f"{what}: {text!r} is not a finite number"
    fields = line.split()
    of_numbers = sum(_is_number(field) for field in fields[1:])
    if of_numbers == len(fields) - 1:
        return f"{what}: it has {of_numbers}"
    wrong = next(field for field in reversed(fields) if not _is_number(field))
    return f"{what}: {wrong.decode(errors='replace')[:40]!r} is no number" if len(fields) > 1 else what


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return b"_" not in field


# word2vec's binary format


def _is_binary(path: Path, beginning: bytes) -> bool:
    """Whether vectors follow the first line as float32: bytes that no text has are there, or the name says so."""
    first, _, rest = beginning.partition(b"\n")
    if not _announces(first):
        return False
    if _key_like(rest.partition(b"\n")[0]):
        return False
    return ".bin" in path.suffixes or re.search(rb"[\x00-\x08\x0e-\x1f\x7f]", rest[:4096]) is not None


def _key_like(line: bytes) -> bool:
    """Whether a line is a word and numbers."""
    fields = line.split()
    return len(fields) > 1 and all(_is_number(field) for field in fields[2:]) and _is_number(fields[-1])


def _read_binary(path: Path, beginning: bytes, language: str) -> tuple[list[str], np.ndarray]:
    import numpy as np

    dimension, announced = _header(path, beginning)
    assert announced is not None
    kept, width = _Kept(path, dimension, language), 4 * dimension
    with _damage_reported(path), _open(path) as file:
        file.readline()
        buffer, start = b"", 0
        for number in range(1, announced + 1):
            while (end := buffer.find(b" ", start)) < 0 or len(buffer) - end - 1 < width:
                more = file.read(BEGINNING)
                if not more or (end < 0 and len(buffer) - start > LONGEST_KEY):
                    problem = f"line 1 announces {counted(announced, 'word')}, {number - 1} whole ones follow"
                    raise _bad(path, problem, "fetch the file again")
                buffer, start = buffer[start:] + more, 0
            key = buffer[start:end].lstrip(b"\n")
            row = np.frombuffer(buffer, "<f4", dimension, end + 1).astype(np.float64)
            start = end + 1 + width
            if not np.isfinite(row).all() or len(key) > LONGEST_KEY:
                problem = f"word {number} ({key.decode(errors='replace')[:40]!r}) has a number that is not finite"
                raise _bad(path, problem, "fetch the file again, or save it as text")
            if key.startswith(b"/c/") and not key.startswith(kept.prefix):
                continue
            kept.add(key, row, f"word {number}")
        if (buffer[start:] + file.read(BEGINNING)).strip():
            raise _bad(path, f"line 1 announces {counted(announced, 'word')}, more follow", "fetch the file again")
    return kept.result()


class _Kept:
    """Keys and vectors as they are read: each vector at length 1, then float16 (half the memory of as many arrays)."""

    def __init__(self, path: Path, dimension: int, language: str) -> None:
        self.prefix = f"/c/{language}/".encode()
        self._path, self._dimension, self._language = path, dimension, language
        self._words: list[str] = []
        self._packed = bytearray()
        self._rows: list[np.ndarray] = []
        self._damaged: list[str] = []

    def add(self, key: bytes, row: np.ndarray, place: str) -> None:
        """Keep a vector (d,) of finite numbers."""
        try:
            word = key.removeprefix(self.prefix).decode()
        except UnicodeDecodeError:
            self._damaged.append(place)
            return
        self._words.append(word)
        self._rows.append(row)
        if len(self._rows) == ROWS:
            self._pack()

    def result(self) -> tuple[list[str], np.ndarray]:
        """All words (n,) and their vectors (n, d)."""
        import numpy as np

        if len(self._damaged) > NOT_UTF8 * (len(self._words) + len(self._damaged)):
            raise _bad(self._path, f"the key of {self._damaged[0]} is not UTF-8", "save the file as UTF-8")
        if not self._words:
            problem = f"it has no word of embedder.language={self._language}"
            raise _bad(self._path, problem, f"its keys must be plain words or begin with {self.prefix.decode()}")
        self._pack()
        return self._words, np.frombuffer(self._packed, np.float16).reshape(len(self._words), self._dimension)

    def _pack(self) -> None:
        import numpy as np

        if self._rows:
            self._packed += unit(np.stack(self._rows)).astype(np.float16).tobytes()
            self._rows.clear()


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows (n, d) at length 1; a row of zeros stays. Very long and very short rows have a length too."""
    import numpy as np

    with np.errstate(over="ignore"):  # of squares; those rows are done again below
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    extreme = ~((lengths > 1e-15) & (lengths < 1e15))[:, 0] & rows.any(axis=1)
    if extreme.any():
        rows = rows.copy()
        rows[extreme] /= np.abs(rows[extreme]).max(axis=1, keepdims=True)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)


# What every format begins with


def _header(path: Path, beginning: bytes) -> tuple[int, int | None]:
    """The vectors' length, and the number of words where a first line "words dimension" announces it."""
    if beginning.startswith(FACEBOOK):
        raise _bad(path, "this is fastText's own model", "save its vectors as text (.vec), or with gensim")
    if beginning.startswith(b"PK\x03\x04"):
        raise _bad(path, "this is a zip archive", "unpack it, and name the file of vectors in it")
    if beginning.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _bad(path, "it is in UTF-16", "save the file as UTF-8")
    lines = beginning.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    announced = _announces(lines[0])
    if announced is not None:
        return announced[1], announced[0]
    whole = lines[:-1] if len(beginning) == BEGINNING and len(lines) > 1 else lines
    if _trailing_numbers(lines[0]):  # the length that most of the first lines have: one of them may be damaged
        return Counter(filter(None, map(_trailing_numbers, whole[:HEADERLESS]))).most_common(1)[0][0], None
    problem = "line 1 is neither a word and its numbers nor 'words dimension'"
    raise _bad(path, problem, "name word vectors as text, in word2vec's binary format, or as gensim saves them")


def _announces(line: bytes) -> tuple[int, int] | None:
    """The number of words and the dimension that a first line says; None if it says none."""
    fields = line.removeprefix(b"\xef\xbb\xbf").split()
    if len(fields) == 2 and all(re.fullmatch(rb"\d{1,12}", field) for field in fields) and 0 < int(fields[1]) < 1 << 20:
        return int(fields[0]), int(fields[1])
    return None


def _trailing_numbers(line: bytes) -> int:
    """How many numbers a line ends in, its first field apart; at least 2 make word vectors, of others it is 0."""
    fields = line.split()[1:]
    count = next((place for place, field in enumerate(reversed(fields)) if not _is_number(field)), len(fields))
    return count if count > 1 else 0


def _beginning(path: Path) -> bytes:
    with _damage_reported(path), _open(path) as file:
        return file.read(BEGINNING)


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        magic = file.read(6)
    for first, opener in COMPRESSED.items():
        if magic.startswith(first):
            return opener(path)
    if path.suffix == ".gz":
        raise OSError("it is not compressed by gzip")
    return path.open("rb")


@contextmanager
def _damage_reported(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise _bad(path, f"it can't be read to its end ({error})", "fetch the file again") from error


def _bad(path: Path, problem: str, remedy: str) -> UserError:
    return UserError(f"embedder.path={path}: {problem}; {remedy}")
