"""Intervals over seeds: what is said of a mean, a difference, an interquartile mean, a probability of improvement.

Single means and differences take Student's t, since the bootstrap's intervals are too narrow for the three to ten
seeds that people have (`python -m benchmarks.coverage`). The bootstrap draws bands around curves and, stratified by
task, intervals of what is taken over tasks (Agarwal et al. 2021, https://arxiv.org/abs/2108.13264).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

LEVEL = 0.95
RESAMPLES = 2000
NORMAL = 1.96  # standard deviations on either side that hold `LEVEL` of a normal distribution
MIN_SEEDS = 3  # of two seeds, t's interval is 13 standard errors wide to either side and says nothing
NAN = float("nan")


@dataclass(frozen=True)
class Estimate:
    """A value with the interval that holds the true one in `LEVEL` of the cases; NaN bounds where there is none."""

    value: float
    low: float = NAN
    high: float = NAN
    n: int = 1


def mean_interval(values: Sequence[float]) -> Estimate:
    """The mean of independent values, one per seed, with Student's t interval; without one below `MIN_SEEDS` values."""
    import numpy as np

    n = len(values)
    if n == 0:
        return Estimate(NAN, n=0)
    mean = float(np.mean(values))
    if n < MIN_SEEDS:
        return Estimate(mean, n=n)
    half = _t_quantile(n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)


def difference_interval(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """mean(a) - mean(b) with Welch's t interval, of two independent groups with spreads of their own."""
    import numpy as np

    n = min(len(a), len(b))
    if n == 0:
        return Estimate(NAN, n=0)
    difference = float(np.mean(a) - np.mean(b))
    if n < MIN_SEEDS:
        return Estimate(difference, n=n)
    errors = [float(np.var(x, ddof=1)) / len(x) for x in (a, b)]
    if sum(errors) == 0:
        return Estimate(difference, difference, difference, n)
    freedom = sum(errors) ** 2 / sum(e**2 / (len(x) - 1) for e, x in zip(errors, (a, b), strict=True))
    half = _t_quantile(freedom) * math.sqrt(sum(errors))
    return Estimate(difference, difference - half, difference + half, n)


def censored_mean_interval(values: Sequence[float], ends: Sequence[float]) -> Estimate:
    """The mean of times, some of which are infinite: such a one is only known to lie beyond its run's end, in `ends`.

    It counts as that end. So the value and the lower bound are on the safe side, and there is no upper bound.
    """
    known = mean_interval([min(value, end) for value, end in zip(values, ends, strict=True)])
    return known if known.n < MIN_SEEDS else Estimate(known.value, known.low, math.inf, known.n)


def rank_difference_interval(
    a: Sequence[float], b: Sequence[float], a_ends: Sequence[float], b_ends: Sequence[float]
) -> Estimate:
    """How much larger a is than b, where some values are infinite: the median of all pairs' differences.

    This is Hodges and Lehmann's estimate. The interval inverts Mann and Whitney's test by its normal approximation; it
    is unbounded below four seeds per side. An infinite value is only known to lie beyond its run's end, in `a_ends` and
    `b_ends`: a pair with it counts as the least difference for the lower bound and as the largest for the upper one. The
    difference of two infinite values is not known: it counts against either bound.
    """
    import numpy as np

    n, m = len(a), len(b)
    if min(n, m) < MIN_SEEDS:
        return Estimate(NAN, n=min(n, m))
    with np.errstate(invalid="ignore"):
        pairs = np.subtract.outer(np.asarray(a), np.asarray(b)).ravel()
        value = float(np.nanmedian(pairs)) if not np.isnan(pairs).all() else NAN
    low = np.sort(np.subtract.outer(np.minimum(a, a_ends), np.asarray(b)).ravel())
    high = np.sort(np.subtract.outer(np.asarray(a), np.minimum(b, b_ends)).ravel())
    rank = int(n * m / 2 - NORMAL * math.sqrt(n * m * (n + m + 1) / 12))
    if rank < 1:
        return Estimate(value, -math.inf, math.inf, min(n, m))
    return Estimate(value, float(low[rank - 1]), float(high[-rank]), min(n, m))


def _t_quantile(freedom: float) -> float:
    from scipy.special import stdtrit  # the quantile behind scipy.stats.t, without its second of importing

    return float(stdtrit(freedom, (1 + LEVEL) / 2))


def bootstrap_band(values: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap interval of the mean over the first axis, (seeds, n) -> low (n,), high (n,).

    Whole seeds are drawn, the same at every point. scipy.stats.bootstrap would copy all curves once per resample;
    a mean of resampled curves is a product with the counts of how often each was drawn.
    """
    import numpy as np

    seeds = len(values)
    if seeds == 1:
        return values[0], values[0]
    draws = np.random.default_rng(seed).multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds
    tail = (1 - LEVEL) / 2
    low, high = np.percentile(draws @ values, (100 * tail, 100 * (1 - tail)), axis=0)
    return low, high


def interquartile_mean(scores: Sequence[Sequence[float]]) -> Estimate:
    """Mean over tasks of the mean of the middle half of a task's scores: one sequence per task, one score per seed.

    The interval is a stratified bootstrap's: seeds are drawn within their task. The middle half is taken task by task,
    since tasks differ in scale: the middle half of all scores would leave out whole tasks, and other tasks under
    another reward. A score on the edge of the middle half counts in part.
    """
    import numpy as np

    def statistic(*tasks: Any, axis: int = -1) -> Any:
        return np.mean([_middle_half(scores) for scores in tasks], axis=0)

    return _bootstrapped(scores, statistic)


def _middle_half(scores: np.ndarray) -> Any:
    """Interquartile mean along the last axis, (..., n) -> (...)."""
    import numpy as np

    weights = 2 * np.diff(np.clip(np.linspace(0, 1, scores.shape[-1] + 1), 0.25, 0.75))
    return np.sort(scores, axis=-1) @ weights


def probability_of_improvement(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> Estimate:
    """P(a run of a > a run of b), ties half, mean over tasks, with a stratified bootstrap.

    `a` and `b` hold one sequence per task, in the same order, and one score per seed.
    """
    import numpy as np

    def statistic(*samples: Any, axis: int = -1) -> Any:
        tasks = zip(samples[: len(a)], samples[len(a) :], strict=True)
        return np.mean([_wins(x, y) for x, y in tasks], axis=0)

    return _bootstrapped([*a, *b], statistic)


def _wins(x: np.ndarray, y: np.ndarray) -> Any:
    """Share of pairs in which x is greater, ties half: (..., n), (..., m) -> (...)."""
    greater = (x[..., :, None] > y[..., None, :]) + 0.5 * (x[..., :, None] == y[..., None, :])
    return greater.mean(axis=(-2, -1))


def _bootstrapped(samples: Sequence[Sequence[float]], statistic: Any) -> Estimate:
    """A statistic of several samples, with scipy's percentile bootstrap where each has `MIN_SEEDS` values or more."""
    import numpy as np
    from scipy.stats import bootstrap

    data = tuple(np.asarray(sample, dtype=float) for sample in samples)
    n = min((len(sample) for sample in data), default=0)
    value = float(statistic(*data)) if n else NAN
    if n < MIN_SEEDS:
        return Estimate(value, n=n)
    # With equal scores the resamples have no spread, and there is nothing to warn of.
    with np.errstate(all="ignore"):
        interval = bootstrap(
            data,
            statistic,
            n_resamples=RESAMPLES,
            confidence_level=LEVEL,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
    return Estimate(value, float(interval.low), float(interval.high), n)
