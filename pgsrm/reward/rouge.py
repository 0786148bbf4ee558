"""ROUGE (Lin 2004): how much of a reference's words, pairs of words or word order a response has."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Literal

from msgspec import Meta

from pgsrm.reward.references import check_references, compared
from pgsrm.util.errors import UserError

Kind = Literal["rouge1", "rouge2", "rougeL"]
Measure = Literal["f1", "precision", "recall"]
_WORD = re.compile("[a-z0-9]+")


class RougeReward:
    """scale * ROUGE of a response against its reference: a number from 0 to `scale` for each response.

    kind, with the words of both texts (`words_of`):
        rouge1, rouge2: words, or pairs of neighbouring words, that both have; of one that occurs several times as many as
            both have
        rougeL: the longest sequence of words that both have in this order, gaps allowed, of the whole texts
    measure: precision is their number divided by that of the response, recall divided by that of the reference, f1 the
    harmonic mean of the two. Each is 0 where there is nothing to divide by, so an empty response earns 0. Of several references to
    a prompt the one with the largest number counts.

    The numbers are those of Google's package rouge-score without its stemmer; `scale: 100` gives them in per cent.

    Raises UserError for a run in which a prompt has no reference, or one without any word, before it starts.
    """

    def __init__(
        self,
        kind: Kind = "rouge1",
        measure: Measure = "f1",
        scale: Annotated[float, Meta(gt=0, lt=1e6)] = 1.0,
    ) -> None:
        self._kind, self._measure, self._scale = kind, measure, scale

    def check(self, references: Sequence[str]) -> None:
        """Raise UserError where a reference is missing, or has no word that ROUGE could find in a response."""
        check_references(references, "reward=rouge", needs_all=True)
        for reference in references:
            if len(_units(reference, self._kind)) == 0:
                lack = "less than two words" if self._kind == "rouge2" else "no word"
                raise UserError(
                    f"reward=rouge: the reference {reference!r} has {lack} of a-z and 0-9, so that every response to it would "
                    "earn 0; change it, or choose a reward that reads its letters (reward=pgsrm embedder=sentence_transformer)"
                )

    def __call__(
        self,
        *,
        references: Sequence[str],
        responses: Sequence[str],
        all_references: Sequence[Sequence[str]] | None = None,
        **_: object,
    ) -> tuple[list[float], dict[str, float]]:
        """One reward per response, and the mean before `scale` as a metric with the name of the kind (`rouge1`)."""
        pairs = zip(responses, compared(references, all_references), strict=True)
        values = [max(rouge(text, one, self._kind, self._measure) for one in several) for text, several in pairs]
        name = self._kind if self._measure == "f1" else f"{self._kind}_{self._measure}"
        return [self._scale * value for value in values], {name: sum(values) / max(1, len(values))}


def rouge(response: str, reference: str, kind: Kind = "rouge1", measure: Measure = "f1") -> float:
    """ROUGE of one response, from 0 to 1; `RougeReward` says what it is."""
    ours, theirs = _units(response, kind), _units(reference, kind)
    if not ours or not theirs:
        return 0.0
    common = _longest_common(ours, theirs) if kind == "rougeL" else (Counter(ours) & Counter(theirs)).total()
    precision, recall = common / len(ours), common / len(theirs)
    if measure != "f1":
        return precision if measure == "precision" else recall
    return 2 * precision * recall / (precision + recall) if common else 0.0


def words_of(text: str) -> list[str]:
    """The words that ROUGE compares: runs of a-z and 0-9 of the text in lower case.

    All other characters are gaps, letters beyond ASCII too: "café" is the word "caf", "naïve" is "na" and "ve", and a text
    in Chinese has no word at all. rouge-score does the same, and published numbers are made so.
    """
    return _WORD.findall(text.lower())


@lru_cache(maxsize=50_000)
def _units(text: str, kind: Kind) -> tuple[object, ...]:
    """What is counted: words, or pairs of neighbouring words. Kept: references return in every batch."""
    words = words_of(text)
    return tuple(pairwise(words)) if kind == "rouge2" else tuple(words)


def _longest_common(a: Sequence[object], b: Sequence[object]) -> int:
    """Length of the longest common subsequence, by dynamic programming over one row."""
    row = [0] * (len(b) + 1)  # row[j]: that of what was read of `a`, and the first j of `b`
    for word in a:
        before = 0  # row[j - 1] without this word
        for j, other in enumerate(b, start=1):
            before, row[j] = row[j], before + 1 if word == other else max(row[j], row[j - 1])
    return row[-1]
