"""Group runs into variants, which differ in nothing but the seed, and name what tells variants apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runs import GROUPS, NoRunsError, Run, find_run_folders, print_notes, read_run

LABELLED_VALUES = 3

TASK_ORDER = ("color", "antonym", "category", "copy", "sentiment")
REWARD_ORDER = ("pgsrm", "binary")
TASK_TITLES = {
    "color": "Color mixing",
    "antonym": "Antonym generation",
    "category": "Word categorization",
    "copy": "Exact-string copying",
    "sentiment": "Sentiment inversion",
}
REWARD_TITLES = {"pgsrm": "PGSRM", "binary": "Binary"}


@dataclass(frozen=True)
class Variant:
    """Runs that differ in nothing but the seed, in the order of their seeds.

    `settings` names what tells this variant from the others of its task ("ppo=sound"), and is empty where
    nothing does.
    """

    task: str
    reward: str
    settings: str
    runs: tuple[Run, ...]

    @property
    def complete(self) -> tuple[Run, ...]:
        return tuple(run for run in self.runs if run.complete)

    @property
    def unfinished(self) -> tuple[Run, ...]:
        return tuple(run for run in self.runs if not run.complete)

    @property
    def title(self) -> str:
        """The label of a curve: "PGSRM" or "PGSRM, ppo=sound"."""
        name = REWARD_TITLES.get(self.reward, self.reward)
        return f"{name}, {self.settings}" if self.settings else name


def task_title(task: str) -> str:
    """A task's name as the paper writes it; a user's own task by its file name."""
    return TASK_TITLES.get(task, task.replace("_", " ").capitalize())


def load_variants(roots: Sequence[Path], columns: Sequence[str]) -> tuple[list[Variant], list[str]]:
    """Read every run below `roots` and group it; returns the variants and one-line notes for the user.

    `columns` are the metrics to keep (a thousand runs fit into memory by them alone). NoRunsError if there is
    no run that can be read.
    """
    folders = []
    for root in roots:
        if not root.is_dir():
            raise NoRunsError(f"--runs={root}: no such folder; name a run folder or a folder above runs")
        folders += find_run_folders(root)
    where = " ".join(map(str, roots))
    if not folders:
        raise NoRunsError(
            f"--runs={where}: no run folder in it; make one with: python -m pgsrm.run task=color reward=pgsrm"
        )
    runs: list[Run] = []
    notes: list[str] = []
    for folder in sorted({folder.resolve(): folder for folder in folders}.values()):
        run, found = read_run(folder, columns)
        notes += found
        if run:
            runs.append(run)
    if not runs:
        print_notes(notes)
        raise NoRunsError(f"--runs={where}: none of the {len(folders)} run folder(s) in it can be read")
    variants, found = group_runs(runs)
    return variants, notes + found


def group_runs(runs: Sequence[Run]) -> tuple[list[Variant], list[str]]:
    """Group runs into variants, in the order of the paper's tasks and rewards; and notes on what is mixed."""
    notes: list[str] = []
    groups: dict[tuple[str, str, str], dict[int, Run]] = {}
    for run in runs:
        seeds = groups.setdefault((run.task, run.reward, run.variant), {})
        if run.seed in seeds:
            kept, dropped = sorted((seeds[run.seed], run), key=_standing, reverse=True)
            notes.append(f"{dropped.folder}: left out, the same run as {kept.folder}")
            run = kept
        seeds[run.seed] = run
    variants = []
    for task in dict.fromkeys(key[0] for key in groups):
        keys = [key for key in groups if key[0] == task]
        labels = _labels({key: next(iter(groups[key].values())) for key in keys})
        for key in keys:
            members = tuple(groups[key][seed] for seed in sorted(groups[key]))
            variants.append(Variant(task, key[1], labels[key], members))
            commits = {str(run.status["commit"])[:10] for run in members if run.status.get("commit")}
            if len(commits) > 1:
                name = f"{task}, {variants[-1].title}"
                notes.append(f"{name}: its seeds were run at different commits: {', '.join(sorted(commits))}")
    variants.sort(key=lambda v: (_rank(v.task, TASK_ORDER), _rank(v.reward, REWARD_ORDER), v.settings))
    return variants, notes


def _labels(examples: Mapping[tuple[str, str, str], Run]) -> dict[tuple[str, str, str], str]:
    """What tells the variants of one task apart, for each: choices ("ppo=sound"), then single values.

    Values of two variants are compared where their choices are the same (else the choice says it); those of
    the reward only within the same reward.
    """
    keys = list(examples)
    parts: dict[tuple[str, str, str], list[str]] = {key: [] for key in keys}
    named = [group for group in GROUPS if group not in ("task", "reward")]
    for group in named:
        if len({examples[key].choices[group] for key in keys}) > 1:
            for key in keys:
                parts[key].append(f"{group}={examples[key].choices[group]}")
    for alike in _partition(keys, lambda key: tuple(parts[key])):
        _add_values(alike, examples, parts, reward=False)
    for alike in _partition(keys, lambda key: (key[1], tuple(parts[key]))):
        _add_values(alike, examples, parts, reward=True)
    for alike in _partition(keys, lambda key: (key[1], tuple(parts[key][:LABELLED_VALUES]))):
        # The config does not tell these apart, or not in a few words.
        for key in alike if len(alike) > 1 else []:
            parts[key].insert(0, f"variant {key[2][:6]}")
    return {key: _shorten(parts[key]) for key in keys}


def _add_values(keys: list[Any], examples: Mapping[Any, Run], parts: dict[Any, list[str]], reward: bool) -> None:
    names = {name for key in keys for name in examples[key].settings if name.startswith("reward.") == reward}
    differing = [n for n in sorted(names) if len({examples[key].settings.get(n) for key in keys}) > 1]
    # `reward.embedder` and `reward.checker` repeat `embedder` and `task.checker`: once in a label is enough.
    said = {part.split("=")[0] for key in keys for part in parts[key]}
    for name in differing:
        rest = name.removeprefix("reward.")
        if reward and said & {rest, rest.split(".")[0], f"task.{rest}"}:
            continue
        for key in keys:
            parts[key].append(f"{name}={examples[key].settings.get(name, 'unset')}")


def _partition(keys: list[Any], by: Any) -> list[list[Any]]:
    classes: dict[Any, list[Any]] = {}
    for key in keys:
        classes.setdefault(by(key), []).append(key)
    return list(classes.values())


def _shorten(parts: list[str]) -> str:
    more = len(parts) - LABELLED_VALUES
    return ", ".join(parts[:LABELLED_VALUES]) + (f", +{more} more" if more > 0 else "")


def _standing(run: Run) -> tuple[bool, float, str]:
    return run.complete, run.progress, str(run.status.get("ended") or run.status.get("started") or "")


def _rank(name: str, order: Sequence[str]) -> tuple[int, str]:
    return (order.index(name), "") if name in order else (len(order), name)
