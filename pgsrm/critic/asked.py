"""Critics that are language models: texts become questions, replies become critiques, and no question is asked twice."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import NamedTuple

import msgspec

from pgsrm.critic.critique import Critique
from pgsrm.critic.instruction import Instruction
from pgsrm.util.errors import UserError
from pgsrm.util.store import Store

STORE = "critiques.sqlite"


class Question(NamedTuple):
    """What a critic is asked about one text."""

    prompt: str
    response: str
    extrinsic: float | None


class Reply(NamedTuple):
    """What a model wrote; whole: it ended by itself. One that is cut off may end in the middle of a quote: it marks nothing."""

    text: str
    whole: bool


class AskedCritic(ABC):
    """Implements `pgsrm.critic.Critic` on top of `digest` and `_ask`.

    instruction: the name of a shipped one, or a YAML file (`pgsrm.critic.instruction.Wording`). store: where replies are kept
    for all runs and starts; None keeps none, for a model that changes. `counts` are the calls of the model and the replies
    that were known, since the start.
    """

    def __init__(self, instruction: str, store: Store | None) -> None:
        self.instruction = Instruction(instruction)
        self.counts = {"calls": 0, "cache_hits": 0}
        self._store = store

    @property
    @abstractmethod
    def digest(self) -> str:
        """Hash of what decides the replies: model, options, instruction. The store's keys begin with it."""

    @abstractmethod
    def _ask(self, questions: Sequence[Question]) -> Generator[tuple[int, Reply], None, None]:
        """The replies to n distinct questions with their numbers, as they come, each of them `_kept` at once.

        Raises an error when one can't be had.
        """

    def __call__(
        self, *, prompts: Sequence[str], responses: Sequence[str], extrinsic: Sequence[float] | None
    ) -> list[Critique]:
        """One critique per response. Replies are kept as they come: an error loses none that was paid for."""
        rewards = [None] * len(responses) if extrinsic is None or not self.instruction.shows_extrinsic else extrinsic
        questions = [Question(*asked) for asked in zip(prompts, responses, rewards, strict=True)]
        replies = self._replies(questions)
        return [self._read(question, reply) for question, reply in zip(questions, replies, strict=True)]

    def _replies(self, questions: Sequence[Question]) -> list[Reply]:
        """A reply to each question; those that look the same to the model are one, wherever their prompts end."""
        keys = [self._key(question) for question in questions]
        distinct = dict(zip(keys, questions, strict=True))
        kept = {} if self._store is None else self._store.get(list(distinct))
        replies = {key: _decoded(content) for key, content in kept.items()}
        unseen = [key for key in distinct if key not in replies]
        self.counts["cache_hits"] += len(replies)
        with closing(self._ask([distinct[key] for key in unseen])) as asked:
            for number, reply in asked:
                self.counts["calls"] += 1
                replies[unseen[number]] = reply
        return [replies[key] for key in keys]

    def _kept(self, question: Question, reply: Reply) -> Reply:
        """The reply that counts from now on: another process's, where it came first. For any thread."""
        if self._store is None:
            return reply
        key = self._key(question)
        return _decoded(self._store.put({key: json.dumps(reply).encode()})[key])

    def _read(self, question: Question, reply: Reply) -> Critique:
        if not reply.whole:
            return Critique((), "unparsed", reply.text)
        return self.instruction.read(reply.text, question.prompt, question.response)

    def _key(self, question: Question) -> bytes:
        return hashlib.sha256(json.dumps([self.digest, self.instruction.shown(*question)]).encode()).digest()


def _decoded(content: bytes) -> Reply:
    try:
        return msgspec.json.decode(content, type=Reply)
    except msgspec.DecodeError as error:  # a row with a right checksum that another program wrote
        raise UserError(f"{STORE}: holds what is no reply of a critic; delete it") from error
