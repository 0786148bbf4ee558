"""The update as one writes it with transformers and torch alone: `generate`, full forward passes, the same losses."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pgsrm.ppo import PPOSettings
from pgsrm.ppo.advantages import advantages_and_targets, token_rewards
from pgsrm.ppo.losses import kl_divergence, masked_mean, policy_loss, value_loss


class TransformersLearner:
    """A policy, its frozen reference and a value head (ppo=sound, ppo=per_token: one minibatch, a fixed KL coefficient).

    `rows` prompts go through `generate`, and with their responses through the forward passes, at once: all of the batch, or
    one as the notebooks released with the paper do. There is one backward pass and one optimiser step per epoch either way.
    """

    def __init__(
        self, model: Any, reference: Any, settings: PPOSettings, eos: int, rows: int, bfloat16: bool = False
    ) -> None:
        self.model, self.reference = model.eval(), reference.eval().requires_grad_(False)
        self.settings, self.eos, self.rows, self.bfloat16 = settings, eos, rows, bfloat16
        self.device: torch.device = next(model.parameters()).device
        self.value_head = torch.nn.Linear(model.get_input_embeddings().embedding_dim, 1, device=self.device)
        torch.nn.init.zeros_(self.value_head.weight)
        torch.nn.init.zeros_(self.value_head.bias)
        groups = [
            {"params": list(model.parameters()), "lr": settings.actor_lr},
            {"params": list(self.value_head.parameters()), "lr": settings.critic_lr},
        ]
        self.optimizer = torch.optim.AdamW(groups, eps=settings.adam_eps, weight_decay=settings.weight_decay)

    @torch.no_grad()
    def sample(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
        """One sampled response a prompt, as token ids up to and including EOS."""
        responses: list[list[int]] = []
        for start in range(0, len(prompts), self.rows):
            ids, mask = self._pad(prompts[start : start + self.rows], "left")
            with self._autocast():
                out = self.model.generate(
                    ids,
                    attention_mask=mask,
                    do_sample=True,
                    temperature=1.0,
                    top_k=0,
                    top_p=1.0,
                    max_new_tokens=new_tokens,
                    pad_token_id=self.eos,
                )
            responses += [self._cut(row) for row in out[:, ids.shape[1] :].tolist()]
        return responses

    def learn(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], rewards: Sequence[float]
    ) -> dict[str, float]:
        """One update; returns `loss/policy`, `loss/value`, `loss/kl` and `policy/entropy`, means over its gradient steps."""
        settings, step_count = self.settings, self.settings.epochs
        lengths = torch.tensor([len(response) for response in responses], device=self.device)
        mask = torch.arange(int(lengths.max()), device=self.device) < lengths.unsqueeze(-1)  # (B, T)
        earned = torch.tensor(rewards, device=self.device)
        with torch.set_grad_enabled(step_count == 1):
            scored = self._score(prompts, responses)
        fixed = tuple(tensor.detach() for tensor in scored)
        old, _, kl, values = fixed
        advantages, targets = advantages_and_targets(
            settings, token_rewards(earned, mask), values, kl, settings.kl_coef, mask, mask
        )
        steps = []
        for _ in range(step_count):
            logprobs, entropy, kl, values = scored if step_count == 1 else self._score(prompts, responses)
            losses = {
                "loss/policy": policy_loss(logprobs, old, advantages, mask, settings.clip_range),
                "loss/value": value_loss(values, targets, mask if values.dim() == 2 else None),
                "loss/kl": masked_mean(kl, mask),
                "policy/entropy": masked_mean(entropy, mask),
            }
            self._step(losses)
            steps.append({name: loss.item() for name, loss in losses.items()})
        return {name: sum(step[name] for step in steps) / len(steps) for name in steps[0]}

    def _step(self, losses: dict[str, Tensor]) -> None:
        settings = self.settings
        loss = losses["loss/policy"] - settings.entropy_coef * losses["policy/entropy"]
        if settings.kl_in == "loss":
            loss = loss + settings.kl_coef * losses["loss/kl"]
        self.optimizer.zero_grad(set_to_none=True)
        (loss + settings.value_coef * losses["loss/value"]).backward()
        limit = math.inf if settings.max_grad_norm is None else settings.max_grad_norm
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        torch.nn.utils.clip_grad_norm_(self.value_head.parameters(), limit)
        self.optimizer.step()

    def _score(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log-probability, entropy and KL (B, T) of the response tokens; values (B, T), or (B,) of the prompts."""
        length = max(map(len, responses))
        parts = [
            self._score_rows(prompts[start : start + self.rows], responses[start : start + self.rows], length)
            for start in range(0, len(prompts), self.rows)
        ]
        logprobs, entropy, kl, values = (torch.cat(pieces) for pieces in zip(*parts, strict=True))
        return logprobs, entropy, kl, values

    def _score_rows(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], length: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`_score` of the rows of one forward pass, with `length` T."""
        prompt_ids, prompt_mask = self._pad(prompts, "left")
        response_ids, response_mask = self._pad(responses, "right", length)
        ids = torch.cat([prompt_ids, response_ids], 1)
        mask = torch.cat([prompt_mask, response_mask], 1)
        first = prompt_ids.shape[1] - 1  # the position that predicts the first response token
        hidden, logits = self._forward(self.model, ids, mask)
        with torch.no_grad():
            _, reference_logits = self._forward(self.reference, ids, mask)
        logp = logits[:, first:-1].float().log_softmax(-1)  # (n, T, V)
        reference = reference_logits[:, first:-1].float().log_softmax(-1)
        place = response_ids.unsqueeze(-1)
        logprobs, reference_logprobs = (each.gather(-1, place).squeeze(-1) for each in (logp, reference))
        probabilities = logp.exp()
        entropy = -(probabilities * logp).sum(-1)
        if self.settings.kl_estimator == "exact":
            kl = (probabilities * (logp - reference)).sum(-1)
        else:
            kl = kl_divergence(self.settings.kl_estimator, logprobs, reference_logprobs)
        states = hidden[:, first:-1].detach().float()
        of_tokens = self.settings.baseline == "token_values"
        values = self.value_head(states if of_tokens else states[:, 0]).squeeze(-1)
        return logprobs, entropy, kl, values

    def _forward(self, model: Any, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states (B, L, D) of the last layer and all logits (B, L, V)."""
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        with self._autocast():
            out = model.base_model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
            return out.last_hidden_state, model.get_output_embeddings()(out.last_hidden_state)

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)

    def _pad(self, rows: Sequence[Sequence[int]], side: str, width: int | None = None) -> tuple[Tensor, Tensor]:
        """Token ids and mask (B, L), both long; `width` L, default the longest row's."""
        width = width or max(map(len, rows))
        ids, mask = [], []
        for row in rows:
            padding = width - len(row)
            left, right = (padding, 0) if side == "left" else (0, padding)
            ids.append([self.eos] * left + list(row) + [self.eos] * right)
            mask.append([0] * left + [1] * len(row) + [0] * right)
        return torch.tensor(ids, device=self.device), torch.tensor(mask, device=self.device)

    def _cut(self, response: list[int]) -> list[int]:
        return response[: response.index(self.eos) + 1] if self.eos in response else response
