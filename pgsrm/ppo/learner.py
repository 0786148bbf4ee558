"""What training carries from update to update: value head, optimisers, KL coefficient."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pgsrm.policy.protocol import Policy, Scores
from pgsrm.ppo.settings import GROUP_BASELINES, PPOSettings
from pgsrm.util.distributed import ALONE, Processes


def adamw(module: Any, lr: float, settings: PPOSettings) -> torch.optim.AdamW:
    """The optimiser of all that is trained of a module; of a model with adapters, of those alone."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=lr, eps=settings.adam_eps, weight_decay=settings.weight_decay, fused=True)


class Learner:
    """A policy with what its training carries from update to update.

    `shuffle` draws the minibatches. The value head starts at zero, so the first advantages are the rewards. `processes`
    divide the rows of every gradient step among them.
    """

    def __init__(
        self, policy: Policy, settings: PPOSettings, shuffle: torch.Generator, processes: Processes = ALONE
    ) -> None:
        self.policy, self.settings, self.shuffle, self.processes = policy, settings, shuffle, processes
        self.value_head = torch.nn.Linear(policy.width, 1, device=policy.device)
        torch.nn.init.zeros_(self.value_head.weight)
        torch.nn.init.zeros_(self.value_head.bias)
        self.kl_coef = settings.kl_coef
        self.actor_optimizer = adamw(policy.model, settings.actor_lr, settings)
        self.critic_optimizer = adamw(self.value_head, settings.critic_lr, settings)
        if settings.dropout:
            policy.model.train()

    def modules(self) -> dict[str, Any]:
        """What has a state dict and changes in training, besides the policy."""
        return {
            "value_head": self.value_head,
            "actor_optimizer": self.actor_optimizer,
            "critic_optimizer": self.critic_optimizer,
        }

    def numbers(self) -> dict[str, float]:
        """What else changes in training."""
        return {"kl_coef": self.kl_coef}

    def set_numbers(self, numbers: Mapping[str, Any]) -> None:
        """Make these numbers, and others that are of no concern here, what `numbers` returned."""
        self.kl_coef = numbers["kl_coef"]

    def one_pass(self, rows: int) -> bool:
        """Whether an update's first gradient step is on all `rows` responses in one forward pass, whose ratio is 1.

        Not with dropout and several steps: what the policy that sampled says has then another mask than any of them.
        """
        s = self.settings
        share = rows // self.processes.count
        whole = s.minibatches == 1 and (s.micro_batch is None or s.micro_batch >= share)
        return whole and (s.epochs == 1 or not s.dropout)

    def advantages_by_part(self, rows: int) -> bool:
        """Whether the advantages of a micro-batch of an update on `rows` responses follow from its own rows alone.

        Its first gradient step then needs no pass over the batch before. With dropout that pass has a mask of its own.
        """
        s = self.settings
        if s.micro_batch is None or s.minibatches > 1 or s.dropout or s.whiten_advantages or s.baseline == "batch_mean":
            return False
        in_groups = s.scale_by_group or s.baseline in GROUP_BASELINES
        share = rows // self.processes.count
        return not in_groups or s.micro_batch % s.group_size == share % s.group_size == 0

    def reuses_prefill(self, rows: int) -> bool:
        """Whether sampling's pass over the prompts is also the first step's: same weights, padding, and no dropout."""
        return self.one_pass(rows) and self.settings.padding == "left" and not self.settings.dropout

    def minibatches(self, rows: int) -> list[Tensor]:
        """The rows of each gradient step of an update on `rows` responses, drawn at random where they are split."""
        settings = self.settings
        if settings.minibatches == 1:
            return [torch.arange(rows)] * settings.epochs
        orders = [torch.randperm(rows, generator=self.shuffle) for _ in range(settings.epochs)]
        return [part for order in orders for part in order.tensor_split(settings.minibatches)]

    def values(self, scores: Scores) -> Tensor:
        """V on detached hidden states: of the prompt or of the last response token (B,), or before each token (B, T).

        The last response token's hidden state is there only when `baseline` asks for it.
        """
        if self.settings.baseline == "token_values":
            return self.value_head(scores.states.float()).squeeze(-1)[scores.contexts.place]
        hidden = scores.prompt_hidden if scores.value_hidden is None else scores.value_hidden
        return self.value_head(hidden.detach().float()).squeeze(-1)
