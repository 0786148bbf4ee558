"""Files of marked texts, of people or of critics: JSON Lines, an object for each text.

    {"prompt": "I saw it", "response": "and it was lovely", "spans": [{"start": 11, "end": 17, "label": "positive"}]}
    {"response": "a dull film", "quotes": [{"quote": "dull", "label": "negative", "occurrence": 1}], "rating": -1.5}

`spans` are characters [start, end) of the response; `quotes` are found in it. What `python -m pgsrm.critic ask` writes has
`outcome`, `reply`, `quoted` and `lost` besides (`Critique`). Keys of other names are left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from pgsrm.critic.critique import Critique, Outcome
from pgsrm.critic.formats import one_line
from pgsrm.critic.quotes import Quote, locate
from pgsrm.rollout import Span
from pgsrm.task import read_lines, read_objects, read_table
from pgsrm.util.errors import UserError
from pgsrm.util.numbers import counted
from pgsrm.util.text import nfc

EXAMPLE = '{"response": "a dull film", "spans": [{"start": 2, "end": 6, "label": "negative"}]}'


@dataclass(frozen=True)
class Marked:
    """One text of a file, in Unicode's form NFC.

    prompt: None where the file says none. critique: what is marked in the response, by whom ever; None where the file does not
    say. rating: what people say that the response is worth, where they do. line: where in the file it stands, from 1.
    """

    response: str
    prompt: str | None = None
    critique: Critique | None = None
    rating: float | None = None
    line: int = 0


class _Mark(msgspec.Struct, forbid_unknown_fields=True):
    # Its first character, from 0.
    start: Annotated[int, Meta(ge=0)]
    # The character behind its last one.
    end: int
    # What it was marked as.
    label: Annotated[str, Meta(min_length=1)]


class _Quoted(msgspec.Struct, forbid_unknown_fields=True):
    # The words, to the letter.
    quote: str
    # What they were marked as.
    label: Annotated[str, Meta(min_length=1)]
    # Which of equal quotes it is, from 1.
    occurrence: Annotated[int, Meta(ge=1)] | None = None


class _Line(msgspec.Struct):
    # The text that is marked.
    response: str
    # What it answers.
    prompt: str | None = None
    # What is marked, by places.
    spans: list[_Mark] | None = None
    # What is marked, by words.
    quotes: list[_Quoted] | None = None
    # What people say that the response is worth.
    rating: float | None = None
    # `Critique.outcome`
    outcome: Outcome | None = None
    # `Critique.reply`
    reply: str | None = None
    # `Critique.quotes`
    quoted: Annotated[int, Meta(ge=0)] | None = None
    # `Critique.lost`
    lost: Annotated[int, Meta(ge=0)] = 0


def read_marked(path: Path, key: str) -> list[Marked]:
    """The texts of a file in which each says what is marked in it.

    Raises UserError, naming `key`, the file and the line, for one that does not, and for spans and quotes that are not in
    their response.
    """
    texts = _read_jsonl(path, key)
    for text in texts:
        if text.critique is None:
            raise _wrong(
                path, key, text.line, 'has neither `spans` nor `quotes`; write "spans": [] where none is marked'
            )
    return texts


def read_texts(path: Path, key: str) -> list[Marked]:
    """The texts of a file, whether or not it marks them.

    JSON Lines as above; CSV with the columns `response` and, where there are prompts, `prompt`; plain text (.txt) with a
    response on each line. Raises UserError, naming `key`, for anything malformed.
    """
    kind = path.suffix.lower()
    if kind == ".jsonl":
        return _read_jsonl(path, key)
    if kind == ".txt":
        return [Marked(nfc(line), line=number) for number, line in read_lines(path, key)]
    if kind != ".csv":
        raise UserError(f"{key}={path}: the name ends in none of .jsonl, .csv, .txt; save it as one of them")
    rows = read_table(path, key)
    if "response" not in rows[0].values:
        columns = ", ".join(rows[0].values)
        raise UserError(f"{key}={path}: has no column `response` (there are: {columns}); rename the one with the texts")
    return [Marked(row.values["response"], row.values.get("prompt"), line=row.line) for row in rows]


def as_line(text: Marked) -> dict[str, Any]:
    """The object that `read_marked` reads this text from; `critique` must be there."""
    critique = text.critique
    assert critique is not None
    return {
        **({} if text.prompt is None else {"prompt": text.prompt}),
        "response": text.response,
        "spans": [{"start": span.start, "end": span.end, "label": span.label} for span in critique.spans],
        "outcome": critique.outcome,
        "reply": critique.reply,
        "quoted": critique.quotes,
        "lost": critique.lost,
        **({} if text.rating is None else {"rating": text.rating}),
    }


def runs(characters: Iterable[int]) -> list[tuple[int, int]]:
    """The spans [start, end) that marked characters form, as files of the SemEval shared tasks list them."""
    spans: list[tuple[int, int]] = []
    for place in sorted(set(characters)):
        if spans and spans[-1][1] == place:
            spans[-1] = (spans[-1][0], place + 1)
        else:
            spans.append((place, place + 1))
    return spans


def _read_jsonl(path: Path, key: str) -> list[Marked]:
    if path.suffix.lower() != ".jsonl":
        raise UserError(
            f"{key}={path}: the name does not end in .jsonl; write marked texts as JSON Lines, as {EXAMPLE}"
        )
    return [text_of_line(values, path, key, line) for line, values in read_objects(path, key)]


def text_of_line(values: Mapping[str, object], path: Path, key: str, number: int) -> Marked:
    """The text that one object of such a file is. Raises UserError, naming `key`, the file and the line's `number`."""
    try:
        line = msgspec.convert(values, _Line)
    except msgspec.ValidationError as error:
        problem = str(error).replace("`$.", "`").replace(" - at `$`", "")
        raise _wrong(path, key, number, f"{problem[0].lower()}{problem[1:]}; write it as {EXAMPLE}") from error
    if line.spans is not None and line.quotes is not None:
        raise _wrong(path, key, number, "has both `spans` and `quotes`; leave one out")
    response = nfc(line.response)
    if line.quotes is not None:
        line.spans = _places(line.quotes, response, path, key, number)
    elif line.spans is not None:
        _check_spans(line.spans, line.response, path, key, number)
        if response != line.response:  # a letter and its accent became one character: what follows moved
            for mark in line.spans:
                mark.start, mark.end = (len(nfc(line.response[:place])) for place in (mark.start, mark.end))
    prompt = None if line.prompt is None else nfc(line.prompt)
    return Marked(response, prompt, _critique(line, response), line.rating, number)


def _check_spans(spans: list[_Mark], response: str, path: Path, key: str, number: int) -> None:
    for mark in spans:
        if not mark.start < mark.end <= len(response):
            place = f"the span from {mark.start} to {mark.end}"
            remedy = "count characters from 0, with 0 <= start < end <= length"
            raise _wrong(
                path, key, number, f"{place} is not in a response of {counted(len(response), 'character')}; {remedy}"
            )


def _places(quoted: list[_Quoted], response: str, path: Path, key: str, number: int) -> list[_Mark]:
    quotes = [Quote(one_line(nfc(one.quote)), one.label, one.occurrence) for one in quoted]
    flat = one_line(response)  # of the same length, as a critic's quotes are read
    spans, lost = locate(quotes, flat)
    if lost:
        absent = next(one for count, one in enumerate(quoted) if locate(quotes[: count + 1], flat)[1])
        problem = f"the quote {absent.quote[:40]!r} is not in the response, or not as often as the line says"
        raise _wrong(path, key, number, f"{problem}; copy whole words to the letter, or give `spans`")
    return [_Mark(span.start, span.end, span.label) for span in spans]


def _critique(line: _Line, response: str) -> Critique | None:
    if line.spans is None:
        return None
    marks = sorted((mark.start, mark.end, mark.label) for mark in line.spans)
    own = Critique.of_spans([Span(*mark) for mark in dict.fromkeys(marks)], response)
    return Critique(
        own.spans,
        line.outcome or own.outcome,
        own.reply if line.reply is None else line.reply,
        own.quotes if line.quoted is None else line.quoted,
        line.lost,
    )


def _wrong(path: Path, key: str, number: int, problem: str) -> UserError:
    return UserError(f"{key}={path}: line {number}: {problem}")
