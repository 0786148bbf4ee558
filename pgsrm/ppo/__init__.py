"""PPO on token ids: pure functions (losses, advantages, KL) and the update. It knows tensors, not text."""

from pgsrm.ppo.settings import PPOSettings
from pgsrm.ppo.update import Learner, step

__all__ = ["Learner", "PPOSettings", "step"]
