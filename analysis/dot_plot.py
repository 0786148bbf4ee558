"""Dots with intervals: what each level of an experiment came to, the rewards beside each other."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from figures import REPORT_SIZE, WIDTH, Look, style
from intervals import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Dot:
    """One level of a factor under one reward: its estimate over seeds, and each seed's value."""

    level: str
    reward: str
    look: Look
    estimate: Estimate
    values: Sequence[float]


def plot_dots(columns: Sequence[tuple[str, Sequence[Dot]]], *, dark: bool = False) -> Figure:
    """Dot plots beside each other: levels from top to bottom in the order given, rewards with their interval and seeds."""
    import matplotlib
    from matplotlib.figure import Figure

    levels = list(dict.fromkeys(dot.level for _, dots in columns for dot in dots))
    width = REPORT_SIZE[0] if len(columns) == 1 else WIDTH
    with matplotlib.rc_context(style(dark)):
        figure = Figure(figsize=(width, 0.75 + 0.34 * len(levels)), layout="constrained")
        grid = figure.subplots(1, len(columns), squeeze=False, sharey=True)
        legend: dict[str, Any] = {}
        for axes, (title, dots) in zip(grid[0], columns, strict=True):
            legend |= _draw_dots(axes, dots, levels, dark)
            axes.set_title(title if len(columns) == 1 else textwrap.fill(title, 18))
        grid[0, 0].set_yticks(range(len(levels)), [textwrap.fill(level, 24) for level in levels])
        grid[0, 0].set_ylim(len(levels) - 0.4, -0.6)
        figure.legend(
            legend.values(), legend.keys(), loc="outside lower center", ncols=len(legend), frameon=False, handlelength=1
        )
    return figure


def _draw_dots(axes: Axes, dots: Sequence[Dot], levels: Sequence[str], dark: bool) -> dict[str, Any]:
    """One outcome; returns a handle a reward for the legend."""
    from matplotlib.ticker import MaxNLocator

    rewards = list(dict.fromkeys(dot.reward for dot in dots))
    handles: dict[str, Any] = {}
    for dot in dots:
        colour, estimate = dot.look.on(dark), dot.estimate
        y = levels.index(dot.level) + 0.28 * (rewards.index(dot.reward) - (len(rewards) - 1) / 2)
        axes.plot(dot.values, [y] * len(dot.values), ".", color=colour, alpha=0.4, markersize=4, markeredgewidth=0)
        if estimate.low == estimate.low:
            axes.plot([estimate.low, estimate.high], [y, y], color=colour, linewidth=1)
        (handles[dot.reward],) = axes.plot(estimate.value, y, dot.look.marker, color=colour, markersize=4)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.grid(axis="both", color="0.3" if dark else "0.9", linewidth=0.5)
    axes.set_axisbelow(True)
    return handles
