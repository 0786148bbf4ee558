"""Find run folders and read them: the ground of every figure and table.

A run folder holds `config.yaml` (the frozen config with the Hydra `choices`), `metrics.jsonl` (one line an
update) and `status.json`. Whatever is wrong with one (a half-written line, no metrics, not finished) becomes
a note of one line; nothing is repaired in silence. Needs numpy and PyYAML, neither torch nor MLflow.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

DEFAULT_RUNS = Path("outputs/runs")
# The config groups that say what was trained; the others (tracking, paths, launcher) say how it was recorded.
GROUPS = ("task", "reward", "model", "ppo", "embedder", "parent")
NOT_SETTINGS = ("seed", "paths", "tracking", "choices")


class NoRunsError(Exception):
    """No run folder where one was looked for; the message is one line for the user."""


@dataclass(frozen=True)
class Run:
    """One run folder as read.

    `metrics` maps a column to a float array with one entry a line of metrics.jsonl, NaN where the line does
    not have it; "update" and "episodes" are always there and strictly increasing. Update 0 is the evaluation
    before training.
    """

    folder: Path
    config: Mapping[str, Any]
    status: Mapping[str, Any]
    metrics: Mapping[str, np.ndarray]

    @property
    def choices(self) -> dict[str, str]:
        """The chosen option of each config group, as {"task": "color", "ppo": "sound", ...}."""
        return {group: str(self.config["choices"].get(group)) for group in GROUPS}

    @property
    def task(self) -> str:
        return self.choices["task"]

    @property
    def reward(self) -> str:
        return self.choices["reward"]

    @property
    def seed(self) -> int:
        return int(self.config.get("seed", 0))

    @cached_property
    def settings(self) -> dict[str, str]:
        """Every config value that may change a result, as dotted key -> text; the seed is not one."""
        return dict(_leaves({k: v for k, v in self.config.items() if k not in NOT_SETTINGS}))

    @cached_property
    def variant(self) -> str:
        """The run's identity without its seed, 64 hex digits."""
        recorded = self.status.get("variant")
        return recorded or hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    @property
    def last_update(self) -> int:
        return int(self.metrics["update"][-1])

    @property
    def updates(self) -> int:
        """Updates planned; those recorded where the status does not tell."""
        return int(self.status.get("updates") or self.last_update)

    @property
    def episodes(self) -> float:
        """Episodes planned, from the episodes an update of what is recorded."""
        return float(self.metrics["episodes"][-1]) * self.updates / max(self.last_update, 1)

    @property
    def state(self) -> str:
        return str(self.status.get("state", "unknown"))

    @property
    def complete(self) -> bool:
        """Whether the run ended well and every planned update is on file."""
        return self.state == "finished" and self.last_update >= self.updates

    @property
    def progress(self) -> float:
        """Share of the planned updates that is on file, in [0, 1]."""
        return min(self.last_update / max(self.updates, 1), 1.0)

    def series(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        """Updates and values of a column, both (n,), at the lines that have it and carry a finite number."""
        import numpy as np

        present = np.isfinite(self.metrics[column])
        return self.metrics["update"][present], self.metrics[column][present]


def print_notes(notes: Iterable[str]) -> None:
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def find_run_folders(root: Path) -> list[Path]:
    """Run folders at or below `root`; nothing is looked for inside a run folder or a hidden folder."""
    found = []
    for folder, below, files in os.walk(root):
        if "metrics.jsonl" in files or {"status.json", "config.yaml"} <= set(files):
            found.append(Path(folder))
            below.clear()
        below[:] = [name for name in below if not name.startswith(".")]
    return found


def read_run(folder: Path, columns: Sequence[str]) -> tuple[Run | None, list[str]]:
    """Read one run folder; None where there is nothing to analyse. The notes say what is wrong with it."""
    config = _read_config(folder / "config.yaml")
    if not isinstance(config.get("choices"), dict) or not {"task", "reward"} <= set(config["choices"]):
        return None, [f"{folder}: left out, config.yaml is missing or has no choices of task and reward"]
    if not (folder / "metrics.jsonl").is_file():
        return None, [f"{folder}: left out, it has no metrics.jsonl"]
    metrics, problems = read_metrics(folder / "metrics.jsonl", columns)
    notes = [f"{folder}: {problem}" for problem in problems]
    if not len(metrics["update"]) or metrics["update"][-1] < 1:
        return None, [*notes, f"{folder}: left out, metrics.jsonl has no update yet"]
    run = Run(folder, config, _read_status(folder / "status.json"), metrics)
    if not run.complete:
        reason = f" ({run.status['reason']})" if run.status.get("reason") else ""
        reached = f"{run.last_update} of {run.updates} updates"
        notes.append(f"{folder}: not finished, {reached}, {run.state}{reason}")
    return run, notes


def read_metrics(path: Path, columns: Sequence[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read `columns`, "update" and "episodes" of a metrics.jsonl, each (lines,), and say what was wrong.

    A line that is no JSON object with an update is dropped. Of lines with the same update the last one counts
    (a run that was cut off and went on may have written it twice).
    """
    import numpy as np

    rows: dict[int, dict[str, Any]] = {}
    notes, broken, lines, repeated = [], [], 0, 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            lines = number
            try:
                row = json.loads(line)
                update = int(row["update"])
            except (ValueError, KeyError, TypeError):
                broken.append(number)
                continue
            repeated += update in rows
            rows[update] = row
    if broken == [lines]:
        notes.append(f"metrics.jsonl: line {lines}, the last one, is half-written; left out")
    elif broken:
        notes.append(f"metrics.jsonl: {len(broken)} broken line(s) left out, the first is line {broken[0]}")
    if repeated:
        notes.append(f"metrics.jsonl: {repeated} update(s) written twice, the later line counts")
    updates = sorted(rows)
    table = {name: np.array([_number(rows[u].get(name)) for u in updates]) for name in columns}
    table["update"] = np.array(updates, dtype=float)
    table["episodes"] = np.array([_number(rows[u].get("episodes", 0)) for u in updates])
    for name in columns:
        bad = sum(name in rows[u] and not np.isfinite(x) for u, x in zip(updates, table[name], strict=True))
        if bad:
            notes.append(f"metrics.jsonl: {name} is no finite number in {bad} line(s), left out")
    return table, notes


def _leaves(value: Any, prefix: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value if isinstance(value, str) else json.dumps(value)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else float("nan")


def _read_config(path: Path) -> dict[str, Any]:
    import yaml  # type: ignore[import-untyped]

    try:
        config = yaml.load(path.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}


def _read_status(path: Path) -> dict[str, Any]:
    try:
        status = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}
