"""`hydra/sweeper=search`: a search over keys that are given as interval(...), range(...) or several values."""

from typing import Any

from hydra.core.config_store import ConfigStore  # noqa: F401  (marks this as a Hydra plugin module)
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from pgsrm.util.errors import UserError
from pgsrm.util.paths import local_path


class Optuna(Sweeper):
    """Asks Optuna for as many trials at a time as the launcher has slots, until there are `trials`."""

    def __init__(
        self,
        trials: int,
        direction: str = "maximize",
        sampler: str = "TPESampler",
        seed: int = 0,
        study: str | None = None,
        params: Any = None,
        prune: bool = False,
        prune_after: int = 5,
    ) -> None:
        if type(trials) is not int or trials < 1:
            raise UserError(f"hydra.sweeper.trials={trials}: expected a whole number >= 1")
        if direction not in ("maximize", "minimize"):
            raise UserError(f"hydra.sweeper.direction={direction}: not an option; there are maximize, minimize")
        if type(seed) is not int or seed < 0:
            raise UserError(f"hydra.sweeper.seed={seed}: expected a whole number >= 0")
        if type(prune) is not bool:
            raise UserError(f"hydra.sweeper.prune={prune}: expected true or false")
        if type(prune_after) is not int or prune_after < 1:
            raise UserError(f"hydra.sweeper.prune_after={prune_after}: expected a whole number >= 1")
        self.prune_after = prune_after if prune else None
        self.trials, self.direction, self.sampler = trials, direction, sampler
        self.seed, self.study, self.params = seed, study, params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """As Hydra's own sweepers do; the sweep's folder (`paths.outputs`) is read as every other path."""
        config.hydra.sweep.dir = str(local_path(config.hydra.sweep.dir, "paths.outputs"))
        self.hydra_context = hydra_context
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Search what these overrides give several values or an interval; the others are fixed."""
        from pgsrm.config.compose import Composer
        from pgsrm.launch.optuna_search import Space, check_can_prune, search, slots_of

        assert self.config is not None and self.launcher is not None and self.hydra_context is not None
        params = [f"{key}={values}" for key, values in (self.params or {}).items()]
        space = Space.read([*params, *arguments])
        plans = Composer(self.hydra_context.config_loader, self.config).plans(space.corners())
        if self.prune_after is not None:
            check_can_prune(self.config)
        search(
            space,
            plans,
            self._launch,
            trials=self.trials,
            at_a_time=slots_of(self.config, plans[0], self.trials),
            direction=self.direction,
            sampler=self.sampler,
            seed=self.seed,
            study_name=self.study,
            prune_after=self.prune_after,
        )

    def _launch(self, jobs: Any, first: int, prune: Any) -> Any:
        launcher: Any = self.launcher
        if prune is not None:
            launcher.prune = prune
        return launcher.launch(jobs, first)
