"""CUDA graphs without a GPU: a capture that notes torch's operations, and replays them on the very tensors that they had.

As on a GPU, a replay runs none of the Python around them: what Python decided, kept or looked up stays as it was.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map


class CapturedOnCpu(TorchDispatchMode):
    """The operations within it, to be replayed."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any, list[Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.overloadpacket.__name__ not in ("_local_scalar_dense", "nonzero", "_unique2"), func  # a wait
        out = func(*args, **(kwargs or {}))
        returns = func._schema.returns
        if not any(each.alias_info is not None and not each.alias_info.is_write for each in returns):  # no view
            written = any(each.alias_info is not None for each in returns)
            self._calls.append((func, args, kwargs or {}, [] if written else tree_leaves(out)))
        return out

    def replay(self) -> None:
        """The same operations again, which autograd does not notice."""
        with torch.no_grad():
            for func, args, kwargs, outs in self._calls:
                args, kwargs = tree_map(_bare, (args, kwargs))
                for old, new in zip(outs, tree_leaves(func(*args, **kwargs)), strict=False):
                    if isinstance(old, Tensor):
                        old.data.copy_(new)


def _bare(value: Any) -> Any:
    """A tensor on the same memory whose changes are not counted."""
    return value.data if isinstance(value, Tensor) else value


def capture_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `pgsrm.policy.graphs` capture on a CPU."""
    from pgsrm.policy import graphs

    def capture(compute: Callable[[], Any], pool: Any) -> tuple[Any, Any]:
        with CapturedOnCpu() as graph:
            result = compute()
        return graph, result

    def warm_up(compute: Callable[[], Any]) -> None:
        compute()

    class Captured(graphs.Pool):
        def __init__(self, device: torch.device) -> None:
            super().__init__(device)
            self.handle: Any = "memory"

    class Anywhere:
        def __init__(self, device: torch.device) -> None:
            pass

        def __enter__(self) -> None:
            pass

        def __exit__(self, *error: object) -> None:
            pass

    monkeypatch.setattr(graphs, "_capture", capture)
    monkeypatch.setattr(graphs, "_warm_up", warm_up)
    monkeypatch.setattr(graphs, "_refusing_clearly", Anywhere)
    monkeypatch.setattr("pgsrm.policy.graphed.Pool", Captured)
