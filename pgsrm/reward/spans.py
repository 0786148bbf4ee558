"""From spans of a response to a value for each of its tokens. Pure functions of texts and offsets."""

from collections.abc import Mapping, Sequence
from typing import Literal

from pgsrm.rollout import Span

Per = Literal["token", "span"]
On = Literal["all", "first", "last"]
Match = Literal["offset", "released_sentiment", "released_detox"]
Offsets = Sequence[tuple[int, int]]


def tokens_of(span: Span, offsets: Offsets) -> list[int]:
    """The tokens that wrote a character of the span, in their order.

    offsets: for each token of the response the characters [start, end) that it wrote. A token without characters of its own
    wrote the later bytes of a character and belongs to the token before it; as the response's last token it is taken for the
    end of sequence, which no span covers.
    """
    inside: list[int] = []
    for token, (start, end) in enumerate(offsets):
        if start < end:
            belongs = start < span.end and end > span.start
        else:
            belongs = token < len(offsets) - 1 and bool(inside) and inside[-1] == token - 1
        if belongs:
            inside.append(token)
    return inside


def marked_labels(spans: Sequence[Span], text: str, offsets: Offsets, match: Match = "offset") -> list[tuple[str, ...]]:
    """For each token of the response the labels that it was marked with, each label once.

    match: how a token is found in a span. `offset`: it wrote a character of it. The two others are what the published code of
    arXiv:2401.07382 does: a token is marked if its text occurs anywhere in the joined texts of a label's spans, its blanks
    stripped (`released_sentiment`) or not (`released_detox`).
    """
    labels = list(dict.fromkeys(span.label for span in spans))
    if match == "offset":
        places = {label: {t for s in spans if s.label == label for t in tokens_of(s, offsets)} for label in labels}
        return [tuple(label for label in labels if token in places[label]) for token in range(len(offsets))]
    joined = {label: "\n".join(text[s.start : s.end] for s in spans if s.label == label) for label in labels}
    pieces = [text[start:end] for start, end in offsets]
    if match == "released_sentiment":
        pieces = [piece.strip() for piece in pieces]
    return [tuple(label for label in labels if piece and piece in joined[label]) for piece in pieces]


def token_values(
    spans: Sequence[Span],
    text: str,
    offsets: Offsets,
    values: Mapping[str, float],
    per: Per = "token",
    on: On = "all",
    match: Match = "offset",
) -> list[float]:
    """A value for each token of the response.

    values: label -> what it is worth; a label that is not among them is worth 0. per: `token`, each marked token gets its
    label's value, once however many spans of that label it is in; `span`, each span gets its label's value, in equal parts on
    its tokens. on: which tokens of a span count, all of them, its first or its last. A span that no token wrote is worth
    nothing. `released_*` know no spans: they go with per=token and on=all.
    """
    if match != "offset":
        marked = marked_labels(spans, text, offsets, match)
        return [sum(values.get(label, 0.0) for label in labels) for labels in marked]
    earned = [0.0] * len(offsets)
    paid: set[tuple[int, str]] = set()
    for span in dict.fromkeys(Span(span.start, span.end, span.label) for span in spans):
        tokens = _on(tokens_of(span, offsets), on)
        for token in tokens:
            if per == "span":
                earned[token] += values.get(span.label, 0.0) / len(tokens)
            elif (token, span.label) not in paid:
                paid.add((token, span.label))
                earned[token] += values.get(span.label, 0.0)
    return earned


def _on(tokens: list[int], on: On) -> list[int]:
    return tokens if on == "all" else tokens[:1] if on == "first" else tokens[-1:]
