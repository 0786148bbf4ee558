"""Prompts and responses as rectangles of token ids: padding, masks and positions, made from lengths alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class PaddedBatch:
    """B prompts of up to P tokens and their responses of up to T, the prompts without the shared prefix.

    Masks come from lengths and never from `ids != pad`: GPT-2 has no pad token, and its EOS may be sampled.
    """

    prefix_ids: "Tensor"  # (S,) tokens that all prompts of the task begin with, S >= 0
    prompt_ids: "Tensor"  # (B, P) the rest of each prompt, padded on `padding`'s side
    prompt_mask: "Tensor"  # (B, P) bool
    response_ids: "Tensor"  # (B, T) padded on the right
    response_mask: "Tensor"  # (B, T) bool, true up to and including a sampled EOS
    padding: Literal["left", "right"]
    prompt: "Tensor"  # (B,) rows with the same number have the same prompt
    pair: "Tensor"  # (B,) rows with the same number have the same prompt and response
    prompt_index: "Tensor | None" = None  # (B,) which of the task's prompts each row is; None: from elsewhere

    def __len__(self) -> int:
        return self.response_ids.shape[0]

    def rows(self, index: "Tensor") -> "PaddedBatch":
        """The sub-batch of the rows `index` (n,), same padding."""
        return PaddedBatch(
            self.prefix_ids,
            self.prompt_ids[index],
            self.prompt_mask[index],
            self.response_ids[index],
            self.response_mask[index],
            self.padding,
            self.prompt[index],
            self.pair[index],
            None if self.prompt_index is None else self.prompt_index[index],
        )


def distinct(numbers: "Tensor") -> tuple["Tensor", "Tensor"]:
    """The first row (D,) with each of the distinct `numbers` (B,), and which of the D each row (B,) is."""
    import torch

    found, index = torch.unique(numbers, return_inverse=True)
    every = torch.arange(len(numbers), device=numbers.device)
    return every.new_zeros(len(found)).scatter_reduce(0, index, every, "amin", include_self=False), index


@dataclass(frozen=True)
class Packing:
    """What of a batch has to be computed: K distinct prompts, D distinct (prompt, response) pairs, C contexts.

    A context is what a token is predicted from. The first K are the prompts, whatever follows them; the others are the pairs'
    responses up to each token but the last. Prompts are drawn with replacement and a trained child answers most of them in
    one way, so that rows are often equal.
    """

    prompt_rows: "Tensor"  # (K,) the first row of each prompt
    rows: "Tensor"  # (D,) the first row of each pair
    pair: "Tensor"  # (B,) which of the D pairs each row is
    prompt: "Tensor"  # (D,) which of the K prompts each pair has
    context_pair: "Tensor"  # (C,) a pair that each context is of
    context_length: "Tensor"  # (C,) how many response tokens it has, from 0
    place: "Tensor"  # (B, T) which of the C contexts each row's token is predicted from; 0 at padding

    @staticmethod
    def of(batch: PaddedBatch) -> "Packing":
        import torch

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

    @property
    def later(self) -> tuple["Tensor", "Tensor"]:
        """Pair and last token's position (C - K,) of the contexts that aren't prompts."""
        count = len(self.prompt_rows)
        return self.context_pair[count:], self.context_length[count:] - 1

    def of_rows(self, index: "Tensor", part: "Packing") -> "Tensor":
        """Which of the C contexts those of `part`, the packing of this batch's rows `index` (n,), are."""
        return self.place[index[part.rows[part.context_pair]], part.context_length]


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Number of leading tokens that all prompts share, leaving every prompt at least one token of its own."""
    shortest = min(len(prompt) for prompt in prompts)
    for position in range(shortest - 1):
        if len({prompt[position] for prompt in prompts}) > 1:
            return position
    return shortest - 1


def pad_prompts(
    prompts: Sequence[Sequence[int]], pad: int, side: Literal["left", "right"], device: "torch.device"
) -> tuple["Tensor", "Tensor"]:
    """ids (B, P) and mask (B, P) of ragged prompts."""
    import torch

    width = max(len(prompt) for prompt in prompts)
    rows, filled = [], []
    for prompt in prompts:
        pads = width - len(prompt)
        before, after = (pads, 0) if side == "left" else (0, pads)
        rows.append([pad] * before + list(prompt) + [pad] * after)
        filled.append([False] * before + [True] * len(prompt) + [False] * after)
    ids, mask = torch.tensor(rows, dtype=torch.long), torch.tensor(filled)  # one call each: a call a row took 2 ms
    return ids.to(device), mask.to(device)


def positions(mask: "Tensor", padding: Literal["left", "right"]) -> "Tensor":
    """Position ids (B, L) of a whole sequence's mask (B, L).

    Left padding counts the tokens before each one (GPT-2's log-probs are wrong by tens without it).
    Right padding is the released code's: the pads in the middle take positions too (docs/fidelity.md, D4).
    """
    import torch

    if padding == "right":
        return torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
    return (mask.long().cumsum(-1) - 1).clamp(min=0)
