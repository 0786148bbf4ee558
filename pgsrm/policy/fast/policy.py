"""The policy that computes nothing twice, and which models it takes (`FastPolicy.check_cache`).

It has the same numbers as `pgsrm.policy.simple`, several times sooner.

What keeps it cheap without changing a digit (docs/fast-path.md): the template prefix that a task's prompts share is
computed once and expanded over the batch; rows that are equal are computed once, and so is a prompt that several rows
have; logits are made at response positions alone; the reference, being frozen, reads each prompt once a run; the pass over
the prompts that sampling needs is the same one that the update differentiates.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgsrm.policy.base import ROWS_AT_ONCE, BasePolicy
from pgsrm.policy.batch import Contexts, Side, is_asynchronous, pad_rows, to_device
from pgsrm.policy.checkpointing import checkpointable_layers, checkpointing
from pgsrm.policy.fast.batch import Packing, SharedBatch, common_prefix, distinct
from pgsrm.policy.fast.forward import Forward, Prefill, extend, filled, forward_whole, prefill
from pgsrm.policy.protocol import Sampled, Scores
from pgsrm.policy.refusal import refusing
from pgsrm.policy.sampling import Sampling, cut, draw, is_end, truncate
from pgsrm.util.distributed import Processes
from pgsrm.util.errors import UserError
from pgsrm.util.numbers import counted

# Bytes of the reference's keys, values and logits that may be kept for a run's prompts; past it they are made again.
REFERENCE_LIMIT = 2 << 30


class FastPolicy(BasePolicy):
    """`Policy` by prefill and cache, for a model whose state is keys and values under full attention.

    `prompts` are the tokenised prompts of the task: the tokens that all of them begin with are computed once a forward pass.
    `share` turns this off, and the sharing of work between equal rows, for a model whose dropout is on.
    `reference` is None for a policy with adapters (pgsrm/models/lora.py), whose reference is itself without them.
    `gradient_checkpointing` computes the layers again in the backward pass instead of keeping what they computed; `score`
    then takes prompts and responses in one pass, without anything of the sampling's. So it does where `sharded_with` says
    that the models' weights are divided among processes (pgsrm.util.distributed.shard), which make all passes together.
    """

    def __init__(
        self,
        model: Any,
        reference: Any | None,
        eos: Sequence[int],
        prompts: Sequence[Sequence[int]] = (),
        padding: Side = "left",
        share: bool = True,
        bfloat16: bool = False,
        gradient_checkpointing: bool = False,
        sharded_with: Processes | None = None,
    ) -> None:
        super().__init__(model, reference, eos, padding)
        if model.get_output_embeddings() is None:
            raise UserError(f"model.path: {type(model).__name__} doesn't say which layer makes its logits")
        self._checkpointed = checkpointable_layers(model) if gradient_checkpointing else []
        self._sharded_with = sharded_with
        self._scores_whole = gradient_checkpointing or sharded_with is not None
        self._forward = self._reference_forward = Forward(model, bfloat16, layers_too=not self._scores_whole)
        if reference is not None:
            self._reference_forward = Forward(reference, bfloat16)
        # steps of sampling after which rows that have ended are left out; asking which they are makes the host wait for a GPU
        self._asks_every = 8 if is_asynchronous(self.device) else 1
        # backward of attention is the one operation of the models that this policy takes that adds up in any order
        self.in_one_order = self.device.type == "cuda"
        self.share = share
        self.prompts = [list(prompt) for prompt in prompts]
        length = common_prefix(prompts) if share and prompts else 0
        self.prefix: list[int] = self.prompts[0][:length] if prompts else []
        self._number = {tuple(prompt): number for number, prompt in enumerate(self.prompts)}
        self._kept_prefill: Prefill | None = None  # the reference's, of all prompts; made at first use
        # padded on the right, a row's positions depend on the longest prompt of its batch (docs/fidelity.md, D4)
        self._keeps_reference = bool(prompts) and padding == "left"

    def pad(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], side: Side | None = None
    ) -> SharedBatch:
        """Rectangles of token ids from ragged prompts and responses (each at least one token)."""
        side = side or self.padding
        prefix = len(self.prefix)
        if any(len(prompt) <= prefix or list(prompt[:prefix]) != self.prefix for prompt in prompts):
            prefix = 0  # prompts from outside the task, or held out
        prompt_ids, prompt_mask = pad_rows([prompt[prefix:] for prompt in prompts], self.eos[0], side, self.device)
        response_ids, response_mask = pad_rows(responses, self.eos[0], "right", self.device)
        numbers = [self._number.get(tuple(prompt), -1) for prompt in prompts]
        pairs = [(tuple(prompt), tuple(response)) for prompt, response in zip(prompts, responses, strict=True)]
        return SharedBatch(
            prompt_ids,
            prompt_mask,
            response_ids,
            response_mask,
            prefix_ids=to_device(torch.tensor(self.prefix[:prefix], dtype=torch.long), self.device),
            padding=side,
            prompt=self._same([prompt for prompt, _ in pairs]),
            pair=self._same(pairs),
            lengths=np.array([len(response) for response in responses]),
            prompt_index=np.array(numbers) if side == self.padding and min(numbers) >= 0 else None,
        )

    def _same(self, items: Sequence[Hashable]) -> np.ndarray:
        """A number (B,) for each item, the same for equal ones if work is shared."""
        seen: dict[Hashable, int] = {}
        numbers = [seen.setdefault(item, len(seen)) if self.share else row for row, item in enumerate(items)]
        return np.array(numbers)

    def check_cache(self, length: int) -> None:
        """Raise UserError unless the model scores `length` response tokens on top of a cache as it scores them at once.

        Not so: models without keys and values, and attention windows shorter than prompt and response. Checked in float32,
        whose rounding is far below the error of such a model.
        """
        name = type(self.model).__name__
        refused = refusing(
            f"model.path: {name} can't be computed on top of a cache of keys and values",
            "set model.policy=simple, or name a model with full attention",
        )
        with refused, torch.no_grad(), self.without_dropout(), self._forward.matrices.in_float32():
            difference = self._cache_error(length)
        if not difference <= 1e-3:
            raise UserError(
                f"model.path: {name} scores {max(map(len, self.prompts))} prompt and {counted(length, 'response token')} otherwise "
                f"on top of a cache than at once (log-probabilities differ by {difference:.2g}): its attention window is "
                "shorter, or its state is not all keys and values; set model.policy=simple, or shorten task.max_new_tokens"
            )

    def _cache_error(self, length: int) -> float:
        """Largest difference in any log-probability that follows the shortest and the longest prompt."""
        prompts = [min(self.prompts, key=len), max(self.prompts, key=len)]
        responses = [(prompt * length)[:length] for prompt in prompts]  # any tokens will do
        batch = self.pad(prompts, responses, "left")
        rows, fed = torch.arange(len(prompts), device=self.device), length - 1
        at = rows.repeat_interleave(fed), torch.arange(fed, device=self.device).repeat(len(prompts))
        prefilled = prefill(self._forward, batch)
        later, _ = extend(self._forward, prefilled, rows, batch, fed, at)
        cached = torch.cat([prefilled.logits.unsqueeze(1), later.view(len(prompts), fed, later.shape[-1])], 1)
        differences = []
        for ours, prompt, response in zip(cached.log_softmax(-1), prompts, responses, strict=True):
            whole = self._text_logits(torch.tensor([prompt + response], device=self.device))
            theirs = whole[0, len(prompt) - 1 : -1].float().log_softmax(-1)
            differences.append((ours - theirs).abs().max())
        return torch.stack(differences).max().item()  # which is NaN where one of them is

    def score(self, batch: SharedBatch, value_place: Tensor | None = None, prefill: Prefill | None = None) -> Scores:
        """The policy's logits and hidden states on given responses, with gradient.

        `value_place` (B,) asks for the hidden state after so many tokens of each response, 0 to T; without it the last
        token, which predicts nothing, is not computed. `prefill` is the sampling's with its graph, if the policy is still
        the one that sampled.
        """
        packing, length = Packing.of(batch), batch.response_ids.shape[1]
        if prefill is None:
            self._forward.matrices.restart()
        fed, at = length - 1 if value_place is None else length, packing.at
        pairs = batch.rows(packing.rows)
        if self._scores_whole:
            with checkpointing(self._checkpointed):
                logits, hidden = forward_whole(self._forward, pairs, fed, at)
        else:
            prefill = prefill or self._prefill(batch.rows(packing.prompt_rows))
            later, fed_hidden = extend(self._forward, prefill, packing.prompt, pairs, fed, packing.later)
            logits = torch.cat([prefill.logits, later])
            hidden = torch.cat([prefill.hidden[packing.prompt].unsqueeze(1), fed_hidden], dim=1)
        prompt_hidden = hidden[packing.pair, 0]
        value_hidden = None if value_place is None else hidden[packing.pair, value_place]
        return Scores(logits, packing.contexts, hidden.detach()[at], prompt_hidden, value_hidden)

    def score_reference(self, batch: SharedBatch) -> tuple[Tensor, Contexts]:
        """The reference's logits (C, V), without gradient, and which contexts they follow."""
        packing, fed = Packing.of(batch), batch.response_ids.shape[1] - 1
        with torch.no_grad(), self.without_adapters():
            prefilled = self._reference_prefill(batch.rows(packing.prompt_rows))
            pairs = batch.rows(packing.rows)
            later, _ = extend(self._reference_forward, prefilled, packing.prompt, pairs, fed, packing.later)
        return torch.cat([prefilled.logits, later]), packing.contexts

    def weights_changed(self) -> None:
        """To be called after the policy's weights have changed: nothing made of the old ones is used again."""
        self._forward.matrices.weights_changed()

    def set_reference(self, weights: dict[str, Tensor]) -> None:
        """Give the reference other weights; from then on it computes every prompt again."""
        super().set_reference(weights)
        self._reference_forward.matrices.forget()
        self._kept_prefill, self._keeps_reference = None, False

    def _reference_prefill(self, batch: SharedBatch) -> Prefill:
        """The reference's prefill of a batch: from those of all prompts of the task, unless they are too large to keep."""
        everything = None if batch.prompt_index is None else self._reference_prefill_of_all()
        if everything is None:
            return prefill(self._reference_forward, batch)
        return everything.rows(to_device(torch.from_numpy(batch.prompt_index), self.device))

    def _reference_prefill_of_all(self) -> Prefill | None:
        """The reference's prefill of all prompts of the task, made at first use; None where it is not kept."""
        if self._kept_prefill is None and self._keeps_reference:
            longest = self.pad([max(self.prompts, key=len)], [self.eos[:1]])  # all are padded to its width
            sample = prefill(self._reference_forward, longest)
            size = sum(tensor.nbytes for pair in sample.keys_values for tensor in pair) + sample.logits.nbytes
            if size * len(self.prompts) > REFERENCE_LIMIT:
                self._keeps_reference = False
                return None
            everything = self.pad(self.prompts, [self.eos[:1]] * len(self.prompts))
            chunks = torch.arange(len(self.prompts)).split(ROWS_AT_ONCE)
            self._kept_prefill = Prefill.join(
                [prefill(self._reference_forward, everything.rows(rows)) for rows in chunks]
            )
        return self._kept_prefill

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        uniforms: Tensor,
        how: Sampling,
        with_graph: bool = False,
        share: Tensor | None = None,
    ) -> Sampled:
        """One response per prompt. `uniforms` (B, max_new_tokens) in [0, 1), float64, are all the randomness there is.

        Prompts are padded on the left whatever `padding` says: a response must follow its prompt. `with_graph` keeps the
        graph of the pass over the prompts, for `score`, unless that makes its own. `share` (n,) are the rows to answer,
        default all.
        """
        batch = self.pad(prompts, [self.eos[:1]] * len(prompts), "left")
        if share is not None:
            batch, uniforms = batch.rows(share), uniforms[share]
        with_graph = with_graph and not self._scores_whole
        prefilled, starts = self._read(batch, with_graph)
        with torch.no_grad():
            tokens, logprobs = self._generate(starts, to_device(uniforms, self.device), how)
        return Sampled(cut(tokens, self.eos), logprobs, prefilled if with_graph else None)

    def _sample_each(
        self, prompts: Sequence[Sequence[int]], draws: Sequence[tuple[Tensor, Sampling]]
    ) -> list[list[list[int]]]:
        _, starts = self._read(self.pad(prompts, [self.eos[:1]] * len(prompts), "left"))
        with torch.no_grad():
            return [
                cut(self._generate(starts, to_device(uniforms, self.device), how)[0], self.eos)
                for uniforms, how in draws
            ]

    def _read(self, batch: SharedBatch, with_graph: bool = False) -> tuple[Prefill, Prefill]:
        """The prefill of a batch's distinct prompts, and without graph that of each of its rows."""
        rows, prompt = (torch.from_numpy(numbers) for numbers in distinct(batch.prompt))
        self._forward.matrices.restart()
        with torch.set_grad_enabled(with_graph):
            prefilled = self._prefill(batch.rows(rows))
        with torch.no_grad():
            return prefilled, prefilled.detach().rows(to_device(prompt, self.device))

    def _prefill(self, batch: SharedBatch) -> Prefill:
        return prefill(self._forward, batch)

    def _generate(self, prompts: Prefill, uniforms: Tensor, how: Sampling) -> tuple[Tensor, Tensor]:
        """Tokens (B, T') and their log-probabilities (B, T'), T' <= max_new_tokens.

        A row that has ended has EOS and 0 from there on, and is soon no longer computed.
        """
        cache, mask, logits = filled(prompts.keys_values), prompts.mask, prompts.logits
        position = mask.long().sum(-1, keepdim=True)
        live = torch.arange(len(mask), device=mask.device)  # rows that have not ended
        ended = torch.zeros_like(live, dtype=torch.bool)
        tokens, logprobs = [], []
        for step in range(how.max_new_tokens):
            token, logprob = draw(truncate(logits, how.temperature, how.top_k), uniforms[live, step])
            token, logprob = token.masked_fill(ended, self.eos[0]), logprob.masked_fill(ended, 0)
            ended = ended | is_end(token, self.eos)
            tokens.append(uniforms.new_full((len(uniforms),), self.eos[0], dtype=torch.long).index_copy(0, live, token))
            logprobs.append(logprob.new_zeros(len(uniforms)).index_copy(0, live, logprob))
            if step == how.max_new_tokens - 1:
                break
            if (step + 1) % self._asks_every == 0:
                remaining = (~ended).nonzero().squeeze(-1)
                if not self._anyone(len(remaining) > 0):
                    break
                if len(remaining) == 0:  # here, but not in the processes that need this one's part of the weights
                    remaining = live.new_zeros(1)
                if len(remaining) < len(live):
                    live, ended, token, mask, position = (t[remaining] for t in (live, ended, token, mask, position))
                    cache.batch_select_indices(remaining)
            mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=1)
            out = self._forward.run(
                input_ids=token.unsqueeze(-1),
                attention_mask=self._forward.attention(mask, 1),
                position_ids=position + step,
                past_key_values=cache,
                use_cache=True,
            )
            self._forward.take()
            logits = out.logits[:, -1].float()
        return torch.stack(tokens, 1), torch.stack(logprobs, 1)

    def _anyone(self, here: bool) -> bool:
        return here if self._sharded_with is None else self._sharded_with.anyone(here)

    def _text_logits(self, ids: Tensor) -> Tensor:
        logits = self._forward.run(input_ids=ids, use_cache=False).logits
        self._forward.take()
        return logits
