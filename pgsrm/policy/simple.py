"""The policy as it reads in one sitting: a whole forward pass for every sampled token, one for every scoring.

It asks nothing of a model but that it is causal: no cache of keys and values, no masks, no positions. ALiBi, sliding windows,
and models whose state is no cache (Mamba) run on it as GPT-2 does. `pgsrm.policy.fast` gives the same numbers sooner.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from pgsrm.policy.base import BasePolicy
from pgsrm.policy.batch import Contexts, PaddedBatch, Side, pad_rows
from pgsrm.policy.checkpointing import checkpointable_layers, checkpointing
from pgsrm.policy.protocol import Sampled, Scores
from pgsrm.policy.refusal import refusing
from pgsrm.policy.sampling import Sampling, cut, draw, is_end, truncate
from pgsrm.util.distributed import ALONE, Processes
from pgsrm.util.errors import UserError


class SimplePolicy(BasePolicy):
    """`Policy` by whole forward passes. Shapes: B rows, P prompt tokens, T response tokens, V vocabulary, W width."""

    def __init__(
        self,
        model: Any,
        reference: Any | None,
        eos: Sequence[int],
        padding: Side = "left",
        bfloat16: bool = False,
        gradient_checkpointing: bool = False,
        sharded_with: Processes | None = None,
    ) -> None:
        """`sharded_with`: processes that the weights are divided among, which make all forward passes together."""
        super().__init__(model, reference, eos, padding)
        self._bfloat16, self._sharded_with = bfloat16, sharded_with or ALONE
        # Whether the last pass showed what the output layer takes, so that the next need not keep every layer's output beside it.
        self._caught = False
        self._checkpointed = checkpointable_layers(model) if gradient_checkpointing else []
        plain = model.get_base_model() if hasattr(model, "get_base_model") else model  # without its adapters
        self._takes_positions = "position_ids" in signature(plain.forward).parameters

    def pad(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> PaddedBatch:
        """Rectangles of token ids from ragged prompts and responses (each at least one token)."""
        return PaddedBatch(
            *pad_rows(prompts, self.eos[0], "right", self.device),
            *pad_rows(responses, self.eos[0], "right", self.device),
        )

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        uniforms: Tensor,
        how: Sampling,
        with_graph: bool = False,
        share: Tensor | None = None,
    ) -> Sampled:
        """One response per prompt: tokens by inversion of the distribution function at `uniforms` (B, max_new_tokens)."""
        if share is not None:
            prompts, uniforms = [prompts[row] for row in share.tolist()], uniforms[share]
        pad, uniforms = self.eos[0], uniforms.to(self.device)
        prompt_ids, prompt_mask = pad_rows(prompts, pad, "right", self.device)
        ids = torch.cat([prompt_ids, prompt_ids.new_full((len(prompts), how.max_new_tokens), pad)], dim=1)
        end = prompt_mask.sum(1)  # (B,) where each row's next token goes
        rows = torch.arange(len(prompts), device=self.device)
        live = torch.ones_like(rows, dtype=torch.bool)
        tokens, logprobs = [], []
        for step in range(how.max_new_tokens):
            with torch.no_grad():
                out = self._forward(self.model, ids[:, : prompt_ids.shape[1] + step])
            logits = out.logits[rows, end - 1].float()  # (B, V)
            token, logprob = draw(truncate(logits, how.temperature, how.top_k), uniforms[:, step])
            tokens.append(token.where(live, pad))
            logprobs.append(logprob.where(live, 0.0))
            ids[rows, end] = tokens[-1]
            end, live = end + 1, live & ~is_end(token, self.eos)
            if not self._sharded_with.anyone(bool(live.any())):
                break
        return Sampled(cut(torch.stack(tokens, 1), self.eos), torch.stack(logprobs, 1), prefill=None)

    def score(self, batch: PaddedBatch, value_place: Tensor | None = None, prefill: None = None) -> Scores:
        """The policy's logits and hidden states on given responses, with gradient."""
        with checkpointing(self._checkpointed), self._entering_output_layer() as entering:
            out, last = self._forward_batch(self.model, batch, output_hidden_states=not self._caught)
            if self._caught and not entering:
                # A model may call its output layer in one pass and multiply by its weight in another, as while it trains.
                out, last = self._forward_batch(self.model, batch, output_hidden_states=True)
        hidden = entering[-1] if entering else out.hidden_states[-1]  # (B, L, W)
        self._caught = bool(entering)
        rows = torch.arange(len(batch), device=self.device)
        contexts = Contexts.one_per_token(batch.response_mask)
        place = contexts.row, last[contexts.row] + contexts.position
        return Scores(
            logits=out.logits[place].float(),
            contexts=contexts,
            states=hidden[place].detach(),
            prompt_hidden=hidden[rows, last],
            value_hidden=None if value_place is None else hidden[rows, last + value_place],
        )

    @contextmanager
    def _entering_output_layer(self) -> Iterator[list[Tensor]]:
        """A list that what the output layer takes is added to. Some models scale or project the last layer's output before it."""
        entering: list[Tensor] = []
        layer = self.model.get_output_embeddings()
        if layer is None:
            yield entering
            return
        hook = layer.register_forward_pre_hook(lambda _, arguments: entering.append(arguments[0]))
        try:
            yield entering
        finally:
            hook.remove()

    def score_reference(self, batch: PaddedBatch) -> tuple[Tensor, Contexts]:
        """The reference's logits (C, V), without gradient, and which contexts they follow."""
        with torch.no_grad(), self.without_adapters():
            out, last = self._forward_batch(self.reference, batch)
        contexts = Contexts.one_per_token(batch.response_mask)
        return out.logits[contexts.row, last[contexts.row] + contexts.position].float(), contexts

    def weights_changed(self) -> None:
        """Nothing is kept of the old ones."""

    def _forward_batch(self, model: Any, batch: PaddedBatch, **options: Any) -> tuple[Any, Tensor]:
        """The model's output on prompts and responses, and the place (B,) of each prompt's last token in it."""
        ids = torch.cat([batch.prompt_ids, batch.response_ids], dim=1)
        mask = torch.cat([batch.prompt_mask, batch.response_mask], dim=1)
        if self.padding == "left":
            # Each row's own tokens first, pads behind them, where no causal model looks.
            ids = ids.gather(1, (~mask).long().argsort(dim=1, stable=True))
            return self._forward(model, ids, **options), batch.prompt_mask.sum(1) - 1
        # The released code's way (docs/fidelity.md, D4): pads between prompt and response, which take positions.
        if self._takes_positions:
            options["position_ids"] = torch.arange(ids.shape[1], device=self.device).expand(ids.shape)
        out = self._forward(model, ids, attention_mask=mask.long(), **options)
        return out, torch.full_like(ids[:, 0], batch.prompt_ids.shape[1] - 1)

    def _forward(self, model: Any, ids: Tensor, **options: Any) -> Any:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bfloat16):
            return model(input_ids=ids, use_cache=False, **options)

    def _text_logits(self, ids: Tensor) -> Tensor:
        return self._forward(self.model, ids).logits

    def check(self, prompts: Sequence[Sequence[int]], length: int) -> None:
        """Raise UserError unless responses of `length` tokens have the same log-probabilities beside others as alone.

        Not so: models that look at later tokens. Seen in any type of arithmetic: the error of such a model is far above it.
        """
        pair = [min(prompts, key=len), max(prompts, key=len)]
        responses = [(list(prompt) * length)[:length] for prompt in pair]  # any tokens will do
        name = type(self.model).__name__
        refused = refusing(
            f"model.path: {name} can't compute a response", "name a model that transformers computes alone"
        )
        with refused, torch.no_grad(), self.without_dropout():
            together = self.score(self.pad(pair, responses)).logits.log_softmax(-1)
            alone = [
                self.score(self.pad([p], [r])).logits.log_softmax(-1) for p, r in zip(pair, responses, strict=True)
            ]
        difference = (together - torch.cat(alone)).abs().max().item()
        if self.padding == "left" and not difference <= (0.5 if self._bfloat16 else 1e-3):
            raise UserError(
                f"model.path: {name} scores a response otherwise beside others than alone "
                f"(log-probabilities differ by {difference:.2g}); name a causal language model"
            )
