"""Over-optimisation: what policies earn and what they get right, by how far they have moved (Gao et al. 2023, Figure 1).

A reward that goes on rising where right answers fall is paid for something else. x is the square root of the KL from the
reference policy per response: the sampled KL per token times the mean length of a response. Both are smoothed and averaged
over seeds as in the figures over training, update by update.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pgsrm.analysis.curves import curve
from pgsrm.analysis.figures import NOTE_WIDTH, draw_head
from pgsrm.analysis.results import KL, LENGTH, MATCH, REWARD
from pgsrm.analysis.style import COLOURS, GRID, MARKERS, NOTE, NOTE_HEIGHT, STYLE, WIDTHS, looks
from pgsrm.analysis.variants import Variant

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

PANELS = (
    (REWARD, "(a) Own reward, in parts of its end"),
    (MATCH, "(b) Right sampled answers"),
)
_DRAWN = {KL, LENGTH, MATCH}
MOST = len(COLOURS) + len(MARKERS)  # variants in a figure
_POINTS = 60  # along a way: more would show the noise of a batch as knots
_TEXT = (
    "By the square root of the KL per response. A dot is the end of training. A reward is divided by its mean over the last "
    "tenth: rewards have different units."
)


def has_frontier(variants: Sequence[Variant]) -> bool:
    """Whether two of the variants or more have what is drawn, and are not too many."""
    recorded = [variant for variant in variants if any(run.metrics.keys() >= _DRAWN for run in variant.runs)]
    return len(recorded) >= 2 and len(variants) <= MOST


def path(variant: Variant, column: str) -> tuple[np.ndarray, np.ndarray] | None:
    """The variant's way: sqrt(KL per response) (m,) and the column (m,) at m updates; None where something is not recorded."""
    import numpy as np

    kl, length, values = (curve(variant, name, _POINTS) for name in (KL, LENGTH, column))
    if kl is None or length is None or values is None or not np.isfinite(values.mean).any():
        return None
    return np.sqrt(np.clip(kl.mean * length.mean, 0, None)), values.mean


def plot_frontier(variants: Sequence[Variant], width: str = "text") -> Figure:
    """Both panels, every variant a line in each: beside each other, or one below the other in a column."""
    import matplotlib
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    styles = looks(variants)
    shape, panels = ((1, 2), 2.3) if width == "text" else ((2, 1), 4.2)
    note = textwrap.fill(_TEXT, NOTE_WIDTH[width])
    with matplotlib.rc_context(STYLE):
        figure = Figure()
        foot = 0.06 + NOTE_HEIGHT * (note.count("\n") + 1)
        height = draw_head(figure, variants, styles, width) + panels + foot
        figure.set_size_inches(WIDTHS[width], height)
        figure.set_layout_engine(ConstrainedLayoutEngine(rect=(0, foot / height, 1, panels / height), wspace=0.03))
        for axes, (column, title) in zip(figure.subplots(*shape).flat, PANELS, strict=True):
            for variant, look in zip(variants, styles, strict=True):
                way = path(variant, column)
                if way is None:
                    continue
                distance, values = way
                if column == PANELS[0][0]:
                    end = np.nanmean(values[-max(1, len(values) // 10) :])
                    values = values / end if end else values
                line = look.line() | {"marker": ""}
                axes.plot(distance, values, **line)
                axes.plot(distance[-1:], values[-1:], color=look.colour, marker=look.marker or "o", markersize=5)
            axes.set(title=title, xlabel=r"$\sqrt{\mathrm{KL}}$ (nats per response)", xlim=(0, None))
            axes.grid(axis="y", color=GRID[False], linewidth=0.5)
            axes.set_axisbelow(True)
        figure.text(0.008, 0.05 / height, note, va="bottom", **NOTE)
    return figure
