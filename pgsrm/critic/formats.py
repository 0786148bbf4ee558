"""The two forms of a critic's reply, read strictly: what is in neither form marks nothing.

Text, for models that write no JSON:

    Good: lovely; a warm story
    Bad: none

JSON, for servers that keep to a schema: {"spans": [{"quote": "lovely", "occurrence": 1, "label": "positive"}]}.
"""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from pgsrm.critic.critique import Critique
from pgsrm.critic.quotes import Quote, locate

NONE = "none"
LINES = {"positive": "Good", "negative": "Bad"}  # label -> how its line begins
_TEXT = re.compile(r"\s*Good:(?P<positive>[^\n]*)\nBad:(?P<negative>[^\n]*)\s*")


class _Quoted(msgspec.Struct, forbid_unknown_fields=True):
    # The words, to the letter.
    quote: str
    # One of the labels that were asked for.
    label: str
    # Which of equal quotes it is, from 1.
    occurrence: int | None = None


class _Reply(msgspec.Struct, forbid_unknown_fields=True):
    # What is marked; empty where there is nothing to mark.
    spans: list[_Quoted]


def write_text(quotes: Sequence[Quote]) -> str:
    """A reply in the text form."""
    rows = {label: [quote.text for quote in quotes if quote.label == label] for label in LINES}
    return "\n".join(f"{LINES[label]}: {'; '.join(texts) or NONE}" for label, texts in rows.items())


def json_schema(labels: Sequence[str] = tuple(LINES)) -> dict[str, Any]:
    """The schema of the JSON form, as a server's `response_format` takes it."""
    span = {
        "type": "object",
        "properties": {
            "quote": {"type": "string"},
            "occurrence": {"type": "integer"},
            "label": {"type": "string", "enum": list(labels)},
        },
        "required": ["quote", "occurrence", "label"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"spans": {"type": "array", "items": span}},
        "required": ["spans"],
        "additionalProperties": False,
    }


def read_reply(reply: str, response: str, labels: Sequence[str] = tuple(LINES)) -> Critique:
    """The critique that a reply is, in either form, of a response.

    A reply in neither form is `unparsed`: none of its words is taken for a quote. A reply that quotes nothing is `clean`; so is
    none whose quotes are all lost: that one is `parsed`, without spans. A newline of the response is a blank in a quote.
    """
    quotes = _from_json(reply, labels)
    if quotes is None:
        quotes = _from_text(reply)
    if quotes is None:
        return Critique((), "unparsed", reply)
    if not quotes:
        return Critique((), "clean", reply)
    spans, lost = locate(quotes, response.replace("\n", " "))  # of the same length: offsets are the response's own
    return Critique(spans, "parsed", reply, quotes=len(quotes), lost=lost)


def _from_json(reply: str, labels: Sequence[str]) -> list[Quote] | None:
    try:
        read = msgspec.json.decode(reply.strip(), type=_Reply)
    except (msgspec.DecodeError, UnicodeError):
        return None
    if any(span.label not in labels or (span.occurrence is not None and span.occurrence < 1) for span in read.spans):
        return None
    return [Quote(span.quote.replace("\n", " "), span.label, span.occurrence) for span in read.spans]


def _from_text(reply: str) -> list[Quote] | None:
    match = _TEXT.fullmatch(reply)
    if match is None:
        return None
    quotes = []
    for label in LINES:
        line = match[label].strip()
        parts = [part.strip() for part in line.split(";") if part.strip()]
        if not parts:  # neither a quote nor the word that says there is none
            return None
        if line.lower() != NONE:
            quotes += [Quote(part, label) for part in parts]
    return quotes
