"""How a token is drawn from logits, and where a response ends."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn: `temperature` > 0; `top_k` tokens are kept, 0 keeps all; at most `max_new_tokens`."""

    max_new_tokens: int
    temperature: float = 1.0
    top_k: int = 0


def truncate(logits: Tensor, temperature: float, top_k: int, keep: Tensor | None = None) -> Tensor:
    """Logits (..., V) of the sampled distribution: divided by the temperature, all but the top k at -inf.

    `keep` (...) are sampled tokens, which stay: rounding or a gradient step may have moved one out of the top k.
    """
    if temperature != 1.0:
        logits = logits / temperature
    if 0 < top_k < logits.shape[-1]:
        threshold = logits.topk(top_k, dim=-1).values[..., -1:]
        dropped = logits < threshold
        if keep is not None:
            dropped = dropped.scatter(-1, keep.unsqueeze(-1), False)
        logits = logits.masked_fill(dropped, float("-inf"))
    return logits


def draw(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """One token per row (B,) from logits (B, V) by inverting the distribution function at `uniform` (B,), and its log-prob.

    `uniform` is in [0, 1), in float64: float32 has 2^24 numbers there, which would never meet the rarest of 50,257 tokens.
    Nor would a sum in float32.
    """
    probabilities = torch.softmax(logits, dim=-1)
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    target = uniform.double().unsqueeze(-1) * cumulative[:, -1:]
    token = torch.searchsorted(cumulative, target, right=True).clamp(max=logits.shape[-1] - 1)
    return token.squeeze(-1), probabilities.gather(-1, token).squeeze(-1).log()


def is_end(tokens: Tensor, eos: tuple[int, ...]) -> Tensor:
    """Whether each of `tokens` ends a response (bool, same shape)."""
    ends = tokens == eos[0]
    for other in eos[1:]:
        ends = ends | (tokens == other)
    return ends


def shortened(
    rows: Sequence[list[int]], shortest: int | None, longest: int, draws: np.random.Generator
) -> list[list[int]]:
    """Responses as token ids, each cut to a limit that is drawn from `shortest` to `longest`; None: as they are."""
    if shortest is None:
        return list(rows)
    limits = draws.integers(shortest, longest + 1, len(rows)).tolist()
    return [row[:limit] for row, limit in zip(rows, limits, strict=True)]


def cut(tokens: Tensor, eos: tuple[int, ...]) -> list[list[int]]:
    """Rows of `tokens` (B, T) as lists, each up to and including its first EOS."""
    rows = []
    for row in tokens.tolist():
        end = next((place for place, token in enumerate(row) if token in eos), len(row))
        rows.append(row[: end + 1])
    return rows
