"""The metrics of one gradient step (docs/metrics.md), added up over its micro-batches and the processes."""

import torch
from torch import Tensor

from pgsrm.ppo.losses import masked_mean
from pgsrm.ppo.tokens import Tokens
from pgsrm.util.distributed import Processes

LARGEST = "policy/ratio_max"
SAMPLED_KL = "kl of the policy that sampled"  # what the KL coefficient goes by; on no line of the record
FLAT = 1e-5  # a deviation this small beside the largest number is rounding alone: targets are sums over a response


class Totals:
    """Sums of metrics by name; of `LARGEST` the largest value. Each is a part of a mean over the whole gradient step."""

    def __init__(self) -> None:
        self.values: dict[str, Tensor] = {}

    def add(self, metrics: dict[str, Tensor]) -> None:
        """A micro-batch's part."""
        for name, value in metrics.items():
            value, before = value.detach(), self.values.get(name)
            if before is not None:
                value = torch.maximum(before, value) if name == LARGEST else before + value
            self.values[name] = value

    def combine(self, processes: Processes) -> None:
        """Add up those of all processes."""
        self.values = processes.combine(self.values, largest=LARGEST)

    def floats(self) -> dict[str, float]:
        """The step's metrics."""
        values = [value.double() for value in self.values.values()]
        numbers = torch.stack(values).tolist()  # a step's one wait for a GPU
        metrics = dict(zip(self.values, numbers, strict=True))
        square = metrics.pop("advantage/square") - metrics["advantage/mean"] ** 2
        metrics["advantage/std"] = max(0.0, square) ** 0.5
        return metrics


def explained_variance(values: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(R - V) / Var(R) of the values V and their targets R, both (B, T), over the mask; 0 where R does not vary."""

    def variance(numbers: Tensor) -> Tensor:
        return masked_mean((numbers - masked_mean(numbers, mask)).square(), mask)

    of_returns = variance(targets)
    largest = (torch.maximum(targets.abs(), values.abs()) * mask).max()
    return torch.where(of_returns > (FLAT * largest) ** 2, 1 - variance(targets - values) / of_returns, 0.0)


def token_metrics(
    tokens: Tokens, old: Tensor, advantages: Tensor, mask: Tensor, count: Tensor, responses: int, clip: float | None
) -> dict[str, Tensor]:
    """Of n responses, parts of the means over `count` tokens and `responses` responses; `old` are log-probabilities (n, T)."""
    logprobs, values = tokens.logprobs.detach(), tokens.values
    ratio = (logprobs - old).exp()
    precise = advantages.double()  # their deviation is a difference, which float32 has lost where the mean is large
    metrics = {
        "policy/kl": masked_mean(tokens.full.detach() - tokens.reference, mask, count),
        "value/mean": masked_mean(values, mask, count) if values.dim() == 2 else values.sum() / responses,
        "advantage/mean": masked_mean(precise, mask, count),
        "advantage/square": masked_mean(precise.square(), mask, count),
        LARGEST: (ratio * mask).max(),
        "policy/kl_previous": masked_mean(old - logprobs, mask, count),
    }
    if clip is not None:
        metrics["policy/ratio_mean"] = masked_mean(ratio, mask, count)
        metrics["policy/clip_fraction"] = masked_mean(((ratio - 1).abs() > clip).float(), mask, count)
    return metrics
