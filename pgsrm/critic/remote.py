"""A critic behind a server that speaks the OpenAI protocol: OpenAI itself, vLLM, Ollama, llama.cpp."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Sequence
from functools import cached_property
from typing import Annotated

from msgspec import Meta

from pgsrm.critic.asked import STORE, AskedCritic, Question, Reply
from pgsrm.critic.formats import json_schema
from pgsrm.critic.instruction import Form
from pgsrm.models.asking import Estimate, TokenLimit, answers_as_they_come
from pgsrm.models.asking import token_limit as limit_of
from pgsrm.models.budget import Budget
from pgsrm.models.ledger import Ledger
from pgsrm.models.prices import prices
from pgsrm.models.server import OPENAI, Server
from pgsrm.util.numbers import Count, NonNegative, Positive
from pgsrm.util.store import Store

_TOKENS_OUT = 40  # of a usual reply, for the estimate
_PROBE = Question("The film is", " good.", 0.0)


class RemoteCritic(AskedCritic):
    """Asks a server, `concurrency` texts at a time, one user message each.

    model, base_url, api_key_env, temperature, token_limit, timeout, retries, backoff, concurrency, input_price, output_price:
    as `conf/critic/openai.yaml` says. revision: any name for the weights, which then stands for them in the address's place.
    structured: a JSON schema holds the replies; a server that refuses it is asked for the text form. max_tokens: of a
    reply. max_calls, max_total_tokens, max_cost: limits over all starts and runs that share `ledger`, a file; without one they
    hold for this process.

    A call that fails is tried again; when the tries are used up the run stops with a checkpoint. A reply that the server cut
    off is unparsed.

    Raises UserError for settings that can't work.
    """

    def __init__(
        self,
        model: Annotated[str, Meta(min_length=1)] = "gpt-4o-mini",
        base_url: str | None = None,
        revision: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        instruction: Annotated[str, Meta(min_length=1)] = "sentiment",
        structured: bool = True,
        temperature: NonNegative | None = 0.0,
        max_tokens: Count = 200,
        token_limit: TokenLimit = "auto",
        input_price: NonNegative | None = None,
        output_price: NonNegative | None = None,
        max_calls: Annotated[int, Meta(ge=0)] | None = None,
        max_total_tokens: Annotated[int, Meta(ge=0)] | None = None,
        max_cost: NonNegative | None = None,
        ledger: str | None = None,
        concurrency: Count = 8,
        timeout: Positive = 60.0,
        retries: Annotated[int, Meta(ge=0)] = 6,
        backoff: NonNegative = 0.5,
        cache: str | None = None,
        cache_megabytes: Annotated[int, Meta(ge=0)] = 1000,
    ) -> None:
        super().__init__(instruction, Store(STORE, cache, cache_megabytes, "critic"))
        self._model, self._base_url, self._revision = model, (base_url or OPENAI).rstrip("/"), revision
        self._structured, self._concurrency = structured, concurrency
        kept = Ledger.at(ledger, "critic", f"{self._base_url} {model}")
        given = prices(model, base_url, input_price, output_price)
        self.budget = Budget(max_calls, max_cost, *given, "critic", max_total_tokens=max_total_tokens, ledger=kept)
        self._server = Server(base_url, api_key_env, timeout, retries, concurrency, backoff, self.budget, "critic")
        self._options = limit_of(token_limit, max_tokens, base_url)
        if temperature is not None:
            self._options["temperature"] = temperature

    @cached_property
    def digest(self) -> str:
        """Hash of what stands for the weights, of the options, and of what is asked."""
        weights = self._base_url if self._revision is None else ["revision", self._revision]
        asked = hashlib.sha256(self.instruction.content).hexdigest()
        how = [self._structured, sorted(self._options.values())]
        return hashlib.sha256(json.dumps(["openai", weights, self._model, asked, how]).encode()).hexdigest()

    def check(self) -> None:
        """Ask about one short text, unless that was done before. Raises UserError for a wrong key, model or address."""
        self._server.check()
        extrinsic = 0.0 if self.instruction.shows_extrinsic else None
        self._replies([_PROBE._replace(extrinsic=extrinsic)])

    def estimates(self, prompts: Sequence[str], responses: Sequence[str]) -> list[Estimate]:
        """What n texts will take if none was asked about before."""
        asked = [self._text(Question(*pair, 0.0)) for pair in zip(prompts, responses, strict=True)]
        return [Estimate.of_chats(self._model, self._server, "critic", asked, _TOKENS_OUT)]

    def _ask(self, questions: Sequence[Question]) -> Generator[tuple[int, Reply], None, None]:
        yield from answers_as_they_come(self._reply, questions, self._concurrency)

    def _reply(self, question: Question) -> Reply:
        form = self._form
        schema = {"name": "critique", "strict": True, "schema": json_schema(self.instruction.labels)}
        more = {"response_format": {"type": "json_schema", "json_schema": schema}} if form == "json" else {}
        messages = [{"role": "user", "content": self._text(question)}]
        completion = self._server.chat(messages, self._model, **self._options, **more)
        # kept before another call begins: a kill loses no more than the calls that are under way
        return self._kept(question, Reply(completion.text, completion.finish == "stop"))

    def _text(self, question: Question) -> str:
        return self.instruction.question(*question, self._form).rstrip("\n")

    @property
    def _form(self) -> Form:
        return "json" if self._structured and not self._server.refused("response_format") else "text"
