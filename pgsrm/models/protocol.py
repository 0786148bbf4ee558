"""The parts of the OpenAI protocol's answers that are used, and what makes an answer a right one; the rest is ignored."""

import base64
import json
import math
import re
from array import array
from collections.abc import Sequence
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from pgsrm.models.server_errors import Failure, error_in, shown_body
from pgsrm.util.numbers import counted

_HALF = re.compile(rb"\\u[dD][89a-fA-F]")  # of a character beyond 16 bits, in JSON

T = TypeVar("T")


class Usage(msgspec.Struct):
    """Token counts of a request, where the server tells them."""

    # Tokens of what was sent.
    prompt_tokens: int | None = None
    # Tokens of the answer.
    completion_tokens: int | None = None


class Vector(msgspec.Struct):
    """One text's embedding."""

    # Which of the request's texts it belongs to, from 0.
    index: int
    # The text's vector; as text: its float32 numbers, little end first, in base64.
    embedding: list[float] | str


class Embeddings(msgspec.Struct):
    """The answer of /embeddings."""

    # One per text, in any order.
    data: list[Vector]
    # What it took.
    usage: Usage | None = None


class Moderation(msgspec.Struct):
    """What a text was found to be."""

    # Category -> how surely the text is of it; null where a model does not know the category.
    category_scores: dict[str, Annotated[float, Meta(ge=0, le=1)] | None]


class Moderations(msgspec.Struct):
    """The answer of /moderations."""

    # One per text, in the texts' order.
    results: list[Moderation]


class Part(msgspec.Struct):
    """A part of a message's content."""

    # "text" is a part of the answer; thoughts and others have other types.
    type: str = "text"
    # What it says.
    text: str | None = None


class Message(msgspec.Struct):
    """What a model said."""

    # The text, in parts with some servers; null where a model declines.
    content: str | list[Part] | None = None


class Choice(msgspec.Struct):
    """One completion."""

    # The assistant's message.
    message: Message
    # "stop", or another reason why the answer ended.
    finish_reason: str | None = None


class Chat(msgspec.Struct):
    """The answer of /chat/completions."""

    # As many as were asked for: one.
    choices: list[Choice]
    # The model's full name.
    model: str | None = None
    # What it took.
    usage: Usage | None = None


def most_tokens(text: str) -> int:
    """No tokenizer in use makes more tokens of a text than it has bytes, but for one or two around it."""
    return len(text.encode()) + 2


def decoded(content: bytes, kind: type[T]) -> T:
    """A body as `kind`; strict JSON, so that NaN, a cut-off answer and a missing field are all failures.

    Raises:
        Failure: in the server's own words where the body is an error's, though its status says that all is well.
    """
    trouble = error_in(content)
    if trouble is not None:
        raise trouble
    try:
        if _HALF.search(content):  # which msgspec refuses; whose text it is decides what becomes of it
            return msgspec.convert(json.loads(content), type=kind)
        return msgspec.json.decode(content, type=kind)
    except (ValueError, RecursionError) as error:
        raise wrong(" ".join(str(error).split()) + shown_body(content)) from None


def text_of(message: Message) -> str:
    """A message's text; of one in parts, the texts alone."""
    if isinstance(message.content, list):
        return "".join(part.text or "" for part in message.content if part.type in ("text", "output_text"))
    return message.content or ""


def vectors_in_order(data: Sequence[Vector], texts: int) -> list[list[float]]:
    """The vectors of so many texts, in the texts' order."""
    if sorted(vector.index for vector in data) != list(range(texts)):
        raise wrong(f"{counted(len(data), 'vector')} for {counted(texts, 'text')}, or not numbered from 0 on")
    return [_numbers(vector.embedding) for vector in sorted(data, key=lambda vector: vector.index)]


def check_vectors(vectors: Sequence[Sequence[float]], length: int) -> None:
    """Raise Failure unless each has `length` finite numbers that are not all zero."""
    for vector in vectors:
        if len(vector) != length or not vector:
            raise wrong(f"a vector of {counted(len(vector), 'number')}, not {length}")
        if not all(map(math.isfinite, vector)):
            raise wrong("a vector with a number that is not finite")
        if not any(vector):
            raise wrong("a vector of zeros")


def wrong(problem: str) -> Failure:
    """The failure of an answer that is none."""
    return Failure(f"a wrong answer: {problem}", "check that the server speaks the OpenAI protocol")


def _numbers(embedding: list[float] | str) -> list[float]:
    if isinstance(embedding, list):
        return embedding
    try:
        numbers = array("f", base64.b64decode(embedding, validate=True))
    except ValueError:
        raise wrong("a vector that is text, and not float32 in base64") from None
    if array("H", [1]).tobytes()[0] == 0:  # this machine has the big end first
        numbers.byteswap()
    return numbers.tolist()
