"""A parent on this machine: a causal language model, greedy."""

import json
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

from pgsrm.models.server import Budget
from pgsrm.models.settings import ModelSettings, check_model, named_as
from pgsrm.parent.clean import BadAnswer
from pgsrm.parent.question import Answer, Questions
from pgsrm.parent.settings import ParentSettings
from pgsrm.util.errors import UserError
from pgsrm.util.numbers import counted

if TYPE_CHECKING:
    from pgsrm.models.local_chat import LocalChat

_BEGINNING = '{"OUTPUT": "'  # put into the model's mouth: the answer can only be the value
_CLOSED = re.compile(r'(?:[^"\\]|\\.)*"', re.DOTALL)  # what follows the beginning, up to the quote that ends the value


class LocalParent:
    """Answers questions with a model of transformers, `batch_size` at a time. Raises UserError for one that can't be had."""

    host = None

    def __init__(self, settings: ParentSettings, questions: Questions) -> None:
        from pgsrm.models.load import resolve_device  # torch

        if settings.model is None:
            raise UserError("parent.model=null: no model to ask; set it to a hub name or a folder")
        self._name = settings.model
        self._settings, self._questions = settings, questions
        self.budget = Budget(settings.max_calls)
        self._model = ModelSettings(
            path=settings.model,
            revision=settings.revision,
            device=settings.device,
            chat_template=settings.chat_template is True,
        )
        with named_as("parent.model"):
            check_model(self._model)
            self._device = resolve_device(settings.device)

    def estimate(self, asked: Sequence[str]) -> str:
        """One line on what the questions will take."""
        longest = len(asked) * self._settings.max_tokens
        return f"{counted(len(asked), 'prompt')} for {self._name} on {self._device}: at most {counted(f'{longest:,}', 'token')} out"

    def answers(self, asked: Sequence[str]) -> Iterator[Answer]:
        """An answer to each question, in their order.

        Raises:
            BudgetExceeded: once max_calls questions have been asked in all, if there are more.
        """
        if not asked:
            return
        most = self.budget.max_calls
        allowed = len(asked) if most is None else min(len(asked), max(0, most - self.budget.calls))
        if not allowed:
            self._count(asked)
        prompts = self.prompts(asked)
        decoder = self.chat.decoder(prompts)
        reading = _Reading(self.chat.tokenizer, self.chat.ends)
        step = self._settings.batch_size
        for start in range(0, allowed, step):
            some = slice(start, min(start + step, allowed))
            self._count(asked[some])
            made = decoder(prompts[some], self._settings.max_tokens, reading.is_whole)
            for question, prompt, tokens in zip(asked[some], prompts[some], made, strict=True):
                yield self._answer(question, reading, tokens, len(prompt))
        self._count(asked[allowed:])

    def _answer(self, question: str, reading: "_Reading", tokens: list[int], prompt_tokens: int) -> Answer:
        reference = problem = None
        try:
            reference = self._questions.read(question, reading.value(tokens))
        except BadAnswer as error:
            problem = str(error)
        return Answer(question, reference, problem, self._name, prompt_tokens, len(tokens))

    def _count(self, asked: Sequence[str]) -> None:
        """Raises BudgetExceeded where there are too many."""
        for _ in asked:
            with self.budget.call(0, 0):
                pass

    @cached_property
    def chat(self) -> "LocalChat":
        """The model, which is loaded when it is first asked."""
        from pgsrm.models.local_chat import LocalChat  # torch

        settings = msgspec.structs.replace(self._model, dtype=self._settings.dtype)
        return LocalChat(settings, "parent.model", self._settings.max_tokens, self._settings.chat_template)

    def prompts(self, asked: Sequence[str]) -> list[list[int]]:
        """The questions' token ids, each with the beginning of its answer."""
        instruction = self._questions.instruction
        texts = asked if self.chat.has_template else [f"{instruction}\n\nINPUT: {question}\n" for question in asked]
        return self.chat.encode(texts, _BEGINNING, instruction)


class _Reading:
    """What the tokens after the beginning {"OUTPUT": " say. ends: the tokens that end an answer."""

    def __init__(self, tokenizer: Any, ends: set[int]) -> None:
        self._tokenizer, self._ends = tokenizer, ends
        self._has_quote: dict[int, bool] = {}

    def is_whole(self, tokens: list[int]) -> bool:
        """Whether the last token ends the answer: an EOS, or the quote that closes the value."""
        last = tokens[-1]
        if last in self._ends:
            return True
        if last not in self._has_quote:
            self._has_quote[last] = '"' in self._tokenizer.decode([last])
        return self._has_quote[last] and _CLOSED.match(self._text(tokens)) is not None

    def value(self, tokens: list[int]) -> str:
        """{"OUTPUT": "..."} of the value, without what came after. Raises BadAnswer for one that doesn't end."""
        text = self._text(tokens)
        closed = _CLOSED.match(text)
        if closed is None:
            ended = bool(tokens) and tokens[-1] in self._ends
            raise BadAnswer(f"{'has no end' if ended else 'does not end within parent.max_tokens'}: {text[:60]!r}")
        try:
            return json.dumps({"OUTPUT": json.loads('"' + closed[0])})
        except ValueError:
            raise BadAnswer(f"is no text in JSON: {text[:60]!r}") from None

    def _text(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(
            [token for token in tokens if token not in self._ends], clean_up_tokenization_spaces=False
        )
