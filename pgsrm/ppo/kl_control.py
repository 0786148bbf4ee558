"""How the KL coefficient follows the measured KL divergence."""

from typing import Literal

KLControl = Literal["fixed", "paper", "ziegler"]


def next_coefficient(
    coefficient: float, kl: float, control: KLControl, target: float | None, batch_size: int, horizon: float
) -> float:
    """The coefficient of the next update, from the mean KL of the policy that sampled.

    `kl` is in nats per token, for `ziegler` in nats per response.

    `paper`: times 1.5 above 1.5 x target, divided by 1.5 below target / 1.5, without bounds (released code,
    docs/fidelity.md D13). `ziegler`: times 1 + clip(kl / target - 1, -0.2, 0.2) n / horizon (Ziegler et al. 2019, 2.2).
    """
    if control == "fixed" or target is None:
        return coefficient
    if control == "paper":
        if kl > 1.5 * target:
            return coefficient * 1.5
        return coefficient / 1.5 if kl < target / 1.5 else coefficient
    error = max(-0.2, min(0.2, kl / target - 1))
    return coefficient * (1 + error * batch_size / horizon)
