"""Early stopping: whether a metric has gone on without an improvement for as long as the run's patience."""

import math
from collections.abc import Iterable, Mapping

from pgsrm.config.schema import StopSettings
from pgsrm.record.measured import is_measured
from pgsrm.util.errors import UserError
from pgsrm.util.numbers import counted


class Stopping:
    """The values of `stop.metric` so far: the best of them, and how many came after it.

    It keeps nothing of its own in a checkpoint. A resumed run gives it the lines of its metrics again, so that it ends where
    a run that was not interrupted ends.
    """

    def __init__(self, settings: StopSettings) -> None:
        self._settings = settings
        self._sign = 1 if settings.mode == "max" else -1
        self.begin(())

    def begin(self, rows: Iterable[Mapping[str, float]]) -> None:
        """Forget what was seen, and see these lines of a run's metrics instead."""
        self._best, self._best_update, self._without, self._last = math.nan, 0, 0, 0
        for row in rows:
            self.see(row)

    @property
    def of_evaluations(self) -> bool:
        """Whether the metric is one of evaluations, not of every update."""
        return (self._settings.metric or "").startswith("eval/")

    @property
    def best_update(self) -> int | None:
        """The update after which the metric was best; None where it had no number yet."""
        return None if math.isnan(self._best) else self._best_update

    @property
    def due(self) -> bool:
        """Whether the run is to end."""
        return self._settings.metric is not None and self._without >= self._settings.patience

    @property
    def reason(self) -> str:
        """Why the run ends, for its status."""
        since = counted(self._without, "evaluation" if self.of_evaluations else "update")
        were = "was" if self._without == 1 else "were"
        return (
            f"stopped early at update {self._last}: {self._settings.metric} was best at update {self._best_update} "
            f"({self._best:.4g}), and {since} since then {were} no better"
        )

    def see(self, line: Mapping[str, float]) -> bool:
        """Count the metric of one line of metrics.jsonl, if it has it; whether it is the best so far.

        A value that is not finite is no improvement.
        """
        metric = self._settings.metric
        if metric is None or metric not in line:
            return False
        value, self._last = float(line[metric]), int(line["update"])
        better = math.isnan(self._best) or self._sign * (value - self._best) > self._settings.min_delta
        improved = math.isfinite(value) and better
        if improved:
            self._best, self._best_update, self._without = value, self._last, 0
        else:
            self._without += 1
        return improved

    def check(self, line: Mapping[str, float]) -> None:
        """Raise UserError where the run's first evaluation, or its first update, has no such metric."""
        metric = self._settings.metric
        if metric is None or metric in line or self.of_evaluations != any(name.startswith("eval/") for name in line):
            return
        names = sorted(
            name for name in line if "/" in name and not is_measured(name) and not name.startswith("equilibrium/")
        )
        raise UserError(f"stop.metric={metric}: the run has no such metric; there are {', '.join(names)}")
