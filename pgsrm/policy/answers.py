"""Answers of a policy as texts, drawn as in training."""

from collections.abc import Sequence

import numpy as np
import torch

from pgsrm.models.text import Codec
from pgsrm.policy.protocol import Policy
from pgsrm.policy.sampling import Sampling, shortened


def answers(
    policy: Policy,
    codec: Codec,
    prompts: Sequence[list[int]],
    how: Sampling,
    draws: np.random.Generator,
    min_new_tokens: int | None,
) -> list[str]:
    """A sampled answer to each prompt (token ids), without EOS. min_new_tokens: as of a task."""
    uniforms = torch.from_numpy(draws.random((len(prompts), how.max_new_tokens)))
    ids = policy.answer(prompts, uniforms, how)
    return codec.decode(shortened(ids, min_new_tokens, how.max_new_tokens, draws))[0]
