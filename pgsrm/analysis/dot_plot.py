"""Dots with intervals: what each level of an experiment came to, the rewards beside each other."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pgsrm.analysis.figures import draw_title
from pgsrm.analysis.intervals import MIN_SEEDS, Estimate
from pgsrm.analysis.style import GRID, MARKERS, NOTE, PAGE, REPORT_SIZE, WIDTHS, Look, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches of a level and of a line of its label, of what is around the levels of one outcome, and around all.
LEVEL, LINE, AROUND, FRAME = 0.34, 0.14, 0.25, 1.0
LABEL_WIDTH = 24  # letters in a line of a level's label
EXPLAINED = {
    "text": "Large: mean of the finished seeds ({most} unless said); line: its 95% interval, Student's t; small: each seed.",
    "column": "Large: mean of the finished seeds ({most} unless said);\nline: its 95% interval, Student's t; small: each seed.",
}


@dataclass(frozen=True)
class Dot:
    """One level of a factor under one reward: its estimate over seeds, and each seed's value; none where no run finished."""

    level: str
    reward: str
    look: Look
    estimate: Estimate
    values: Sequence[float]


Panel = tuple[str, Sequence[Dot]]


def plot_dots(panel: Panel, factor: str) -> Figure:
    """One outcome by itself, for a dark screen: levels from top to bottom in the order given."""
    import matplotlib
    from matplotlib.figure import Figure

    title, dots = panel
    levels = _levels([panel])
    with matplotlib.rc_context(style(dark=True)):
        figure = Figure(figsize=(REPORT_SIZE[0], FRAME + _level_height(levels) * len(levels)), layout="constrained")
        axes = figure.subplots()
        handles = _draw_dots(axes, dots, levels, _rewards([panel]), dark=True)
        axes.set(title=title, ylabel=factor)
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


def plot_dot_pages(panels: Sequence[Panel], title: str, factor: str, width: str = "text") -> list[Figure]:
    """Dot plots for paper, one figure per page.

    Outcomes stand beside each other, with `width="column"` one below the other. An outcome has the same x axis on all
    pages.
    """
    levels, across = _levels(panels), len(panels) if width == "text" else 1
    level = _level_height(levels)
    per_page = max(1, int((PAGE - FRAME - AROUND) / level))
    figures = []
    for i in range(0, len(levels), per_page):
        shown = levels[i : i + per_page]
        down = max(1, int((PAGE - FRAME) / (AROUND + level * len(shown)))) if across == 1 else 1
        for k in range(0, len(panels), across * down):
            figures.append(
                _plot_page(panels[k : k + across * down], shown, level, _rewards(panels), title, factor, width)
            )
    return figures


def _plot_page(
    panels: Sequence[Panel],
    levels: Sequence[str],
    level: float,
    rewards: Sequence[str],
    title: str,
    factor: str,
    width: str,
) -> Figure:
    """level: the inches of each level."""
    import matplotlib
    from matplotlib.figure import Figure

    shape = (1, len(panels)) if width == "text" else (len(panels), 1)
    with matplotlib.rc_context(style()):
        height = FRAME + (level * len(levels) + AROUND) * shape[0]
        figure = Figure(figsize=(WIDTHS[width], height), layout="constrained")
        grid = figure.subplots(*shape, squeeze=False, sharey=True)
        handles: dict[str, Any] = {}
        for axes, (name, dots) in zip(grid.flat, panels, strict=True):
            handles |= _draw_dots(axes, dots, levels, rewards, dark=False)
            axes.set_title(textwrap.fill(name, 18) if width == "text" else name)
        for axes in grid[:, 0]:
            axes.set_ylabel(factor)
        most = max(len(dot.values) for _, dots in panels for dot in dots)
        figure.supxlabel(EXPLAINED[width].format(most=most), x=0.01, ha="left", **NOTE)
        draw_title(figure, title, handles, width)
    return figure


def _draw_dots(
    axes: Axes, dots: Sequence[Dot], levels: Sequence[str], rewards: Sequence[str], dark: bool
) -> Mapping[str, Any]:
    """One outcome at `levels`, framed for all of its dots; returns one handle per reward for the legend.

    A level with fewer seeds than the others says with how many.
    """
    from matplotlib.ticker import MaxNLocator

    most = max(len(dot.values) for dot in dots)
    rewards_of = {level: {dot.reward for dot in dots if dot.level == level} for level in levels}
    handles: dict[str, Any] = {}
    for dot in (candidate for candidate in dots if candidate.level in levels):
        colour, estimate, n = dot.look.on(dark), dot.estimate, len(dot.values)
        here = [reward for reward in rewards if reward in rewards_of[dot.level]]
        step = min(0.28, 0.9 / len(here))
        y = levels.index(dot.level) + step * (here.index(dot.reward) - (len(here) - 1) / 2)
        axes.plot(dot.values, [y] * n, ".", color=colour, alpha=0.4, markersize=4, markeredgewidth=0)
        if n >= MIN_SEEDS:
            axes.plot([estimate.low, estimate.high], [y, y], color=colour, linewidth=1)
        marker = MARKERS[rewards.index(dot.reward) % len(MARKERS)]
        (handles[dot.reward],) = axes.plot(
            estimate.value, y, marker, color=colour, markersize=4, markeredgewidth=0, linestyle=""
        )
        if n < most:
            at = (1, y) if not n else (max(dot.values) if n < MIN_SEEDS else estimate.high, y)
            axes.annotate(f"{n} of {most}", at, (3 if n else -3, 0), xycoords="data" if n else ("axes fraction", "data"),
                          textcoords="offset points", ha="left" if n else "right", va="center", size=7)  # fmt: skip
    ends = [x for dot in dots for x in (*dot.values, dot.estimate.low, dot.estimate.high) if x == x]
    margin = 0.06 * (max(ends) - min(ends) or 1.0)
    axes.set_xlim(min(ends) - margin, max(ends) + margin)
    axes.set_yticks(range(len(levels)), [textwrap.fill(level, LABEL_WIDTH) for level in levels])
    axes.set_ylim(len(levels) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.grid(axis="both", color=GRID[dark], linewidth=0.5)
    axes.set_axisbelow(True)
    return handles


def _level_height(levels: Sequence[str]) -> float:
    """The inches of each level: they stand at equal distances, and the longest label has room."""
    return max(LEVEL, *(LINE * len(textwrap.wrap(level, LABEL_WIDTH)) for level in levels))


def _levels(panels: Sequence[Panel]) -> list[str]:
    return list(dict.fromkeys(dot.level for _, dots in panels for dot in dots))


def _rewards(panels: Sequence[Panel]) -> list[str]:
    return list(dict.fromkeys(dot.reward for _, dots in panels for dot in dots))
