"""One PPO update by this package and by what else a user could pick: `python -m benchmarks.update [--shape gpt2] ...`.

An update is: sample a batch on a task's prompts, score it with a reward that costs nothing, one gradient step (ppo=sound).
`--workload` chooses other updates as well: `WORKLOADS` below.
  fast        this package, as a run does it
  simple      the same with model.policy=simple
  graphed     the same with model.policy=graphed: CUDA graphs, on an NVIDIA GPU
  micro       fast, in five micro-batches; micro-whitened: the same with ppo.whiten_advantages=true, which takes a forward pass
              over the whole batch before the gradient's
  plain       the definition that it is tested against (pgsrm/ppo/plain.py), which is not meant to be quick
  batched     transformers' `generate` and full forward passes on the padded batch, losses in plain torch (baselines.py)
  one_by_one  the same, one prompt at a time, as the notebooks released with the paper do
  trl-grpo    TRL's trainers, where TRL is installed
  trl-rloo
Each method runs in a process of its own, several rounds in turn; three updates that warm up, and what a run does once, such as
the reference's reading of all prompts, is not timed. The models have the given shape and random weights, which practically
never sample EOS: every response has all its tokens, and most differ. nano is the shipped model; smollm2 is the published one
where `python -m pgsrm.models download smollm2` has fetched it. Below the table stands where the time of `fast` goes.

The lower bound is the multiply-adds of an update that computes nothing twice (arithmetic.py) at the speed of a matrix product
of the model's size, measured in the same run with the same type and threads.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.arithmetic import Shape, Work
from benchmarks.methods import METHODS, READY, Measured, Setup
from pgsrm.models.settings import local_files

ROOT = Path(__file__).resolve().parent.parent
NANO = ROOT / "pgsrm" / "nano" / "weights"
SHAPES = {
    "tiny": Shape(layers=2, width=32, heads=4, vocabulary=8192, positions=256),
    "nano": Shape(layers=4, width=192, heads=6, vocabulary=8192, positions=256),
    "gpt2": Shape(layers=12, width=768, heads=12, vocabulary=50257, positions=1024),
    "smollm2": Shape(
        layers=30, width=576, heads=9, vocabulary=49152, positions=8192, key_heads=3, gated=1536
    ),  # a Llama
    "gpt2-large": Shape(layers=36, width=1280, heads=20, vocabulary=50257, positions=1024),
}
# what updates of a kind of task are: word tasks, sentences, continuations with per-token values and two epochs, summaries
WORKLOADS = {
    "word": {"task": "antonym", "batch": 50, "new_tokens": 2, "ppo": "sound"},
    "sentence": {"task": "sentiment", "batch": 50, "new_tokens": 10, "ppo": "sound"},
    "relc": {"task": "sentiment_control", "batch": 32, "new_tokens": 19, "ppo": "per_token"},
    "summary": {"task": "summary", "batch": 32, "new_tokens": 24, "ppo": "per_token"},
}


@dataclass(frozen=True)
class Row:
    """A method's line in the table."""

    method: str
    median: float  # seconds per update
    best: float
    peak_gib: float
    episodes: float  # a second, at the median

    @staticmethod
    def of(method: str, rounds: Sequence[Measured], batch: int) -> "Row":
        seconds = [second for measured in rounds for second in measured.seconds]
        median = statistics.median(seconds)
        return Row(method, median, min(seconds), max(measured.peak_gib for measured in rounds), batch / median)


class MethodProcess:
    """`python -m benchmarks.methods`, warmed up and waiting for `go`."""

    def __init__(self, method: str, setup: Setup) -> None:
        self.method = method
        self._errors = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115 closed by `result`
        self._process = _start(method, asdict(setup), self._errors)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == READY:
                return
        self._fail()

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def result(self) -> Measured:
        """What the process measured, once it has ended."""
        out, _ = self._process.communicate()
        if self._process.returncode:
            self._fail()
        self._errors.close()
        return Measured(**json.loads(out.splitlines()[-1]))

    def _fail(self) -> None:
        self._process.wait()
        self._errors.seek(0)
        sys.exit(f"{self.method} failed:\n{self._errors.read()[-2000:]}")


def _start(command: str, argument: dict[str, Any], errors: Any = None) -> "subprocess.Popen[str]":
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    if argument.get("threads"):
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(argument["threads"]))
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.methods", command, json.dumps(argument)],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )


def run_once(command: str, argument: dict[str, Any]) -> str:
    """The last line that `python -m benchmarks.methods` prints for a command that isn't a method."""
    process = _start(command, argument)
    out, _ = process.communicate()
    if process.returncode:
        sys.exit(f"{command} failed")
    return out.splitlines()[-1] if out else ""


def run_together(method: str, setup: Setup, count: int = 1) -> list[Measured]:
    """`count` processes that begin to measure at the same moment."""
    processes = [MethodProcess(method, setup) for _ in range(count)]
    for process in processes:
        process.go()
    return [process.result() for process in processes]


def measure(methods: Sequence[str], setup: Setup, shape: Shape, rounds: int) -> tuple[dict[str, list[Measured]], float]:
    """What each method measured in each round, and the best GEMM speed (FLOP/s) of the rounds; 0 without `fast`."""
    results: dict[str, list[Measured]] = {method: [] for method in methods}
    speed = 0.0
    for _ in range(rounds):
        for method in methods:
            results[method] += run_together(method, setup)
            if method == "fast":
                work = results[method][-1].work
                assert work is not None
                gemm = {"rows": work["trained_tokens"], "width": shape.width, "dtype": setup.dtype}
                gemm |= {"device": setup.device, "threads": setup.threads, "cpu_time": setup.cpu_time}
                speed = max(speed, float(run_once("gemm", gemm)))
    return results, speed


def print_table(rows: Sequence[Row], missing: Sequence[str]) -> None:
    fast = next((row.median for row in rows if row.method == "fast"), None)
    print(f"{'method':12}{'s/update':>10}{'best':>10}{'episodes/s':>12}{'peak GiB':>10}{'x fast':>8}")
    for row in rows:
        ratio = f"{row.median / fast:8.2f}" if fast else f"{'-':>8}"
        print(f"{row.method:12}{row.median:10.4f}{row.best:10.4f}{row.episodes:12.1f}{row.peak_gib:10.2f}{ratio}")
    for method in missing:
        print(f"{method:12}not installed")


def print_parts(rounds: Sequence[Measured]) -> dict[str, float] | None:
    """Seconds per update of each part of `fast`, mean over the rounds, and its share; None on a GPU."""
    parts = [measured.parts for measured in rounds if measured.parts]
    if not parts:
        return None
    means = {part: statistics.mean(each[part] for each in parts) for part in parts[0]}
    total = sum(means.values())
    print("of fast: " + ", ".join(f"{part} {100 * seconds / total:.0f} %" for part, seconds in means.items()))
    return means


def lower_bound(rounds: Sequence[Measured], shape: Shape, speed: float) -> float:
    """Seconds that the multiply-adds of an update take at `speed` FLOP/s, median over the rounds' last updates."""
    works = [Work(**measured.work) for measured in rounds if measured.work]
    return statistics.median(2 * work.multiply_adds(shape) / speed for work in works)


def side_by_side(count: int, setup: Setup, rounds: int) -> dict[str, float]:
    """Seconds per update (median) of `fast` alone and of `count` at once, one thread each, and the slowdown."""
    setup = replace(setup, threads=1)
    alone: list[float] = []
    together: list[float] = []
    for _ in range(rounds):
        for seconds, processes in ((alone, 1), (together, count)):
            for measured in run_together("fast", setup, processes):
                seconds += measured.seconds
    one, several = statistics.median(alone), statistics.median(together)
    return {"alone": one, "together": several, "slowdown": several / one}


def model_folder(args: argparse.Namespace, temporary: str) -> str:
    """A folder with the model and its tokenizer: the shipped one, or one made in `temporary`."""
    if args.shape == "nano":
        return str(NANO)
    if args.shape == "smollm2" and (fetched := local_files("smollm2")) is not None and fetched.exists():
        return str(fetched)
    if SHAPES[args.shape].vocabulary == 50257 and args.tokenizer == NANO:
        print(
            "Prompts are split by nano's tokenizer: token counts differ from GPT-2's; --tokenizer FOLDER names another."
        )
    shape = asdict(SHAPES[args.shape])
    run_once("save", {"shape": shape, "tokenizer": str(args.tokenizer.absolute()), "folder": temporary})
    return temporary


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, prog="python -m benchmarks.update", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--shape", choices=list(SHAPES), default="nano")
    add(
        "--dtype",
        choices=["float32", "tfloat32", "bfloat16"],
        default="float32",
        help="of the arithmetic; weights are float32",
    )
    add("--workload", choices=list(WORKLOADS), help="sets task, batch, new tokens and ppo")
    add("--batch", type=int, default=50, help="responses per update")
    add("--new-tokens", type=int, default=2, help="longest response")
    add("--ppo", choices=["sound", "per_token"], default="sound")
    add("--threads", type=int, help="default: torch's choice")
    add("--device", default="cpu", help="cpu or cuda")
    add("--cpu-time", action="store_true", help="seconds of CPU, of all threads: for a machine that has other work too")
    add("--any-order", action="store_true", help="on a GPU: gradients' sums in any order, as torch has them by default")
    add("--task", default="color")
    add("--tokenizer", type=Path, default=NANO, help="a GPT-2 tokenizer's folder, for the gpt2 shapes")
    add("--methods", help="comma-separated; default: all")
    add("--rounds", type=int, default=3, help="processes a method, in turn")
    add("--seconds", type=float, default=3.0, help="how long a process measures; one update at least")
    add("--side-by-side", type=int, metavar="N", help="also N fast processes at once, one thread each")
    add(
        "--profile",
        type=int,
        metavar="N",
        help="instead: the N operators that take most time, of `fast` or the first method",
    )
    add("--json", type=Path, metavar="FILE", help="write the results there too")
    args = parser.parse_args(arguments)
    if args.workload:  # what stands on the command line beside it counts
        parser.set_defaults(**WORKLOADS[args.workload])
        args = parser.parse_args(arguments)
    there = [method for method in METHODS if method != "graphed" or args.device.startswith("cuda")]
    args.methods = args.methods.split(",") if args.methods else there
    unknown = [method for method in args.methods if method not in METHODS]
    if unknown:
        parser.error(f"--methods: {unknown[0]} is none of {', '.join(METHODS)}")
    return args


def main() -> None:
    args = parse()
    shape = SHAPES[args.shape]
    with_trl = importlib.util.find_spec("trl") is not None
    missing = [method for method in args.methods if method.startswith("trl") and not with_trl]
    methods = [method for method in args.methods if method not in missing]
    with tempfile.TemporaryDirectory() as temporary:
        folder = model_folder(args, temporary)
        setup = Setup(
            folder,
            args.task,
            args.batch,
            args.new_tokens,
            args.dtype,
            args.device,
            args.threads,
            args.seconds,
            args.any_order,
            args.ppo,
            args.cpu_time,
        )
        title = (
            f"{args.shape} ({shape.layers} layers, width {shape.width}, vocabulary {shape.vocabulary}), {args.dtype}"
        )
        print(f"{title}, {args.device}, {args.threads or 'all'} threads")
        if args.profile:
            policy = methods[0] if methods[0] in ("simple", "graphed") else "fast"
            profiled = json.loads(run_once("profile", {**asdict(setup), "policy": policy}))
            for name, share in profiled.pop("shares")[: args.profile]:
                print(f"{share:6.1%}  {name}")
            for name, number in profiled.items():
                print(f"{name} {number:.2f}")
            return
        what = f"task={args.task}, ppo={args.ppo}, batch {args.batch}, {args.new_tokens} new tokens"
        print(f"{what}, {args.rounds} rounds", flush=True)
        results, speed = measure(methods, setup, shape, args.rounds)
        rows = [Row.of(method, results[method], args.batch) for method in methods]
        print_table(rows, missing)
        result: dict[str, Any] = {"setup": {**asdict(setup), "model": args.shape}, "rows": [asdict(r) for r in rows]}
        if "fast" in results:
            bound = lower_bound(results["fast"], shape, speed)
            fast = next(row for row in rows if row.method == "fast")
            print(f"GEMM speed         {speed / 1e12:10.3f} TFLOP/s")
            print(f"lower bound        {bound:10.4f} s/update")
            print(f"fast / lower bound {fast.median / bound:10.2f}")
            result["parts"] = print_parts(results["fast"])
            result |= {"gemm_flops": speed, "lower_bound": bound, "work": results["fast"][-1].work}
        if args.side_by_side:
            compared = side_by_side(args.side_by_side, setup, args.rounds)
            print(f"fast alone, one thread  {compared['alone']:10.4f} s/update")
            print(f"{args.side_by_side} side by side          {compared['together']:10.4f} s/update")
            print(f"slowdown                {compared['slowdown']:10.2f}")
            result["side_by_side"] = {"processes": args.side_by_side, **compared}
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
