"""Sampled answers to held-out prompts, where no answer is right or wrong: measures, variety, and distance from the reference.

RELC (arXiv:2401.07382) judges its policies so: several continuations per prompt, a measure that was not trained on, distinct
n-grams. docs/metrics.md has the formulas.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from pgsrm.policy.protocol import Policy

_ROWS = 16  # responses whose logits are in memory at once


def variety(texts: Sequence[str]) -> dict[str, float]:
    """`distinct_1`, `distinct_2`, `distinct_3` over all texts, and `repetition` within a text; words in lower case.

    distinct_n is the number of different n-grams of words divided by the number of all (Li et al. 2016, 5.2). repetition is
    the mean over the texts of at least two words of 1 - different / all pairs of neighbouring words.
    """
    words = [text.lower().split() for text in texts]
    metrics = {f"distinct_{n}": _distinct([gram for row in words for gram in _grams(row, n)]) for n in (1, 2, 3)}
    own = [1 - _distinct(pairs) for row in words if (pairs := list(_grams(row, 2)))]
    return {**metrics, "repetition": sum(own) / len(own) if own else 0.0}


def _grams(words: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(n)), strict=False)


def _distinct(grams: Sequence[Any]) -> float:
    return len(set(grams)) / len(grams) if grams else 0.0


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
