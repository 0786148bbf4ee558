"""Curves over training: smoothing, and the mean of a variant's seeds with a bootstrap band."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from intervals import bootstrap_band
from variants import Variant

if TYPE_CHECKING:
    import numpy as np

SMOOTHING = 0.02
FAINT_SHARE = 5  # the faint lines' window is this part of the thick lines'
POINTS = 1000
MOST_FAINT = 10


@dataclass(frozen=True)
class Curve:
    """One metric of one variant over its seeds, at m of its n updates; NaN for none.

    `episodes`, `mean`, `low` and `high` are (m,); `runs` is (seeds, m), at most `MOST_FAINT` seeds.
    """

    episodes: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    runs: np.ndarray


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
    """The variant's finished seeds (else: all of them) at the updates that all of them have.

    None where not every one of them has the column. `points` of the updates are kept, evenly spaced: twenty a
    smoothing window lose nothing that the eye could see.
    """
    import numpy as np

    runs = variant.complete or variant.runs
    if any(column not in run.metrics for run in runs):
        return None
    common = functools.reduce(np.intersect1d, [run.metrics["update"] for run in runs])
    common = common[common > 0]  # update 0 is the evaluation before training
    rows = [np.searchsorted(run.metrics["update"], common) for run in runs]
    values = np.stack([run.metrics[column][at] for run, at in zip(runs, rows, strict=True)])  # (seeds, n)
    kept = np.unique(np.linspace(0, len(common) - 1, points).round().astype(int))
    smooth = rolling_mean(values, window(runs[0].updates))[:, kept]
    faint = rolling_mean(values[:MOST_FAINT], window(runs[0].updates, SMOOTHING / FAINT_SHARE))[:, kept]
    low, high = bootstrap_band(smooth)
    return Curve(runs[0].metrics["episodes"][rows[0]][kept], smooth.mean(0), low, high, faint)
