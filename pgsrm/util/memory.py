"""Memory: how the allocators keep it, and how much of it a process has needed."""

import ctypes
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pgsrm.util.errors import UserError, reason

if TYPE_CHECKING:
    import torch

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_KEEP = 1 << 30
GIB = 1 << 30


def keep_freed_memory() -> None:
    """Let glibc reuse freed blocks of up to 1 GiB instead of returning them to the system.

    On Linux an update's large tensors are mapped and unmapped at every use otherwise, and page faults of fresh memory cost more
    than much of the arithmetic on it (`python -m benchmarks.allocator` measures it). Elsewhere than on glibc nothing happens.
    torch then asks for pages of 2 MiB where a tensor is that large, unless the environment says otherwise; it reads this when it
    makes its first tensor.
    """
    if not sys.platform.startswith("linux"):
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_M_MMAP_THRESHOLD, _KEEP)
    mallopt(_M_TRIM_THRESHOLD, _KEEP)
    mallopt(_M_TOP_PAD, 64 << 20)


def peak_memory(device: "torch.device") -> dict[str, float]:
    """The metrics `memory/*`, in GiB: what this process has needed at most since it began. They do not wait for a GPU.

    `memory/resident_peak` is of its resident memory; `memory/cuda_peak`, where `device` is a CUDA device, of what torch's tensors
    take there.
    """
    metrics = {"memory/resident_peak": _resident_peak() / GIB}
    if device.type == "cuda":
        import torch

        metrics["memory/cuda_peak"] = torch.cuda.max_memory_allocated(device) / GIB
    return metrics


@contextmanager
def says_what_takes_less(micro_batch: int | None, batch: int) -> Iterator[None]:
    """Around a run: a lack of memory, of a GPU or of this machine, becomes a UserError that names what takes less.

    micro_batch: the setting; without it all rows of the process, `batch`, are computed at once.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_lack_of_memory(error):
            raise
        rows = min(micro_batch or batch, batch)
        at_once = "1 row at once is" if rows == 1 else f"{rows} rows at once are"
        fewer = f"set it to {rows // 2}, or " if rows > 1 else "set "
        raise UserError(
            f"ppo.micro_batch={micro_batch or 'null'}: {at_once} too many for the memory ({reason(error)}); "
            f"{fewer}model.gradient_checkpointing=true or model.lora={{rank: 8}}, or free some memory and start again"
        ) from error


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: torch has a class for a GPU's, and its allocator for a CPU raises a RuntimeError."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"MemoryError", "OutOfMemoryError"}) or "DefaultCPUAllocator" in str(error)


def _resident_peak() -> int:
    """In bytes.

    On Linux the system's own count for a process begins with what its parent had, so that a run which a large program started
    would seem as large; VmHWM is of the process alone.
    """
    try:
        with open("/proc/self/status", "rb") as file:
            for line in file:
                if line.startswith(b"VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
