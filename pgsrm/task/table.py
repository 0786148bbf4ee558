"""Reading data, a CSV, JSONL or Parquet file or a data set of the hub, into rows that remember their line."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pgsrm.task.hub_data import PREFIX, hub_objects
from pgsrm.util.errors import UserError
from pgsrm.util.numbers import counted
from pgsrm.util.paths import local_path
from pgsrm.util.text import has_half_character, nfc, without_invisible

SHIPPED = Path(__file__).parent / "data"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # how such files begin
T = TypeVar("T")
EACH_LINE = 'each line is one object, like {"word": "hot"}'


@dataclass(frozen=True)
class Row:
    """One record of a data file.

    line: its first line in the file, from 1; of a Parquet file its row. values: column -> text in Unicode's form NFC, white
    space around it stripped, "" for a null or a text of invisible characters alone; numbers, true and false as JSON writes
    them; a list of texts (the sentences of a document) as one text, joined with blanks. What an object within a line of JSON
    has is a column of its own, `prompt.text` for {"prompt": {"text": ...}}. lists: the texts of columns that are lists; None for a
    list that has anything else in it.
    """

    line: int
    values: dict[str, str]
    lists: dict[str, list[str] | None] = field(default_factory=dict)


def shipped_names() -> list[str]:
    """Names of the data files in the package."""
    return sorted(path.name for path in SHIPPED.glob("*.jsonl"))


def read_data(data: str, key: str) -> tuple[list[Row], str]:
    """The rows of what `data` names (a file, a shipped one, or hf:ORG/NAME of the hub), and what it is called in messages.

    Raises UserError, as `find_data` and `read_table`.
    """
    if data.startswith(PREFIX):
        return _read(data, key, _object_rows, lambda _: hub_objects(data, key)), data
    path = find_data(data, key)
    return read_table(path, key), str(path)


def find_data(data: str, key: str) -> Path:
    """The file that `data` names: an existing path, else a shipped name.

    Raises UserError, naming `key`, when it is neither.
    """
    path = local_path(data, key)
    if path.is_file():
        return path
    if data in shipped_names():
        return SHIPPED / data
    problem = "is a folder" if path.is_dir() else "no such file, and no shipped data of that name"
    raise UserError(
        f"{key}={data}: {problem}; give a CSV, JSONL or Parquet file, hf:ORG/NAME, or one of {', '.join(shipped_names())}"
    )


def read_table(path: Path, key: str) -> list[Row]:
    """All rows of a CSV (first line: the columns) or JSONL file (an object a line), in UTF-8, or of a Parquet file.

    Blank lines are skipped. Raises UserError, naming `key`, the file and the line, for anything malformed.
    """
    readers = {".csv": _csv_rows, ".jsonl": _jsonl_rows}
    if path.suffix.lower() == ".parquet":
        return _read(path, key, _object_rows, _parquet_objects)
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{key}={path}: the name ends in none of .csv, .jsonl and .parquet; save it as one of them")
    return _read(path, key, reader)


def read_objects(path: Path, key: str) -> list[tuple[int, dict[str, object]]]:
    """All objects of a JSONL file, as JSON has them, each with its line in the file, from 1. Blank lines are skipped.

    Raises UserError, as `read_table`.
    """
    return _read(path, key, _json_objects)


def read_lines(path: Path, key: str) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, as they stand, each with its number. Raises UserError, as `read_table`."""
    return _read(path, key, lambda text: ((number, line) for number, line in _lines(text) if line.strip()))


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines with their numbers. Not splitlines(): it also breaks at characters that a text may hold (U+2028)."""
    return enumerate(text.replace("\r\n", "\n").split("\n"), start=1)


def _read(
    path: Path | str, key: str, reader: Callable[[Any], Iterable[T]], content: Callable[[Any], Any] | None = None
) -> list[T]:
    """What `reader` makes of the file's content, which is its text unless `content` says how it is read."""
    try:
        rows = list(reader((content or _read_text)(path)))
    except OSError as error:
        raise UserError(f"{key}={path}: cannot be read ({error.strerror}); check the file") from error
    except _MalformedError as error:
        column = "" if error.column is None else f", column {error.column}"
        raise UserError(f"{key}={path}: line {error.line}{column}: {error}") from error
    if not rows:
        raise UserError(f"{key}={path}: no rows; give a file with at least one")
    return rows


class _MalformedError(Exception):
    """What is wrong at one line (and column, where it has one) of a file, and the remedy."""

    def __init__(self, line: int, problem: str, column: int | None = None) -> None:
        super().__init__(problem)
        self.line, self.column = line, column


def _read_text(path: Path | str) -> str:
    raw = Path(path).read_bytes()
    if raw.startswith(UTF_16):
        raise _MalformedError(1, "in UTF-16, not UTF-8; save the file as UTF-8")
    raw = raw.removeprefix(b"\xef\xbb\xbf")  # the byte order mark that spreadsheets write
    if b"\0" in raw:
        raise _malformed_at(raw, raw.index(b"\0"), "a NUL byte, which no text has; save the file as UTF-8 text")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _malformed_at(raw, error.start, "not UTF-8; save the file as UTF-8") from error


def _malformed_at(raw: bytes, position: int, problem: str) -> _MalformedError:
    """The error at a byte of a file; its column is counted in characters, from 1."""
    start = raw.rfind(b"\n", 0, position) + 1
    column = len(raw[start:position].decode(errors="replace")) + 1
    return _MalformedError(raw.count(b"\n", 0, position) + 1, problem, column)


def _csv_rows(text: str) -> Iterator[Row]:
    records = _csv_records(text)
    header_line, header = next(records, (1, []))
    columns = [nfc(name).strip() for name in header]
    repeated = {name for name in columns if name and columns.count(name) > 1}
    if repeated:
        raise _MalformedError(header_line, f"column `{shown([min(repeated)])}` appears twice; rename one")
    for separator, name in (("\t", "a tab"), (";", "a semicolon")):
        if len(columns) == 1 and separator in columns[0]:
            raise _MalformedError(header_line, f"{name} between the columns; save the file with commas")
    for line, fields in records:
        if len(fields) != len(columns):
            raise _MalformedError(
                line,
                f"{counted(len(fields), 'value')} for {counted(len(columns), 'column')}; give each line as many as the first, "
                "and put a value with a comma between double quotes",
            )
        # A column without a name is the row index that pandas writes.
        yield Row(line, {name: _clean(field) for name, field in zip(columns, fields, strict=True) if name})


def _csv_records(text: str) -> Iterator[tuple[int, list[str]]]:
    """Non-blank CSV records with the line each starts on (a quoted value may span lines)."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    start = 1
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise _MalformedError(start, _csv_problem(str(error))) from error
        if fields is None:
            return
        blank = not fields or (len(fields) == 1 and not fields[0].strip())
        if not blank:
            yield start, fields
        start = reader.line_num + 1


def _csv_problem(reason: str) -> str:
    """What the csv module's error means, and the remedy."""
    if "field limit" in reason:
        limit = csv.field_size_limit()
        return f"a value of more than {limit:,} characters; shorten it, or close the double quote that it begins with"
    if "unexpected end" in reason:
        return "not valid CSV: a double quote is opened here and never closed; close it"
    return f"not valid CSV ({reason}); write a double quote inside a quoted value twice"


def _jsonl_rows(text: str) -> Iterator[Row]:
    return _object_rows(_json_objects(text))


def _parquet_objects(path: Path) -> list[tuple[int, dict[str, object]]]:
    """The rows of a Parquet file with their numbers, from 1."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        rows: list[dict[str, object]] = parquet.read_table(path).to_pylist()
    except (pa.ArrowException, ValueError) as error:  # ValueError: a column twice
        reason = (str(error).splitlines() or ["?"])[0][:200]
        raise _MalformedError(1, f"not a Parquet file that can be read ({reason}); write it anew") from error
    return list(enumerate(rows, start=1))


def _object_rows(objects: Iterable[tuple[int, dict[str, object]]]) -> Iterator[Row]:
    for line, values in objects:
        flat = [(nfc(name).strip(), value) for name, value in _flat(values)]
        named = dict(flat)
        if len(flat) > len(named):
            names = [name for name, _ in flat]
            repeated = next(name for name in names if names.count(name) > 1)
            raise _MalformedError(line, f"column `{shown([repeated])}` appears twice; rename one")
        lists = {name: _texts(value) for name, value in named.items() if isinstance(value, list)}
        joined = {name: " ".join(filter(None, texts)) for name, texts in lists.items() if texts is not None}
        yield Row(line, {name: _clean(_as_text(value)) for name, value in named.items()} | joined, lists)


def _flat(values: dict[str, object]) -> Iterator[tuple[str, object]]:
    """The values of an object and of those within it, each with its dotted name; an empty object has none."""
    waiting = list(reversed(values.items()))
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(f"{name}.{inner}", below) for inner, below in reversed(value.items())]
        else:
            yield name, value


def _texts(values: list[object]) -> list[str] | None:
    """The texts of a JSON list; None where it has anything else."""
    texts = [_clean(text) for text in values if isinstance(text, str)]
    return texts if len(texts) == len(values) else None


def _json_objects(text: str) -> Iterator[tuple[int, dict[str, object]]]:
    for line, record in _lines(text):
        if not record.strip():
            continue
        try:
            values = json.loads(record, object_pairs_hook=_without_repeats)
        except json.JSONDecodeError as error:
            problem = f"not valid JSON ({error.msg}); {EACH_LINE}"
            raise _MalformedError(line, problem, column=error.colno) from error
        except (
            ValueError,
            RecursionError,
        ) as error:  # a repeated key, a number of thousands of digits, nesting without end
            raise _MalformedError(line, f"not valid JSON ({str(error).partition(';')[0]}); {EACH_LINE}") from error
        if not isinstance(values, dict):
            raise _MalformedError(line, f"not a JSON object; {EACH_LINE}")
        for name, value in values.items():
            if has_half_character(name + _as_text(value)):
                where = f"`{shown([name])}` has half of a character (such as \\ud83d alone)"
                raise _MalformedError(line, f"{where}; write the character itself, in UTF-8")
        yield line, values


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key `{shown([repeated])}` appears twice")
    return values


def shown(names: Iterable[str]) -> str:
    """Names of columns as an error says them: in one line, none of them long, not all of many."""
    short = [" ".join(name.split())[:40].encode("utf-8", "backslashreplace").decode() for name in names]
    return ", ".join(short[:12]) + (", ..." if len(short) > 12 else "")


def _clean(value: str) -> str:
    text = nfc(value).strip()
    return text if without_invisible(text).strip() else ""


def _as_text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError:  # a date and the like, which Parquet has and JSON has not
        return str(value)
