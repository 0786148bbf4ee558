"""What a policy and its reference say of given responses: KL, and perplexities. docs/metrics.md has the formulas."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pgsrm.policy.protocol import Policy

_ROWS = 16  # responses whose logits are in memory at once
_LARGEST = 700.0  # exp of more is no number


def distance(policy: Policy, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> dict[str, float]:
    """`kl` and `reference_perplexity` of responses that the policy drew, as token ids.

    kl: the sum over a response's tokens of the exact KL divergence of the policy from the reference, mean over the responses
    (nats per response). reference_perplexity: exp of the mean -log p of all tokens under the reference: high where the answers
    are no longer its language.
    """

    def of(batch: Any) -> tuple[float, float]:
        scores = policy.score(batch)
        own = _of_responses(batch, scores.logits, scores.contexts)
        reference = _of_responses(batch, *policy.score_reference(batch))
        return (own.exp() * (own - reference)).sum().item(), _loss(batch, reference)

    (divergence, loss), tokens = _summed(policy, prompts, responses, of)
    return {"kl": divergence / len(prompts), "reference_perplexity": _perplexity(loss, tokens)}


def response_perplexity(policy: Policy, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> float:
    """The exponential of the mean -log p of given responses' tokens under the policy; nan for no response."""
    if not prompts:
        return math.nan

    def of(batch: Any) -> tuple[float]:
        scores = policy.score(batch)
        return (_loss(batch, _of_responses(batch, scores.logits, scores.contexts)),)

    (loss,), tokens = _summed(policy, prompts, responses, of)
    return _perplexity(loss, tokens)


def _summed(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    of: Callable[[Any], tuple[float, ...]],
) -> tuple[tuple[float, ...], int]:
    """What `of` says of batches of `_ROWS` responses, each number summed, and the number of the responses' tokens."""
    said, tokens = [], 0
    with torch.no_grad(), policy.without_dropout():
        for start in range(0, len(prompts), _ROWS):
            batch = policy.pad(prompts[start : start + _ROWS], responses[start : start + _ROWS])
            said.append(of(batch))
            tokens += int(batch.response_mask.sum())
    return tuple(map(sum, zip(*said, strict=True))), tokens


def _of_responses(batch: Any, logits: Tensor, contexts: Any) -> Tensor:
    """Log-probabilities (N, V) at the N tokens of a batch's responses, from logits (C, V) of its contexts."""
    return logits.log_softmax(-1)[contexts.place[batch.response_mask]]


def _loss(batch: Any, logprobs: Tensor) -> float:
    """The sum of -log p of a batch's N response tokens under log-probabilities (N, V)."""
    return -logprobs.gather(-1, batch.response_ids[batch.response_mask].unsqueeze(-1)).sum().item()


def _perplexity(loss: float, tokens: int) -> float:
    return math.exp(min(_LARGEST, loss / tokens))
