"""Matrix products on a CPU by the faster of the two libraries that torch brings.

torch multiplies float32 matrices by Intel's MKL, bfloat16 ones by oneDNN. On other makers' processors MKL falls behind: with
AVX-512 in nearly all products of a wide layer, without it in some (`python -m benchmarks.matmul`).
"""

import platform
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

# Two of a product's three sizes are at least this where oneDNN pays: it makes code for every new shape, 0.7 ms each, and
# that code stays: 0.75 MB a shape of GPT-2's, at most some hundred of them. Below this MKL is as fast with one thread.
WIDE = 512
# An output layer of so many tokens is as large as a narrow model's other layers together. There oneDNN pays for so few rows.
VOCABULARY = 4096
ROWS = 32
# Without AVX-512 it takes a matrix of so many columns for it to pay, and only one that is a transpose: it reads its columns
# in order. By rows it takes up to 1.7 times as long as MKL.
COLUMNS = 2048


@cache
def prefers_onednn() -> bool:
    """Whether this machine's float32 products are better made by oneDNN, some or all of them.

    Like `onednn_pays` an answer of the machine's, not of the moment: a run that resumes computes as it did before.
    """
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    # an operator of torch's own compiler, not documented: without it everything is as torch has it
    if platform.machine() != "x86_64" or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    processor = Path("/proc/cpuinfo")
    return processor.exists() and "GenuineIntel" not in processor.read_text()


@cache
def has_avx512() -> bool:
    """Whether this machine's processor multiplies sixteen float32 numbers at once, as torch sees it."""
    return "AVX512" in torch.backends.cpu.get_cpu_capability()


def onednn_pays(left: Tensor, right: Tensor) -> bool:
    """Whether oneDNN makes the product left (m, k) @ right (k, n), in float32 on a CPU, sooner than MKL here."""
    if not prefers_onednn():
        return False
    smallest, middle, largest = sorted((*left.shape, right.shape[1]))
    if has_avx512():
        # of a transposed left matrix, as in a weight's gradient, MKL makes the better use there
        return middle >= WIDE or (largest >= VOCABULARY and smallest >= ROWS and left.is_contiguous())
    return (middle >= WIDE or smallest >= ROWS) and right.shape[1] >= COLUMNS and right.T.is_contiguous()


def multiply(left: Tensor, right: Tensor, offset: Tensor | None = None) -> Tensor:
    """The product left (m, k) @ right (k, n) + offset (n,), k > 0, without gradient."""
    if left.dtype == torch.float32 and left.device.type == "cpu" and onednn_pays(left, right):
        return by_onednn(left, right, offset)
    return left @ right if offset is None else torch.addmm(offset, left, right)


def by_onednn(left: Tensor, right: Tensor, offset: Tensor | None) -> Tensor:
    """`multiply` by oneDNN, for float32 on a CPU."""
    return torch.ops.mkldnn._linear_pointwise(left, right.T, offset, "none", [], "")
