"""Is a policy without a reward where docs/equilibrium.md says? Trains a model under a reward that is always 0.

    python -m benchmarks.equilibrium [--model smollm2 --choices 2] [--updates N] [--results FILE.jsonl [--figure FILE.png]]

Prints for each choice of coefficients and KL estimator the predicted entropy, the entropy before training, and the measured
one: the mean of the last tenth of the updates (nats per token). `--results` adds them to a file, of which `--figure` draws all.
"""

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pgsrm

# entropy_coef, kl_coef, kl_estimator
CHOICES = [
    (0.02, 0.01, "exact"),
    (0.005, 0.01, "exact"),
    (0.01, 0.01, "exact"),
    (0.0, 0.01, "exact"),
    (0.02, 0.02, "k2"),
    (0.02, 0.04, "exact"),
    (0.02, 0.01, "k1"),
]


def silence(*, responses: Sequence[str], **_: object) -> list[float]:
    """A reward of 0 for every response."""
    return [0.0] * len(responses)


def measure(model: str, task: str, updates: int, bonus: float, pull: float, estimator: str) -> dict[str, float]:
    """Predicted entropy, entropy of the first update, and measured entropy of one run."""
    with tempfile.TemporaryDirectory() as outputs:
        run = pgsrm.train(
            f"model={model}",
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
    return {
        "predicted": predicted,
        "first update": float(entropy.iloc[0]),
        "measured": float(entropy.tail(max(1, updates // 10)).mean()),
    }


def draw(results: Sequence[dict[str, Any]], file: Path) -> None:
    """Measured over predicted entropy, a mark for each line of results; where they are equal lies the diagonal."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 4.6), layout="constrained")
    axes = figure.add_subplot()
    top = max(max(line["predicted"], line["measured"]) for line in results) + 0.5
    axes.plot([0, top], [0, top], color="0.7", linewidth=1, zorder=0)
    for model, mark in zip(sorted({line["model"] for line in results}), "os^D", strict=False):
        lines = [line for line in results if line["model"] == model]
        axes.plot([line["predicted"] for line in lines], [line["measured"] for line in lines], mark, label=model)
        names = defaultdict(list)  # of what ends at one place
        for line in lines:
            name = f"{line['entropy_coef']:g} / {line['kl_coef']:g}, {line['kl_estimator']}"
            names[round(line["predicted"], 1), round(line["measured"], 1)].append(name)
        for place, texts in names.items():
            axes.annotate("\n".join(texts), place, (7, -4), textcoords="offset points", fontsize="x-small", va="top")
    axes.set(xlabel="predicted entropy (nats per token)", ylabel="measured entropy (nats per token)")
    axes.set(xlim=(0, top * 1.15), ylim=(0, top))
    axes.set_title("A policy without a reward: entropy bonus / KL coefficient, estimator", fontsize="small")
    axes.legend(frameon=False)
    figure.savefig(file, dpi=150)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano", help="a choice of the config group `model`")
    parser.add_argument("--choices", type=int, default=len(CHOICES), help="how many of the choices, from the first")
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--task", default="color")
    parser.add_argument("--results", type=Path, help="a file in JSON lines, to which the results are added")
    parser.add_argument("--figure", type=Path, help="draw all results of that file")
    options = parser.parse_args()
    print("| model | entropy_coef | kl_coef | kl_estimator | predicted | first update | measured |")
    print("|---|---:|---:|---|---:|---:|---:|")
    for bonus, pull, estimator in CHOICES[: options.choices]:
        values = measure(options.model, options.task, options.updates, bonus, pull, estimator)
        numbers = " | ".join(f"{value:.2f}" for value in values.values())
        print(f"| {options.model} | {bonus} | {pull} | {estimator} | {numbers} |", flush=True)
        if options.results:
            line = {"model": options.model, "entropy_coef": bonus, "kl_coef": pull, "kl_estimator": estimator, **values}
            with options.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
    if options.figure and options.results:
        draw([json.loads(line) for line in options.results.read_text(encoding="utf-8").splitlines()], options.figure)


if __name__ == "__main__":
    main()
