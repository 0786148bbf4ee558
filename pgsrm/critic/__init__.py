"""Critics: who marks spans in a response (RELC, arXiv:2401.07382)."""

from pgsrm.critic.critique import OUTCOMES, Critic, Critique, Outcome, critiques_of
from pgsrm.critic.gold import GoldCritic
from pgsrm.critic.lexicon import LexiconCritic
from pgsrm.critic.local import LocalCritic
from pgsrm.critic.remote import RemoteCritic
from pgsrm.critic.self_critic import SelfCritic

_ASKED = {f"pgsrm.critic.{critic.__name__}" for critic in (LocalCritic, RemoteCritic, SelfCritic)}


def is_asked(target: str | None) -> bool:
    """Whether a `_target_` is a critic whose digest says all that decides its replies."""
    return target in _ASKED


__all__ = [
    "OUTCOMES",
    "Critic",
    "Critique",
    "GoldCritic",
    "LexiconCritic",
    "LocalCritic",
    "Outcome",
    "RemoteCritic",
    "SelfCritic",
    "critiques_of",
    "is_asked",
]
