"""Reading a data file: CSV or JSONL into rows that remember their line."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pgsrm.util.errors import UserError

SHIPPED = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Row:
    """One record of a data file.

    line: its first line in the file, from 1. values: column -> text, white space around it stripped,
    "" for a null; numbers, true and false as JSON writes them.
    """

    line: int
    values: dict[str, str]


def shipped_names() -> list[str]:
    """Names of the data files in the package."""
    return sorted(path.name for path in SHIPPED.glob("*.jsonl"))


def find_data(data: str, key: str) -> Path:
    """The file that `data` names: an existing path, else a shipped name.

    Raises UserError, naming `key`, when it is neither.
    """
    path = Path(data).expanduser()
    if path.is_file():
        return path
    if data in shipped_names():
        return SHIPPED / data
    problem = "is a folder" if path.is_dir() else "no such file, and no shipped data of that name"
    raise UserError(f"{key}={data}: {problem}; give a CSV or JSONL file, or one of {', '.join(shipped_names())}")


def read_table(path: Path, key: str) -> list[Row]:
    """All rows of a CSV (first line: the columns) or JSONL file (an object a line), in UTF-8.

    Blank lines are skipped. Raises UserError, naming `key`, the file and the line, for anything malformed.
    """
    readers = {".csv": _csv_rows, ".jsonl": _jsonl_rows}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{key}={path}: the name ends in neither .csv nor .jsonl; save it as one of the two")
    try:
        rows = list(reader(_read_text(path)))
    except OSError as error:
        raise UserError(f"{key}={path}: cannot be read ({error.strerror}); check the file") from error
    except _MalformedError as error:
        raise UserError(f"{key}={path}: line {error.line}: {error}") from error
    if not rows:
        raise UserError(f"{key}={path}: no rows; give a file with at least one")
    return rows


class _MalformedError(Exception):
    """What is wrong at one line of a file, and the remedy."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line


def _read_text(path: Path) -> str:
    raw = path.read_bytes().removeprefix(b"\xef\xbb\xbf")  # the byte order mark that spreadsheets write
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _MalformedError(line, "not UTF-8; save the file as UTF-8") from error


def _csv_rows(text: str) -> Iterator[Row]:
    records = _csv_records(text)
    header_line, header = next(records, (1, []))
    columns = [name.strip() for name in header]
    repeated = {name for name in columns if name and columns.count(name) > 1}
    if repeated:
        raise _MalformedError(header_line, f"column `{min(repeated)}` appears twice; rename one")
    for line, fields in records:
        if len(fields) != len(columns):
            raise _MalformedError(
                line,
                f"{len(fields)} values for {len(columns)} columns; give each line as many as the first, "
                "and put a value with a comma between double quotes",
            )
        # A column without a name is the row index that pandas writes.
        yield Row(line, {name: field.strip() for name, field in zip(columns, fields, strict=True) if name})


def _csv_records(text: str) -> Iterator[tuple[int, list[str]]]:
    """Non-blank CSV records with the line each starts on (a quoted value may span lines)."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    start = 1
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise _MalformedError(start, f"not valid CSV ({error}); check the quotes") from error
        if fields is None:
            return
        blank = not fields or (len(fields) == 1 and not fields[0].strip())
        if not blank:
            yield start, fields
        start = reader.line_num + 1


def _jsonl_rows(text: str) -> Iterator[Row]:
    # Not splitlines(): it also breaks at characters that JSON allows inside a string (U+2028).
    for line, record in enumerate(text.split("\n"), start=1):
        if not record.strip():
            continue
        try:
            values = json.loads(record)
        except json.JSONDecodeError as error:
            problem = f"not valid JSON ({error.msg}, column {error.colno})"
            raise _MalformedError(line, f'{problem}; each line is one object, like {{"word": "hot"}}') from error
        if not isinstance(values, dict):
            raise _MalformedError(line, 'not a JSON object; each line is one object, like {"word": "hot"}')
        yield Row(line, {name.strip(): _as_text(value) for name, value in values.items()})


def _as_text(value: object) -> str:
    if value is None:
        return ""
    return value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
