"""What is asked of a reward before its first batch."""

from collections.abc import Sequence
from typing import Any

from pgsrm.util.errors import under
from pgsrm.util.objects import check_call, check_object

_KEYWORDS = ("prompts", "references", "responses", "inputs", "token_ids", "offsets")  # of `pgsrm.reward.Reward`


def check_before(reward: Any, references: Sequence[Sequence[str]]) -> None:
    """Raise UserError for a reward that can't be called as rewards are, or whose `check` says that it can't work; None passes.

    references: of each prompt its own, at least one text. Where a prompt has several the reward is called with all of them too,
    and so are the rewards within it, `reward.inner_rewards`.
    """
    if reward is not None:
        several = any(len(each) > 1 for each in references)
        _check_calls(reward, *_KEYWORDS, *(["all_references"] if several else []))
        check_object(reward, [reference for each in references for reference in each])


def _check_calls(reward: Any, *keywords: str) -> None:
    check_call(reward, *keywords, by_name=True)
    for key, inner in getattr(reward, "inner_rewards", {}).items():
        with under(key):
            _check_calls(inner, *keywords)
