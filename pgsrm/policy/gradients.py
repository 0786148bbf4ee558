"""Rows taken and put back, with gradients that torch would add up slowly. Exact: the same sums in another order."""

from typing import Any

import torch
from torch import Tensor


class _TakeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, index: Tensor) -> Tensor:
        ctx.rows, ctx.index = len(tensor), index
        return tensor.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # as a product with ones: torch adds element by element, which takes ten times as long on a CPU
        (gradient,) = gradients
        ones = gradient.new_zeros(ctx.rows, len(gradient)).scatter_(0, ctx.index.unsqueeze(0), 1)
        return (ones @ gradient.flatten(1)).view(ctx.rows, *gradient.shape[1:]), None


def take_rows(tensor: Tensor, index: Tensor) -> Tensor:
    """`tensor[index]` along the first dimension, for an `index` (n,) that repeats rows of a tensor of finite numbers."""
    return _TakeRows.apply(tensor, index) if tensor.requires_grad else tensor.index_select(0, index)


class _TakeDistinct(_TakeRows):
    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _put(gradients[0], ctx.index, ctx.rows), None


class _PutBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, index: Tensor, rows: int) -> Tensor:
        ctx.index = index
        return _put(tensor, index, rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0].index_select(0, ctx.index), None, None


def _put(tensor: Tensor, index: Tensor, rows: int) -> Tensor:
    return tensor.new_zeros(rows, *tensor.shape[1:]).index_copy_(0, index, tensor)


def take_distinct(tensor: Tensor, index: Tensor) -> Tensor:
    """`tensor[index]` along the first dimension, for an `index` (n,) in which no row is twice."""
    return _TakeDistinct.apply(tensor, index)


def put_back(tensor: Tensor, index: Tensor, rows: int) -> Tensor:
    """`rows` rows, of which those of `index` (n,) are `tensor`'s n and the others zero."""
    return _PutBack.apply(tensor, index, rows)
