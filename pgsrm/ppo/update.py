"""One PPO update, from token ids and rewards to new weights (PGSRM, Algorithm 1; Schulman et al. 2017).

Left out of the textbook algorithm by default, as the paper does: the probability ratio and its clipping (one step a
batch, so the ratio is 1), discounting (an episode is one response) and generalised advantage estimation. Each is a
setting, and so are the group baselines of RLOO and GRPO: one update, whatever it is called.
`pgsrm.ppo.plain` is the same update without any of what makes this one fast, which it is tested against.

Shapes: B responses, T response tokens; (B, T) unless said otherwise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from pgsrm.policy.batch import to_device
from pgsrm.ppo.advantages import advantages_and_targets
from pgsrm.ppo.batch import Batch
from pgsrm.ppo.kl_control import next_coefficient
from pgsrm.ppo.learner import Learner
from pgsrm.ppo.losses import masked_mean, policy_loss, value_loss
from pgsrm.ppo.metrics import SAMPLED_KL, Totals, explained_variance, token_metrics
from pgsrm.ppo.tokens import KeptReference, Tokens, keep_reference, score_tokens
from pgsrm.util.determinism import in_one_order
from pgsrm.util.distributed import undivided
from pgsrm.util.errors import UserError

__all__ = ["Learner", "step"]


def step(
    learner: Learner,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    rewards: Sequence[Sequence[float]],
    prefill: Any | None = None,
) -> dict[str, float]:
    """One update on B responses; returns its metrics (docs/metrics.md), among them `loss/policy` and `loss/value`.

    `prompts` and `responses` are token ids as sampled (EOS included where it was sampled, never added); `rewards` is a
    list for each response with a number for each of its tokens; `pgsrm.rollout.at_last_token` makes it of one number per
    response. The learner's policy must still be the one that sampled the responses. `prefill` is the
    sampling's pass over the prompts with its graph, which saves a second one (`Learner.reuses_prefill`).

    Raises UserError where these do not fit together, and where the gradient is not finite.
    """
    settings, policy, rows = learner.settings, learner.policy, len(prompts)
    batch = Batch.of(policy, settings, prompts, responses, rewards, learner.value_head.weight.dtype)
    parts = learner.minibatches(rows)  # the rows of each gradient step
    kept = keep_reference(learner, batch, parts)
    prefill = prefill if learner.reuses_prefill(rows) else None

    # What the policy that sampled says. Where its first step is on one pass over all rows, it differentiates this very pass;
    # where the advantages of each micro-batch are its own, the first step's passes say it.
    one_pass = learner.one_pass(rows)
    share = learner.processes.share(torch.arange(rows))
    scored, fixed = list[Tokens](), None
    if one_pass or not learner.advantages_by_part(rows):
        with torch.set_grad_enabled(one_pass):
            scored = [
                score_tokens(learner, batch, part, kept, prefill) for part in share.split(settings.micro_batch or rows)
            ]
        fixed = _fix(learner, batch, scored)

    before = None
    if settings.kl_reference == "previous":  # docs/fidelity.md, D6
        before = {name: tensor.detach().clone() for name, tensor in policy.model.state_dict().items()}
    first = scored.pop() if one_pass else None
    found, fixed = _gradient_step(learner, batch, parts[0], fixed, kept, first)
    del first, prefill  # the graph of that pass
    metrics = [found, *(_gradient_step(learner, batch, part, fixed, kept)[0] for part in parts[1:])]
    if before is not None:
        policy.set_reference(before)

    result = {name: sum(m[name] for m in metrics) / len(metrics) for name in metrics[0]}
    kl = result.pop(SAMPLED_KL)
    result["policy/kl_coef"] = learner.kl_coef
    learner.kl_coef = next_coefficient(
        learner.kl_coef, kl, settings.kl_control, settings.kl_target, rows, settings.kl_horizon
    )
    return result


@dataclass(frozen=True)
class _Held:
    """What is held constant of some responses through all gradient steps of an update."""

    logprobs: Tensor  # of the policy that sampled
    advantages: Tensor
    values: Tensor  # of the policy that sampled; (B,), or (B, T) where they are a token's
    targets: Tensor  # what they should have been

    @staticmethod
    def of(learner: Learner, batch: Batch, said: Tokens, rows: Tensor | slice = slice(None)) -> "_Held":
        """From what the policy that sampled `said` of the responses `rows`, which their advantages must follow from."""
        rewards, mask, trained = batch.rewards[rows], batch.padded.response_mask[rows], batch.loss_mask[rows]
        values, kl = said.values.detach(), said.kl.detach()
        made = advantages_and_targets(learner.settings, rewards, values, kl, learner.kl_coef, mask, trained)
        return _Held(said.logprobs.detach(), made[0], values, made[1])

    def rows(self, index: Tensor) -> "_Held":
        """Those of the responses `index`."""
        return _Held(self.logprobs[index], self.advantages[index], self.values[index], self.targets[index])


@dataclass(frozen=True)
class _Fixed:
    """The same of the whole batch, and metrics, () each, of the policy that sampled it."""

    held: _Held
    metrics: dict[str, Tensor]


def _fix(learner: Learner, batch: Batch, scored: Sequence[Tokens]) -> _Fixed:
    """From what each process has `scored`, which together is the whole batch."""
    settings, mask = learner.settings, batch.loss_mask

    def joined(name: str) -> Tensor:
        parts = [getattr(tokens, name) for tokens in scored]
        return learner.processes.join(torch.cat(parts) if len(parts) > 1 else parts[0])

    said = Tokens(**{field.name: joined(field.name) for field in fields(Tokens)})
    held = _Held.of(learner, batch, said)
    # k1 of the policy that sampled (after a gradient step the tokens are no longer draws from it): nats per response under
    # `ziegler`, else nats per token
    kl = ((said.full - said.reference) * mask).sum()
    kl = kl / (len(batch) if settings.kl_control == "ziegler" else mask.sum().clamp(min=1))
    metrics = {SAMPLED_KL: kl}
    if held.values.dim() == 2:
        metrics["value/explained_variance"] = explained_variance(held.values, held.targets, batch.padded.response_mask)
    return _Fixed(held, metrics)


def _gradient_step(
    learner: Learner,
    batch: Batch,
    rows: Tensor,
    fixed: _Fixed | None,
    kept: KeptReference | None,
    scored: Tokens | None = None,
) -> tuple[dict[str, float], _Fixed]:
    """One step of both optimisers on `rows` of the batch, each process on its share; returns the step's metrics.

    `fixed` None: it is made of this step's own passes, which are on all rows (`Learner.advantages_by_part`), and returned.

    Every loss is a sum over this micro-batch divided by the whole step's number of tokens or responses: gradients add up
    over micro-batches and processes. `scored` is the share of an update's first step on all rows, with its graph.
    """
    settings, processes = learner.settings, learner.processes
    trained = batch.loss_mask[to_device(rows, learner.policy.device)]
    count = trained.sum().clamp(min=1)  # none where EOS is not trained and all responses are one
    totals, said = Totals(), list[Tokens]()
    learner.actor_optimizer.zero_grad(set_to_none=True)
    learner.critic_optimizer.zero_grad(set_to_none=True)
    for here in processes.share(rows).split(settings.micro_batch or len(rows)):
        tokens = scored or score_tokens(learner, batch, here, kept)
        micro = to_device(here, learner.policy.device)
        mask = batch.loss_mask[micro]
        if fixed is None:
            said.append(tokens.detach())
        held = _Held.of(learner, batch, tokens, micro) if fixed is None else fixed.held.rows(micro)

        policy = policy_loss(tokens.logprobs, held.logprobs, held.advantages, mask, settings.clip_range, count)
        entropy = masked_mean(tokens.entropy, mask, count)
        kl = masked_mean(tokens.kl, mask, count)
        actor = policy - settings.entropy_coef * entropy
        if settings.kl_in == "loss":
            actor = actor + learner.kl_coef * kl
        with in_one_order(learner.policy.in_one_order):
            actor.backward()

        within, number = (mask, count) if tokens.values.dim() == 2 else (None, len(rows))
        value = value_loss(tokens.values, held.targets, within, number, held.values, settings.value_clip)
        (settings.value_coef * value).backward()

        losses = {"loss/policy": policy, "loss/kl": kl, "loss/actor": actor, "loss/value": value}
        totals.add({**losses, "policy/entropy": entropy})
        totals.add(token_metrics(tokens, held.logprobs, held.advantages, mask, count, len(rows), settings.clip_range))
    fixed = fixed or _fix(learner, batch, said)
    totals.combine(processes)
    for name, module in (("actor", learner.policy.model), ("critic", learner.value_head)):
        processes.add_gradients(module.parameters())
        limit = math.inf if settings.max_grad_norm is None else settings.max_grad_norm
        totals.add({f"grad/{name}_norm": undivided(clip_grad_norm_(module.parameters(), limit))})
    totals.add(fixed.metrics)  # after `combine`: every process has them whole
    metrics = totals.floats()
    _check_finite(learner, metrics)
    if settings.ratio_limit is not None:
        metrics["policy/skipped"] = float(metrics["policy/ratio_mean"] > settings.ratio_limit)
    if not metrics.get("policy/skipped"):
        learner.actor_optimizer.step()
        learner.critic_optimizer.step()
        learner.policy.weights_changed()
    return metrics, fixed


def _check_finite(learner: Learner, metrics: dict[str, float]) -> None:
    """Raise UserError before a gradient that is not finite reaches the weights, which would answer nothing ever after."""
    if not math.isfinite(metrics["grad/actor_norm"] + metrics["grad/critic_norm"]):
        shown = {"policy/kl_coef": learner.kl_coef, "loss/actor": metrics["loss/actor"]}
        numbers = ", ".join(f"{name} {value:.3g}" for name, value in shown.items())
        raise UserError(
            f"ppo: the gradient is not finite ({numbers}); lower ppo.actor_lr or ppo.kl_coef, "
            "or set ppo.kl_control=fixed (the paper's controller has no bounds, docs/fidelity.md, D13)"
        )
