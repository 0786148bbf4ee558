"""What the reference policy writes before any update: the samples by which a learned reward is standardised."""

from collections.abc import Mapping

import numpy as np

from pgsrm.models.load import load_codec, load_model, resolve_device
from pgsrm.models.settings import ModelSettings
from pgsrm.models.text import Codec
from pgsrm.policy.answers import answers
from pgsrm.policy.choose import build_policy
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


def samples_of_model(
    settings: ModelSettings, task: Task, temperature: float, top_k: int, seed: int
) -> tuple[list[str], list[str]]:
    """As `reference_samples`, of a model that is loaded for it: those by which a run of this seed standardises its reward."""
    model = load_model(settings, resolve_device(settings.device))
    codec, how = load_codec(settings, model), Sampling(task.max_new_tokens, temperature, top_k)
    prompt_ids = {example.prompt: codec.encode(example.prompt) for example in task.train}
    policy = build_policy(model, None, codec.eos, list(prompt_ids.values()), how.max_new_tokens, settings)
    return reference_samples(policy, codec, task, prompt_ids, how, seed)
