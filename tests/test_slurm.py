"""Sweeps on a real Slurm of one node, brought up here: every way a job can end before its run, and what a launch says.

SLURM_SEEDS=3 makes the first test's sweep 2 x 2 x 3 instead of 2 x 2.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, environment

from pgsrm.launch.slurm.queue import Job, Queue, job_of
from pgsrm.launch.status import find_runs
from pgsrm.record import RunFolder
from pgsrm.record.measured import is_measured

LAB = ROOT / "tests/slurm"
SEEDS = int(os.environ.get("SLURM_SEEDS", "1"))
REWARD = """
import os, random, time
import numpy as np
def reward(*, responses, power, **_):
    if len(responses) == 4:  # a batch, not an evaluation
        time.sleep(float(os.environ.get("PACE", "0")))
    noise = random.random() + np.random.random()
    return [(len(set(response)) / 5) ** power + noise / 100 for response in responses]
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[None]:
    """A Slurm cluster of this machine's own: 4 CPUs, partitions main and high, the second preempting the first."""
    if os.geteuid() != 0:
        pytest.skip("bringing up Slurm needs root")
    if shutil.which("slurmctld") is None and shutil.which("apt-get") is None:
        pytest.skip("no Slurm on this machine, and no apt-get to install it")
    was_up = shutil.which("scontrol") is not None and slurm("scontrol", "ping", check=False).returncode == 0
    up = subprocess.run(
        [LAB / "slurm_up.sh"], env={**os.environ, "SLURM_LAB_CPUS": "4"}, capture_output=True, text=True
    )
    if up.returncode != 0:
        pytest.skip(f"Slurm does not come up: {up.stdout.strip().splitlines()[-1:]} {up.stderr.strip()[-300:]}")
    yield
    if not was_up:
        subprocess.run([LAB / "slurm_down.sh"], capture_output=True)


@pytest.fixture
def cluster(lab: None) -> Iterator[None]:
    """The lab, without jobs of this test afterwards."""
    yield
    for name in {job.name for job in map(job_of, LAUNCHED) if job is not None}:
        slurm("scancel", f"--name={name}", check=False)
    LAUNCHED.clear()


LAUNCHED: list[RunFolder] = []


def slurm(*command: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, check=check)


class Place:
    """A user's folder with a configuration and rewards of their own, and the sweep's command in it."""

    def __init__(self, path: Path, tiny: Path) -> None:
        self.path, self.outputs = path, path / "outputs"
        (path / "paced.py").write_text(REWARD)
        self.conf = path / "myconf"
        (self.conf / "reward").mkdir(parents=True)
        (self.conf / "cluster").mkdir()
        for name, power in (("linear", 1.0), ("square", 2.0)):
            text = f"_target_: paced.reward\n_partial_: true\npower: {power}\n"
            (self.conf / f"reward/{name}.yaml").write_text(text)
        (self.conf / "cluster/lab.yaml").write_text(
            "defaults: [default, _self_]\npartition: main\nsetup: [export IN_SETUP=1]\n"
        )
        self.words = [
            "--config-dir=myconf",
            f"model.path={tiny}",
            "paths.outputs=outputs",
            "tracking=none",
            "threads=1",
        ]
        self.words += ["ppo.batch_size=4", "ppo.episodes=80", "evaluation.every=10", "evaluation.samples=2"]
        self.words += ["checkpoint.updates=3", "ppo.actor_lr=1e-3", "cluster=lab", "resources.memory_gb=1"]
        self.sweep = ["task=color,antonym", "reward=linear,square", f"seed=range(0,{SEEDS})"]

    def launch(self, *words: str, pace: float = 0.0, launcher: str = "slurm", fails: bool = False) -> list[str]:
        """The lines that the command prints: on standard output, or with `fails` on standard error."""
        given = {word.partition("=")[0] for word in words}
        kept = [word for word in self.words if word.partition("=")[0] not in given]
        command = [sys.executable, "-m", "pgsrm.run", "-m", f"hydra/launcher={launcher}", *kept, *words]
        environ = {**environment(self.path), "PACE": str(pace)}
        done = subprocess.run(command, cwd=self.path, env=environ, capture_output=True, text=True, timeout=240)
        assert (done.returncode != 0) is fails, done.stderr
        LAUNCHED[:] = self.runs()
        return (done.stderr if fails else done.stdout).splitlines()

    def runs(self) -> list[RunFolder]:
        return find_runs([self.outputs]) if self.outputs.exists() else []

    def run(self, *parts: str) -> RunFolder:
        """The run whose name has all of the parts."""
        (found,) = (run for run in self.runs() if all(part in run.name for part in parts))
        return found

    def states(self) -> dict[str, str]:
        queue = Queue.ask(self.runs())
        return {run.name: queue.state(run) for run in self.runs()}


@pytest.fixture
def place(tmp_path: Path, tiny: Path, cluster: None) -> Place:
    return Place(tmp_path, tiny)


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while not (met := condition()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.2)
    return met


def updates(run: RunFolder) -> int:
    return int((run.last_metrics() or {}).get("update", 0))


def slurm_id(run: RunFolder) -> str:
    job = job_of(run)
    assert job is not None and job.id is not None
    return job.id


def field(run: RunFolder, name: str) -> str:
    """A field of the run's job as scontrol shows it."""
    shown = slurm("scontrol", "--oneliner", "show", "job", slurm_id(run)).stdout
    return next(word.partition("=")[2] for word in shown.split() if word.startswith(f"{name}="))


def restarts(run: RunFolder) -> int:
    return int(field(run, "Restarts"))


def start_now(runs: list[RunFolder]) -> bool:
    """Whether all jobs have ended. Jobs that were requeued would wait two minutes otherwise (Slurm's default delay is 120 s)."""
    queue = slurm("squeue", "--noheader", "--array", "--format=%i|%T|%r").stdout.splitlines()
    requeued = [line.partition("|")[0] for line in queue if line.endswith("|PENDING|BeginTime")]
    if requeued:
        time.sleep(2)  # started within the second of its requeueing, slurmd takes a job for the one that it has killed
    for job in requeued:
        slurm("scontrol", "update", f"JobId={job}", "StartTime=now", check=False)
    states = Queue.ask(runs)
    return all(states.state(run) not in ("queued", "running") for run in runs)


def deterministic(run: RunFolder) -> list[bytes]:
    """The lines of metrics.jsonl but for their times."""
    rows = [json.loads(line) for line in run.metrics.read_bytes().splitlines()]
    return [json.dumps({k: v for k, v in row.items() if not is_measured(k)}).encode() for row in rows]


@pytest.mark.slow
def test_whatever_ends_a_job_its_run_ends_finished_with_the_numbers_of_an_undisturbed_one(
    place: Place, resume: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A time limit, scontrol requeue, preemption: they go on by themselves. scancel and kill -9: by the same command."""
    total = 4 * SEEDS
    # One run with a limit of a minute, of which its pauses alone take more
    limited = ["task=color", "reward=linear", "seed=0", f"resources.hours={1 / 60}", "cluster.signal_seconds=25"]
    assert place.launch(*limited, pace=4.0)[0] == "1 run: 1 new"
    (alone,) = place.runs()
    wait_for(lambda: RunFolder(alone.path).state() == "running")
    lines = place.launch(*place.sweep, pace=0.4)
    assert lines[0] == f"{total} runs: {total - 1} new, 1 running"
    assert lines[1].startswith(f"submitted {total - 1} runs: job ")
    requeued, cancelled = place.run("color", "square", "s0"), place.run("antonym", "linear", "s0")
    killed = place.run("antonym", "square", "s0")
    assert len({slurm_id(run).partition("_")[0] for run in (requeued, cancelled, killed)}) == 1  # one array

    to_end = {
        requeued: lambda: slurm("scontrol", "requeue", slurm_id(requeued)),
        cancelled: lambda: slurm("scancel", slurm_id(cancelled)),
        killed: lambda: os.kill((killed.status() or {})["pid"], signal.SIGKILL),
    }
    while to_end:
        run = wait_for(lambda: next((run for run in to_end if updates(run) >= 2), None), 120 * SEEDS)
        to_end.pop(run)()
    wait_for(lambda: place.states()[cancelled.name] == "stopped" and place.states()[killed.name] == "cut off")
    reason = Queue.ask([killed]).reason(killed, "cut off")
    assert reason is not None and "Killed" in reason and str(place.outputs) in reason
    wait_for(lambda: restarts(alone) >= 1)  # out of time
    wait_for(lambda: not start_now(place.runs()) and field(alone, "JobState") == "RUNNING")
    # A job of more weight takes the place of all that run
    slurm("sbatch", "--partition=high", "--exclusive", "--output=/dev/null", "--wrap=sleep 2")
    wait_for(lambda: start_now(place.runs()), 400 * SEEDS)

    unfinished = {name: state for name, state in place.states().items() if state != "finished"}
    assert unfinished == {cancelled.name: "stopped", killed.name: "cut off"}
    assert restarts(alone) >= 2  # preempted too
    assert restarts(requeued) >= 1
    assert place.launch(*place.sweep)[0] == f"{total} runs: 2 to resume, {total - 2} finished"
    wait_for(lambda: start_now(place.runs()), 240)
    assert set(place.states().values()) == {"finished"}
    assert place.launch(*place.sweep)[0] == f"{total} runs: {total} finished"

    monkeypatch.syspath_prepend(place.path)
    for run in place.runs():
        other = RunFolder(place.path / "undisturbed/runs" / run.name)
        other.create()
        shutil.copy(run.config, other.config)
        frozen = run.status() or {}
        other.write_status(state="waiting", identity=frozen["identity"], format=frozen["format"])
        resume(other)
        assert deterministic(run) == deterministic(other)
        assert run.samples.read_bytes() == other.samples.read_bytes()
        weights = [(each.model / "model.safetensors").read_bytes() for each in (run, other)]
        assert weights[0] == weights[1]


def test_a_signal_while_a_job_starts_does_not_end_its_run(place: Place) -> None:
    """Wrong version: preempted within its first second the job dies of the warning, and nobody starts it again."""
    place.launch("task=color", "reward=linear", "ppo.episodes=8")
    (run,) = place.runs()
    wait_for(lambda: field(run, "JobState") == "RUNNING")
    for number in range(16):
        slurm("scancel", f"--signal={('USR2', 'TERM')[number % 2]}", slurm_id(run), check=False)
        time.sleep(0.1)
    wait_for(lambda: start_now(place.runs()), 240)
    assert place.states()[run.name] == "finished"


def test_wait_stays_to_the_end_and_then_fills_the_sqlite_file_that_no_job_touches(place: Place) -> None:
    from mlflow.tracking import MlflowClient

    words = ["task=color", "reward=linear", "ppo.episodes=8", "tracking=mlflow", "hydra.launcher.wait=true"]
    lines = place.launch(*words)
    assert lines[0] == "1 run: 1 new" and any(line.startswith("color-linear") and "finished" in line for line in lines)
    (run,) = place.runs()
    assert (run.status() or {})["mirrored"] == []
    client = MlflowClient(f"sqlite:///{place.outputs}/mlflow.db")
    (mirrored,) = client.search_runs(["1"])
    assert mirrored.info.status == "FINISHED"
    assert len(client.get_metric_history(mirrored.info.run_id, "policy/entropy")) == 2


HELD = "+cluster.sbatch.hold=true"


def test_what_waits_is_frozen_and_is_not_submitted_twice(place: Place, tmp_path: Path) -> None:
    """An edited conf/ changes nothing for runs in the queue; the same command then shows that it means new ones."""
    sweep = ["task=color", "reward=linear", "seed=0,1", "ppo.episodes=8"]
    assert place.launch(*sweep, HELD)[0] == "2 runs: 2 new"
    assert place.launch(*sweep, HELD)[0] == "2 runs: 2 queued"
    assert place.launch(*sweep, launcher="local") == ["2 runs: 2 queued"]
    first = {run.name: run.config.read_text() for run in place.runs()}

    reward = place.conf / "reward/linear.yaml"
    reward.write_text(reward.read_text().replace("power: 1.0", "power: 3.0"))
    lines = place.launch(*sweep, "dry_run=true")
    assert lines[0] == "2 runs: 2 new" and lines[-1] == "dry_run=true: nothing was started"
    assert not set(first) & {line.split()[-1] for line in lines[1:-1]}
    assert {run.name for run in place.runs()} == set(first)

    # Whoever submitted them died before it could note their ids: squeue knows them by name
    for run in place.runs():
        job = job_of(run)
        assert job is not None
        Job(job.name, job.index, None, job.logs, job.submitted).write(run)
    assert set(place.states().values()) == {"queued"}

    slurm("scontrol", "release", *[line for line in slurm("squeue", "-h", "-o%A").stdout.split()])
    wait_for(lambda: start_now(place.runs()))
    assert set(place.states().values()) == {"finished"}
    assert {run.name: run.config.read_text() for run in place.runs()} == first


def test_two_launches_at_once_submit_each_run_once(place: Place) -> None:
    words = [*place.words, "task=color,antonym", "reward=linear,square", HELD]
    command = [sys.executable, "-m", "pgsrm.run", "-m", "hydra/launcher=slurm", *words]
    both = [
        subprocess.Popen(command, cwd=place.path, env=environment(place.path), stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = sorted(process.communicate(timeout=240)[0].splitlines()[0] for process in both)
    LAUNCHED[:] = place.runs()
    assert said == ["4 runs: 4 new", "4 runs: 4 queued"]
    names = {job.name for job in map(job_of, place.runs()) if job is not None}
    assert len(names) == 1
    assert len(slurm("squeue", "-h", "-r", f"--name={names.pop()}").stdout.splitlines()) == 4


def test_arrays_are_split_and_slots_divided(place: Place) -> None:
    resources = ["resources.cpus=2", "resources.gpus=fake:1", "resources.hours=1.5"]
    lines = place.launch("task=color", "reward=linear", "seed=range(0,5)", HELD, "cluster.max_array_size=2",
                         "hydra.launcher.slots=4", *resources)  # fmt: skip
    ids = lines[1].rpartition("job")[2].lstrip("s ").split(", ")
    assert lines[1].startswith("submitted 5 runs: jobs ") and len(ids) == 3
    shown = slurm("scontrol", "--oneliner", "show", "job", ids[0]).stdout
    assert "ArrayTaskId=0-1%1" in shown and "TimeLimit=01:30:00" in shown and "Partition=main" in shown
    assert "CPUs/Task=2" in shown and "gpu:fake:1" in shown and "MinMemoryNode=1G" in shown
    script = next((place.outputs / "slurm").glob(f"*/{ids[0]}_submission.sh")).read_text()
    assert "export IN_SETUP=1" in script


@pytest.mark.parametrize(
    ("word", "what"),
    [
        ("cluster.partition=nope", "sbatch --partition=nope"),
        ("resources.memory_gb=100000", "--mem=102400000M"),
        ("+cluster.sbatch.tea=milk", "unrecognized option '--tea=milk'"),
        ("+cluster.sbatch.mem=3G", "cluster.sbatch.mem=3G: set resources.memory_gb instead"),
        ("+cluster.sbatch.hold=[1]", "cluster.sbatch.hold=[1]: give one value"),
        ("cluster.partitions=main", "cluster.partitions=main: unknown key"),
        ("resources.hours=0", "resources.hours=0: expected `float` > 0"),
        ("resources.gpus=two", "resources.gpus=two"),
        ("hydra.launcher.slots=0", "hydra.launcher.slots=0: expected a whole number >= 1"),
        ("hydra.launcher.wait=2", "hydra.launcher.wait=2: expected true or false"),
        ("resources=huge", "resources=huge: unknown resources; there are cpu, gpu"),
    ],
)
def test_what_slurm_or_the_schema_refuses_is_one_line_and_nothing_is_made(
    call_cli: Callable[..., Any], place: Place, word: str, what: str
) -> None:
    kept = [each for each in place.words if each.partition("=")[0] != word.partition("=")[0]]
    result = call_cli("-m", "hydra/launcher=slurm", *kept, "task=color", "reward=binary", word)
    assert result.code == 2
    assert what in result.error_line
    assert place.runs() == []


def test_one_run_needs_the_sweeps_command(call_cli: Callable[..., Any], place: Place) -> None:
    """Wrong version: it trains on the login node."""
    result = call_cli("hydra/launcher=slurm", *place.words)
    assert result.code == 2 and "add -m" in result.error_line
