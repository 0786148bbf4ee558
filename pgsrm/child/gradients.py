"""Gradients that torch would add up slowly: of rows that repeat, and of an embedding that is the output layer's weight.

Both are exact: the same sums in another order.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear


class _TakeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, index: Tensor) -> Tensor:
        ctx.rows, ctx.index = len(tensor), index
        return tensor.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # as a product with ones: torch adds element by element, which takes ten times as long on a CPU
        (gradient,) = gradients
        ones = gradient.new_zeros(ctx.rows, len(gradient))
        ones[ctx.index, torch.arange(len(gradient), device=gradient.device)] = 1
        return (ones @ gradient.flatten(1)).view(ctx.rows, *gradient.shape[1:]), None


def take_rows(tensor: Tensor, index: Tensor) -> Tensor:
    """`tensor[index]` along the first dimension, for an `index` (n,) that repeats rows of a tensor of finite numbers."""
    return _TakeRows.apply(tensor, index) if tensor.requires_grad else tensor.index_select(0, index)


class _Embed(torch.autograd.Function):
    """Rows of a weight (V, D), and the weight itself for whoever uses it next."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        ctx.ids, ctx.shape = ids, weight.shape
        ctx.set_materialize_grads(False)
        return weight.view_as(weight), embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None]:
        whole, rows = gradients
        if rows is None:
            return whole, None
        if whole is None:
            whole = rows.new_zeros(ctx.shape)
        used, place = torch.unique(ctx.ids, return_inverse=True)
        added = torch.ops.aten.embedding_dense_backward(rows, place, len(used), -1, False)
        whole[used] += added  # no one else holds it: it comes from the output layer, or from another _Embed
        return whole, None


class TiedEmbedding:
    """A model's input embedding and output layer where both are one weight (V, D).

    Left to autograd, each forward pass makes a gradient of the vocabulary's size for its few tokens, which is filled with
    zeros and added to the output layer's: three such passes were a sixth of an update of nano, and more of GPT-2's. Here
    the weight goes through the embeddings of an update to the output layer, and its gradient the other way, taking up the
    tokens' rows in place.
    """

    def __init__(self, model: Any) -> None:
        self.input, self.output = model.get_input_embeddings(), model.get_output_embeddings()
        self.tied = self.input.weight is self.output.weight and type(self.input) is torch.nn.Embedding
        self._weight: Tensor | None = None  # as the next use of it in the same graph sees it

    @contextmanager
    def used(self) -> Iterator[None]:
        """Within it, the model's embedding and output layer are these. Outside it is the library's model as it was."""
        if not self.tied:
            yield
            return
        for module, forward in ((self.input, self._embed), (self.output, self._project)):
            module.forward = forward
        try:
            yield
        finally:
            for module in (self.input, self.output):
                del module.forward

    def restart(self) -> None:
        """To be called before the first forward pass of another graph."""
        self._weight = None

    def _embed(self, ids: Tensor) -> Tensor:
        weight = self.input.weight
        if not (torch.is_grad_enabled() and weight.requires_grad):
            return embedding(ids, weight)
        self._weight, rows = _Embed.apply(weight if self._weight is None else self._weight, ids)
        return rows

    def _project(self, hidden: Tensor) -> Tensor:
        weight = self.output.weight
        if torch.is_grad_enabled() and self._weight is not None:
            weight = self._weight
        return linear(hidden, weight, self.output.bias)
