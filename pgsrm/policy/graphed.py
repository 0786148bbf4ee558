"""The policy for a GPU that waits for its host: sampling and both models' passes as CUDA graphs of fixed shapes.

A batch of a small model is computed sooner than the host launches its kernels one by one. Here all kernels of a pass are
launched at once (pgsrm/policy/graphs.py). Their shapes are fixed: every prompt is padded to the longest of the task's, every
response to `max_new_tokens`, and no two rows share anything but the prefix that all of the task's prompts have.

What has another shape, such as longer prompts from outside the task, is computed by the fast policy that this one is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgsrm.policy.base import ROWS_AT_ONCE, BasePolicy
from pgsrm.policy.batch import Contexts
from pgsrm.policy.fast.batch import SharedBatch
from pgsrm.policy.fast.forward import Forward, Prefill, extend_rows, forward_rows
from pgsrm.policy.fast.policy import FastPolicy
from pgsrm.policy.graphs import DifferentiableRecording, Parameters, Pass, Pool, Recording
from pgsrm.policy.protocol import Sampled, Scores
from pgsrm.policy.sampling import Sampling, cut
from pgsrm.util.errors import UserError

# Bytes of logits that a recording may keep; a larger batch (an evaluation's) is computed by the fast policy.
LOGITS_LIMIT = 1 << 30
MOST_RECORDINGS = (
    64  # past it all are dropped: a run has a dozen, a caller with a new shape each time has no end of them
)
NEVER = 1 << 30  # steps


@dataclass(frozen=True)
class Begun:
    """Sampling's pass over the prompts, with its graph, as `GraphedPolicy.score` goes on with it."""

    fixed: SharedBatch
    recording: DifferentiableRecording
    begun: Pass
    fed: list[int]  # response tokens that its second part reads; empty until that is recorded


class GraphedPolicy(FastPolicy):
    """`Policy` by replays. A shape is recorded when it is first seen.

    `max_new_tokens`: of the task's responses. The weights are read where they are, so that they must be changed in place.
    """

    def __init__(
        self,
        model: Any,
        reference: Any | None,
        eos: Sequence[int],
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        bfloat16: bool = False,
    ) -> None:
        super().__init__(model, reference, eos, prompts, bfloat16=bfloat16)
        _check(model)
        self._longest, self._length = max(map(len, self.prompts)), max_new_tokens
        self._trained = Parameters(model)
        self._asks_every = NEVER  # which rows have ended: a recording has all of them to its end
        self._pool, self._gradient_pool = Pool(self.device), Pool(self.device)
        self._recordings: dict[Any, tuple[SharedBatch, Any]] = {}

    def _same(self, items: Sequence[Any]) -> np.ndarray:
        return np.arange(len(items))

    # Shapes

    def _fits(self, batch: SharedBatch) -> bool:
        """Whether the batch's shape can be recorded, or has been."""
        width = self._longest - len(batch.prefix_ids)
        return batch.prompt_ids.shape[1] <= width and len(batch) <= ROWS_AT_ONCE and batch.padding == "left"

    def _fits_with_logits(self, batch: SharedBatch) -> bool:
        vocabulary = self.model.get_output_embeddings().weight.shape[0]
        size = len(batch) * self._length * vocabulary * 4
        return self._fits(batch) and batch.response_ids.shape[1] <= self._length and size <= LOGITS_LIMIT

    def _fixed(self, rows: int, prefix_ids: Tensor, length: int) -> SharedBatch:
        """A batch that stays where it is: for `rows` prompts behind the prefix and responses of `length` tokens."""

        def filled(width: int, value: int | bool, dtype: torch.dtype) -> Tensor:
            return torch.full((rows, width), value, dtype=dtype, device=self.device)

        width, alone = self._longest - len(prefix_ids), np.arange(rows)
        return SharedBatch(
            filled(width, self.eos[0], torch.long),
            filled(width, True, torch.bool),
            filled(length, self.eos[0], torch.long),
            filled(length, True, torch.bool),  # padding, behind all that counts, is seen by padding alone
            prefix_ids=prefix_ids.clone(),
            padding="left",
            prompt=alone,
            pair=alone,
            lengths=np.full(rows, length),
        )

    def _recorded(
        self, kind: str, batch: SharedBatch, length: int, *settings: Any, record: Callable[[SharedBatch], Any]
    ) -> tuple[SharedBatch, Any]:
        """A fixed batch for `batch`'s shape, and what `record` makes of it or has made of it before.

        The fixed batch then has the prompts of `batch`.
        """
        key = (kind, len(batch), len(batch.prefix_ids), length, settings)
        if key not in self._recordings:
            if len(self._recordings) == MOST_RECORDINGS:
                self._recordings.clear()
            fixed = self._fixed(len(batch), batch.prefix_ids, length)
            self._recordings[key] = fixed, record(fixed)
        fixed, recorded = self._recordings[key]
        _write(fixed.prompt_ids, batch.prompt_ids, self.eos[0], behind=True)
        _write(fixed.prompt_mask, batch.prompt_mask, False, behind=True)
        return fixed, recorded

    # Sampling

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        uniforms: Tensor,
        how: Sampling,
        with_graph: bool = False,
        share: Tensor | None = None,
    ) -> Sampled:
        """As `Policy.sample`."""
        batch = self.pad(prompts, [self.eos[:1]] * len(prompts), "left")
        if not self._fits(batch):
            return super().sample(prompts, uniforms, how, share=share)
        if share is not None:
            batch, uniforms = batch.rows(share), uniforms[share]
        with_graph = with_graph and how.max_new_tokens == self._length and self._fits_with_logits(batch)
        with_graph = with_graph and not self._gradient_pool.awaits_backward

        def record(fixed: SharedBatch) -> tuple[Tensor, Any, list[int]]:
            drawn = torch.zeros(fixed.response_ids.shape, dtype=torch.float64, device=self.device)

            def begin() -> tuple[Any, tuple[Tensor, Tensor]]:
                with self._forward.matrices.apart() as passes:  # a replay makes its own copies of the weights
                    # autograd keeps ids for the backward pass, and refuses those that another batch has been written into
                    prefilled = self._prefill(replace(fixed, prompt_ids=fixed.prompt_ids.clone()))
                    with torch.no_grad():
                        return (prefilled, passes), self._generate(prefilled.detach(), drawn, how)

            if with_graph:
                recording = DifferentiableRecording(begin, self._trained, self._gradient_pool, self.in_one_order)
                return drawn, recording, []
            return drawn, Recording(lambda: begin()[1], self._pool), []

        settings = how, self.eos, with_graph
        fixed, (drawn, recording, fed) = self._recorded("sample", batch, how.max_new_tokens, settings, record=record)
        drawn.copy_(uniforms, non_blocking=True)
        if with_graph:
            begun, (tokens, logprobs) = recording.start()
            return Sampled(cut(tokens, self.eos), logprobs, Begun(fixed, recording, begun, fed))
        tokens, logprobs = recording.replay()
        return Sampled(cut(tokens, self.eos), logprobs, prefill=None)

    _sample_each = BasePolicy._sample_each  # each way of drawing is a replay

    # Scoring

    def score(self, batch: SharedBatch, value_place: Tensor | None = None, prefill: Any | None = None) -> Scores:
        """As `Policy.score`, but for the hidden states, which have no gradient.

        The logits hold until the next pass with gradient.
        """
        fed = self._length - (value_place is None)
        goes_on = prefill is not None and prefill.fed in ([], [fed])
        waits = torch.is_grad_enabled() and self._gradient_pool.awaits_backward
        if not self._fits_with_logits(batch) or (waits and not goes_on):
            return super().score(batch, value_place)
        if prefill is not None and goes_on:
            logits, hidden = self._finish(prefill, batch, fed)
        else:
            logits, hidden = self._replay("score", self._forward, batch, fed)
        length = batch.response_ids.shape[1]
        value_hidden = None
        if value_place is not None:
            value_hidden = hidden[torch.arange(len(batch), device=self.device), value_place]
        states = hidden[:, :length].reshape(-1, hidden.shape[-1])
        return Scores(logits, self._contexts(batch), states, hidden[:, 0], value_hidden)

    def _finish(self, prefill: Begun, batch: SharedBatch, fed: int) -> tuple[Tensor, Tensor]:
        """As `_replay`, on top of sampling's pass over the same prompts."""

        def compute(linked: Any) -> tuple[Tensor, Tensor]:
            prefilled, passes = linked
            with self._forward.matrices.apart(passes):
                return extend_rows(self._forward, prefilled, None, prefill.fixed, fed)

        _write(prefill.fixed.response_ids, batch.response_ids, self.eos[0], behind=False)
        logits, hidden = prefill.recording.finish(prefill.begun, compute)
        prefill.fed[:] = [fed]
        return self._sampled_places(logits, batch), hidden

    def score_reference(self, batch: SharedBatch) -> tuple[Tensor, Contexts]:
        """The reference's logits (C, V), without gradient, and which contexts they follow."""
        if not self._fits_with_logits(batch):
            return super().score_reference(batch)
        with torch.no_grad(), self.without_adapters():
            everything = None if batch.prompt_index is None else self._reference_prefill_of_all()
            if everything is None:
                logits, _ = self._replay("reference", self._reference_forward, batch, self._length - 1)
            else:
                logits = self._replay_reference(batch, everything)
        return logits, self._contexts(batch)

    def _replay_reference(self, batch: SharedBatch, everything: Prefill) -> Tensor:
        """The reference's logits (B * T, V), from its prefill of all prompts of the task."""
        forward = self._reference_forward

        def record(fixed: SharedBatch) -> tuple[Tensor, Recording]:
            index = torch.zeros(len(fixed), dtype=torch.long, device=self.device)

            def compute() -> tuple[Tensor]:
                with forward.matrices.apart():
                    return extend_rows(forward, everything, index, fixed, self._length - 1)[:1]

            return index, Recording(compute, self._pool)

        fixed, (index, recording) = self._recorded("reference's rest", batch, self._length, record=record)
        assert batch.prompt_index is not None
        index.copy_(torch.from_numpy(batch.prompt_index), non_blocking=True)
        _write(fixed.response_ids, batch.response_ids, self.eos[0], behind=False)
        (logits,) = recording.replay()
        return self._sampled_places(logits, batch)

    def _replay(self, kind: str, forward: Forward, batch: SharedBatch, fed: int) -> tuple[Tensor, Tensor]:
        """Logits (B * T, V) of the batch's response tokens, padding too, and hidden states (B, fed + 1, W).

        With gradient where it is enabled.
        """
        with_gradient = torch.is_grad_enabled()

        def record(fixed: SharedBatch) -> tuple[Any, Any]:
            def compute(_: None = None) -> tuple[Tensor, Tensor]:
                with forward.matrices.apart():
                    return forward_rows(forward, fixed, fed, self._length)

            if not with_gradient:
                return Recording(compute, self._pool), compute
            recording = DifferentiableRecording(None, self._trained, self._gradient_pool, self.in_one_order)
            return recording, compute

        fixed, (recording, compute) = self._recorded(kind, batch, self._length, fed, with_gradient, record=record)
        _write(fixed.response_ids, batch.response_ids, self.eos[0], behind=False)
        if with_gradient:
            logits, hidden = recording.finish(recording.start()[0], compute)
        else:
            logits, hidden = recording.replay()
        return self._sampled_places(logits, batch), hidden

    def _sampled_places(self, logits: Tensor, batch: SharedBatch) -> Tensor:
        """Of a recording's logits, those of the rectangle (B, T) of the batch's responses."""
        length = batch.response_ids.shape[1]
        if length == self._length:
            return logits
        return logits.unflatten(0, (len(batch), self._length))[:, :length].flatten(0, 1)

    def _contexts(self, batch: SharedBatch) -> Contexts:
        """A context for each place of the rectangle of response tokens."""
        rows, length = batch.response_ids.shape
        place = torch.arange(rows * length, device=self.device)
        row, position = place.div(length, rounding_mode="floor"), place.remainder(length)
        return Contexts(place.view(rows, length) * batch.response_mask, row, position)


def _check(model: Any) -> None:
    """Raise UserError for a model whose pass the host has a say in, or whose attention takes no mask as it is."""
    attention = model.config._attn_implementation
    if not attention.startswith("sdpa"):
        raise UserError(
            f"model.policy=graphed: {type(model).__name__} has the attention {attention}, not torch's; "
            "set model.policy=fast"
        )
    # a name, or one for each kind of layer
    kinds = str([getattr(module, "rope_type", "") for module in model.modules()])
    for kind in ("dynamic", "longrope"):
        if kind in kinds:
            raise UserError(
                f"model.policy=graphed: {type(model).__name__} has positions that follow the longest text ({kind}); "
                "set model.policy=fast"
            )


def _write(fixed: Tensor, given: Tensor, rest: int | bool, behind: bool) -> None:
    """Copy `given` (B, l) into `fixed` (B, L): at its end if `behind` says so, else at its beginning; `rest` into the others."""
    width, missing = given.shape[1], fixed.shape[1] - given.shape[1]
    place, others = (slice(missing, None), slice(missing)) if behind else (slice(width), slice(width, None))
    fixed[:, place].copy_(given)
    if missing:
        fixed[:, others].fill_(rest)
