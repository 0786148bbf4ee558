"""What makes the host wait for a GPU, counted without one: operations whose result's values or shape the host must know."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# a scalar read (.item(), bool(), float()), and results as long as the data says
ASK = ("_local_scalar_dense", "nonzero", "_unique2", "unique_dim", "unique_consecutive", "masked_select", "equal")


class _Counting(TorchDispatchMode):
    def __init__(self, waits: list[str]) -> None:
        super().__init__()
        self._waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if name in ASK or by_mask or (name == "repeat_interleave" and isinstance(args[0], Tensor)):
            self._waits.append(f"{name} {_caller()}")
        return func(*args, **(kwargs or {}))


def _caller() -> str:
    """The innermost line outside torch."""
    frames = [frame for frame in traceback.extract_stack() if "/torch/" not in frame.filename]
    frame = [frame for frame in frames if not frame.filename.endswith("waits.py")][-1]
    return f"{frame.filename}:{frame.lineno}"


@contextmanager
def waits() -> Iterator[list[str]]:
    """Within it, every such operation adds its name and the line that asked for it to the list."""
    seen: list[str] = []
    tolist = Tensor.tolist

    def counted(tensor: Tensor) -> Any:
        seen.append(f"tolist {_caller()}")
        return tolist(tensor)

    Tensor.tolist = counted  # type: ignore[method-assign]
    try:
        with _Counting(seen):
            yield seen
    finally:
        Tensor.tolist = tolist  # type: ignore[method-assign]
