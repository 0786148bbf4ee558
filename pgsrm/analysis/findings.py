"""All results of the runs in one value: what the command writes and the report shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgsrm.analysis.arm_differences import arm_differences
from pgsrm.analysis.arms import Arms, arms_table, find_arms, plot_arms
from pgsrm.analysis.best_of_n import BestOfN
from pgsrm.analysis.claims import Claim
from pgsrm.analysis.comparison import comparisons
from pgsrm.analysis.dot_plot import plot_dot_pages
from pgsrm.analysis.experiments import OUTCOMES, Experiment, difference_table, dots, experiments, level_table, main_runs
from pgsrm.analysis.figures import by_setting, plot_grid, plot_task
from pgsrm.analysis.frontier import has_frontier, plot_frontier
from pgsrm.analysis.paper_tables import paper_tables
from pgsrm.analysis.results import by_seed, result_tables
from pgsrm.analysis.style import COLOURS
from pgsrm.analysis.tables import Table
from pgsrm.analysis.variants import Variant, group_runs, task_title
from pgsrm.analysis.verdicts import Check, check_all, claims_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Findings:
    """All that is known of the runs: variants, notes, tables and checks.

    `shown` are the variants of the tasks' own figures, tables and checks; variants that are levels of a named
    experiment are not among them. Each of `experiments` has levels, with tables of its own in `levels` and
    `differences`, and checks in `experiment_checks`. Those of `plain` have no levels: they compare tasks and rewards,
    and the tasks' own figures show them. `arms` are what is compared at the same KL, each with its tables in `arm_tables`:
    the arms one by one, and less the one without a critic where there is one. `best_of_n` are lines of samples without training,
    of any task.
    """

    variants: Sequence[Variant]
    shown: Sequence[Variant]
    notes: Sequence[str]
    checks: Sequence[Check]
    paper: Sequence[Table]
    results: Sequence[Table]
    comparisons: Sequence[Table]
    by_seed: Table
    experiments: Sequence[Experiment]
    plain: Sequence[Experiment]
    levels: Sequence[Table]
    differences: Sequence[Table]
    experiment_checks: Sequence[Sequence[Check]]
    arms: Sequence[Arms]
    arm_tables: Sequence[Sequence[Table]]
    best_of_n: Sequence[BestOfN] = ()

    def best_of(self, task: str) -> list[BestOfN]:
        """Lines of the best of n samples for the task's figures of over-optimisation."""
        return [line for line in self.best_of_n if line.task == task]

    @property
    def tasks(self) -> list[str]:
        """The tasks of the shown variants, each once, in their order."""
        return list(dict.fromkeys(variant.task for variant in self.shown))

    @property
    def tables(self) -> list[Table]:
        """All tables that have a row, in the order in which they are written; the claims' table is the last."""
        checks = {"": list(self.checks)}
        for experiment, experiment_checks in zip(self.experiments, self.experiment_checks, strict=True):
            checks.setdefault(experiment.name, []).extend(experiment_checks)
        tables = [*self.paper, *self.results, self.by_seed, *self.comparisons, *self.levels, *self.differences]
        tables += [table for of_arms in self.arm_tables for table in of_arms]
        tables.append(claims_table(checks))
        return [table for table in tables if table.rows]

    def figures(self, width: str) -> list[tuple[str, Callable[[], list[Figure]]]]:
        """Each figure's stem, and what draws its pages for a `width` of style.WIDTHS."""
        drawings: list[tuple[str, Callable[[], list[Figure]]]] = []
        for task in self.tasks:
            variants = [variant for variant in self.shown if variant.task == task]
            drawings.append((task, _of_task(task, variants, width)))
            if has_frontier(variants, best := self.best_of(task)):
                drawings.append((f"{task}_frontier", _of_frontier(variants, width, best)))
        for experiment in self.experiments:
            if dots(experiment, *OUTCOMES[0][1:]):
                drawings.append((experiment.stem, _of_levels(experiment, width)))
            if experiment.name:  # the others are in the task's own figure
                drawings.append((f"{experiment.stem}_curves", _of_curves(experiment, width)))
                if has_frontier(experiment.variants, best := self.best_of(experiment.variants[0].task)):
                    drawings.append((f"{experiment.stem}_frontier", _of_frontier(experiment.variants, width, best)))
        drawings += [(arms.stem, _of_arms(arms, width)) for arms in self.arms]
        return drawings


def find(
    variants: Sequence[Variant], notes: Sequence[str], claims: Sequence[Claim], best_of_n: Sequence[BestOfN] = ()
) -> Findings:
    """Everything but the drawing."""
    compared = experiments(variants)
    swept = [experiment for experiment in compared if experiment.has_levels]
    shown, _ = group_runs(main_runs(variants, compared))
    arms = find_arms(shown, swept)
    return Findings(
        variants=variants,
        shown=shown,
        notes=notes,
        checks=check_all(claims, shown),
        paper=paper_tables(shown),
        results=result_tables(shown),
        comparisons=comparisons(shown),
        by_seed=by_seed(variants),
        experiments=swept,
        plain=[experiment for experiment in compared if not experiment.has_levels],
        levels=[level_table(experiment) for experiment in swept],
        differences=[difference_table(experiment) for experiment in swept],
        # What no name parts from the rest has been checked with it; no experiment has to have runs for every claim.
        experiment_checks=[
            [check for check in check_all(claims, e.variants) if check.variants] if e.name else [] for e in swept
        ],
        arms=arms,
        arm_tables=[_arm_tables(compared_arms) for compared_arms in arms],
        best_of_n=best_of_n,
    )


def _arm_tables(arms: Arms) -> list[Table]:
    return [arms_table(arms), *filter(None, [arm_differences(arms)])]


def _of_task(task: str, variants: Sequence[Variant], width: str) -> Callable[[], list[Figure]]:
    """One figure of all curves while there is a colour for each, else a row of panels per setting."""
    if len(variants) <= len(COLOURS):
        return lambda: [plot_task(variants, width)]
    return lambda: plot_grid(by_setting(variants), task_title(task), width)


def _of_levels(experiment: Experiment, width: str) -> Callable[[], list[Figure]]:
    def draw() -> list[Figure]:
        panels = [(title, dots(experiment, column, measure)) for title, column, measure in OUTCOMES]
        return plot_dot_pages([panel for panel in panels if panel[1]], experiment.title, experiment.factor, width)

    return draw


def _of_frontier(variants: Sequence[Variant], width: str, best: Sequence[BestOfN]) -> Callable[[], list[Figure]]:
    return lambda: [plot_frontier(variants, width, best)]


def _of_arms(arms: Arms, width: str) -> Callable[[], list[Figure]]:
    return lambda: [plot_arms(arms, width)]


def _of_curves(experiment: Experiment, width: str) -> Callable[[], list[Figure]]:
    # An experiment that has its factor's name says it already.
    factor = f"{experiment.factor}=" if experiment.factor not in ("", experiment.name) else ""
    rows = [(f"{factor}{label}", variants) for label, variants in experiment.levels]
    return lambda: plot_grid(rows, experiment.title, width)
