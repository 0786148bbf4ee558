"""A parent behind a server that speaks the OpenAI protocol."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Any

from pgsrm.models.server import Budget, Completion, Server, ServerError
from pgsrm.parent.clean import BadAnswer
from pgsrm.parent.question import RESPONSE_FORMAT, Answer, Questions
from pgsrm.parent.settings import ParentSettings
from pgsrm.util.errors import UserError

_ASKED_AGAIN = 2  # times, after an answer in a wrong form: servers vary even at temperature 0
_TOKENS_OUT = 12  # of a usual answer, for the estimate


class RemoteParent:
    """Answers questions over the network, `concurrency` at a time. Raises UserError for settings that can't work."""

    def __init__(self, settings: ParentSettings, questions: Questions) -> None:
        if settings.model is None:
            raise UserError("parent.model=null: the server must be told which; set it")
        self._model: str = settings.model
        self._questions = questions
        self._workers = settings.concurrency
        self.budget = Budget(settings.max_calls, settings.max_cost, settings.input_price, settings.output_price)
        self._server = Server(
            settings.base_url,
            settings.api_key_env,
            settings.timeout,
            settings.retries,
            settings.concurrency,
            settings.backoff,
            self.budget,
        )
        # OpenAI's newer models know the first name alone, many other servers the second.
        usual = "max_completion_tokens" if settings.base_url is None else "max_tokens"
        limit = usual if settings.token_limit == "auto" else settings.token_limit
        self._options: dict[str, Any] = {limit: settings.max_tokens}
        if settings.structured:
            self._options["response_format"] = RESPONSE_FORMAT
        if settings.temperature is not None:
            self._options["temperature"] = settings.temperature
        self._server.check()

    @property
    def host(self) -> str:
        """The server, without path or credentials."""
        return self._server.host

    def estimate(self, asked: Sequence[str]) -> str:
        """One line on what the questions will take: four characters are about a token."""
        fixed = len(self._questions.instruction) + len(json.dumps(RESPONSE_FORMAT))
        tokens_in = sum(fixed + len(question) for question in asked) // 4
        tokens_out = len(asked) * _TOKENS_OUT
        cost = self.budget.cost(tokens_in, tokens_out)
        price = "unknown cost (parent.input_price, parent.output_price)" if cost is None else f"cost {cost:.2g}"
        calls = "1 call" if len(asked) == 1 else f"{len(asked)} calls"
        return f"{calls} of {self._model} at {self.host}: about {tokens_in:,} tokens in, {tokens_out:,} out, {price}"

    def answers(self, asked: Sequence[str]) -> Iterator[Answer]:
        """An answer to each question, in the order in which they come.

        Raises:
            ServerError: the first there is, after the answers that were under way.
        """
        if not asked:
            return
        yield self._answer(asked[0])  # alone: a wrong key or model costs one call, and the server's limits are known
        pool = ThreadPoolExecutor(self._workers)
        futures: list[Future[Answer]] = [pool.submit(self._answer, question) for question in asked[1:]]
        left = set(futures)
        try:
            for future in as_completed(futures):
                left.remove(future)
                yield future.result()
        except ServerError:
            self._server.close()
            pool.shutdown(cancel_futures=True)
            for future in left:  # answers that were under way are paid for
                if not future.cancelled() and future.exception() is None:
                    yield future.result()
            raise
        finally:
            self._server.close()
            pool.shutdown(wait=False, cancel_futures=True)

    def _answer(self, asked: str) -> Answer:
        tokens_in = tokens_out = 0
        for again in range(_ASKED_AGAIN + 1):
            completion = self._server.chat(self._questions.messages(asked), self._model, **self._options)
            tokens_in += completion.prompt_tokens or 0
            tokens_out += completion.completion_tokens or 0
            try:
                _check_whole(completion)
                reference = self._questions.read(asked, completion.text)
            except BadAnswer as error:
                if again == _ASKED_AGAIN:
                    return Answer(asked, None, str(error), completion.model, tokens_in, tokens_out)
            else:
                return Answer(asked, reference, None, completion.model, tokens_in, tokens_out)
        raise AssertionError


def _check_whole(completion: Completion) -> None:
    """Raise BadAnswer unless the server says that the answer ended by itself."""
    if completion.finish == "length":
        raise BadAnswer("is cut off by parent.max_tokens")
    if completion.finish != "stop":
        reason = "none" if completion.finish is None else repr(completion.finish[:40])
        raise BadAnswer(f"may not be whole, its finish_reason is {reason} and not 'stop': {completion.text[:60]!r}")
