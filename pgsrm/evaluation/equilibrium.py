"""What entropy a run would end at if its reward said nothing: docs/equilibrium.md."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from pgsrm.policy.protocol import Policy
from pgsrm.policy.sampling import Sampling
from pgsrm.ppo.equilibrium import equilibrium_logprobs
from pgsrm.ppo.settings import PPOSettings

# As many prompts as have so many answers' tokens are enough for a mean, whatever the number of a task's prompts.
_TOKENS = 200
_FEWEST = 10
_ROWS = 32  # prompts that are read at once


def predict_entropy(
    policy: Policy, prompt_ids: Sequence[list[int]], how: Sampling, settings: PPOSettings, seed: int
) -> dict[str, float]:
    """`equilibrium/temperature` and `equilibrium/entropy` (nats per token) of a policy that is still the reference.

    The entropy is the mean over the tokens of one answer per prompt, drawn at the equilibrium's temperature, as
    `policy/entropy` is a mean over the tokens of what the policy draws. Empty where docs/equilibrium.md has no temperature.
    """
    temperature = settings.equilibrium_temperature
    if temperature is None:
        return {}
    flat = math.isinf(temperature)
    drawn_at = replace(how, temperature=how.temperature * (1e6 if flat else temperature))
    draws = np.random.default_rng([seed, 0, 1])  # its own: none of the training's
    total, tokens = 0.0, 0
    prompts = list(prompt_ids[: max(_FEWEST, _TOKENS // how.max_new_tokens)])
    for start in range(0, len(prompts), _ROWS):
        part = prompts[start : start + _ROWS]
        uniforms = torch.from_numpy(draws.random((len(part), how.max_new_tokens)))
        batch = policy.pad(part, policy.answer(part, uniforms, drawn_at))
        with torch.no_grad():
            logits, contexts = policy.score_reference(batch)
        logprobs = equilibrium_logprobs(settings, logits)
        assert logprobs is not None
        entropy = -(logprobs.exp() * logprobs).sum(-1)
        total += entropy[contexts.place][batch.response_mask].sum().item()
        tokens += int(batch.response_mask.sum())
    metrics = {"equilibrium/entropy": total / tokens}
    return metrics if flat else {"equilibrium/temperature": temperature, **metrics}
