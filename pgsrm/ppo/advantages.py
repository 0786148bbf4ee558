"""From rewards to advantages, as pure functions. Shapes: B responses, T response tokens."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def rewards_to_go(rewards: "Tensor", mask: "Tensor") -> "Tensor":
    """Undiscounted return (B, T) of each response token, zero outside the mask (gamma = lambda = 1).

    `rewards` is one number a response (B,), given at its last token, or one a token (B, T). With one a response every
    token's return is that number: the broadcast of Algorithm 1, line 10.
    """
    if rewards.dim() == 1:
        return rewards.unsqueeze(-1) * mask
    masked = rewards * mask
    return (masked.sum(-1, keepdim=True) - masked.cumsum(-1) + masked) * mask


def subtract_baseline(returns: "Tensor", baseline: "Tensor", mask: "Tensor") -> "Tensor":
    """Advantages (B, T): each token's return minus its response's baseline (B,), zero outside the mask."""
    return (returns - baseline.unsqueeze(-1)) * mask


def whiten(advantages: "Tensor", mask: "Tensor") -> "Tensor":
    """Zero mean and unit variance over the mask (biased variance, eps 1e-8); a batch of one is left as it is."""
    if len(advantages) == 1:
        return advantages
    count = mask.sum().clamp(min=1)  # none where EOS is not trained and all responses are one
    mean = (advantages * mask).sum() / count
    variance = ((advantages - mean).square() * mask).sum() / count
    return (advantages - mean) * (variance + 1e-8).rsqrt() * mask
