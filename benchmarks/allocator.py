"""What `pgsrm.util.memory.keep_freed_memory` is worth: `python -m benchmarks.allocator [--task sentiment] [--updates 20]`.

Trains nano for a few updates in two processes in turn, with and without it, and prints milliseconds per update (median)
and the ratio. One thread, no record, no evaluation: sampling, reward and update alone.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 3  # processes of each kind, alternating


def measure(task: str, updates: int, keep: bool) -> float:
    """Median seconds per update, after five to warm up."""
    import torch

    from pgsrm.trainer import Trainer
    from pgsrm.util.memory import keep_freed_memory

    if keep:
        keep_freed_memory()
    torch.set_num_threads(1)
    run, seconds = Trainer.build(f"task={task}", "tracking=none"), []
    for _ in range(updates + 5):
        started = time.perf_counter()
        rollout = run.sample(run.draw_prompts())
        run.learn(rollout, run.score(rollout))
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[5:])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--task", default="sentiment")
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--measure-one", choices=["keep", "plain"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure_one:
        print(measure(args.task, args.updates, args.measure_one == "keep"))
        return
    results: dict[str, list[float]] = {"plain": [], "keep": []}
    for _ in range(ROUNDS):
        for kind, milliseconds in results.items():
            command = [sys.executable, "-m", "benchmarks.allocator", "--task", args.task, "--measure-one", kind]
            command += ["--updates", str(args.updates)]
            out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
            milliseconds.append(float(out.stdout.split()[-1]))
    plain, keep = (statistics.median(results[kind]) for kind in ("plain", "keep"))
    print(f"task={args.task}, one thread, milliseconds per update (median of {ROUNDS} processes)")
    print(f"  glibc's defaults    {plain * 1000:8.1f}")
    print(f"  keep_freed_memory   {keep * 1000:8.1f}")
    print(f"  ratio               {plain / keep:8.2f}")


if __name__ == "__main__":
    main()
