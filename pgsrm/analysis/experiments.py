"""Sweeps of something besides the seed: which runs belong to an experiment, and what each level of it came to."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

from pgsrm.analysis.dot_plot import Dot
from pgsrm.analysis.experiment_files import read_experiment
from pgsrm.analysis.figures import by_setting
from pgsrm.analysis.intervals import Estimate, mean_interval
from pgsrm.analysis.measures import change, end, last, oscillation, series
from pgsrm.analysis.results import (
    DISTANCE,
    DISTINCT,
    ENTROPY,
    EVALUATIONS,
    EXTRINSIC,
    GOLD,
    GOLD_SHARE,
    HELD_OUT,
    KL,
    MATCH,
    REWARD,
    TRAINED,
    Measure,
    seeds,
    stopped_early,
)
from pgsrm.analysis.runs import Run
from pgsrm.analysis.style import looks_of_rewards
from pgsrm.analysis.tables import NONE, Cell, Table
from pgsrm.analysis.variants import Variant, group_runs, task_title

OUTCOMES: tuple[tuple[str, str, Measure], ...] = (
    ("Reward, last tenth", REWARD, last),
    ("Right sampled answers, last tenth", MATCH, last),
    ("Right greedy answers, trained", TRAINED, end),
    ("Right greedy answers, held out", HELD_OUT, end),
    ("Extrinsic reward, held out", EXTRINSIC, end),
    ("Gold share, held out", GOLD_SHARE, end),
    ("KL per response", DISTANCE, end),
    ("Distinct-2, held out", DISTINCT, end),
)
# What the table has besides the figure.
FURTHER: tuple[tuple[str, str, Measure], ...] = (
    ("Reward, change", REWARD, change),
    ("Entropy, last tenth", ENTROPY, last),
    ("Entropy oscillation", ENTROPY, oscillation),
    ("KL oscillation", KL, oscillation),
    ("Top share, trained", EVALUATIONS["top share, trained"], end),
    ("Other embedder's reward, held out", EVALUATIONS["other embedder's reward, held out"], end),
    ("Perplexity", EVALUATIONS["perplexity"], end),
    ("Gold measure, held out", GOLD, end),
)

# Where a comparison begins and ends; other levels keep the order of their names and numbers between them.
FIRST, LAST = ("released", "paper", "none"), ("sound",)


@dataclass(frozen=True)
class Experiment:
    """The variants of one task that an experiment compares, named among themselves."""

    name: str
    task: str
    variants: tuple[Variant, ...]

    @property
    def title(self) -> str:
        """Heading of its figures and tables: "fidelity: antonym"."""
        return f"{self.name or 'settings'}: {task_title(self.task).lower()}"

    @property
    def stem(self) -> str:
        """Stem of its files' names: "experiment_fidelity_antonym"."""
        return f"experiment_{self.name or 'settings'}_{self.task}".replace("/", "_")

    @property
    def factor(self) -> str:
        """What was swept, if it is one thing under one name: "fidelity", "reward.alpha"; else ""."""
        named = [variant.parts for variant in self.variants if variant.parts]
        names = {parts[0].partition("=")[0] for parts in named}
        single = all(len(parts) == 1 and "=" in parts[0] for parts in named)
        return names.pop() if len(names) == 1 and single else ""

    @functools.cached_property
    def levels(self) -> list[tuple[str, list[Variant]]]:
        """Label and variants (one per reward) of each level, in their order."""
        prefix = f"{self.factor}=" if self.factor else ""
        rows = [(label.removeprefix(prefix), variants) for label, variants in by_setting(self.variants)]
        return sorted(rows, key=lambda row: 1 if row[0] in LAST else -1 if row[0] in FIRST else 0)

    @property
    def has_levels(self) -> bool:
        """Whether it sweeps more than tasks, rewards and seeds."""
        return len(self.levels) > 1


def experiments(variants: Sequence[Variant]) -> list[Experiment]:
    """The named experiments of each task, then what differs among the other runs if they have several levels."""
    runs = [run for variant in variants for run in variant.runs]
    named = list(dict.fromkeys(run.experiment for run in runs if run.experiment))
    compared = [experiment for name in named for experiment in _by_task(name, _members(name, runs))]
    others = _by_task("", _members("", runs))
    return compared + [experiment for experiment in others if experiment.has_levels]


def main_runs(variants: Sequence[Variant], compared: Sequence[Experiment]) -> list[Run]:
    """The runs for the tasks' own figures: those of no named experiment's levels, which have figures of their own.

    A run that also belongs to what has no levels (a comparison over tasks, runs without an experiment) stays. A task that
    has none besides keeps the first level of each of its experiments.
    """
    runs = [run for variant in variants for run in variant.runs]
    swept = [experiment for experiment in compared if experiment.name and experiment.has_levels]
    levels = {id(run) for experiment in swept for variant in experiment.variants for run in variant.runs}
    plain = [experiment for experiment in compared if not experiment.has_levels]
    kept = {id(run) for experiment in plain for variant in experiment.variants for run in variant.runs}
    kept |= {id(run) for run in _members("", runs)}
    shown = {id(run) for run in runs if id(run) in kept or id(run) not in levels}
    tasks = {run.task for run in runs if id(run) in shown}
    firsts = [experiment.levels[0][1] for experiment in swept if experiment.task not in tasks]
    shown |= {id(run) for first in firsts for variant in first for run in variant.runs}
    return [run for run in runs if id(run) in shown]


def _by_task(name: str, runs: Sequence[Run]) -> list[Experiment]:
    variants, _ = group_runs(runs)  # the notes have been made when all runs were grouped
    tasks = dict.fromkeys(variant.task for variant in variants)
    return [Experiment(name, task, tuple(v for v in variants if v.task == task)) for task in tasks]


def _members(name: str, runs: Sequence[Run]) -> list[Run]:
    """The runs of an experiment ("" for none), and the finished ones of others that are levels of it.

    The same config is the same run, and a sweep skips what has finished: it carries the name of whichever came first. A
    run belongs if its config differs from a member's in nothing but what the experiment sweeps.
    """
    own = [run for run in runs if run.experiment == name]
    swept, alike = _varying(own, _task_and_reward) | (read_experiment(name).swept if name else set()), _task_and_reward
    if not swept:  # it compares tasks: one that is missing may have run before
        swept, alike = _varying(own, _reward), _reward
    examples: dict[tuple[str, ...], dict[tuple[str, str], Run]] = {}
    for run in own:
        examples.setdefault(alike(run), {}).setdefault((run.task, run.variant), run)
    return own + [
        run
        for run in runs
        if run.experiment != name
        and run.state == "finished"
        and any(_differ_only_in(swept, run, member) for member in examples.get(alike(run), {}).values())
    ]


def _task_and_reward(run: Run) -> tuple[str, ...]:
    return run.task, run.reward


def _reward(run: Run) -> tuple[str, ...]:
    return (run.reward,)


def _varying(runs: Sequence[Run], by: Callable[[Run], tuple[str, ...]]) -> set[str]:
    """The names of values that are not the same in all runs of a class that have them."""
    classes: dict[tuple[str, ...], dict[tuple[str, str], Run]] = {}
    for run in runs:
        classes.setdefault(by(run), {}).setdefault((run.task, run.variant), run)
    varying: set[str] = set()
    for examples in classes.values():
        names = Counter(name for name, _ in {item for run in examples.values() for item in run.values.items()})
        varying |= {name for name, count in names.items() if count > 1}
    return varying


def _differ_only_in(swept: Set[str], run: Run, member: Run) -> bool:
    """Whether what is not swept is the same in both, and `run` has a value of all that is swept.

    A setting that one of them lacks does not count, since an older version has fewer; a choice does, and so does a null
    in the place of several settings.
    """
    own, others = run.values, member.values
    if not {name for name in swept if name in others} <= own.keys():
        return False
    if any(own[name] != others[name] for name in own.keys() & others.keys() if name not in swept):
        return False
    lacking = [(name, others if name in own else own) for name in own.keys() ^ others.keys() if name not in swept]
    return not any(name.startswith("choices.") or _has_above(name, values) for name, values in lacking)


def _has_above(name: str, values: Mapping[str, str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:i]) in values for i in range(1, len(parts)))


def dots(experiment: Experiment, column: str, measure: Measure) -> list[Dot]:
    """A dot for each level and reward, without values where no finished run has the metric; none where none has it."""
    styles = looks_of_rewards(experiment.variants)
    drawn = []
    for label, variants in experiment.levels:
        for variant in variants:
            values = _values(variant, column, measure)
            drawn.append(Dot(label, variant.reward_title, styles[variant.reward], mean_interval(values), values))
    return drawn if any(dot.values for dot in drawn) else []


def level_table(experiment: Experiment) -> Table:
    """One row per level and reward: the outcomes with their intervals, and how many seeds failed."""
    rows: list[list[Cell]] = []
    for label, variants in experiment.levels:
        for variant in variants:
            cells: list[Cell] = [_estimate(variant, column, measure) for _, column, measure in (*OUTCOMES, *FURTHER)]
            failed = sum(run.failed for run in variant.runs)
            rows.append([label, variant.reward_title, seeds(variant), str(failed) if failed else NONE, *cells])
    head = [experiment.factor or "level", "reward", "seeds", "failed", *(name for name, _, _ in (*OUTCOMES, *FURTHER))]
    early = stopped_early(experiment.variants)
    title = f"Experiment {experiment.title}"
    return Table(experiment.stem, title, head, rows, left=2, formats={"Perplexity": ".1f"}, notes=early)


def difference_table(experiment: Experiment) -> Table:
    """Each level but the first minus the first, seed by seed: the mean of the differences with its interval.

    Runs of one seed begin alike and see the same prompts, so much of the difference between seeds cancels.
    """
    measured = (*OUTCOMES, FURTHER[0])
    (first, base), *others = experiment.levels
    bases = {variant.reward: variant for variant in base}
    rows: list[list[Cell]] = []
    for label, variants in others:
        for variant in (candidate for candidate in variants if candidate.reward in bases):
            cells = [
                difference_by_seed(variant, bases[variant.reward], of_run(column, measure))
                for _, column, measure in measured
            ]
            rows.append([label, variant.reward_title, str(len(shared_seeds(variant, bases[variant.reward]))), *cells])
    title = f"Experiment {experiment.title}, difference from {first}"
    head = [experiment.factor or "level", "reward", "seeds", *(name for name, _, _ in measured)]
    signed = {name: "+.3f" for name, _, _ in measured}
    early = stopped_early(experiment.variants)
    return Table(f"{experiment.stem}_differences", title, head, rows, left=2, formats=signed, notes=early)


def shared_seeds(one: Variant, other: Variant) -> list[tuple[Run, Run]]:
    """Finished runs of the same seed."""
    by_seed = {run.seed: run for run in other.complete}
    return [(run, by_seed[run.seed]) for run in one.complete if run.seed in by_seed]


def difference_by_seed(one: Variant, other: Variant, value: Callable[[Run], float]) -> Estimate:
    """The mean over their common seeds of how much more a run's value is in one variant than in the other."""
    differences = [value(a) - value(b) for a, b in shared_seeds(one, other)]
    return mean_interval([value for value in differences if value == value])


def of_run(column: str, measure: Measure) -> Callable[[Run], float]:
    """What takes a measure of a run's metric."""
    return lambda run: measure(series(run, column))


def _estimate(variant: Variant, column: str, measure: Measure) -> Estimate:
    return mean_interval(_values(variant, column, measure))


def _values(variant: Variant, column: str, measure: Measure) -> list[float]:
    values = [measure(series(run, column)) for run in variant.complete]
    return [value for value in values if value == value]
