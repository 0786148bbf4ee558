"""A run's last samples as a table, for trackers."""

import json
from typing import Any

from pgsrm.record.run_folder import RunFolder, parse_lines

_MOST = 500  # rows, the newest
_COLUMNS = ("update", "prompt", "reference", "response", "reward", "exact_match")


def samples_table(folder: RunFolder) -> dict[str, Any] | None:
    """The run's last samples as the columns and rows of a table; None where it has none."""
    try:
        rows = [row for _, row in parse_lines(folder.samples.read_bytes())][-_MOST:]
    except OSError:
        return None
    if not rows:
        return None
    columns = [name for name in _COLUMNS if any(name in row for row in rows)]
    cells = [[row.get(name) for name in columns] for row in reversed(rows)]
    plain = (str, int, float, bool, type(None))
    return {
        "columns": columns,
        "data": [[cell if isinstance(cell, plain) else json.dumps(cell) for cell in row] for row in cells],
    }
