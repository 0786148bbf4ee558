"""A critic behind a server that speaks the OpenAI protocol: OpenAI itself, vLLM, Ollama, llama.cpp."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cached_property
from typing import Annotated, Any, Literal

from msgspec import Meta

from pgsrm.critic.asked import STORE, AskedCritic, Question, Reply
from pgsrm.critic.formats import json_schema
from pgsrm.critic.instruction import Form
from pgsrm.models.budget import Budget
from pgsrm.models.ledger import Ledger
from pgsrm.models.server import OPENAI, Server, ServerError
from pgsrm.util.numbers import Count, NonNegative, Positive
from pgsrm.util.paths import local_path
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
        token_limit: Literal["auto", "max_tokens", "max_completion_tokens"] = "auto",
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
        self._structured, self._concurrency, self._told = structured, concurrency, False
        kept = None if ledger is None else Ledger(local_path(ledger, "critic.ledger"), f"{self._base_url} {model}")
        self.budget = Budget(
            max_calls, max_cost, input_price, output_price, "critic", max_total_tokens=max_total_tokens, ledger=kept
        )
        self._server = Server(base_url, api_key_env, timeout, retries, concurrency, backoff, self.budget, "critic")
        # OpenAI's newer models know the first name alone, many other servers the second.
        usual = "max_completion_tokens" if base_url is None else "max_tokens"
        self._options: dict[str, Any] = {usual if token_limit == "auto" else token_limit: max_tokens}
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

    def estimate(self, prompts: Sequence[str], responses: Sequence[str]) -> str:
        """One line on what n texts will take if none was asked before: four characters are about a token."""
        texts = [self._text(Question(*pair, 0.0)) for pair in zip(prompts, responses, strict=True)]
        tokens_in, tokens_out = sum(map(len, texts)) // 4, len(texts) * _TOKENS_OUT
        cost = self.budget.cost(tokens_in, tokens_out)
        price = "unknown cost (critic.input_price, critic.output_price)" if cost is None else f"cost {cost:.2g}"
        calls = "1 call" if len(texts) == 1 else f"{len(texts)} calls"
        return f"{calls} of {self._model} at {self._server.host}: about {tokens_in:,} tokens in, {tokens_out:,} out, {price}"

    def _ask(self, questions: Sequence[Question]) -> Generator[tuple[int, Reply], None, None]:
        if not questions:
            return
        if len(questions) > 1 and not self._told:
            self._told = True
            told = self.estimate([asked.prompt for asked in questions], [asked.response for asked in questions])
            print(f"critic: {told}, for an update at most", file=sys.stderr, flush=True)
        yield 0, self._reply(questions[0])  # alone: a wrong key costs one call, and the server's limits are known
        pool = ThreadPoolExecutor(self._concurrency)
        numbers = {pool.submit(self._reply, question): number for number, question in enumerate(questions) if number}
        left = set(numbers)
        try:
            for future in as_completed(numbers):
                left.remove(future)
                yield numbers[future], future.result()
        except ServerError:
            pool.shutdown(wait=False, cancel_futures=True)
            for future in left:  # replies that were under way are paid for
                if not future.cancelled() and future.exception() is None:
                    yield numbers[future], future.result()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

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
