"""Is a policy without a reward where docs/equilibrium.md says? Trains nano under a reward that is always 0.

    python -m benchmarks.equilibrium [--updates N] [--task TASK]

Prints for each choice of coefficients and KL estimator the predicted entropy, the entropy before training, and the measured
one: the mean of the last tenth of the updates (nats per token).
"""

import argparse
import tempfile
from collections.abc import Sequence

import pgsrm

# entropy_coef, kl_coef, kl_estimator
CHOICES = [
    (0.02, 0.01, "exact"),
    (0.01, 0.01, "exact"),
    (0.005, 0.01, "exact"),
    (0.0, 0.01, "exact"),
    (0.02, 0.02, "k2"),
    (0.02, 0.04, "exact"),
    (0.02, 0.01, "k1"),
]


def silence(*, responses: Sequence[str], **_: object) -> list[float]:
    """A reward of 0 for every response."""
    return [0.0] * len(responses)


def measure(task: str, updates: int, bonus: float, pull: float, estimator: str) -> tuple[float, float, float]:
    """Predicted entropy, entropy of the first update, and measured entropy of one run."""
    with tempfile.TemporaryDirectory() as outputs:
        run = pgsrm.train(
            f"task={task}",
            f"ppo.entropy_coef={bonus}",
            f"ppo.kl_coef={pull}",
            f"ppo.kl_estimator={estimator}",
            f"ppo.episodes={50 * updates}",
            "ppo.actor_lr=1e-4",
            "evaluation.text=null",
            f"evaluation.every={updates}",
            "tracking=none",
            "threads=1",
            f"paths.outputs={outputs}",
            reward=silence,
            progress=False,
        )
        entropy = run.metrics["policy/entropy"].dropna()
        predicted = float(run.evaluations["equilibrium/entropy"].iloc[0])
    return predicted, float(entropy.iloc[0]), float(entropy.tail(max(1, updates // 10)).mean())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--task", default="color")
    options = parser.parse_args()
    print("| entropy_coef | kl_coef | kl_estimator | predicted | first update | measured |")
    print("|---:|---:|---|---:|---:|---:|")
    for bonus, pull, estimator in CHOICES:
        values = measure(options.task, options.updates, bonus, pull, estimator)
        print(f"| {bonus} | {pull} | {estimator} | {' | '.join(f'{value:.2f}' for value in values)} |", flush=True)


if __name__ == "__main__":
    main()
