"""Group runs into variants, which differ in nothing but the seed, and name what tells variants apart."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pgsrm.analysis.runs import NoRunsError, Run, find_run_folders, print_notes, read_run
from pgsrm.record.differences import differing, leaves, nodes, words
from pgsrm.record.model_name import shown_choices
from pgsrm.util.numbers import counted

T = TypeVar("T")

# Settings that decide a result by their value. Others (a file's path, what a parent is asked) may differ under one
# identity, which holds their contents.
DECIDING = (
    "ppo.",
    "algorithm.",
    "reward.",
    "task.template",
    "task.max_new_tokens",
    "task.holdout",
    "task.checker",
    "evaluation.every",
)

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

    `parts` tell this variant from the others of its task ("ppo=sound"), and are none where nothing does. `setup` is the same
    in full, as "name=value" with every choice, but without task and reward: what is compared under two rewards, or taken
    together over tasks, has the same setup.
    """

    task: str
    reward: str
    parts: tuple[str, ...]
    runs: tuple[Run, ...]
    setup: tuple[str, ...] = ()

    @property
    def settings(self) -> str:
        """The parts in one text, as labels show them."""
        return ", ".join(self.parts)

    @property
    def complete(self) -> tuple[Run, ...]:
        """The runs that finished with every planned update on file."""
        return tuple(run for run in self.runs if run.complete)

    @property
    def unfinished(self) -> tuple[Run, ...]:
        """The other runs: failed, cut off, or still training."""
        return tuple(run for run in self.runs if not run.complete)

    @property
    def reward_title(self) -> str:
        """The reward's name as the paper writes it; a user's own reward by its file name."""
        return REWARD_TITLES.get(self.reward, self.reward)

    @property
    def title(self) -> str:
        """The label of a curve: "PGSRM" or "PGSRM, ppo=sound"."""
        return f"{self.reward_title}, {self.settings}" if self.settings else self.reward_title

    @property
    def name(self) -> str:
        """Task and title: "color, PGSRM, ppo=sound"."""
        return f"{self.task}, {self.title}"

    def same_setup(self, other: Variant) -> bool:
        """Whether two variants differ at most in task and reward (and in the commit, where nothing else tells).

        A reward without an embedder is the same reward whichever embedder was chosen, and one without a critic (reward=sparse)
        whichever critic was.
        """
        unimportant = (
            "commit ",
            *(part for part in ("embedder", "critic") if not (self.holds(part) and other.holds(part))),
        )
        own, others = ([p for p in v.setup if not p.startswith(unimportant)] for v in (self, other))
        return own == others

    def holds(self, part: str) -> bool:
        """Whether its reward has such a part, an `embedder` or a `critic`, in itself or in a reward within it.

        Under its own key, or under any key of a user's own: then it is what was chosen.
        """
        chosen = self.runs[0].config.get(part)
        within = (node for node in nodes(self._reward) if isinstance(node, Mapping))
        return any(node == chosen or node.get(part) is not None for node in within)

    @property
    def arm(self) -> str | None:
        """The arm of a reward from a critic (`reward.arm`), "sparse" under reward=sparse too; None of any other reward."""
        return self._reward.get("arm")

    @property
    def _reward(self) -> Mapping[str, Any]:
        reward = self.runs[0].config.get("reward")
        return reward if isinstance(reward, dict) else {}


def shortfall(runs: Sequence[Run]) -> str:
    """What became of runs that did not finish: "1 failed, 2 unfinished"."""
    failed = sum(run.failed for run in runs)
    counts = {"failed": failed, "unfinished": len(runs) - failed}
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


def differ_in_length(variants: Iterable[Variant]) -> bool:
    """Whether their finished runs are not all as long, as where some stopped early: what adds up over a run then differs."""
    return len({run.updates for variant in variants for run in variant.complete}) > 1


def task_title(task: str) -> str:
    """A task's name as the paper writes it; a user's own task by its file name."""
    return TASK_TITLES.get(task, task.replace("_", " ").capitalize())


def load_variants(
    roots: Sequence[Path], columns: Sequence[str], option: str = "--runs"
) -> tuple[list[Variant], list[str]]:
    """Read every run below `roots` and group it; returns the variants and one-line notes for the user.

    option: by what the command was told the roots, for errors.
    `columns` are the metrics to keep (a thousand runs fit into memory by them alone). NoRunsError if there is
    no run that can be read.
    """
    folders = []
    for root in roots:
        if not root.is_dir():
            raise NoRunsError(f"{option}={root}: no such folder; name a run folder or a folder above runs")
        folders += find_run_folders(root)
    where = " ".join(map(str, roots))
    if not folders:
        raise NoRunsError(
            f"{option}={where}: no run folder in it; make one with: python -m pgsrm.run task=color reward=pgsrm"
        )
    runs: list[Run] = []
    notes: list[str] = []
    for folder in sorted({folder.resolve(): folder for folder in folders}.values()):
        run, problems = read_run(folder, columns)
        notes += problems
        if run:
            runs.append(run)
    if not runs:
        print_notes(notes)
        raise NoRunsError(f"--runs={where}: no run in it can be read ({counted(len(folders), 'run folder')} looked at)")
    variants, problems = group_runs(runs)
    return variants, notes + problems


def group_runs(runs: Sequence[Run]) -> tuple[list[Variant], list[str]]:
    """Group runs into variants, in the order of the paper's tasks and rewards; and notes on what is mixed."""
    notes: list[str] = []
    groups: dict[Key, dict[int, Run]] = {}
    for key, run in _keyed(runs, notes):
        seeds = groups.setdefault(key, {})
        if run.seed in seeds:
            kept, dropped = sorted((seeds[run.seed], run), key=_standing, reverse=True)
            notes.append(f"{dropped.folder}: left out, the same run as {kept.folder}")
            run = kept
        seeds[run.seed] = run
    variants = []
    for task in dict.fromkeys(key.task for key in groups):
        keys = [key for key in groups if key.task == task]
        examples = {key: next(iter(groups[key].values())) for key in keys}
        labels, values = _labels(examples)
        for key in keys:
            members = tuple(groups[key][seed] for seed in sorted(groups[key]))
            setup = (*_other_choices(examples[key]), *values[key])
            variants.append(Variant(task, key.reward, tuple(labels[key]), members, setup))
            notes += _mixed(variants[-1])
    variants.sort(key=lambda v: (rank(v.task, TASK_ORDER), rank(v.reward, REWARD_ORDER), natural(v.settings)))
    return variants, notes


class Key(NamedTuple):
    """What the seeds of one variant share."""

    task: str
    reward: str
    variant: str
    deciding: tuple[str, ...]  # values that should be the same under one variant, where they are not


def _keyed(runs: Sequence[Run], notes: list[str]) -> list[tuple[Key, Run]]:
    """Each run with its key. Runs that claim to be one variant and are not are told apart, and noted."""
    keyed = []
    by_claim = _partition(list(runs), lambda run: (run.task, run.reward, run.variant))
    for claimed in by_claim:
        shared = functools.reduce(set.intersection, [set(run.settings) for run in claimed])
        names = sorted(n for n in shared if n.startswith(DECIDING))
        differing = [n for n in names if len({run.settings[n] for run in claimed}) > 1]
        by_value = _reward_values(claimed[0]) if differing else set()
        differing = [n for n in differing if not n.startswith("reward.") or n in by_value]
        lengths = len({run.planned for run in claimed}) > 1
        for run in claimed:
            deciding = [f"{name}={run.settings[name]}" for name in differing]
            deciding += [counted(run.planned, "update")] if lengths else []
            keyed.append((Key(run.task, run.reward, run.variant, tuple(deciding)), run))
        if differing or lengths:
            what = ", ".join([*differing, *(["the number of updates"] if lengths else [])])
            notes.append(
                f"{claimed[0].task}, {claimed[0].reward}: {len(claimed)} runs carry one identity but differ in {what}; "
                "told apart"
            )
    return keyed


def _reward_values(run: Run) -> set[str]:
    """The keys below reward. that decide by their values, and not by the contents behind them, which the identity holds."""
    from pgsrm.config.identity import decides_by_value

    return {key for key, _ in leaves(decides_by_value(run.config.get("reward")), "reward")}


def _mixed(variant: Variant) -> list[str]:
    """One line each for metrics, commits and package versions that differ between the seeds of a variant."""
    notes = []
    metrics = {name for run in variant.complete for name in run.metrics}
    partly = sorted(name for name in metrics if any(name not in run.metrics for run in variant.complete))
    if partly:
        notes.append(f"{variant.name}: not all of its finished seeds have {', '.join(partly)}")
    commits = {str(run.status["commit"])[:10] for run in variant.runs if run.status.get("commit")}
    if len(commits) > 1:
        notes.append(f"{variant.name}: its seeds were run at different commits: {', '.join(sorted(commits))}")
    versions = [run.status["versions"] for run in variant.runs if isinstance(run.status.get("versions"), dict)]
    differing = sorted(
        f"{package} {' / '.join(sorted(numbers))}"
        for package in {package for installed in versions for package in installed}
        if len(numbers := {str(installed.get(package)) for installed in versions}) > 1
    )
    if differing:
        notes.append(f"{variant.name}: its seeds were run with different versions: {', '.join(differing)}")
    return notes


def setup_labels(variants: Sequence[Variant]) -> list[str]:
    """For each variant the parts of its setup that not all of them have; "all" where there is nothing to tell."""
    common = functools.reduce(set.intersection, [set(variant.setup) for variant in variants])
    parts = [
        [part for part in variant.setup if part not in common and not part.startswith("commit ")]
        for variant in variants
    ]
    return [", ".join(own) or "all" for own in parts]


def _other_choices(run: Run) -> list[str]:
    shown = shown_choices(run.config)
    return [f"{group}={shown[group]}" for group in run.choices if group not in ("task", "reward")]


def _labels(examples: Mapping[Key, Run]) -> tuple[dict[Key, list[str]], dict[Key, list[str]]]:
    """What tells the variants of one task apart: the parts of a label for each, and the values that rewards can share."""
    keys = list(examples)
    differences = differing([examples[key].config for key in keys], seed=False)
    parts = {
        key: [words({name: value}) for name, value in row.items() if name not in ("task", "reward")]
        for key, row in zip(keys, differences, strict=True)
    }
    values = {
        key: [
            words({name: value})
            for name, value in row.items()
            if name not in examples[key].choices and not name.startswith("reward.")
        ]
        for key, row in zip(keys, differences, strict=True)
    }
    for alike in _partition(keys, lambda key: (key.reward, tuple(parts[key]))):
        # The config does not tell these apart.
        for key, name in zip(alike, _last_names(alike, examples), strict=True) if len(alike) > 1 else []:
            parts[key].append(name)
            values[key] = [*values[key], name]
    return parts, values


def _last_names(keys: list[Key], examples: Mapping[Key, Run]) -> list[str]:
    """Names for what the config does not tell apart: by commit, by what should be the same, by identity."""
    by_commit = [f"commit {str(examples[key].status.get('commit'))[:7]}" for key in keys]
    by_value = [key.deciding[-1] if key.deciding else "" for key in keys]
    by_identity = [f"variant {key.variant[:6]}" for key in keys]
    return next((names for names in (by_commit, by_value) if len(set(names)) == len(keys)), by_identity)


def _partition(items: list[T], by: Callable[[T], Any]) -> list[list[T]]:
    classes: dict[Any, list[T]] = {}
    for item in items:
        classes.setdefault(by(item), []).append(item)
    return list(classes.values())


def natural(text: str) -> list[tuple[int, float, str]]:
    """A sort key that takes numbers in a text as numbers: alpha=2 before alpha=16, lr=1e-05 before lr=3e-05."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)", text)
    return [(0, float(part), "") if i % 2 else (1, 0.0, part) for i, part in enumerate(parts) if part]


def _standing(run: Run) -> tuple[bool, float, str]:
    return run.complete, run.progress, str(run.status.get("ended") or run.status.get("started") or "")


def rank(name: str, order: Sequence[str]) -> tuple[int, str]:
    """A sort key: names in `order` first, in that order; the others after them by the alphabet."""
    return (order.index(name), "") if name in order else (len(order), name)
