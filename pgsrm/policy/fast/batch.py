"""What of a batch the fast path computes, and what it computes once: shared prefix, distinct prompts, distinct pairs.

All of this follows from token ids that the host has. It is worked out there, in numpy, and then copied to the model's device
at once: asked of the device, it would make the host wait for a GPU several times an update.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgsrm.policy.batch import Contexts, PaddedBatch, Side, to_device


@dataclass(frozen=True)
class SharedBatch(PaddedBatch):
    """A batch whose prompts are without the S tokens that all prompts of the task begin with, and which rows are equal."""

    prefix_ids: Tensor  # (S,) tokens that all prompts of the task begin with, S >= 0
    padding: Side  # of `prompt_ids`, the rest of each prompt
    prompt: np.ndarray  # (B,) rows with the same number have the same prompt
    pair: np.ndarray  # (B,) rows with the same number have the same prompt and response
    lengths: np.ndarray  # (B,) tokens of each response
    prompt_index: np.ndarray | None = None  # (B,) which of the task's prompts each row is; None: from elsewhere

    def _rows_of(self, name: str, here: Tensor, there: Tensor) -> Any:
        value = getattr(self, name)
        return value if name in ("prefix_ids", "padding") or value is None else super()._rows_of(name, here, there)


def distinct(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first row (D,) with each of the distinct `numbers` (B,), and which of the D each row (B,) is."""
    _, first, index = np.unique(numbers, return_index=True, return_inverse=True)
    return first, index


@dataclass(frozen=True)
class Packing:
    """What of a batch has to be computed: K distinct prompts, D distinct (prompt, response) pairs, C contexts.

    The first K contexts are the prompts, whatever follows them; the others are the pairs' responses up to each token but the
    last. Prompts are drawn with replacement and a trained policy answers most of them in one way, so that rows are often
    equal.
    """

    prompt_rows: Tensor  # (K,) the first row of each prompt; on the CPU
    rows: Tensor  # (D,) the first row of each pair; on the CPU
    pair: Tensor  # (B,) which of the D pairs each row is
    prompt: Tensor  # (D,) which of the K prompts each pair has
    at: tuple[Tensor, Tensor]  # of each context (C,): a pair that it is of, and how many response tokens it has, from 0
    contexts: Contexts  # the same as the update sees it

    @staticmethod
    def of(batch: SharedBatch) -> "Packing":
        """The packing of a batch."""
        prompt_rows, prompt = distinct(batch.prompt)
        rows, pair = distinct(batch.pair)
        later = np.arange(1, batch.response_ids.shape[1]) < batch.lengths[rows, None]  # (D, T - 1) tokens but the first
        later_pair, later_length = later.nonzero()
        first_pair, first = distinct(prompt[rows])
        place = np.concatenate([first[:, None], later.cumsum().reshape(later.shape) + len(prompt_rows) - 1], 1)
        real = np.arange(place.shape[1]) < batch.lengths[:, None]
        context_pair = np.concatenate([first_pair, later_pair])
        length = np.concatenate([np.zeros_like(first_pair), later_length + 1])
        on_device = _moved([pair, first, context_pair, length, place[pair] * real, rows[context_pair]], batch)
        return Packing(
            torch.from_numpy(prompt_rows),
            torch.from_numpy(rows),
            on_device[0],
            on_device[1],
            (on_device[2], on_device[3]),
            Contexts(on_device[4], on_device[5], on_device[3]),
        )

    @property
    def later(self) -> tuple[Tensor, Tensor]:
        """Pair and last token's position (C - K,) of the contexts that aren't prompts."""
        count = len(self.prompt_rows)
        pair, length = self.at
        return pair[count:], length[count:] - 1


def _moved(arrays: Sequence[np.ndarray], batch: SharedBatch) -> list[Tensor]:
    """Arrays of integers as tensors on the batch's device, copied together."""
    flat = torch.from_numpy(np.concatenate([array.reshape(-1) for array in arrays]))
    parts = to_device(flat, batch.response_ids.device).split([array.size for array in arrays])
    return [part.view(array.shape) for part, array in zip(parts, arrays, strict=True)]


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
