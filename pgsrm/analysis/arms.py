"""Arms: variants that differ in what they reward, compared where they are equally far from the reference policy.

A policy that moves further usually has more reward, so that an end says as much of the distance as of the reward.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pgsrm.analysis.curves import shared_evaluations
from pgsrm.analysis.distance import at_distance, common, value_at
from pgsrm.analysis.experiments import Experiment
from pgsrm.analysis.figures import NOTE_WIDTH, RAW_CURVES, curve_handle, draw_panel, seeds_label
from pgsrm.analysis.intervals import NAN, censored_mean_interval, mean_interval
from pgsrm.analysis.measures import Series, area, end, start
from pgsrm.analysis.results import (
    CALLS,
    CRITIC_SECONDS,
    DISTANCE,
    DISTINCT,
    EXTRINSIC,
    GOLD,
    GOLD_SHARE,
    INTERVAL,
    over_seeds,
    seeds,
    stopped_early,
)
from pgsrm.analysis.runs import Run
from pgsrm.analysis.style import GRID, NOTE, REPORT_SIZE, STYLE, WIDTHS, Look, looks, style
from pgsrm.analysis.tables import NONE, Cell, Table
from pgsrm.analysis.variants import Variant, task_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BASE = "sparse"  # the critic is not asked, and the extrinsic reward stands at the last token
OF_THE_REWARD = ("reward.", "critic=", "critic.")  # parts of a variant's name that say what is rewarded
Outcome = tuple[str, str, str]  # a column, its title, its unit
REWARDED: Outcome = (EXTRINSIC, "Extrinsic reward", "reward")
VARIED: Outcome = (DISTINCT, "Distinct-2", "share")
# What no run is trained on: of a classifier the share, of any other measure the mean.
JUDGED: tuple[Outcome, Outcome] = ((GOLD_SHARE, "Gold share", "share"), (GOLD, "Gold measure", "gold"))
ROUND = (1, 1.5, 2, 3, 5, 7)  # times a power of ten: the levels of KL
KL_AXIS = "KL (nats per response)"
PANEL_HEIGHT = {"text": 1.75, "column": 1.25}
DASHES = ("-", (0, (3, 1.2)))
TITLE, LEGEND_ROW, AROUND = 0.21, 0.17, 0.8  # inches


@dataclass(frozen=True)
class Arms:
    """Two variants or more of one task that were set up alike (`shared`, "" for nothing to tell) but for what they reward."""

    experiment: str
    shared: str
    variants: tuple[Variant, ...]

    @property
    def title(self) -> str:
        """As "relc_sentiment: sentiment control, ppo.gae_lambda=1"."""
        task = task_title(self.variants[0].task)
        named = f"{self.experiment}: {task.lower()}" if self.experiment else task
        return f"{named}, {self.shared}" if self.shared else named

    @property
    def stem(self) -> str:
        """Stem of the files' names: "arms_relc_sentiment_sentiment_control_gae_lambda_1"."""
        last = [_last(part) for part in self.shared.split(", ")] if self.shared else []
        words = "_".join(["arms", *filter(None, [self.experiment]), self.variants[0].task, *last])
        return "".join(letter if letter.isalnum() or letter in "_.-" else "_" for letter in words)

    @property
    def base(self) -> Variant | None:
        """The arm without a critic; None without such an arm."""
        return next((variant for variant in self.variants if variant.arm == BASE), None)

    @property
    def outcomes(self) -> tuple[Outcome, Outcome, Outcome]:
        """What the arms are compared by: the reward, what judges it, and how varied the answers are."""
        runs = [run for variant in self.variants for run in variant.complete]
        judged = next((outcome for outcome in JUDGED if any(outcome[0] in run.metrics for run in runs)), JUDGED[0])
        return REWARDED, judged, VARIED

    @property
    def looks(self) -> list[Look]:
        """How each arm is drawn: solid and dashed by turns, so that two arms of one colour differ in dashes and marker."""
        return [replace(look, dashes=DASHES[i % 2]) for i, look in enumerate(looks(self.variants))]

    def label(self, variant: Variant) -> str:
        """What an arm is, in the config's words: "reward=sparse", "reward.arm=uniform"."""
        parts = [part for part in variant.parts if part != "critic=null"]  # nobody is asked: no part of it
        own = [part for part in parts if part.startswith(OF_THE_REWARD)]
        alone = len({other.reward for other in self.variants}) == 1
        return ", ".join(own if alone and own else [f"reward={variant.reward}", *own])

    def legend_label(self, variant: Variant) -> str:
        """As "reward.arm=uniform (3 seeds)"."""
        return f"{self.label(variant)} ({seeds_label([variant])})"


def _last(part: str) -> str:
    """The last word of a key, with its value: "gae_lambda=1" of "ppo.gae_lambda=1"."""
    key, equals, value = part.partition("=")
    return key.rpartition(".")[2] + equals + value


def find_arms(shown: Sequence[Variant], experiments: Iterable[Experiment]) -> list[Arms]:
    """The arms of each task's own variants, then those of each named experiment."""
    tasks = dict.fromkeys(variant.task for variant in shown)
    groups = [("", [variant for variant in shown if variant.task == task]) for task in tasks]
    groups += [(experiment.name, list(experiment.variants)) for experiment in experiments if experiment.name]
    return [arms for name, variants in groups for arms in _alike(name, variants)]


def _alike(name: str, variants: Sequence[Variant]) -> list[Arms]:
    setups: dict[str, list[Variant]] = {}
    for variant in variants:
        if any(EXTRINSIC in run.metrics and DISTANCE in run.metrics for run in variant.complete):
            parts = [part for part in variant.parts if not part.startswith(OF_THE_REWARD)]
            setups.setdefault(", ".join(parts), []).append(variant)
    # The arm without a critic comes first; others keep their order.
    return [
        Arms(name, shared, tuple(sorted(members, key=lambda variant: variant.arm != BASE)))
        for shared, members in setups.items()
        if len(members) > 1
    ]


# Numbers


def updates_to(run: Run, level: float) -> float:
    """Updates until the extrinsic reward of sampled answers first is at `level`; infinite if it never is."""
    updates, ((values,),) = shared_evaluations([run], (EXTRINSIC,))
    if len(values) and values[0] >= level:
        return float(updates[0])
    reached = value_at(values, updates.tolist(), level)
    return math.inf if math.isnan(reached) else reached


def total(s: Series) -> float:
    """Sum over a run's updates."""
    return float(s.values.sum()) if s.whole else NAN


def kl_levels(arms: Arms) -> list[float]:
    """Two round levels of KL, one at most half of the other, that all seeds of at least half of the arms, and of two, come to."""
    reached = sorted((common(variant.complete) for variant in arms.variants), reverse=True)
    most = reached[max(1, math.ceil(len(reached) / 2) - 1)]
    if not most > 0:
        return []
    power = 10.0 ** math.floor(math.log10(most))
    highest = max(factor * power for factor in ROUND if factor * power <= most * (1 + 1e-9))
    lower = max(factor * p for p in (power / 10, power) for factor in ROUND if factor * p <= highest / 2 * (1 + 1e-9))
    return [lower, highest]


def threshold(arms: Arms) -> float:
    """What the arm without a critic ends at, as the mean over its seeds; NaN without such an arm, or where it did not rise."""
    if arms.base is None:
        return NAN
    before, after = (over_seeds(arms.base, EXTRINSIC, measure).value for measure in (start, end))
    return after if after > before else NAN


def arms_table(arms: Arms) -> Table:
    """A row for each arm: how much, how fast, how far from the reference, and how much at the same distance."""
    goal, levels, (judged, judge, _) = threshold(arms), kl_levels(arms), arms.outcomes[1]
    wanted = not math.isnan(goal)
    asked = any(CALLS in run.metrics for variant in arms.variants for run in variant.complete)
    spent = {CALLS: "critic calls", CRITIC_SECONDS: "critic seconds"} if asked else {}
    at = [
        (column, f"{title.lower()} at KL {level:g}", level)
        for level in levels
        for column, title, _ in arms.outcomes[:2]
    ]
    rows: list[list[Cell]] = []
    for variant in arms.variants:
        row: list[Cell] = [arms.label(variant), seeds(variant), over_seeds(variant, EXTRINSIC, area)]
        row += [over_seeds(variant, column, end) for column in (EXTRINSIC, judged, DISTANCE, DISTINCT)]
        row += _times(variant, goal) if wanted else []
        row += [over_seeds(variant, column, total) for column in spent]
        rows.append([*row, *(_at(variant, column, level) for column, _, level in at)])
    reach = [f"reach {goal:.2f}", f"updates to {goal:.2f}"] if wanted else []
    ends = ["extrinsic, area", "extrinsic, end", f"{judge.lower()}, end", "KL, end", "distinct-2, end"]
    formats = {**dict.fromkeys((name for _, name, _ in at), ".2f"), **dict.fromkeys(ends, ".2f"), "KL, end": ".1f"}
    notes = [
        "Of sampled answers to held-out prompts. Area: mean extrinsic reward over the updates. KL: nats per response.",
        "At a KL: where a run first comes to it, on a straight line over its square root between two evaluations; a mean of all "
        "finished seeds, or how many of them come to it.",
        *stopped_early(arms.variants),
        INTERVAL,
    ]
    if wanted:
        told = "Updates to what the arm without a critic ends at; a seed that does not reach it counts as the run's length."
        notes.insert(1, told)
    if asked:
        notes.append("Critic calls: replies that the critic was asked for in training; what its store had is no call.")
    head = ["arm", "seeds", *ends, *reach, *spent.values(), *(name for _, name, _ in at)]
    return Table(
        arms.stem,
        f"Arms, {arms.title}",
        head,
        rows,
        1,
        formats | dict.fromkeys([*reach, *spent.values()], ".0f"),
        notes,
    )


def _times(variant: Variant, goal: float) -> list[Cell]:
    times = [updates_to(run, goal) for run in variant.complete]
    reached = sum(map(math.isfinite, times))
    if not reached:
        return [f"0 of {len(times)}", NONE]
    ends = [run.updates for run in variant.complete]
    known = censored_mean_interval(times, ends) if reached < len(times) else mean_interval(times)
    return [f"{reached} of {len(times)}", known]


def _at(variant: Variant, column: str, kl: float) -> Cell:
    """The mean where all seeds come to that KL: those that do are not like those that don't."""
    values = [at_distance(run, column, kl) for run in variant.complete]
    known = [value for value in values if value == value]
    return mean_interval(known) if len(known) == len(values) else f"{len(known)} of {len(values)}" if known else NONE


# Figures


def plot_arms(arms: Arms, width: str = "text") -> Figure:
    """Each outcome over training and against KL: in two rows, or one below the other in a column."""
    import matplotlib
    from matplotlib.figure import Figure

    shape, across = ((2, 3), 2) if width == "text" else ((6, 1), 1)
    rows = math.ceil(len(arms.variants) / across)
    height = PANEL_HEIGHT[width] * shape[0] + LEGEND_ROW * rows + AROUND
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTHS[width], height), layout="constrained")
        styles = arms.looks
        panels = [(outcome, against) for against in (False, True) for outcome in arms.outcomes]
        for axes, (outcome, against) in zip(figure.subplots(*shape).flat, panels, strict=True):
            _draw(axes, arms, styles, outcome, against, dark=False)
        labels = [arms.legend_label(variant) for variant in arms.variants]
        handles = [curve_handle(look) for look in styles]
        # Lines below the title's own keep the legend's place free.
        figure.suptitle(arms.title + "\n " * rows, x=0.01, ha="left", weight="bold", size=9)
        below = 1 - TITLE / height
        figure.legend(handles, labels, loc="upper left", bbox_to_anchor=(0, below), ncols=across, frameon=False,
                      handlelength=2.6, labelspacing=0.3, borderaxespad=0.1)  # fmt: skip
        figure.supxlabel(textwrap.fill(_note(arms), NOTE_WIDTH[width]), x=0.01, ha="left", **NOTE)
    return figure


def arm_panels(arms: Arms) -> list[tuple[str, Any]]:
    """For the report: a text for each panel, and what draws it for a dark screen."""
    drawings = []
    for against in (False, True):
        for outcome in arms.outcomes:

            def draw(outcome: Outcome = outcome, against: bool = against) -> Figure:
                return _panel(arms, outcome, against)

            ends = ((arms.label(v), over_seeds(v, outcome[0], end).value) for v in arms.variants)
            told = ", ".join(f"{label} ends at {value:.2f}" for label, value in ends if value == value)
            drawings.append((f"{outcome[1]} {'against KL' if against else 'over episodes'}. {told}.", draw))
    return drawings


def _panel(arms: Arms, outcome: Outcome, against: bool) -> Figure:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(style(dark=True)):
        figure = Figure(figsize=REPORT_SIZE, layout="constrained")
        _draw(figure.subplots(), arms, arms.looks, outcome, against, dark=True)
    return figure


def _draw(axes: Axes, arms: Arms, styles: Sequence[Look], outcome: Outcome, against: bool, *, dark: bool) -> None:
    column, title, unit = outcome
    if against:
        _draw_paths(axes, arms, styles, column, dark)
        axes.set(xlabel=KL_AXIS)
    else:
        draw_panel(axes, arms.variants, styles, column, dark=dark)
        axes.set(xlabel="episodes")
        if column == DISTINCT:
            axes.set_ylim(0, 1.02)
    axes.set_title(f"{title} against KL" if against else title)
    axes.set_ylabel(unit)


def _draw_paths(axes: Axes, arms: Arms, styles: Sequence[Look], column: str, dark: bool) -> None:
    """A line for each arm, the mean over its seeds at each evaluation, to a point at its end; lines at the levels of KL."""
    from matplotlib.ticker import MaxNLocator

    for variant, look in zip(arms.variants, styles, strict=True):
        runs = [run for run in variant.complete if column in run.metrics and DISTANCE in run.metrics]
        if not runs:
            continue
        _, (distance, values) = shared_evaluations(runs, (DISTANCE, column))
        if not distance.shape[1]:
            continue
        colour = look.on(dark)
        if len(arms.variants) <= RAW_CURVES and len(runs) > 1:
            axes.plot(distance.T, values.T, color=colour, alpha=0.3, linewidth=0.4)
        mean = distance.mean(0), values.mean(0)
        axes.plot(*mean, **look.line(dark))
        axes.plot(mean[0][-1], mean[1][-1], look.marker or "o", color=colour, markersize=5, markeredgewidth=0)
    for level in kl_levels(arms):
        axes.axvline(level, color=GRID[dark], linewidth=0.8, zorder=0)
    # Over the square root of KL lines are straight, as the tables take them for.
    axes.set_xscale("function", functions=(lambda kl: abs(kl) ** 0.5, lambda root: root**2))
    axes.xaxis.set_major_locator(MaxNLocator(4))  # the larger values stand close together
    axes.set_xlim(left=0)
    axes.grid(axis="y", color=GRID[dark], linewidth=0.5)
    axes.set_axisbelow(True)


def _note(arms: Arms) -> str:
    levels = " and ".join(f"{level:g}" for level in kl_levels(arms))
    upright = f" Upright: a KL of {levels}, at which the table compares." if levels else ""
    return (
        "Sampled answers to held-out prompts, mean over seeds at each evaluation; band: 95% bootstrap of the mean. Against KL: "
        f"from the reference policy to the large point at the end.{upright}"
    )
