"""Rewards: what a batch of responses is worth.

A reward is a callable, named by `_target_` in a YAML file of conf/reward/; docs/rewards.md shows how to write
one. It knows texts, references and tokens, and nothing of the policy or the optimiser.
"""

from __future__ import annotations

from typing import Any, Protocol

from pgsrm.reward.binary import BinaryReward
from pgsrm.reward.classifier import ClassifierReward
from pgsrm.reward.critic import CriticReward
from pgsrm.reward.learned import LearnedReward
from pgsrm.reward.moderation import ModerationReward
from pgsrm.reward.output import normalise
from pgsrm.reward.rouge import RougeReward
from pgsrm.reward.rubric import RubricReward
from pgsrm.reward.semantic import SemanticReward
from pgsrm.reward.sum import SumReward
from pgsrm.reward.text_metric import TextMetricReward
from pgsrm.reward.trl import TRLReward
from pgsrm.rollout import Annotation, Scored, Span, at_last_token

__all__ = [
    "Annotation",
    "BinaryReward",
    "ClassifierReward",
    "CriticReward",
    "LearnedReward",
    "ModerationReward",
    "Reward",
    "RougeReward",
    "RubricReward",
    "Scored",
    "SemanticReward",
    "Span",
    "SumReward",
    "TRLReward",
    "TextMetricReward",
    "at_last_token",
    "normalise",
]


class Reward(Protocol):
    """A reward is called once for each batch of n responses, with keyword arguments alone.

    Some attributes are used where a reward has them; `pgsrm.util.objects` says what holds without them.

    - `check(references)` is called before a run starts, with all references of the run. It raises UserError for what
      would keep the reward from working.
    - `inner_rewards`, a mapping, has the rewards that it calls with what it was called with, by their keys in the config. Each
      is asked before a run starts whether it can be called so, and its own `check`, `mask_messages`, `attach` and `standardise`
      are called: the outer reward does not pass them on.
    - `mask_messages(masked)` is called once the reward is made, for one whose messages quote texts: `masked(text)` is the text as
      samples show it (`task.mask`).
    - `digest`, a string, is a hash of what decides the rewards besides the reward's config and source: the files that
      it reads, the model that it asks. It is part of what identifies a run. A reward without `digest` is identified by the
      digests of its parts, for example its embedder's.
    - `attach(policy, codec)` is called once before the first update of a run, for a reward that asks the policy itself.
    - `standardise(samples)` is called once before the first evaluation and the first update of a run, for a reward that is counted
      from what the policy writes untrained. `samples()` returns 512 prompts of the training and one response of the reference
      policy to each; they are drawn when it is first called. What is measured on them belongs into `state`.
    - `scaled`, true of a reward whose number for a text depends on which others it is given with. What asks about texts apart
      refuses it.
    - `state()` and `restore(state)`, both or neither, for a reward that remembers earlier batches. `state` returns what it
      remembers, of what JSON holds (numbers, texts, lists, dicts), and later calls do not change it. Checkpoints have it, so
      that a resumed run has the same numbers. What is remembered of an evaluation is forgotten after it.

    The source of your own reward is always part of what identifies a run (`pgsrm.util.source`).
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
        **more: Any,
    ) -> Any:
        """The rewards of n responses. A function that needs few of the arguments takes the others as `**_`.

        Args:
            prompts: n prompts as the policy got them.
            references: n reference outputs, which the parent gave; of a prompt with several the first.
            responses: n response texts in NFC, without the end-of-sequence token.
            inputs: n mappings: the prompt's columns in the task's data file (`{"c1": "red", "c2": "blue"}`).
            token_ids: n lists of the response's token ids as sampled, the end-of-sequence token included.
            offsets: n lists, as long as those of `token_ids`: the characters [start, end) of the response that each
                token wrote. An end-of-sequence token has (len(response), len(response)).
            more: `all_references`, n lists with all references, where any prompt of the batch has several.

        Returns:
            One of `rewards`, `(rewards, metrics)` and `(rewards, metrics, annotations)`. All numbers must be finite;
            NumPy arrays and tensors are taken like lists.

            rewards: n numbers, one per response; or n lists with one number per token, as long as `token_ids`.
            metrics: a mapping of numbers, logged as `reward/<name>`; one whose name has a `/` under its own name.
            annotations: n mappings, each with `spans`, a list of (start, end, label, value) of characters of the
            response, or `components`, the named numbers that the response's total is made of, or both.
        """
        ...
