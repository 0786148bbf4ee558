"""One PPO update, from token ids and rewards to new weights (PGSRM, Algorithm 1; Schulman et al. 2017).

Left out of the textbook algorithm by default, as the paper does: the probability ratio and its clipping (one step a
batch, so the ratio is 1), discounting (an episode is one response) and generalised advantage estimation. Each is a
setting, and so are the group baselines of RLOO and GRPO: one update, whatever it is called.
`pgsrm.ppo.plain` is the same update without any of what makes this one fast, which it is tested against.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pgsrm.ppo.advantages import (
    generalized_advantages,
    group_baseline,
    group_deviation,
    rewards_to_go,
    token_rewards,
    whiten,
)
from pgsrm.ppo.kl_control import next_coefficient
from pgsrm.ppo.losses import kl_divergence, masked_mean, policy_loss, token_logprobs, value_loss
from pgsrm.ppo.settings import GROUP_BASELINES, PPOSettings
from pgsrm.util.distributed import ALONE, Processes, undivided
from pgsrm.util.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pgsrm.policy.fast.batch import Packing, PaddedBatch
    from pgsrm.policy.fast.forward import Prefill
    from pgsrm.policy.fast.policy import Child, Scores


class Learner:
    """A child with what its training carries from update to update: value head, optimisers, KL coefficient.

    `shuffle` draws the minibatches. The value head starts at zero, so the first advantages are the rewards. `processes`
    divide the rows of every gradient step among them.
    """

    def __init__(
        self,
        child: "Child",
        settings: PPOSettings,
        shuffle: "torch.Generator",
        processes: Processes = ALONE,
    ) -> None:
        import torch

        self.child, self.settings, self.shuffle, self.processes = child, settings, shuffle, processes
        self.value_head = torch.nn.Linear(child.width, 1, device=child.device)
        torch.nn.init.zeros_(self.value_head.weight)
        torch.nn.init.zeros_(self.value_head.bias)
        self.kl_coef = settings.kl_coef
        self.actor_optimizer = self._adamw(child.model, settings.actor_lr)
        self.critic_optimizer = self._adamw(self.value_head, settings.critic_lr)
        if settings.dropout:
            child.model.train()

    def _adamw(self, module: Any, lr: float) -> "torch.optim.AdamW":
        import torch

        settings = self.settings
        parameters = [
            parameter for parameter in module.parameters() if parameter.requires_grad
        ]  # adapters alone, if any
        return torch.optim.AdamW(
            parameters, lr=lr, eps=settings.adam_eps, weight_decay=settings.weight_decay, fused=True
        )

    def one_pass(self, rows: int) -> bool:
        """Whether an update on `rows` responses is one gradient step on one forward pass, whose probability ratio is 1."""
        s = self.settings
        share = rows // self.processes.count
        return s.epochs == 1 and s.minibatches == 1 and (s.micro_batch is None or s.micro_batch >= share)

    def reuses_prompts(self, rows: int) -> bool:
        """Whether sampling's pass over the prompts is also the update's: same weights, padding, and no dropout."""
        return self.one_pass(rows) and self.settings.padding == "left" and not self.settings.dropout

    def values(self, scores: "Scores") -> "Tensor":
        """V on detached hidden states: of the prompt or of the last response token (B,), or before each token (B, T) (D2).

        The last response token's hidden state is there only when `baseline` asks for it.
        """
        if self.settings.baseline == "token_values":
            return self.value_head(scores.states.float()).squeeze(-1)[scores.packing.place]
        hidden = scores.prompt_hidden if scores.value_hidden is None else scores.value_hidden
        return self.value_head(hidden.detach().float()).squeeze(-1)


@dataclass(frozen=True)
class _Targets:
    """What the losses pull towards, held constant."""

    advantages: "Tensor"  # (B, T)
    values: "Tensor"  # (B,), or (B, T) where the values are a token's


@dataclass(frozen=True)
class _Reference:
    """What the reference says, kept for all gradient steps."""

    logp: "Tensor"  # (C, V) log-probabilities of the rows that this process scores
    packing: "Packing"  # which contexts those follow
    place: "Tensor"  # (B,) the row's place among those


@dataclass(frozen=True)
class _Sampled:
    """What is fixed before the first gradient step. (B, T) unless said otherwise."""

    batch: "PaddedBatch"
    mask: "Tensor"  # tokens in the loss
    rewards: "Tensor"  # a response's own is at its last token
    reference: "_Reference | None"  # None: the whole batch's would be too large, each micro-batch makes its own
    read: "Prefill | None"  # the policy's pass over the prompts, if it is still good for the first gradient step
    # Of the policy that sampled; None: the only gradient step's own, whose ratio is 1
    old_logprobs: "Tensor | None" = None
    targets: "_Targets | None" = None
    kl: "float | None" = None  # what the controller goes by


def step(
    learner: Learner,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    rewards: Sequence[float] | Sequence[Sequence[float]],
    read: "Prefill | None" = None,
) -> dict[str, float]:
    """One update on B responses; returns its metrics (docs/metrics.md), among them `loss/policy` and `loss/value`.

    `prompts` and `responses` are token ids as sampled (EOS included where it was sampled, never added); `rewards` is one
    float a response or one a token. The learner's policy must still be the one that sampled the responses. `read` is the
    sampling's pass over the prompts with its graph, which saves a second one (`Learner.reuses_prompts`).

    Raises UserError where these do not fit together, and where the gradient is not finite.
    """
    import torch

    settings = learner.settings
    _check_batch(settings, prompts, responses, rewards)
    parts: list[Tensor] = []  # the rows of each gradient step
    for _ in range(settings.epochs):
        if settings.minibatches == 1:
            parts.append(torch.arange(len(prompts)))
        else:
            parts += torch.randperm(len(prompts), generator=learner.shuffle).tensor_split(settings.minibatches)
    read = read if learner.reuses_prompts(len(prompts)) else None
    sampled = _prepare(learner, prompts, responses, rewards, parts, read)
    before = _copy_weights(learner) if settings.kl_reference == "previous" else None
    metrics = [_gradient_step(learner, sampled, part.to(learner.child.device)) for part in parts]
    if before is not None:
        learner.child.set_reference(before)
    result = {name: sum(m[name] for m in metrics) / len(metrics) for name in metrics[0]}
    result["policy/kl_coef"] = learner.kl_coef
    own = result.pop("kl_measured")
    measured = own if sampled.kl is None else sampled.kl
    learner.kl_coef = next_coefficient(
        learner.kl_coef, measured, settings.kl_control, settings.kl_target, len(prompts), settings.kl_horizon
    )
    return result


def _check_batch(
    settings: PPOSettings,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    rewards: Sequence[float] | Sequence[Sequence[float]],
) -> None:
    """Raise UserError where tensors would be broadcast to a number that means nothing."""
    if not 0 < len(prompts) == len(responses) == len(rewards):
        counts = f"{len(prompts)} prompts, {len(responses)} responses, {len(rewards)} rewards"
        raise UserError(f"ppo.step: {counts}; give one of each a row")
    if len({isinstance(reward, Sequence) for reward in rewards}) > 1:
        raise UserError("ppo.step: some rewards are a response's and some a token's; give one kind")
    for row, (prompt, response, reward) in enumerate(zip(prompts, responses, rewards, strict=True)):
        if not len(prompt) or not len(response):
            raise UserError(f"ppo.step: row {row} has no token in its {'response' if len(prompt) else 'prompt'}")
        if isinstance(reward, Sequence) and len(reward) != len(response):
            raise UserError(
                f"ppo.step: row {row} has {len(reward)} rewards for {len(response)} tokens; give one a token"
            )
    if len(prompts) % settings.group_size:
        raise UserError(f"ppo.step: {len(prompts)} rows are no multiple of ppo.group_size={settings.group_size}")


def _copy_weights(learner: Learner) -> dict[str, "Tensor"]:
    return {name: tensor.detach().clone() for name, tensor in learner.child.model.state_dict().items()}


def _loss_mask(batch: "PaddedBatch", eos: int, train_eos: bool) -> "Tensor":
    """Response tokens in the loss: all up to the first EOS, which itself counts if `train_eos` (D3)."""
    mask = batch.response_mask
    return mask if train_eos else mask & (batch.response_ids != eos)


def _pad_rewards(
    rewards: Sequence[float] | Sequence[Sequence[float]], batch: "PaddedBatch", dtype: "torch.dtype"
) -> "Tensor":
    """(B,) or (B, T)."""
    import torch

    device = batch.response_ids.device
    if not isinstance(rewards[0], Sequence):
        return torch.tensor(rewards, dtype=dtype, device=device)
    padded = torch.zeros(batch.response_ids.shape, dtype=dtype)
    for row, values in enumerate(rewards):
        given = torch.as_tensor(values, dtype=dtype)
        padded[row, : len(given)] = given
    return padded.to(device)


def _prepare(
    learner: Learner,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    rewards: Sequence[float] | Sequence[Sequence[float]],
    parts: Sequence["Tensor"],
    read: "Prefill | None",
) -> _Sampled:
    import torch

    settings, child, processes = learner.settings, learner.child, learner.processes
    batch = child.pad(prompts, responses)
    mask = _loss_mask(batch, child.eos, settings.train_eos)
    given = _pad_rewards(rewards, batch, learner.value_head.weight.dtype)
    padded = token_rewards(given, batch.response_mask)  # an untrained EOS has its reward too
    share = processes.share(torch.arange(len(prompts)))
    reference = None
    if settings.micro_batch is None:
        reference = _keep_reference(child, batch, torch.cat([share, *map(processes.share, parts)]).unique())
    fixed = _Sampled(batch, mask, padded, reference, read)
    if learner.one_pass(len(prompts)):
        return fixed
    chunks = share.to(mask.device).split(settings.micro_batch or len(prompts))
    with torch.no_grad():
        scored = [_score(learner, fixed, rows) for rows in chunks]

    def joined(name: str) -> "Tensor":
        return processes.join(torch.cat([getattr(part, name) for part in scored]))

    targets = _targets(learner, fixed, joined("values"), joined("kl"))
    logprobs, difference = joined("logprobs"), joined("full") - joined("reference")
    kl = _kl_for_control(settings, difference, mask, mask.sum().clamp(min=1), len(batch)).item()
    return replace(fixed, old_logprobs=logprobs, targets=targets, kl=kl, read=None)


def _keep_reference(child: "Child", batch: "PaddedBatch", rows: "Tensor") -> _Reference:
    """Of the rows (n,) of the batch, in ascending order."""
    import torch

    rows = rows.to(batch.response_ids.device)
    place = torch.zeros_like(batch.pair).scatter(0, rows, torch.arange(len(rows), device=rows.device))
    logits, packing = child.score_reference(batch if len(rows) == len(batch) else batch.rows(rows))
    return _Reference(logits.log_softmax(-1), packing, place)


def _kl_for_control(
    settings: PPOSettings, difference: "Tensor", mask: "Tensor", tokens: "Tensor", responses: int
) -> "Tensor":
    """From log pi - log pi_ref of sampled tokens (n, T): the mean of `tokens` tokens, under `ziegler` of `responses` responses.

    Of the policy that sampled them: after a gradient step they are no longer draws from it.
    """
    return (difference * mask).sum() / (responses if settings.kl_control == "ziegler" else tokens)


def _targets(learner: Learner, sampled: _Sampled, values: "Tensor", kl: "Tensor") -> _Targets:
    """Advantages and value targets of the whole batch, from `values` (B,) or (B, T) and the KL of each token (B, T)."""
    settings, responses = learner.settings, sampled.batch.response_mask
    values, rewards = values.detach(), sampled.rewards
    if settings.kl_in == "reward":
        rewards = rewards - learner.kl_coef * kl.detach() * sampled.mask
    if settings.baseline == "token_values":
        advantages = generalized_advantages(rewards, values, responses, settings.gamma, settings.gae_lambda)
        targets, returns = advantages + values, rewards_to_go(rewards, responses, settings.gamma)
    else:
        returns = rewards_to_go(rewards, responses, settings.gamma)
        advantages, targets = returns - _baseline(settings, returns[:, 0], values).unsqueeze(-1), returns[:, 0]
    return _Targets(_scale(settings, advantages * sampled.mask, returns, sampled.mask), targets)


def _baseline(settings: PPOSettings, totals: "Tensor", values: "Tensor") -> "Tensor":
    """What is subtracted from a response's returns (B,): its value (B,), a mean of the totals (B,), or nothing."""
    if settings.baseline == "none":
        return totals * 0
    if settings.baseline == "batch_mean":
        return totals.mean().expand_as(totals)
    if settings.baseline in GROUP_BASELINES:
        return group_baseline(totals, settings.group_size, settings.baseline == "leave_one_out")
    return values


def _scale(settings: PPOSettings, advantages: "Tensor", returns: "Tensor", mask: "Tensor") -> "Tensor":
    """Advantages (B, T) by their group's spread, or whitened over the batch, or as they are."""
    totals = returns[:, 0]
    if settings.scale_by_group:
        advantages = advantages / group_deviation(totals, settings.group_size).unsqueeze(-1)
    if not settings.whiten_advantages:
        return advantages
    if len(totals) > 1 and bool(((returns == totals[0]) | ~mask).all()):
        return advantages * 0  # equal rewards carry no signal: whitening would blow up the baseline's noise
    return whiten(advantages, mask)


@dataclass(frozen=True)
class _TokenScores:
    """The policy's view of the response tokens, (B, T) each with gradient, and of their responses."""

    logprobs: "Tensor"  # under the distribution that `scored_distribution` names
    full: "Tensor"  # under the whole softmax, as the reference's: what the KL is measured on
    reference: "Tensor"  # the reference's log-probabilities of the same tokens; without gradient
    entropy: "Tensor"
    kl: "Tensor"  # by `kl_estimator`
    values: "Tensor"  # (B,), or (B, T) where the values are a token's


def _score(learner: Learner, sampled: _Sampled, rows: "Tensor") -> _TokenScores:
    """Score the responses `rows` of the batch."""
    from pgsrm.ppo.statistics import token_statistics

    settings, whole = learner.settings, len(rows) == len(sampled.batch)
    batch = sampled.batch if whole else sampled.batch.rows(rows)
    scores = learner.child.score(batch, _value_place(learner, batch), sampled.read)
    packing = scores.packing
    kept = sampled.reference
    if kept is None:
        reference = learner.child.score_reference(batch)[0].log_softmax(-1)
    else:
        reference = kept.logp if whole else kept.logp[kept.packing.of_rows(kept.place[rows], packing)]
    place, tokens, padding = packing.place, batch.response_ids, ~batch.response_mask
    full, entropy, exact = token_statistics(scores.logits, place, tokens, reference)
    # what no one sampled may be so improbable that an estimator of it is infinite
    full, reference = full.masked_fill(padding, 0), reference[place, tokens].masked_fill(padding, 0)
    logprobs = full
    if settings.scored_distribution == "sampled" and (settings.temperature != 1 or settings.top_k):
        logprobs = _logprobs_as_drawn(settings, scores, batch)
    kl = exact[place] if settings.kl_estimator == "exact" else kl_divergence(settings.kl_estimator, full, reference)
    return _TokenScores(logprobs, full, reference, entropy[place], kl, learner.values(scores))


def _logprobs_as_drawn(settings: PPOSettings, scores: "Scores", batch: "PaddedBatch") -> "Tensor":
    """Of each token (B, T), under the distribution that sampling draws from; 0 at padding."""
    from pgsrm.policy.fast.gradients import take_rows
    from pgsrm.policy.fast.policy import truncate

    mask, tokens = batch.response_mask, batch.response_ids[batch.response_mask]
    logits = take_rows(scores.logits, scores.packing.place[mask])
    found = token_logprobs(truncate(logits, settings.temperature, settings.top_k, tokens), tokens)
    return found.new_zeros(mask.shape).masked_scatter(mask, found)


def _value_place(learner: Learner, batch: "PaddedBatch") -> "Tensor | None":
    """How many response tokens (B,) the value head sees: up to the last one in the loss mask, or None for none (D2)."""
    if learner.settings.baseline != "response_value":
        return None
    return _loss_mask(batch, learner.child.eos, learner.settings.train_eos).long().sum(-1)


def _check_finite(learner: Learner, totals: "dict[str, Tensor]") -> None:
    """Raise UserError before a gradient that is not finite reaches the weights, which would answer nothing ever after."""
    import torch

    if not bool(torch.isfinite(totals["grad/actor_norm"] + totals["grad/critic_norm"])):
        said = {"policy/kl_coef": learner.kl_coef, "loss/actor": totals["loss/actor"].item()}
        numbers = ", ".join(f"{name} {value:.3g}" for name, value in said.items())
        raise UserError(
            f"ppo: the gradient is not finite ({numbers}); lower ppo.actor_lr or ppo.kl_coef, "
            "or set ppo.kl_control=fixed (the paper's controller has no bounds, docs/fidelity.md, D13)"
        )


def _gradient_step(learner: Learner, sampled: _Sampled, rows: "Tensor") -> dict[str, float]:
    """One step of both optimisers on `rows` of the batch, each process on its share; returns the step's metrics."""
    import torch

    settings, child, processes = learner.settings, learner.child, learner.processes
    count = sampled.mask[rows].sum().clamp(min=1)
    totals: dict[str, Tensor] = {}

    def add(name: str, value: "Tensor", combine: Callable[["Tensor", "Tensor"], "Tensor"] = torch.add) -> None:
        value = value.detach()
        totals[name] = combine(totals[name], value) if name in totals else value

    learner.actor_optimizer.zero_grad(set_to_none=True)
    learner.critic_optimizer.zero_grad(set_to_none=True)
    for micro in processes.share(rows).split(settings.micro_batch or len(rows)):
        mask, scores = sampled.mask[micro], _score(learner, sampled, micro)
        logprobs, values = scores.logprobs, scores.values
        old = logprobs.detach() if sampled.old_logprobs is None else sampled.old_logprobs[micro]
        # without targets made before, the micro-batches of all processes are the whole batch (`Learner.one_pass`)
        targets = sampled.targets or _targets(learner, sampled, processes.join(values), processes.join(scores.kl))
        advantages, aims = targets.advantages[micro], targets.values[micro]

        policy = policy_loss(logprobs, old, advantages, mask, settings.clip_range, count)
        entropy = masked_mean(scores.entropy, mask, count)
        kl = masked_mean(scores.kl, mask, count)
        actor = policy - settings.entropy_coef * entropy
        if settings.kl_in == "loss":
            actor = actor + learner.kl_coef * kl
        actor.backward()
        by_token = values.dim() == 2
        value = value_loss(values, aims, mask, count) if by_token else value_loss(values, aims, count=len(rows))
        (settings.value_coef * value).backward()

        difference = scores.full.detach() - scores.reference
        add("loss/policy", policy)
        add("loss/kl", kl)
        add("loss/actor", actor)
        add("loss/value", value)
        add("policy/entropy", entropy)
        add("policy/kl", masked_mean(difference, mask, count))
        add("kl_measured", _kl_for_control(settings, difference, mask, count, len(rows)))
        add("value/mean", masked_mean(values, mask, count) if by_token else values.sum() / len(rows))
        add("advantage/mean", masked_mean(advantages, mask, count))
        add("advantage/square", masked_mean(advantages.square(), mask, count))
        ratio = (logprobs.detach() - old).exp()
        add("policy/ratio_max", (ratio * mask).max(), torch.maximum)
        if settings.clip_range is not None:
            add("policy/clip_fraction", masked_mean(((ratio - 1).abs() > settings.clip_range).float(), mask, count))
        add("policy/kl_previous", masked_mean(old - logprobs.detach(), mask, count))
    totals = processes.combine(totals, largest="policy/ratio_max")
    for part, module in (("actor", child.model), ("critic", learner.value_head)):
        processes.add_gradients(module.parameters())
        norm = torch.nn.utils.clip_grad_norm_(module.parameters(), settings.max_grad_norm)
        totals[f"grad/{part}_norm"] = norm if processes.count == 1 else undivided(norm)
    _check_finite(learner, totals)
    learner.actor_optimizer.step()
    learner.critic_optimizer.step()
    child.weights_changed()
    names = list(totals)
    metrics = dict(zip(names, torch.stack([totals[n].float() for n in names]).tolist(), strict=True))
    square = metrics.pop("advantage/square") - metrics["advantage/mean"] ** 2
    metrics["advantage/std"] = max(0.0, square) ** 0.5
    return metrics
