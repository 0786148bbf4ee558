"""Memory: how the allocators keep it, and how much of it a process has needed."""

import ctypes
import os
import resource
import sys
from typing import TYPE_CHECKING

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
