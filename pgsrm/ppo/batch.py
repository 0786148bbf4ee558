"""A batch as the update sees it: rectangles of token ids, masks and rewards, checked once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pgsrm.policy.batch import PaddedBatch
from pgsrm.policy.protocol import Policy
from pgsrm.policy.sampling import is_end
from pgsrm.ppo.advantages import token_rewards
from pgsrm.ppo.settings import PPOSettings
from pgsrm.util.errors import UserError


@dataclass(frozen=True)
class Batch:
    """B sampled responses of up to T tokens."""

    padded: PaddedBatch
    loss_mask: Tensor  # (B, T) tokens in the loss
    rewards: Tensor  # (B, T); a response's own is at its last token

    @staticmethod
    def of(
        policy: Policy,
        settings: PPOSettings,
        prompts: Sequence[Sequence[int]],
        responses: Sequence[Sequence[int]],
        rewards: Sequence[float] | Sequence[Sequence[float]],
        dtype: torch.dtype,
    ) -> "Batch":
        """Raises UserError where they do not fit together; `dtype` is the rewards'."""
        check_batch(settings, prompts, responses, rewards)
        padded = policy.pad(prompts, responses)
        given = token_rewards(_pad_rewards(rewards, padded, dtype), padded.response_mask)
        return Batch(padded, loss_mask(padded, policy.eos, settings.train_eos), given)

    def __len__(self) -> int:
        return len(self.padded)


def check_batch(
    settings: PPOSettings,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    rewards: Sequence[float] | Sequence[Sequence[float]],
) -> None:
    """Raise UserError where tensors would be broadcast to a number that means nothing."""
    if not 0 < len(prompts) == len(responses) == len(rewards):
        counts = f"{len(prompts)} prompts, {len(responses)} responses, {len(rewards)} rewards"
        raise UserError(f"ppo.step: {counts}; give one of each a row")
    if len({isinstance(reward, Sequence) for reward in rewards}) > 1:
        raise UserError("ppo.step: some rewards are a response's and some a token's; give one kind")
    for row, (prompt, response, reward) in enumerate(zip(prompts, responses, rewards, strict=True)):
        if not len(prompt) or not len(response):
            raise UserError(f"ppo.step: row {row} has no token in its {'response' if len(prompt) else 'prompt'}")
        if isinstance(reward, Sequence) and len(reward) != len(response):
            raise UserError(
                f"ppo.step: row {row} has {len(reward)} rewards for {len(response)} tokens; give one a token"
            )
    if len(prompts) % settings.group_size:
        raise UserError(f"ppo.step: {len(prompts)} rows are no multiple of ppo.group_size={settings.group_size}")


def loss_mask(batch: PaddedBatch, eos: tuple[int, ...], train_eos: bool) -> Tensor:
    """Response tokens in the loss (B, T): all up to the first EOS, which itself counts if `train_eos` (D3)."""
    return batch.response_mask if train_eos else batch.response_mask & ~is_end(batch.response_ids, eos)


def _pad_rewards(
    rewards: Sequence[float] | Sequence[Sequence[float]], batch: PaddedBatch, dtype: torch.dtype
) -> Tensor:
    """(B,) or (B, T)."""
    device = batch.response_ids.device
    if not isinstance(rewards[0], Sequence):
        return torch.tensor(rewards, dtype=dtype, device=device)
    padded = torch.zeros(batch.response_ids.shape, dtype=dtype)
    for row, values in enumerate(rewards):
        given = torch.as_tensor(values, dtype=dtype)
        padded[row, : len(given)] = given
    return padded.to(device)
