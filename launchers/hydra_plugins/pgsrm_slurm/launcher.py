"""`hydra/launcher=slurm`: the runs of a sweep as job arrays of Slurm; `cluster` says where, `resources` how much.

Every config is composed, checked and frozen before the first job is submitted; a job reads its run's folder alone.
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


class SlurmLauncher(Launcher):
    """Submits and returns; with `wait` it shows the runs until all have ended. At most `slots` run at once."""

    def __init__(self, slots: int | None = None, wait: bool = False, retry_failed: bool = True) -> None:
        if slots is not None and (type(slots) is not int or slots < 1):
            raise UserError(f"hydra.launcher.slots={slots}: expected a whole number >= 1, or null for no limit")
        for name, value in (("wait", wait), ("retry_failed", retry_failed)):
            if type(value) is not bool:
                raise UserError(f"hydra.launcher.{name}={value}: expected true or false")
        self.slots, self.wait, self.retry_failed = slots, wait, retry_failed

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
        from pgsrm.launch.slurm.launch import run_batch, run_sweep
        from pgsrm.launch.slurm.queue import Queue

        how: dict[str, Any] = {"slots": self.slots, "wait": self.wait, "retry_failed": self.retry_failed}
        return search.launch(
            self.hydra_context.config_loader,
            self.config,
            job_overrides,
            initial_job_idx == 0,
            partial(run_sweep, **how),
            partial(run_batch, **how),
            lambda folders: Queue.ask(folders).state,
        )
