"""Which responses are learned from: the best of a group, pairs of which one is preferred. Needs no torch."""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from pgsrm.rollout import Rollout
from pgsrm.util.numbers import in_float32


class Pair(NamedTuple):
    """Token ids of a prompt, and of the answer that it should get, EOS included."""

    prompt: list[int]
    answer: list[int]


class Preference(NamedTuple):
    """Token ids of a prompt, of the answer that is preferred, and of the other one."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


def best_of_groups(rollout: Rollout, totals: Sequence[float], size: int) -> list[Pair]:
    """The response with the largest reward (`in_float32`) of each group of `size` rows; of several, the first."""
    totals = in_float32(totals)
    rows = [max(group, key=totals.__getitem__) for group in _groups(rollout, size)]
    return [Pair(rollout.prompt_ids[row], rollout.response_ids[row]) for row in rows]


def ordered_by_reward(rollout: Rollout, totals: Sequence[float], size: int) -> list[Preference]:
    """The best response of each group of `size` rows against its worst; none where both are the same text, or worth the same.

    Rewards are compared `in_float32`: those per token add up to totals that may differ in their last digit alone. A reward that
    draws, or a critic that is asked twice, may give one text two numbers.
    """
    totals, preferences = in_float32(totals), []
    for group in _groups(rollout, size):
        best, worst = max(group, key=totals.__getitem__), min(group, key=totals.__getitem__)
        if totals[best] > totals[worst] and rollout.texts[best] != rollout.texts[worst]:
            answers = rollout.response_ids[best], rollout.response_ids[worst]
            preferences.append(Preference(rollout.prompt_ids[best], *answers))
    return preferences


def against_references(rollout: Rollout, references: Sequence[Pair]) -> list[Preference]:
    """Each row's reference, encoded, against its response; none where that is any of its references, but for blanks around."""
    return [
        Preference(reference.prompt, reference.answer, response)
        for reference, response, text, example in zip(
            references, rollout.response_ids, rollout.texts, rollout.examples, strict=True
        )
        if not any(text.strip() == taught.strip() for taught in example.all_taught)
    ]


def _groups(rollout: Rollout, size: int) -> list[range]:
    return [range(start, start + size) for start in range(0, len(rollout), size)]


def chances_of_best(rewards: Sequence[float], n: int) -> list[float]:
    """How likely each of N samples of a prompt is the best of n of them by its reward, over all subsets of size n.

    The sum of these times a value of the samples is the unbiased estimate of that value's mean for the best of n. Of N different
    rewards the i-th smallest is the best with probability C(i - 1, n - 1) / C(N, n), since the n - 1 others are among the i - 1
    below it. Of equal rewards (`in_float32`) each is as likely to be taken. 1 <= n <= N.
    """
    size, rewards = len(rewards), in_float32(rewards)
    by_rank, chance = [0.0] * size, n / size
    for rank in range(size, n - 1, -1):  # from the largest down: C(i - 2, n - 1) = C(i - 1, n - 1) (i - n) / (i - 1)
        by_rank[rank - 1] = chance
        chance *= (rank - n) / max(rank - 1, 1)
    chances, below = [0.0] * size, 0
    for _, tied in groupby(sorted(range(size), key=rewards.__getitem__), key=rewards.__getitem__):
        rows = list(tied)
        above = below + len(rows)
        each = sum(by_rank[below:above]) / len(rows)
        for row in rows:
            chances[row] = each
        below = above
    return chances


def best_of_n_kl(n: int) -> float:
    """KL of the best of n samples from the policy that they are drawn from, in nats per response: log n - (n - 1) / n.

    Exact where no two responses have the same reward, and an upper bound otherwise (Beirami et al. 2024, theorem 1).
    """
    return math.log(n) - (n - 1) / n


def best_of_n_kl_with_ties(rewards: Sequence[float], n: int) -> float:
    """The same as a prompt's N samples estimate it, with equal rewards (`in_float32`) taken to be of equal worth.

    The best of n has the b-th smallest value of the reward with probability w_b = F_b^n - F_(b-1)^n, where F_b is the share of the
    samples that have it or less; within it the policy's own proportions stay. So KL = sum_b w_b log(w_b / (F_b - F_(b-1))). It is
    never more than `best_of_n_kl`, and far less where few values are possible, as under a binary reward.
    """
    kl, below = 0.0, 0.0
    for _, tied in groupby(sorted(in_float32(rewards))):
        share = len(list(tied)) / len(rewards)
        won = (below + share) ** n - below**n
        kl += won * math.log(won / share) if won > 0 else 0.0
        below += share
    return max(kl, 0.0)
