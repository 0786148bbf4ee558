"""Runs at the same distance from the reference policy: KL in nats per response, at evaluations on held-out prompts.

A run is a path of evaluations, from a KL of 0 on. Between two of them a value is taken for a straight line over the square root of
KL: near the reference policy a change of size d brings reward in proportion to d and KL in proportion to d^2 (Gao et al. 2023,
https://arxiv.org/abs/2210.10760, measure by that root too). A line over KL itself would lie below such a path, and most for the run
that is furthest at its first evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from pgsrm.analysis.curves import shared_evaluations
from pgsrm.analysis.intervals import NAN
from pgsrm.analysis.results import DISTANCE
from pgsrm.analysis.runs import Run

NOWHERE = 1e-3  # a root of KL that is rounding alone


def value_at(path: Sequence[float], values: Sequence[float], level: float) -> float:
    """The value where a path first comes to a level from below, on a straight line between two points; NaN if it never does."""
    for place in range(len(path) - 1):
        before, after = path[place], path[place + 1]
        if before <= level <= after and before < after:
            return float(values[place] + (level - before) / (after - before) * (values[place + 1] - values[place]))
    return NAN


def mean_up_to(path: Sequence[float], values: Sequence[float], level: float) -> float:
    """Mean, over the levels from the path's first point to `level`, of the value where the path first comes to each.

    Between two points it is a straight line. NaN where the path never comes to `level`, or begins there or beyond.
    """
    total, reached = 0.0, path[0]
    for place in range(len(path) - 1):
        before, after = path[place], path[place + 1]
        top = min(after, level)
        if top > reached:
            slope = (values[place + 1] - values[place]) / (after - before)
            total += (top - reached) * (values[place] + slope * ((reached + top) / 2 - before))
            reached = top
    return total / (level - path[0]) if path[0] < level <= reached else NAN


def at_distance(run: Run, column: str, kl: float) -> float:
    """A run's value of an evaluation's metric where its KL first is `kl`."""
    return value_at(*_path(run, column), math.sqrt(kl))


def up_to_distance(run: Run, column: str, kl: float) -> float:
    """Mean of a run's metric of evaluations over all square roots of KL up to that of `kl`, where the run first is at each.

    NaN for a run that does not come so far, or has no evaluation at the reference policy: its path would begin elsewhere.
    """
    roots, values = _path(run, column)
    return mean_up_to(roots, values, math.sqrt(kl)) if roots and roots[0] < NOWHERE else NAN


def _path(run: Run, column: str) -> tuple[list[float], list[float]]:
    """Square roots of KL (n,), and a metric (n,), at the evaluations that have both."""
    import numpy as np

    _, ((distance,), (values,)) = shared_evaluations([run], (DISTANCE, column))
    return np.sqrt(np.maximum(distance, 0.0)).tolist(), values.tolist()


def furthest(run: Run) -> float:
    """The largest KL of a run's evaluations, in nats per response; 0 without any."""
    _, values = run.series(DISTANCE)
    return float(values.max()) if len(values) else 0.0


def common(runs: Iterable[Run]) -> float:
    """The largest KL that all of the runs come to; 0 without any."""
    return min(map(furthest, runs), default=0.0)
