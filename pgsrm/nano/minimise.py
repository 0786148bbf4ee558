"""The loop that trained all that was fine-tuned from nano: AdamW, one cycle of the learning rate, clipped gradients."""

from collections.abc import Callable

import torch
from transformers import PreTrainedModel


def minimise(model: PreTrainedModel, loss: Callable[[], torch.Tensor], steps: int, rate: float) -> None:
    """Minimise what `loss` says of its next batch, a scalar, in `steps` steps with learning rates up to `rate`."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps, pct_start=0.1)
    model.train()
    for step in range(steps):
        value = loss()
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step} of {steps}: loss {value.item():.3f}", flush=True)
    model.eval()
