"""Rewards: what a batch of responses is worth.

A reward is a callable, named by `_target_` in a YAML file of conf/reward/; docs/rewards.md shows how to write
one. It knows texts, references and tokens, and nothing of the policy or the optimiser.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from pgsrm.reward.binary import BinaryReward
from pgsrm.reward.output import Metrics, Rewards, normalise
from pgsrm.reward.semantic import SemanticReward

__all__ = ["BinaryReward", "Metrics", "Reward", "Rewards", "SemanticReward", "normalise"]


class Reward(Protocol):
    """What a reward is called with, once per batch of n responses. All arguments are keywords.

    prompts: n prompts as the child got them.
    references: n reference outputs, the parent's.
    responses: n response texts, up to the end-of-sequence token, which is not part of them. inputs: n
    mappings, the prompt's columns in the task's data file (`{"c1": "red", "c2": "blue"}`). token_ids: n lists
    of the response's token ids as sampled, an end-of-sequence token included. offsets: n lists, the same
    lengths as `token_ids`: the characters [start, end) of the response text that each
        token wrote; an end-of-sequence token has (len(response), len(response)).

    Returns either one number a response (n numbers) or one number a token (n lists, the same lengths as
    `token_ids`); or a pair of that and a mapping of metrics, which are logged as `reward/<name>`. Numbers
    must be finite; NumPy arrays and tensors will do as well as lists. A function that needs few of the
    arguments takes the rest as `**_`.
    """

    def __call__(
        self,
        *,
        prompts: list[str],
        references: list[str],
        responses: list[str],
        inputs: list[dict[str, str]],
        token_ids: list[list[int]],
        offsets: list[list[tuple[int, int]]],
    ) -> Rewards | Sequence[float] | tuple[Rewards | Sequence[float], Mapping[str, float]]: ...
