"""Time and memory of the whole analysis: `python -m benchmarks.analysis [--runs 1000] [--updates 2000] [--variants 10]`.

Makes synthetic run folders in a temporary folder (five tasks under both rewards, above ten variants as levels of an
experiment; as many seeds as it takes, lines as long as a real run's), runs `analysis/plot_figures.py` on them in a process of
its own, and prints its seconds and peak memory.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
TASKS = ("color", "antonym", "category", "copy", "sentiment")
REWARDS = ("pgsrm", "binary")
BATCH, EVALUATED = 50, 100
READ = ("reward/mean", "reward/exact_match", "policy/entropy", "policy/kl")
# What a real run's lines hold besides, and the analysis passes over.
OTHERS = (
    "reward/std", "reward/no_signal", "reward/similarity", "reward/without_vector", "response/length", "response/eos",
    "response/distinct", "response/top_share", "loss/policy", "loss/kl", "loss/actor", "loss/value", "value/mean",
    "advantage/mean", "advantage/std", "policy/ratio_max", "policy/kl_previous", "policy/kl_coef", "grad/actor_norm",
    "grad/critic_norm", "time/update",
)  # fmt: skip
EVALUATIONS = ("exact_match", "reward", "distinct", "top_share", "sampled_exact_match", "other_reward")


def write_runs(root: Path, runs: int, updates: int, variants: int) -> int:
    """Make the folders; returns the size of all metrics in bytes."""
    rng, size = np.random.default_rng(0), 0
    for number in range(runs):
        seed, variant = divmod(number, variants)
        task, reward, level = TASKS[variant % 5], REWARDS[variant // 5 % 2], variant // 10
        folder = root / f"{task}-{reward}-{level}-s{seed}"
        folder.mkdir()
        choices = {"task": task, "reward": reward, "model": "nano", "ppo": "sound"}
        config = {
            "task": {"template": "{word}", "holdout": 0.2, "max_new_tokens": 2},
            "ppo": {"episodes": updates * BATCH, "batch_size": BATCH, "actor_lr": 1e-5 * (1 + level), "kl_coef": 0.01},
            "reward": {"alpha": 4.0},
            "seed": seed,
            "choices": {**choices, **({"experiment": "rates"} if variants > 10 else {})},
        }
        (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
        status = {"state": "finished", "updates": updates, "seconds": 300.0, "commit": "0" * 40}
        (folder / "status.json").write_text(json.dumps(status))
        size += (folder / "metrics.jsonl").write_text(metrics(rng, updates))
        sample = {"prompt": "word", "reference": "a", "response": "b", "reward": 0.5, "exact_match": False}
        lines = (
            json.dumps({"update": u, **sample}) for u in range(EVALUATED, updates + 1, EVALUATED) for _ in range(10)
        )
        (folder / "samples.jsonl").write_text("".join(line + "\n" for line in lines))
    return size


def metrics(rng: np.random.Generator, updates: int) -> str:
    """The text of a metrics.jsonl: a rising reward, falling entropy, and noise."""
    x = np.arange(updates) / updates
    curves = {
        "reward/mean": 0.8 - 0.6 * np.exp(-8 * x),
        "reward/exact_match": 0.7 - 0.7 * np.exp(-8 * x),
        "policy/entropy": 0.3 + 3 * np.exp(-8 * x),
        "policy/kl": 2 - 2 * np.exp(-8 * x),
    }
    table = {name: curves.get(name, 0.5) + rng.normal(0, 0.02, updates) for name in (*READ, *OTHERS)}
    lines = []
    for update in range(updates + 1):
        row: dict[str, float] = {"update": update, "episodes": update * BATCH}
        if update:
            row |= {name: float(values[update - 1]) for name, values in table.items()}
        if update % EVALUATED == 0:
            row |= {f"eval/{kind}_{name}": 0.5 for kind in ("train", "holdout") for name in EVALUATIONS}
            row["eval/perplexity"] = 40.0
        lines.append(json.dumps(row, separators=(",", ":")) + "\n")
    return "".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument("--variants", type=int, default=10)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        runs.mkdir()
        size = write_runs(runs, args.runs, args.updates, args.variants)
        command = [
            sys.executable,
            str(ROOT / "analysis" / "plot_figures.py"),
            "--runs",
            str(runs),
            "--out",
            f"{folder}/out",
        ]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        wall = time.perf_counter() - started
        if done.returncode:
            sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        sizes = {path.name: path.stat().st_size for path in (Path(folder) / "out").iterdir()}
    shape = f"{args.runs:,} runs x {args.updates:,} updates in {args.variants} variants"
    print(f"{shape}, {size / 1e6:,.0f} MB of metrics, {len(sizes)} files of {sum(sizes.values()) / 1e6:,.1f} MB")
    print(f"  wall            {wall:8.1f} s")
    print(f"  user            {used.ru_utime:8.1f} s")
    print(f"  peak memory     {used.ru_maxrss / 1024:8,.0f} MiB")
    print(f"  report.html     {sizes['report.html'] / 1e6:8.1f} MB")


if __name__ == "__main__":
    main()
