"""Over-optimisation: what policies earn and what they get right, by how far they have moved (Gao et al. 2023, Figure 1).

A reward that goes on rising where right answers fall is paid for something else. x is the square root of the KL from the
initial model per response: of each update the sampled KL per token times the number of tokens per response that it is a mean of,
smoothed and averaged over seeds as in the figures over training.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pgsrm.analysis.best_of_n import BestOfN
from pgsrm.analysis.curves import curve
from pgsrm.analysis.figures import NOTE_WIDTH, draw_head
from pgsrm.analysis.results import ENDED, KL, LENGTH, MATCH, REWARD
from pgsrm.analysis.runs import Run
from pgsrm.analysis.style import (
    COLOURS,
    DARK,
    GREY,
    GRID,
    LONG_DASHES,
    MARKERS,
    NOTE,
    NOTE_HEIGHT,
    REPORT_SIZE,
    STYLE,
    WIDTHS,
    Look,
    looks,
    style,
)
from pgsrm.analysis.variants import Variant

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = (
    (REWARD, "(a) Own reward, in parts of its end"),
    (MATCH, "(b) Right sampled answers"),
)
_DRAWN = {KL, LENGTH, MATCH}
_DISTANCE = "KL per response"  # computed here; in no file
MOST = len(COLOURS) + len(MARKERS)  # variants in a figure
_POINTS = 60  # along a way: more would show the noise of a batch as knots
TEXT = (
    "By the square root of the KL per response. A dot is the end of training. A reward is divided by the size of its mean "
    "over the last tenth: rewards have different units."
)
OF_BEST = (
    " A dashed grey line, with a mark at each n, is the best of n = 1, 2, 4, ... samples of the initial model by a reward, without "
    "any training; its KL is at most log n - (n - 1)/n, and less where rewards tie."
)


def has_frontier(variants: Sequence[Variant], best: Sequence[BestOfN] = ()) -> bool:
    """Whether two or more have what is drawn, lines of the best of n counted, and the variants are not too many."""
    recorded = [
        variant for variant in variants if any(run.metrics.keys() >= _DRAWN and _moves(run) for run in variant.runs)
    ]
    return len(recorded) >= (1 if best else 2) and len(variants) <= MOST


def note(best: Sequence[BestOfN]) -> str:
    """The text below the figure."""
    return TEXT + (OF_BEST if best else "")


def best_line(number: int, dark: bool = False) -> dict[str, Any]:
    """Arguments of matplotlib for the best of n of the figure's `number`-th file: markers tell the files apart."""
    marker = {
        "marker": MARKERS[number % len(MARKERS)],
        "markersize": 3.5,
        "markeredgewidth": 0.8,
        "markerfacecolor": "none",
    }
    return {"color": GREY[dark], "linestyle": LONG_DASHES, "linewidth": 0.9, **marker}


@dataclass(frozen=True)
class Way:
    """A variant's way at m updates: sqrt(KL per response) (m,), and each of `PANELS`' columns (m,) by its name."""

    distance: np.ndarray
    values: dict[str, np.ndarray]


def way(variant: Variant) -> Way | None:
    """Of the seeds that have all that is drawn. None where the distance is not recorded; a column that is not is left out."""
    import numpy as np

    runs = variant.complete or variant.runs
    runs = tuple(run for run in runs if run.metrics.keys() >= _DRAWN) or runs
    measured = replace(variant, runs=tuple(_with_distance(run) for run in runs))
    distance = curve(measured, _DISTANCE, _POINTS)
    if distance is None:
        return None
    curves = {column: curve(measured, column, _POINTS) for column, _ in PANELS}
    values = {name: c.mean for name, c in curves.items() if c is not None and np.isfinite(c.mean).any()}
    return Way(np.sqrt(np.clip(distance.mean, 0, None)), values)


def _moves(run: Run) -> bool:
    """Whether its KL is that from the initial model, and not from the policy before the last update."""
    return _ppo(run).get("kl_reference") != "previous"


def _with_distance(run: Run) -> Run:
    """The run with its KL per response, if it has one: that of the tokens in the loss, whose mean the KL per token is."""
    if not _moves(run) or not run.metrics.keys() >= {KL, LENGTH}:
        return run
    tokens = run.metrics[LENGTH]
    if _ppo(run).get("train_eos") is False:
        if ENDED not in run.metrics:
            return run
        tokens = tokens - run.metrics[ENDED]  # an EOS is in the length, and not in the loss
    return replace(run, metrics={**run.metrics, _DISTANCE: run.metrics[KL] * tokens})


def _ppo(run: Run) -> Mapping[str, Any]:
    section = run.config.get("ppo")
    return section if isinstance(section, Mapping) else {}


def plot_frontier(variants: Sequence[Variant], width: str = "text", best: Sequence[BestOfN] = ()) -> Figure:
    """Both panels, every variant a line in each: beside each other, or one below the other in a column.

    best: lines of the right panel, of the same task.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.lines import Line2D

    styles = looks(variants)
    shape, panels = ((1, 2), 2.3) if width == "text" else ((2, 1), 4.2)
    text = textwrap.fill(note(best), NOTE_WIDTH[width])
    ways = [way(variant) for variant in variants]
    with matplotlib.rc_context(STYLE):
        figure = Figure()
        foot = 0.06 + NOTE_HEIGHT * (text.count("\n") + 1)
        more = {line.label: Line2D([], [], **best_line(number)) for number, line in enumerate(best)}
        height = draw_head(figure, variants, styles, width, more) + panels + foot
        figure.set_size_inches(WIDTHS[width], height)
        figure.set_layout_engine(ConstrainedLayoutEngine(rect=(0, foot / height, 1, panels / height), wspace=0.03))
        for axes, (column, title) in zip(figure.subplots(*shape).flat, PANELS, strict=True):
            _draw(axes, ways, styles, column, title, best)
        figure.text(0.008, 0.05 / height, text, va="bottom", **NOTE)
    return figure


def frontier_panels(
    variants: Sequence[Variant], best: Sequence[BestOfN] = ()
) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """What draws each panel by itself, for a dark screen, and its title in words."""
    import matplotlib
    from matplotlib.figure import Figure

    styles, ways = looks(variants), [way(variant) for variant in variants]
    for column, title in PANELS:

        def draw(column: str = column, title: str = title) -> Figure:
            with matplotlib.rc_context(style(dark=True)):
                figure = Figure(figsize=REPORT_SIZE, layout="constrained")
                _draw(figure.subplots(), ways, styles, column, title.partition(" ")[2], best, dark=True)
            return figure

        yield f"{title.partition(' ')[2]} by the square root of KL.", draw


def _draw(
    axes: Axes,
    ways: Sequence[Way | None],
    styles: Sequence[Look],
    column: str,
    title: str,
    best: Sequence[BestOfN],
    dark: bool = False,
) -> None:
    import numpy as np

    for along, look in zip(ways, styles, strict=True):
        values = None if along is None else along.values.get(column)
        if along is None or values is None:
            continue
        if column == PANELS[0][0]:
            end = abs(np.nanmean(values[-max(1, len(values) // 10) :]))  # by its size: a loss that shrinks still rises
            values = values / end if end else values
        colour = DARK[look.colour] if dark else look.colour
        axes.plot(along.distance, values, **(look.line() | {"marker": "", "color": colour}))
        axes.plot(along.distance[-1:], values[-1:], color=colour, marker=look.marker or "o", markersize=5)
    for number, line in enumerate(best if column == MATCH else ()):
        axes.plot(line.distance, line.right, **best_line(number, dark))
    axes.set(title=title, xlabel=r"$\sqrt{\mathrm{KL}}$ (nats per response)", xlim=(0, None))
    axes.grid(axis="y", color=GRID[dark], linewidth=0.5)
    axes.set_axisbelow(True)
