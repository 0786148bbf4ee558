"""How figures look: sizes for paper and screen, colours, dashes and markers, and their files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgsrm.analysis.variants import Variant

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette without its yellow, which vanishes on white; the paper's two rewards have their own. On a
# dark ground the same hues, lighter.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
DARK = dict(zip(COLOURS, ("#56B4E9", "#FF8A3D", "#2FC79A", "#E8A0CB", "#FFFFFF", "#9AD3F5", "#F5C04A"), strict=True))
INK, GRID = ("#000000", "#d5d8dc"), ("#e5e5e5", "#4c4c4c")  # on paper, on a dark ground
GREY = ("#666666", "#b3b3b3")  # of what is compared with the curves, and is none of them
LIGHT = {dark.lower(): light.lower() for light, dark in (*DARK.items(), INK, GRID, GREY)}
REWARD_COLOURS = {"pgsrm": COLOURS[0], "binary": COLOURS[1]}
DASHES = {"pgsrm": "-", "binary": (0, (3, 1.2))}
LONG_DASHES = (0, (7, 3))  # of the grey lines
OTHER_DASHES = ((0, (5, 1, 1, 1)), (0, (1, 0.8)), (0, (7, 1.5)))
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
MARKED = 8  # markers along a curve

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
# Inches. A figure keeps its letters' size only where it is not scaled: over both columns of a page, or in one of them.
WIDTHS = {"text": 7.0, "column": 3.25}
PAGE = 9.0  # a page's height, less a caption
REPORT_SIZE = 3.5, 2.2  # of a panel in the report
NOTE: dict[str, Any] = {"size": 7, "color": "0.3"}  # the line below the panels
NOTE_HEIGHT = 0.12  # of each of its lines


@dataclass(frozen=True)
class Look:
    """How a variant is drawn, the same in every panel. `marker` is "" for none."""

    colour: str
    dashes: Any
    marker: str

    def on(self, dark: bool) -> str:
        """The colour on a dark or a light page."""
        return DARK[self.colour] if dark else self.colour

    def line(self, dark: bool = False) -> dict[str, Any]:
        """Arguments of matplotlib for the variant's thick line."""
        marked = {"marker": self.marker, "markersize": 4, "markeredgewidth": 0} if self.marker else {}
        return {"color": self.on(dark), "linestyle": self.dashes, "linewidth": 1.3, **marked}


def style(dark: bool = False) -> dict[Any, Any]:
    """Settings of matplotlib, for paper or for a dark screen."""
    if not dark:
        return STYLE
    ink = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), INK[dark])
    return STYLE | ink | {"figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none"}


def save(figure: Figure, stem: Path, formats: Sequence[str]) -> list[Path]:
    """Write the figure in each format, without a date, so that the same runs give the same bytes."""
    import matplotlib

    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
    paths = [stem.parent / f"{stem.name}.{name}" for name in formats]
    with matplotlib.rc_context(STYLE):
        for name, path in zip(formats, paths, strict=True):
            figure.savefig(path, format=name, metadata=undated.get(name))
            figure.set_layout_engine("none")  # once laid out, it stays
    return paths


def looks(variants: Sequence[Variant]) -> list[Look]:
    """Colour, dashes and marker of each curve, so that curves can be told apart in grey too.

    Dashes are the reward's and markers the setting's (the first has none). Each curve has a colour of its own as long
    as there are any left.
    """
    rewards = list(dict.fromkeys(variant.reward for variant in variants))
    settings = list(dict.fromkeys(variant.settings for variant in variants))
    others = [reward for reward in rewards if reward not in DASHES]
    dashes = DASHES | {name: OTHER_DASHES[i % len(OTHER_DASHES)] for i, name in enumerate(others)}
    reserved = {REWARD_COLOURS[reward] for reward in rewards if reward in REWARD_COLOURS}
    free = [colour for colour in COLOURS if colour not in reserved]
    styles, taken, spare = [], set(), 0
    for variant in variants:
        colour = REWARD_COLOURS.get(variant.reward)
        if colour is None or colour in taken:
            colour, spare = free[spare % len(free)], spare + 1
        taken.add(colour)
        setting = settings.index(variant.settings)
        marker = MARKERS[(setting - 1) % len(MARKERS)] if setting else ""
        styles.append(Look(colour, dashes[variant.reward], marker))
    return styles


def looks_of_rewards(variants: Sequence[Variant]) -> dict[str, Look]:
    """One look for each reward, by its name, for figures in which every reward is one curve of a panel."""
    firsts = list({variant.reward: variant for variant in reversed(variants)}.values())[::-1]
    return {variant.reward: replace(look, marker="") for variant, look in zip(firsts, looks(firsts), strict=True)}
