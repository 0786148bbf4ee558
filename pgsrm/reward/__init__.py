"""Rewards: what a batch of responses is worth.

A reward is a callable, named by `_target_` in a YAML file of conf/reward/; docs/rewards.md shows how to write
one. It knows texts, references and tokens, and nothing of the policy or the optimiser.
"""

from __future__ import annotations

from typing import Any, Protocol

from pgsrm.reward.binary import BinaryReward
from pgsrm.reward.output import normalise
from pgsrm.reward.semantic import SemanticReward
from pgsrm.rollout import Annotation, Scored, Span, at_last_token

__all__ = [
    "Annotation",
    "BinaryReward",
    "Reward",
    "Scored",
    "SemanticReward",
    "Span",
    "at_last_token",
    "normalise",
]


class Reward(Protocol):
    """What a reward is called with, once for each batch of n responses. All arguments are keywords.

    prompts: n prompts as the policy got them. references: n reference outputs, the parent's. responses: n response texts
    in NFC, up to the end-of-sequence token, which is not part of them. inputs: n mappings, the prompt's columns in the
    task's data file (`{"c1": "red", "c2": "blue"}`). token_ids: n lists of the response's token ids as sampled, an
    end-of-sequence token included. offsets: n lists, as long as those of `token_ids`: the characters [start, end) of the
    response text that each token wrote; an end-of-sequence token has (len(response), len(response)).

    Returns rewards: either n numbers, one per response, or n lists with one number per token (as long as `token_ids`). Or
    (rewards, metrics), where metrics is a mapping, logged as `reward/<name>`. Or (rewards, metrics, annotations), where
    annotations is a list of n mappings: `spans`, a list of (start, end, label, value) of characters of the response, and
    `components`, the named numbers that the response's total is made of; either may be left out. Numbers must be finite;
    NumPy arrays and tensors will do as well as lists. A function that needs few of the arguments takes the rest as `**_`.

    Two attributes are used where a reward has them (`pgsrm.util.objects` has what holds without). `check(references)` is called
    before a run starts, with all of its references: it raises UserError for what would keep the reward from working.
    `digest`, a string, is a hash of what decides the rewards besides the reward's config and its source: files that it
    reads, a model that it asks. It is part of what identifies a run; without one, the digests of what the reward was made
    of are, an embedder's for example. The source of a reward of your own is part of it anyway (`pgsrm.util.source`).
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
    ) -> Any: ...
