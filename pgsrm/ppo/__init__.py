"""PPO on token ids: pure functions (losses, advantages, KL) and the update. It knows tensors, not text.

`pgsrm.ppo.step` and `pgsrm.ppo.Learner` are imported at first use: settings are read where torch must not be waited for.
"""

from typing import TYPE_CHECKING, Any

from pgsrm.ppo.settings import PPOSettings

if TYPE_CHECKING:
    from pgsrm.ppo.learner import Learner
    from pgsrm.ppo.update import step

__all__ = ["Learner", "PPOSettings", "step"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    from pgsrm.ppo import update

    return getattr(update, name)
