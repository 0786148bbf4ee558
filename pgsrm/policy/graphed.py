"""The policy for a GPU that waits for its host: sampling and both models' passes as CUDA graphs of fixed shapes.

A batch of a small model is computed sooner than the host launches its kernels one by one. Here all kernels of a pass are
launched at once (pgsrm/policy/graphs.py). Their shapes are fixed: every prompt is padded to the longest of the task's, every
response to `max_new_tokens`, a batch to one of a few sizes, and no two rows share anything but the prefix that all of the task's
prompts have, where that pays. Which shape a batch gets follows from the batch alone, so that a resumed run has the same ones.

What has another shape, such as longer prompts from outside the task, is computed by the fast policy that this one is.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgsrm.models.settings import Dtype
from pgsrm.policy.base import ROWS_AT_ONCE, BasePolicy
from pgsrm.policy.batch import Contexts
from pgsrm.policy.fast.batch import SharedBatch
from pgsrm.policy.fast.forward import Forward, Prefill, extend_rows, forward_rows
from pgsrm.policy.fast.policy import FastPolicy
from pgsrm.policy.graphs import DifferentiableRecording, Parameters, Pool, Recording
from pgsrm.policy.protocol import Sampled, Scores
from pgsrm.policy.sampling import Sampling, cut
from pgsrm.util.errors import UserError

# Bytes of logits that a recording may keep; a larger batch (an evaluation's) is computed by the fast policy.
LOGITS_LIMIT = 1 << 30
MOST_RECORDINGS = (
    64  # past it all are dropped: a run has a dozen, a caller with a new shape each time has no end of them
)
NEVER = 1 << 30  # steps
# A prefix computed for each row takes an update this many floating-point operations a token and weight of the layers: 2 in each of
# sampling's and scoring's passes, 4 in the backward pass. Computed once, it takes passes of its own, which cost their kernels'
# launches. Above so many operations a layer, once is sooner (docs/performance.md); TF32 and bfloat16 make more of them a second.
PREFIX_OPERATIONS = 8
SHARED_FROM = {"float32": 2e10, "tfloat32": 1.2e11, "bfloat16": 1.2e11}
USUAL_ROWS = 64  # of an update


class GraphedPolicy(FastPolicy):
    """`Policy` by replays. A shape is recorded when it is first seen.

    `max_new_tokens`: of the task's responses. `dtype`: of the arithmetic, as `model.dtype` has it. The weights are read where they
    are, so that they must be changed in place.
    """

    def __init__(
        self,
        model: Any,
        reference: Any | None,
        eos: Sequence[int],
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        dtype: Dtype = "float32",
    ) -> None:
        super().__init__(model, reference, eos, prompts, bfloat16=dtype == "bfloat16")
        _check(model)
        if not _prefix_pays(model, len(self.prefix), dtype):
            self.prefix = []
        self._longest, self._length = max(map(len, self.prompts)), max_new_tokens
        self._trained = Parameters(model)
        self._asks_every = NEVER  # which rows have ended: a recording has all of them to its end
        self._start_anew()

    def _start_anew(self) -> None:
        """Without recordings, and so with other memory: CUDA takes no new ones into that of which all have gone."""
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
        vocabulary, room = self.model.get_output_embeddings().weight.shape[0], self._room(batch)
        size = _room_for_rows(len(batch)) * room * vocabulary * 4
        positions = self.positions
        return self._fits(batch) and size <= LOGITS_LIMIT and (positions is None or self._longest + room <= positions)

    def _room(self, batch: SharedBatch) -> int:
        """Tokens of a response that the recording of a batch has room for: references may be longer than what is sampled."""
        length = batch.response_ids.shape[1]
        return self._length if length <= self._length else -(-length // 4) * 4

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
        self,
        kind: str,
        batch: SharedBatch,
        rows: int,
        length: int,
        *settings: Any,
        record: Callable[[SharedBatch], Any],
    ) -> tuple[SharedBatch, Any]:
        """A fixed batch of `rows` rows and responses of `length`, and what `record` makes of it or has made of it before.

        The fixed batch then has the prompts of `batch` in its first rows. What comes of the others goes nowhere.
        """
        key = (kind, rows, len(batch.prefix_ids), length, settings)
        if key not in self._recordings:
            if len(self._recordings) == MOST_RECORDINGS:
                self._start_anew()
            with torch.inference_mode(False):  # a caller's: later ones write into the tensors made here
                fixed = self._fixed(rows, batch.prefix_ids, length)
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
        """As `Policy.sample`. `with_graph` goes unheard: one pass more costs less than a second backward pass (`score`)."""
        batch = self.pad(prompts, [self.eos[:1]] * len(prompts), "left")
        if not self._fits(batch) or uniforms.shape[1] != how.max_new_tokens:
            return super().sample(prompts, uniforms, how, share=share)
        if share is not None:
            batch, uniforms = batch.rows(share), uniforms[share]

        def record(fixed: SharedBatch) -> tuple[Tensor, Recording]:
            drawn = torch.zeros(fixed.response_ids.shape, dtype=torch.float64, device=self.device)

            def compute() -> tuple[Tensor, Tensor]:
                with self._forward.matrices.apart():  # a replay makes its own copies of the weights
                    return self._generate(self._prefill(fixed), drawn, how)

            return drawn, Recording(compute, self._pool)

        key = "sample", batch, len(batch), how.max_new_tokens, how, self.eos
        _, (drawn, recording) = self._recorded(*key, record=record)
        drawn.copy_(uniforms, non_blocking=True)
        tokens, logprobs = recording.replay()
        return Sampled(cut(tokens, self.eos), logprobs, prefill=None)

    _sample_each = BasePolicy._sample_each  # each way of drawing is a replay

    # Scoring

    def score(self, batch: SharedBatch, value_place: Tensor | None = None, prefill: Any | None = None) -> Scores:
        """As `Policy.score`, but for the hidden states, which have no gradient. The sampling's pass is of no use here.

        Prompts and responses are one pass, whose backward pass is one as well. The logits hold until the next with gradient.
        """
        if not self._fits_with_logits(batch):
            return super().score(batch, value_place)
        length, last_too = batch.response_ids.shape[1], value_place is not None
        if torch.is_grad_enabled() and self._gradient_pool.awaits_backward:
            self._forward.matrices.restart()  # as recorded, whose contexts are the reference's
            logits, hidden = forward_rows(self._forward, batch, length if last_too else length - 1, length)
        else:
            logits, hidden = self._replay("score", self._forward, batch, last_too)
        value_hidden = None
        if value_place is not None:
            value_hidden = hidden[torch.arange(len(batch), device=self.device), value_place]
        states = hidden[:, :length].reshape(-1, hidden.shape[-1])
        return Scores(logits, self._contexts(batch), states, hidden[:, 0], value_hidden)

    def score_reference(self, batch: SharedBatch) -> tuple[Tensor, Contexts]:
        """The reference's logits (C, V), without gradient, and which contexts they follow."""
        if not self._fits_with_logits(batch):
            return super().score_reference(batch)
        with torch.no_grad(), self.without_adapters():
            everything = None if batch.prompt_index is None else self._reference_prefill_of_all()
            if everything is None:
                logits, _ = self._replay("reference", self._reference_forward, batch, last_too=False)
            else:
                logits = self._replay_reference(batch, everything)
        return logits, self._contexts(batch)

    def _replay_reference(self, batch: SharedBatch, everything: Prefill) -> Tensor:
        """The reference's logits (B * T, V), from its prefill of all prompts of the task."""
        forward, room = self._reference_forward, self._room(batch)

        def record(fixed: SharedBatch) -> tuple[Tensor, Recording]:
            index = torch.zeros(len(fixed), dtype=torch.long, device=self.device)

            def compute() -> tuple[Tensor]:
                with forward.matrices.apart():
                    return extend_rows(forward, everything, index, fixed, room - 1)[:1]

            return index, Recording(compute, self._pool)

        key = "reference's rest", batch, _room_for_rows(len(batch)), room
        fixed, (index, recording) = self._recorded(*key, record=record)
        assert batch.prompt_index is not None
        index[: len(batch)].copy_(torch.from_numpy(batch.prompt_index), non_blocking=True)
        _write(fixed.response_ids, batch.response_ids, self.eos[0], behind=False)
        (logits,) = recording.replay()
        return self._sampled_places(logits, batch)

    def _replay(self, kind: str, forward: Forward, batch: SharedBatch, last_too: bool) -> tuple[Tensor, Tensor]:
        """Logits (B * T, V) of the batch's response tokens, padding too, and hidden states (B, L, W) from the prompts' last on.

        Those of the responses' last tokens where `last_too` says so. With gradient where it is enabled.
        """
        with_gradient, room = torch.is_grad_enabled(), self._room(batch)
        fed = room if last_too else room - 1

        def record(fixed: SharedBatch) -> Any:
            def compute() -> tuple[Tensor, Tensor]:
                with forward.matrices.apart():
                    return forward_rows(forward, fixed, fed, room)

            if with_gradient:
                return DifferentiableRecording(compute, self._trained, self._gradient_pool, self.in_one_order)
            return Recording(compute, self._pool)

        key = kind, batch, _room_for_rows(len(batch)), room, fed, with_gradient
        fixed, recording = self._recorded(*key, record=record)
        _write(fixed.response_ids, batch.response_ids, self.eos[0], behind=False)
        logits, hidden = recording.replay()
        return self._sampled_places(logits, batch), hidden[: len(batch)]

    def _sampled_places(self, logits: Tensor, batch: SharedBatch) -> Tensor:
        """Of a recording's logits, those of the rectangle (B, T) of the batch's responses."""
        rows, room = batch.response_ids.shape[0], self._room(batch)
        if batch.response_ids.numel() == len(logits):
            return logits
        return logits.unflatten(0, (-1, room))[:rows, : batch.response_ids.shape[1]].flatten(0, 1)

    def _contexts(self, batch: SharedBatch) -> Contexts:
        """A context for each place of the rectangle of response tokens."""
        rows, length = batch.response_ids.shape
        place = torch.arange(rows * length, device=self.device)
        row, position = place.div(length, rounding_mode="floor"), place.remainder(length)
        return Contexts(place.view(rows, length) * batch.response_mask, row, position)


def _room_for_rows(rows: int) -> int:
    """Rows of the recording for so many: by eights or tens, since what DPO leaves out is another number each time."""
    return min(-(-rows // size) * size for size in (8, 10))


def _prefix_pays(model: Any, length: int, dtype: Dtype) -> bool:
    """Whether a prefix of so many tokens is computed sooner once than in every row."""
    ends = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    weights = sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in ends)
    layers = getattr(model.config, "num_hidden_layers", None) or 1
    return PREFIX_OPERATIONS * USUAL_ROWS * length * weights / layers > SHARED_FROM[dtype]


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
    """Copy `given` (B, l) into the first rows of `fixed` (R, L): at their end if `behind` says so, else at their beginning.

    `rest` goes into all other places, so that nothing of an earlier batch is computed.
    """
    fixed[len(given) :].fill_(rest)
    fixed, width, missing = fixed[: len(given)], given.shape[1], fixed.shape[1] - given.shape[1]
    place, others = (slice(missing, None), slice(missing)) if behind else (slice(width), slice(width, None))
    fixed[:, place].copy_(given)
    if missing:
        fixed[:, others].fill_(rest)
