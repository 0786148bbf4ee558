"""The allocators' habits. On Linux an update's large tensors are mapped and unmapped at every use otherwise."""

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_KEEP = 1 << 30


def keep_freed_memory() -> None:
    """Let glibc reuse freed blocks of up to 1 GiB instead of returning them to the system.

    Page faults of fresh memory cost more than much of the arithmetic on it (`python -m benchmarks.allocator` measures it).
    Elsewhere than on glibc nothing happens. torch then asks for pages of 2 MiB where a tensor is that large, unless the
    environment says otherwise; it reads this when it makes its first tensor.
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
