"""Answers of a policy to given prompts, drawn as in training."""

from collections.abc import Sequence

import numpy as np

from pgsrm.models.load import load_codec, load_model, resolve_device
from pgsrm.models.settings import ModelSettings
from pgsrm.policy.answers import answers
from pgsrm.policy.choose import build_policy
from pgsrm.policy.sampling import Sampling
from pgsrm.task import Example


def draw(
    settings: ModelSettings,
    examples: Sequence[Example],
    how: Sampling,
    count: int,
    seed: int,
    min_new_tokens: int | None = None,
) -> list[list[str]]:
    """`count` sampled answers to each example, as texts without EOS. min_new_tokens: as of a task."""
    model = load_model(settings, resolve_device(settings.device))
    codec = load_codec(settings, model)
    prompts = [codec.encode(example.prompt) for example in examples]
    policy = build_policy(model, None, codec.eos, prompts, how.max_new_tokens, settings)
    asked = [prompt for prompt in prompts for _ in range(count)]
    texts = answers(policy, codec, asked, how, np.random.default_rng(seed), min_new_tokens)
    return [texts[start : start + count] for start in range(0, len(texts), count)]
