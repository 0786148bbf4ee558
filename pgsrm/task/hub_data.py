"""A data set of the Hugging Face hub as a task's data: `task.data=hf:ORG/NAME`, by the `datasets` library."""

import re
from typing import Any

from pgsrm.util.errors import UserError, reason

PREFIX = "hf:"
_FORM = re.compile(
    r"(?P<name>[^:]+)(:(?P<split>([^:\[]|\[[^\]]*\])+))?(:(?P<config>[^:]+))?"
)  # a split may be train[:500]


def hub_objects(data: str, key: str) -> list[tuple[int, dict[str, object]]]:
    """The rows of a data set with their numbers, from 1.

    data: `hf:ORG/NAME`, `hf:ORG/NAME:split` or `hf:ORG/NAME:split:config`; a folder that `datasets` can load will do for
    ORG/NAME. Without a split it is `train`, or the only one there is.

    Raises:
        UserError: naming `key`, where the library is missing, or the data set can't be had.
    """
    name, split, config = _parts(data, key)
    try:
        import datasets
    except ImportError as error:
        raise UserError(f"{key}={data}: needs the datasets library; pip install 'pgsrm[datasets]'") from error
    try:
        loaded: Any = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # the hub's, the network's and the data set's own errors
        raise UserError(
            f"{key}={data}: can't be loaded ({reason(error)}); check its name, split and config, and the network; what was "
            "fetched before is read without one"
        ) from error
    if split is None:
        splits = list(loaded)
        chosen = "train" if "train" in splits else splits[0] if len(splits) == 1 else None
        if chosen is None:
            raise UserError(f"{key}={data}: has the splits {', '.join(splits)}; choose one by {data}:{splits[0]}")
        loaded = loaded[chosen]
    return list(enumerate(map(dict, loaded), start=1))


def _parts(data: str, key: str) -> tuple[str, str | None, str | None]:
    """Name, split and config."""
    found = _FORM.fullmatch(data.removeprefix(PREFIX))
    if found is None:
        raise UserError(f"{key}={data}: write hf:ORG/NAME, hf:ORG/NAME:split or hf:ORG/NAME:split:config")
    return found["name"], found["split"], found["config"]
