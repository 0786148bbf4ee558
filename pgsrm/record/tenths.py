"""The definition of a run's tenths, for the tables of the terminal, the status, the report and the claims."""

from collections.abc import Mapping
from typing import Any


def course(status: Mapping[str, Any]) -> int:
    """The updates of a run's course by its status: those planned, or, of a run that stopped early, those made. 0: unknown."""
    return int(status.get("update" if status.get("stopped_early") else "updates") or 0)


def tenth_bounds(planned: int) -> list[tuple[int, int]]:
    """The tenths of the planned updates 1..planned as (after, up to): the k-th holds the updates after < u <= up to.

    Below ten updates each update is a window of its own.
    """
    windows = max(1, min(10, planned))
    return [(round(k * planned / windows), round((k + 1) * planned / windows)) for k in range(windows)]
