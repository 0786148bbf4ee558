"""A parent behind a server that speaks the OpenAI protocol."""

import json
from collections.abc import Iterator, Sequence

from pgsrm.models.asking import Estimate, answers_as_they_come, token_limit
from pgsrm.models.prices import prices
from pgsrm.models.server import Budget, Completion, Server
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
        given = prices(self._model, settings.base_url, settings.input_price, settings.output_price)
        self.budget = Budget(settings.max_calls, settings.max_cost, *given)
        self._server = Server(
            settings.base_url,
            settings.api_key_env,
            settings.timeout,
            settings.retries,
            settings.concurrency,
            settings.backoff,
            self.budget,
        )
        self._options = token_limit(settings.token_limit, settings.max_tokens, settings.base_url)
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
        """One line on what the questions will take."""
        fixed = len(self._questions.instruction) + len(json.dumps(RESPONSE_FORMAT))
        return str(Estimate.of_chats(self._model, self._server, "parent", asked, _TOKENS_OUT, fixed))

    def answers(self, asked: Sequence[str]) -> Iterator[Answer]:
        """An answer to each question, in the order in which they come.

        Raises:
            ServerError: the first there is, after the answers that were under way.
        """
        try:
            for _, answer in answers_as_they_come(self._answer, asked, self._workers, self._server.close):
                yield answer
        finally:
            self._server.close()

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
