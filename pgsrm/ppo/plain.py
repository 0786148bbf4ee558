"""The definition that `pgsrm.ppo.step` is tested against: one PPO update without any of what makes that one fast.

One response at a time through the library's own forward pass, all logits of it: no padding and so no masks, no cache, no
shared prefix, nothing computed once for equal rows; gradients of the whole loss in one `autograd.grad`; AdamW written out.
Slow, and meant to be read beside PGSRM's Algorithm 1 and Schulman et al. 2017. Not built: dropout.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pgsrm.ppo.kl_control import next_coefficient
from pgsrm.ppo.settings import PPOSettings


@dataclass(frozen=True)
class Look:
    """What the model says about one response of T tokens."""

    logits: Tensor  # (T, V) of the distributions that predict its tokens
    states: Tensor  # (T + 1, D) last layer from the prompt's last token on
    logprobs: Tensor  # (T,) of its tokens under the distribution that they are evaluated under (docs/fidelity.md, D9)
    values: Tensor  # (T,) V before each token; all the same where a response has one


class PlainLearner:
    """A policy, its reference (a copy), a linear value head that starts at zero, and AdamW for both."""

    def __init__(self, model: Any, eos: tuple[int, ...], settings: PPOSettings) -> None:
        self.settings, self.eos = settings, eos
        self.policy, self.reference = copy.deepcopy(model).eval(), copy.deepcopy(model).eval()
        some = model.get_input_embeddings().weight
        self.weight = torch.zeros(some.shape[1], dtype=some.dtype, device=some.device, requires_grad=True)
        self.bias = torch.zeros(1, dtype=some.dtype, device=some.device, requires_grad=True)
        self.kl_coef = settings.kl_coef
        self.steps = 0
        self.gradients: Sequence[Tensor] = ()  # of the last gradient step's actor loss, before clipping
        self.moments: dict[int, tuple[Tensor, Tensor]] = {}

    def step(
        self,
        prompts: Sequence[list[int]],
        responses: Sequence[list[int]],
        rewards: Sequence[Sequence[float]],
        parts: Sequence[Sequence[int]] | None = None,
    ) -> dict[str, float]:
        """One update; `parts` are the rows of each gradient step (default: one step on all rows). Returns its metrics."""
        settings = self.settings
        before = {name: tensor.clone() for name, tensor in self.policy.state_dict().items()}
        width = max(map(len, prompts)) if settings.padding == "right" else None
        batch = [(prompt, response, width) for prompt, response in zip(prompts, responses, strict=True)]
        with torch.no_grad():
            old = [self.look(self.policy, *row) for row in batch]
            references = [self.look(self.reference, *row) for row in batch]
        kl = [self.kl(*look_and_response) for look_and_response in zip(old, references, responses, strict=True)]
        measured = self.kl_for_control(old, references, responses)
        advantages, targets = self.targets(
            responses, rewards, [o.values.tolist() for o in old], [k.tolist() for k in kl]
        )
        logged = []
        for part in parts or [range(len(batch))]:
            rows = [(batch[i], old[i], advantages[i], targets[i]) for i in part]
            logged.append(self.gradient_step(rows))
        if settings.kl_reference == "previous":
            self.reference.load_state_dict(before)
        result = {name: sum(line[name] for line in logged) / len(logged) for name in logged[0]}
        result["policy/kl_coef"] = self.kl_coef
        self.kl_coef = next_coefficient(
            self.kl_coef, measured, settings.kl_control, settings.kl_target, len(batch), settings.kl_horizon
        )
        return result

    def look(self, model: Any, prompt: list[int], response: list[int], width: int | None) -> Look:
        """Log-probabilities and values of one response.

        `width`: with right padding (docs/fidelity.md, D4) the longest prompt's length, else None.
        """
        ids, start, extra = [*prompt, *response], len(prompt), {}
        device = self.weight.device
        if width:  # prompt, pads, response; positions count the pads
            pads = width - start
            mask = [1] * start + [0] * pads + [1] * len(response)
            ids, start = [*prompt, *[self.eos[0]] * pads, *response], width
            positions = torch.arange(len(ids), device=device)[None]
            extra = {"attention_mask": torch.tensor([mask], device=device), "position_ids": positions}
        out = model(torch.tensor([ids], device=device), output_hidden_states=True, use_cache=False, **extra)
        logits, states = out.logits[0, start - 1 : -1], out.hidden_states[-1][0, start - 1 :]
        return Look(logits, states, self.logprobs(logits, response), self.values(states.detach(), response))

    def logprobs(self, logits: Tensor, response: list[int]) -> Tensor:
        """Log-probabilities (T,) of the response's tokens; `sampled`: under temperature, top-k (docs/fidelity.md, D9)."""
        s, logp = self.settings, []
        for row, token in zip(logits, response, strict=True):
            if s.scored_distribution == "sampled":
                row = row / s.temperature
                if s.top_k:  # and the token itself, should it be outside
                    kept = {*row.argsort(descending=True)[: s.top_k].tolist(), token}
                    row = torch.where(
                        torch.tensor([v in kept for v in range(len(row))], device=row.device), row, -math.inf
                    )
            logp.append(row.log_softmax(-1)[token])
        return torch.stack(logp)

    def values(self, states: Tensor, response: list[int]) -> Tensor:
        """V (T,): before each token, of the prompt, or of the last token in the loss (docs/fidelity.md, D2)."""
        if self.settings.baseline == "token_values":
            return states[:-1] @ self.weight + self.bias
        place = sum(self.in_loss(response)) if self.settings.baseline == "response_value" else 0
        return (states[place] @ self.weight + self.bias).expand(len(response))

    def in_loss(self, response: list[int]) -> list[bool]:
        """Which tokens are in the loss: all, or all but EOS (docs/fidelity.md, D3)."""
        return [token not in self.eos or self.settings.train_eos for token in response]

    def kl(self, look: Look, reference: Look, response: list[int]) -> Tensor:
        """KL (T,) of policy and reference by `kl_estimator` (Schulman 2020; docs/fidelity.md, D14)."""
        full, ref = look.logits.log_softmax(-1), reference.logits.log_softmax(-1)
        if self.settings.kl_estimator == "exact":
            return (full.exp() * (full - ref)).sum(-1)
        d = full[range(len(response)), response] - ref[range(len(response)), response]
        return {"k1": d, "k2": d**2 / 2, "k3": (-d).exp() - 1 + d}[self.settings.kl_estimator]

    def kl_for_control(self, old: Sequence[Look], references: Sequence[Look], responses: Sequence[list[int]]) -> float:
        """k1 of the policy that sampled: mean per token in the loss (docs/fidelity.md, D13) or per response (Ziegler)."""
        sums, count = [], 0
        for look, reference, response in zip(old, references, responses, strict=True):
            full, ref = look.logits.log_softmax(-1), reference.logits.log_softmax(-1)
            inside = [t for t, counts in enumerate(self.in_loss(response)) if counts]
            sums.append(sum((full[t, response[t]] - ref[t, response[t]]).item() for t in inside))
            count += len(inside)
        return sum(sums) / (len(sums) if self.settings.kl_control == "ziegler" else max(1, count))

    def targets(
        self,
        responses: Sequence[list[int]],
        rewards: Sequence[Sequence[float]],
        values: Sequence[Sequence[float]],
        kl: Sequence[Sequence[float]],
    ) -> tuple[list[list[float | None]], list[list[float]]]:
        """Advantages, None for a token that is not in the loss, and what the values should have been; one list per response."""
        s = self.settings
        inside = [self.in_loss(response) for response in responses]
        if s.kl_in == "reward":
            rewards = [
                [r - self.kl_coef * k * counts for r, k, counts in zip(*row, strict=True)]
                for row in zip(rewards, kl, inside, strict=True)
            ]
        returns = [[sum(s.gamma**k * r for k, r in enumerate(row[t:])) for t in range(len(row))] for row in rewards]
        if s.baseline == "token_values":
            raw = [self.gae(r, v) for r, v in zip(rewards, values, strict=True)]
            targets = [[a + v for a, v in zip(*row, strict=True)] for row in zip(raw, values, strict=True)]
        else:
            base = self.baselines([row[0] for row in returns], [row[0] for row in values])
            raw = [[g - b for g in row] for row, b in zip(returns, base, strict=True)]
            targets = [[row[0]] * len(row) for row in returns]
        if s.scale_by_group:
            totals = [row[0] for row in returns]
            raw = [[a / (_deviation(_group(totals, i, s.group_size)) + 1e-4) for a in row] for i, row in enumerate(raw)]
        table = [
            [a if counts else None for a, counts in zip(*row, strict=True)] for row in zip(raw, inside, strict=True)
        ]
        if s.whiten_advantages and len(table) > 1:  # one response has nothing to be compared with
            heard = [g for row in zip(returns, inside, strict=True) for g, counts in zip(*row, strict=True) if counts]
            if all(g == returns[0][0] for g in heard):  # no signal: whitening would blow up the baseline's noise
                return [[None if a is None else 0.0 for a in row] for row in table], targets
            table = _whiten(table)
        return table, targets

    def gae(self, rewards: Sequence[float], values: Sequence[float]) -> list[float]:
        """Generalised advantage estimation of one response, as the sum that it is (Schulman et al. 2016, eq. 16)."""
        s, following = self.settings, [*values[1:], 0.0]
        deltas = [r + s.gamma * after - v for r, v, after in zip(rewards, values, following, strict=True)]
        return [sum((s.gamma * s.gae_lambda) ** k * d for k, d in enumerate(deltas[t:])) for t in range(len(deltas))]

    def baselines(self, totals: list[float], values: list[float]) -> list[float]:
        """What is subtracted from each response's returns."""
        s = self.settings
        if s.baseline == "batch_mean":
            return [sum(totals) / len(totals)] * len(totals)
        if s.baseline in ("group_mean", "leave_one_out"):
            own = [0.0 if s.baseline == "group_mean" else total for total in totals]
            count = s.group_size - (s.baseline == "leave_one_out")
            return [(sum(_group(totals, i, s.group_size)) - own[i]) / count for i in range(len(totals))]
        return [0.0] * len(totals) if s.baseline == "none" else values

    def gradient_step(
        self, rows: Sequence[tuple[tuple[list[int], list[int], int | None], Look, list[float | None], list[float]]]
    ) -> dict[str, float]:
        """One step of both optimisers; a row is what `look` takes, the old policy's look, advantages, value targets."""
        s = self.settings
        policy, entropy, kl, difference, square, ratios = [], [], [], [], [], []
        for row, before, advantage, target in rows:
            look, response = self.look(self.policy, *row), row[1]
            with torch.no_grad():
                reference = self.look(self.reference, *row)
            full, ref = look.logits.log_softmax(-1), reference.logits.log_softmax(-1)
            kls = self.kl(look, reference, response)
            if s.baseline != "token_values":
                square.append(self.value_error(look.values[0], before.values[0], target[0]))
            for t, token in enumerate(response):
                a = advantage[t]
                if a is None:
                    continue
                policy.append(self.surrogate(look.logprobs[t], before.logprobs[t], a))
                ratios.append((look.logprobs[t] - before.logprobs[t]).exp().item())
                entropy.append(-(full[t].exp() * full[t]).sum())
                kl.append(kls[t])
                difference.append(full[t, token] - ref[t, token])
                if s.baseline == "token_values":
                    square.append(self.value_error(look.values[t], before.values[t], target[t]))
        # the mean of no tokens is 0: EOS alone, where it isn't trained
        terms = {"policy": policy, "entropy": entropy, "kl": kl, "difference": difference}
        means = {name: sum(parts, start=0 * look.logits.sum()) / max(1, len(parts)) for name, parts in terms.items()}
        value = sum(square, start=0 * look.values.sum()) / max(1, len(square))
        loss = means["policy"] - s.entropy_coef * means["entropy"]
        if s.kl_in == "loss":
            loss = loss + self.kl_coef * means["kl"]
        actor, critic = [p for p in self.policy.parameters() if p.requires_grad], [self.weight, self.bias]
        self.gradients = torch.autograd.grad(loss, actor)
        value_gradients = torch.autograd.grad(s.value_coef * value, critic)
        skipped = s.ratio_limit is not None and sum(ratios) / max(1, len(ratios)) > s.ratio_limit
        self.steps += not skipped
        return {
            "loss/policy": means["policy"].item(),
            "loss/kl": means["kl"].item(),
            "loss/actor": loss.item(),
            "loss/value": value.item(),
            "policy/entropy": means["entropy"].item(),
            "policy/kl": means["difference"].item(),
            "grad/actor_norm": self.adamw(actor, self.gradients, s.actor_lr, skipped),
            "grad/critic_norm": self.adamw(critic, value_gradients, s.critic_lr, skipped),
        }

    def surrogate(self, logprob: Tensor, old: Tensor, advantage: float) -> Tensor:
        """-log pi A (Algorithm 1, line 11), or the clipped surrogate (Schulman et al. 2017, eq. 7)."""
        clip = self.settings.clip_range
        if clip is None:
            return -logprob * advantage
        ratio = (logprob - old).exp()
        return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)

    def value_error(self, value: Tensor, old: Tensor, target: float) -> Tensor:
        """Squared error, or the larger of those of the value and of the value within `value_clip` of the old one."""
        clip = self.settings.value_clip
        if clip is None:
            return (value - target) ** 2
        near = old + (value - old).clamp(-clip, clip)
        return torch.maximum((value - target) ** 2, (near - target) ** 2)

    def adamw(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor], lr: float, skipped: bool) -> float:
        """Clip to the norm, then AdamW (Loshchilov and Hutter 2019, algorithm 2), unless the step is to be skipped.

        Returns the norm before clipping.
        """
        s, (b1, b2) = self.settings, (0.9, 0.999)
        norm = math.sqrt(sum(g.square().sum().item() for g in gradients))
        if skipped:
            return norm
        shrink = 1.0 if s.max_grad_norm is None else min(1.0, s.max_grad_norm / (norm + 1e-6))
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                g = gradient * shrink
                m, v = self.moments.get(id(parameter), (torch.zeros_like(g), torch.zeros_like(g)))
                m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
                self.moments[id(parameter)] = m, v
                parameter *= 1 - lr * s.weight_decay
                root = (v / (1 - b2**self.steps)).sqrt() + s.adam_eps
                parameter -= lr * (m / (1 - b1**self.steps)) / root
        return norm


def _group(totals: Sequence[float], row: int, size: int) -> Sequence[float]:
    """The totals of the group that a row is in: `size` rows that follow one another."""
    first = row // size * size
    return totals[first : first + size]


def _deviation(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))


def _whiten(table: list[list[float | None]]) -> list[list[float | None]]:
    """Zero mean and unit variance (biased, eps 1e-8) over all tokens that are in the loss."""
    flat = [a for row in table for a in row if a is not None]
    mean = sum(flat) / len(flat)
    root = math.sqrt(sum((a - mean) ** 2 for a in flat) / len(flat) + 1e-8)
    return [[None if a is None else (a - mean) / root for a in row] for row in table]
