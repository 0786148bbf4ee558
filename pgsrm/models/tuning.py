"""Training on examples that are given: passes over them in a drawn order, and the gradient step of each batch.

AdamW without weight decay, gradient norms clipped at 1, a learning rate that falls linearly to 0.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from pgsrm.util.determinism import in_one_order
from pgsrm.util.errors import UserError

_LARGEST_NORM = 1.0


class TuningSettings(Protocol):
    """What settings of such a training have in common."""

    @property
    def epochs(self) -> int:
        """Passes over the examples."""

    @property
    def batch_size(self) -> int:
        """Examples per gradient step."""

    @property
    def lr(self) -> float:
        """Learning rate at the first step."""


def steps(examples: int, settings: TuningSettings) -> int:
    """Gradient steps of a training on so many examples."""
    return settings.epochs * math.ceil(examples / settings.batch_size)


def tune(
    model: Any,
    weights: Sequence[int],
    settings: TuningSettings,
    seed: int,
    losses: Callable[[Sequence[int]], Iterable[Tensor]],
    lr_key: str,
    after_epoch: Callable[[int, float], None],
    one_order: bool = False,
    after_step: Callable[[int], None] = lambda made: None,
) -> None:
    """Train the model on examples 0 to n - 1; the same seed gives the same weights.

    Args:
        model: its parameters that can be trained are.
        weights: what each of the n examples counts in a mean: 1, or its tokens.
        settings: as `TuningSettings`.
        seed: of the order of the examples.
        losses: the mean loss of a batch, given by its examples' numbers, in parts that add up to it.
        lr_key: the key of the learning rate, which an error names.
        after_epoch: called with the number of epochs made and the mean loss of the last one.
        one_order: as in `gradient_step`.
        after_step: called when the weights have changed, with the number of steps made, of `steps`.

    Raises UserError for a gradient that is not finite.
    """
    order = torch.Generator().manual_seed(seed)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=0.0, fused=True)
    planned = steps(len(weights), settings)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / planned)
    named = f"{lr_key}={settings.lr:g}"
    made = 0
    for epoch in range(1, settings.epochs + 1):
        total = 0.0
        for drawn in torch.randperm(len(weights), generator=order).split(settings.batch_size):
            rows = drawn.tolist()
            metrics = gradient_step(model, optimizer, losses(rows), _LARGEST_NORM, named, one_order)
            total += metrics["loss/actor"] * sum(weights[row] for row in rows)
            made += 1
            after_step(made)
            schedule.step()
        after_epoch(epoch, total / sum(weights))


def gradient_step(
    model: Any,
    optimizer: torch.optim.Optimizer,
    losses: Iterable[Tensor],
    limit: float | None,
    lr_key: str,
    one_order: bool = False,
) -> dict[str, float]:
    """One step on the sum of `losses`, of which each is made when the gradient of the one before has been taken.

    `limit` is that of the gradient's norm, None for none. `one_order`: sums on a GPU are in one order (pgsrm.util.determinism).
    Returns `loss/actor`, the sum before the step, and `grad/actor_norm`. Raises UserError where the gradient is not finite:
    `lr_key` is the key and value that a user can mend.
    """
    optimizer.zero_grad(set_to_none=True)
    total: Any = 0.0
    for loss in losses:
        with in_one_order(one_order):
            loss.backward()
        total = total + loss.detach()
    norm = clip_grad_norm_(model.parameters(), math.inf if limit is None else limit)
    if not bool(torch.isfinite(norm)):
        raise UserError(f"{lr_key}: the gradient is not finite; lower it")
    optimizer.step()
    return {"loss/actor": float(total), "grad/actor_norm": float(norm)}
