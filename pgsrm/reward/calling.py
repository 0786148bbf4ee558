"""What is asked of a reward before its first batch."""

from collections.abc import Sequence
from typing import Any

from pgsrm.util.objects import check_call, check_object

_KEYWORDS = ("prompts", "references", "responses", "inputs", "token_ids", "offsets")  # of `pgsrm.reward.Reward`


def check_before(reward: Any, references: Sequence[str], several: bool = False) -> None:
    """Raise UserError for a reward that can't be called as rewards are, or whose `check` says that it can't work; None passes.

    several: whether some prompt has more than one reference, so that the reward is called with all of them too.
    """
    if reward is not None:
        check_call(reward, *_KEYWORDS, *(["all_references"] if several else []), by_name=True)
        check_object(reward, references)
