"""Sweeps of something besides the seed: which runs belong to an experiment, and what each level of it came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dot_plot import Dot
from figures import by_setting, looks
from intervals import Estimate, mean_interval
from measures import change, end, last, oscillation, series
from results import ENTROPY, EVALUATIONS, HELD_OUT, KL, MATCH, REWARD, TRAINED, Measure, seeds
from runs import Run
from tables import NONE, Cell, Table
from variants import Variant, group_runs, task_title

OUTCOMES: tuple[tuple[str, str, Measure], ...] = (
    ("Reward, last tenth", REWARD, last),
    ("Right sampled answers, last tenth", MATCH, last),
    ("Right greedy answers, trained", TRAINED, end),
    ("Right greedy answers, held out", HELD_OUT, end),
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
)

# Where a comparison begins and ends; other levels keep the order of their names and numbers between them.
FIRST, LAST = ("released", "paper"), ("sound",)


@dataclass(frozen=True)
class Experiment:
    """The variants of one task that an experiment compares, named among themselves."""

    name: str
    task: str
    variants: tuple[Variant, ...]

    @property
    def title(self) -> str:
        return f"{self.name or 'settings'}: {task_title(self.task).lower()}"

    @property
    def stem(self) -> str:
        return f"experiment_{self.name or 'settings'}_{self.task}".replace("/", "_")

    @property
    def factor(self) -> str:
        """What was swept, if it is one thing under one name: "fidelity", "reward.alpha"; else ""."""
        names = {variant.settings.partition("=")[0] for variant in self.variants if variant.settings}
        single = all(
            "," not in variant.settings and "=" in variant.settings for variant in self.variants if variant.settings
        )
        return names.pop() if len(names) == 1 and single else ""

    @property
    def levels(self) -> list[tuple[str, list[Variant]]]:
        """Label and variants (one a reward) of each level, in their order."""
        prefix = f"{self.factor}=" if self.factor else ""
        rows = [(label.removeprefix(prefix), found) for label, found in by_setting(self.variants)]
        return sorted(rows, key=lambda row: 1 if row[0] in LAST else -1 if row[0] in FIRST else 0)


def experiments(variants: Sequence[Variant]) -> list[Experiment]:
    """The named experiments, then what differs among the other runs; only those with several levels."""
    runs = [run for variant in variants for run in variant.runs]
    found = []
    named = list(dict.fromkeys(run.experiment for run in runs if run.experiment))
    for name in named:
        members = [run for run in runs if run.experiment == name]
        members += [run for run in runs if run.experiment != name and _belongs(run, members)]
        found += _by_task(name, members)
    found += _by_task("", [run for run in runs if not run.experiment])
    return [experiment for experiment in found if len(experiment.levels) > 1]


def main_variants(variants: Sequence[Variant], found: Sequence[Experiment]) -> list[Variant]:
    """The variants for the tasks' own figures: without those of a named experiment, which has figures of its own."""
    swept = {id(run) for experiment in found if experiment.name for v in experiment.variants for run in v.runs}
    return [variant for variant in variants if not all(id(run) in swept for run in variant.runs)]


def _by_task(name: str, runs: Sequence[Run]) -> list[Experiment]:
    variants, _ = group_runs(runs)  # the notes have been made when all runs were grouped
    tasks = dict.fromkeys(variant.task for variant in variants)
    return [Experiment(name, task, tuple(v for v in variants if v.task == task)) for task in tasks]


def _belongs(run: Run, members: Sequence[Run]) -> bool:
    """Whether a run that was made outside of an experiment is one of its levels.

    A sweep skips what has finished: a level that ran before carries another experiment's name, or none. It belongs to
    this one if every value of its config occurs in it, and a member under the same reward shares what does not vary.
    """
    alike = [member for member in members if (member.task, member.reward) == (run.task, run.reward)]
    if not alike:
        return False
    names = {name for member in alike for name in member.settings} | set(run.settings)
    return all(run.settings.get(name) in {member.settings.get(name) for member in alike} for name in names)


def dots(experiment: Experiment, column: str, measure: Measure) -> list[Dot]:
    """A dot for each level and reward that has a finished run with the metric."""
    firsts = list({variant.reward: variant for variant in reversed(experiment.variants)}.values())[::-1]
    styles = {variant.reward: look for variant, look in zip(firsts, looks(firsts), strict=True)}
    found = []
    for label, variants in experiment.levels:
        for variant in variants:
            values = _values(variant, column, measure)
            if values:
                found.append(Dot(label, variant.reward_title, styles[variant.reward], mean_interval(values), values))
    return found


def level_table(experiment: Experiment) -> Table:
    """A row a level and reward: the outcomes with their intervals, and how many seeds failed."""
    rows: list[list[Cell]] = []
    for label, variants in experiment.levels:
        for variant in variants:
            cells: list[Cell] = [_estimate(variant, column, measure) for _, column, measure in (*OUTCOMES, *FURTHER)]
            failed = sum(run.failed for run in variant.runs)
            rows.append([label, variant.reward_title, seeds(variant), str(failed) if failed else NONE, *cells])
    head = [experiment.factor or "level", "reward", "seeds", "failed", *(name for name, _, _ in (*OUTCOMES, *FURTHER))]
    return Table(experiment.stem, f"Experiment {experiment.title}", head, rows, left=2, formats={"Perplexity": ".1f"})


def difference_table(experiment: Experiment) -> Table:
    """Each level but the first minus the first, seed by seed: the mean of the differences with its interval.

    Runs of one seed begin alike and see the same prompts, so that much of what tells seeds apart falls out.
    """
    measured = (*OUTCOMES, FURTHER[0])
    (first, base), *others = experiment.levels
    bases = {variant.reward: variant for variant in base}
    rows: list[list[Cell]] = []
    for label, variants in others:
        for variant in (each for each in variants if each.reward in bases):
            cells = [_difference(variant, bases[variant.reward], column, measure) for _, column, measure in measured]
            rows.append([label, variant.reward_title, str(len(_shared(variant, bases[variant.reward]))), *cells])
    title = f"Experiment {experiment.title}, difference from {first}"
    head = [experiment.factor or "level", "reward", "seeds", *(name for name, _, _ in measured)]
    signed = {name: "+.3f" for name, _, _ in measured}
    return Table(f"{experiment.stem}_differences", title, head, rows, left=2, formats=signed)


def _shared(one: Variant, other: Variant) -> list[tuple[Run, Run]]:
    """Finished runs of the same seed."""
    by_seed = {run.seed: run for run in other.complete}
    return [(run, by_seed[run.seed]) for run in one.complete if run.seed in by_seed]


def _difference(one: Variant, other: Variant, column: str, measure: Measure) -> Estimate:
    found = [measure(series(a, column)) - measure(series(b, column)) for a, b in _shared(one, other)]
    return mean_interval([value for value in found if value == value])


def _estimate(variant: Variant, column: str, measure: Measure) -> Estimate:
    return mean_interval(_values(variant, column, measure))


def _values(variant: Variant, column: str, measure: Measure) -> list[float]:
    found = [measure(series(run, column)) for run in variant.complete]
    return [value for value in found if value == value]
