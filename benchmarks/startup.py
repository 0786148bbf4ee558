"""How long the command line takes to answer: `python -m benchmarks.startup [--repeat 5]`.

Wall-clock and user CPU seconds of each command in a process of its own, medians, with the ratio of user seconds to those of
`import hydra`, without which no command line of Hydra's can be. Training's heavy imports stand last, for orientation.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HYDRA = "import hydra"
RUN = ["-m", "pgsrm.run"]

# What is shown -> Python's arguments and the exit code that the command must have.
COMMANDS: dict[str, tuple[list[str], int]] = {
    HYDRA: (["-c", "import hydra"], 0),
    "--help": ([*RUN, "--help"], 0),
    "--cfg job": ([*RUN, "--cfg", "job"], 0),
    "config error": ([*RUN, "ppo.batch_size=0"], 2),
    "error in a file": ([*RUN, "task.data=nowhere.csv"], 2),
    "config error, sweep": ([*RUN, "-m", "ppo.batch_size=0", "seed=0,1"], 2),
    "torch, transformers": (["-c", "import torch; from transformers import AutoModelForCausalLM, AutoTokenizer"], 0),
}


def environment(folder: str) -> dict[str, str]:
    """The checkout to import from, and compiled modules as an installed package has them, kept in `folder`."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "launchers")])
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": paths, "PYTHONPYCACHEPREFIX": f"{folder}/compiled", "HF_HUB_OFFLINE": "1"}


def measure(arguments: list[str], code: int, folder: str) -> tuple[float, float]:
    """Wall-clock and user CPU seconds of one call, made in `folder`."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime, time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment(folder), capture_output=True, text=True
    )
    wall = time.perf_counter() - started
    if done.returncode != code:
        sys.exit(f"python {' '.join(arguments)}: exit code {done.returncode} instead of {code}\n{done.stderr[-2000:]}")
    return wall, resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeat", type=int, default=5, help="calls of each command, in turn")
    args = parser.parse_args()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(args.repeat + 1):
            for name, (arguments, code) in COMMANDS.items():
                measured = measure(arguments, code, folder)
                if turn:  # the first compiles the modules
                    times[name].append(measured)
    medians = {
        name: [statistics.median(values) for values in zip(*pairs, strict=True)] for name, pairs in times.items()
    }
    print(f"{'':22}{'wall s':>8}{'user s':>8}{'x hydra':>9}    (median of {args.repeat})")
    for name, (wall, user) in medians.items():
        print(f"{name:22}{wall:8.2f}{user:8.2f}{user / medians[HYDRA][1]:9.2f}")


if __name__ == "__main__":
    main()
