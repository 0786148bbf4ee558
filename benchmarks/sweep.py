"""What a large sweep costs before and beside its training: `python -m benchmarks.sweep [--runs 1000] [--slurm]`.

Each step runs in a process of its own, as a user would start it, on untrained models of a few thousand parameters:
the plan (dry_run), freezing and submitting (with --slurm, jobs that are held in the queue; else freezing alone), the same
command again, and the status. Wall-clock seconds, user CPU seconds and the largest memory of each.
Then `--loggers` processes that log at once, as fast as they can and at a training's pace: lines lost and time blocked.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.startup import environment

LOGGER = """
import json, sys, time
from pathlib import Path
from pgsrm.record import RunFolder
from pgsrm.record.mlflow_mirror import MlflowMirror
path, uri, lines, pause = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
folder = RunFolder(path)
assert folder.acquire()
mirror = MlflowMirror(folder, {"uri": uri, "experiment": "pgsrm"}, folder.name, {}, {})
mirror.start()
metrics = {f"reward/{name}": 0.5 for name in range(20)}
blocked, started = 0.0, time.perf_counter()
for update in range(lines):
    before = time.perf_counter()
    folder.append_metrics({"update": update, **metrics})
    blocked += time.perf_counter() - before
    time.sleep(pause)
loop = time.perf_counter() - started
mirror.finish("finished", patience=120)
print(json.dumps({"blocked": blocked, "loop": loop, "ended": time.perf_counter() - started}))
"""
MEASURE = """
import os, sys
pid = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, *sys.argv[1:]])
_, status, used = os.wait4(pid, 0)
print(used.ru_utime, used.ru_maxrss, os.waitstatus_to_exitcode(status), file=sys.stderr)
"""
FREEZE = """
import sys
from hydra import compose, initialize_config_dir
import pgsrm.launch.local
pgsrm.launch.local._train = lambda *_: sys.exit(0)
from pgsrm.run import main
sys.argv[0] = "pgsrm.run"
main()
"""


def quiet(folder: Path) -> dict[str, str]:
    """As `environment`, without MLflow's telemetry."""
    return {**environment(str(folder)), "MLFLOW_DISABLE_TELEMETRY": "true"}


def measured(name: str, arguments: list[str], folder: Path) -> str:
    """Run one step and print what it cost; returns its standard output."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *arguments], cwd=folder, env=quiet(folder), capture_output=True, text=True
    )
    wall = time.perf_counter() - started
    user, memory, code = done.stderr.strip().splitlines()[-1].split()
    if code != "0":
        sys.exit(f"{name}: exit code {code}\n{done.stderr[-2000:]}")
    print(f"{name:34}{wall:8.1f}{float(user):8.1f}{int(memory) / 1024:8.0f}", flush=True)
    return done.stdout


def tiny_model(folder: Path) -> None:
    """An untrained GPT-2 with a byte-level tokenizer, in the hub's layout."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([], vocab_size=257, special_tokens=["<|endoftext|>"], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<|endoftext|>")
    tokenizer.save_pretrained(folder)
    shape = {"vocab_size": len(tokenizer), "n_positions": 128, "n_embd": 16, "n_layer": 1, "n_head": 2}
    GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0)).save_pretrained(folder)


def sweep(runs: int, on_slurm: bool, folder: Path) -> None:
    """The steps of a sweep of `runs` runs."""
    tiny_model(folder / "model")
    words = [
        "-m",
        "task=color,antonym",
        "reward=pgsrm,binary",
        f"seed=range(0,{runs // 4})",
        f"model.path={folder}/model",
    ]
    words += ["tracking=none", "ppo.batch_size=4", "ppo.episodes=4", "paths.outputs=outputs"]
    run = ["-m", "pgsrm.run"]
    if on_slurm:
        words += ["hydra/launcher=slurm", "+cluster.sbatch.hold=true", "resources.memory_gb=1"]
    print(f"{runs} runs{'':25}{'wall s':>8}{'user s':>8}{'MiB':>8}")
    measured("plan (dry_run=true)", [*run, *words, "dry_run=true"], folder)
    if on_slurm:
        measured("freeze and submit", [*run, *words], folder)
        measured("the same command, all queued", [*run, *words], folder)
        measured("status, all queued", ["-m", "pgsrm.status"], folder)
        names = {json.loads(path.read_text())["name"] for path in folder.glob("outputs/runs/*/job.json")}
        subprocess.run(["scancel", f"--name={','.join(names)}"], check=True)
    else:
        measured("freeze", ["-c", FREEZE, *words], folder)
    finish(folder / "outputs/runs")
    again = measured("the same command, all finished", [*run, *words], folder)
    status = measured("status, all finished", ["-m", "pgsrm.status"], folder)
    assert again.startswith(f"{runs} runs: {runs} finished") and status.endswith(f"{runs} runs: {runs} finished\n")


def finish(folder: Path) -> None:
    """Give every run the record of one that has finished, of a hundred updates."""
    lines = "".join(json.dumps({"update": n, "reward/mean": 0.5, "policy/entropy": 1.0}) + "\n" for n in range(101))
    for run in folder.iterdir():
        (run / "metrics.jsonl").write_text(lines)
        status = json.loads((run / "status.json").read_text())
        (run / "status.json").write_text(json.dumps({**status, "state": "finished", "seconds": 10.0}))


def loggers(count: int, lines: int, pause: float, folder: Path) -> None:
    """`count` processes with an MLflow mirror each, into one SQLite file; every line must be there in the end."""
    from mlflow.tracking import MlflowClient

    from pgsrm.record.mlflow_store import prepare

    uri = f"sqlite:///{folder}/mlflow-{pause}.db"
    prepare({"uri": uri, "experiment": "pgsrm"})
    paths = [folder / f"logging-{pause}" / f"run-{number}" for number in range(count)]
    commands = [[sys.executable, "-c", LOGGER, str(path), uri, str(lines), str(pause)] for path in paths]
    options = {"env": quiet(folder), "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **options) for command in commands]  # type: ignore[call-overload]
    ends = [json.loads(process.communicate()[0]) for process in processes]
    client = MlflowClient(uri)
    arrived = 0
    for path in paths:
        assert len((path / "metrics.jsonl").read_text().splitlines()) == lines
        run = json.loads((path / "mlflow.json").read_text())["run_id"]
        arrived += len(client.get_metric_history(run, "reward/0"))
    share = max(end["blocked"] / end["loop"] for end in ends)
    blocked = 1e6 * sum(end["blocked"] for end in ends) / (count * lines)
    print(
        f"{count} processes, {lines} lines of 20 metrics each, {1000 * pause:g} ms between two: {count * lines - arrived} lost, "
        f"{blocked:.0f} us a line, loop blocked at most {100 * share:.2f} %, MLflow has all after "
        f"{max(end['ended'] for end in ends):.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=1000, help="runs of the sweep, a multiple of 4; 0 leaves it out")
    parser.add_argument("--slurm", action="store_true", help="submit to the Slurm of this machine, on hold")
    parser.add_argument("--loggers", type=int, default=12, help="processes that log at once; 0 leaves them out")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if args.runs:
            sweep(args.runs, args.slurm, Path(name))
        if args.loggers:
            loggers(args.loggers, 500, 0.1, Path(name))


if __name__ == "__main__":
    main()
