"""Figures: curves over training, panel by panel, and what their legends say (`legend_label`).

What a panel shows:
- thick line: mean over seeds of the centred rolling mean over 2% of the planned updates. At either end the window
  is cut to the updates there are.
- band, with several seeds: 95% bootstrap interval of that mean, point by point.
- faint lines: each run, at most ten per curve, averaged over 0.4% of the updates (left out above four curves, where
  they would hide the thick ones).
- seeds: those that finished. Where none did, the others up to the update that all have reached, and the legend says
  so; a curve has a gap where one of them does. A panel says which of them lack its metric.
- y axis: from the thick lines, bands and faint lines; single spikes of the faint lines far outside of the rest are
  cut off, and the note below the panels says so.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pgsrm.analysis.curves import POINTS, Curve, curve, window
from pgsrm.analysis.style import (
    GRID,
    MARKED,
    NOTE,
    NOTE_HEIGHT,
    PAGE,
    REPORT_SIZE,
    STYLE,
    WIDTHS,
    Look,
    looks,
    looks_of_rewards,
    style,
)
from pgsrm.analysis.variants import Variant, shortfall, task_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = (
    ("reward/mean", "(a) Average reward", "reward"),
    ("policy/entropy", "(b) Policy entropy", "nats per token"),
    ("policy/kl", "(c) KL divergence", "nats per token"),
)
SHORT = {"reward/mean": "reward", "policy/entropy": "entropy (nats)", "policy/kl": "KL (nats)"}
RAW_CURVES = 4
SEEDS_FOR_A_BOOTSTRAP = 5
MOST_VECTOR = 3000  # points of a curve's faint lines in a panel
ROW, GRID_FRAME = 1.35, 0.8  # inches of a row of panels in a grid, and of what is around all rows
ROW_LABEL = {"text": 105, "column": 46}  # letters in a line of a row's label
LABEL_LINE = 0.125  # inches of each of its lines beyond the first
LABEL_WIDTH = {"text": 60, "column": 38}  # letters in a row of the legend
NOTE_WIDTH = {"text": 140, "column": 58}


def plot_task(variants: Sequence[Variant], width: str = "text") -> Figure:
    """The three panels of one task, every variant a curve in each: beside each other, or one below the other in a column."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    styles = looks(variants)
    shape, panels = ((1, 3), 1.85) if width == "text" else ((3, 1), 4.6)
    with matplotlib.rc_context(STYLE):
        figure = Figure()
        # The longest note there can be is room for any.
        foot = 0.06 + NOTE_HEIGHT * len(textwrap.wrap(axis_note(variants, cut=True), NOTE_WIDTH[width]))
        height = draw_head(figure, variants, styles, width) + panels + foot
        figure.set_size_inches(WIDTHS[width], height)
        figure.set_layout_engine(ConstrainedLayoutEngine(rect=(0, foot / height, 1, panels / height), wspace=0.03))
        cut = False
        for axes, (column, title, unit) in zip(figure.subplots(*shape).flat, PANELS, strict=True):
            cut |= draw_panel(axes, variants, styles, column)
            axes.set(title=title, ylabel=unit, xlabel="episodes")
        for axes in figure.axes[:-1] if width == "column" else ():
            axes.set_xlabel("")
        note = textwrap.fill(axis_note(variants, cut), NOTE_WIDTH[width])
        figure.text(0.008, 0.05 / height, note, va="bottom", **NOTE)
    return figure


def plot_panel(variants: Sequence[Variant], column: str, title: str, unit: str, points: int) -> Figure:
    """One panel by itself, for a dark screen: `points` per curve, faint lines as paths."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(style(dark=True)):
        figure = Figure(figsize=REPORT_SIZE, layout="constrained")
        axes = figure.subplots()
        draw_panel(axes, variants, looks(variants), column, dark=True, points=points)
        axes.set_title(title)
        axes.set(ylabel=unit, xlabel="episodes")
    return figure


def plot_grid(rows: Sequence[tuple[str, Sequence[Variant]]], title: str, width: str = "text") -> list[Figure]:
    """Small multiples, one figure per page: a row for each setting, in which each reward is a curve.

    The three panels stand beside each other; with `width="column"` each metric has pages of its own. A metric has the
    same y axis on all pages, every panel the same x axis, and a reward the same look.
    """
    drawn = [variant for _, variants in rows for variant in variants]
    styles, longest = looks_of_rewards(drawn), max(variant.runs[0].episodes for variant in drawn)
    figures = []
    for panels in [PANELS] if width == "text" else [(panel,) for panel in PANELS]:
        pages = [_plot_page(page, styles, panels, title, width) for page in _pages(rows, width)]
        for axes in (axes for page in pages for axes in page.axes):
            axes.set_xlim(0, longest)
        for place in range(len(panels)):
            column = [axes for page in pages for axes in page.axes[place :: len(panels)]]
            limits = [axes.get_ylim() for axes in column]
            for axes in column:
                axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
        figures += pages
    return figures


def _pages(
    rows: Sequence[tuple[str, Sequence[Variant]]], width: str
) -> Iterable[list[tuple[list[str], Sequence[Variant]]]]:
    """The rows in pages, as many on each as fit, with the lines of their labels."""
    page: list[tuple[list[str], Sequence[Variant]]] = []
    for label, variants in rows:
        lines = textwrap.wrap(f"{label} ({seeds_label(variants)})", ROW_LABEL[width])
        if page and _height([*page, (lines, variants)]) > PAGE:
            yield page
            page = []
        page.append((lines, variants))
    yield page


def _height(page: Sequence[tuple[list[str], Sequence[Variant]]]) -> float:
    return GRID_FRAME + sum(ROW + LABEL_LINE * (len(lines) - 1) for lines, _ in page)


def _plot_page(
    rows: Sequence[tuple[list[str], Sequence[Variant]]],
    looks_by_reward: Mapping[str, Look],
    panels: Sequence[tuple[str, str, str]],
    title: str,
    width: str,
) -> Figure:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTHS[width], _height(rows)), layout="constrained")
        grid = figure.subplots(len(rows), len(panels), squeeze=False, sharex=True)
        rewards: dict[str, Look] = {}
        cut = False
        for line, (label, variants) in zip(grid, rows, strict=True):
            styles = [looks_by_reward[variant.reward] for variant in variants]
            rewards |= {v.reward_title: look for v, look in zip(variants, styles, strict=True)}
            for axes, (column, _, _) in zip(line, panels, strict=True):
                cut |= draw_panel(axes, variants, styles, column)
                axes.set_ylabel(SHORT[column])
            # A long one reaches above the next panel. As a title it would push that away, so a blank one keeps its height.
            line[0].set_title("\n".join(" " for _ in label), loc="left", size=7.5)
            line[0].annotate(
                "\n".join(label),
                (0, 1),
                (0, 4),
                "axes fraction",
                "offset points",
                size=7.5,
                va="bottom",
                in_layout=False,
            )
        for axes in grid[-1]:
            axes.set_xlabel("episodes")
        note = axis_note(max((variants for _, variants in rows), key=len), cut)
        figure.supxlabel(textwrap.fill(note, NOTE_WIDTH[width]), x=0.01, ha="left", **NOTE)
        draw_title(figure, title, {name: curve_handle(look) for name, look in rewards.items()}, width)
    return figure


def draw_title(figure: Figure, title: str, handles: Mapping[str, Any], width: str) -> None:
    """The figure's title and its legend: right of it where it fits, else, and in a column, below it in as few rows as fit.

    For a figure with constrained layout.
    """
    name = figure.suptitle(title, x=0.01, ha="left", weight="bold", size=9)
    beside = figure.bbox.width * 0.97 - name.get_window_extent().width
    places = [(len(handles), 0)] if width == "text" else []
    places += [(columns, 1) for columns in range(len(handles), 0, -1)]
    for columns, lines in places:
        down = 0.17 * lines / figure.get_size_inches()[1]
        legend = figure.legend(handles.values(), handles.keys(), loc="upper right", bbox_to_anchor=(1, 1 - down),
                               ncols=columns, frameon=False, borderaxespad=0.1)  # fmt: skip
        if columns == 1 or legend.get_window_extent().width <= (figure.bbox.width if lines else beside):
            break
        legend.remove()
    # Blank lines below the title keep room for the legend, which is no part of the layout.
    blank = math.ceil(legend.get_window_extent().height / figure.dpi / 0.15) if lines else 0
    name.set_text(title + "\n " * blank)


def curve_handle(look: Look) -> Any:
    """A curve for the legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], **look.line())


def draw_head(
    figure: Figure,
    variants: Sequence[Variant],
    styles: Sequence[Look],
    width: str,
    more: Mapping[str, Any] | None = None,
) -> float:
    """The task's name and the legend, right of it where it fits, in as few rows as fit; returns their height in inches.

    more: lines behind those of the variants, by their labels.
    """
    from matplotlib.transforms import ScaledTranslation

    # Inches from the top left corner: the height of the figure follows from that of the head.
    corner = figure.dpi_scale_trans + ScaledTranslation(0, 1, figure.transFigure)  # type: ignore[arg-type]
    handles = [*map(curve_handle, styles), *(more or {}).values()]
    labels = [textwrap.fill(label, LABEL_WIDTH[width]) for label in (*map(legend_label, variants), *(more or {}))]
    title = figure.text(0.06, -0.05, task_title(variants[0].task), weight="bold", size=9, va="top")
    title.set_transform(corner)
    right, name = WIDTHS[width], title.get_window_extent()
    places = [(columns, name.width + 0.3 * figure.dpi, 0.0) for columns in (len(labels), 3, 2, 1)]
    places.append((1, 0.0, name.height / figure.dpi + 0.06))  # below the name
    for columns, taken, down in places:
        legend = figure.legend(
            handles,
            labels,
            loc="upper right",
            bbox_to_anchor=(right - 0.04, -0.06 - down),
            bbox_transform=corner,
            ncols=columns,
            frameon=False,
            handlelength=2.6,
            columnspacing=1.5,
            labelspacing=0.3,
            borderaxespad=0,
            borderpad=0,
        )
        if legend.get_window_extent().width < right * figure.dpi - taken or down:
            break
        legend.remove()
    rows = max(legend.get_window_extent().height / figure.dpi + down, name.height / figure.dpi)
    return float(rows) + 0.08


def legend_label(variant: Variant) -> str:
    """As "PGSRM (3 seeds)", "PGSRM (2 seeds, 1 failed left out)", "Binary (1 seed, unfinished: 41%)"."""
    return f"{variant.title} ({seeds_label([variant])})"


def seeds_label(variants: Sequence[Variant]) -> str:
    """How many seeds are drawn: "3 seeds"; of several variants the range. And what became of those that did not finish."""
    drawn = sorted({len(variant.complete) or len(variant.runs) for variant in variants})
    seeds = "1 seed" if drawn == [1] else f"{'-'.join(map(str, drawn))} seeds"
    left_out = [run for variant in variants if variant.complete for run in variant.unfinished]
    unfinished = [run for variant in variants if not variant.complete for run in variant.runs]
    if left_out:
        seeds += f", {shortfall(left_out)} left out"
    if unfinished:
        alike = len({run.failed for run in unfinished}) == 1
        what = ("failed" if unfinished[0].failed else "unfinished") if alike else shortfall(unfinished)
        seeds += f", {what}: {min(run.progress for run in unfinished):.0%}"
    return seeds


def axis_note(variants: Sequence[Variant], cut: bool) -> str:
    """The line below the panels: what the lines and the band are, and whether spikes leave the frame."""
    windows = {window(variant.runs[0].planned) for variant in variants}
    updates = f" ({windows.pop()})" if len(windows) == 1 else ""
    most = max(len(variant.complete or variant.runs) for variant in variants)
    faint = "; faint: each run" if len(variants) <= RAW_CURVES else ""
    few = " (few seeds: their range)" if most < SEEDS_FOR_A_BOOTSTRAP else ""
    band = f"; band: 95% bootstrap of the mean{few}" if most > 1 else ""
    spikes = "; spikes cut off" if cut else ""
    early = any(run.stopped_early for variant in variants for run in variant.complete)
    ends = " A curve ends where its first seed stopped early." if early else ""
    return f"Thick: rolling mean, 2% of the updates{updates}{faint}{band}{spikes}.{ends}"


def draw_panel(
    axes: Axes,
    variants: Sequence[Variant],
    styles: Sequence[Look],
    column: str,
    *,
    dark: bool = False,
    points: int = POINTS,
) -> bool:
    """Draw one metric of every variant; returns whether faint lines leave the frame."""
    import numpy as np
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    few = len(variants) <= RAW_CURVES
    known, lacking = [], []
    for variant, look in zip(variants, styles, strict=True):
        drawn = curve(variant, column, points)
        seeds = len(variant.complete or variant.runs)
        if drawn is None or not np.isfinite(drawn.mean).any():
            lacking.append(f"{variant.title}: not recorded")
            continue
        if drawn.seeds < seeds:
            lacking.append(f"{variant.title}: recorded in {drawn.seeds} of {seeds} seeds")
        known.append(drawn)
        colour = look.on(dark)
        if few:
            # Many as pixels: ten runs as paths make a PDF of megabytes, but pixels take longer to draw.
            pixels = points == POINTS and drawn.runs.size > MOST_VECTOR
            axes.plot(drawn.episodes, drawn.runs.T, color=colour, alpha=0.3, linewidth=0.4, rasterized=pixels)
        if (drawn.high > drawn.low).any():
            axes.fill_between(
                drawn.episodes, drawn.low, drawn.high, color=colour, alpha=0.25 if few else 0.1, linewidth=0
            )
        points_planned = (
            len(drawn.mean) * variant.runs[0].episodes / max(drawn.episodes[-1], 1)
        )  # a short curve has fewer markers
        every = max(1, int(points_planned / MARKED))
        first = min(every, len(drawn.mean)) // 2
        axes.plot(drawn.episodes, drawn.mean, **look.line(dark), markevery=(first, every), zorder=3)
    if not known:
        axes.text(0.5, 0.5, f"{column}\nis not recorded", transform=axes.transAxes, ha="center", va="center")
    elif lacking:
        text = "\n".join(textwrap.fill(line, 40) for line in lacking)
        axes.text(0.98, 0.03, text, transform=axes.transAxes, ha="right", va="bottom", size=7, zorder=4)
    bottom, top, cut = frame(known, faint=few)
    axes.set_ylim(bottom, top)
    axes.set_xlim(0, max(variant.runs[0].episodes for variant in variants))
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:g}k" if x >= 1000 else f"{x:g}"))
    axes.grid(axis="y", color=GRID[dark], linewidth=0.5)
    axes.set_axisbelow(True)
    return cut


def frame(curves: Sequence[Curve], faint: bool) -> tuple[float, float, bool]:
    """Limits of the y axis, zero among them, and whether faint lines leave them.

    Ordinary noise stays inside; a few spikes many times its size do not flatten the curves.
    """
    import numpy as np

    low = min([0.0] + [float(np.nanmin(drawn.low)) for drawn in curves])
    high = max([0.0] + [float(np.nanmax(drawn.high)) for drawn in curves])
    cut = False
    if faint and curves:
        runs = np.concatenate([drawn.runs[np.isfinite(drawn.runs)] for drawn in curves])
        most = np.percentile(runs, (1, 99))
        spread = (max(high, most[1]) - min(low, most[0])) / 2
        bounds = most[0] - spread, most[1] + spread
        cut = bool(runs.min() < min(low, bounds[0]) or runs.max() > max(high, bounds[1]))
        low = min(low, max(float(runs.min()), bounds[0]))
        high = max(high, min(float(runs.max()), bounds[1]))
    margin = 0.04 * (high - low or 1.0)
    return low - margin, high + margin, cut


def by_setting(variants: Iterable[Variant]) -> list[tuple[str, list[Variant]]]:
    """Rows of (setting, its variants) in the order given; a row has each reward at most once.

    A variant without a setting of its own is named by its reward. Variants that differ in the commit alone share a row.
    """
    rows: list[tuple[str, list[Variant]]] = []
    for variant in variants:
        label = _without_commit(variant)
        fitting = (group for name, group in rows if _without_commit(group[0]) == label)
        row = next((group for group in fitting if variant.reward not in {member.reward for member in group}), None)
        if row is not None:
            row.append(variant)
        else:
            rows.append((variant.settings or variant.reward_title, [variant]))
    return rows


def _without_commit(variant: Variant) -> list[str]:
    return [part for part in variant.parts if not part.startswith("commit ")]
