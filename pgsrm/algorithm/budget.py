"""What an update's learning needs, apart from what is measured besides (docs/metrics.md)."""

from pgsrm.algorithm.settings import Algorithm
from pgsrm.rollout import Rollout


def budget(algorithm: Algorithm, group_size: int, rollout: Rollout, tokens_read: int) -> dict[str, float]:
    """The metrics `budget/...` of an update on this rollout, whose gradient was taken of so many tokens.

    A reward may read the references too: under an algorithm that asks for rewards, those that it was given count.
    """
    asked = rollout.examples[::group_size]
    given = algorithm.needs_references or algorithm.needs_reward
    return {
        "budget/prompts": float(len(asked)),
        "budget/tokens_sampled": float(sum(map(len, rollout.response_ids)) if algorithm.needs_samples else 0),
        "budget/tokens_read": float(tokens_read),
        "budget/reward_calls": float(len(rollout) if algorithm.needs_reward else 0),
        "budget/references": float(sum(bool(example.taught) for example in asked) if given else 0),
    }
