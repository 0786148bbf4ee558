"""PGSRM: train small language models by PPO on semantic rewards from a parent model.

    import pgsrm

    run = pgsrm.train("task=antonym", "reward=pgsrm", "ppo.episodes=2000")
    run.metrics.plot(x="episodes", y="reward/mean")

Nothing is imported before it is used: `import pgsrm` takes milliseconds, the first model some seconds.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgsrm.analysis.frames import load_runs as load_runs
    from pgsrm.api import Run as Run
    from pgsrm.api import build_reward as build_reward
    from pgsrm.api import compose as compose
    from pgsrm.api import load_task as load_task
    from pgsrm.api import train as train
    from pgsrm.trainer import Trainer as Trainer
    from pgsrm.util.errors import UserError as UserError

if sys.platform == "win32":
    raise ImportError(
        "pgsrm runs on Linux and macOS: it locks run folders as POSIX does; on Windows use it within WSL2"
    )

__version__ = "0.2.0"
__all__ = [
    "Run",
    "Trainer",
    "UserError",
    "__version__",
    "build_reward",
    "compose",
    "load_runs",
    "load_task",
    "train",
]

_ELSEWHERE = {  # all other names are of pgsrm.api
    "Trainer": "pgsrm.trainer",
    "UserError": "pgsrm.util.errors",
    "load_runs": "pgsrm.analysis.frames",
}


if not TYPE_CHECKING:  # to a type checker every name would be there

    def __getattr__(name: str) -> Any:
        if name == "train":
            return import_module("pgsrm.train")  # which Python then binds to the name, see below
        if name not in __all__:
            raise AttributeError(f"module 'pgsrm' has no attribute {name!r}")
        value = getattr(import_module(_ELSEWHERE.get(name, "pgsrm.api")), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# `pgsrm.train` is a function, and also the module of the training loop: `python -m pgsrm.train`, `from pgsrm.train import
# run`. Importing that module binds it to the package's attribute `train`, whatever was there. So the module itself can be
# called: both are the same object, whichever is used first.


class _TrainModule(ModuleType):
    """The module pgsrm.train, which is also the function `pgsrm.api.train`."""

    def __call__(
        self, *overrides: Any, reward: Callable[..., Any] | None = None, data: Any = None, progress: bool = True
    ) -> "Run":
        """As `pgsrm.api.train`."""
        from pgsrm.api import train

        return train(*overrides, reward=reward, data=data, progress=progress)


class _Package(ModuleType):
    """The package pgsrm, which makes its module `train` callable when Python binds it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "train" and isinstance(value, ModuleType):
            value.__class__ = _TrainModule
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
