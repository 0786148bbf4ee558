"""Find run folders and read them, for every figure and table.

A run folder holds `config.yaml` (the frozen config with the Hydra `choices`), `metrics.jsonl` (one line per
update) and `status.json`. Whatever is wrong with one (a half-written line, no metrics, not finished) becomes
a note of one line; nothing is repaired in silence. Needs numpy, msgspec and PyYAML, neither torch nor MLflow.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgsrm.record import RunFolder
from pgsrm.record.config_file import read_config
from pgsrm.record.differences import settings
from pgsrm.record.links import run_path
from pgsrm.record.model_name import DEFAULTS, reward_name
from pgsrm.record.tenths import course
from pgsrm.util.errors import UserError
from pgsrm.util.numbers import counted

if TYPE_CHECKING:
    import numpy as np

DEFAULT_RUNS = Path("outputs/runs")
# Config groups and keys that say how a run was recorded, not what was trained.
NOT_CHOICES = ("tracking", "experiment", "baseline", "hydra", "seed", "evaluation.embedder")


class NoRunsError(UserError):
    """No run folder where one was looked for; the message is one line for the user."""


@dataclass(frozen=True)
class Run:
    """One run folder as read.

    `metrics` maps a column to a float array with one entry per line of metrics.jsonl, NaN where the line
    does not have it; a column that no line has is not there. "update" and "episodes" always are, without NaN, and
    "update" is strictly increasing. Update 0 is the evaluation before training.
    """

    folder: Path
    config: Mapping[str, Any]
    status: Mapping[str, Any]
    metrics: Mapping[str, np.ndarray]
    link: str = ""  # where a browser finds the run, for those that are not in a folder

    @functools.cached_property
    def choices(self) -> dict[str, str]:
        """The chosen option of each config group that decides a result: {"task": "color", "ppo": "sound", ...}."""
        chosen = {**DEFAULTS, **self.config["choices"], "reward": reward_name(self.config)}
        return {group: str(chosen[group]) for group in sorted(chosen) if group.split("/")[0] not in NOT_CHOICES}

    @property
    def experiment(self) -> str:
        """The choice of `experiment`, "" without one."""
        return str(self.config["choices"].get("experiment") or "")

    @property
    def task(self) -> str:
        """The choice of `task`."""
        return self.choices["task"]

    @property
    def reward(self) -> str:
        """The choice of `reward`, or the name of a reward that is no choice's."""
        return self.choices["reward"]

    @property
    def seed(self) -> int:
        """The config's `seed`."""
        return int(self.config["seed"])

    @functools.cached_property
    def settings(self) -> dict[str, str]:
        """Every config value that may change a result, as dotted key -> text; the seed is not one."""
        return settings(self.config)

    @functools.cached_property
    def values(self) -> dict[str, str]:
        """The settings, and the choices as "choices.ppo"."""
        return {**self.settings, **{f"choices.{group}": choice for group, choice in self.choices.items()}}

    @functools.cached_property
    def variant(self) -> str:
        """The run's identity without its seed, 64 hex digits."""
        recorded = self.status.get("variant")
        return recorded or hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    @property
    def last_update(self) -> int:
        """The number of the last recorded update."""
        return int(self.metrics["update"][-1])

    @property
    def planned(self) -> int:
        """Updates planned; those recorded where the status does not tell."""
        return int(self.status.get("updates") or self.last_update)

    @property
    def updates(self) -> int:
        """Updates of the run's course: those planned, or those made where it stopped early."""
        return course(self.status) or self.last_update

    @property
    def stopped_early(self) -> bool:
        """Whether early stopping ended the run before its last planned update."""
        return bool(self.status.get("stopped_early"))

    @property
    def failed(self) -> bool:
        """Whether the run ended with an error; a diverged run is one of these."""
        return self.state == "failed"

    @property
    def diverged(self) -> bool:
        """Whether training ended because a loss or gradient was not finite any more."""
        return self.failed and "not finite" in str(self.status.get("reason"))

    @property
    def episodes(self) -> float:
        """Episodes planned, from the episodes per update of what is recorded."""
        return float(self.metrics["episodes"][-1]) * self.planned / self.last_update

    @property
    def length(self) -> float:
        """Episodes of the run's course: those planned, or those made where it stopped early."""
        return self.episodes * self.updates / self.planned

    @property
    def state(self) -> str:
        """The state in status.json, "unknown" without one. It can say "running" of a run that was killed."""
        return str(self.status.get("state", "unknown"))

    @functools.cached_property
    def recorded(self) -> int:
        """Updates that are on file."""
        return int((self.metrics["update"] > 0).sum())

    @property
    def missing(self) -> int:
        """Updates that are not on file, of those up to the last one that is."""
        return self.last_update - self.recorded

    @property
    def complete(self) -> bool:
        """Whether the run ended well and every update of its course is on file."""
        return self.state == "finished" and self.last_update >= self.updates and not self.missing

    @property
    def progress(self) -> float:
        """Share of the updates of its course that is on file, in [0, 1]."""
        return min(self.recorded / self.updates, 1.0)

    def series(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        """Updates and values of a column, both (n,), at the lines that have it and carry a finite number."""
        import numpy as np

        values = self.metrics.get(column)
        if values is None:
            return np.empty(0), np.empty(0)
        present = np.isfinite(values)
        return self.metrics["update"][present], values[present]


def print_notes(notes: Iterable[str]) -> None:
    """Write notes to standard error, one per line."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def find_run_folders(root: Path) -> list[Path]:
    """Run folders at or below `root`; nothing is looked for inside a run folder or a hidden folder.

    Symbolic links are followed; a run that one leads to from elsewhere has its real path (`run_path`). A folder to which several
    paths lead, be it round in a circle, is looked into once.
    """
    folders: list[Path] = []
    seen: set[str] = set()
    for folder, below, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        if "metrics.jsonl" in files or {"status.json", "config.yaml"} <= set(files):
            folders.append(run_path(Path(folder)))
            below.clear()
        below[:] = [name for name in below if not name.startswith(".")]
    return folders


def read_run(folder: Path, columns: Sequence[str]) -> tuple[Run | None, list[str]]:
    """Read one run folder; None where there is nothing to analyse. The notes say what is wrong with it."""
    config = read_config(folder / "config.yaml")
    if not has_choices(config):
        return None, [f"{folder}: left out, config.yaml is missing or has no choices of task and reward"]
    if not (folder / "metrics.jsonl").is_file():
        return None, [f"{folder}: left out, it has no metrics.jsonl"]
    metrics, problems = read_metrics(folder / "metrics.jsonl", columns)
    run, notes = examine(Run(folder, config, _read_status(folder / "status.json"), metrics), str(folder))
    return run, [*(f"{folder}: {problem}" for problem in problems), *notes]


def has_choices(config: Mapping[str, Any]) -> bool:
    """Whether a run's config.yaml names its task and reward, without which a run can't be placed in any table.

    A reward without a choice (`~reward +reward._target_=...`) is named by what it is.
    """
    choices = config.get("choices")
    if not isinstance(choices, dict) or not isinstance(choices.get("task"), str):
        return False
    return isinstance(choices.get("reward"), str) or reward_name(config) != "custom"


def examine(run: Run, where: str) -> tuple[Run | None, list[str]]:
    """The run, or None if it can't be analysed; and notes on what is wrong with it, which begin with `where` it is."""
    unusable = _unusable(run)
    if unusable:
        return None, [f"{where}: left out, {unusable}"]
    notes = []
    if run.missing:
        taken = "; taken as unfinished" if run.state == "finished" else ""
        notes.append(f"{where}: {run.missing} of the updates up to {run.last_update} are missing{taken}")
    if run.state != "finished" or run.last_update < run.updates:
        reason = f" ({run.status['reason']})" if run.status.get("reason") else ""
        notes.append(f"{where}: not finished, {run.last_update} of {run.updates} updates, {run.state}{reason}")
    return run, notes


def _unusable(run: Run) -> str:
    """What makes every number of a run doubtful, as "seed=null in its config is no whole number"; "" for nothing."""
    import numpy as np

    update, episodes, status = run.metrics["update"], run.metrics["episodes"], run.status
    if not len(update) or update[-1] < 1:
        return "it has no update yet"
    without = int((~np.isfinite(episodes[update > 0])).sum())
    if without:
        return f"{without} of its updates have no number of episodes"
    seed, updates, seconds, variant = (
        run.config.get("seed"),
        *(status.get(k) for k in ("updates", "seconds", "variant")),
    )
    if not _is_whole(seed):
        return f"seed={json.dumps(seed, default=str)} in its config is no whole number"
    if updates is not None and not (_is_whole(updates) and updates >= 1):
        return f"updates={json.dumps(updates)} in its status is no whole number of at least 1"
    if seconds is not None and not _is_finite(seconds):
        return f"seconds={json.dumps(seconds)} in its status is no number"
    if variant is not None and not isinstance(variant, str):
        return f"variant={json.dumps(variant)} in its status is no text"
    return ""


def read_metrics(path: Path, columns: Sequence[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read `columns`, "update" and "episodes" of a metrics.jsonl, each (lines,), and say what was wrong.

    A line that is no JSON object with an update is dropped. Of lines with the same update the last one counts
    (a run that was cut off and resumed may have written it twice). A column that no line has is left out.
    """
    import msgspec
    import numpy as np

    content = path.read_bytes()
    decoder = _decoder(tuple(name for name in columns if name not in ("update", "episodes")))
    notes: list[str] = []
    broken: list[int] = []
    try:
        rows = decoder.decode_lines(content)
    except msgspec.DecodeError:
        rows, broken = _whole_lines(content, decoder)
    if broken == [len(content.splitlines())]:
        notes.append(f"metrics.jsonl: line {broken[0]}, the last one, is half-written; left out")
    elif broken:
        notes.append(f"metrics.jsonl: {counted(len(broken), 'broken line')} left out, the first is line {broken[0]}")
    by_update = {row.update: row for row in rows}
    if len(by_update) < len(rows):
        repeated = len(rows) - len(by_update)
        notes.append(f"metrics.jsonl: {counted(repeated, 'update')} written twice, the later line counts")
    values = np.array([msgspec.structs.astuple(by_update[u]) for u in sorted(by_update)], dtype=float)
    values = values.reshape(-1, 2 + len(decoder.type.__struct_fields__[2:]))
    # Before training no episode has passed, whether the line says so or not.
    table = {"update": values[:, 0], "episodes": np.where(values[:, 0] == 0, 0.0, values[:, 1])}
    for name, column in zip(decoder.type.__struct_encode_fields__[2:], values[:, 2:].T, strict=True):
        bad = int(np.isnan(column).sum())
        if bad:
            notes.append(f"metrics.jsonl: {name} is no finite number in {counted(bad, 'line')}, left out")
        if bad < len(column) and not np.isinf(column).all():
            table[name] = np.where(np.isinf(column), np.nan, column)
    return table, notes


@functools.cache
def _decoder(columns: tuple[str, ...]) -> Any:
    """A decoder of lines that reads `columns` alone: null becomes None, and a column that is not there infinity."""
    import msgspec

    fields: list[Any] = [("update", int), ("episodes", float | None, None)]
    fields += [(f"column_{i}", float | None, math.inf) for i in range(len(columns))]
    names = {f"column_{i}": name for i, name in enumerate(columns)}
    return msgspec.json.Decoder(msgspec.defstruct("Line", fields, rename=names, gc=False))


def _whole_lines(content: bytes, decoder: Any) -> tuple[list[Any], list[int]]:
    """The lines that can be read, and the numbers of those that can't. NaN, which is no JSON, is read as null."""
    import msgspec

    rows: list[Any] = []
    broken: list[int] = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            rows.append(decoder.decode(line))
        except msgspec.DecodeError:
            try:
                known = {k: v if _is_finite(v) else None for k, v in json.loads(line).items()}
                rows.append(msgspec.convert(known, decoder.type))
            except (ValueError, AttributeError):  # no JSON; no object; no update (ValidationError is a ValueError)
                broken.append(number)
    return rows, broken


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _read_status(path: Path) -> dict[str, Any]:
    """status.json with the state that the folder is in: a run whose process has gone is cut off, whatever the file says."""
    status = RunFolder(path.parent).status()
    return (
        {}
        if status is None
        else {**status, "state": RunFolder(path.parent).state() if "state" in status else "unknown"}
    )
