"""A reward model judged on pairs that it was not trained on, beside models that read less and the people who made the pairs."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pgsrm.reward_model.measures import (
    Floats,
    bag_of_words,
    calibration_error,
    length_only,
    margin_bins,
    right,
    share,
)
from pgsrm.reward_model.pairs import Preference

ALL, CALIBRATION = "all pairs", "calibration error"
MODEL, LENGTH, WORDS, PEOPLE = "reward model", "length alone", "bag of words", "people, half against half"
Outputs = Callable[[Sequence[str], Sequence[str]], Floats]  # what a reward model says of n responses to n prompts


def differences(outputs: Outputs, pairs: Sequence[Preference]) -> Floats:
    """r_w - r_l of n pairs (n,)."""
    prompts = [pair.prompt for pair in pairs]
    return outputs(prompts, [pair.chosen for pair in pairs]) - outputs(prompts, [pair.rejected for pair in pairs])


def judge(outputs: Outputs, train: Sequence[Preference], held_out: Sequence[Preference]) -> dict[str, dict[str, Any]]:
    """Who -> accuracy on all held-out pairs and on those of each quarter of margins (`Accuracy`), and the calibration error.

    The models to compare with are trained on `train`. People are there where all held-out pairs have an agreement.
    """
    rewards = {
        MODEL: differences(outputs, held_out),
        LENGTH: length_only(train)(held_out),
        WORDS: bag_of_words(train)(held_out),
    }
    rows: dict[str, dict[str, Any]] = {
        name: {**_shares(right(values), held_out), CALIBRATION: calibration_error(values)}
        for name, values in rewards.items()
    }
    agreements = [pair.agreement for pair in held_out if pair.agreement is not None]
    if len(agreements) == len(held_out):
        rows[PEOPLE] = _shares(np.array(agreements), held_out)
    return rows


def _shares(values: Floats, pairs: Sequence[Preference]) -> dict[str, Any]:
    """The mean over all pairs, and over those of each quarter of margins."""
    groups = [pair.group for pair in pairs]
    bins = {ALL: np.ones(len(pairs), dtype=bool), **margin_bins([pair.margin for pair in pairs])}
    return {
        name: share(values[inside], [group for group, one in zip(groups, inside, strict=True) if one])
        for name, inside in bins.items()
    }
