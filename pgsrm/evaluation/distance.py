"""The distance of sampled answers from the reference policy. docs/metrics.md has the formulas."""

import math
from collections.abc import Sequence

import torch

from pgsrm.policy.protocol import Policy

_ROWS = 16  # responses whose logits are in memory at once


def distance(policy: Policy, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> dict[str, float]:
    """`kl` and `reference_perplexity` of responses that the policy drew, as token ids.

    kl: the sum over a response's tokens of the exact KL divergence of the policy from the reference, mean over the responses
    (nats per response). reference_perplexity: exp of the mean -log p of all tokens under the reference: high where the answers
    are no longer its language.
    """
    divergence, loss, tokens = 0.0, 0.0, 0
    with torch.no_grad(), policy.without_dropout():
        for start in range(0, len(prompts), _ROWS):
            batch = policy.pad(prompts[start : start + _ROWS], responses[start : start + _ROWS])
            mask = batch.response_mask
            scores = policy.score(batch)
            logits, contexts = policy.score_reference(batch)
            own = scores.logits.log_softmax(-1)[scores.contexts.place[mask]]  # (N, V) of the N response tokens
            reference = logits.log_softmax(-1)[contexts.place[mask]]
            divergence += (own.exp() * (own - reference)).sum().item()
            loss -= reference.gather(-1, batch.response_ids[mask].unsqueeze(-1)).sum().item()
            tokens += int(mask.sum())
    return {"kl": divergence / len(prompts), "reference_perplexity": math.exp(min(700.0, loss / tokens))}
