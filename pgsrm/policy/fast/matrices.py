"""How a model's weights are used in an update: gradients added up by one product, bfloat16 copies made once.

An update passes several times through the same weights: shared prefix, prompts, responses. Left to autograd, every pass
makes a gradient as large as the weight, also for thirteen tokens, and adds it to the others; an embedding fills one with
zeros for its few rows. Here each use keeps the two factors of its gradient, and the first use, to which the backward pass
comes last, multiplies them all at once. Left to autocast, every pass casts the weight to bfloat16.

Both are exact: the same sums in another order, the same casts.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import Embedding, Linear
from torch.nn.functional import embedding
from transformers.pytorch_utils import Conv1D

from pgsrm.policy.batch import is_asynchronous
from pgsrm.policy.fast.matmul import WIDE, multiply
from pgsrm.policy.gradients import put_back, take_distinct


class _Uses:
    """What the backward pass brings to the uses of one weight in one graph. Holds nothing of the graph itself."""

    def __init__(self, weight: Tensor, by_output: bool) -> None:
        self.weight = weight.detach()
        self.by_output = by_output  # (out, in), as torch's Linear has it, and not (in, out)
        self.begun = False
        self.products: list[tuple[Tensor, Tensor]] = []  # inputs (n, in), gradients of what came out (n, out)
        self.rows: list[tuple[Tensor, Tensor]] = []  # ids (n,), gradients of their rows (n, D)

    def begin(self) -> bool:
        """Whether this is the first use."""
        first, self.begun = not self.begun, True
        return first

    def gradient(self) -> Tensor | None:
        """The weight's gradient, None if no use has one; the factors are let go."""
        total, weight = None, self.weight
        if self.products:
            inputs, outputs = _joined(self.products)
            left, right = (outputs, inputs) if self.by_output else (inputs, outputs)
            total = multiply(left.T, right).to(weight.dtype)
        if self.rows:
            ids, gradients = _joined(self.rows)
            total = torch.zeros_like(weight) if total is None else total
            if is_asynchronous(weight.device):
                total += torch.ops.aten.embedding_dense_backward(gradients, ids, len(weight), -1, False)
            else:
                used, place = torch.unique(ids, return_inverse=True)
                total[used] += torch.ops.aten.embedding_dense_backward(gradients, place, len(used), -1, False)
        self.products, self.rows = [], []
        return total


def _joined(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return parts[0] if len(parts) == 1 else (torch.cat([a for a, _ in parts]), torch.cat([b for _, b in parts]))


class _Multiply(torch.autograd.Function):
    """inputs (n, in) by `matrix` (in, out), plus `offset`; and the weight for its next use.

    The gradients are those of `weight` and `bias` (out,), of which `matrix` and `offset` are copies, perhaps in another type.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        matrix: Tensor,
        offset: Tensor | None,
        uses: _Uses,
    ) -> tuple[Tensor, Tensor]:
        ctx.kind, inputs = inputs.dtype, inputs.to(matrix.dtype)
        ctx.uses, ctx.first = uses, uses.begin()
        ctx.save_for_backward(inputs, matrix)
        ctx.set_materialize_grads(False)
        return multiply(inputs, matrix, offset), weight.view_as(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        inputs, matrix = ctx.saved_tensors
        below = bias = None
        if gradient is not None:
            ctx.uses.products.append((inputs.detach(), gradient))  # with its graph it would hold itself
            below, bias = _passed_on(ctx, gradient, matrix)
        return below, (ctx.uses.gradient() if ctx.first else None), bias, None, None, None


class _MultiplyFrozen(torch.autograd.Function):
    """`_Multiply` by a weight that isn't trained."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, matrix: Tensor, bias: Tensor | None, offset: Tensor | None) -> Tensor:
        ctx.kind = inputs.dtype
        ctx.save_for_backward(matrix)
        return multiply(inputs.to(matrix.dtype), matrix, offset)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        below, bias = _passed_on(ctx, gradient, ctx.saved_tensors[0])
        return below, None, bias, None


def _passed_on(ctx: Any, gradient: Tensor, matrix: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of a product's inputs and of its bias, those that are asked for."""
    below = multiply(gradient, matrix.T).to(ctx.kind) if ctx.needs_input_grad[0] else None
    # bfloat16 has too few digits for a sum over all tokens
    bias = (
        gradient.sum(0, dtype=torch.promote_types(gradient.dtype, torch.float32)) if ctx.needs_input_grad[2] else None
    )
    return below, bias


class _Embed(torch.autograd.Function):
    """Rows of a weight (V, D), and the weight for its next use. The row `padding` gets no gradient, as torch has it."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, padding: int | None, uses: _Uses) -> tuple[Tensor, Tensor]:
        ctx.ids, ctx.padding, ctx.uses, ctx.first = ids, padding, uses, uses.begin()
        ctx.set_materialize_grads(False)
        return embedding(ids, weight), weight.view_as(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, _: None) -> tuple[Tensor | None, None, None, None]:
        if gradient is not None:
            if ctx.padding is not None:
                gradient = gradient.masked_fill((ctx.ids == ctx.padding).unsqueeze(-1), 0)
            ctx.uses.rows.append((ctx.ids.flatten(), gradient.flatten(0, -2)))
        return (ctx.uses.gradient() if ctx.first else None), None, None, None


class Matrices:
    """A model's linear layers, embeddings and output layer.

    `layers_too` says whether gradients may be held back in the layers between embedding and output layer as well: not where
    those are computed again in the backward pass, nor where their weights come and go (sharding).
    """

    def __init__(self, model: Any, bfloat16: bool = False, layers_too: bool = True) -> None:
        self.model, self.bfloat16 = model, bfloat16
        layers = [module for module in model.modules() if type(module) in (Linear, Conv1D)]
        embeddings = [module for module in model.modules() if _is_plain(module)]
        ends = [model.get_input_embeddings(), model.get_output_embeddings()]
        # narrow ones, as nano's, gain nothing: their gradients are added up as quickly as their factors are put together
        wide = [layer for layer in layers if bfloat16 or min(layer.weight.shape) >= WIDE]
        held_back = [*wide, *embeddings] if layers_too else []
        self._without_gradient = [layer for layer in layers if layer in wide or layer is ends[1]]
        self._with_gradient = [layer for layer in (*layers, *embeddings) if layer in ends or layer in held_back]
        self._tied = ends if ends[0].weight is ends[1].weight else []
        self._copies: dict[Any, tuple[Tensor, Tensor | None]] = {}
        self._uses: dict[Any, _Uses] = {}
        self._latest: dict[_Uses, Tensor] = {}  # the weight as its next use sees it
        # of the positions of this pass, which are no padding (n,), and how many there are; None where none is padding
        self._real: tuple[Tensor, int] | None = None

    def restart(self) -> None:
        """To be called before the first forward pass of another graph."""
        self._uses, self._latest = {}, {}

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Within it nothing is used that was made before, and after it nothing that was made within it."""
        self.forget()
        try:
            yield
        finally:
            self.forget()

    def weights_changed(self) -> None:
        """To be called when the weights have changed: of those that can, no copy is used again."""
        self.restart()
        self._copies = {
            layer: copy
            for layer, copy in self._copies.items()
            if not any(parameter.requires_grad for parameter in layer.parameters())
        }

    def forget(self) -> None:
        """To be called when all weights have been replaced."""
        self.restart()
        self._copies = {}

    def run(self, inputs: dict[str, Any], real: Tensor | None = None) -> Any:
        """The model's forward pass. In bfloat16, what is no linear layer has autocast's types.

        `real` (B, P) bool says which of its positions are no padding: linear layers give 0 at the others.
        """
        self._real = None
        # a GPU has multiplied the padding sooner than the host knows where it is
        if real is not None and not is_asynchronous(real.device) and not bool(real.all()):
            self._real = real.flatten().nonzero().squeeze(1), real.numel()
        with self._in_place():
            if not self.bfloat16:
                return self.model(**inputs)
            with torch.autocast(inputs["input_ids"].device.type, torch.bfloat16, cache_enabled=False):
                return self.model(**inputs)

    @contextmanager
    def in_float32(self) -> Iterator[None]:
        """Within it, what `bfloat16` says does not hold."""
        bfloat16, self.bfloat16 = self.bfloat16, False
        try:
            yield
        finally:
            self.bfloat16 = bfloat16

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """Within it, the modules compute what this class has for them. Outside it is the library's model as it was."""
        modules = self._with_gradient if torch.is_grad_enabled() else self._without_gradient
        for module in modules:
            module.forward = partial(self._embed if type(module) is Embedding else self._multiply, module)
        try:
            yield
        finally:
            for module in modules:
                del module.forward

    def _uses_of(self, module: Any) -> _Uses:
        key = self._tied[0] if module in self._tied else module
        if key not in self._uses:
            self._uses[key] = uses = _Uses(module.weight, by_output=type(module) is not Conv1D)
            self._latest[uses] = module.weight
        return self._uses[key]

    def _embed(self, module: Any, ids: Tensor) -> Tensor:
        if not module.weight.requires_grad:
            return embedding(ids, module.weight)
        uses = self._uses_of(module)
        rows, self._latest[uses] = _Embed.apply(self._latest[uses], ids, module.padding_idx, uses)
        return rows

    def _multiply(self, module: Any, inputs: Tensor) -> Tensor:
        matrix, offset = self._matrix(module)
        flat, bias = inputs.reshape(-1, inputs.shape[-1]), getattr(module, "bias", None)
        real = self._real if self._real is not None and self._real[1] == len(flat) else None
        if real is not None:
            flat = take_distinct(flat, real[0])
        if not torch.is_grad_enabled():
            out = multiply(flat.to(matrix.dtype), matrix, offset)
        elif not module.weight.requires_grad:
            out = _MultiplyFrozen.apply(flat, matrix, bias, offset)
        else:
            uses = self._uses_of(module)
            out, self._latest[uses] = _Multiply.apply(flat, self._latest[uses], bias, matrix, offset, uses)
        if real is not None:
            out = put_back(out, *real)
        return out.view(*inputs.shape[:-1], out.shape[-1])

    def _matrix(self, module: Any) -> tuple[Tensor, Tensor | None]:
        """(in, out) and the bias (out,), in the arithmetic's type, without gradient."""
        if module not in self._copies:
            weight, bias = module.weight.detach(), getattr(module, "bias", None)
            pair = (weight if type(module) is Conv1D else weight.T), None if bias is None else bias.detach()
            if not self.bfloat16:
                return pair
            matrix, offset = pair
            self._copies[module] = (
                matrix.to(torch.bfloat16),
                None if offset is None else offset.to(torch.bfloat16),
            )
        return self._copies[module]


def _is_plain(module: Any) -> bool:
    """Whether a module is an embedding and nothing else."""
    return type(module) is Embedding and module.max_norm is None and not module.scale_grad_by_freq and not module.sparse
