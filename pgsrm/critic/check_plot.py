"""The picture of a critic's check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pgsrm.critic.check import FIFTHS
from pgsrm.critic.critique import Critique
from pgsrm.critic.marked import Marked

MEASURES = {"precision": "precision", "recall": "recall", "f1": "F1"}
COLORS = ("#0072b2", "#e69f00", "#009e73")  # told apart by people who see colours differently
SMALL = 8  # points


def plot(
    result: Mapping[str, Any], texts: Sequence[Marked], sides: Mapping[str, Sequence[Critique]], file: Path
) -> None:
    """Agreement per label (where there is another side), marks per word by length, and places; ratings where there are some."""
    from matplotlib.figure import Figure

    rated = any(text.rating is not None for text in texts)
    panels = [_places, _lengths]
    if "agreement" in result:
        panels = [_spans, _characters, *panels]
    if rated:
        panels.append(_ratings)
    rows = (len(panels) + 1) // 2
    figure = Figure(figsize=(7.2, 0.4 + 2.4 * rows), layout="constrained")
    figure.suptitle(result["title"], fontsize=9)
    axes = figure.subplots(rows, 2, squeeze=False).flat
    for panel, place in zip(panels, axes, strict=False):
        panel(place, result, texts, sides)
        place.tick_params(labelsize=SMALL)
        place.spines[["top", "right"]].set_visible(False)
    for place in list(figure.axes)[len(panels) :]:
        place.remove()
    figure.savefig(file, dpi=120)


def _spans(axes: Any, result: Mapping[str, Any], *_: Any) -> None:
    _bars(axes, result["agreement"], "spans")
    axes.set_title("same span (all marks together)", fontsize=SMALL)


def _characters(axes: Any, result: Mapping[str, Any], *_: Any) -> None:
    _bars(axes, result["agreement"], "characters")
    axes.set_title("characters (all marks together)", fontsize=SMALL)


def _bars(axes: Any, agreement: Mapping[str, Any], unit: str) -> None:
    """A group of bars for each label."""
    for number, (measure, name) in enumerate(MEASURES.items()):
        heights = [units[unit]["pooled"][measure] or 0.0 for units in agreement.values()]
        places = [place + 0.26 * (number - 1) for place in range(len(heights))]
        axes.bar(places, heights, width=0.24, color=COLORS[number], label=name)
    axes.set_xticks(range(len(agreement)), [label.replace(" ", "\n") for label in agreement])
    axes.set_ylim(0, 1.25)  # room for the legend
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.legend(fontsize=7, ncols=3, frameon=False, loc="upper center")


def _places(axes: Any, result: Mapping[str, Any], *_: Any) -> None:
    sides = result["habits"]
    for number, (name, side) in enumerate(sides.items()):
        shares = [share or 0.0 for share in side["places"]]
        places = [place + 0.4 * (number - (len(sides) - 1) / 2) for place in range(FIFTHS)]
        axes.bar(places, shares, width=0.36, color=COLORS[number], label=name)
    axes.axhline(1 / FIFTHS, color="0.6", linewidth=0.8, linestyle=":")
    axes.set_xticks(range(FIFTHS), ["first", "2nd", "3rd", "4th", "last"])
    axes.set_title("share of marks in each fifth of the text", fontsize=SMALL)
    axes.set_ylim(top=1.2 * axes.get_ylim()[1])  # room for the legend
    axes.legend(fontsize=7, ncols=2, frameon=False, loc="upper center")


def _lengths(axes: Any, result: Mapping[str, Any], texts: Sequence[Marked], sides: Mapping[str, Any]) -> None:
    """Marks per word, the mean over five groups of texts from short to long."""
    import numpy as np

    words = np.array([max(1, len(text.response.split())) for text in texts])
    groups = [group for group in np.array_split(np.argsort(words, kind="stable"), 5) if len(group)]
    for number, (name, critiques) in enumerate(sides.items()):
        density = np.array([len(critique.spans) for critique in critiques]) / words
        middles, means = ([float(row[group].mean()) for group in groups] for row in (words, density))
        axes.plot(middles, means, marker="o", markersize=4, color=COLORS[number], label=name)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("words in the text", fontsize=SMALL)
    axes.set_title("marks per word, by length", fontsize=SMALL)
    axes.legend(fontsize=7, frameon=False)


def _ratings(axes: Any, result: Mapping[str, Any], texts: Sequence[Marked], sides: Mapping[str, Any]) -> None:
    """The mean rating of texts with each balance of marks."""
    import numpy as np

    rated = [place for place, text in enumerate(texts) if text.rating is not None]
    ratings = np.array([texts[place].rating for place in rated], dtype=float)
    for number, (name, critiques) in enumerate(sides.items()):
        signs = {"positive": 1, "negative": -1}
        balance = np.array([sum(signs.get(span.label, 0) for span in critiques[place].spans) for place in rated])
        values = sorted(set(balance.tolist()))
        means = [float(ratings[balance == value].mean()) for value in values]
        sizes = [float(np.sqrt((balance == value).sum())) for value in values]
        axes.plot(values, means, color=COLORS[number], linewidth=0.8, label=name)
        axes.scatter(values, means, s=[8 * size for size in sizes], color=COLORS[number])
    axes.set_xlabel("positive - negative marks", fontsize=SMALL)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_title("mean rating (larger dots: more texts)", fontsize=SMALL)
    axes.legend(fontsize=7, frameon=False)
