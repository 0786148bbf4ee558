"""Before any training: how good is a critic, against marked texts or another critic, and what are its habits?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from pgsrm.critic.critique import OUTCOMES, Critique
from pgsrm.critic.marked import Marked
from pgsrm.critic.quotes import Quote, locate
from pgsrm.rollout import Span
from pgsrm.util.numbers import counted, significant

ALL, ANY = "all labels", "any label"  # a mark counts with its label; without it
UNITS = ("spans", "characters")
COVERING = 0.8  # share of a text's characters beyond which a critique marks everything
FIFTHS = 5
Items = Callable[[Span], set[Hashable]]


def check(texts: Sequence[Marked], sides: Mapping[str, Sequence[Critique]]) -> dict[str, Any]:
    """What there is to say of a critic's marks in n texts, and of another side's: one or two names with their critiques.

    `habits` of each side; where there are two also their `agreement` (`compare`, of the first against the second) and
    `kappa`. All of it is what JSON holds.
    """
    result: dict[str, Any] = {
        "title": f"critic={' against '.join(sides)}, {counted(len(texts), 'text')}",
        "texts": len(texts),
    }
    if len(sides) == 2:
        ours, theirs = sides.values()
        result |= {"agreement": compare(ours, theirs), "kappa": kappa(texts, ours, theirs)}
    return result | {"habits": {name: habits(texts, critiques) for name, critiques in sides.items()}}


def compare(ours: Sequence[Critique], theirs: Sequence[Critique]) -> dict[str, Any]:
    """Precision, recall and F1 of our marks in n texts against theirs.

    Label, `all labels` or `any label` -> `spans` (the same place to the character) or `characters` -> `mean` or `pooled` ->
    precision, recall, f1. mean: over texts, as in SemEval-2021 task 5: a text that neither marks counts 1, one that a single
    side marks counts 0. pooled: of all marks together; None where there are none.
    """
    labels = sorted({span.label for critique in (*ours, *theirs) for span in critique.spans})
    chosen = {**{label: {label} for label in labels}, ALL: set(labels), ANY: set(labels)}
    rows: dict[str, Any] = {}
    for name, kept in chosen.items():
        rows[name] = {}
        for unit in UNITS:
            items = _items(unit, labelled=name != ANY)
            a, b = ([_marked(critique, kept, items) for critique in side] for side in (ours, theirs))
            rows[name][unit] = {"mean": _mean_over_texts(a, b), "pooled": _pooled(a, b)}
    return rows


def _items(unit: str, labelled: bool) -> Items:
    """What a span consists of: itself, or its characters; each with its label or without."""

    def items(span: Span) -> set[Hashable]:
        label = span.label if labelled else None
        places: Sequence[Hashable] = [(span.start, span.end)] if unit == "spans" else list(range(span.start, span.end))
        return {(place, label) for place in places}

    return items


def _marked(critique: Critique, labels: set[str], items: Items) -> set[Hashable]:
    return {item for span in critique.spans if span.label in labels for item in items(span)}


def _mean_over_texts(ours: Sequence[set[Hashable]], theirs: Sequence[set[Hashable]]) -> dict[str, float]:
    rows = [_ratios(len(a & b), len(a), len(b), neither=1.0) for a, b in zip(ours, theirs, strict=True)]
    return {name: float(np.mean([row[name] for row in rows])) for name in ("precision", "recall", "f1")}


def _pooled(ours: Sequence[set[Hashable]], theirs: Sequence[set[Hashable]]) -> dict[str, float | None]:
    both = sum(len(a & b) for a, b in zip(ours, theirs, strict=True))
    return _ratios(both, sum(map(len, ours)), sum(map(len, theirs)), neither=None)


def _ratios(both: int, ours: int, theirs: int, neither: float | None) -> dict[str, Any]:
    if not ours and not theirs:
        return dict.fromkeys(("precision", "recall", "f1"), neither)
    return {
        "precision": both / ours if ours else 0.0,
        "recall": both / theirs if theirs else 0.0,
        "f1": 2 * both / (ours + theirs),
    }


def kappa(texts: Sequence[Marked], ours: Sequence[Critique], theirs: Sequence[Critique]) -> float | None:
    """Cohen's kappa over all characters of n texts, whose classes are the labels that they are marked with.

    None where all characters are of one class.
    """
    pairs: Counter[tuple[frozenset[str], frozenset[str]]] = Counter()
    for text, a, b in zip(texts, ours, theirs, strict=True):
        pairs.update(zip(_classes(a, text.response), _classes(b, text.response), strict=True))
    total = sum(pairs.values())
    first, second = Counter[frozenset[str]](), Counter[frozenset[str]]()
    for (one, other), count in pairs.items():
        first[one] += count
        second[other] += count
    chance = sum(first[one] * second[one] for one in first)
    if not total or chance == total**2:
        return None
    observed = sum(count for (one, other), count in pairs.items() if one == other) / total
    return (observed - chance / total**2) / (1 - chance / total**2)


def _classes(critique: Critique, text: str) -> list[frozenset[str]]:
    labels: list[set[str]] = [set() for _ in text]
    for span in critique.spans:
        for place in range(span.start, span.end):
            labels[place].add(span.label)
    return [frozenset(one) for one in labels]


def habits(texts: Sequence[Marked], critiques: Sequence[Critique]) -> dict[str, Any]:
    """How one side marks n texts, without asking whether it is right.

    outcomes: shares. spans: a text. lost: share of its quotes that are not in the text. twice: share of its marks whose words
    stand in the text more than once. covering: share of texts of which it marks more than 80 %. length: correlation of marks
    per word with words per text. places: share of marks whose middle is in each fifth of the text. rating: correlation of
    (positive - negative) marks with the texts' ratings, `pearson` and `spearman`, and `texts`, how many have one. None stands
    for a number that there is not.
    """
    spans = [
        (span, text.response) for text, one in zip(texts, critiques, strict=True) for span in one.spans if text.response
    ]
    outcomes = Counter(critique.outcome for critique in critiques)
    quotes = sum(critique.quotes for critique in critiques)
    words = [max(1, len(text.response.split())) for text in texts]
    density = [len(critique.spans) / count for critique, count in zip(critiques, words, strict=True)]
    fifths = Counter(min(FIFTHS - 1, FIFTHS * (span.start + span.end) // (2 * len(text))) for span, text in spans)
    covered = [
        len(text.response) > 0 and sum(map(bool, _classes(critique, text.response))) > COVERING * len(text.response)
        for text, critique in zip(texts, critiques, strict=True)
    ]
    return {
        "outcomes": {outcome: outcomes[outcome] / len(critiques) for outcome in OUTCOMES},
        "spans": sum(len(critique.spans) for critique in critiques) / len(critiques),
        "lost": _share(sum(critique.lost for critique in critiques), quotes),
        "twice": _share(sum(_stands_twice(span, text) for span, text in spans), len(spans)),
        "covering": sum(covered) / len(texts),
        "length": _correlation(stats.pearsonr, density, words),
        "places": [_share(fifths[place], len(spans)) for place in range(FIFTHS)],
        "rating": _with_ratings(texts, critiques),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _stands_twice(span: Span, text: str) -> bool:
    _, lost = locate([Quote(text[span.start : span.end], span.label, 2)], text)
    return not lost


def _with_ratings(texts: Sequence[Marked], critiques: Sequence[Critique]) -> dict[str, Any]:
    rated = [(text.rating, one) for text, one in zip(texts, critiques, strict=True) if text.rating is not None]
    ratings = [rating for rating, _ in rated]
    balance = [float(_count(one, "positive") - _count(one, "negative")) for _, one in rated]
    kinds = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}
    return {"texts": len(rated), **{name: _correlation(kind, balance, ratings) for name, kind in kinds.items()}}


def _count(critique: Critique, label: str) -> int:
    return sum(span.label == label for span in critique.spans)


def _correlation(kind: Callable[..., Any], a: Sequence[float], b: Sequence[float]) -> float | None:
    """None where one of the two does not vary."""
    return float(kind(a, b).statistic) if len(set(a)) > 1 and len(set(b)) > 1 else None


def table(result: Mapping[str, Any]) -> str:
    """A check as text: agreement, then the habits of both sides beside each other."""
    lines = [result["title"]]
    if "agreement" in result:
        lines += _agreement_table(result)
    sides: Mapping[str, Any] = result["habits"]
    lines += ["", f"{'':36}" + "".join(f"{name:>20}" for name in sides)]
    for name, show in _HABITS.items():
        lines.append(f"{name:36}" + "".join(f"{show(side):>20}" for side in sides.values()))
    if any(side["rating"]["texts"] for side in sides.values()):
        for kind in ("pearson", "spearman"):
            cells = "".join(f"{_number(side['rating'][kind]):>20}" for side in sides.values())
            lines.append(f"{f'marks and rating, {kind.title()}':36}{cells}")
    seconds = result["seconds_per_1000_texts"]
    unknown = "seconds a thousand texts: one batch does not say, since models load in it; set a smaller batch="
    lines.append(unknown if seconds is None else f"{significant(seconds, 3)} s a thousand texts")
    cost = result["cost_per_1000_texts"]
    return "\n".join(lines) + ("" if cost is None else f", cost {significant(cost, 2)}")


_HABITS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "parsed, clean, unparsed": lambda side: " ".join(f"{side['outcomes'][name]:.0%}" for name in OUTCOMES),
    "spans a text": lambda side: f"{side['spans']:.2f}",
    "quotes that are not in the text": lambda side: _percent(side["lost"]),
    "marks whose words stand there twice": lambda side: _percent(side["twice"]),
    "texts marked by more than 80 %": lambda side: _percent(side["covering"]),
    "marks per word and length, Pearson": lambda side: _number(side["length"]),
    "marks in each fifth of the text": lambda side: " ".join(map(_percent, side["places"])),
}


def _agreement_table(result: Mapping[str, Any]) -> list[str]:
    names = ("precision", "recall", "f1")
    lines = []
    for how, title in (("mean", "mean over texts"), ("pooled", "all marks together")):
        lines += ["", f"{'':20}{'same span':>24}{'characters':>27}"]
        lines.append(f"{title:20}" + "   ".join("".join(f"{name:>{width}}" for name, width in _WIDTHS) for _ in UNITS))
        for label, units in result["agreement"].items():
            cells = [[_number(units[unit][how][name], 3) for name in names] for unit in UNITS]
            rows = ["".join(f"{cell:>{width}}" for cell, (_, width) in zip(row, _WIDTHS, strict=True)) for row in cells]
            lines.append(f"{label:20}" + "   ".join(rows))
    return [*lines, f"kappa over characters {_number(result['kappa'], 3)}"]


_WIDTHS = (("precision", 10), ("recall", 7), ("F1", 7))


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
