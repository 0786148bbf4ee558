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
from torch.nn import Embedding, Linear
from torch.nn.functional import embedding
from transformers.pytorch_utils import Conv1D

from pgsrm.child.matmul import WIDE, multiply


class _Uses:
    """What the backward pass has found at the uses of one weight in one graph. Holds nothing of the graph itself."""

    def __init__(self, by_output: bool) -> None:
        self.by_output = by_output  # (out, in), as torch's Linear has it, and not (in, out)
        self.begun = False
        self.products: list[tuple[Tensor, Tensor]] = []  # inputs (n, in), gradients of what came out (n, out)
        self.rows: list[tuple[Tensor, Tensor]] = []  # ids (n,), gradients of their rows (n, D)

    def begin(self) -> bool:
        """Whether this is the first use."""
        first, self.begun = not self.begun, True
        return first

    def gradient(self, like: Tensor) -> Tensor | None:
        """The weight's gradient, of the shape and type of `like`; None if no use has one."""
        total = None
        if self.products:
            inputs, outputs = _join(self.products)
            left, right = (outputs, inputs) if self.by_output else (inputs, outputs)
            total = multiply(left.T, right).to(like.dtype)
        if self.rows:
            ids, gradients = _join(self.rows)
            total = torch.zeros_like(like) if total is None else total
            used, place = torch.unique(ids, return_inverse=True)
            total[used] += torch.ops.aten.embedding_dense_backward(gradients, place, len(used), -1, False)
        return total

    def bias_gradient(self, like: Tensor) -> Tensor | None:
        return _join(self.products)[1].sum(0, dtype=like.dtype) if self.products else None


def _join(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    if len(parts) > 1:
        parts[:] = [(torch.cat([a for a, _ in parts]), torch.cat([b for _, b in parts]))]
    return parts[0]


class _Multiply(torch.autograd.Function):
    """inputs (n, in) by `matrix` (in, out), which is the weight or its copy in another type; and the weight for its next use.

    `offset` is the bias in the matrix's type; `bias` the bias itself, given to the first use, which has its gradient too.
    `uses` is None for a weight that is not trained.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        matrix: Tensor,
        offset: Tensor | None,
        uses: _Uses | None,
    ) -> tuple[Tensor, Tensor | None]:
        ctx.kind, inputs = inputs.dtype, inputs.to(matrix.dtype)
        ctx.uses, ctx.weight, ctx.bias = uses, weight.detach(), bias
        ctx.first = uses is not None and uses.begin()
        ctx.save_for_backward(inputs if uses is not None else None, matrix)
        ctx.set_materialize_grads(False)
        return multiply(inputs, matrix, offset), None if uses is None else weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        (inputs, matrix), gradient = ctx.saved_tensors, gradients[0]
        below = None
        if gradient is not None and ctx.uses is not None:
            ctx.uses.products.append((inputs.detach(), gradient))  # with its graph it would hold itself
        if gradient is not None and ctx.needs_input_grad[0]:
            below = multiply(gradient, matrix.T).to(ctx.kind)
        if not ctx.first:
            return below, None, None, None, None, None
        bias = None if ctx.bias is None else ctx.uses.bias_gradient(ctx.bias)
        return below, ctx.uses.gradient(ctx.weight), bias, None, None, None


class _Embed(torch.autograd.Function):
    """Rows of a weight (V, D), and the weight for its next use."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, uses: _Uses) -> tuple[Tensor, Tensor]:
        ctx.ids, ctx.uses, ctx.weight, ctx.first = ids, uses, weight.detach(), uses.begin()
        ctx.set_materialize_grads(False)
        return embedding(ids, weight), weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None, None]:
        if gradients[0] is not None:
            ctx.uses.rows.append((ctx.ids.flatten(), gradients[0].flatten(0, -2)))
        return (ctx.uses.gradient(ctx.weight) if ctx.first else None), None, None


class Matrices:
    """A model's linear layers, embeddings and output layer.

    `layers_too` says whether gradients may be held back in the layers between embedding and output layer as well: not where
    those are computed again in the backward pass.
    """

    def __init__(self, model: Any, bfloat16: bool = False, layers_too: bool = True) -> None:
        self.model, self.bfloat16 = model, bfloat16
        modules = [module for module in model.modules() if type(module) in (Linear, Conv1D) or _is_plain(module)]
        ends = [model.get_input_embeddings(), model.get_output_embeddings()]
        # narrow ones, as nano's, gain nothing: their gradients are added up as quickly as their factors are put together
        self._without_gradient = [each for each in modules if bfloat16 or min(each.weight.shape) >= WIDE]
        layers = self._without_gradient if layers_too else []
        self._with_gradient = [each for each in modules if each in ends or each in layers]
        self._tied = ends if ends[0].weight is ends[1].weight else []
        self._copies: dict[Any, tuple[Tensor, Tensor | None]] = {}
        self._uses: dict[Any, _Uses] = {}
        self._latest: dict[_Uses, Tensor] = {}  # the weight as its next use sees it

    def restart(self) -> None:
        """To be called before the first forward pass of another graph."""
        self._uses, self._latest = {}, {}

    def weights_changed(self) -> None:
        """To be called when the weights have changed: of those that can, no copy is used again."""
        self.restart()
        self._copies = {module: copy for module, copy in self._copies.items() if not module.weight.requires_grad}

    def forget(self) -> None:
        """To be called when all weights have been replaced."""
        self.restart()
        self._copies = {}

    def run(self, inputs: dict[str, Any]) -> Any:
        """The model's forward pass. In bfloat16, what is no linear layer has autocast's types."""
        with self._in_place():
            if not self.bfloat16:
                return self.model(**inputs)
            with torch.autocast(inputs["input_ids"].device.type, torch.bfloat16, cache_enabled=False):
                return self.model(**inputs)

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
        weight = self._tied[0] if module in self._tied else module
        if weight not in self._uses:
            self._uses[weight] = uses = _Uses(by_output=type(module) is not Conv1D)
            self._latest[uses] = module.weight
        return self._uses[weight]

    def _embed(self, module: Any, ids: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and module.weight.requires_grad):
            return embedding(ids, module.weight)
        uses = self._uses_of(module)
        rows, self._latest[uses] = _Embed.apply(self._latest[uses], ids, uses)
        return rows

    def _multiply(self, module: Any, inputs: Tensor) -> Tensor:
        matrix, offset = self._matrix(module)
        flat = inputs.reshape(-1, inputs.shape[-1])
        if not torch.is_grad_enabled():
            out = multiply(flat.to(matrix.dtype), matrix, offset)
        elif not module.weight.requires_grad:
            out, _ = _Multiply.apply(flat, module.weight, None, matrix, offset, None)
        else:
            uses = self._uses_of(module)
            bias, weight = (None if uses.begun else module.bias), self._latest[uses]
            out, self._latest[uses] = _Multiply.apply(flat, weight, bias, matrix, offset, uses)
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
    return type(module) is Embedding and module.padding_idx is None and module.max_norm is None
