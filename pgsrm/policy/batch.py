"""Prompts and responses as rectangles of token ids: padding and masks, made from lengths alone."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

Side = Literal["left", "right"]


@dataclass(frozen=True)
class PaddedBatch:
    """B prompts of up to P tokens and their responses of up to T.

    Masks come from lengths and never from `ids != pad`: GPT-2 has no pad token, and its EOS may be sampled.
    """

    prompt_ids: Tensor  # (B, P)
    prompt_mask: Tensor  # (B, P) bool
    response_ids: Tensor  # (B, T) padded on the right
    response_mask: Tensor  # (B, T) bool, true up to and including a sampled EOS

    def __len__(self) -> int:
        return self.response_ids.shape[0]

    def rows(self, index: Tensor) -> Self:
        """The sub-batch of the rows `index` (n,), a tensor of the CPU; same padding."""
        there = to_device(index, self.response_ids.device)
        return type(self)(**{field.name: self._rows_of(field.name, index, there) for field in fields(self)})

    def _rows_of(self, name: str, here: Tensor, there: Tensor) -> Any:
        """Of the field `name`, by the index on the CPU or on the batch's device."""
        value = getattr(self, name)
        return value[here.numpy()] if isinstance(value, np.ndarray) else value[there]


@dataclass(frozen=True)
class Contexts:
    """The C contexts that logits are made for; a context is what a response token is predicted from.

    Several tokens may have one context, as where equal rows are computed once.
    """

    place: Tensor  # (B, T) which of the C contexts each token is predicted from; 0 at padding
    row: Tensor  # (C,) a row of the batch that the context is of
    position: Tensor  # (C,) how many of that row's response tokens it has, from 0: the prompt alone

    @staticmethod
    def one_per_token(mask: Tensor) -> "Contexts":
        """A context for each response token, where `mask` (B, T) is true."""
        row, position = mask.nonzero(as_tuple=True)
        return Contexts((mask.flatten().cumsum(0) - 1).view(mask.shape) * mask, row, position)

    def of_rows(self, index: Tensor, part: "Contexts") -> Tensor:
        """Which of these contexts those of `part` are (n,): the contexts of the rows `index` of this batch."""
        return self.place[index[part.row], part.position]


def is_asynchronous(device: torch.device) -> bool:
    """Whether the host must wait for `device` to know a tensor's values, so that asking for them costs more than it saves."""
    return device.type != "cpu"


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on `device`. The host doesn't wait until all that the GPU has to do before is done."""
    return tensor.to(device, non_blocking=True)


def pad_rows(rows: Sequence[Sequence[int]], pad: int, side: Side, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids (B, L) and mask (B, L) of ragged rows; `pad` fills up the shorter ones on `side`."""
    ids, mask = filled_up(rows, max(map(len, rows)), pad, torch.long, side)
    return to_device(ids, device), to_device(mask, device)


def filled_up(
    rows: Sequence[Sequence[float]], width: int, rest: float, dtype: torch.dtype, side: Side = "right"
) -> tuple[Tensor, Tensor]:
    """Ragged rows as a rectangle (B, width), with `rest` where they have nothing, and its mask; both on the CPU."""
    lengths, place = torch.tensor([len(row) for row in rows]).unsqueeze(1), torch.arange(width)
    mask = place < lengths if side == "right" else place >= width - lengths
    # at once: a call a row took 2 ms
    numbers = torch.tensor([number for row in rows for number in row], dtype=dtype)
    return torch.full(mask.shape, rest, dtype=dtype).masked_scatter_(mask, numbers), mask
