"""One number of one run's metric: how high, how fast, how steady. docs/analysis.md has them as a table.

Each takes the metric over training and gives a float, NaN where the run did not get that far. A tenth is a tenth
of the planned updates; "smoothed" is the centred rolling mean over 2% of them, which also the figures draw.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from pgsrm.analysis.curves import rolling_mean, window
from pgsrm.analysis.runs import Run
from pgsrm.record.tenths import tenth_bounds

if TYPE_CHECKING:
    import numpy as np

NAN = float("nan")
TREND = 0.2  # share of the updates in the trend's rolling mean
JUMP = 0.05  # share of the updates within which a jump happens
NOISE = 5.0  # standard deviations of the smoothed curve's noise that a jump must be above
MAD = 1.4826  # a normal distribution's standard deviation over its median distance from the median
SPIKE = 8.0  # standard deviations from the local median
FEWEST = 10  # values that a curve's ups and downs can be told from
GAINED = 0.1  # no share of a gain below this: that much also noise makes of a few updates
SPREAD = {"reward/mean": "reward/std"}  # a mean over the batch -> the standard deviation of the batch
NEXT_TO_NOTHING = 0.005  # no ratio to a value below this
ROUNDING = 1e-9  # a mean of shares that is a level is on either side of it by its last digits


@dataclass(frozen=True)
class Series:
    """One metric over a run: `updates`, `episodes` and `values` are (n,), without the updates that lack it."""

    updates: np.ndarray
    episodes: np.ndarray
    values: np.ndarray
    planned: int
    noise: np.ndarray | None = None  # (n,), standard deviation of each value by sampling its batch, where it is known

    @cached_property
    def trained(self) -> np.ndarray:
        """The values without the one before training."""
        return self.values[self.updates > 0]

    @cached_property
    def smooth(self) -> np.ndarray:
        """The values after update 0 (n,), smoothed by the rolling mean over 2% of the planned updates."""
        import numpy as np

        updates = self.updates[self.updates > 0]
        if not len(updates):
            return self.trained
        # Values stand at their updates: of evaluations many updates apart each is a window of its own.
        first, last = int(updates[0]), int(updates[-1])
        places = updates.astype(int) - first
        spread = np.full(last - first + 1, np.nan)
        spread[places] = self.trained
        return rolling_mean(spread, window(self.planned))[places]

    @cached_property
    def whole(self) -> bool:
        """Whether it reaches the end of the planned updates."""
        return len(self.updates) > 0 and bool(self.updates[-1] >= self.planned)

    @cached_property
    def every(self) -> float:
        """Updates from one value to the next: 1 for a metric of training, `evaluation.every` for one of the evaluations."""
        import numpy as np

        updates = self.updates[self.updates > 0]
        return float(np.median(np.diff(updates))) if len(updates) > 1 else 1.0

    @cached_property
    def points(self) -> int:
        """Values that a whole run has after update 0: windows of updates are as many of them as stand in these."""
        return max(1, round(self.planned / self.every))

    @cached_property
    def tenths(self) -> list[float]:
        """Mean over each tenth of the planned updates; NaN for a tenth that the run has not completed."""
        return tenth_means(self.updates, self.values, self.planned)


def series(run: Run, column: str) -> Series:
    """The metric `column` of a run; empty where the run does not have it."""
    import numpy as np

    updates, values = run.series(column)
    lines = np.searchsorted(run.metrics["update"], updates)
    noise = None
    if column in SPREAD and SPREAD[column] in run.metrics and _draws_alone(run):
        # The spread divides by B, an unbiased variance of a response by B - 1, and that of their mean by B once more.
        batch = run.episodes / run.planned
        noise = run.metrics[SPREAD[column]][lines] / max(batch - 1, 1) ** 0.5
    return Series(updates, run.metrics["episodes"][lines], values, run.updates, noise)


def _draws_alone(run: Run) -> bool:
    """Whether each response of a batch has a prompt that was drawn for it: the rewards of one prompt's are alike."""
    ppo = run.config.get("ppo")
    return not isinstance(ppo, Mapping) or ppo.get("group_size", 1) == 1


def tenth_means(updates: np.ndarray, values: np.ndarray, planned: int) -> list[float]:
    """Mean of `values` (n,) over each tenth of the planned updates 1..planned; NaN for one not run through.

    Below ten updates every update is a window of its own.
    """
    means = []
    for after, until in tenth_bounds(planned):
        inside = values[(updates > after) & (updates <= until)]
        passed = len(updates) > 0 and updates[-1] >= until
        means.append(float(inside.mean()) if passed and len(inside) else NAN)
    return means


# Level


def start(s: Series) -> float:
    """The evaluation before training where there is one, else the mean over the first 1% of the updates."""
    if len(s.updates) and s.updates[0] == 0:
        return float(s.values[0])
    early = s.values[s.updates <= max(1, s.planned // 100)]
    return float(early.mean()) if len(early) else NAN


def end(s: Series) -> float:
    """The last value, of a run that reached its end: for metrics of the evaluations."""
    return float(s.values[-1]) if s.whole and len(s.trained) else NAN


def first(s: Series) -> float:
    """Mean over the first tenth."""
    return s.tenths[0]


def last(s: Series) -> float:
    """Mean over the last tenth."""
    return s.tenths[-1]


def best(s: Series) -> float:
    """The highest mean of a tenth."""
    return max((mean for mean in s.tenths if mean == mean), default=NAN)


def area(s: Series) -> float:
    """Area under the curve over the planned updates, divided by their number: the mean over training.

    A metric of the evaluations, which begins before training and whose distances may differ, is taken by trapezoids.
    """
    import numpy as np

    if not s.whole or not len(s.trained):
        return NAN
    if s.updates[0] == 0:
        return float(np.trapezoid(s.values, s.updates) / s.updates[-1])
    return float(s.trained.mean())


def highest(s: Series) -> float:
    """The highest smoothed value."""
    return float(s.smooth.max()) if len(s.smooth) else NAN


def lowest(s: Series) -> float:
    """The lowest smoothed value."""
    return float(s.smooth.min()) if len(s.smooth) else NAN


# Progress


def rise(s: Series) -> float:
    """Mean over the last tenth minus start."""
    return last(s) - start(s)


def gain(s: Series) -> float:
    """The last value minus start: for metrics of the evaluations."""
    return end(s) - start(s)


def change(s: Series) -> float:
    """Mean over the last tenth minus mean over the first."""
    return last(s) - first(s)


def late_change(s: Series) -> float:
    """Mean over the last tenth minus mean over the sixth: what the second half still brought."""
    return last(s) - s.tenths[5] if len(s.tenths) == 10 else NAN


def kept(s: Series) -> float:
    """Share of the gain from the start to the best tenth that the last tenth still has: 1 if nothing was lost again.

    NaN if there was next to no gain.
    """
    gained = best(s) - start(s)
    return (last(s) - start(s)) / gained if gained >= GAINED else NAN


def remains(s: Series) -> float:
    """Mean over the last tenth over start: the share that is left."""
    return last(s) / start(s) if start(s) >= NEXT_TO_NOTHING else NAN


def jump(s: Series) -> float:
    """Largest share of the smoothed curve's range that is gained within 5% of the updates.

    It is 0.05 on a straight line, about 1 on a step (smoothing spreads a step), and 0 where the gain is no larger than
    noise alone would make it. Of evaluations further apart than that it is the gain from one to the next.
    """
    size = max(1, round(JUMP * s.points))
    if not s.whole or len(s.smooth) <= size:
        return NAN
    gain = float((s.smooth[size:] - s.smooth[:-size]).max())
    noise = _deviation(s.trained) / window(s.points) ** 0.5
    if gain <= NOISE * 2**0.5 * noise:  # the largest of many differences of two noisy points
        return 0.0
    return gain / float(s.smooth.max() - s.smooth.min())


def _deviation(values: np.ndarray) -> float:
    """Standard deviation of what differs from one update to the next, by the median: jumps and trends don't count."""
    import numpy as np

    return MAD * float(np.median(np.abs(np.diff(values)))) / 2**0.5


def rise_time(s: Series) -> float:
    """Episodes until the smoothed curve has made 90% of its rise from start to the last tenth."""
    before, after = start(s), last(s)
    if not after > before:
        return NAN
    made = s.smooth >= before + 0.9 * (after - before) - ROUNDING
    return float(s.episodes[s.updates > 0][made.argmax()]) if made.any() else NAN


def episodes_to(s: Series, level: float) -> float:
    """Episodes until the smoothed curve first reaches `level`; infinite where a whole run never does.

    0 where the evaluation before training has reached it.
    """
    if len(s.updates) and s.updates[0] == 0 and s.values[0] >= level - ROUNDING:
        return 0.0
    reached = s.smooth >= level - ROUNDING
    if not reached.any():
        return float("inf") if s.whole else NAN
    return float(s.episodes[s.updates > 0][reached.argmax()])


# Stability


def drawdown(s: Series) -> float:
    """Maximum drawdown: the furthest that the smoothed curve falls below its highest point so far."""
    import numpy as np

    return float((np.maximum.accumulate(s.smooth) - s.smooth).max()) if len(s.smooth) else NAN


def oscillation(s: Series) -> float:
    """Total variation of the smoothed curve, taken every half window, minus that of its trend; in the metric's unit.

    The trend is the curve's rolling mean over 20% of the updates. So this is how far the metric moves up and down
    besides what its trend moves. NaN where so few values are no curve.
    """
    import numpy as np

    if not s.whole or len(s.trained) < FEWEST:
        return NAN
    step = max(1, window(s.points) // 2)
    trend = _trend(s.smooth, window(s.points, TREND))
    return float(np.abs(np.diff(s.smooth[::step])).sum() - np.abs(np.diff(trend[::step])).sum())


def unsteadiness(s: Series) -> float:
    """Oscillation minus what sampling one batch per update adds to it; NaN where that is not known.

    It is 0 for samples drawn around any trend, whatever the reward's variance.

    Two points of the smoothed curve half a window apart differ by what the trend does, d, and by normal noise of
    variance v = 2 h s^2 / w^2: of w updates with noise s each, h have changed on either side. What noise adds to |d| is
    E|d + e| - |d| = sqrt(2 v / pi) exp(-d^2 / 2 v) + d erf(d / sqrt(2 v)) - |d|.
    Waves of the curve itself are not in d. So a part of them is subtracted too; it is less than what noise alone makes.
    """
    import numpy as np
    from scipy.special import erf

    if not s.whole or s.noise is None or len(s.trained) < FEWEST:
        return NAN
    size = window(s.points)
    step = max(1, size // 2)
    d = np.diff(_trend(s.smooth, window(s.points, TREND))[::step])
    variance = rolling_mean(s.noise[s.updates > 0] ** 2, size)[::step]
    v = step / size**2 * (variance[1:] + variance[:-1])
    with np.errstate(divide="ignore", invalid="ignore"):  # no noise adds nothing
        noisy = np.sqrt(2 * v / np.pi) * np.exp(-(d**2) / (2 * v)) + d * erf(d / np.sqrt(2 * v))
    return oscillation(s) - float(np.where(v > 0, noisy - np.abs(d), 0.0).sum())


def _trend(values: np.ndarray, size: int) -> np.ndarray:
    """Centred rolling mean (n,) -> (n,), continued beyond the ends by their mirror image, upside down.

    A window cut at the ends would make a straight line's trend shorter than the line.
    """
    import numpy as np

    half = min(size // 2, len(values) - 1)
    wide = np.pad(values, half, mode="reflect", reflect_type="odd")
    return np.convolve(wide, np.full(2 * half + 1, 1 / (2 * half + 1)), mode="valid")


def spikes(s: Series) -> float:
    """Spikes per 1,000 updates: consecutive updates further than 8 standard deviations from the median over 2%.

    The standard deviation is taken from the median absolute deviation over 10% of the updates, and counts for at least
    1% of the metric's range. NaN where 2% hold a single value, which is its own median.
    """
    import numpy as np
    from scipy.ndimage import median_filter

    size = window(s.points)
    if len(s.trained) < FEWEST or size == 1:
        return NAN
    off = np.abs(s.trained - median_filter(s.trained, size, mode="mirror"))
    spread = MAD * median_filter(off, window(s.points, 0.1), mode="mirror")
    reach = np.subtract(*np.percentile(s.trained, (99, 1)))
    far = off > SPIKE * np.maximum(spread, 0.01 * reach)
    if reach == 0:
        far = off > 0
    begins = far & ~np.concatenate([[False], far[:-1]])
    return 1000 * float(begins.sum()) / (len(s.trained) * s.every)


def band(s: Series) -> float:
    """Range of the smoothed curve in the last third over its range in the whole run: near 0 where it has settled."""
    if not s.whole or len(s.smooth) < 3:
        return NAN
    late = s.smooth[-(len(s.smooth) // 3) :]
    reach = float(s.smooth.max() - s.smooth.min())
    return float(late.max() - late.min()) / reach if reach > 0 else 0.0


def growth(s: Series) -> float:
    """Largest size of the smoothed curve in the last third over the largest before: at most about 1 if bounded."""
    third = len(s.smooth) // 3
    if not s.whole or not third or abs(s.smooth[:-third]).max() < NEXT_TO_NOTHING:
        return NAN
    return float(abs(s.smooth[-third:]).max() / abs(s.smooth[:-third]).max())


# Why a finished run has no value of a measure.
NO_VALUE = {
    "kept": f"less than {GAINED:g} was gained",
    "remains": "the start is next to nothing",
    "rise_time": "it does not rise",
    "oscillation": f"there are less than {FEWEST} values",
    "unsteadiness": "how far sampling moves a batch's mean is not known (no reward/std, or several responses per prompt), or there "
    f"are less than {FEWEST} values",
    "spikes": "2% of the updates hold one value",
    "growth": "what was before is next to nothing",
}
ADDS_UP = (oscillation, unsteadiness)  # more in a longer run, however steady
MEASURES: dict[str, Callable[..., float]] = {
    measure.__name__: measure
    for measure in (
        *(start, end, first, last, best, area, highest, lowest),
        *(rise, gain, change, late_change, kept, remains, jump, rise_time, episodes_to),
        *(drawdown, oscillation, unsteadiness, spikes, band, growth),
    )
}
