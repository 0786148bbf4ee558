"""Preference pairs: a prompt, the better and the worse response to it, and by how much.

Sources: a parent's answers over the policy's own, two of the policy's own ordered by a label, a file; `ratings` has a fourth.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pgsrm.task import Example, read_objects, read_table
from pgsrm.util.errors import UserError
from pgsrm.util.numbers import counted, in_float32
from pgsrm.util.text import nfc

SPLIT = "by threshold"  # how `split` splits, for the cards of reward models
EXAMPLE = '{"prompt": "hot is ", "chosen": "cold", "rejected": "warm"}'
T = TypeVar("T")
Labels = Callable[[Sequence[Example], Sequence[str]], Sequence[float]]  # what n responses to n examples are worth


class Preference(NamedTuple):
    """One pair. margin: how much better the chosen response is, above 0, where that is known.

    agreement: the probability that two halves of the people who rated both responses order them alike, where people did.
    """

    prompt: str
    chosen: str
    rejected: str
    margin: float | None = None
    agreement: float | None = None

    @property
    def group(self) -> str:
        """What must not be on both sides of a split: the prompt, or the pair itself where there is none."""
        return self.prompt or f"{self.chosen}\n{self.rejected}"


def over_samples(
    examples: Sequence[Example], samples: Sequence[Sequence[str]], most: int, draw: random.Random
) -> list[Preference]:
    """The parent's answer over each different sample of the same prompt, at most `most` for each prompt, at random.

    Of several references the first is the parent's answer. Samples that equal any, but for white space at the ends, are dropped.
    """
    pairs = []
    for example, texts in zip(examples, samples, strict=True):
        others = [
            text
            for text in dict.fromkeys(texts)
            if not any(text.strip() == taught.strip() for taught in example.all_taught)
        ]
        pairs += [Preference(example.prompt, example.taught, text) for text in _some(others, most, draw)]
    return pairs


def ordered(
    examples: Sequence[Example], samples: Sequence[Sequence[str]], labels: Labels, most: int, draw: random.Random
) -> list[Preference]:
    """Two different samples of the same prompt, the one with the higher label first; at most `most` for each prompt, at random.

    margin: the difference of the labels. Ties are dropped, also those that differ beyond float32's digits alone.
    """
    texts = [(example, text) for example, row in zip(examples, samples, strict=True) for text in dict.fromkeys(row)]
    values = iter(labels([example for example, _ in texts], [text for _, text in texts]))
    pairs = []
    for example, row in zip(examples, samples, strict=True):
        worth = [(text, next(values)) for text in dict.fromkeys(row)]
        unequal = [(one, two) for one, two in combinations(worth, 2) if len(set(in_float32([one[1], two[1]]))) == 2]
        for one, two in _some(unequal, most, draw):
            (better, high), (worse, low) = (one, two) if one[1] > two[1] else (two, one)
            pairs.append(Preference(example.prompt, better, worse, high - low))
    return pairs


def _some(rows: list[T], most: int, draw: random.Random) -> list[T]:
    return rows if len(rows) <= most else draw.sample(rows, most)


def split(pairs: Sequence[Preference], share: float) -> tuple[list[Preference], list[Preference]]:
    """Training pairs and held-out pairs, about `share` of the prompts: those whose hash, a number in [0, 1), is below `share`.

    So a prompt's side is the same for every seed and file, and whatever other prompts there are. The number of held-out prompts
    of n varies by sqrt(share (1 - share) n). Where all would be on one side, the prompt with the smallest hash is held out, or
    that with the largest trained on.

    Raises UserError where all pairs have one prompt.
    """
    places = {group: _place(group) for group in dict.fromkeys(pair.group for pair in pairs)}
    if len(places) < 2:
        raise UserError(
            f"pairs: {counted(len(places), 'prompt')} with a pair; some are trained on and some kept out, so give more"
        )
    first, last = min(places, key=places.__getitem__), max(places, key=places.__getitem__)
    kept_out = ({group for group, place in places.items() if place < share} | {first}) - {last}
    train = [pair for pair in pairs if pair.group not in kept_out]
    return train, [pair for pair in pairs if pair.group in kept_out]


def _place(group: str) -> float:
    """A number in [0, 1) by the SHA-256 of a text, evenly spread."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:6], "big") / 2**48


def as_lines(pairs: Iterable[Preference]) -> str:
    """JSON Lines, an object for each pair, without what is not known; `read_pairs` reads them."""
    rows = ({key: value for key, value in pair._asdict().items() if value is not None} for pair in pairs)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_pairs(path: Path, key: str) -> list[Preference]:
    """The pairs of a JSONL or CSV file with the columns prompt, chosen, rejected and, where known, margin and agreement.

    White space at the ends of a text counts in JSONL; CSV loses it. Raises UserError, naming `key`, the file and the line.
    """
    if path.suffix.lower() == ".jsonl":
        rows: list[tuple[int, dict[str, Any]]] = list(read_objects(path, key))
    else:
        rows = [(row.line, dict(row.values)) for row in read_table(path, key)]
    return [_pair(row, f"{key}={path}: line {line}") for line, row in rows]


def _pair(row: dict[str, Any], where: str) -> Preference:
    for column in ("prompt", "chosen", "rejected"):
        if not isinstance(row.get(column), str):
            problem = "no column" if column not in row else "no text in"
            raise UserError(f"{where}: {problem} `{column}`; write a pair as {EXAMPLE}")
    prompt, chosen, rejected = (nfc(row[column]) for column in ("prompt", "chosen", "rejected"))
    if chosen == rejected:
        raise UserError(f"{where}: chosen and rejected are equal; remove the pair")
    margin, agreement = (_number(row, column, where) for column in ("margin", "agreement"))
    if margin is not None and margin <= 0:
        raise UserError(f"{where}: margin={margin:g}; write how much better `chosen` is, above 0")
    return Preference(prompt, chosen, rejected, margin, agreement)


def _number(row: dict[str, Any], column: str, where: str) -> float | None:
    value = row.get(column)
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not abs(number) < float("inf"):
        raise UserError(f"{where}: {column}={value!r}: is no number; write one, or leave it out")
    return number
