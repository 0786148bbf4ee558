"""How good rewards are that order pairs: accuracy, by margin, calibration; and what a length or words alone would do."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pgsrm.models.classifier import BUCKETS, features
from pgsrm.reward_model.pairs import Preference

BINS = 10  # of the confidence, for the calibration error
QUARTERS = 4
NORMAL = 1.96  # standard errors on either side that hold the true value in 95 % of the cases
FLAT = 1e-9  # an error this small is rounding alone
_PENALTY = 1e-3  # L2, of the weights of the models to compare with
Floats = NDArray[np.float64]


class Accuracy(NamedTuple):
    """A share, the bounds that hold it in 95 % of the cases (over prompts), and of how many pairs."""

    value: float
    low: float
    high: float
    pairs: int


def right(differences: Floats) -> Floats:
    """Of n pairs 1 where r_w - r_l (n,) is above 0, 1/2 where it is 0, else 0."""
    return (1 + np.sign(differences)) / 2


def share(values: Floats, groups: Sequence[str]) -> Accuracy:
    """The mean of n values from 0 to 1, and 1.96 standard errors to either side.

    The error is that of whole groups (prompts), whose pairs are not independent: sqrt(sum over groups of (sum of values - mean *
    number)^2) / n. One group says nothing of others: the bounds are then 0 and 1. Where no group differs from the mean, as where
    all are right, the error is 0 and says as little: the bounds are then Wilson's, of as many values as there are groups.
    """
    names, place = np.unique(np.array(groups), return_inverse=True)
    mean = float(values.mean())
    if len(names) == 1:
        return Accuracy(mean, 0.0, 1.0, len(values))
    half = NORMAL * float(np.sqrt((np.bincount(place, values - mean) ** 2).sum())) / len(values)
    if half < FLAT:
        return Accuracy(mean, *wilson(mean, len(names)), len(values))
    return Accuracy(mean, max(0.0, mean - half), min(1.0, mean + half), len(values))


def wilson(share: float, number: int) -> tuple[float, float]:
    """The bounds that hold the probability behind a share of `number` values in 95 % of the cases (Wilson 1927, score interval)."""
    more = NORMAL**2 / number
    middle = (share + more / 2) / (1 + more)
    half = NORMAL / (1 + more) * math.sqrt(share * (1 - share) / number + more / (4 * number))
    return max(0.0, middle - half), min(1.0, middle + half)


def margin_bins(margins: Sequence[float | None]) -> dict[str, NDArray[np.bool_]]:
    """The quarters of n pairs by their margins: name -> which of them (n,). None where margins are unknown or few."""
    known = np.array([np.nan if margin is None else margin for margin in margins])
    if np.isnan(known).any() or len(np.unique(known)) <= QUARTERS:
        return {}
    edges = np.quantile(known, np.linspace(0, 1, QUARTERS + 1))
    bins = np.clip(np.searchsorted(edges, known, side="right") - 1, 0, QUARTERS - 1)
    filled = {place: edge for place, edge in enumerate(pairwise(edges)) if (bins == place).any()}
    digits = 2  # or as many as tell the quarters apart
    while len({_quarter(edge, digits) for edge in filled.values()}) < len(filled):
        digits += 1
    return {_quarter(edge, digits): bins == place for place, edge in filled.items()}


def _quarter(edges: tuple[float, float], digits: int) -> str:
    low, high = edges
    return f"margin {low:.{digits}g} to {high:.{digits}g}"


def calibration_error(differences: Floats, bins: int = BINS) -> float:
    """Expected calibration error of sigmoid(r_w - r_l) over n pairs (n,) (Guo et al. 2017, arXiv:1706.04599, equation 3).

    The model is as sure of the response that it prefers as confidence = sigmoid(|r_w - r_l|) says, from 1/2 to 1. Bins of
    equal width: the mean over the pairs of |share of right ones - mean confidence| of their bin.
    """
    confidence = 1 / (1 + np.exp(-np.abs(differences)))
    bin_of = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    apart = np.bincount(bin_of, right(differences) - confidence, minlength=bins)
    return float(np.abs(apart).sum() / len(differences))


def length_only(train: Sequence[Preference]) -> Callable[[Sequence[Preference]], Floats]:
    """Bradley-Terry on the number of characters: a function pairs -> r_w - r_l (n,).

    Lengths are in units of the pairs' own differences (root mean square), so that the penalty is as light for words as for pages.
    """
    apart = np.array([len(pair.chosen) - len(pair.rejected) for pair in train], dtype=float)
    unit = math.sqrt(np.mean(apart**2)) or 1.0
    return _linear(train, lambda text: {0: len(text) / unit}, 1)


def bag_of_words(train: Sequence[Preference]) -> Callable[[Sequence[Preference]], Floats]:
    """Bradley-Terry on which words and pairs of words a response has, the prompt unread: a function pairs -> r_w - r_l (n,)."""
    return _linear(train, lambda text: dict.fromkeys(features(text), 1.0), BUCKETS)


def _linear(
    train: Sequence[Preference], read: Callable[[str], dict[int, float]], size: int
) -> Callable[[Sequence[Preference]], Floats]:
    """The weights (size,) for the features of a response that make the training pairs most probable, with an L2 penalty."""
    from scipy.optimize import minimize
    from scipy.sparse import csr_matrix

    def differences(pairs: Sequence[Preference]) -> csr_matrix:
        cells = [
            (row, feature, sign * value)
            for row, pair in enumerate(pairs)
            for sign, text in ((1.0, pair.chosen), (-1.0, pair.rejected))
            for feature, value in read(text).items()
        ]
        rows, columns, values = zip(*cells, strict=True) if cells else ((), (), ())
        return csr_matrix((values, (rows, columns)), shape=(len(pairs), size))

    given = differences(train)

    def loss(weights: Floats) -> tuple[float, Floats]:
        margins = given @ weights
        slope = -1 / (1 + np.exp(np.clip(margins, -500, 500)))
        value = np.logaddexp(0, -margins).mean() + _PENALTY / 2 * weights @ weights
        return float(value), given.T @ slope / len(train) + _PENALTY * weights

    weights: Floats = minimize(loss, np.zeros(size), jac=True, method="L-BFGS-B").x
    return lambda pairs: np.asarray(differences(pairs) @ weights, dtype=float)
