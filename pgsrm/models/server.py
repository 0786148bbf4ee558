"""A client for servers that speak the OpenAI protocol: OpenAI itself, vLLM, Ollama, llama.cpp, TEI.

The `openai` library makes the connections. Its own retries are off, since they know nothing of answers that are broken JSON,
lack a field or carry NaN; here an answer is right in full, or is asked for again, or ends in a `ServerError`.
"""

import json
import math
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from pgsrm.util.errors import UserError

if TYPE_CHECKING:
    from openai import APIStatusError, OpenAI

OPENAI = "https://api.openai.com/v1"
_LONGEST_BACKOFF = 30.0  # seconds
_LONGEST_RETRY_AFTER = 120.0  # seconds; a server that asks for more is out of quota, or down
_QUOTED = 200  # characters of a server's message that an error line repeats
_MESSAGE_OVERHEAD = 16  # at most so many tokens does a chat template add to a message

_HALF = re.compile(rb"\\u[dD][89a-fA-F]")  # of a character beyond 16 bits, in JSON

T = TypeVar("T")


class ServerError(UserError):
    """A server gave no right answer within the tries that were allowed. Nothing was made up in its place."""


class RequestRefused(ServerError):
    """The server understood the request and will not do it (400, 404, ...): `status` is its HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class BudgetExceeded(ServerError):
    """One more call could have gone beyond `max_calls` or `max_cost`; it was not made."""


@dataclass(frozen=True)
class Completion:
    """An answer to a chat. Token counts are None where the server doesn't tell; `finish` is its finish_reason."""

    text: str
    prompt_tokens: int | None
    completion_tokens: int | None
    model: str
    finish: str | None = None


@dataclass
class Spending:
    """Tokens of one call: at first the most that it can take, then what the server says that it took."""

    input_tokens: int
    output_tokens: int


class Budget:
    """Counts calls and tokens over all threads, and stops before a limit would be passed.

    max_calls: HTTP requests, repeated ones included; max_cost: in the prices' currency; input_price, output_price: for a
    million tokens, None = unknown. section: the config group, for messages. A call whose answer was lost (time-out,
    connection reset, no token counts) counts with the most that it can have cost, since the server may have billed it.
    `go_on` makes the limits hold over several processes, killed ones among them.

    Raises:
        UserError: if there is a max_cost but no prices.
    """

    def __init__(
        self,
        max_calls: int | None = None,
        max_cost: float | None = None,
        input_price: float | None = None,
        output_price: float | None = None,
        section: str = "parent",
    ) -> None:
        if max_cost is not None and (input_price is None or output_price is None):
            lacking = "input_price" if input_price is None else "output_price"
            raise UserError(
                f"{section}.max_cost={max_cost}: can't be kept, {section}.{lacking} is null; "
                "set it to the price of a million tokens (0 where they cost nothing)"
            )
        self.max_calls, self.max_cost = max_calls, max_cost
        self.input_price, self.output_price = input_price, output_price
        self.calls = self.input_tokens = self.output_tokens = 0
        self._section = section
        self._note: Callable[[int, Spending], None] = lambda number, spending: None
        self._reserved = 0.0
        self._changed = threading.Condition()

    def go_on(self, made: Iterable[Spending], note: Callable[[int, Spending], None]) -> None:
        """Count the calls `made` by earlier processes, and `note` each further one by its number, from 0.

        That is called twice: before the call with the most that it can take, after it with what it took.
        """
        for spending in made:
            self.calls += 1
            self.input_tokens += spending.input_tokens
            self.output_tokens += spending.output_tokens
        self._note = note

    def cost(self, input_tokens: float, output_tokens: float) -> float | None:
        """What so many tokens cost; None without prices."""
        if self.input_price is None or self.output_price is None:
            return None
        return (input_tokens * self.input_price + output_tokens * self.output_price) / 1e6

    @property
    def spent(self) -> float | None:
        """The cost so far; None without prices."""
        return self.cost(self.input_tokens, self.output_tokens)

    @contextmanager
    def call(self, input_tokens: int, output_tokens: int) -> Iterator[Spending]:
        """Around one request that takes at most so many tokens; the block sets what it took, where it learns it.

        Raises:
            BudgetExceeded: before the request, if it could pass a limit.
        """
        most = self.cost(input_tokens, output_tokens) or 0.0
        spending = Spending(input_tokens, output_tokens)
        number = self._reserve(most, spending)
        try:
            yield spending
        finally:
            with self._changed:
                self._reserved -= most
                self.input_tokens += spending.input_tokens
                self.output_tokens += spending.output_tokens
                self._changed.notify_all()
                self._note(number, spending)

    def _reserve(self, most: float, spending: Spending) -> int:
        """Put aside what a call can cost; returns its number."""
        with self._changed:
            if self.max_cost is not None:
                # Calls under way mostly cost less than is put aside for them: what is left is known when they are back.
                while (self.spent or 0.0) + self._reserved + most > self.max_cost and self._reserved > 0:
                    self._changed.wait()
                if (self.spent or 0.0) + self._reserved + most > self.max_cost:
                    raise BudgetExceeded(
                        f"{self._section}.max_cost={self.max_cost:g}: {self.spent or 0.0:.4g} spent, the next call could "
                        f"cost {most:.2g}; raise it, and the same command goes on"
                    )
            if self.max_calls is not None and self.calls >= self.max_calls:
                raise BudgetExceeded(
                    f"{self._section}.max_calls={self.max_calls}: all made; raise it, and the same command goes on"
                )
            self._note(self.calls, spending)
            self.calls += 1
            self._reserved += most
            return self.calls - 1


class _Failure(Exception):
    """One try that failed and may be repeated: what happened, what to change, how long the server asks to wait."""

    def __init__(self, what: str, remedy: str, wait: float | None = None) -> None:
        super().__init__(what)
        self.what, self.remedy, self.wait = what, remedy, wait


# The parts of the protocol's answers that are used; the rest is ignored.


class _Usage(msgspec.Struct):
    # Tokens of what was sent.
    prompt_tokens: int | None = None
    # Tokens of the answer.
    completion_tokens: int | None = None


class _Vector(msgspec.Struct):
    # Which of the request's texts it is for, from 0.
    index: int
    # The text's vector.
    embedding: list[float]


class _Embeddings(msgspec.Struct):
    # One a text, in any order.
    data: list[_Vector]
    # What it took.
    usage: _Usage | None = None


class _Message(msgspec.Struct):
    # The text; null where a model declines.
    content: str | None


class _Choice(msgspec.Struct):
    # The assistant's.
    message: _Message
    # "stop", or why it ended else.
    finish_reason: str | None = None


class _Chat(msgspec.Struct):
    # As many as were asked for: one.
    choices: list[_Choice]
    # The model's full name.
    model: str | None = None
    # What it took.
    usage: _Usage | None = None


class Server:
    """One server, for any number of threads; at most `concurrency` requests at a time.

    base_url: with its /v1; None = api.openai.com. api_key_env: the environment variable that the key is read from, at each
    start anew; the key is in no attribute, message or log of this package. With a base_url it may be unset. timeout: seconds
    without a sign from the server. retries: further tries after a failed one. backoff: seconds before the first of them at
    most; doubled each time, up to 30 s, of which a random half to all is waited; a server's Retry-After counts instead.
    section: the config group that the settings come from, for messages.

    Nothing is imported or connected before the first call; `check` finds what can be found without one.

    Raises:
        UserError: for a base_url that is no URL, or has a password in it.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        timeout: float = 60.0,
        retries: int = 6,
        concurrency: int = 8,
        backoff: float = 0.5,
        budget: Budget | None = None,
        section: str = "parent",
    ) -> None:
        self.host = _host(base_url, section)
        self.budget = budget or Budget(section=section)
        self._base_url, self._api_key_env, self._section = base_url, api_key_env, section
        self._timeout, self._retries, self._backoff = timeout, retries, backoff
        self._slots = threading.BoundedSemaphore(concurrency)
        self._client: OpenAI | None = None
        self._connecting = threading.Lock()
        self._closed = threading.Event()
        self._lengths: dict[tuple[str, int | None], int] = {}

    def check(self) -> None:
        """Raise UserError unless the `openai` library is installed and the key that api.openai.com needs is set."""
        if find_spec("openai") is None:
            raise UserError(f"{self._section}=openai: needs the openai library; pip install 'openai>=3'")
        self._key()

    def close(self) -> None:
        """Stop: waiting and later calls end with a ServerError at once, those under way when the server answers."""
        self._closed.set()

    def embeddings(self, texts: Sequence[str], model: str, dimensions: int | None = None) -> list[list[float]]:
        """The vectors of n texts by one request, in the texts' order: n lists of d finite numbers, none all zero.

        d is `dimensions` where given, and else the same in all of this object's answers for the model.

        Raises:
            ServerError: if there was no such answer within the tries.
        """
        options: dict[str, Any] = {} if dimensions is None else {"dimensions": dimensions}

        def send(client: "OpenAI") -> bytes:
            # As numbers: the library asks for base64 by default, which not every server knows.
            api = client.embeddings.with_raw_response
            return api.create(input=list(texts), model=model, encoding_format="float", **options).content

        def read(content: bytes) -> tuple[list[list[float]], _Usage | None]:
            answer = _decoded(content, _Embeddings)
            vectors = _in_order(answer.data, len(texts))
            length = self._lengths.get((model, dimensions), dimensions) or len(vectors[0])
            _check_vectors(vectors, length)
            self._lengths[model, dimensions] = length
            return vectors, answer.usage

        return self._ask(send, read, sum(_most_tokens(text) for text in texts), 0) if texts else []

    def chat(self, messages: Sequence[Mapping[str, str]], model: str, **options: Any) -> Completion:
        """The answer to a conversation of {"role", "content"}; options are the protocol's (temperature, response_format, ...).

        max_cost is kept in full only where max_tokens or max_completion_tokens is among them.

        Raises:
            ServerError: if there was no complete answer within the tries.
            RequestRefused: if the server will not take the request, an option that it doesn't know for instance.
        """

        def send(client: "OpenAI") -> bytes:
            api: Any = client.chat.completions.with_raw_response
            content: bytes = api.create(messages=list(messages), model=model, **options).content
            return content

        def read(content: bytes) -> tuple[Completion, _Usage | None]:
            answer = _decoded(content, _Chat)
            if not answer.choices:
                raise _wrong("no choices in it")
            choice, usage = answer.choices[0], answer.usage or _Usage()
            text = choice.message.content or ""
            name = answer.model or model
            return Completion(text, usage.prompt_tokens, usage.completion_tokens, name, choice.finish_reason), usage

        asked = sum(_most_tokens(message["content"]) + _MESSAGE_OVERHEAD for message in messages)
        asked += _most_tokens(json.dumps(options.get("response_format") or ""))
        longest = options.get("max_completion_tokens") or options.get("max_tokens") or 0
        return self._ask(send, read, asked, longest)

    def _ask(
        self,
        send: Callable[["OpenAI"], bytes],
        read: Callable[[bytes], tuple[T, _Usage | None]],
        input_tokens: int,
        output_tokens: int,
    ) -> T:
        """Try until an answer is right or the tries are used up."""
        with self._slots:
            client = self._connected()
            tries = 0
            while True:
                if self._closed.is_set():
                    raise ServerError(f"{self._where}: stopped")
                try:
                    with self.budget.call(input_tokens, output_tokens) as spending:
                        return self._try(client, send, read, spending)
                except _Failure as failure:
                    tries += 1
                    too_long = failure.wait is not None and failure.wait > _LONGEST_RETRY_AFTER
                    if tries > self._retries or too_long:
                        raise self._given_up(failure, tries) from None
                    wait = self._pause(tries) if failure.wait is None else failure.wait
                self._closed.wait(wait)

    def _try(
        self,
        client: "OpenAI",
        send: Callable[["OpenAI"], bytes],
        read: Callable[[bytes], tuple[T, _Usage | None]],
        spending: Spending,
    ) -> T:
        import openai

        # No `from error`: the library's exceptions hold the request with its key, and what the server says of it.
        try:
            content = send(client)
        except openai.APITimeoutError:
            longer = f"raise {self._section}.timeout"
            raise _Failure(f"no answer within {self._timeout:g} s", longer) from None
        except openai.APIConnectionError as error:
            reason = self._quoted(str(error.__cause__ or "connection lost"))
            raise _Failure(f"connection failed: {reason}", f"check {self._section}.base_url and the network") from None
        except openai.APIStatusError as error:
            spending.input_tokens = spending.output_tokens = 0  # a call that was turned away costs nothing
            raise self._turned_away(error) from None
        answer, usage = read(content)
        if usage is not None and usage.prompt_tokens is not None:
            spending.input_tokens = usage.prompt_tokens
        if usage is not None and usage.completion_tokens is not None:
            spending.output_tokens = usage.completion_tokens
        return answer

    def _turned_away(self, error: "APIStatusError") -> Exception:
        """The exception for an HTTP status of 400 or more: whether to try again, and what to tell."""
        status = error.status_code
        if status in (401, 403):  # the server's message may repeat the key
            what = "wrong key" if os.environ.get(self._api_key_env) else "no key given"
            return ServerError(
                f"{self._where}: not let in ({status}, {what}); set the environment variable {self._api_key_env} "
                f"to a key for it, or name another by {self._section}.api_key_env"
            )
        reason = self._quoted(_message(error))
        wait = _retry_after(error.response.headers)
        if status == 429 and error.code == "insufficient_quota":
            return ServerError(f"{self._where}: the quota is used up ({reason}); the account needs credit")
        if status == 429:
            slower = f"lower {self._section}.concurrency or raise {self._section}.retries"
            return _Failure(f"rate limit (429: {reason})", slower, wait)
        if status >= 500 or status in (408, 409):
            later = f"try later or raise {self._section}.retries"
            return _Failure(f"the server's error {status}: {reason}", later, wait)
        remedy = f"check {self._section}.model, {self._section}.base_url and the options"
        return RequestRefused(f"{self._where}: refused ({status}: {reason}); {remedy}", status)

    def _given_up(self, failure: _Failure, tries: int) -> ServerError:
        asked = f", and asks to wait {failure.wait:.0f} s" if failure.wait is not None else ""
        times = "1 try" if tries == 1 else f"{tries} tries"
        return ServerError(
            f"{self._where}: failed after {times}, the last by {failure.what}{asked}; {failure.remedy}, "
            "then the same command goes on"
        )

    def _pause(self, tries: int) -> float:
        return min(self._backoff * 2.0 ** min(tries - 1, 20), _LONGEST_BACKOFF) * random.uniform(0.5, 1)

    @property
    def _where(self) -> str:
        return f"{self._section}.base_url={self._base_url or 'null'}"

    def _quoted(self, text: str) -> str:
        """A server's text in one short line, without the key."""
        key = os.environ.get(self._api_key_env, "").strip()
        line = " ".join((text.replace(key, "***") if key else text).split())
        return line if len(line) <= _QUOTED else line[: _QUOTED - 1] + "…"

    def _key(self) -> str:
        key = os.environ.get(self._api_key_env, "").strip()
        if not key and self.host == _host(None, self._section):
            raise UserError(
                f"{self._section}.base_url={self._base_url or 'null'}: api.openai.com needs a key; set the environment "
                f"variable {self._api_key_env}, or set {self._section}.base_url to a server of yours"
            )
        if not key.isascii() or not key.isprintable() or " " in key:
            raise UserError(f"{self._api_key_env}: what this environment variable holds is no key; set it anew")
        return key or "none"  # the library sends no request without one

    def _connected(self) -> "OpenAI":
        with self._connecting:
            if self._client is None:
                self.check()
                import openai

                # A proxy is for the way out: it can't reach what listens on this machine.
                near = (urlsplit(self._base_url or OPENAI).hostname or "") in ("localhost", "127.0.0.1", "::1")
                self._client = openai.OpenAI(
                    base_url=self._base_url or OPENAI,  # not OPENAI_BASE_URL: the config says where requests go
                    api_key=self._key(),
                    timeout=self._timeout,
                    max_retries=0,
                    http_client=openai.DefaultHttpxClient(trust_env=not near),
                )
            return self._client


def _host(base_url: str | None, section: str) -> str:
    """A URL's host, and its port where given."""
    parts = urlsplit(base_url or OPENAI)
    if "@" in parts.netloc:
        raise UserError(f"{section}.base_url: has a user name or password in it; give the key by {section}.api_key_env")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{section}.base_url={base_url}: not a URL; write it as http://localhost:8000/v1")
    return parts.netloc


def _most_tokens(text: str) -> int:
    """No tokenizer in use makes more tokens of a text than it has bytes, but for one or two around it."""
    return len(text.encode()) + 2


def _wrong(problem: str) -> _Failure:
    return _Failure(f"a wrong answer: {problem}", "check that the server speaks the OpenAI protocol")


def _decoded(content: bytes, kind: type[T]) -> T:
    """Strict JSON, so that NaN, a cut-off answer and a missing field are all failures."""
    try:
        if _HALF.search(content):  # which msgspec refuses; whose text it is decides what becomes of it
            return msgspec.convert(json.loads(content), type=kind)
        return msgspec.json.decode(content, type=kind)
    except (ValueError, RecursionError) as error:
        raise _wrong(" ".join(str(error).split())) from None


def _in_order(data: Sequence[_Vector], texts: int) -> list[list[float]]:
    if sorted(each.index for each in data) != list(range(texts)):
        raise _wrong(f"{len(data)} vectors for {texts} texts, or not numbered from 0 on")
    return [each.embedding for each in sorted(data, key=lambda each: each.index)]


def _check_vectors(vectors: Sequence[Sequence[float]], length: int) -> None:
    for vector in vectors:
        if len(vector) != length or not vector:
            raise _wrong(f"a vector of {len(vector)} numbers, not {length}")
        if not all(map(math.isfinite, vector)):
            raise _wrong("a vector with a number that is not finite")
        if not any(vector):
            raise _wrong("a vector of zeros")


def _message(error: "APIStatusError") -> str:
    body = error.body
    if isinstance(body, Mapping) and isinstance(body.get("message"), str):
        return str(body["message"])
    return str(error.message)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a Retry-After header asks to wait (a number, or a date), None without one that makes sense."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
