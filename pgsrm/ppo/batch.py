"""A batch as the update sees it: rectangles of token ids, masks and rewards, checked once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pgsrm.policy.batch import PaddedBatch, filled_up, to_device
from pgsrm.policy.protocol import Policy
from pgsrm.policy.sampling import is_end
from pgsrm.ppo.settings import PPOSettings
from pgsrm.util.errors import UserError
from pgsrm.util.numbers import counted


@dataclass(frozen=True)
class Batch:
    """B sampled responses of up to T tokens."""

    padded: PaddedBatch
    loss_mask: Tensor  # (B, T) tokens in the loss
    rewards: Tensor  # (B, T)

    @staticmethod
    def of(
        policy: Policy,
        settings: PPOSettings,
        prompts: Sequence[Sequence[int]],
        responses: Sequence[Sequence[int]],
        rewards: Sequence[Sequence[float]],
        dtype: torch.dtype,
    ) -> "Batch":
        """Raises UserError where they do not fit together; `dtype` is the rewards'."""
        check_batch(settings, prompts, responses, rewards)
        padded = policy.pad(prompts, responses)
        return Batch(padded, loss_mask(padded, policy.eos, settings.train_eos), _pad_rewards(rewards, padded, dtype))

    def __len__(self) -> int:
        return len(self.padded)


def check_batch(
    settings: PPOSettings,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    rewards: Sequence[Sequence[float]],
) -> None:
    """Raise UserError where tensors would be broadcast to a number that means nothing."""
    if not 0 < len(prompts) == len(responses) == len(rewards):
        counts = f"{counted(len(prompts), 'prompt')}, {counted(len(responses), 'response')}, {counted(len(rewards), 'reward')}"
        raise UserError(f"ppo.step: {counts}; give one of each a row")
    for row, (prompt, response, reward) in enumerate(zip(prompts, responses, rewards, strict=True)):
        if not len(prompt) or not len(response):
            raise UserError(f"ppo.step: row {row} has no token in its {'response' if len(prompt) else 'prompt'}")
        if not isinstance(reward, Sequence):
            raise UserError(
                f"ppo.step: row {row} has the reward {reward!r}; give a list with one number per token, as "
                "pgsrm.rollout.at_last_token makes of one number per response"
            )
        if len(reward) != len(response):
            counts = f"{counted(len(reward), 'reward')} for {counted(len(response), 'token')}"
            raise UserError(f"ppo.step: row {row} has {counts}; give one per token")
    if len(prompts) % settings.group_size:
        raise UserError(
            f"ppo.step: {counted(len(prompts), 'row')}, no multiple of ppo.group_size={settings.group_size}"
        )


def loss_mask(batch: PaddedBatch, eos: tuple[int, ...], train_eos: bool) -> Tensor:
    """Response tokens in the loss (B, T): before the first EOS, and that EOS if `train_eos` (docs/fidelity.md, D3)."""
    return batch.response_mask if train_eos else batch.response_mask & ~is_end(batch.response_ids, eos)


def _pad_rewards(rewards: Sequence[Sequence[float]], batch: PaddedBatch, dtype: torch.dtype) -> Tensor:
    """(B, T), zero outside the responses."""
    padded, _ = filled_up(rewards, batch.response_ids.shape[1], 0.0, dtype)
    return to_device(padded, batch.response_ids.device)
