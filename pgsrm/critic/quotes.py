"""From what a critic quotes to spans of the response: exactly what it says, or nothing."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pgsrm.rollout import Span


@dataclass(frozen=True)
class Quote:
    """A text that a critic quotes, and its label; occurrence: which one it means, from 1, None where it doesn't say."""

    text: str
    label: str
    occurrence: int | None = None


def locate(quotes: Sequence[Quote], text: str) -> tuple[tuple[Span, ...], int]:
    """The spans of a response that the quotes mean, and how many quotes are lost because the response has no such place.

    A place is where the text has the quote to the letter, and not as a part of a longer word. Of equal quotes without a number
    the first means the first place, the second the second one. Two quotes that mean one place under one label are one span.
    """
    spans: dict[Span, None] = {}
    counted: Counter[str] = Counter()
    lost = 0
    for quote in quotes:
        number = quote.occurrence
        if number is None:
            counted[quote.text] += 1
            number = counted[quote.text]
        place = next((start for count, start in enumerate(_places(quote.text, text), 1) if count == number), None)
        if place is None:
            lost += 1
        else:
            spans[Span(place, place + len(quote.text), quote.label)] = None
    return tuple(sorted(spans, key=lambda span: (span.start, span.end, span.label))), lost


def _places(quote: str, text: str) -> Iterator[int]:
    """Where `text` has the quote, from left to right; places may overlap."""
    if not quote.strip():
        return
    before = r"(?<!\w)" if re.match(r"\w", quote) else ""
    behind = r"(?!\w)" if re.match(r"\w", quote[-1]) else ""
    for match in re.finditer(f"{before}(?={re.escape(quote)}{behind})", text):
        yield match.start()
