"""Losses, entropy and KL of a batch of responses, as pure functions.

Shapes: B responses, T response tokens, V vocabulary. `mask` (B, T) is true on response tokens. Every mean is the sum over
the mask divided by `count`, the mask's sum over the WHOLE batch, so that micro-batches add up to the same gradient.
Units: nats.
"""

from typing import Literal

import torch
from torch import Tensor

KLEstimator = Literal["k1", "k2", "k3", "exact"]


def masked_mean(values: Tensor, mask: Tensor, count: Tensor | float | None = None) -> Tensor:
    """Sum of `values` over `mask` divided by `count` (default: the mask's own sum)."""
    total = mask.sum() if count is None else count
    return (values * mask).sum() / total


def token_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities (B, T) of `tokens` (B, T) under `logits` (B, T, V)."""
    return logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def token_entropy(logits: Tensor) -> Tensor:
    """Entropy (B, T) of each position's distribution; a token at -inf counts as 0 (0 log 0)."""
    logp = logits.log_softmax(-1)
    return -(logp.exp() * logp.clamp(min=-1e9)).sum(-1)


def kl_divergence(
    estimator: KLEstimator,
    logprobs: Tensor,
    reference_logprobs: Tensor,
    logits: Tensor | None = None,
    reference_logits: Tensor | None = None,
) -> Tensor:
    """KL(policy || reference) per token (B, T), from the sampled tokens' log-probs or, exactly, from all logits.

    With d = log pi - log pi_ref on a token drawn from pi (Schulman, "Approximating KL divergence"):
    k1 = d, k2 = d^2 / 2, k3 = exp(-d) - 1 + d, exact = sum_v pi(v) (log pi(v) - log pi_ref(v)).
    As a loss k1 does not pull: its expected gradient is zero (docs/fidelity.md, D14), for tokens drawn from pi itself.
    """
    if estimator == "exact":
        assert logits is not None and reference_logits is not None
        logp, ref = logits.log_softmax(-1), reference_logits.log_softmax(-1)
        return (logp.exp() * (logp - ref)).sum(-1)
    difference = logprobs - reference_logprobs
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return difference.square() / 2
    return (-difference).exp() - 1 + difference


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_range: float | None,
    count: Tensor | float | None = None,
) -> Tensor:
    """-mean(log pi A) without ratio (Algorithm 1, line 11), or PPO's clipped surrogate (Schulman et al. 2017, eq. 7).

    `clip_range` None is the former; eps > 0 gives -mean(min(r A, clip(r, 1 - eps, 1 + eps) A)), r = pi / pi_old.
    """
    if clip_range is None:
        return -masked_mean(logprobs * advantages, mask, count)
    ratio = (logprobs - old_logprobs).exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)

    return -masked_mean(torch.min(ratio * advantages, clipped * advantages), mask, count)


def value_loss(
    values: Tensor,
    targets: Tensor,
    mask: Tensor | None = None,
    count: Tensor | float | None = None,
    old: Tensor | None = None,
    clip: float | None = None,
) -> Tensor:
    """Mean squared error of the values: one per response (B,) (Algorithm 1, line 12), or one per token (B, T) over `mask`.

    `count` is the number of responses, or of tokens, in the whole batch. With `clip` eps it is the mean of
    max((V - R)^2, (clip(V, V_old - eps, V_old + eps) - R)^2), `old` the values when the batch was sampled (Ziegler et al.
    2019; TRL, which halves it).
    """
    error = (values - targets).square()
    if clip is not None:
        assert old is not None
        error = torch.maximum(error, (values.clamp(old - clip, old + clip) - targets).square())
    return error.sum() / (count or len(values)) if mask is None else masked_mean(error, mask, count)
