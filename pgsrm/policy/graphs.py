"""Computations that a GPU repeats as CUDA graphs: the host launches all of their kernels at once.

A recording's shapes and addresses are fixed: what changes is copied into tensors that stay where they are, and what comes out
is written over by the next replay. On a CPU the same computation is made again instead, so that all but the capture runs there.
"""

import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pgsrm.policy.refusal import refusing
from pgsrm.util.determinism import in_one_order

WARM_UP = 2  # passes before the capture, in which libraries set themselves up


class Pool:
    """The memory of recordings of a device, which use it in turn: what one leaves in it, the next may write over."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.handle = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._awaited: weakref.ref[Pass] | None = None

    @property
    def awaits_backward(self) -> bool:
        """Whether a pass's backward pass may still come, for which the memory has to stay as it is."""
        last = None if self._awaited is None else self._awaited()
        return last is not None and not last.over

    def begin(self) -> "Pass":
        """A forward pass begins; its backward pass may come for as long as the value is held."""
        begun = Pass()
        self._awaited = weakref.ref(begun)
        return begun


class Pass:
    """A pass of a `DifferentiableRecording`, whose backward pass is over or may still come."""

    over = False


@contextmanager
def _refusing_clearly(device: torch.device) -> Iterator[None]:
    """Within it, what can't be captured is a UserError."""
    refused = refusing("model.policy=graphed: the model can't be recorded as CUDA graphs", "set model.policy=fast")
    with refused, torch.cuda.device(device):
        yield


def _warm_up(compute: Callable[[], Any]) -> None:
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(WARM_UP):
            compute()
    torch.cuda.synchronize()


def _capture(compute: Callable[[], Any], pool: Pool) -> tuple[Any, Any]:
    """A CUDA graph of `compute`, and its result, which each replay writes again."""
    graph, collects = torch.cuda.CUDAGraph(), gc.isenabled()
    gc.disable()  # what an earlier policy has left could be destroyed in the middle of it
    try:
        # other threads, such as a logger's or a collective's, may ask the GPU for something meanwhile
        with torch.cuda.graph(graph, pool=pool.handle, capture_error_mode="thread_local"):
            result = compute()
    finally:
        if collects:
            gc.enable()
    return graph, result


class Parameters:
    """A model's trained parameters, and how a recording reads them: through other leaves of the same memory.

    Autograd keeps a node for each parameter as long as any graph holds it, and the node keeps the stream that it was made on. A
    parameter whose node an earlier micro-batch's graph holds would draw that stream into a capture, which CUDA refuses.
    """

    def __init__(self, model: Any) -> None:
        self.tensors = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._gradients: list[Tensor] | None = None
        number = {id(parameter): place for place, parameter in enumerate(self.tensors)}
        self._places = [
            (module, name, number[id(parameter)])
            for module in model.modules()
            for name, parameter in module._parameters.items()
            if id(parameter) in number
        ]

    def leaves(self) -> list[Tensor]:
        """New ones: the values are those that the parameters have at any time."""
        return [parameter.detach().requires_grad_() for parameter in self.tensors]

    def gradients(self) -> list[Tensor]:
        """Where every recording leaves the parameters' gradients, to be copied before another one's; made when first asked for."""
        if self._gradients is None:
            self._gradients = [torch.empty_like(parameter, requires_grad=False) for parameter in self.tensors]
        return self._gradients

    @contextmanager
    def replaced(self, leaves: Sequence[Tensor]) -> Iterator[None]:
        """Within it, the model's modules have `leaves` in the place of the parameters."""
        for module, name, place in self._places:
            module._parameters[name] = leaves[place]
        try:
            yield
        finally:
            for module, name, place in self._places:
                module._parameters[name] = self.tensors[place]


class Recording:
    """`compute` without gradient: a function of nothing but tensors that stay where they are."""

    def __init__(self, compute: Callable[[], Sequence[Tensor]], pool: Pool) -> None:
        self._compute, self._graph = compute, None
        if pool.handle is not None:
            with _refusing_clearly(pool.device), torch.no_grad():
                _warm_up(compute)
                self._graph, self._result = _capture(compute, pool)

    def replay(self) -> list[Tensor]:
        """Copies of what comes out."""
        if self._graph is None:
            with torch.no_grad():
                return list(self._compute())
        self._graph.replay()
        return [tensor.clone() for tensor in self._result]


class DifferentiableRecording:
    """`compute` with gradient: of tensors that stay where they are, a result to be differentiated and one without gradient.

    One pass at a time: until its backward pass is over or can't come, no recording of the pool may be replayed
    (`Pool.awaits_backward`). `one_order`: as `in_one_order` takes it, of the backward pass.
    """

    def __init__(
        self, compute: Callable[[], tuple[Tensor, Tensor]], parameters: Parameters, pool: Pool, one_order: bool
    ) -> None:
        self._compute, self._parameters, self._pool, self._one_order = compute, parameters, pool, one_order
        self._leaves = parameters.leaves()  # what the recorded pass differentiates by
        self._graphs: tuple[Any, Any] | None = None  # of the forward and of the backward pass
        if pool.handle is not None:
            self._record()

    def _record(self) -> None:
        def whole() -> None:
            leaves = self._parameters.leaves()
            with self._parameters.replaced(leaves):
                result, _ = self._compute()
            self._differentiate(result, leaves, torch.zeros_like(result))

        def differentiate() -> list[Tensor | None]:
            gradients = self._differentiate(result, self._leaves, self._gradient)
            kept = [None if gradient is None else buffer for gradient, buffer in zip(gradients, buffers, strict=True)]
            _copy(gradients, kept)
            return kept

        buffers = self._parameters.gradients()  # one set of all recordings: each is as large as the model

        with _refusing_clearly(self._pool.device), torch.enable_grad():
            _warm_up(whole)
            with self._parameters.replaced(self._leaves):
                forward, (result, kept) = _capture(self._compute, self._pool)
            self._gradient = torch.zeros_like(result)
            backward, self._gradients = _capture(differentiate, self._pool)
        self._graphs = forward, backward
        # without their graph, whose memory is free for other recordings' passes from here on
        self._result, self._kept = result.detach(), kept.detach()

    def _differentiate(self, result: Tensor, leaves: Sequence[Tensor], gradient: Tensor) -> tuple[Tensor | None, ...]:
        with in_one_order(self._one_order):
            return torch.autograd.grad(result, leaves, gradient, allow_unused=True)

    def replay(self) -> tuple[Tensor, Tensor]:
        """The result, which holds until the next pass, and a copy of the one without gradient."""
        result: Tensor = _Replayed.apply(self, self._pool.begin(), *self._parameters.tensors)
        return result, self._kept.clone()

    def forward(self) -> Tensor:
        """The result of a pass, which is replayed for it."""
        if self._graphs is not None:
            self._graphs[0].replay()
        else:
            with torch.enable_grad(), self._parameters.replaced(self._leaves):
                self._result, kept = self._compute()
            self._kept = kept.detach()
        return self._result.detach()

    def backward(self, gradient: Tensor) -> list[Tensor | None]:
        """Replay the backward pass; copies of the parameters' gradients, None of those that have no say."""
        if self._graphs is None:
            return list(self._differentiate(self._result, self._leaves, gradient))
        self._gradient.copy_(gradient)
        self._graphs[1].replay()
        copies = [None if tensor is None else torch.empty_like(tensor) for tensor in self._gradients]
        _copy(self._gradients, copies)
        return copies


def _copy(given: Sequence[Tensor | None], into: Sequence[Tensor | None]) -> None:
    """Copy tensors into those of the same places; None of both are left out."""
    torch._foreach_copy_([t for t in into if t is not None], [t for t in given if t is not None])


class _Replayed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, recording: DifferentiableRecording, begun: Pass, *parameters: Tensor) -> Tensor:
        ctx.recording, ctx.begun = recording, begun
        return recording.forward()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.begun.over:
            raise RuntimeError("a recorded pass has one backward pass")
        ctx.begun.over = True
        return None, None, *ctx.recording.backward(gradients[0])
