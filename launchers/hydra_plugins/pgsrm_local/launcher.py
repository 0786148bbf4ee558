"""`hydra/launcher=local`: the runs of a sweep on this machine, N at a time, one process per run.

Every config is composed, checked and frozen before the first run starts; a run's process reads its folder alone, so that
a failure, even a hard one, stays its own. Finished runs are skipped, interrupted ones resume.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from hydra.core.config_store import ConfigStore  # noqa: F401  (marks this as a Hydra plugin module)
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from pgsrm.util.errors import UserError


class LocalLauncher(Launcher):
    """Runs at most `slots` runs at once (default: one per core or `runs_per_gpu` per GPU, at most one per run)."""

    def __init__(self, slots: int | None = None, runs_per_gpu: int = 1, retry_failed: bool = True) -> None:
        if slots is not None and (type(slots) is not int or slots < 1):
            raise UserError(f"hydra.launcher.slots={slots}: expected a whole number >= 1, or null for one per core")
        if type(runs_per_gpu) is not int or runs_per_gpu < 1:
            raise UserError(f"hydra.launcher.runs_per_gpu={runs_per_gpu}: expected a whole number >= 1")
        if type(retry_failed) is not bool:
            raise UserError(f"hydra.launcher.retry_failed={retry_failed}: expected true or false")
        self.slots, self.runs_per_gpu, self.retry_failed = slots, runs_per_gpu, retry_failed
        self.prune: Any = None  # a search's judge of its runs (pgsrm.launch.search.Judge)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's call before a sweep, with the sweep's config."""
        self.hydra_context = hydra_context
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Plan and run the sweep, one run for each list of overrides; in a search, returns each run's objective.

        Raises:
            UserError: an override is wrong; no run has started then.
            SweepFailed: a run failed or was stopped.
        """
        from pgsrm.launch import search
        from pgsrm.launch.local import run_batch, run_sweep
        from pgsrm.record import RunFolder

        how: dict[str, Any] = {
            "slots": self.slots,
            "runs_per_gpu": self.runs_per_gpu,
            "retry_failed": self.retry_failed,
        }
        return search.launch(
            self.hydra_context.config_loader,
            self.config,
            job_overrides,
            initial_job_idx == 0,
            partial(run_sweep, **how),
            partial(run_batch, **how, prune=self.prune),
            lambda folders: RunFolder.state,
            self.prune,
        )
