"""Data that is given as a Python object, as the file that a config names: a run reads nothing but files."""

import hashlib
from pathlib import Path
from typing import Any

from pgsrm.record.files import replace, writing
from pgsrm.util.errors import UserError, writing_to


def own_data(data: Any, outputs: Path) -> Path:
    """The file below `outputs` with the rows of a data frame; it is named by its content, so that equal rows are one file.

    data: a pandas data frame, what has `to_pandas` (datasets, polars, pyarrow), or a list of dicts, one for each row.

    Raises:
        UserError: for what is no table.
    """
    import pandas as pd

    if hasattr(data, "to_pandas"):
        data = data.to_pandas()
    elif isinstance(data, list) and data and all(isinstance(row, dict) for row in data):
        data = pd.DataFrame(data)
    if not isinstance(data, pd.DataFrame):
        raise UserError(f"data: {type(data).__name__} is no table; give a pandas data frame, or a list of dicts")
    if data.empty:
        raise UserError("data: has no rows; give at least one")
    try:
        text = data.to_json(orient="records", lines=True, force_ascii=False, double_precision=15, date_format="iso")
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(
            f"data: can't be written as JSON ({error}); give columns of text or numbers, once each"
        ) from error
    content = text.encode()
    path = outputs.absolute() / "data" / f"{hashlib.sha256(content).hexdigest()[:16]}.jsonl"
    if not path.exists():
        with writing_to("paths.outputs", outputs), writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            replace(path, content)
    return path
