"""One gradient step on answers that are given, and what a policy says of them. Shapes: B answers, N their tokens in all."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from pgsrm.policy.batch import Contexts, PaddedBatch
from pgsrm.policy.protocol import Policy
from pgsrm.util.determinism import in_one_order
from pgsrm.util.errors import UserError


def gradient_step(
    policy: Policy, optimizer: torch.optim.Optimizer, losses: Iterable[Tensor], limit: float | None, lr_key: str
) -> dict[str, float]:
    """One step on the sum of `losses`, of which each is made when the gradient of the one before has been taken.

    `limit` is that of the gradient's norm, None for none. Returns `loss/actor`, the sum before the step, and
    `grad/actor_norm`. Raises UserError where the gradient is not finite: `lr_key` is the key and value that a user can mend.
    """
    optimizer.zero_grad(set_to_none=True)
    total: Any = 0.0
    for loss in losses:
        with in_one_order(policy.in_one_order):
            loss.backward()
        total = total + loss.detach()
    norm = clip_grad_norm_(policy.model.parameters(), math.inf if limit is None else limit)
    if not bool(torch.isfinite(norm)):
        raise UserError(f"{lr_key}: the gradient is not finite; lower it")
    optimizer.step()
    policy.weights_changed()
    return {"loss/actor": float(total), "grad/actor_norm": float(norm)}


def answer_logprobs(logits: Tensor, contexts: Contexts, batch: PaddedBatch) -> Tensor:
    """Log-probabilities (N,) of the answers' tokens under `logits` (C, V), row by row."""
    mask = batch.response_mask
    return logits.log_softmax(-1)[contexts.place[mask], batch.response_ids[mask]]


def summed_by_row(values: Tensor, batch: PaddedBatch) -> Tensor:
    """The sums (B,) of the answers' tokens (N,)."""
    mask = batch.response_mask
    return values.new_zeros(mask.shape).masked_scatter(mask, values).sum(-1)
