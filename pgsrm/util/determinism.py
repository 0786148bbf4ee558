"""Sums in one order on a GPU too, so that a resumed run has the numbers of one that was not cut off."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def in_one_order(wanted: bool) -> Iterator[None]:
    """Within it, if `wanted`, torch takes the GPU kernels that give the same bits each time, and raises where it has none."""
    before = torch.are_deterministic_algorithms_enabled()
    switches: Any = torch.utils.deterministic
    filling = switches.fill_uninitialized_memory
    if wanted:
        # else torch writes NaN into all that its kernels are about to write
        switches.fill_uninitialized_memory = False
        # without it torch takes cuBLAS to have no fixed order
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        switches.fill_uninitialized_memory = filling
