"""What the reference policy writes before any update: the samples by which a learned reward is standardised."""

from collections.abc import Mapping

import numpy as np

from pgsrm.models.text import Codec
from pgsrm.policy.answers import answers
from pgsrm.policy.protocol import Policy
from pgsrm.policy.sampling import Sampling
from pgsrm.reward.learned import standardised_on
from pgsrm.task import Task


def reference_samples(
    policy: Policy, codec: Codec, task: Task, prompt_ids: Mapping[str, list[int]], how: Sampling, seed: int
) -> tuple[list[str], list[str]]:
    """`STANDARDISED_ON` prompts of the training, and a response of the policy to each.

    policy: one that no update has changed. prompt_ids: of each prompt. The draws are of a generator of their own, so that no number
    of the run depends on whether a reward asks for them.
    """
    prompts = [example.prompt for example in standardised_on(task.train)]
    draws = np.random.default_rng([seed, 0, 2])
    return prompts, answers(policy, codec, [prompt_ids[prompt] for prompt in prompts], how, draws, task.min_new_tokens)
