"""All that is found in the runs, in one place: what the command writes and the report shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from claims import Check, Claim, check_all, claims_table
from comparison import comparisons
from dot_plot import plot_dots
from experiments import OUTCOMES, Experiment, dots, experiments, level_table, main_variants
from figures import COLOURS, by_setting, plot_grid, plot_task
from paper_tables import paper_tables
from results import result_tables
from tables import Table
from variants import Variant

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Findings:
    """`shown` are the variants of the tasks' own figures, a subset of `variants`; `levels` a table an experiment."""

    variants: Sequence[Variant]
    shown: Sequence[Variant]
    notes: Sequence[str]
    experiments: Sequence[Experiment]
    checks: Sequence[Check]
    paper: Sequence[Table]
    results: Sequence[Table]
    comparisons: Sequence[Table]
    levels: Sequence[Table]

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(variant.task for variant in self.shown))

    @property
    def tables(self) -> list[Table]:
        tables = [*self.paper, *self.results, *self.comparisons, *self.levels, claims_table(self.checks)]
        return [table for table in tables if table.rows]

    @property
    def figures(self) -> list[tuple[str, Callable[[], Figure]]]:
        """Each figure's stem, and what draws it."""
        found: list[tuple[str, Callable[[], Figure]]] = []
        for task in self.tasks:
            found.append((task, _of_task(task, [variant for variant in self.shown if variant.task == task])))
        for experiment in self.experiments:
            if dots(experiment, *OUTCOMES[0][1:]):
                found.append((experiment.stem, _of_levels(experiment)))
            if experiment.name:  # the others are in the task's own figure
                found.append((f"{experiment.stem}_curves", _of_curves(experiment)))
        return found


def find(variants: Sequence[Variant], notes: Sequence[str], claims: Sequence[Claim]) -> Findings:
    """Everything but the drawing."""
    found = experiments(variants)
    return Findings(
        variants=variants,
        shown=main_variants(variants, found),
        notes=notes,
        experiments=found,
        checks=check_all(claims, variants),
        paper=paper_tables(variants),
        results=result_tables(variants),
        comparisons=comparisons(variants),
        levels=[level_table(experiment) for experiment in found],
    )


def _of_task(task: str, variants: Sequence[Variant]) -> Callable[[], Figure]:
    """One figure of all curves while there is a colour for each, else a row of panels a setting."""
    if len(variants) <= len(COLOURS):
        return lambda: plot_task(variants)
    return lambda: plot_grid(by_setting(variants), task)


def _of_levels(experiment: Experiment) -> Callable[[], Figure]:
    def draw() -> Figure:
        columns = [(title, dots(experiment, column, measure)) for title, column, measure in OUTCOMES]
        return plot_dots([(title, found) for title, found in columns if found])

    return draw


def _of_curves(experiment: Experiment) -> Callable[[], Figure]:
    return lambda: plot_grid(experiment.levels, experiment.task)
