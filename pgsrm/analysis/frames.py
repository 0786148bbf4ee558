"""Runs as a pandas data frame: a plot of one's own is then one line.

runs = pgsrm.load_runs("outputs")
seaborn.lineplot(runs, x="episodes", y="reward/mean", hue="reward.alpha")
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgsrm.analysis.runs import NoRunsError, find_run_folders
from pgsrm.record import RunFolder
from pgsrm.record.config_file import read_config
from pgsrm.record.differences import leaves, reading_order, value_text
from pgsrm.record.model_name import shown_choices
from pgsrm.record.params import is_secret
from pgsrm.util.numbers import counted

if TYPE_CHECKING:
    import pandas as pd

Place = str | PathLike[str]


def load_runs(folders: Place | Iterable[Place] = "outputs") -> pd.DataFrame:
    """All runs at or below one or several folders, one row for each update of each run.

    Columns, in this order: `run` (the folder's name), `folder`, `state`; the chosen config groups (`task`, `reward`,
    `model`, `ppo`, …), `seed` and every value of the config under its dotted key (`reward.alpha`, `ppo.actor_lr`); then
    `update`, `episodes` and the metrics of docs/metrics.md. What a run does not have is NaN. Update 0 is the evaluation
    before training. Texts are categories, lists are JSON. A run that has not begun has no row.

    Raises:
        NoRunsError: there is no such folder, or no run in it. A run that can't be read is left out with a warning, and so is a
            line of its metrics.
    """
    import pandas as pd

    places = [Path(folders)] if isinstance(folders, str | PathLike) else [Path(place) for place in folders]
    tables = [table for folder in _run_folders(places) if (table := _rows(folder)) is not None]
    if not tables:
        raise NoRunsError(f"{_listed(places)}: none of the run folders in it can be read")
    runs = pd.concat(tables, ignore_index=True)
    metrics = dict.fromkeys(name for table in tables for name in table.attrs["metrics"])
    described = [name for name in runs.columns if name not in metrics]
    texts = [name for name in described if runs[name].map(type).isin((str,)).any()]
    runs = runs[[*described, *metrics]].astype(dict.fromkeys(texts, "category"))
    runs.attrs.clear()
    return runs


def _run_folders(places: Iterable[Path]) -> list[Path]:
    places = list(places)
    for place in places:
        if not place.is_dir():
            raise NoRunsError(f"{place}: no such folder; name a run's folder or a folder above runs")
    unique = {folder.resolve(): folder for place in places for folder in find_run_folders(place)}
    if not unique:
        raise NoRunsError(f"{_listed(places)}: no run folder in it")
    return [unique[path] for path in sorted(unique)]


def _listed(places: Iterable[Path]) -> str:
    return " ".join(map(str, places))


def _rows(folder: Path) -> pd.DataFrame | None:
    """The updates of one run, described by its config in every row; None where there is none."""
    import pandas as pd

    run = RunFolder(folder)
    config, lines = read_config(run.config), read_lines(run)
    if not config or not lines:
        if config and run.state() == "waiting":
            return None
        missing = "metrics.jsonl has no line" if config else "config.yaml is missing or can't be read"
        warnings.warn(f"{folder}: left out, {missing}", stacklevel=3)
        return None
    by_update = {line["update"]: line for line in lines}  # of an update that stands there twice the later line counts
    metrics = pd.DataFrame([by_update[update] for update in sorted(by_update)])
    metrics = metrics[["update", *(name for name in metrics.columns if name != "update")]]
    description = {"run": run.name, "folder": str(folder), "state": run.state(), **describe(config)}
    columns = {name: [value] * len(metrics) for name, value in description.items() if name not in metrics}
    table = pd.concat([pd.DataFrame(columns, index=metrics.index), metrics], axis=1)
    table.attrs["metrics"] = list(metrics.columns)
    return table


def read_lines(run: RunFolder) -> list[dict[str, float]]:
    """A run's metrics, a row for each line; warns of broken lines, which are left out."""
    lines, broken = run.read_metrics_and_broken()
    if broken:
        warnings.warn(f"{run.path}: metrics.jsonl: {counted(broken, 'broken line')} left out", stacklevel=4)
    return lines


def describe(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's choices, seed and values as flat columns, secrets masked; a null is NaN, so that numbers stay numbers."""
    chosen = shown_choices(config)
    choices = {group: chosen[group] for group in sorted(chosen, key=reading_order)}
    rest = {key: value for key, value in config.items() if key not in ("choices", "seed")}
    values = {key: _cell(key, value) for key, value in leaves(rest) if key not in choices}
    return {**choices, "seed": config.get("seed"), **values}


def _cell(key: str, value: Any) -> Any:
    if value is None:
        return math.nan
    return value if isinstance(value, bool | int | float) and not is_secret(key, value) else value_text(key, value)
