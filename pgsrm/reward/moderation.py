"""How toxic a server finds a response: OpenAI's moderation endpoint, or any HTTP service that answers with a number."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from pgsrm.models.asking import Estimate, answers_as_they_come
from pgsrm.models.budget import Budget
from pgsrm.models.ledger import Ledger
from pgsrm.models.protocol import decoded
from pgsrm.models.server import OPENAI, Server
from pgsrm.models.server_errors import Failure
from pgsrm.util.errors import ParameterError, UserError
from pgsrm.util.numbers import Count, NonNegative, Positive
from pgsrm.util.store import Store
from pgsrm.util.text import nfc

STORE = "moderations.sqlite"
MODEL = "omni-moderation-latest"
PLACE = "{text}"
PROBE = "Good morning."
SCORE = "score"  # what the one number of a service of another form is kept as


class ModerationReward:
    """One number per response, from 0 to 1: 1 - t, or t, where t is what a server says of its toxicity.

    Without `request` the server has OpenAI's endpoint /moderations. t is the highest score of `categories` (None: of all).
    With `request` it is any service that takes JSON by POST. request: the JSON body of a call, with {text} where the text
    goes, in any of its strings. score: where t stands in the answer, as `attributeScores.TOXICITY.summaryScore.value`; a
    number counts a list's entries from 0. path: what follows base_url in the address of a call.

    label: civil (1 - t) or toxic (t). reads: what the server reads, the response alone or prompt and response. A blank text is
    not asked about: its t is 0. model, base_url, revision, api_key_env, key_header, batch_size, max_calls, ledger, concurrency,
    timeout, retries, backoff, cache, cache_megabytes: as `conf/reward/moderation.yaml` says.

    What was asked once is kept for all runs. A call that fails is tried again; when the tries are used up, the run stops with
    a checkpoint: a failed call is never a score.

    Raises ParameterError for settings that can't work, and for a category that the server does not know.
    """

    threshold = 0.5  # above it a response counts as of the label's class

    def __init__(
        self,
        model: Annotated[str, Meta(min_length=1)] | None = MODEL,
        base_url: str | None = None,
        revision: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        key_header: Annotated[str, Meta(min_length=1)] | None = None,
        categories: list[str] | None = None,
        path: str = "/moderations",
        request: dict[str, Any] | None = None,
        score: Annotated[str, Meta(min_length=1)] | None = None,
        label: Literal["civil", "toxic"] = "civil",
        reads: Literal["response", "both"] = "response",
        batch_size: Count = 32,
        max_calls: Annotated[int, Meta(ge=0)] | None = None,
        ledger: str | None = None,
        concurrency: Count = 4,
        timeout: Positive = 60.0,
        retries: Annotated[int, Meta(ge=0)] = 6,
        backoff: NonNegative = 0.5,
        cache: str | None = None,
        cache_megabytes: Annotated[int, Meta(ge=0)] = 1000,
    ) -> None:
        self._model, self._base_url, self._revision = model, (base_url or OPENAI).rstrip("/"), revision
        self._categories = None if categories is None else list(categories)
        self._path, self._request, self._score = path, None if request is None else dict(request), score
        self._label, self._reads = label, reads
        self._check_settings(base_url)
        self._batch, self._workers = 1 if request else batch_size, concurrency
        with _of_parameters():
            kept = Ledger.at(ledger, "reward", f"{self._base_url} moderation")
            self.budget = Budget(max_calls, section="reward", ledger=kept)
            self._server = Server(
                base_url, api_key_env, timeout, retries, concurrency, backoff, self.budget, "reward", key_header
            )
            self._store = Store(STORE, cache, cache_megabytes, "reward")
        self.counts = {"calls": 0, "cache_hits": 0}

    def _check_settings(self, base_url: str | None) -> None:
        if self._categories == []:
            raise ParameterError("categories=[]: is empty; name some, or set null for the highest of all")
        if (self._request is None) != (self._score is None):
            given, lacking = ("score", "request") if self._request is None else ("request", "score")
            raise ParameterError(f"{given}: needs {lacking} beside it; set both, or neither for /moderations")
        if self._request is None:
            return
        if PLACE not in json.dumps(self._request):
            raise ParameterError(f"request={self._request}: does not show the text; put {PLACE} into it")
        if base_url is None:
            raise ParameterError("base_url=null: is OpenAI's, which takes no request; set it to the service's")
        if self._categories is not None:
            raise ParameterError("categories: is for /moderations; with a request, score says what counts")

    @property
    def digest(self) -> str:
        """Hash of what stands for the server's model, of what is asked and of what is made of the answer."""
        return _hash([self._asked, self._categories, self._score, self._label, self._reads])

    @property
    def _asked(self) -> list[Any]:
        """What decides the answer to a text."""
        weights = self._base_url if self._revision is None else ["revision", self._revision]
        form = [self._model] if self._request is None else [self._path, self._request, self._score]
        return ["moderation", weights, *form]

    def check(self, references: Sequence[str] = ()) -> None:
        """Ask about one short text, unless that was done before.

        Raises UserError for a wrong key, model, address or form, ParameterError for a category that is not there.
        """
        with _of_parameters():
            self._server.check()
        self._toxicity(self._scores([PROBE])[0])

    def estimates(self, prompts: Sequence[str], responses: Sequence[str]) -> list[Estimate]:
        """The calls that n texts take if none was asked about before."""
        name = self._model if self._request is None and self._model else "moderation"
        return [Estimate(f"{name} at {self._server.host}", math.ceil(len(responses) / self._batch))]

    def __call__(
        self, *, prompts: Sequence[str], responses: Sequence[str], **_: Any
    ) -> tuple[list[float], dict[str, float]]:
        """One reward per response, and how many texts were asked about or known."""
        texts = [f"{p}{r}" for p, r in zip(prompts, responses, strict=True)] if self._reads == "both" else responses
        before = dict(self.counts)
        toxic = [self._toxicity(scores) for scores in self._scores(texts)]
        spent = {f"moderation/{name}": float(count - before[name]) for name, count in self.counts.items()}
        return [t if self._label == "toxic" else 1 - t for t in toxic], spent

    def _scores(self, texts: Sequence[str]) -> list[Mapping[str, float]]:
        """The scores of each text by category, empty for a blank text; equal texts are asked about once."""
        texts = [nfc(text) for text in texts]
        keys = {text: self._key(text) for text in texts if text.strip()}
        kept = self._store.get(list(keys.values()))
        scores = {text: _decoded(kept[key]) for text, key in keys.items() if key in kept}
        unseen = [text for text in keys if text not in scores]
        self.counts["cache_hits"] += len(scores)
        parts = [unseen[start : start + self._batch] for start in range(0, len(unseen), self._batch)]
        for number, answer in answers_as_they_come(self._ask, parts, self._workers):
            self.counts["calls"] += len(parts[number])
            scores |= zip(parts[number], answer, strict=True)
        return [scores.get(text, {}) for text in texts]

    def _ask(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """The scores of some texts, which are kept before another call begins. For any thread."""
        if self._request is None:
            answers = self._server.moderations(texts, self._model, self._batch)
        else:
            answers = [
                {SCORE: self._server.post(self._path, _filled(self._request, text), self._read)} for text in texts
            ]
        rows = {self._key(text): json.dumps(answer).encode() for text, answer in zip(texts, answers, strict=True)}
        kept = self._store.put(rows)
        return [_decoded(kept[key]) for key in rows]

    def _read(self, content: bytes) -> float:
        """The number in a service's answer."""
        assert self._score is not None
        try:
            value = msgspec.json.decode(content)
        except (ValueError, RecursionError):
            value = decoded(content, dict)  # which says what it is instead
        try:
            number = _at(value, self._score)
        except LookupError:
            decoded(content, dict)  # an error with a status of 200
            raise Failure(f"a wrong answer: nothing at {self._score}", f"check reward.score={self._score}") from None
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= 1:
            raise _wrong(f"{str(number)[:40]!r} at {self._score} is no number from 0 to 1")
        return float(number)

    def _toxicity(self, scores: Mapping[str, float]) -> float:
        if not scores:
            return 0.0
        unknown = [name for name in self._categories or () if name not in scores]
        if unknown:
            known = ", ".join(sorted(scores))
            raise ParameterError(f"categories={unknown[0]}: the server gives no such score; there are {known}")
        return max(scores[name] for name in self._categories or scores)

    def _key(self, text: str) -> bytes:
        return bytes.fromhex(_hash([self._asked, text]))


@contextmanager
def _of_parameters() -> Iterator[None]:
    """Around what calls this object's parameters keys of `reward`, wherever in the config it stands."""
    try:
        yield
    except UserError as error:
        raise ParameterError(str(error).removeprefix("reward.")) from error.__cause__


def _wrong(problem: str) -> Failure:
    """The failure of an answer that has no right score."""
    return Failure(f"a wrong answer: {problem}", "check that reward.score names a probability")


def _filled(node: Any, text: str) -> Any:
    """A request with the text in its place."""
    if isinstance(node, str):
        return node.replace(PLACE, text)
    if isinstance(node, Mapping):
        return {key: _filled(inner, text) for key, inner in node.items()}
    return [_filled(inner, text) for inner in node] if isinstance(node, list) else node


def _at(value: Any, place: str) -> Any:
    """What stands at a dotted place; raises LookupError where there is nothing."""
    for part in place.split("."):
        if isinstance(value, list) and part.isdecimal():
            value = value[int(part)]
        elif isinstance(value, Mapping):
            value = value[part]
        else:
            raise LookupError(part)
    return value


def _decoded(content: bytes) -> dict[str, float]:
    try:
        return msgspec.json.decode(content, type=dict[str, float])
    except msgspec.DecodeError as error:  # a row with a right checksum that another program wrote
        raise UserError(f"{STORE}: holds what are no scores; delete it") from error


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
