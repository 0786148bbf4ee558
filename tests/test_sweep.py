"""Sweeps apart from training: composing, slots, locks between machines, what is said of a launch; status and sync."""

import errno
import fcntl
import json
import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import omegaconf._utils
import pytest
import yaml
from conftest import environment
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from mlflow.tracking import MlflowClient
from omegaconf import OmegaConf

from pgsrm.config.compose import Composer, plan_words
from pgsrm.config.libyaml import reading_by_libyaml
from pgsrm.config.naming import without_asking
from pgsrm.config.plan import Plan, Shared, build_objects
from pgsrm.launch import status
from pgsrm.launch.local import Slot, make_slots
from pgsrm.launch.slurm import queue as slurm_queue
from pgsrm.launch.slurm.job import Ending, _seconds
from pgsrm.launch.slurm.queue import Job, Queue
from pgsrm.launch.slurm.submit import check_cluster, submit
from pgsrm.launch.sweep import launching, survey
from pgsrm.record import RunFolder, lock
from pgsrm.record.progress import SweepTable
from pgsrm.record.summary import end_of_sweep_table, summarise
from pgsrm.util.errors import UserError
from pgsrm.util.paths import conf_folder

# Composing


@pytest.fixture
def composer() -> Any:
    """A sweep's composer, and Hydra's own way: overrides -> config without the hydra node."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        master = hydra.compose_config(
            "config", overrides=[], run_mode=RunMode.MULTIRUN, from_shell=False, with_log_configuration=False
        )
        yield Composer(hydra.config_loader, master)
        GlobalHydra.instance().clear()


SETS = [
    ["seed=3", "task=antonym"],
    ["task=copy", "ppo=grpo", "ppo.batch_size=20", "reward=binary", "model=gpt2_small", "model.dtype=bfloat16"],
    ["model.lora={rank: 4}", "task.paper=null", "reward.alpha=${seed}", "paths.outputs='a,b'", "seed=2"],
    ["ppo.actor_lr=2e-5", "experiment=quickstart", "~tracking", "+cluster.sbatch.hold=true", "cluster.setup=[a,b]"],
    ["paths.outputs=x", "embedder@evaluation.embedder=static", "tracking.experiment=e", "++ppo.epochs=1"],
]


@pytest.mark.parametrize("in_all", [False, True])
@pytest.mark.parametrize("overrides", SETS, ids=range(len(SETS)))
def test_values_set_on_a_copy_are_what_hydra_composes(composer: Composer, overrides: list[str], in_all: bool) -> None:
    common = [each for each in overrides if "seed" not in each] if in_all else []
    composer.compose(
        ["seed=9", *(each for each in overrides if "seed" not in each)], common
    )  # so that choices are known
    config, choices = composer.compose(overrides, common)
    other = compose("config", overrides=overrides, return_hydra_config=True)
    chosen = {k: v for k, v in other.hydra.runtime.choices.items() if "hydra" not in k and v is not None}
    OmegaConf.set_struct(other, False)
    other.pop("hydra")
    assert OmegaConf.to_container(config) == OmegaConf.to_container(other)  # interpolations as they stand
    assert OmegaConf.to_container(config, resolve=True) == OmegaConf.to_container(other, resolve=True)
    assert choices == {k: v for k, v in chosen.items() if k not in ("cluster", "resources")}


def test_one_runs_values_are_not_the_next_ones(composer: Composer) -> None:
    first, _ = composer.compose(["seed=3", "ppo.batch_size=7"])
    second, _ = composer.compose(["seed=4"])
    assert (first.seed, first.ppo.batch_size, second.seed) == (3, 7, 4) and second.ppo.batch_size != 7


def test_the_last_of_two_values_counts(composer: Composer) -> None:
    """Wrong version: a value that all runs have is set before one that stood to its left."""
    overrides = ["ppo.batch_size=7", "seed=3", "ppo.batch_size=8"]
    assert composer.compose(overrides, ["ppo.batch_size=8"])[0].ppo.batch_size == 8
    assert composer.compose(overrides, ["ppo.batch_size=7"])[0].ppo.batch_size == 8


def test_paths_of_a_runs_own_values_are_read(composer: Composer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/elsewhere")
    own, common = "paths.outputs='~/a'", "task.data='~/b.csv'"
    config, _ = composer.compose([own, common, "seed=1"], [common])
    assert (config.paths.outputs, config.task.data) == ("/elsewhere/a", "/elsewhere/b.csv")


CONF = sorted(conf_folder().rglob("*.yaml"))


@pytest.mark.parametrize("file", CONF, ids=[str(file.relative_to(conf_folder())) for file in CONF])
def test_libyaml_reads_the_same(file: Path) -> None:
    usual = OmegaConf.load(file)
    with reading_by_libyaml():
        assert OmegaConf.to_yaml(OmegaConf.load(file)) == OmegaConf.to_yaml(usual)


@pytest.mark.parametrize(
    "text",
    [
        "a: 1e-5\nb: 1_0\nc: 2020-01-01\nd: on\ne: 07\nf: .5\ng: 1:30\nh: ~",
        "a: &x {b: 1}\nd: {<<: *x, e: 2}",
        "a: |\n  b\n  c\nd: >-\n  e",
    ],
)
def test_libyaml_reads_the_same_values(text: str) -> None:
    usual = OmegaConf.create(text)
    with reading_by_libyaml():
        assert OmegaConf.create(text) == usual


def test_libyaml_within_libyaml() -> None:
    """As where a sweep makes a reward that composes another one. Wrong version: no consistent method resolution."""
    usual = omegaconf._utils.get_yaml_loader()
    with reading_by_libyaml():
        outer = omegaconf._utils.get_yaml_loader()
        with reading_by_libyaml():
            assert OmegaConf.create("a: 1e-5") == {"a": 1e-5}
        assert omegaconf._utils.get_yaml_loader() is outer is not usual
    assert omegaconf._utils.get_yaml_loader() is not outer


@pytest.mark.parametrize("text", ["a: 1\na: 2\n", "a: b: c", "\ta: 1", "a: [1,2", "a: @x", "a:\x01 b", "a: 'x' y"])
def test_libyaml_has_the_same_errors(text: str, tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(yaml.YAMLError) as usual:
        OmegaConf.load(file)
    with reading_by_libyaml(), pytest.raises(type(usual.value)) as quick:
        OmegaConf.load(file)
    assert str(quick.value) == str(usual.value) and str(file) in str(usual.value)


def test_a_bad_value_of_the_last_run_is_told_before_the_first_is_planned(
    composer: Composer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgsrm.config.plan.plan", lambda *_: pytest.fail("planned a run"))
    with pytest.raises(UserError, match=r"ppo\.batch_size=0"):
        composer.plans([["seed=1", "ppo.batch_size=4"], ["seed=2", "ppo.batch_size=4"], ["seed=1", "ppo.batch_size=0"]])


def test_where_a_rewards_critic_keeps_replies_is_in_no_runs_name(composer: Composer, tmp_path: Path) -> None:
    """Nor does it make another run; a single run is named by the same words."""
    words = ["task=sentiment_control", "reward=critic", "+critic@reward.critic=nano", "tracking=none"]
    words += [f"paths.outputs={tmp_path}", "reward.arm_seed=1"]
    runs = [[*words, f"reward.critic.cache={tmp_path}/{name}"] for name in "ab"]
    names = [plan.folder.name for part in (runs, runs[:1]) for plan in composer.plans(part)]
    assert names[0] == names[1] and "cache" not in names[2] and "-arm_seed=1-" in names[2]


def test_a_run_is_not_composed_again_to_see_whose_a_key_is(
    composer: Composer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Wrong version: with `critic.cache`, each run of a sweep is composed a second time."""
    composed, counts, composing = list[str](), list[int](), composer.compose
    monkeypatch.setattr(composer, "compose", lambda *given: (composed.append(""), composing(*given))[1])
    for words in ([], [f"critic.cache={tmp_path}", "critic.cache_megabytes=4"]):
        composed.clear()
        given = ["task=sentiment_control", "reward=critic", "critic=nano", "tracking=none", *words]
        composer.plans([[*given, f"seed={seed}", f"ppo.actor_lr={rate}"] for seed in range(3) for rate in (0.1, 0.2)])
        counts.append(len(composed))
    assert counts[1] == counts[0] + 1 and counts[0] >= 6


def test_whose_a_key_is_depends_on_all_that_may_choose_the_object(composer: Composer) -> None:
    """Wrong version: the object of a sweep's first run decides for all runs."""
    given = ["seed=1", "reward=critic", "+critic@reward.critic=nano", "reward.critic.cache=a"]
    ways: list[list[str]] = [
        [],
        ["reward.critic._target_=mine.Critic"],
        ["reward.critic={_target_: mine.Critic}"],
        ["+own=mine.Critic", "reward.critic._target_=${own}"],
    ]
    kept = []
    for way in [*ways, *ways]:
        parsed = composer._parse([*given, *way])
        kept.append([one.key_or_group for one in without_asking(parsed, partial(composer._objects_of, parsed))])
    assert ["reward.critic.cache" in keys for keys in kept] == [False, True, True, True] * 2


# Slots


@pytest.fixture
def planned(small: Sequence[str]) -> Callable[..., Plan]:
    """`planned(*overrides)`: the plan of a small run."""

    def make(*overrides: str) -> Plan:
        given = {each.partition("=")[0] for each in overrides}
        kept = [each for each in small if each.partition("=")[0] not in given]
        return plan_words(*kept, *overrides)

    return make


def test_a_gpu_a_slot(planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgsrm.launch.local._cores", lambda: 8)
    runs = [planned("seed=0", "threads=null")] * 9
    gpus = ["3", "GPU-5f"]
    assert make_slots(runs, None, gpus, 1) == [Slot(4, "3"), Slot(4, "GPU-5f")]
    assert [slot.gpus for slot in make_slots(runs, None, gpus, 2)] == ["3", "GPU-5f", "3", "GPU-5f"]
    assert make_slots(runs[:1], None, gpus, 2) == [Slot(8, "3")]  # no more slots than runs
    assert make_slots(runs, 3, [], 1) == [Slot(2)] * 3
    on_cpu = [planned("model.device=cpu", "threads=2")] * 9
    assert make_slots(on_cpu, None, gpus, 1) == [Slot(2)] * 4
    with pytest.raises(
        UserError, match=r"hydra.launcher.slots=3: 2 GPUs take 2 runs; raise hydra.launcher.runs_per_gpu"
    ):
        make_slots(runs, 3, gpus, 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5f")
    assert Slot(4, "3").environment()["CUDA_VISIBLE_DEVICES"] == "3"
    assert Slot(4).environment()["CUDA_VISIBLE_DEVICES"] == "3,GPU-5f"


# Locks between machines


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without flock."""

    def flock(*_: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)


def test_without_flock_a_file_holds_the_run(tmp_path: Path, no_flock: None) -> None:
    first, second = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    assert first.acquire() and not second.acquire()
    first.release()
    assert second.acquire()
    second.release()
    assert not second.owner.exists()


def test_a_dead_process_of_this_machine_gives_its_lock_up_and_another_machines_does_not(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    dead = subprocess.Popen(["true"])
    dead.wait()
    path.write_text(json.dumps({"host": socket.gethostname(), "pid": dead.pid, "job": None}))
    assert lock.create(path)
    assert not lock.create(path)  # this process is alive
    path.write_text(json.dumps({"host": "elsewhere", "pid": dead.pid, "job": None}))
    assert not lock.create(path)
    held = lock.holder(path)
    assert held is not None
    lock.remove(path, {**held, "pid": 1})  # somebody else's by now
    assert lock.holder(path) == held
    lock.remove(path, held)
    assert not path.exists() and not list(tmp_path.iterdir())


def test_a_second_launch_waits_and_then_says_who_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with launching(tmp_path):
        monkeypatch.setattr("pgsrm.launch.sweep._PATIENCE", 0.3)
        says = rf"launching.lock: process {os.getpid()} on \S+ is launching runs; wait"
        with pytest.raises(UserError, match=says), launching(tmp_path):
            pytest.fail("two at once")
    with launching(tmp_path):
        pass


# What a launch says


def test_what_each_run_needs(planned: Callable[..., Plan]) -> None:
    plans = [planned(f"seed={seed}") for seed in range(6)] + [planned("seed=0")]
    for plan, state in zip(plans, ("finished", "stopped", "failed", "waiting", "running"), strict=False):
        plan.freeze()
        plan.folder.write_status(state=state, pid=os.getpid(), host=socket.gethostname())
    found = survey(plans)
    assert found.line() == "6 runs: 2 new, 1 to resume, 1 failed before (tried again), 1 finished, 1 running"
    assert [plan.settings.seed for plan in found.to_start] == [1, 2, 3, 5]
    left = survey(plans, retry_failed=False)
    assert "1 failed before (left, retry_failed=false)" in left.line()
    assert [plan.settings.seed for plan in left.to_start] == [1, 3, 5]


def test_dry_run_of_one_run_makes_nothing(call_cli: Callable[..., Any], small: Sequence[str], tmp_path: Path) -> None:
    result = call_cli(*small, "dry_run=true")
    assert result.code == 0
    assert result.out.splitlines()[0] == "1 run: 1 new"
    assert not (tmp_path / "outputs").exists()


# Slurm's queue, as far as it needs no Slurm


def test_states_from_folder_and_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(name: str, **status: Any) -> RunFolder:
        folder = RunFolder(tmp_path / name)
        folder.create()
        folder.write_status(**status)
        return folder

    def with_job(folder: RunFolder, index: int, log: str = "") -> RunFolder:
        Job("pgsrm-1", index, f"12_{index}", str(tmp_path), "").write(folder)
        if log:
            (tmp_path / f"12_{index}_0_log.out").write_text(log)
        return folder

    oom = (
        "update 3\nslurmstepd: error: Detected 1 oom-kill event(s). Some of the step tasks have been OOM Killed.\nbye\n"
    )
    runs = {
        "pending": with_job(run("a", state="waiting"), 0),
        "running": with_job(run("b", state="running", host="node1", pid=1, job="12_1"), 1),
        "requeued": with_job(run("c", state="running", host="node1", pid=1, job="12_2"), 2),
        "killed": with_job(run("d", state="running", host="node1", pid=1, job="12_3"), 3, oom),
        "never began": with_job(run("e", state="waiting"), 4),
        "by hand": with_job(run("f", state="running", host="node1", pid=1, job=None), 5),
        "done": with_job(run("g", state="finished"), 6),
        "failed": with_job(run("h", state="failed", reason="loss is not finite"), 7),
    }
    answer = "pgsrm-1|0|PENDING|Priority\npgsrm-1|1|RUNNING|None\npgsrm-1|2|PENDING|BeginTime\n"
    asked = []
    monkeypatch.setattr(slurm_queue, "_call", lambda *command: asked.append(command) or answer)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    queue = Queue.ask(runs.values())
    assert len(asked) == 1 and "--name=pgsrm-1" in asked[0]
    states = {name: queue.state(folder) for name, folder in runs.items()}
    assert states == {
        "pending": "queued",
        "running": "running",
        "requeued": "queued",
        "killed": "cut off",
        "never began": "cut off",
        "by hand": "running",
        "done": "finished",
        "failed": "failed",
    }
    assert queue.reason(runs["pending"], "queued") == "job 12_0: pending, Priority"
    killed = queue.reason(runs["killed"], "cut off")
    assert killed is not None and killed.startswith("Detected 1 oom-kill event(s).")
    assert killed.endswith(f"see {tmp_path}/12_3_0_log.out")
    assert queue.reason(runs["never began"], "cut off") == "job 12_4 ended before the run began"
    assert queue.reason(runs["failed"], "failed") == "loss is not finite"
    monkeypatch.setattr("shutil.which", lambda name: None)  # a machine that is no part of the cluster
    assert Queue.ask(runs.values()).state(runs["requeued"]) == "running"


def test_a_queue_that_does_not_answer_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "squeue").write_text(
        "#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact controller' >&2\nexit 1\n"
    )
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    folder = RunFolder(tmp_path / "runs/a")
    folder.create()
    folder.config.touch()
    Job("pgsrm-1", None, "12", str(tmp_path), "").write(folder)
    with pytest.raises(UserError, match=r"squeue: slurm_load_jobs error: Unable to contact controller; which runs"):
        Queue.ask([folder])
    shown = status.table([folder])  # which still shows what is in the folders
    assert "1 run: 1 waiting" in shown and "Unable to contact" in shown.splitlines()[-1]


def test_a_signal_that_ends_squeue_too_does_not_keep_a_job_from_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong version: no answer is taken for a job that Slurm is ending, and nobody starts the run again."""
    died = f"[ -e {tmp_path}/died ] || {{ touch {tmp_path}/died; kill -TERM $$; }}"
    (tmp_path / "squeue").write_text(f"#!/bin/sh\n{died}\necho 'RUNNING|1:00:00'\n")
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\necho $* >> {tmp_path}/said\n")
    for name in ("squeue", "scontrol"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    folder = RunFolder(tmp_path / "runs/a")
    folder.create()
    folder.config.touch()
    Ending(folder, warned_seconds=10).requeue()
    assert (tmp_path / "said").read_text() == "requeue 12\n"


def test_a_submission_from_within_a_job_passes_nothing_of_that_job_on(
    planned: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong version: sbatch takes SLURM_* for its options, and the new job's processes take them for their own."""
    (tmp_path / "sbatch").write_text(f"#!/bin/sh\nenv >> {tmp_path}/seen\necho Submitted batch job 12\n")
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho 'MaxArraySize = 1001'\n")
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    for name in ("sbatch", "scontrol", "srun"):
        (tmp_path / name).chmod(0o755)
    inherited = {
        "SLURM_JOB_ID": "7",
        "SLURM_NTASKS": "4",
        "SLURMD_NODENAME": "n",
        "SUBMITIT_EXECUTOR": "slurm",
        "PMI_RANK": "1",
    }
    inherited |= {"CUDA_VISIBLE_DEVICES": "3"}
    kept = {"SLURM_CONF": "/etc/slurm.conf", "SBATCH_ACCOUNT": "mine", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for name, value in (inherited | kept).items():
        monkeypatch.setenv(name, value)
    plan = planned()
    check_cluster([plan])
    plan.freeze()
    assert submit([plan], None) == ["12"]
    seen = (tmp_path / "seen").read_text().splitlines()
    assert not [line for line in seen if line.split("=")[0] in inherited]
    assert all(seen.count(f"{name}={value}") == 2 for name, value in kept.items())  # the question, and the submission
    assert all(os.environ[name] == value for name, value in inherited.items())  # this process is still in its job
    monkeypatch.delenv("SLURM_JOB_ID")  # on a login node, what the user has set is meant for sbatch
    check_cluster([plan])
    assert "SLURM_NTASKS=4" in (tmp_path / "seen").read_text()


def test_time_left_as_squeue_writes_it() -> None:
    assert [_seconds(text) for text in ("0:07", "12:05", "1:02:03", "2-00:00:01")] == [7, 725, 3723, 172801]
    assert _seconds("UNLIMITED") == _seconds("") == float("inf")


# Status and sync


@pytest.fixture
def some_runs(tmp_path: Path) -> Path:
    """An outputs folder of five runs, two of which failed for one reason."""
    states = ("finished", "failed", "failed", "stopped", "waiting")
    for number, state in enumerate(states):
        folder = RunFolder(tmp_path / f"outputs/runs/color-pgsrm-s{number}-0123abcd")
        folder.create()
        uri = f"sqlite:///{tmp_path}/outputs/mlflow.db"
        folder.config.write_text(
            f"tracking: {{uri: '{uri}', experiment: pgsrm}}\nchoices: {{task: color}}\nseed: {number}\n"
        )
        reason = {"failed": "the disk is full", "stopped": "stopped by a signal"}.get(state)
        folder.write_status(state=state, reason=reason, updates=20, seconds=61.0)
        for update in range(0 if state == "waiting" else 10 + number):
            folder.append_metrics({"update": update, "reward/mean": 0.25, "policy/entropy": 2.0, "policy/kl": 0.5})
        folder.release()
    return tmp_path / "outputs"


def test_status_shows_state_progress_metrics_and_reasons(some_runs: Path) -> None:
    lines = status.table(status.find_runs([some_runs])).splitlines()
    assert lines[0] == "all runs: task=color"
    assert lines[1].split() == ["run", "state", "updates", "reward", "entropy", "KL", "right", "time"]
    assert lines[2].split() == ["first", "last", "now", "now", "now", "trained"]
    # What needs a look is last.
    assert [line.split()[0] for line in lines[3:8]] == ["seed=0", "seed=4", "seed=3", "seed=1", "seed=2"]
    assert lines[6].split() == ["seed=1", "failed", "10/20", "0.250", "-", "0.250", "2.00", "0.500", "-", "1:01"]
    assert lines[8:] == [
        "color-pgsrm-s3-0123abcd: stopped by a signal",
        "color-pgsrm-s1-0123abcd and 1 more: the disk is full",
        "5 runs: 2 failed, 1 stopped, 1 waiting, 1 finished",
    ]
    unfinished = status.table(status.find_runs([some_runs]), unfinished=True)
    assert "seed=0" not in unfinished and unfinished.endswith(lines[-1])


def test_status_and_the_table_after_a_sweep_say_the_same(some_runs: Path) -> None:
    """`match` was the last tenth in the one and the last update in the other."""
    folders = status.find_runs([some_runs])
    for folder in folders:
        folder.append_metrics(
            {"update": 20, "reward/mean": 0.5, "eval/train_exact_match": 0.75, "reward/exact_match": 0.1}
        )
        folder.release()
    seeds = [f"seed={number}" for number in range(5)]
    ours, others = (
        {cells[0]: cells[1:] for cells in map(str.split, text.splitlines()) if cells[0] in seeds}
        for text in (status.table(folders), end_of_sweep_table([summarise(folder) for folder in folders]))
    )
    assert others["seed=1"] == ["failed", "20/20", "0.250", "0.500", "75", "%", "1:01"]
    assert {name: [*cells[:4], *cells[-3:]] for name, cells in ours.items()} == others


def test_status_says_how_long_a_running_run_has_left(some_runs: Path) -> None:
    """As its last update says, which has it in its line."""
    folder = status.find_runs([some_runs])[1]
    running = RunFolder(folder.path)
    assert running.acquire()
    running.write_status(state="running", reason=None, pid=os.getpid(), host=socket.gethostname())
    for update, left in ((13, 40.0), (14, 18.0)):
        cost = {"time/left": left, "time/tokens_per_second": 20.0, "memory/resident_peak": update / 10}
        running.append_metrics({"update": update, "reward/mean": 0.25, **cost})
    lines = status.table(status.find_runs([some_runs])).splitlines()
    assert lines[1].split()[-2:] == ["time", "left"]
    (line,) = (line for line in lines if line.split()[:2] == ["seed=1", "running"])
    assert line.split()[-1] == "0:18"
    assert lines[-2] == "running: 20 tokens/s, at most 1.4 GiB"
    running.append_metrics({"update": 15, "reward/mean": 0.25, **cost, "memory/cuda_peak": 30.25})
    assert "\nrunning: 20 tokens/s, at most 30.2 GiB\n" in status.table(status.find_runs([some_runs]))
    # It loads, it goes on from the last update, it has made one.
    for began, left in ((None, "-"), (15, "-"), (14, "0:18")):
        running.write_status(began_at=began)
        (line,) = (line for line in status.table(status.find_runs([some_runs])).splitlines() if " running " in line)
        assert line.split()[-1] == left
        with SweepTable([running]) as table:
            assert table._cells(0, "running")[-1] == f"{left} left"
    running.write_status(state="stopped")
    assert summarise(running).left != summarise(running).left  # nothing is said of a run that does not run
    running.release()


@pytest.mark.parametrize(
    ("memory", "line"),
    [
        (
            (math.nan, 2.0, 1.0),
            "running: 30 tokens/s together, at most 2.0 GiB each",
        ),  # wrong version: max() of a NaN is -
        ((1.0, math.nan, 2.0), "running: 30 tokens/s together, at most 2.0 GiB each"),
        ((math.nan,), "running: 10 tokens/s, at most - GiB"),
    ],
)
def test_the_most_memory_of_running_runs_is_of_those_that_say_it(
    some_runs: Path, memory: tuple[float, ...], line: str
) -> None:
    one = replace(summarise(status.find_runs([some_runs])[0]), state="running", tokens_per_second=10.0)
    assert status._cost([replace(one, memory=each) for each in memory]) == [line]


def test_a_folder_may_be_named_as_a_run_was_told(some_runs: Path) -> None:
    assert status.outputs_folder(f"paths.outputs={some_runs}") == some_runs == status.outputs_folder(str(some_runs))
    assert status.outputs_folder("paths.outputs=~/x") == Path.home() / "x"


@pytest.mark.parametrize(
    ("stderr", "remedy"),
    [
        ("sbatch: error: Unable to contact slurm controller (connect failure)", "the same command tries again"),
        ("allocation failure: Invalid partition name specified", "correct cluster or resources"),
    ],
)
def test_what_sbatch_says_leads_to_its_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call_cli: Any, small: Sequence[str], stderr: str, remedy: str
) -> None:
    """Wrong version: where the controller is away, the options are to be corrected."""
    (tmp_path / "sbatch").write_text(f"#!/bin/sh\necho '{stderr}' >&2\nexit 1\n")
    for name in ("srun", "squeue"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 0\n")
    for name in ("sbatch", "srun", "squeue"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    result = call_cli("-m", *small, "hydra/launcher=slurm", "dry_run=true")
    assert result.code == 2 and result.error_line.endswith(f"; {remedy}"), result.error_line


def test_status_takes_any_folder_and_imports_nothing_heavy(some_runs: Path, tmp_path: Path) -> None:
    one = some_runs / "runs/color-pgsrm-s3-0123abcd"
    assert [run.path for run in status.find_runs([one])] == [one]
    assert len(status.find_runs([one, some_runs / "runs"])) == 5
    with pytest.raises(UserError, match="nowhere: no such folder"):
        status.find_runs([tmp_path / "nowhere"])
    code = "import sys; from pgsrm.status import main; sys.argv[1:] = sys.argv[1:]; main(); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(some_runs)], env=environment(), capture_output=True, text=True
    )
    modules = set(done.stdout.splitlines()[-1].split())
    assert done.returncode == 0 and not modules & {"torch", "mlflow", "hydra", "omegaconf", "submitit", "numpy"}


def test_sync_sends_what_mlflow_lacks_and_only_that(
    some_runs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from pgsrm.launch import sync

    monkeypatch.setattr(
        "pgsrm.config.plan.load_settings", lambda run: (None, OmegaConf.to_container(OmegaConf.load(run.config)))
    )
    folders = status.find_runs([some_runs])
    own = folders[3]  # it runs, and its process sends
    own.write_status(state="running", mirrored=True, pid=os.getpid(), host=socket.gethostname())
    cut = folders[2]  # a job of a cluster, which did not touch the file: no end yet
    cut.write_status(state="running", mirrored=False, pid=os.getpid(), host=socket.gethostname())
    assert vars(sync.sync(folders)) == {"new": 3, "complete": 0, "themselves": 1, "without": 1}
    client = MlflowClient(f"sqlite:///{some_runs}/mlflow.db")
    found = {run.info.run_name: run for run in client.search_runs(["1"])}
    assert {name[-11:-9]: run.info.status for name, run in found.items()} == {
        "s0": "FINISHED",
        "s1": "FAILED",
        "s2": "RUNNING",
    }
    cut.append_metrics({"update": 12, "reward/mean": 0.75})
    cut.write_status(state="finished")
    assert vars(sync.sync(folders)) == {"new": 1, "complete": 2, "themselves": 1, "without": 1}
    history = client.get_metric_history(found[cut.name].info.run_id, "reward/mean")
    assert [point.step for point in history] == list(range(13))
    assert client.get_run(found[cut.name].info.run_id).info.status == "FINISHED"
    config = cut.config.read_text()
    cut.config.write_text(config.replace("sqlite:////", "http://127.0.0.1:1/").replace("mlflow.db", ""))
    cut.mlflow.unlink()
    with pytest.raises(UserError, match=r"MLflow at http://127.0.0.1:1.* does not answer .*pgsrm.sync .*` sends what"):
        sync.sync(folders)


def test_a_reward_of_several_runs_is_checked_once(small: Sequence[str]) -> None:
    """Wrong version: what was checked is kept under another key than it is looked for, and each run of a sweep checks anew."""
    plan = plan_words(*small, "task=antonym")
    task, _ = build_objects(plan.config)
    asked = list[int]()

    class Reward:
        def check(self, references: Sequence[str]) -> None:
            asked.append(len(references))

        def __call__(self, **_: Any) -> list[float]:
            return []

    shared = Shared()
    for _ in range(3):
        shared.check(plan.config, plan.settings, task, Reward())
    assert asked == [len(task.train + task.holdout)]
