"""`hydra/sweeper=product`: Hydra's own, which composes every config of a sweep only to see that it can be composed.

The launchers here compose and check all of them before anything is written; once is enough.
"""

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.plugins.sweeper import Sweeper  # noqa: F401  (marks this as a Hydra plugin module)
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from pgsrm.util.paths import local_path


class Product(BasicSweeper):
    """Every combination of the comma-separated values."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """As Hydra's; its own folder (`paths.outputs`) is read as every other path."""
        config.hydra.sweep.dir = str(local_path(config.hydra.sweep.dir, "paths.outputs"))
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Left to the launcher."""
