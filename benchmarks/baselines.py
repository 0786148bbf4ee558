"""The update as one writes it with transformers and torch alone: `generate`, full forward passes, the same losses."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pgsrm.ppo import PPOSettings


class TransformersLearner:
    """A policy, its frozen reference and a value head on the prompt's last hidden state (ppo=sound).

    `rows` prompts go through `generate`, and with their responses through the forward passes, at once: all of the batch, or
    one as the notebooks released with the paper do. There is one backward pass and one optimiser step per batch either way.
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
        """One update; returns `loss/policy`, `loss/value`, `loss/kl` and `policy/entropy`."""
        settings = self.settings
        parts = []
        for start in range(0, len(prompts), self.rows):
            rows = slice(start, start + self.rows)
            parts.append(self._score(prompts[rows], responses[rows]))
        logprobs, entropy, kl, hidden = (torch.cat(pieces) for pieces in zip(*parts, strict=True))

        returns = torch.tensor(rewards, device=self.device)
        values = self.value_head(hidden.detach()).squeeze(-1)
        lengths = torch.tensor([len(response) for response in responses], device=self.device)
        advantages = (returns - values.detach()).repeat_interleave(lengths)

        policy_loss = -(logprobs * advantages).mean()
        value_loss = (values - returns).square().mean()
        loss = policy_loss - settings.entropy_coef * entropy.mean() + settings.kl_coef * kl.mean()
        loss = loss + settings.value_coef * value_loss

        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.max_grad_norm)
        torch.nn.utils.clip_grad_norm_(self.value_head.parameters(), settings.max_grad_norm)
        self.optimizer.step()
        return {
            "loss/policy": policy_loss.item(),
            "loss/value": value_loss.item(),
            "loss/kl": kl.mean().item(),
            "policy/entropy": entropy.mean().item(),
        }

    def _score(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log-probability, entropy and exact KL (N,) of the response tokens, row after row; prompts' last states (B, D)."""
        prompt_ids, prompt_mask = self._pad(prompts, "left")
        response_ids, response_mask = self._pad(responses, "right")
        ids = torch.cat([prompt_ids, response_ids], 1)
        mask = torch.cat([prompt_mask, response_mask], 1)
        first = prompt_ids.shape[1] - 1  # the position that predicts the first response token
        hidden, logits = self._forward(self.model, ids, mask)
        with torch.no_grad():
            _, reference_logits = self._forward(self.reference, ids, mask)
        kept = response_mask.bool()
        logp = logits[:, first:-1][kept].float().log_softmax(-1)  # (N, V)
        reference = reference_logits[:, first:-1][kept].float().log_softmax(-1)
        logprobs = logp.gather(-1, response_ids[kept].unsqueeze(-1)).squeeze(-1)
        probabilities = logp.exp()
        entropy = -(probabilities * logp).sum(-1)
        kl = (probabilities * (logp - reference)).sum(-1)
        return logprobs, entropy, kl, hidden[:, first].float()

    def _forward(self, model: Any, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states (B, L, D) of the last layer and all logits (B, L, V)."""
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        with self._autocast():
            out = model.base_model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
            return out.last_hidden_state, model.get_output_embeddings()(out.last_hidden_state)

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)

    def _pad(self, rows: Sequence[Sequence[int]], side: str) -> tuple[Tensor, Tensor]:
        """Token ids and mask (B, L), both long."""
        width = max(len(row) for row in rows)
        ids, mask = [], []
        for row in rows:
            padding = width - len(row)
            left, right = (padding, 0) if side == "left" else (0, padding)
            ids.append([self.eos] * left + list(row) + [self.eos] * right)
            mask.append([0] * left + [1] * len(row) + [0] * right)
        return torch.tensor(ids, device=self.device), torch.tensor(mask, device=self.device)

    def _cut(self, response: list[int]) -> list[int]:
        return response[: response.index(self.eos) + 1] if self.eos in response else response
