"""Curves over training, panel by panel.

What a panel shows:
- thick line: mean over seeds of the centred rolling mean over 2% of the planned updates. At either end the window
  is cut to the updates there are.
- band, with several seeds: 95% bootstrap interval of that mean, point by point.
- faint lines: each run, at most ten a curve, averaged over 0.4% of the updates (left out above four curves, where
  they would hide the thick ones).
- seeds: those that finished. Where none did, the others up to the update that all have reached, and the legend says
  so; a curve has a gap where one of them does. A panel says which of them lack its metric.
- y axis: from the thick lines, bands and faint lines; single spikes of the faint lines far outside of the rest are
  cut off, and the note below the panels says so.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curves import POINTS, Curve, curve, window
from variants import Variant, shortfall, task_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = (
    ("reward/mean", "(a) Average reward", "reward"),
    ("policy/entropy", "(b) Policy entropy", "nats"),
    ("policy/kl", "(c) KL divergence", "nats"),
)
RAW_CURVES = 4
SEEDS_FOR_A_BOOTSTRAP = 5

# Okabe and Ito's palette without its yellow, which vanishes on white; the paper's two rewards have their own. On a
# dark ground the same hues, lighter.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
DARK = dict(zip(COLOURS, ("#56B4E9", "#FF8A3D", "#2FC79A", "#E8A0CB", "#FFFFFF", "#9AD3F5", "#F5C04A"), strict=True))
REWARD_COLOURS = {"pgsrm": COLOURS[0], "binary": COLOURS[1]}
DASHES = {"pgsrm": "-", "binary": (0, (3, 1.2))}
OTHER_DASHES = ((0, (5, 1, 1, 1)), (0, (1, 0.8)), (0, (7, 1.5)))
MARKERS = ("o", "s", "D", "^", "v", "P", "X")

STYLE: dict[Any, Any] = {
    "pdf.fonttype": 42,  # TrueType: text stays text, as conferences ask
    "svg.hashsalt": "pgsrm",
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure on every machine
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.dpi": 220,
}
WIDTH, PANEL_HEIGHT, FOOT = 7.0, 1.85, 0.18  # inches: the paper's text width, the panels, the note below
REPORT_SIZE = 3.5, 2.2  # inches of a panel in the report
LABEL_WIDTH = 60  # letters in a row of the legend


@dataclass(frozen=True)
class Look:
    """How a variant is drawn, the same in every panel."""

    colour: str
    dashes: Any
    marker: str

    def on(self, dark: bool) -> str:
        return DARK[self.colour] if dark else self.colour


def style(dark: bool = False) -> dict[Any, Any]:
    """matplotlib's settings, for paper or for a dark screen."""
    if not dark:
        return STYLE
    ink = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), "#d5d8dc")
    return STYLE | ink | {"figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none"}


def save(figure: Figure, stem: Path, formats: Sequence[str]) -> list[Path]:
    """Write the figure in each format, without a date, so that the same runs give the same bytes."""
    import matplotlib

    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
    paths = [stem.parent / f"{stem.name}.{name}" for name in formats]
    with matplotlib.rc_context(STYLE):
        for name, path in zip(formats, paths, strict=True):
            figure.savefig(path, format=name, metadata=undated.get(name))
    return paths


# Curves


def plot_task(variants: Sequence[Variant]) -> Figure:
    """The three panels of one task, every variant a curve in each."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    styles = looks(variants)
    with matplotlib.rc_context(STYLE):
        figure = Figure()
        height = _draw_head(figure, variants, styles) + PANEL_HEIGHT + FOOT
        figure.set_size_inches(WIDTH, height)
        figure.set_layout_engine(
            ConstrainedLayoutEngine(rect=(0, FOOT / height, 1, PANEL_HEIGHT / height), wspace=0.03)
        )
        cut = False
        for axes, (column, title, unit) in zip(figure.subplots(1, 3), PANELS, strict=True):
            cut |= draw_panel(axes, variants, styles, column)
            axes.set(title=title, ylabel=unit, xlabel="episodes")
        figure.text(0.008, 0.05 / height, axis_note(variants, cut), size=7, color="0.3", va="bottom")
    return figure


def plot_panel(variants: Sequence[Variant], column: str, title: str, unit: str, *, dark: bool, points: int) -> Figure:
    """One panel by itself, for a screen: `points` a curve, faint lines as paths."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(style(dark)):
        figure = Figure(figsize=REPORT_SIZE, layout="constrained")
        axes = figure.subplots()
        draw_panel(axes, variants, looks(variants), column, dark=dark, points=points)
        axes.set_title(title)
        axes.set(ylabel=unit, xlabel="episodes")
    return figure


def plot_grid(rows: Sequence[tuple[str, Sequence[Variant]]], task: str) -> Figure:
    """Small multiples: a row of three panels for each setting, the rewards its curves."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.6 + 1.5 * len(rows)), layout="constrained")
        grid = figure.subplots(len(rows), 3, squeeze=False, sharex=True)
        rewards: dict[str, Look] = {}
        for line, (label, variants) in zip(grid, rows, strict=True):
            styles = looks(variants)
            rewards |= {v.reward_title: look for v, look in zip(variants, styles, strict=True)}
            for axes, (column, title, unit) in zip(line, PANELS, strict=True):
                draw_panel(axes, variants, styles, column)
                name = title.split(maxsplit=2)[-1]
                axes.set(ylabel=name if unit == name else f"{name} ({unit})")
            # Not in the layout: a long one goes on above the next panel.
            line[0].set_title(f"{label} ({seeds_label(variants)})", loc="left", size=7.5, in_layout=False)
        for axes in grid[-1]:
            axes.set_xlabel("episodes")
        handles = [Line2D([], [], color=k.colour, linestyle=k.dashes, linewidth=1.5) for k in rewards.values()]
        figure.suptitle(task_title(task), x=0.01, ha="left", weight="bold", size=9)
        figure.legend(handles, list(rewards), loc="upper right", ncols=len(rewards), frameon=False, borderaxespad=0.1)
    return figure


def _draw_head(figure: Figure, variants: Sequence[Variant], styles: Sequence[Look]) -> float:
    """The task's name and, right of it, the legend in as few rows as fit; returns their height in inches."""
    from matplotlib.lines import Line2D
    from matplotlib.transforms import ScaledTranslation

    # Inches from the top left corner: the height of the figure follows from that of the head.
    corner = figure.dpi_scale_trans + ScaledTranslation(0, 1, figure.transFigure)  # type: ignore[arg-type]
    handles = [Line2D([], [], color=look.colour, linestyle=look.dashes, linewidth=1.5) for look in styles]
    labels = [textwrap.fill(legend_label(variant), LABEL_WIDTH) for variant in variants]
    title = figure.text(0.06, -0.05, task_title(variants[0].task), weight="bold", size=9, va="top")
    title.set_transform(corner)
    room = (WIDTH - 0.3) * figure.dpi - title.get_window_extent().width
    for columns in (len(labels), 3, 2, 1):
        legend = figure.legend(
            handles,
            labels,
            loc="upper right",
            bbox_to_anchor=(WIDTH - 0.04, -0.06),
            bbox_transform=corner,
            ncols=columns,
            frameon=False,
            handlelength=2.6,
            columnspacing=1.5,
            labelspacing=0.3,
            borderaxespad=0,
            borderpad=0,
        )
        if legend.get_window_extent().width < room or columns == 1:
            break
        legend.remove()
    rows = max(legend.get_window_extent().height, title.get_window_extent().height)
    return float(rows / figure.dpi) + 0.08


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
    windows = {window(variant.runs[0].updates) for variant in variants}
    updates = f" ({windows.pop()})" if len(windows) == 1 else ""
    most = max(len(variant.complete or variant.runs) for variant in variants)
    faint = "; faint: each run" if len(variants) <= RAW_CURVES else ""
    few = " (few seeds: their range)" if most < SEEDS_FOR_A_BOOTSTRAP else ""
    band = f"; band: 95% bootstrap of the mean{few}" if most > 1 else ""
    spikes = "; spikes cut off" if cut else ""
    return f"Thick: rolling mean, 2% of the updates{updates}{faint}{band}{spikes}."


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
            # As pixels in a paper's figure: ten runs as paths make a PDF of megabytes.
            axes.plot(drawn.episodes, drawn.runs.T, color=colour, alpha=0.3, linewidth=0.4, rasterized=points == POINTS)
        if (drawn.high > drawn.low).any():
            axes.fill_between(
                drawn.episodes, drawn.low, drawn.high, color=colour, alpha=0.25 if few else 0.1, linewidth=0
            )
        axes.plot(drawn.episodes, drawn.mean, color=colour, linestyle=look.dashes, linewidth=1.3, zorder=3)
    if not known:
        axes.text(0.5, 0.5, f"{column}\nis not recorded", transform=axes.transAxes, ha="center", va="center")
    elif lacking:
        text = "\n".join(textwrap.fill(line, 40) for line in lacking)
        axes.text(0.98, 0.03, text, transform=axes.transAxes, ha="right", va="bottom", size=6.5, zorder=4)
    bottom, top, cut = frame(known, faint=few)
    axes.set_ylim(bottom, top)
    axes.set_xlim(0, max(variant.runs[0].episodes for variant in variants))
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:g}k" if x >= 1000 else f"{x:g}"))
    axes.grid(axis="y", color="0.3" if dark else "0.9", linewidth=0.5)
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


def looks(variants: Sequence[Variant]) -> list[Look]:
    """Colour, dashes and marker of each curve: dashes by the reward, a colour of its own while there are any."""
    rewards = list(dict.fromkeys(variant.reward for variant in variants))
    others = [reward for reward in rewards if reward not in DASHES]
    dashes = DASHES | {name: OTHER_DASHES[i % len(OTHER_DASHES)] for i, name in enumerate(others)}
    reserved = {REWARD_COLOURS[reward] for reward in rewards if reward in REWARD_COLOURS}
    free = [colour for colour in COLOURS if colour not in reserved]
    found, taken, spare = [], set(), 0
    for variant in variants:
        colour = REWARD_COLOURS.get(variant.reward)
        if colour is None or colour in taken:
            colour, spare = free[spare % len(free)], spare + 1
        taken.add(colour)
        found.append(Look(colour, dashes[variant.reward], MARKERS[rewards.index(variant.reward) % len(MARKERS)]))
    return found


def by_setting(variants: Iterable[Variant]) -> list[tuple[str, list[Variant]]]:
    """Variants in rows of one setting each, in the order given, a reward at most once; one without a setting of its own
    by its reward. Commits do not part what is compared."""
    rows: list[tuple[str, list[Variant]]] = []
    for variant in variants:
        label = _without_commit(variant)
        fitting = (found for name, found in rows if _without_commit(found[0]) == label)
        row = next((found for found in fitting if variant.reward not in {each.reward for each in found}), None)
        if row is not None:
            row.append(variant)
        else:
            rows.append((variant.settings or variant.reward_title, [variant]))
    return rows


def _without_commit(variant: Variant) -> list[str]:
    return [part for part in variant.settings.split(", ") if not part.startswith("commit ")]
