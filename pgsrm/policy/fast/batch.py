"""What of a batch the fast path computes, and what it computes once: shared prefix, distinct prompts, distinct pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pgsrm.policy.batch import Contexts, PaddedBatch, Side


@dataclass(frozen=True)
class SharedBatch(PaddedBatch):
    """A batch whose prompts are without the S tokens that all prompts of the task begin with, and which rows are equal."""

    prefix_ids: Tensor  # (S,) tokens that all prompts of the task begin with, S >= 0
    padding: Side  # of `prompt_ids`, the rest of each prompt
    prompt: Tensor  # (B,) rows with the same number have the same prompt
    pair: Tensor  # (B,) rows with the same number have the same prompt and response
    prompt_index: Tensor | None = None  # (B,) which of the task's prompts each row is; None: from elsewhere

    def _rows_of(self, name: str, index: Tensor) -> Any:
        value = getattr(self, name)
        return value if name in ("prefix_ids", "padding") or value is None else value[index]


def distinct(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """The first row (D,) with each of the distinct `numbers` (B,), and which of the D each row (B,) is."""
    values, index = torch.unique(numbers, return_inverse=True)
    every = torch.arange(len(numbers), device=numbers.device)
    return every.new_zeros(len(values)).scatter_reduce(0, index, every, "amin", include_self=False), index


@dataclass(frozen=True)
class Packing:
    """What of a batch has to be computed: K distinct prompts, D distinct (prompt, response) pairs, C contexts.

    The first K contexts are the prompts, whatever follows them; the others are the pairs' responses up to each token but the
    last. Prompts are drawn with replacement and a trained policy answers most of them in one way, so that rows are often
    equal.
    """

    prompt_rows: Tensor  # (K,) the first row of each prompt
    rows: Tensor  # (D,) the first row of each pair
    pair: Tensor  # (B,) which of the D pairs each row is
    prompt: Tensor  # (D,) which of the K prompts each pair has
    context_pair: Tensor  # (C,) a pair that each context is of
    context_length: Tensor  # (C,) how many response tokens it has, from 0
    place: Tensor  # (B, T) which of the C contexts each row's token is predicted from; 0 at padding

    @staticmethod
    def of(batch: SharedBatch) -> "Packing":
        """The packing of a batch."""
        prompt_rows, prompt = distinct(batch.prompt)
        rows, pair = distinct(batch.pair)
        later = batch.response_mask[rows, 1:]
        later_pair, later_length = later.nonzero(as_tuple=True)
        first_pair, first = distinct(prompt[rows])
        place = torch.cat([first.unsqueeze(1), (later.flatten().cumsum(0) + len(prompt_rows) - 1).view(later.shape)], 1)
        return Packing(
            prompt_rows,
            rows,
            pair,
            first,
            torch.cat([first_pair, later_pair]),
            torch.cat([torch.zeros_like(first_pair), later_length + 1]),
            place[pair] * batch.response_mask,
        )

    @cached_property
    def contexts(self) -> Contexts:
        """The same as the update sees it."""
        return Contexts(self.place, self.rows[self.context_pair], self.context_length)

    @property
    def later(self) -> tuple[Tensor, Tensor]:
        """Pair and last token's position (C - K,) of the contexts that aren't prompts."""
        count = len(self.prompt_rows)
        return self.context_pair[count:], self.context_length[count:] - 1


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Number of leading tokens that all prompts share, leaving every prompt at least one token of its own."""
    shortest = min(len(prompt) for prompt in prompts)
    for position in range(shortest - 1):
        if len({prompt[position] for prompt in prompts}) > 1:
            return position
    return shortest - 1


def positions(mask: Tensor, padding: Side) -> Tensor:
    """Position ids (B, L) of a whole sequence's mask (B, L).

    Left padding counts the tokens before each one (GPT-2's log-probs are wrong by tens without it).
    Right padding is the released code's: the pads in the middle take positions too (docs/fidelity.md, D4).
    """
    if padding == "right":
        return torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
    return (mask.long().cumsum(-1) - 1).clamp(min=0)
