"""What flows through an update: a `Rollout` is what the policy answered, a `Scored` is what that is worth.

Each is checked where it is made, so that nothing after it asks again how long a list is or whether a reward is a number.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pgsrm.task import Example
from pgsrm.util.errors import UserError
from pgsrm.util.numbers import counted


@dataclass(frozen=True)
class Rollout:
    """B responses to B prompts, as sampled.

    examples: what was asked, with its reference. prompt_ids, response_ids: token ids, an end-of-sequence token (EOS) kept
    where it was sampled. texts: the responses without EOS, in Unicode's form NFC. offsets: for each token of each response
    the characters [start, end) of the text that it wrote. prefill: the sampler's pass over the prompts, which the update
    reuses; nobody but the policy looks inside.

    Raises UserError for the first row that does not fit together.
    """

    examples: Sequence[Example]
    prompt_ids: list[list[int]]
    response_ids: list[list[int]]
    texts: list[str]
    offsets: list[list[tuple[int, int]]]
    prefill: Any = None

    def __post_init__(self) -> None:
        columns = (self.prompt_ids, self.response_ids, self.texts, self.offsets)
        if {len(column) for column in columns} != {len(self.examples)} or not self.examples:
            counts = ", ".join(str(len(column)) for column in (self.examples, *columns))
            raise UserError(
                f"rollout: {counts} examples, prompts, responses, texts and offsets; give one of each a row"
            )
        for row, (ids, text, offsets) in enumerate(zip(self.response_ids, self.texts, self.offsets, strict=True)):
            if not ids or not self.prompt_ids[row]:
                raise UserError(f"rollout: row {row} has no token in its {'prompt' if ids else 'response'}")
            if len(offsets) != len(ids):
                raise UserError(
                    f"rollout: row {row} has {counted(len(offsets), 'offset')} for {counted(len(ids), 'token')}; give one per token"
                )
            if any(not 0 <= start <= end <= len(text) for start, end in offsets):
                raise UserError(
                    f"rollout: row {row} has an offset outside its text of {counted(len(text), 'character')}"
                )

    def __len__(self) -> int:
        return len(self.examples)


@dataclass(frozen=True)
class Span:
    """Characters [start, end) of a response, what they were marked as, and what that is worth (None: not said)."""

    start: int
    end: int
    label: str
    value: float | None = None


@dataclass(frozen=True)
class Annotation:
    """What a reward says about one response besides its worth: marked spans, and the components that its total is made of."""

    spans: tuple[Span, ...] = ()
    components: Mapping[str, float] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As JSON holds it: `spans` as lists [start, end, label, value], and `components`; what is empty is left out."""
        spans = [[span.start, span.end, span.label, span.value] for span in self.spans]
        return {
            **({"spans": spans} if spans else {}),
            **({"components": dict(self.components)} if self.components else {}),
        }


@dataclass(frozen=True)
class Scored:
    """What B responses are worth.

    token_rewards: a list for each response, a number for each of its tokens. A reward per response stands at the last token
    (`at_last_token`). per_token: whether the reward was given per token. metrics: name -> value of the batch. annotations:
    one for each response, or none at all.

    Raises UserError for the first row that does not fit together, and for a number that is not finite.
    """

    token_rewards: list[list[float]]
    per_token: bool = False
    metrics: Mapping[str, float] = field(default_factory=dict)
    annotations: Sequence[Annotation] = ()

    def __post_init__(self) -> None:
        if self.annotations and len(self.annotations) != len(self.token_rewards):
            counts = (
                f"{counted(len(self.annotations), 'annotation')} for {counted(len(self.token_rewards), 'response')}"
            )
            raise UserError(f"scored: {counts}; give one for each, or none")
        for row, rewards in enumerate(self.token_rewards):
            if not rewards or not all(map(math.isfinite, rewards)):
                raise UserError(f"scored: row {row} has the rewards {rewards}; give a finite number for each token")
        for row, annotation in enumerate(self.annotations):
            for span in annotation.spans:
                if not 0 <= span.start <= span.end:
                    raise UserError(
                        f"scored: row {row} has a span from {span.start} to {span.end}; count from the start"
                    )

    def __len__(self) -> int:
        return len(self.token_rewards)

    @cached_property
    def totals(self) -> list[float]:
        """The reward of each response: the sum of its tokens' rewards."""
        return [sum(rewards) for rewards in self.token_rewards]


def at_last_token(rewards: Sequence[float], responses: Sequence[Sequence[Any]]) -> list[list[float]]:
    """Rewards per token from one number for each response (B,): it stands at the response's last token, all others have 0.

    responses: whatever is as long as their tokens, for example their ids. This is how `ppo.step` is fed by hand.
    """
    return [[0.0] * (len(tokens) - 1) + [reward] for reward, tokens in zip(rewards, responses, strict=True)]
