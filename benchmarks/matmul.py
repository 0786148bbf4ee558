"""MKL and oneDNN on the products of an update: `python -m benchmarks.matmul [--threads 2] [--shape gpt2]`.

Milliseconds of each product by torch (MKL), and by oneDNN, and which of the two pgsrm.policy.fast.matmul takes on this machine.
In turn, in one process; the lower quartile of half a second each.
"""

import argparse
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.arithmetic import Shape
from benchmarks.update import SHAPES
from pgsrm.policy.fast import matmul

ROWS = (13, 50, 234)  # of GPT-2 on color, batch 50: the shared prefix, a token per response, the prompts


def quartile(product: Callable[[], Tensor], seconds: float) -> float:
    """Lower quartile of the seconds per call."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        started = time.perf_counter()
        product()
        times.append(time.perf_counter() - started)
    return sorted(times[1:])[len(times) // 4]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], prog="python -m benchmarks.matmul")
    parser.add_argument("--shape", choices=list(SHAPES), default="gpt2")
    parser.add_argument("--threads", type=int, help="default: torch's choice")
    parser.add_argument("--seconds", type=float, default=0.5, help="how long each product is made by each library")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    print(f"{args.shape}, {torch.get_num_threads()} threads; transposed factors have a t")
    print(f"{'rows':>6}{'inner':>9}{'columns':>9}{'MKL, ms':>11}{'oneDNN, ms':>12}{'ratio':>8}  taken here")
    for (rows, inner, columns), left, right in products(SHAPES[args.shape]):
        usual = quartile(lambda a=left, b=right: a @ b, args.seconds)
        other = quartile(lambda a=left, b=right: matmul.by_onednn(a, b, None), args.seconds)
        print(
            f"{rows:6}{_mark(left)}{inner:8}{columns:9}{_mark(right)}{usual * 1000:10.3f}{other * 1000:12.3f}"
            f"{usual / other:8.2f}  {'oneDNN' if matmul.onednn_pays(left, right) else 'MKL'}",
            flush=True,
        )


def products(shape: Shape) -> Iterator[tuple[tuple[int, int, int], Tensor, Tensor]]:
    """Sizes and factors, laid out as in a GPT-2: its layers' weights are (in, out), its output layer's (out, in)."""
    width, vocabulary = shape.width, shape.vocabulary
    for inner, columns in ((width, 4 * width), (4 * width, width)):
        for rows in ROWS:
            yield (rows, inner, columns), torch.randn(rows, inner), torch.randn(inner, columns)
        # the inputs' gradient of the other of the two layers, and the forward product of a Llama's weights
        yield (ROWS[-1], inner, columns), torch.randn(ROWS[-1], inner), torch.randn(columns, inner).T
    yield (50, width, vocabulary), torch.randn(50, width), torch.randn(vocabulary, width).T
    yield (100, vocabulary, width), torch.randn(100, vocabulary), torch.randn(vocabulary, width)  # the logits' gradient
    # gradients of weights
    yield (width, 297, 4 * width), torch.randn(297, width).T, torch.randn(297, 4 * width)
    yield (vocabulary, 100, width), torch.randn(100, vocabulary).T, torch.randn(100, width)


def _mark(factor: Tensor) -> str:
    return " " if factor.is_contiguous() else "t"


if __name__ == "__main__":
    main()
