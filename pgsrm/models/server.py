"""A client for servers that speak the OpenAI protocol: OpenAI itself, vLLM, Ollama, llama.cpp, TEI.

The `openai` library makes the connections. Its own retries are off, since they know nothing of answers that are broken JSON,
lack a field or carry NaN; here an answer is right in full, or is asked for again, or ends in a `ServerError`.
"""

import json
import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from pgsrm.models.budget import Budget, BudgetExceeded, Spending
from pgsrm.models.limits import REFUSALS, Limits
from pgsrm.models.protocol import (
    Chat,
    Embeddings,
    Moderations,
    Usage,
    check_vectors,
    decoded,
    most_tokens,
    text_of,
    vectors_in_order,
    wrong,
)
from pgsrm.models.server_errors import (
    Failure,
    RequestRefused,
    ServerError,
    error_code_in,
    is_local,
    on_the_way,
    one_line,
    reason_in,
    retry_after,
    unusable_environment,
)
from pgsrm.util.errors import UserError
from pgsrm.util.numbers import counted
from pgsrm.util.secrets import without_secret, without_user
from pgsrm.util.text import nfc

if TYPE_CHECKING:
    from openai import OpenAI

__all__ = ["OPENAI", "Budget", "BudgetExceeded", "Completion", "RequestRefused", "Server", "ServerError", "Spending"]

OPENAI = "https://api.openai.com/v1"
TEXTS_A_REQUEST = 2048  # OpenAI takes no more
logger = logging.getLogger(__name__)

_TOLD_EVERY = 60.0  # seconds; at most one line in so many about tries that fail
_LONGEST_BACKOFF = 30.0  # seconds
_RETRIES_TO_REACH = 2  # at most, before any work: the address may be wrong, or the server not started
_LONGEST_RETRY_AFTER = 120.0  # seconds; a server that asks for more is out of quota, or down
_MESSAGE_OVERHEAD = 16  # at most so many tokens does a chat template add to a message

T = TypeVar("T")


@dataclass(frozen=True)
class Completion:
    """An answer to a chat. Token counts are None where the server doesn't tell; `finish` is its finish_reason."""

    text: str
    prompt_tokens: int | None
    completion_tokens: int | None
    model: str
    finish: str | None = None


class Server:
    """One server, for any number of threads; at most `concurrency` requests at a time.

    base_url: with its /v1; None = api.openai.com. api_key_env: the environment variable that the key is read from, at each
    start again; the key is in no attribute, message or log of this package. With a base_url it may be unset. key_header: the
    name of the header that carries the key as it is; None = the protocol's own, Authorization with Bearer. timeout: seconds
    without a sign from the server. retries: further tries after a failed one. backoff: seconds before the first of them at
    most; doubled each time, up to 30 s, of which a random half to all is waited; a server's Retry-After counts instead.
    section: the config group that the settings come from, for messages.

    Nothing is imported before `check` or the first call, and nothing connected before the call.

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
        key_header: str | None = None,
    ) -> None:
        self.host = _host(base_url, section)
        self._key_header = key_header
        self.budget = budget or Budget(section=section)
        self._base_url, self._api_key_env, self._section = base_url, api_key_env, section
        self._timeout, self._retries, self._backoff = timeout, retries, backoff
        self._slots = threading.BoundedSemaphore(concurrency)
        self._client: OpenAI | None = None
        self._connecting = threading.Lock()
        self._closed = threading.Event()
        self._reached = True  # False: it was checked before any work, and has not been reached since
        self._told: float | None = None  # when it was last said that tries fail
        self._telling = threading.Lock()
        self._limits = Limits(section)
        self._lengths: dict[tuple[str, int | None], int] = {}

    def check(self) -> None:
        """Raise UserError for what can be found without a call. For what is done before any work.

        That is: the `openai` library is missing, the key that api.openai.com needs isn't set, or the environment names a proxy
        or certificates that can't be used. From now on a server that can't be connected with gets two more tries at most, until
        it is reached for the first time: a run that has begun waits for it with all its `retries`.
        """
        self._connected()
        self._reached = False

    def refused(self, option: str) -> bool:
        """Whether the server has turned out not to take an option."""
        return option in self._limits

    def close(self) -> None:
        """Stop: waiting and later calls end with a ServerError at once, those under way when the server answers."""
        self._closed.set()

    def embeddings(
        self,
        texts: Sequence[str],
        model: str,
        dimensions: int | None = None,
        encoding_format: str | None = "float",
        batch_size: int = TEXTS_A_REQUEST,
    ) -> list[list[float]]:
        """The vectors of n texts, in the texts' order: n lists of d finite numbers, none all zero.

        d is `dimensions` where given and known to the server, and else the same in all of this object's answers for the model.
        A request has at most `batch_size` texts; a server that refuses so many gets half, and never again more than it took.
        What it doesn't know of dimensions and encoding_format (None = not sent) is left out.

        Raises:
            ServerError: if there was no such answer within the tries.
        """
        options = {"dimensions": dimensions, "encoding_format": encoding_format}
        options = {name: value for name, value in options.items() if value is not None}

        def ask(some: Sequence[str], form: Mapping[str, Any]) -> list[list[float]]:
            return self._embeddings(some, model, form)

        return self._in_requests(texts, options, batch_size, ask)

    def moderations(self, texts: Sequence[str], model: str | None, batch_size: int) -> list[dict[str, float]]:
        """The scores of n texts by category, from 0 to 1, in the texts' order; those that a server leaves out are not there.

        A request has at most `batch_size` texts; a server that refuses so many gets half, and never again more than it took.

        Raises:
            ServerError: if there was no such answer within the tries.
        """

        def ask(some: Sequence[str], form: Mapping[str, Any]) -> list[dict[str, float]]:
            return self._moderations(some, model)

        return self._in_requests(texts, {}, batch_size, ask)

    def post(self, path: str, body: Mapping[str, Any], read: Callable[[bytes], T]) -> T:
        """What `read` makes of the answer to a request of another protocol; it raises Failure for an answer that is none.

        Raises:
            ServerError: if there was no such answer within the tries.
            RequestRefused: if the server will not take the request.
        """
        return self._ask(path, body, lambda content: (read(content), None), 0, 0)

    def chat(self, messages: Sequence[Mapping[str, str]], model: str, **options: Any) -> Completion:
        """The answer to a conversation of {"role", "content"}; options are the protocol's (temperature, response_format, ...).

        max_cost is kept in full only where max_tokens or max_completion_tokens is among them. A server that refuses one of
        these two names gets the other, one that refuses response_format gets none.

        Raises:
            ServerError: if there was no complete answer within the tries.
            RequestRefused: if the server will not take the request, an option that it doesn't know for instance.
        """

        def ask(form: Mapping[str, Any]) -> Completion:
            return self._chat(messages, model, form)

        try:
            return ask(self._limits.form(options))
        except RequestRefused as refused:
            return self._otherwise(options, ask, refused)

    def _chat(self, messages: Sequence[Mapping[str, str]], model: str, options: Mapping[str, Any]) -> Completion:
        messages = [{**message, "content": nfc(message["content"])} for message in messages]

        def read(content: bytes) -> tuple[Completion, Usage | None]:
            answer = decoded(content, Chat)
            if not answer.choices:
                raise wrong("no choices in it")
            choice, usage = answer.choices[0], answer.usage or Usage()
            name = answer.model or model
            text = text_of(choice.message)
            return Completion(text, usage.prompt_tokens, usage.completion_tokens, name, choice.finish_reason), usage

        asked = sum(most_tokens(message["content"]) + _MESSAGE_OVERHEAD for message in messages)
        asked += most_tokens(json.dumps(options.get("response_format") or ""))
        longest = options.get("max_completion_tokens") or options.get("max_tokens") or 0
        body = {"messages": messages, "model": model, **options}
        return self._ask("/chat/completions", body, read, asked, longest)

    def _in_requests(
        self,
        texts: Sequence[str],
        options: Mapping[str, Any],
        most: int,
        request: Callable[[Sequence[str], Mapping[str, Any]], list[T]],
    ) -> list[T]:
        """One result per text, of as many requests as the server's own limit makes."""
        results: list[T] = []
        while len(results) < len(texts):
            some = texts[len(results) : len(results) + min(most, self._limits.texts or most)]
            results += self._some(some, options, request)
        return results

    def _some(
        self,
        texts: Sequence[str],
        options: Mapping[str, Any],
        request: Callable[[Sequence[str], Mapping[str, Any]], list[T]],
    ) -> list[T]:
        """As many results as the server takes texts at once, from the first text on."""

        def ask(form: Mapping[str, Any]) -> list[T]:
            return request(texts, form)

        try:
            return ask(self._limits.form(options))
        except RequestRefused as error:
            refused = error
        named = self._limits.names_an_option(options, refused.reason) and refused.status != 413
        if refused.status not in REFUSALS or len(texts) == 1 or named:
            return self._otherwise(options, ask, refused)
        results = self._some(texts[: len(texts) // 2], options, request)
        self._limits.keep_texts(len(results), refused.reason)
        return results

    def _embeddings(self, texts: Sequence[str], model: str, options: Mapping[str, Any]) -> list[list[float]]:
        texts = [nfc(text) for text in texts]
        dimensions = options.get("dimensions")

        def read(content: bytes) -> tuple[list[list[float]], Usage | None]:
            answer = decoded(content, Embeddings)
            vectors = vectors_in_order(answer.data, len(texts))
            length = self._lengths.get((model, dimensions), dimensions) or len(vectors[0])
            check_vectors(vectors, length)
            self._lengths[model, dimensions] = length
            return vectors, answer.usage

        body = {"input": texts, "model": model, **options}
        return self._ask("/embeddings", body, read, sum(most_tokens(text) for text in texts), 0)

    def _moderations(self, texts: Sequence[str], model: str | None) -> list[dict[str, float]]:
        texts = [nfc(text) for text in texts]

        def read(content: bytes) -> tuple[list[dict[str, float]], Usage | None]:
            answer = decoded(content, Moderations)
            if len(answer.results) != len(texts):
                raise wrong(f"{counted(len(answer.results), 'result')} for {counted(len(texts), 'text')}")
            scores = [
                {name: score for name, score in result.category_scores.items() if score is not None}
                for result in answer.results
            ]
            if not all(scores) or not all(0 <= number <= 1 for result in scores for number in result.values()):
                raise wrong("a result without scores from 0 to 1")
            return scores, None

        body = {"input": texts, **({} if model is None else {"model": model})}
        return self._ask("/moderations", body, read, sum(most_tokens(text) for text in texts), 0)

    def _otherwise(self, options: Mapping[str, Any], ask: Callable[[dict[str, Any]], T], refused: RequestRefused) -> T:
        """Ask again after a refusal, without some options or with their other names; raises `refused` if nothing helps."""
        if refused.status not in REFUSALS or refused.status == 413:
            raise refused
        for changes in self._limits.changes(options, refused.reason):
            try:
                answer = ask(self._limits.form(options, changes))
            except RequestRefused:
                continue
            self._limits.keep(changes, refused.reason)
            return answer
        raise refused

    def _ask(
        self,
        path: str,
        body: Mapping[str, Any],
        read: Callable[[bytes], tuple[T, Usage | None]],
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
                        answer = self._try(client, path, body, read, spending)
                    self._reached = True
                    return answer
                except Failure as failure:
                    tries += 1
                    self._reached = self._reached or not failure.unreachable
                    retries = self._retries if self._reached else min(self._retries, _RETRIES_TO_REACH)
                    too_long = failure.wait is not None and failure.wait > _LONGEST_RETRY_AFTER
                    if tries > retries or too_long:
                        raise self._given_up(failure, tries) from None
                    wait = self._pause(tries) if failure.wait is None else failure.wait
                    if tries > 1:  # a single failure is nothing unusual
                        self._tell(failure, retries - tries + 1)
                self._closed.wait(wait)

    def _try(
        self,
        client: "OpenAI",
        path: str,
        body: Mapping[str, Any],
        read: Callable[[bytes], tuple[T, Usage | None]],
        spending: Spending,
    ) -> T:
        import openai

        # No `from error`: the library's exceptions hold the request with its key, and what the server says of it.
        try:
            # By path: the library's own methods would ask for vectors in base64, which not every server knows.
            content = client.post(path, body=body, cast_to=bytes, options=self._key_options())
        except openai.APITimeoutError as error:
            longer = f"raise {self._section}.timeout"
            raise Failure(f"no answer within {self._timeout:g} s", longer, unreachable=_not_connected(error)) from None
        except openai.APIConnectionError as error:
            reason = self._quoted(str(error.__cause__ or "connection lost"))
            blame = on_the_way(self._base_url or OPENAI, reason)
            remedy = f"check {self._section}.base_url and the network{blame}"
            raise Failure(f"connection failed: {reason}", remedy, unreachable=_not_connected(error)) from None
        except openai.APIStatusError as error:
            spending.input_tokens = spending.output_tokens = 0  # a call that was turned away costs nothing
            content, headers = error.response.content, error.response.headers
            raise self._turned_away(
                error.status_code, reason_in(content), error_code_in(content), retry_after(headers)
            ) from None
        try:
            answer, usage = read(content)
        except Failure as failure:
            if failure.status is not None:  # an error with an HTTP status of 200 around it
                raise self._turned_away(failure.status, failure.what, error_code_in(content), None) from None
            if failure.remedy:
                raise Failure(self._quoted(failure.what), failure.remedy) from None
            later = f"try later or raise {self._section}.retries"
            raise Failure(f"an error in its answer: {self._quoted(failure.what)}", later) from None
        if usage is not None and usage.prompt_tokens is not None:
            spending.input_tokens = usage.prompt_tokens
        if usage is not None and usage.completion_tokens is not None:
            spending.output_tokens = usage.completion_tokens
        return answer

    def _turned_away(self, status: int, reason: str, code: str, wait: float | None) -> Exception:
        """The exception for an HTTP status of 400 or more: whether to try again, and what to tell."""
        reason = self._quoted(reason)
        if status in (401, 403):
            what = "wrong key" if os.environ.get(self._api_key_env) else "no key given"
            return ServerError(
                f"{self._where}: not let in ({status}, {what}: {reason}); set the environment variable "
                f"{self._api_key_env} to a key for it, or name another by {self._section}.api_key_env"
            )
        if status == 429 and code == "insufficient_quota":
            return ServerError(f"{self._where}: the quota is used up ({reason}); the account needs credit")
        if status == 429:
            more = f"raise {self._section}.retries"
            # an embedder sends one request at a time, and has no such key
            slower = more if self._section == "embedder" else f"lower {self._section}.concurrency or {more}"
            return Failure(f"rate limit (429: {reason})", slower, wait)
        if (status >= 500 and status != 501) or status in (408, 409):
            later = f"try later or raise {self._section}.retries"
            return Failure(f"the server's error {status}: {reason}", later, wait)
        remedy = f"check {self._section}.model, {self._section}.base_url and the options"
        if re.search(r"(?<![a-z])temperature(?![a-z])", reason) and self._section != "embedder":
            remedy = f"{self._section}.temperature=null leaves it out"
        return RequestRefused(f"{self._where}: refused ({status}: {reason}); {remedy}", status, reason)

    def _tell(self, failure: Failure, left: int) -> None:
        """Say that a server is asked again, so that nobody waits without knowing why; once a minute."""
        with self._telling:
            due = self._told is None or time.monotonic() - self._told > _TOLD_EVERY
            if due:
                self._told = time.monotonic()
        if due:
            tries = "try" if left == 1 else "tries"
            logger.warning(
                "%s: %s; at most %d more %s, with a pause before each", self._where, failure.what, left, tries
            )

    def _given_up(self, failure: Failure, tries: int) -> ServerError:
        asked, remedy = "", failure.remedy
        if failure.wait is not None:
            asked = f", and asks to wait {failure.wait:.0f} s"
            remedy = "wait that long" if failure.wait > _LONGEST_RETRY_AFTER else remedy  # more tries would be none
        times = "1 try" if tries == 1 else f"{tries} tries"
        return ServerError(
            f"{self._where}: failed after {times}, the last by {failure.what}{asked}; {remedy}, "
            "then the same command resumes"
        )

    def _pause(self, tries: int) -> float:
        return min(self._backoff * 2.0 ** min(tries - 1, 20), _LONGEST_BACKOFF) * random.uniform(0.5, 1)

    @property
    def _where(self) -> str:
        return f"{self._section}.base_url={self._base_url or 'null'}"

    def _quoted(self, text: str) -> str:
        """A server's text in one short line, without the key and without passwords."""
        return one_line(without_user(without_secret(text, os.environ.get(self._api_key_env, ""))))

    def _key(self) -> str:
        key = os.environ.get(self._api_key_env, "").strip()
        if not key and self.host == _host(None, self._section):
            raise UserError(
                f"{self._section}.base_url={self._base_url or 'null'}: api.openai.com needs a key; set the environment "
                f"variable {self._api_key_env}, or set {self._section}.base_url to a server of yours"
            )
        if not key.isascii() or not key.isprintable() or " " in key:
            raise UserError(f"{self._api_key_env}: what this environment variable holds is no key; set it again")
        return key or "none"  # the library sends no request without one

    def _key_options(self) -> Any:
        """Of a request to a server that wants its key in a header of its own: that header, and no other with the key."""
        if self._key_header is None:
            return {}
        import openai

        key = os.environ.get(self._api_key_env, "").strip()
        return {"headers": {"Authorization": openai.Omit(), **({self._key_header: key} if key else {})}}

    def _connected(self) -> "OpenAI":
        with self._connecting:
            if self._client is None:
                if find_spec("openai") is None:
                    raise UserError(f"{self._section}: asks a server by the openai library; pip install 'openai>=3'")
                key, url = (
                    self._key(),
                    self._base_url or OPENAI,
                )  # not OPENAI_BASE_URL: the config says where requests go
                import openai

                try:
                    http_client = openai.DefaultHttpxClient(trust_env=not is_local(url))
                    self._client = openai.OpenAI(
                        base_url=url, api_key=key, timeout=self._timeout, max_retries=0, http_client=http_client
                    )
                except Exception as error:  # the library under it raises ImportError, ValueError, OSError and its own
                    raise unusable_environment(error) from None
            return self._client


def _not_connected(error: Exception) -> bool:
    """Whether an error of openai's is one of connecting; by the name, since the library under it is another in later versions."""
    return type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout")


def _host(base_url: str | None, section: str) -> str:
    """A URL's host, and its port where given."""
    url = base_url or OPENAI
    if without_user(url) != url or (not url.lower().startswith(("http://", "https://")) and "@" in url):
        raise UserError(f"{section}.base_url: has a user name or password in it; give the key by {section}.api_key_env")
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, a bracket that isn't closed
        is_url = False
    if not is_url or not url.isprintable() or " " in url:
        raise UserError(f"{section}.base_url={base_url}: not a URL; write it as http://localhost:8000/v1")
    return parts.netloc
