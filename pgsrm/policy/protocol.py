"""What an update asks of a policy, and the values that flow between the two. `simple.py` is the one to read first."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from pgsrm.policy.batch import Contexts, PaddedBatch
from pgsrm.policy.sampling import Sampling


@dataclass(frozen=True)
class Scores:
    """What one forward pass says about B responses of up to T tokens, which follow C contexts."""

    logits: Tensor  # (C, V) float32, of the distribution that follows each context
    contexts: Contexts
    states: Tensor  # (C, W) last layer at the end of each context, without gradient
    prompt_hidden: Tensor  # (B, W) what the output layer takes at the last position before the response
    value_hidden: Tensor | None  # (B, W) the same after the asked-for number of response tokens


@dataclass(frozen=True)
class Sampled:
    """B sampled responses, each cut after its EOS (kept) or at the length limit."""

    responses: list[list[int]]  # token ids
    logprobs: Tensor  # (B, T) log-probability of each token under the distribution that it was drawn from
    # The pass over the prompts, with its graph, as this policy's `score` takes it; None where there is none to share.
    prefill: Any | None


class Policy(Protocol):
    """A causal language model, the reference that KL is measured against, and the token ids that end a response."""

    model: Any  # of transformers; what is trained
    reference: Any  # frozen; the model itself where the reference is the model without its adapters
    eos: tuple[int, ...]  # ids that end a response; the first one pads
    device: torch.device
    in_one_order: bool  # whether the gradients' sums are asked to be in one order on a GPU (pgsrm.util.determinism)

    @property
    def width(self) -> int:
        """Size W of the last hidden state, which the output layer takes."""

    @property
    def positions(self) -> int | None:
        """Most tokens of prompt and response together; None where the model names no limit."""

    def pad(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> PaddedBatch:
        """Rectangles of token ids from ragged prompts and responses (each at least one token)."""

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        uniforms: Tensor,
        how: Sampling,
        with_graph: bool = False,
        share: Tensor | None = None,
    ) -> Sampled:
        """One response per prompt. `uniforms` (B, max_new_tokens) in [0, 1), float64, are all the randomness there is.

        `with_graph` asks for `Sampled.prefill`. `share` (n,) are the rows to answer, default all.
        """

    def greedy(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        """The most probable token at every step, without dropout."""

    def answer(self, prompts: Sequence[Sequence[int]], uniforms: Tensor, how: Sampling) -> list[list[int]]:
        """As `sample`, for any number of prompts, without gradient and dropout; the responses' token ids alone."""

    def answers(
        self, prompts: Sequence[Sequence[int]], draws: Sequence[tuple[Tensor, Sampling]]
    ) -> list[list[list[int]]]:
        """As `answer`, for each of `draws` (uniforms, how); the prompts are read once for all of them where the policy can."""

    def text_logprob(self, windows: Tensor) -> float:
        """Mean log-probability of each token but the first of its row, given those before it, of token ids (W, L), L >= 2."""

    def without_dropout(self) -> AbstractContextManager[None]:
        """Within it, the policy's dropout is off."""

    def score(self, batch: Any, value_place: Tensor | None = None, prefill: Any | None = None) -> Scores:
        """The policy's logits and hidden states on given responses, with gradient.

        `batch` is of this policy's `pad`. `value_place` (B,) asks for the hidden state after so many tokens of each
        response, 0 to T. `prefill` is of `sample`, if the policy is still the one that sampled.
        """

    def score_reference(self, batch: Any) -> tuple[Tensor, Contexts]:
        """The reference's logits (C, V), without gradient, and which contexts they follow."""

    def weights_changed(self) -> None:
        """To be called after the policy's weights have changed: nothing made of the old ones is used again."""

    def set_reference(self, weights: dict[str, Tensor]) -> None:
        """Give the reference other weights (a state dict)."""
