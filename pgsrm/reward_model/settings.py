"""The `reward_model` config section: checked without loading anything."""

from typing import Annotated

import msgspec
from msgspec import Meta

from pgsrm.util.numbers import Count, NonNegative, Positive


class RewardModelSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Preference pairs and a reward model from them, `python -m pgsrm.reward_model`."""

    # Sampled answers to each prompt that pairs are made of.
    samples: Annotated[int, Meta(ge=2)] = 32
    # Pairs that are made of the samples to one prompt, at most.
    pairs: Count = 32
    # Share of the prompts whose pairs are kept out of training, to judge the model on.
    holdout: Annotated[float, Meta(gt=0, lt=1)] = 0.2
    # Passes over the pairs.
    epochs: Count = 1
    # Pairs per gradient step.
    batch_size: Count = 16
    # Pairs that a forward pass holds at once (memory); null = all of a batch. Results are equal up to rounding.
    micro_batch: Count | None = None
    # AdamW's learning rate at the first step; it falls linearly to 0 at the last.
    lr: Positive = 1e-5
    # Whether a pair's margin is taken off the difference of the rewards in the loss.
    margin: bool = False
    # What the square of the sum of a pair's rewards counts in the loss; 0 = nothing.
    center_coef: NonNegative = 0.0
