"""The losses of what is not PPO, as pure functions. Units: nats. Shapes: K pairs of responses, N tokens, V vocabulary."""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def dpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """DPO's loss (K,) and margin (K,) of K pairs (Rafailov et al. 2023, equation 7).

    All four are log-probabilities (K,) of whole responses, summed over their tokens: under the policy, and under the
    reference. The margin is the difference of the implicit rewards, m = beta ((log pi_w - log ref_w) - (log pi_l -
    log ref_l)), the loss -log sigmoid(m). With `label_smoothing` eps, which takes that share of the pairs to be in the wrong
    order, it is -(1 - eps) log sigmoid(m) - eps log sigmoid(-m) (Mitchell 2023).
    """
    margin = beta * ((chosen - reference_chosen) - (rejected - reference_rejected))
    return -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin), margin


def generalised_jsd(logits: Tensor, teacher_logits: Tensor, beta: float) -> Tensor:
    """Divergence (N,) of a policy p from its teacher q, both given as logits (N, V) (Agarwal et al. 2024, equation 1).

    beta 1 is KL(p || q) and 0 is KL(q || p), as in TRL; between them it is beta KL(q || m) + (1 - beta) KL(p || m) with
    m = beta q + (1 - beta) p.
    """
    logp, logq = logits.log_softmax(-1), teacher_logits.log_softmax(-1)
    if beta == 1:
        return _kl(logp, logq)
    if beta == 0:
        return _kl(logq, logp)
    mixture = torch.logaddexp(logp + math.log(1 - beta), logq + math.log(beta))
    return beta * _kl(logq, mixture) + (1 - beta) * _kl(logp, mixture)


def _kl(logp: Tensor, logq: Tensor) -> Tensor:
    """KL(p || q) of distributions in the last dimension."""
    return (logp.exp() * (logp - logq)).sum(-1)
