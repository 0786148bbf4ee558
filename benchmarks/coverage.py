"""How often an interval over seeds holds the true mean: `python -m benchmarks.coverage [--repeat 2000]`.

Draws seeds from distributions whose mean is known, and counts for Student's t and the percentile bootstrap, both as the
analysis has them, how often the 95% interval holds it. `skewed` is lognormal with a coefficient of variation of 0.5;
`clustered` is two outcomes, 0.2 in a fifth of the cases, else 0.8, with a little noise: a seed that sometimes fails to learn.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "analysis"))

from intervals import bootstrap_band, mean_interval

SEEDS = (3, 5, 10, 20)
SIGMA = float(np.sqrt(np.log(1 + 0.5**2)))


def clustered(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return np.where(rng.random(shape) < 0.2, 0.2, 0.8) + rng.normal(0, 0.02, shape)


# Name -> how to draw (seeds, repeats), and the true mean.
DISTRIBUTIONS: dict[str, tuple[Callable[[np.random.Generator, tuple[int, int]], np.ndarray], float]] = {
    "normal": (lambda rng, shape: rng.normal(0.6, 0.05, shape), 0.6),
    "skewed": (lambda rng, shape: rng.lognormal(-(SIGMA**2) / 2, SIGMA, shape), 1.0),
    "clustered": (clustered, 0.2 * 0.2 + 0.8 * 0.8),
}


def coverage(name: str, seeds: int, repeat: int) -> tuple[float, float]:
    """Share of `repeat` draws in which Student's t and the bootstrap hold the true mean."""
    draw, mean = DISTRIBUTIONS[name]
    values = draw(np.random.default_rng(1), (seeds, repeat))
    low, high = bootstrap_band(values)
    estimates = [mean_interval(list(each)) for each in values.T]
    by_t = np.mean([e.low <= mean <= e.high for e in estimates])
    return float(by_t), float(np.mean((low <= mean) & (mean <= high)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeat", type=int, default=2000)
    args = parser.parse_args()
    print(f"{'':12}{'seeds':>6}{'t':>8}{'bootstrap':>11}    (share of {args.repeat}; 0.95 is meant)")
    for name in DISTRIBUTIONS:
        for seeds in SEEDS:
            by_t, by_bootstrap = coverage(name, seeds, args.repeat)
            print(f"{name:12}{seeds:6}{by_t:8.3f}{by_bootstrap:11.3f}")


if __name__ == "__main__":
    main()
