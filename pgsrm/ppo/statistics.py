"""Log-probability of every response token, entropy and exact KL in one pass over the logits, with one backward.

The same numbers as `token_logprobs`, `token_entropy` and `kl_divergence("exact", ...)` of `pgsrm.ppo.losses`, which stay
as the definition that this is tested against. Written with autograd they keep seven tensors of the logits' size alive
and go over them some thirty times; here it is three tensors and eight times.
"""

from typing import Any

import torch
from torch import Tensor


class _TokenStatistics(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, place: Tensor, tokens: Tensor, reference_logp: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        logp = logits.log_softmax(-1)  # (C, V)
        p = logp.exp()
        entropy = -torch.linalg.vecdot(p, logp)
        kl = -entropy - torch.linalg.vecdot(p, reference_logp)
        ctx.save_for_backward(logp, p, place, tokens, reference_logp, entropy, kl)
        return logp[place, tokens], entropy, kl

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        # d logp_y / dz = 1_y - p;  dH / dz = -p (log p + H);  dKL / dz = p (log p - log q - KL)
        logp, p, place, tokens, reference_logp, entropy, kl = ctx.saved_tensors
        d_logprob, d_entropy, d_kl = gradients
        constant = -d_entropy * entropy - d_kl * kl
        constant.index_put_((place,), -d_logprob, accumulate=True)
        grad = logp * (d_kl - d_entropy).unsqueeze(-1)
        grad.addcmul_(reference_logp, -d_kl.unsqueeze(-1)).add_(constant.unsqueeze(-1)).mul_(p)
        grad.index_put_((place, tokens), d_logprob, accumulate=True)
        return grad, None, None, None


def token_statistics(
    logits: Tensor, place: Tensor, tokens: Tensor, reference_logp: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs of `tokens` (B, T), entropy (C,) and KL(policy || reference) (C,) of C contexts, all differentiable.

    `logits` (C, V) are the policy's, `reference_logp` (C, V) the reference's log-probabilities, `place` (B, T) says which
    context each token follows. Finite logits only: a truncated distribution goes through `pgsrm.ppo.losses`.
    """
    logprobs, entropy, kl = _TokenStatistics.apply(logits, place, tokens, reference_logp)
    return logprobs, entropy, kl
