"""The paper's Figures 1-5 from run folders: per task average reward, policy entropy and KL divergence.

    python analysis/plot_figures.py [--runs DIR ...] [--out DIR] [--formats pdf,png] [--only-finished]

What is drawn:
- thick line: centred rolling mean over 2% of the planned updates, of the mean over seeds. At either end the
  window is cut to the updates there are.
- faint line: every update, mean over seeds (left out above four curves, where it would hide the thick ones).
- band, with several seeds: minimum to maximum over seeds of the smoothed curves.
- seeds: those that finished. Where none did, the unfinished ones up to the update that all have reached, and
  the legend says so.
- y axis: from the smoothed curves, bands and faint lines; single spikes of the faint lines far outside of
  the rest are cut off, and the note below the panels says so.
"""

from __future__ import annotations

import argparse
import functools
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runs import DEFAULT_RUNS, NoRunsError, print_notes
from variants import Variant, load_variants, task_title

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = (
    ("reward/mean", "(a) Average reward", "reward"),
    ("policy/entropy", "(b) Policy entropy", "nats"),
    ("policy/kl", "(c) KL divergence", "nats"),
)
SMOOTHING = 0.02
RAW_CURVES = 4
SMOOTH_POINTS = 1000
FORMATS = ("pdf", "png", "svg")

# Okabe and Ito's palette without its yellow, which vanishes on white; the paper's two rewards have their own.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
REWARD_COLOURS = {"pgsrm": COLOURS[0], "binary": COLOURS[1]}
DASHES = {"pgsrm": "-", "binary": (0, (3, 1.2))}
OTHER_DASHES = ((0, (5, 1, 1, 1)), (0, (1, 0.8)), (0, (7, 1.5)))

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
LABEL_WIDTH = 60  # letters in a row of the legend


@dataclass(frozen=True)
class Curve:
    """One metric of one variant over its seeds; arrays are (n,), an entry an update, NaN for none."""

    episodes: np.ndarray
    raw: np.ndarray
    smooth: np.ndarray
    low: np.ndarray
    high: np.ndarray


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        variants, notes = load_variants(args.runs, [panel[0] for panel in PANELS])
        print_notes(notes)
        if args.only_finished:
            variants = [variant for variant in variants if variant.complete]
        if not variants:
            raise NoRunsError("--only-finished: no run has finished; leave it out to see how far they are")
        args.out.mkdir(parents=True, exist_ok=True)
        for task in dict.fromkeys(variant.task for variant in variants):
            curves = [variant for variant in variants if variant.task == task]
            if len(curves) > len(COLOURS):
                print_notes([f"{task}: {len(curves)} curves in one figure repeat colours; choose with --runs"])
            figure = plot_task(curves)
            for path in save(figure, args.out / task, args.formats):
                print(path)
    except NoRunsError as error:
        print(f"plot_figures: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"plot_figures: --out={args.out}: cannot write there: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Per task a figure: reward, entropy, KL divergence.")
    parser.add_argument("--runs", type=Path, nargs="+", metavar="DIR", default=[DEFAULT_RUNS],
                        help="run folders, or folders above them (default: outputs/runs)")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", default=Path("outputs/figures"),
                        help="where the figures go (default: outputs/figures)")  # fmt: skip
    parser.add_argument("--formats", type=_formats, default=("pdf", "png"), metavar="pdf,png",
                        help="of pdf, png, svg; separated by commas (default: pdf,png)")  # fmt: skip
    parser.add_argument("--only-finished", action="store_true",
                        help="leave out a curve of which no seed has finished")  # fmt: skip
    return parser


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",")))
    unknown = [name for name in names if name not in FORMATS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is unknown; choose of {', '.join(FORMATS)}")
    return names


def plot_task(variants: Sequence[Variant]) -> Figure:
    """The three panels of one task, every variant a curve in each."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    looks = _looks(variants)
    with matplotlib.rc_context(STYLE):
        figure = Figure()
        height = _draw_head(figure, variants, looks) + PANEL_HEIGHT + FOOT
        figure.set_size_inches(WIDTH, height)
        figure.set_layout_engine(
            ConstrainedLayoutEngine(rect=(0, FOOT / height, 1, PANEL_HEIGHT / height), wspace=0.03)
        )
        cut = False
        for axes, (column, title, unit) in zip(figure.subplots(1, 3), PANELS, strict=True):
            cut |= _draw_panel(axes, variants, looks, column)
            axes.set(title=title, ylabel=unit, xlabel="episodes")
        figure.text(0.008, 0.05 / height, axis_note(variants, cut), size=7, color="0.3", va="bottom")
    return figure


def _draw_head(figure: Figure, variants: Sequence[Variant], looks: Sequence[tuple[str, Any]]) -> float:
    """The task's name and, right of it, the legend in as few rows as fit; returns their height in inches."""
    from matplotlib.lines import Line2D
    from matplotlib.transforms import ScaledTranslation

    # Inches from the top left corner: the height of the figure follows from that of the head.
    corner = figure.dpi_scale_trans + ScaledTranslation(0, 1, figure.transFigure)  # type: ignore[arg-type]
    handles = [Line2D([], [], color=colour, linestyle=dashes, linewidth=1.5) for colour, dashes in looks]
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


def save(figure: Figure, stem: Path, formats: Sequence[str]) -> list[Path]:
    """Write the figure in each format, without a date, so that the same runs give the same bytes."""
    import matplotlib

    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
    paths = [stem.parent / f"{stem.name}.{name}" for name in formats]
    with matplotlib.rc_context(STYLE):
        for name, path in zip(formats, paths, strict=True):
            figure.savefig(path, format=name, metadata=undated.get(name))
    return paths


def legend_label(variant: Variant) -> str:
    """As "PGSRM (3 seeds)", "PGSRM (2 seeds, 1 unfinished left out)", "Binary (1 seed, unfinished: 41%)"."""
    drawn = len(variant.complete) or len(variant.runs)
    seeds = "1 seed" if drawn == 1 else f"{drawn} seeds"
    if not variant.complete:
        seeds += f", unfinished: {min(run.progress for run in variant.runs):.0%}"
    elif variant.unfinished:
        seeds += f", {len(variant.unfinished)} unfinished left out"
    return f"{variant.title} ({seeds})"


def axis_note(variants: Sequence[Variant], cut: bool) -> str:
    """The line below the panels: what the lines and the band are, and whether spikes leave the frame."""
    windows = {window(variant.runs[0].updates) for variant in variants}
    updates = f" ({windows.pop()})" if len(windows) == 1 else ""
    several = any(len(variant.complete or variant.runs) > 1 for variant in variants)
    raw = f"; faint: each update{', mean of seeds' if several else ''}"
    raw = raw if len(variants) <= RAW_CURVES else ""
    band = "; band: min to max of seeds" if several else ""
    spikes = "; spikes cut off" if cut else ""
    return f"Thick: centred rolling mean, 2% of the updates{updates}{raw}{band}{spikes}."


def window(updates: int) -> int:
    """Updates in the rolling mean: 2% of those planned, rounded to an odd number, at least one."""
    return 2 * round(SMOOTHING * updates / 2) + 1 if updates >= 1 / SMOOTHING else 1


def rolling_mean(values: np.ndarray, size: int) -> np.ndarray:
    """Centred rolling mean along the last axis, (..., n) -> (..., n).

    Windows are cut at the ends and NaN is left out of them; a window of NaN alone gives NaN.
    """
    import numpy as np

    n = values.shape[-1]
    known = np.isfinite(values)
    pad = [(0, 0)] * (values.ndim - 1) + [(1, 0)]
    sums = np.pad(np.cumsum(np.where(known, values, 0.0), axis=-1), pad)
    counts = np.pad(np.cumsum(known, axis=-1), pad)
    start = np.clip(np.arange(n) - size // 2, 0, n)
    end = np.clip(np.arange(n) + size // 2 + 1, 0, n)
    total, count = sums[..., end] - sums[..., start], counts[..., end] - counts[..., start]
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def curve(variant: Variant, column: str) -> Curve:
    """The variant's finished seeds (else: all of them) at the updates that all of them have."""
    import numpy as np

    runs = variant.complete or variant.runs
    common = functools.reduce(np.intersect1d, [run.metrics["update"] for run in runs])
    common = common[common > 0]  # update 0 is the evaluation before training
    rows = [np.searchsorted(run.metrics["update"], common) for run in runs]
    values = np.stack([run.metrics[column][at] for run, at in zip(runs, rows, strict=True)])  # (seeds, n)
    smooth = rolling_mean(values, window(runs[0].updates))
    episodes = runs[0].metrics["episodes"][rows[0]]
    return Curve(episodes, values.mean(0), smooth.mean(0), smooth.min(0), smooth.max(0))


def _draw_panel(axes: Axes, variants: Sequence[Variant], looks: Sequence[tuple[str, Any]], column: str) -> bool:
    """Draw one metric of every variant; returns whether faint lines leave the frame."""
    import numpy as np
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    few = len(variants) <= RAW_CURVES
    curves = [curve(variant, column) for variant in variants]
    for drawn, (colour, dashes) in zip(curves, looks, strict=True):
        if few:
            # As pixels: ten thousand updates as a path make a PDF of a megabyte.
            axes.plot(drawn.episodes, drawn.raw, color=colour, alpha=0.25, linewidth=0.4, rasterized=True)
        # Twenty points a smoothing window lose nothing that the eye could see.
        at = np.unique(np.linspace(0, len(drawn.episodes) - 1, SMOOTH_POINTS).round().astype(int))
        x, low, high = drawn.episodes[at], drawn.low[at], drawn.high[at]
        if (high > low).any():
            axes.fill_between(x, low, high, color=colour, alpha=0.2 if few else 0.1, linewidth=0)
        axes.plot(x, drawn.smooth[at], color=colour, linestyle=dashes, linewidth=1.3, zorder=3)
    known = [drawn for drawn in curves if np.isfinite(drawn.smooth).any()]
    if not known:
        axes.text(0.5, 0.5, f"{column}\nis not recorded", transform=axes.transAxes, ha="center", va="center")
    bottom, top, cut = _frame(known, faint=few)
    axes.set_ylim(bottom, top)
    axes.set_xlim(0, max(variant.runs[0].episodes for variant in variants))
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:g}k" if x >= 1000 else f"{x:g}"))
    axes.grid(axis="y", color="0.9", linewidth=0.5)
    axes.set_axisbelow(True)
    return cut


def _frame(curves: Sequence[Curve], faint: bool) -> tuple[float, float, bool]:
    """Limits of the y axis, zero among them, and whether faint lines leave them.

    Ordinary noise stays inside; a few spikes many times its size do not flatten the curves.
    """
    import numpy as np

    low = min([0.0] + [float(np.nanmin(drawn.low)) for drawn in curves])
    high = max([0.0] + [float(np.nanmax(drawn.high)) for drawn in curves])
    cut = False
    if faint and curves:
        raw = np.concatenate([drawn.raw[np.isfinite(drawn.raw)] for drawn in curves])
        most = np.percentile(raw, (1, 99))
        spread = (max(high, most[1]) - min(low, most[0])) / 2
        bounds = most[0] - spread, most[1] + spread
        cut = bool(raw.min() < min(low, bounds[0]) or raw.max() > max(high, bounds[1]))
        low = min(low, max(float(raw.min()), bounds[0]))
        high = max(high, min(float(raw.max()), bounds[1]))
    margin = 0.04 * (high - low or 1.0)
    return low - margin, high + margin, cut


def _looks(variants: Sequence[Variant]) -> list[tuple[str, Any]]:
    """Colour and dashes of each curve: dashes by the reward, a colour of its own while there are any."""
    rewards = list(dict.fromkeys(variant.reward for variant in variants))
    others = [reward for reward in rewards if reward not in DASHES]
    dashes = DASHES | {name: OTHER_DASHES[i % len(OTHER_DASHES)] for i, name in enumerate(others)}
    reserved = {REWARD_COLOURS[reward] for reward in rewards if reward in REWARD_COLOURS}
    free = [colour for colour in COLOURS if colour not in reserved]
    looks, taken, spare = [], set(), 0
    for variant in variants:
        colour = REWARD_COLOURS.get(variant.reward)
        if colour is None or colour in taken:
            colour, spare = free[spare % len(free)], spare + 1
        taken.add(colour)
        looks.append((colour, dashes[variant.reward]))
    return looks


if __name__ == "__main__":
    sys.exit(main())
