"""An update that is not PPO's: from what the policy sampled, and what that is worth, to new weights.

Every algorithm samples a batch and has it scored, so that reward, entropy and KL of an update mean the same under all of
them. What it learns from differs (`pgsrm.algorithm.selection`): references, the best responses, pairs, or a teacher.
One gradient step a batch, with the optimiser and the clipping of PPO's policy.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from pgsrm.algorithm.answers import answer_logprobs, summed_by_row
from pgsrm.algorithm.losses import dpo_loss, generalised_jsd
from pgsrm.algorithm.selection import Pair, Preference, against_references, best_of_groups, ordered_by_reward
from pgsrm.algorithm.settings import BestOfNAlgorithm, DistillAlgorithm, DPOAlgorithm, Other, SFTAlgorithm
from pgsrm.algorithm.sft import mean_losses
from pgsrm.models.tuning import gradient_step
from pgsrm.policy.gradients import take_rows
from pgsrm.policy.protocol import Policy
from pgsrm.ppo.learner import adamw
from pgsrm.ppo.losses import kl_divergence
from pgsrm.ppo.settings import PPOSettings
from pgsrm.ppo.statistics import token_statistics
from pgsrm.rollout import Rollout, Scored

Metrics = dict[str, float]


class OtherLearner:
    """A policy with what its training carries from update to update, which is its optimiser's state.

    references: by prompt, encoded, for an algorithm that learns from them. teacher: of `algorithm=distill`, else None.
    """

    def __init__(
        self,
        policy: Policy,
        settings: PPOSettings,
        algorithm: Other,
        references: Mapping[str, Pair] = MappingProxyType({}),
        teacher: Policy | None = None,
    ) -> None:
        self.policy, self.settings, self.algorithm = policy, settings, algorithm
        self._references, self._teacher = references, teacher
        self.actor_optimizer = adamw(policy.model, algorithm.lr, settings)
        if settings.dropout:
            policy.model.train()

    def modules(self) -> dict[str, Any]:
        """What has a state dict and changes in training, besides the policy."""
        return {"actor_optimizer": self.actor_optimizer}

    def numbers(self) -> Metrics:
        """What else changes in training: nothing."""
        return {}

    def set_numbers(self, numbers: Mapping[str, Any]) -> None:
        """Nothing is to be set."""

    def reuses_prefill(self, rows: int) -> bool:
        """Whether sampling's pass over the prompts is also the update's."""
        return False

    def update(self, rollout: Rollout, scored: Scored) -> tuple[Metrics, int]:
        """One update; returns its metrics, and the number of tokens, of prompts and answers, that the gradient was taken of.

        Raises UserError where the gradient is not finite.
        """
        metrics = before_step(self.policy, self.settings, rollout)
        if isinstance(self.algorithm, DPOAlgorithm):
            preferences = self._preferences(rollout, scored, self.algorithm)
            return metrics | self._prefer(preferences, self.algorithm), sum(map(_read, preferences))
        pairs = self._pairs(rollout, scored)
        if isinstance(self.algorithm, DistillAlgorithm):
            losses = self._divergences(pairs, self.algorithm.beta)
        else:
            losses = mean_losses(self.policy, pairs, self.settings.micro_batch)
        return metrics | self._step(losses), sum(map(_read, pairs))

    def _pairs(self, rollout: Rollout, scored: Scored) -> list[Pair]:
        """The answers that are learned: references, the best responses, or all responses."""
        size = self.settings.group_size
        if isinstance(self.algorithm, SFTAlgorithm):
            return [self._references[example.prompt] for example in rollout.examples[::size]]
        if isinstance(self.algorithm, BestOfNAlgorithm):
            return best_of_groups(rollout, scored.totals, size)
        return [Pair(*row) for row in zip(rollout.prompt_ids, rollout.response_ids, strict=True)]

    def _preferences(self, rollout: Rollout, scored: Scored, algorithm: DPOAlgorithm) -> list[Preference]:
        if algorithm.pairs == "reward":
            return ordered_by_reward(rollout, scored.totals, self.settings.group_size)
        return against_references(rollout, [self._references[example.prompt] for example in rollout.examples])

    def _prefer(self, preferences: Sequence[Preference], algorithm: DPOAlgorithm) -> Metrics:
        """A gradient step of DPO. A batch without a pair teaches nothing, and leaves the weights as they are."""
        count = len(preferences)
        kept = {"dpo/pairs": float(count)}
        if not count:
            return {"loss/actor": 0.0, "grad/actor_norm": 0.0, **kept}
        margins: list[Tensor] = []
        step = self._step(self._preference_losses(preferences, algorithm, margins))
        margin = torch.cat(margins)
        return {
            **step,
            "dpo/margin": margin.mean().item(),
            "dpo/accuracy": (margin > 0).float().mean().item(),
            **kept,
        }

    def _preference_losses(
        self, preferences: Sequence[Preference], algorithm: DPOAlgorithm, margins: list[Tensor]
    ) -> Iterator[Tensor]:
        """The mean of DPO's loss, in parts that add up to it; each part's margins (K,) are appended to `margins`."""
        size = max(1, (self.settings.micro_batch or 2 * len(preferences)) // 2)  # a pair is two rows
        for start in range(0, len(preferences), size):
            part = preferences[start : start + size]
            answers = [each.chosen for each in part] + [each.rejected for each in part]
            batch = self.policy.pad([each.prompt for each in part] * 2, answers)
            scores, (reference, contexts) = self.policy.score(batch), self.policy.score_reference(batch)
            policy = summed_by_row(answer_logprobs(scores.logits, scores.contexts, batch), batch)
            fixed = summed_by_row(answer_logprobs(reference, contexts, batch), batch)
            (chosen, rejected), (fixed_chosen, fixed_rejected) = policy.chunk(2), fixed.chunk(2)
            loss, margin = dpo_loss(
                chosen, rejected, fixed_chosen, fixed_rejected, algorithm.beta, algorithm.label_smoothing
            )
            margins.append(margin.detach())
            yield loss.sum() / len(preferences)

    def _divergences(self, pairs: Sequence[Pair], beta: float) -> Iterator[Tensor]:
        """The mean divergence from the teacher over the answers' tokens, in parts that add up to it."""
        assert self._teacher is not None
        size, tokens = self.settings.micro_batch or len(pairs), sum(len(pair.answer) for pair in pairs)
        for start in range(0, len(pairs), size):
            rows = tuple(zip(*pairs[start : start + size], strict=True))
            batch, teachers = self.policy.pad(*rows), self._teacher.pad(*rows)
            scores = self.policy.score(batch)
            with torch.no_grad():
                taught = self._teacher.score(teachers)
            own = take_rows(scores.logits, scores.contexts.place[batch.response_mask])  # (N, V)
            other = take_rows(taught.logits, taught.contexts.place[teachers.response_mask])
            yield generalised_jsd(own, other, beta).sum() / tokens

    def _step(self, losses: Iterator[Tensor]) -> Metrics:
        lr_key = f"algorithm.lr={self.algorithm.lr:g}"
        limit, one_order = self.settings.max_grad_norm, self.policy.in_one_order
        metrics = gradient_step(self.policy.model, self.actor_optimizer, losses, limit, lr_key, one_order)
        self.policy.weights_changed()
        return metrics


def before_step(policy: Policy, settings: PPOSettings, rollout: Rollout) -> Metrics:
    """`policy/entropy`, `policy/kl` and `loss/kl` of the sampled batch, as PPO has them (docs/metrics.md)."""
    sums: Any = 0.0
    for rows in torch.arange(len(rollout)).split(settings.micro_batch or len(rollout)):
        here = rows.tolist()
        batch = policy.pad([rollout.prompt_ids[row] for row in here], [rollout.response_ids[row] for row in here])
        with torch.no_grad():
            scores, reference = policy.score(batch), policy.score_reference(batch)[0].log_softmax(-1)
            place, mask = scores.contexts.place, batch.response_mask
            logprobs, entropy, exact = token_statistics(scores.logits, place, batch.response_ids, reference)
            logprobs, reference = logprobs[mask], reference[place, batch.response_ids][mask]
            kl = exact[place][mask]
            if settings.kl_estimator != "exact":
                kl = kl_divergence(settings.kl_estimator, logprobs, reference)
            sums = sums + torch.stack([entropy[place][mask].sum(), (logprobs - reference).sum(), kl.sum()])
    tokens = sum(map(len, rollout.response_ids))
    return dict(zip(("policy/entropy", "policy/kl", "loss/kl"), (sums / tokens).tolist(), strict=True))


def _read(learned: Pair | Preference) -> int:
    """Tokens of prompts and answers that are learned from; a pair has its prompt before each answer."""
    prompt, *answers = learned
    return sum(len(prompt) + len(answer) for answer in answers)
