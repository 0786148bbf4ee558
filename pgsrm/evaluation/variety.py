"""How different texts are from each other, and how often they repeat themselves; words in lower case."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

Gram = tuple[str, ...]


def variety(texts: Sequence[str]) -> dict[str, float]:
    """`distinct_1`, `distinct_2`, `distinct_3` and `self_bleu` over all texts, `repetition` within a text, and `empty`.

    distinct_n is the number of different n-grams of words divided by the number of all (Li et al. 2016, 5.2). repetition is
    the mean over the texts of at least two words of 1 - different / all pairs of neighbouring words. empty is the share of texts
    without words. self_bleu is that of the other texts, and not there for less than two of them.
    """
    words = [text.lower().split() for text in texts]
    metrics = {f"distinct_{n}": _distinct([gram for row in words for gram in _grams(row, n)]) for n in (1, 2, 3)}
    own = [1 - _distinct(pairs) for row in words if (pairs := list(_grams(row, 2)))]
    spoken = [row for row in words if row]
    return {
        **metrics,
        **({"self_bleu": self_bleu(spoken)} if len(spoken) > 1 else {}),
        "repetition": sum(own) / len(own) if own else 0.0,
        "empty": 1 - len(spoken) / len(words),
    }


def self_bleu(texts: Sequence[Sequence[str]]) -> float:
    """Mean over n texts, at least two of at least one word each, of the BLEU of each with all others (Texygen, Zhu et al. 2018).

    1 where all texts are the same, 0 where no two have a word in common. BLEU is that of sacrebleu for a sentence with its
    defaults: of up to four words, of shorter texts of as many as they have; precisions of 0 are taken as 1/2, 1/4 ... of a match.
    """
    counts = [[Counter(_grams(words, n)) for words in texts] for n in range(1, 5)]
    largest = [_two_largest(rows) for rows in counts]
    lengths = Counter(map(len, texts))
    total = 0.0
    for place, words in enumerate(texts):
        hits = [
            sum(min(count, _of_others(most[gram], count)) for gram, count in rows[place].items())
            for rows, most in zip(counts, largest, strict=True)
        ]
        others = lengths - Counter([len(words)])
        nearest = min(others, key=lambda length: (abs(length - len(words)), length))
        total += _bleu(hits, [rows[place].total() for rows in counts], len(words), nearest)
    return total / len(texts)


def _two_largest(rows: Sequence[Counter[Gram]]) -> dict[Gram, tuple[int, int]]:
    """Of each n-gram the largest and second largest count in a text; 0 where only one text has it."""
    largest: dict[Gram, tuple[int, int]] = {}
    for row in rows:
        for gram, count in row.items():
            first, second = largest.get(gram, (0, 0))
            largest[gram] = (count, first) if count > first else (first, max(second, count))
    return largest


def _of_others(largest: tuple[int, int], own: int) -> int:
    """The largest count in a text other than the one that has the count `own`."""
    first, second = largest
    return second if own == first else first


def _bleu(hits: Sequence[int], totals: Sequence[int], length: int, nearest: int) -> float:
    """BLEU of a text of so many words from its matching and its total n-grams by n, and the nearest length of a reference."""
    if not any(hits):
        return 0.0
    smooth, logs = 1, list[float]()
    for hit, total in zip(hits, totals, strict=True):
        if not total:
            break
        smooth *= 1 if hit else 2
        logs.append(math.log((hit or 1 / smooth) / total))
    return math.exp(sum(logs) / len(logs) + min(0.0, 1 - nearest / length))


def _grams(words: Sequence[str], n: int) -> Iterator[Gram]:
    return zip(*(words[start:] for start in range(n)), strict=False)


def _distinct(grams: Sequence[Any]) -> float:
    return len(set(grams)) / len(grams) if grams else 0.0
