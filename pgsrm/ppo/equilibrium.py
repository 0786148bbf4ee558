"""Where entropy bonus and KL term alone lead a policy: what is left of an update when the reward says nothing.

docs/equilibrium.md has the derivations. V is the size of the vocabulary; units are nats.
"""

import math

import torch
from scipy.special import wrightomega
from torch import Tensor

from pgsrm.ppo.settings import PPOSettings

_STEPS = 100  # bisections of a multiplier, to float64's precision


def equilibrium_logprobs(settings: PPOSettings, reference_logits: Tensor) -> Tensor | None:
    """Log-probabilities (..., V) of the equilibrium after contexts whose reference has these logits (..., V).

    None for a KL term in the reward, and for an estimator of tokens that are not the policy's own draws
    (`PPOSettings.draws_what_it_scores`).
    """
    temperature = settings.equilibrium_temperature
    if temperature is not None:
        return (reference_logits.double() / temperature).log_softmax(-1)
    if settings.kl_in == "reward" or not settings.draws_what_it_scores:
        return None
    return _forward_kl_equilibrium(reference_logits.double().log_softmax(-1), settings.kl_coef / settings.entropy_coef)


def _forward_kl_equilibrium(reference: Tensor, ratio: float) -> Tensor:
    """The maximum of H(pi) - ratio KL(ref || pi), as log-probabilities (..., V) from the reference's.

    Its stationary point has log pi - ratio ref / pi = m for every token. With y = ratio ref / pi that is
    y + log y = log(ratio ref) - m, so y = omega(log(ratio ref) - m), Wright's omega function. m is found by bisection, since
    the sum of pi grows with it.
    """
    mass = reference + math.log(ratio)

    def logprobs(multiplier: Tensor) -> Tensor:
        y = torch.from_numpy(wrightomega((mass - multiplier).numpy()))
        return multiplier + y  # log pi = m + ratio ref / pi = m + y

    low = torch.full_like(mass[..., :1], -ratio - math.log(mass.shape[-1]) - 1)
    high = torch.zeros_like(low)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        too_much = logprobs(middle).logsumexp(-1, keepdim=True) > 0
        low, high = torch.where(too_much, low, middle), torch.where(too_much, middle, high)
    return logprobs((low + high) / 2).log_softmax(-1)
