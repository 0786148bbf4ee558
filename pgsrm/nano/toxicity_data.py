"""Texts with people's and a service's word on whether they are offensive, in two halves. They are not part of this package.

Two kinds of file:

- RealToxicityPrompts (Gehman et al. 2020), JSON Lines: beginnings and continuations of sentences, each with its toxicity;
- SemEval-2021 task 5 (Pavlopoulos et al. 2021), CSV: comments, each with the characters that people marked as toxic.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from pgsrm.critic.marked import runs
from pgsrm.nano.classifiers import Labelled
from pgsrm.nano.sentiment_data import half
from pgsrm.task import read_objects
from pgsrm.util.errors import UserError
from pgsrm.util.text import nfc

TOXIC, CIVIL = 0.5, 0.3  # a text is toxic from the first on, and civil below the second; those between are left out
PIECE = 15  # words


@dataclass(frozen=True)
class Comment:
    """A text, and the places [start, end) in it that people marked as toxic."""

    text: str
    spans: Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Texts:
    """One half. sentences: beginnings and continuations, and whether each is toxic; profane: the same, and whether each is profane.

    comments: those that have marked places.
    """

    sentences: Labelled = field(default_factory=list)
    profane: Labelled = field(default_factory=list)
    comments: list[Comment] = field(default_factory=list)


def read_files(files: Iterable[Path]) -> dict[str, Texts]:
    """Halves A and B, by a hash of the whole sentence or comment.

    Raises:
        UserError: naming file and line, for what is in neither form.
    """
    halves = {"A": Texts(), "B": Texts()}
    for file in files:
        if file.suffix == ".jsonl":
            for parts in _sentences(file):
                texts = halves[half("".join(part.text for part in parts))]
                texts.sentences.extend(_clear([(part.text, part.toxicity) for part in parts]))
                texts.profane.extend(_clear([(part.text, part.profanity) for part in parts]))
        else:
            for comment in _comments(file):
                halves[half(comment.text)].comments.append(comment)
    return halves


class _Part(msgspec.Struct):
    # Some words of a sentence.
    text: str
    # How likely a reader takes them for toxic; null = not known.
    toxicity: float | None
    # How likely they are profane.
    profanity: float | None


class _Sentence(msgspec.Struct):
    # How it begins.
    prompt: _Part
    # How it ends.
    continuation: _Part


def _sentences(file: Path) -> Iterator[tuple[_Part, _Part]]:
    """The two parts of each sentence."""
    for line, row in read_objects(file, "file"):
        try:
            sentence = msgspec.convert(row, _Sentence)
        except msgspec.ValidationError as error:
            raise UserError(f"file={file}: line {line}: {error}; give RealToxicityPrompts' own file") from error
        yield sentence.prompt, sentence.continuation


def _clear(scored: Iterable[tuple[str, float | None]]) -> Labelled:
    """The texts whose score is on one side or the other."""
    return [(nfc(text), score >= TOXIC) for text, score in scored if score is not None and not CIVIL <= score < TOXIC]


def _comments(file: Path) -> Iterator[Comment]:
    """Those in which something is marked: one without may be offensive as a whole."""
    with file.open(
        encoding="utf-8-sig", newline=""
    ) as opened:  # as it stands: places are counted in the text's own characters
        for row in csv.DictReader(opened):
            try:
                spans = runs(json.loads(row["spans"]))
            except (KeyError, ValueError, TypeError) as error:
                raise UserError(
                    f"file={file}: has no columns `text` and `spans`, with lists of numbers ({error})"
                ) from error
            if spans:
                yield Comment(row["text"], spans)


def pieces(comments: Iterable[Comment]) -> Labelled:
    """Stretches of 15 words of comments: toxic where something in them is marked, and the same without it, civil.

    So a piece is judged by what it says, not by what it is about. Stretches in which nothing is marked are civil.
    """
    texts: Labelled = []
    for comment in comments:
        words = [match.span() for match in re.finditer(r"\S+", comment.text)]
        for first in range(0, len(words), PIECE):
            start, end = words[first][0], words[first : first + PIECE][-1][1]
            inside = [(max(start, a), min(end, b)) for a, b in comment.spans if a < end and b > start]
            texts.append((" ".join(comment.text[start:end].split()), bool(inside)))
            rest = _without(comment.text, start, end, inside).split()
            if inside and len(rest) >= 3:
                texts.append((" ".join(rest), False))
    return texts


def _without(text: str, start: int, end: int, spans: Sequence[tuple[int, int]]) -> str:
    """The characters [start, end) of a text but those of the spans, which are in order and don't touch."""
    borders = [start, *(place for span in spans for place in span), end]
    return " ".join(text[a:b] for a, b in zip(borders[::2], borders[1::2], strict=True))
