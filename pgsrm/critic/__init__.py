"""Critics: who marks spans in a response (RELC, arXiv:2401.07382)."""

from pgsrm.critic.critique import OUTCOMES, Critic, Critique, Outcome

__all__ = ["OUTCOMES", "Critic", "Critique", "Outcome"]
