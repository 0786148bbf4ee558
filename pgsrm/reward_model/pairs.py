"""Preference pairs: a prompt, the better and the worse response to it, and by how much.

Sources: a parent's answers over the policy's own, two of the policy's own ordered by a label, a file; `ratings` has a fourth.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pgsrm.task import Example, read_objects, read_table
from pgsrm.util.errors import UserError
from pgsrm.util.text import nfc

EXAMPLE = '{"prompt": "hot is ", "chosen": "cold", "rejected": "warm"}'
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


def over_samples(examples: Sequence[Example], samples: Sequence[Sequence[str]]) -> list[Preference]:
    """The parent's answer over each sample of the same prompt. Equal texts are dropped, and pairs that are there already."""
    pairs = [
        Preference(example.prompt, example.taught, sample)
        for example, texts in zip(examples, samples, strict=True)
        for sample in texts
        if sample.strip() != example.taught.strip()
    ]
    return list(dict.fromkeys(pairs))


def ordered(examples: Sequence[Example], samples: Sequence[Sequence[str]], labels: Labels) -> list[Preference]:
    """The first over the second, the third over the fourth ... sample of a prompt, or the other way round, by their labels.

    margin: the difference. Ties are dropped, and pairs that are there already.
    """
    drawn = [
        (example, *texts[place : place + 2])
        for example, texts in zip(examples, samples, strict=True)
        for place in range(0, len(texts) - 1, 2)
    ]
    asked = [example for example, _, _ in drawn]
    firsts, seconds = (labels(asked, [draw[side] for draw in drawn]) for side in (1, 2))
    pairs = [
        Preference(example.prompt, *((one, two) if a > b else (two, one)), abs(a - b))
        for (example, one, two), a, b in zip(drawn, firsts, seconds, strict=True)
        if a != b
    ]
    return list(dict.fromkeys(pairs))


def split(pairs: Sequence[Preference], share: float) -> tuple[list[Preference], list[Preference]]:
    """Training pairs and held-out pairs: `share` of the prompts, at least one, by a hash, the same for every seed and file.

    Raises UserError where all pairs have one prompt.
    """
    groups = sorted(dict.fromkeys(pair.group for pair in pairs), key=lambda one: hashlib.sha256(one.encode()).digest())
    if len(groups) < 2:
        raise UserError(
            f"pairs: {len(groups)} prompts with a pair; some are trained on and some kept out, so give more"
        )
    kept_out = set(groups[: max(1, min(len(groups) - 1, round(share * len(groups))))])
    train = [pair for pair in pairs if pair.group not in kept_out]
    return train, [pair for pair in pairs if pair.group in kept_out]


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
    texts = [nfc(row[column]) for column in ("prompt", "chosen", "rejected")]
    if texts[1] == texts[2]:
        raise UserError(f"{where}: chosen and rejected are equal; remove the pair")
    margin, agreement = (_number(row, column, where) for column in ("margin", "agreement"))
    if margin is not None and margin <= 0:
        raise UserError(f"{where}: margin={margin:g}; write how much better `chosen` is, above 0")
    return Preference(*texts, margin, agreement)


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
