"""Several runs at once on one machine: `python -m benchmarks.together [--runs 1,2,4] [--seconds 5] task=... model=...`.

Updates per second of all of them, and as a multiple of one run's. The words are those of `python -m pgsrm.run`; nothing is
recorded or evaluated. The runs start to count when all of them have loaded and warmed up. On a GPU it says what
`hydra.launcher.runs_per_gpu` brings, and what NVIDIA's MPS does: start its daemon and run the same command again
(docs/performance.md).
"""

import argparse
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.arithmetic import synchronize
from benchmarks.methods import update_once
from benchmarks.sweep import quiet
from pgsrm.util.errors import UserError

WARM_UP = 4  # updates


def count_updates(seed: int, meeting: Path, runs: int, seconds: float, words: Sequence[str]) -> float:
    """Updates per second of one run, from when `runs` of them are in the folder `meeting`."""
    from pgsrm.trainer import Trainer

    run = Trainer.build(*words, f"seed={seed}", "tracking=none")
    device = run.policy.device.type
    for _ in range(WARM_UP):
        update_once(run)
    synchronize(device)
    (meeting / str(seed)).touch()
    while len(list(meeting.iterdir())) < runs:
        time.sleep(0.01)
    started, updates = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        update_once(run)
        updates += 1
    synchronize(device)
    return updates / (time.perf_counter() - started)


def at_once(runs: int, seconds: float, words: Sequence[str]) -> list[float]:
    """Updates per second of each of `runs` processes. One that fails ends the others, which would wait for it."""
    with tempfile.TemporaryDirectory() as meeting, tempfile.TemporaryDirectory() as compiled:
        command = [sys.executable, "-m", "benchmarks.together", "--meeting", meeting, "--runs", str(runs)]
        command += ["--seconds", str(seconds), *words]
        processes = [
            subprocess.Popen(
                [*command, "--seed", str(seed)], env=quiet(Path(compiled)), stdout=subprocess.PIPE, text=True
            )
            for seed in range(runs)
        ]
        while any(process.poll() is None for process in processes) and not any(p.returncode for p in processes):
            time.sleep(0.05)
        for process in processes:
            process.kill()
        printed = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        sys.exit(f"{runs} runs at once: one of them failed, with the message above")
    return [float(text.split()[-1]) for text in printed]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument(
        "--runs", type=_numbers, default=[1, 2], help="how many at once, one table row each (default: 1,2)"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="to count for (default: 5)")
    parser.add_argument("--meeting", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    options, words = parser.parse_known_args()
    if options.meeting:
        try:
            print(count_updates(options.seed, options.meeting, options.runs[0], options.seconds, words))
        except UserError as error:
            sys.exit(str(error))
        return
    print(
        f"{' '.join(words) or 'as a run is by default'}\n{'runs':>4}{'updates/s each':>18}{'all':>10}{'x one run':>12}"
    )
    one = math.nan  # until there was a row of one
    for runs in options.runs:
        speeds = at_once(runs, options.seconds, words)
        one = speeds[0] if runs == 1 else one
        ratio = "-" if math.isnan(one) else f"{sum(speeds) / one:.2f}"
        print(f"{runs:>4}{statistics.median(speeds):>18.2f}{sum(speeds):>10.2f}{ratio:>12}", flush=True)


def _numbers(text: str) -> list[int]:
    numbers = [int(part) for part in text.split(",")]
    if min(numbers) < 1:
        raise ValueError
    return numbers


if __name__ == "__main__":
    main()
