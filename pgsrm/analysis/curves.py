"""Curves over training: smoothing, and the mean of a variant's seeds with a bootstrap band."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgsrm.analysis.intervals import bootstrap_band
from pgsrm.analysis.runs import Run
from pgsrm.analysis.variants import Variant

if TYPE_CHECKING:
    import numpy as np

SMOOTHING = 0.02
FAINT_SHARE = 5  # the faint lines' window is this part of the thick lines'
POINTS = 1000
MOST_FAINT = 10


@dataclass(frozen=True)
class Curve:
    """One metric of one variant over its seeds, at m of its n updates; NaN for none.

    `episodes`, `mean`, `low` and `high` are (m,); `runs` is (seeds, m), at most `MOST_FAINT` of the `seeds`.
    """

    episodes: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    runs: np.ndarray
    seeds: int = 1


def window(updates: int, share: float = SMOOTHING) -> int:
    """Updates in the rolling mean: 2% of those planned, rounded to an odd number, at least one."""
    return 2 * round(share * updates / 2) + 1 if updates >= 1 / share else 1


def rolling_mean(values: np.ndarray, size: int) -> np.ndarray:
    """Centred rolling mean along the last axis, (..., n) -> (..., n).

    Windows are cut at the ends and NaN is left out of them; a window of NaN alone gives NaN.
    """
    import numpy as np

    n = values.shape[-1]
    known = np.isfinite(values)
    pad = [(0, 0)] * (values.ndim - 1) + [(1, 0)]
    sums = np.pad(np.cumsum(np.where(known, values, 0.0), axis=-1), pad)
    counts = np.pad(np.cumsum(known, axis=-1), pad)
    start = np.clip(np.arange(n) - size // 2, 0, n)
    end = np.clip(np.arange(n) + size // 2 + 1, 0, n)
    total, count = sums[..., end] - sums[..., start], counts[..., end] - counts[..., start]
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def curve(variant: Variant, column: str, points: int = POINTS) -> Curve | None:
    """The variant's finished seeds (else: all of them) that have the column, up to the update that all of them reach.

    A metric of the evaluations is given at those that all of the seeds have, the one before training too, as it is.

    None where none has it. `points` of the updates are kept, evenly spaced: twenty per smoothing window lose
    nothing that the eye could see. Where a run lacks more updates than the window holds, the mean is NaN.
    """
    import numpy as np

    runs = [run for run in variant.complete or variant.runs if column in run.metrics]
    if not runs:
        return None
    n = min(run.last_update for run in runs)
    if column.startswith("eval/"):
        return _at_evaluations(runs, column, n)
    values = np.stack([_at_updates(run, column, n) for run in runs])  # (seeds, n)
    kept = np.unique(np.linspace(0, n - 1, points).round().astype(int))
    smooth = rolling_mean(values, window(runs[0].planned))[:, kept]
    faint = rolling_mean(values[:MOST_FAINT], window(runs[0].planned, SMOOTHING / FAINT_SHARE))[:, kept]
    low, high = bootstrap_band(smooth)
    episodes = np.interp(kept + 1, runs[0].metrics["update"], runs[0].metrics["episodes"])
    return Curve(episodes, smooth.mean(0), low, high, faint, len(runs))


def _at_evaluations(runs: Sequence[Run], column: str, n: int) -> Curve | None:
    import numpy as np

    updates, values = shared_evaluations(runs, (column,))
    kept = updates <= n
    if not kept.any():
        return None
    (seeds,) = values[:, :, kept]
    episodes = np.interp(updates[kept], runs[0].metrics["update"], runs[0].metrics["episodes"])
    return Curve(episodes, seeds.mean(0), *bootstrap_band(seeds), seeds[:MOST_FAINT], len(runs))


def shared_evaluations(runs: Sequence[Run], columns: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The updates (m,) at which each of the runs has all of the columns, and their values (columns, seeds, m)."""
    import numpy as np

    known = [run.series(column)[0] for run in runs for column in columns]
    updates = functools.reduce(np.intersect1d, known)
    values = [[_of(run, column, updates) for run in runs] for column in columns]
    return updates, np.array(values).reshape(len(columns), len(runs), len(updates))


def _of(run: Run, column: str, updates: np.ndarray) -> np.ndarray:
    import numpy as np

    own, values = run.series(column)
    return values[np.isin(own, updates)]


def _at_updates(run: Run, column: str, n: int) -> np.ndarray:
    """The column at the updates 1..n, (n,); NaN for one that is not on file. Update 0 is the evaluation before training."""
    import numpy as np

    updates = run.metrics["update"]
    inside = (updates >= 1) & (updates <= n)
    values = np.full(n, np.nan)
    values[updates[inside].astype(int) - 1] = run.metrics[column][inside]
    return values
