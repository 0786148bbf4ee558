"""The policy as its own critic (RELC's second setting): one model in both roles."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta

from pgsrm.critic.asked import Question, Reply
from pgsrm.critic.instruction import Form
from pgsrm.critic.local import LocalCritic
from pgsrm.models.settings import SHIPPED
from pgsrm.util.errors import UserError
from pgsrm.util.numbers import Count


class SelfCritic(LocalCritic):
    """Asks the policy's own model.

    path, revision, chat_template: those of the policy. weights: `initial` is a second, frozen copy of the model as training
    found it; with LoRA that is the model without its adapters. `current` is the policy as it is at each update; its replies are
    not kept, since the same text may get another one later. The other settings are `LocalCritic`'s.
    """

    def __init__(
        self,
        path: str | None = None,
        revision: str | None = None,
        weights: Literal["initial", "current"] = "initial",
        instruction: Annotated[str, Meta(min_length=1)] = "sentiment_short",
        form: Form = "text",
        max_tokens: Count = 60,
        batch_size: Count = 64,
        chat_template: bool = False,
        device: str = "auto",
        cache: str | None = None,
        cache_megabytes: Annotated[int, Meta(ge=0)] = 1000,
    ) -> None:
        super().__init__(
            path or str(SHIPPED),
            revision,
            instruction,
            form,
            max_tokens,
            batch_size,
            chat_template,
            device,
            cache=cache,
            cache_megabytes=cache_megabytes,
        )
        self._policy: Any = None
        self._weights = weights
        if weights == "current":
            self._store = None

    @property
    def digest(self) -> str:
        """As `LocalCritic.digest`; of the current weights nothing can be said but how they are asked."""
        initial = super().digest
        return initial if self._weights == "initial" else hashlib.sha256(f"current {initial}".encode()).hexdigest()

    def attach(self, policy: Any, codec: Any) -> None:
        """Keep the policy, where its current weights are to answer. Raises UserError for weights that are divided."""
        if self._weights == "initial":
            return
        if hasattr(policy.model, "reshard"):
            raise UserError("critic.weights=current: not with model.shard=true; use initial")
        self._policy = policy
        self._chat.use(policy.model, codec.tokenizer)

    def _ask(self, questions: Sequence[Question]) -> Generator[tuple[int, Reply], None, None]:
        if self._weights == "initial":
            yield from super()._ask(questions)
            return
        if self._policy is None:
            raise UserError("critic.weights=current: there is no policy outside a run; use initial")
        with self._policy.without_dropout():
            yield from super()._ask(questions)
