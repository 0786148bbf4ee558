"""Matrix products on a CPU by the faster of the two libraries that torch brings.

torch multiplies float32 matrices by Intel's MKL, which on other makers' processors falls behind, most of all with several
threads and few rows; bfloat16 ones by oneDNN. Of GPT-2's size they take up to 2.5 times as long as by oneDNN on an AMD EPYC
(`python -m benchmarks.matmul`).
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


@cache
def prefers_onednn() -> bool:
    """Whether this machine's float32 products are better made by oneDNN. The answer is the machine's, not the moment's."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    # an operator of torch's own compiler, not documented: without it everything is as torch has it
    if platform.machine() != "x86_64" or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    processor = Path("/proc/cpuinfo")
    return processor.exists() and "GenuineIntel" not in processor.read_text()


def multiply(left: Tensor, right: Tensor, offset: Tensor | None = None) -> Tensor:
    """The product left (m, k) @ right (k, n) + offset (n,), k > 0, without gradient."""
    smallest, middle, largest = sorted((*left.shape, right.shape[1]))
    # of a transposed left matrix, as in a weight's gradient, MKL makes the better use there
    by_tokens = largest >= VOCABULARY and smallest >= ROWS and left.is_contiguous()
    if (middle >= WIDE or by_tokens) and left.dtype == torch.float32 and left.device.type == "cpu" and prefers_onednn():
        return by_onednn(left, right, offset)
    return left @ right if offset is None else torch.addmm(offset, left, right)


def by_onednn(left: Tensor, right: Tensor, offset: Tensor | None) -> Tensor:
    """`multiply` by oneDNN, for float32 on a CPU."""
    return torch.ops.mkldnn._linear_pointwise(left, right.T, offset, "none", [], "")
