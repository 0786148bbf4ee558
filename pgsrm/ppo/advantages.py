"""From rewards to advantages, as pure functions. Shapes: B responses, T response tokens."""

import torch
from torch import Tensor

from pgsrm.ppo.settings import GROUP_BASELINES, PPOSettings


def token_rewards(rewards: Tensor, mask: Tensor) -> Tensor:
    """Rewards (B, T), zero outside the mask; one number per response (B,) is given at its last token."""
    if rewards.dim() == 2:
        return rewards * mask
    last = mask.long().cumsum(-1) == mask.long().sum(-1, keepdim=True)
    return rewards.unsqueeze(-1) * (mask & last)


def rewards_to_go(rewards: Tensor, mask: Tensor, gamma: float = 1.0) -> Tensor:
    """Return (B, T) of each response token: sum_k gamma^k r_{t+k} of `rewards` (B, T); zero outside the mask.

    With gamma = 1 and one reward per response every token's return is that reward: the broadcast of Algorithm 1, line 10.
    """
    returns, following = [], rewards[:, 0] * 0
    for t in reversed(range(rewards.shape[1])):
        following = rewards[:, t] * mask[:, t] + gamma * following
        returns.append(following)
    return torch.stack(returns[::-1], dim=1) * mask


def generalized_advantages(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    """GAE (B, T) of `rewards` and `values` V(s_t), both (B, T) (Schulman et al. 2016, eq. 16); zero outside the mask.

    delta_t = r_t + gamma V(s_{t+1}) - V(s_t), with V = 0 after a response's last token; A_t = sum_k (gamma lambda)^k
    delta_{t+k}. With gamma = lambda = 1 it is the return minus V(s_t).
    """
    advantages, advantage, following = [], rewards[:, 0] * 0, rewards[:, 0] * 0
    for t in reversed(range(rewards.shape[1])):
        value = values[:, t] * mask[:, t]
        delta = rewards[:, t] * mask[:, t] + gamma * following - value
        advantage = (delta + gamma * gae_lambda * advantage) * mask[:, t]
        following = value
        advantages.append(advantage)
    return torch.stack(advantages[::-1], dim=1)


def group_baseline(totals: Tensor, size: int, leave_one_out: bool) -> Tensor:
    """Mean return (B,) of each response's group of `size` consecutive rows, with or without the response itself.

    With it: GRPO (Shao et al. 2024, 4.1); without: RLOO (Ahmadian et al. 2024, eq. 7).
    """
    groups = totals.view(-1, size)
    total, first = groups.sum(-1, keepdim=True), groups[:, :1]
    mean = (total - groups) / (size - 1) if leave_one_out else (total / size).expand_as(groups)
    # of equal ones, whose mean rounding moves: a division by their deviation, which is none, would blow that up
    equal = (groups == first).all(-1, keepdim=True)
    return torch.where(equal, first, mean).reshape(-1)


def group_deviation(totals: Tensor, size: int) -> Tensor:
    """Standard deviation (B,) of the returns of each response's group (n - 1 in the denominator), plus 1e-4."""
    return (totals.view(-1, size).std(-1, keepdim=True) + 1e-4).expand(-1, size).reshape(-1)


def whiten(advantages: Tensor, mask: Tensor) -> Tensor:
    """Zero mean and unit variance over the mask (biased variance, eps 1e-8); a batch of one is left as it is."""
    if len(advantages) == 1:
        return advantages
    count = mask.sum().clamp(min=1)  # none where EOS is not trained and all responses are one
    mean = (advantages * mask).sum() / count
    variance = ((advantages - mean).square() * mask).sum() / count
    return (advantages - mean) * (variance + 1e-8).rsqrt() * mask


def advantages_and_targets(
    settings: PPOSettings,
    rewards: Tensor,
    values: Tensor,
    kl: Tensor,
    kl_coef: float,
    response_mask: Tensor,
    loss_mask: Tensor,
) -> tuple[Tensor, Tensor]:
    """Advantages (B, T) of a whole batch, and what its values should have been, in the values' shape.

    `rewards` and `kl` (each token's, nats) are (B, T), `values` (B,) or, under `token_values`, (B, T); none has a gradient.
    """
    if settings.kl_in == "reward":
        rewards = rewards - kl_coef * kl * loss_mask
    returns = rewards_to_go(rewards, response_mask, settings.gamma)
    if settings.baseline == "token_values":
        advantages = generalized_advantages(rewards, values, response_mask, settings.gamma, settings.gae_lambda)
        targets = advantages + values
    else:
        advantages, targets = returns - baseline(settings, returns[:, 0], values).unsqueeze(-1), returns[:, 0]
    return scale(settings, advantages * loss_mask, returns, loss_mask), targets


def baseline(settings: PPOSettings, totals: Tensor, values: Tensor) -> Tensor:
    """What is subtracted from a response's returns (B,): its value (B,), a mean of the totals (B,), or nothing."""
    if settings.baseline == "none":
        return totals * 0
    if settings.baseline == "batch_mean":
        return totals.mean().expand_as(totals)
    if settings.baseline in GROUP_BASELINES:
        return group_baseline(totals, settings.group_size, settings.baseline == "leave_one_out")
    return values


def scale(settings: PPOSettings, advantages: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Advantages (B, T) by their group's spread, or whitened over the batch, or as they are."""
    totals = returns[:, 0]
    if settings.scale_by_group:
        advantages = advantages / group_deviation(totals, settings.group_size).unsqueeze(-1)
    if not settings.whiten_advantages:
        return advantages
    whitened = whiten(advantages, mask)
    if len(totals) == 1:
        return whitened
    # equal rewards carry no signal: whitening would blow up the baseline's noise
    return whitened.masked_fill(((returns == totals[0]) | ~mask).all(), 0)
