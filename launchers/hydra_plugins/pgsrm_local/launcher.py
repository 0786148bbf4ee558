"""`hydra/launcher=local`: the runs of a sweep on this machine, N at a time, one process a run.

Every config is composed, checked and frozen before the first run starts; a run's process reads its folder alone, so that
a failure, even a hard one, stays its own. Finished runs are skipped, cut ones go on.
"""

from collections.abc import Sequence

from hydra.core.config_store import ConfigStore  # noqa: F401  (marks this as a Hydra plugin module)
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from pgsrm.errors import UserError


class LocalLauncher(Launcher):
    """Runs at most `slots` runs at once (default: one a core, and no more than there are runs)."""

    def __init__(self, slots: int | None = None) -> None:
        if slots is not None and (not isinstance(slots, int) or slots < 1):
            raise UserError(f"hydra.launcher.slots={slots}: expected a whole number >= 1, or null for one a core")
        self.slots = slots

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from pgsrm.sweep import compose, run_sweep

        plans = [compose(self.hydra_context.config_loader, self.config, list(o)) for o in job_overrides]
        run_sweep(plans, self.slots)
        return []
