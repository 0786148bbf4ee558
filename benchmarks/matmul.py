"""MKL and oneDNN on the products of an update: `python -m benchmarks.matmul [--threads 2] [--shape gpt2]`.

Milliseconds of each product by torch (MKL), and by oneDNN, which pgsrm.child.matmul takes where it pays. In turn, in one
process; the lower quartile of half a second each.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.update import SHAPES
from pgsrm.child import matmul

ROWS = (13, 50, 234)  # of GPT-2 on color, batch 50: the shared prefix, a token a response, the prompts


def quartile(product: Callable[[], Tensor], seconds: float) -> float:
    """Lower quartile of the seconds a call."""
    found: list[float] = []
    end = time.perf_counter() + seconds
    while len(found) < 3 or time.perf_counter() < end:
        started = time.perf_counter()
        product()
        found.append(time.perf_counter() - started)
    return sorted(found[1:])[len(found) // 4]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], prog="python -m benchmarks.matmul")
    parser.add_argument("--shape", choices=list(SHAPES), default="gpt2")
    parser.add_argument("--threads", type=int, help="default: torch's choice")
    parser.add_argument("--seconds", type=float, default=0.5, help="how long each product is made by each library")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    width, vocabulary = SHAPES[args.shape].width, SHAPES[args.shape].vocabulary
    sizes = [(rows, width, 4 * width) for rows in ROWS] + [(rows, 4 * width, width) for rows in ROWS]
    sizes += [(50, width, vocabulary), (100, vocabulary, width), (width, 300, 4 * width), (vocabulary, 100, width)]
    print(f"{args.shape}, {torch.get_num_threads()} threads; taken here: {_choice(matmul.prefers_onednn())}")
    print(f"{'rows':>6}{'inner':>8}{'columns':>9}{'MKL, ms':>10}{'oneDNN, ms':>12}{'ratio':>8}")
    for rows, inner, columns in sizes:
        # the last two kinds are gradients of weights, whose left factor is transposed
        left = torch.randn(inner, rows).T if inner < rows else torch.randn(rows, inner)
        right = torch.randn(inner, columns)
        usual = quartile(lambda a=left, b=right: a @ b, args.seconds)
        other = quartile(lambda a=left, b=right: matmul.by_onednn(a, b, None), args.seconds)
        print(
            f"{rows:6}{inner:8}{columns:9}{usual * 1000:10.3f}{other * 1000:12.3f}{usual / other:8.2f}",
            flush=True,
        )


def _choice(onednn: bool) -> str:
    return f"oneDNN from {matmul.WIDE} wide on" if onednn else "MKL"


if __name__ == "__main__":
    main()
