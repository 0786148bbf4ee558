"""What is asked of a reward before its first batch."""

from collections.abc import Sequence
from typing import Any

from pgsrm.util.objects import check_call, check_object, each_reward

_KEYWORDS = ("prompts", "references", "responses", "inputs", "token_ids", "offsets")  # of `pgsrm.reward.Reward`


def check_before(reward: Any, references: Sequence[Sequence[str]]) -> None:
    """Raise UserError for a reward that can't be called as rewards are, or whose `check` says that it can't work; None passes.

    references: of each prompt its own, at least one text. Where a prompt has several the reward is called with all of them too,
    and so are the rewards within it, `reward.inner_rewards`.
    """
    if reward is not None:
        several = any(len(each) > 1 for each in references)
        keywords = [*_KEYWORDS, *(["all_references"] if several else [])]
        each_reward(reward, lambda each: check_call(each, *keywords, by_name=True))
        check_object(reward, [reference for each in references for reference in each])
