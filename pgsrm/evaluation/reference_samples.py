"""What the reference policy writes before any update: the samples by which a learned reward is standardised."""

from collections.abc import Mapping

import numpy as np
import torch

from pgsrm.models.text import Codec
from pgsrm.policy.protocol import Policy
from pgsrm.policy.sampling import Sampling, shortened
from pgsrm.reward.learned import STANDARDISED_ON
from pgsrm.task import Task


def reference_samples(
    policy: Policy, codec: Codec, task: Task, prompt_ids: Mapping[str, list[int]], how: Sampling, seed: int
) -> tuple[list[str], list[str]]:
    """Prompts, and one response of the policy to each: `STANDARDISED_ON` or a few more, equally many to each training prompt.

    policy: one that no update has changed. prompt_ids: of each prompt. Of a longer task the first prompts are taken. The draws are
    of a generator of their own, so that no number of the run depends on whether a reward asks for them.
    """
    examples = task.train[:STANDARDISED_ON]
    prompts = [example.prompt for example in examples for _ in range(-(-STANDARDISED_ON // len(examples)))]
    draws = np.random.default_rng([seed, 0, 2])
    uniforms = torch.from_numpy(draws.random((len(prompts), how.max_new_tokens)))
    ids = policy.answer([prompt_ids[prompt] for prompt in prompts], uniforms, how)
    texts, _ = codec.decode(shortened(ids, task.min_new_tokens, how.max_new_tokens, draws))
    return prompts, texts
