"""How often an interval over seeds holds the true number: `python -m benchmarks.coverage [--repeat 2000] [--over-tasks 500]`.

Draws seeds from distributions whose mean is known, and counts for Student's t and the percentile bootstrap, both as the
analysis has them, how often the 95% interval holds it. `skewed` is lognormal with a coefficient of variation of 0.5;
`clustered` is two outcomes, 0.2 in a fifth of the cases, else 0.8, with a little noise: a seed that sometimes fails to learn.

Then the same for what is taken over five tasks, each with a level and a scale of its own, under two rewards that are
normal and half a standard deviation apart: the interquartile mean and the probability of improvement.
"""

import argparse
from collections.abc import Callable

import numpy as np

from pgsrm.analysis.intervals import bootstrap_band, interquartile_mean, mean_interval, probability_of_improvement

SEEDS = (3, 5, 10, 20)
SIGMA = float(np.sqrt(np.log(1 + 0.5**2)))
LEVELS = np.array([0.85, 0.55, 0.88, 0.9, 0.4])[:, None]  # of five tasks
SCALES = np.array([0.005, 0.02, 0.01, 0.003, 0.08])[:, None]  # standard deviations over their seeds
APART = 0.5  # standard deviations between two rewards
IMPROVEMENT = 0.638163  # P(a > b) = Phi(APART / sqrt(2))


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
    estimates = [mean_interval(list(sample)) for sample in values.T]
    by_t = np.mean([e.low <= mean <= e.high for e in estimates])
    return float(by_t), float(np.mean((low <= mean) & (mean <= high)))


def coverage_over_tasks(seeds: int, repeat: int) -> tuple[float, float]:
    """Share of `repeat` draws in which the intervals of IQM and P over five tasks hold the true ones."""
    rng = np.random.default_rng(1)
    held = np.zeros(2)
    for _ in range(repeat):
        a, b = (LEVELS + SCALES * (rng.standard_normal((len(LEVELS), seeds)) + shift) for shift in (APART, 0.0))
        mean, improvement = interquartile_mean(b.tolist()), probability_of_improvement(a.tolist(), b.tolist())
        held += (mean.low <= LEVELS.mean() <= mean.high, improvement.low <= IMPROVEMENT <= improvement.high)
    return float(held[0] / repeat), float(held[1] / repeat)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeat", type=int, default=2000)
    parser.add_argument("--over-tasks", type=int, default=500, help="draws of five tasks, with a bootstrap each")
    args = parser.parse_args()
    print(f"{'':12}{'seeds':>6}{'t':>8}{'bootstrap':>11}    (share of {args.repeat}; 0.95 is meant)")
    for name in DISTRIBUTIONS:
        for seeds in SEEDS:
            by_t, by_bootstrap = coverage(name, seeds, args.repeat)
            print(f"{name:12}{seeds:6}{by_t:8.3f}{by_bootstrap:11.3f}")
    print(f"\n{'':12}{'seeds':>6}{'IQM':>8}{'P':>11}    (share of {args.over_tasks}; 0.95 is meant)")
    for seeds in SEEDS:
        of_mean, of_improvement = coverage_over_tasks(seeds, args.over_tasks)
        print(f"{'five tasks':12}{seeds:6}{of_mean:8.3f}{of_improvement:11.3f}")


if __name__ == "__main__":
    main()
