"""A critic on this machine: a causal language model that is asked greedily."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from pgsrm.critic.asked import STORE, AskedCritic, Question, Reply
from pgsrm.critic.instruction import Form
from pgsrm.models.settings import ModelSettings, check_model, identify_model, named_as
from pgsrm.util.numbers import Count
from pgsrm.util.store import Store

if TYPE_CHECKING:
    from pgsrm.models.local_chat import LocalChat

SHIPPED = Path(__file__).parent / "weights"


class LocalCritic(AskedCritic):
    """Any causal language model, greedy; the instruction and its examples are read once for a batch.

    path: what model.path takes; null: the shipped critic, nano trained to quote (docs/critic.md). revision: of a hub model.
    instruction: see `AskedCritic`. form: of the replies, whose beginning is put into the model's mouth. max_tokens: of a
    reply; a longer one counts as unparsed. chat_template: whether the question is put into the model's own; auto: where it has
    one. batch_size: texts that are read together. cache, cache_megabytes: the folder and size of the store of replies, 0 keeps
    none on the disk.

    Raises UserError for a model or an instruction that can't be read.
    """

    def __init__(
        self,
        path: Annotated[str, Meta(min_length=1)] | None = None,
        revision: str | None = None,
        instruction: Annotated[str, Meta(min_length=1)] = "nano",
        form: Form = "text",
        max_tokens: Count = 60,
        batch_size: Count = 64,
        chat_template: bool | Literal["auto"] = "auto",
        device: str = "auto",
        dtype: Literal["float32", "bfloat16"] = "float32",
        cache: str | None = None,
        cache_megabytes: Annotated[int, Meta(ge=0)] = 1000,
    ) -> None:
        super().__init__(instruction, Store(STORE, cache, cache_megabytes, "critic"))
        self._settings = ModelSettings(
            path=str(SHIPPED) if path is None else path,
            revision=revision,
            device=device,
            dtype=dtype,
            chat_template=chat_template is True,
        )
        self._form: Form = form
        self._may_end: dict[int, bool] = {}  # token -> whether it has what a reply ends with
        self._max_tokens, self._batch_size, self._chat_template = max_tokens, batch_size, chat_template

    @cached_property
    def digest(self) -> str:
        """Hash of the model's files or commit, of what it is asked, and how."""
        with named_as("critic.path"):
            model = identify_model(self._settings)
        how = [self._form, self._max_tokens, self._chat_template, self._settings.dtype]
        asked = hashlib.sha256(self.instruction.content).hexdigest()
        return hashlib.sha256(json.dumps(["local", model, asked, how]).encode()).hexdigest()

    def check(self) -> None:
        """Raise UserError for a model that can't be had."""
        with named_as("critic.path"):
            check_model(self._settings)

    def _ask(self, questions: Sequence[Question]) -> Generator[tuple[int, Reply], None, None]:
        if not questions:
            return
        beginning = self.instruction.beginning(self._form)
        texts = [self.instruction.question(*question, self._form) for question in questions]
        prompts = self._chat.encode(texts, beginning)
        decoder = self._chat.decoder(prompts)
        # rows of one length need no padding, and a batch is as long as its longest reply
        order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
        for start in range(0, len(order), self._batch_size):
            some = order[start : start + self._batch_size]
            made = decoder([prompts[number] for number in some], self._max_tokens, self._is_whole)
            for number, tokens in zip(some, made, strict=True):
                whole = bool(tokens) and self._is_whole(tokens)
                reply = Reply(self._cut(f"{beginning}{self._chat.text(tokens)}"), whole)
                yield number, self._kept(questions[number], reply)

    def _is_whole(self, tokens: list[int]) -> bool:
        """Whether the last token ends the reply: an EOS, the end of the text form's last line, the JSON form's last bracket."""
        last = tokens[-1]
        if last in self._chat.ends:
            return True
        if last not in self._may_end:
            self._may_end[last] = ("\n" if self._form == "text" else "}") in self._chat.text([last])
        if not self._may_end[last]:
            return False
        text = self._chat.text(tokens)
        if self._form == "text":
            return text.count("\n") >= self.instruction.lines
        return _is_json(self.instruction.beginning("json") + text)

    def _cut(self, reply: str) -> str:
        """A reply in the text form without what a model that goes on wrote behind it."""
        return "\n".join(reply.split("\n")[: self.instruction.lines]) if self._form == "text" else reply

    @cached_property
    def _chat(self) -> LocalChat:
        from pgsrm.models.local_chat import LocalChat  # torch

        return LocalChat(self._settings, "critic.path", self._max_tokens, self._chat_template)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
