"""What policy and reference say about each response token: log-probability, entropy, KL, value."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgsrm.policy.batch import Contexts, PaddedBatch, to_device
from pgsrm.policy.gradients import take_rows
from pgsrm.policy.protocol import Scores
from pgsrm.policy.sampling import truncate
from pgsrm.ppo.batch import Batch, loss_mask
from pgsrm.ppo.learner import Learner
from pgsrm.ppo.losses import kl_divergence, token_logprobs
from pgsrm.ppo.settings import PPOSettings
from pgsrm.ppo.statistics import token_statistics


@dataclass(frozen=True)
class Tokens:
    """The policy's view of response tokens, (B, T) each with gradient, and of their responses."""

    logprobs: Tensor  # under the distribution that `scored_distribution` names
    full: Tensor  # under the whole softmax, as the reference's: what the KL is measured on
    reference: Tensor  # the reference's log-probabilities of the same tokens; without gradient
    entropy: Tensor
    kl: Tensor  # by `kl_estimator`
    values: Tensor  # (B,), or (B, T) where the values are a token's

    def detach(self) -> "Tokens":
        """The same numbers without their graph."""
        return Tokens(**{field.name: getattr(self, field.name).detach() for field in fields(self)})


@dataclass(frozen=True)
class KeptReference:
    """What the reference says, kept for all gradient steps of an update."""

    logprobs: Tensor  # (C, V) of the rows that this process scores
    contexts: Contexts  # which contexts those follow
    place: Tensor  # (B,) a row's place among the rows that were scored; on the CPU


def keep_reference(learner: Learner, batch: Batch, parts: Sequence[Tensor]) -> KeptReference | None:
    """The reference's log-probabilities of all rows that this process scores in an update of the steps `parts`.

    None under `micro_batch`, where the whole batch's would be too large: each micro-batch then makes its own.
    """
    if learner.settings.micro_batch is not None:
        return None
    share, padded = learner.processes.share, batch.padded
    rows = torch.from_numpy(np.unique(torch.cat([share(torch.arange(len(batch))), *map(share, parts)])))  # ascending
    place = rows.new_zeros(len(batch)).scatter(0, rows, torch.arange(len(rows)))
    logits, contexts = learner.policy.score_reference(padded if len(rows) == len(batch) else padded.rows(rows))
    return KeptReference(logits.log_softmax(-1), contexts, place)


def score_tokens(
    learner: Learner, batch: Batch, rows: Tensor, kept: KeptReference | None, prefill: Any | None = None
) -> Tokens:
    """What both models say of the responses `rows` (n,), on the CPU, of the batch; `prefill` is what `Policy.score` takes."""
    settings, policy, whole = learner.settings, learner.policy, len(rows) == len(batch)
    part = batch.padded if whole else batch.padded.rows(rows)
    scores = policy.score(part, _value_place(learner, part), prefill)
    place, tokens, padding = scores.contexts.place, part.response_ids, ~part.response_mask
    if kept is None:
        reference = policy.score_reference(part)[0].log_softmax(-1)
    else:
        reference = kept.logprobs
        if not whole:
            scored = to_device(kept.place[rows], policy.device)
            reference = reference[kept.contexts.of_rows(scored, scores.contexts)]
    full, entropy, exact = token_statistics(scores.logits, place, tokens, reference)
    # what no one sampled may be so improbable that an estimator of it is infinite
    full, reference = full.masked_fill(padding, 0), reference[place, tokens].masked_fill(padding, 0)
    logprobs = full
    if settings.scored_distribution == "sampled" and (settings.temperature != 1 or settings.top_k):
        logprobs = _logprobs_as_drawn(settings, scores, part)
    kl = exact[place] if settings.kl_estimator == "exact" else kl_divergence(settings.kl_estimator, full, reference)
    return Tokens(logprobs, full, reference, entropy[place], kl, learner.values(scores))


def _logprobs_as_drawn(settings: PPOSettings, scores: Scores, batch: PaddedBatch) -> Tensor:
    """Of each token (B, T), under the distribution that sampling draws from; 0 at padding."""
    mask, tokens = batch.response_mask, batch.response_ids[batch.response_mask]
    logits = take_rows(scores.logits, scores.contexts.place[mask])
    logprobs = token_logprobs(truncate(logits, settings.temperature, settings.top_k, tokens), tokens)
    return logprobs.new_zeros(mask.shape).masked_scatter(mask, logprobs)


def _value_place(learner: Learner, batch: PaddedBatch) -> Tensor | None:
    """How many response tokens (B,) the value head sees (docs/fidelity.md, D2): up to the loss mask's last, or None."""
    if learner.settings.baseline != "response_value":
        return None
    return loss_mask(batch, learner.policy.eos, learner.settings.train_eos).long().sum(-1)
