"""Critics: who marks spans in a response (RELC, arXiv:2401.07382)."""

from pgsrm.critic.critique import OUTCOMES, Critic, Critique, Outcome
from pgsrm.critic.gold import GoldCritic
from pgsrm.critic.lexicon import LexiconCritic

__all__ = ["OUTCOMES", "Critic", "Critique", "GoldCritic", "LexiconCritic", "Outcome"]
