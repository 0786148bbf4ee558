"""The two forms of a critic's reply, read strictly: what is in neither form marks nothing.

Text, for models that write no JSON:

    Good: lovely; a warm story
    Bad: none

JSON, for servers that keep to a schema: {"spans": [{"quote": "lovely", "occurrence": 1, "label": "positive"}]}.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from pgsrm.critic.critique import Critique
from pgsrm.critic.quotes import Quote, locate
from pgsrm.rollout import Span

NONE = "none"
LABELS = {"positive": "Good", "negative": "Bad"}  # label -> how its line begins
_LINE_END = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_FENCED = re.compile(r"\s*```(?:json)?\s*(.*?)\s*```\s*", re.DOTALL)


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


def write_text(quotes: Sequence[Quote], labels: Mapping[str, str] = LABELS) -> str:
    """A reply in the text form. labels: label -> how its line begins."""
    rows = {label: [quote.text for quote in quotes if quote.label == label] for label in labels}
    return "\n".join(f"{labels[label]}: {'; '.join(texts) or NONE}" for label, texts in rows.items())


def write_json(quotes: Sequence[Quote]) -> str:
    """A reply in the JSON form; of equal quotes without a number the first is the first place, as `locate` takes them."""
    counted: Counter[str] = Counter()
    spans = []
    for quote in quotes:
        counted[quote.text] += 1
        spans.append({"quote": quote.text, "occurrence": quote.occurrence or counted[quote.text], "label": quote.label})
    return json.dumps({"spans": spans}, ensure_ascii=False)


def json_schema(labels: Iterable[str] = LABELS) -> dict[str, Any]:
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


def read_reply(reply: str, response: str, labels: Mapping[str, str] = LABELS, before: str = "") -> Critique:
    """The critique that a reply is, in either form, of a response.

    labels: label -> how its line begins. before: what the critic read in front of the response and as one text with it; quotes
    of it are counted, and mark nothing.

    A reply in neither form is `unparsed`: none of its words is taken for a quote. A reply that quotes nothing is `clean`. One
    whose quotes are all lost is `parsed`, without spans. A line end of the response is a blank in a quote.
    """
    quotes = _from_json(reply, labels)
    if quotes is None:
        quotes = _from_text(reply, labels)
    if quotes is None:
        return Critique((), "unparsed", reply)
    if not quotes:
        return Critique((), "clean", reply)
    spans, lost = locate(quotes, one_line(before + response))  # of the same length: offsets are the response's own
    first = len(before)
    own = tuple(Span(span.start - first, span.end - first, span.label) for span in spans if span.start >= first)
    return Critique(own, "parsed", reply, quotes=len(quotes), lost=lost)


def one_line(text: str) -> str:
    """The text with blanks for line ends, of the same length."""
    return _LINE_END.sub(" ", text)


def _from_json(reply: str, labels: Mapping[str, str]) -> list[Quote] | None:
    """The quotes of a JSON reply; a code fence around the whole of it, as chat models write one, is no part of it."""
    fenced = _FENCED.fullmatch(reply)
    try:
        read = msgspec.json.decode((fenced[1] if fenced else reply).strip(), type=_Reply)
    except (msgspec.DecodeError, UnicodeError):
        return None
    if any(span.label not in labels or (span.occurrence is not None and span.occurrence < 1) for span in read.spans):
        return None
    return [Quote(one_line(span.quote), span.label, span.occurrence) for span in read.spans]


def _from_text(reply: str, labels: Mapping[str, str]) -> list[Quote] | None:
    lines = reply.strip().split("\n")
    if len(lines) != len(labels):
        return None
    quotes = []
    for line, (label, name) in zip(lines, labels.items(), strict=True):
        begins, _, rest = line.partition(f"{name}:")
        parts = [part.strip() for part in rest.split(";") if part.strip()]
        if begins or not parts:  # another line, or neither a quote nor the word that says there is none
            return None
        if rest.strip().lower() != NONE:
            quotes += [Quote(part, label) for part in parts]
    return quotes
