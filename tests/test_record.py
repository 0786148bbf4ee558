"""The record of a run: folder, lock, checkpoints, MLflow mirror, progress."""

import fcntl
import io
import json
import logging
import math
import multiprocessing
import os
import pty
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient

from pgsrm.record import DiskFull, RunFolder, checkpoint
from pgsrm.record.environment import commit, environment
from pgsrm.record.mlflow_mirror import MlflowMirror, is_complete
from pgsrm.record.mlflow_store import prepare, tracking_uri, ui_hint
from pgsrm.record.params import run_params, run_tags
from pgsrm.record.progress import CountProgress, RunProgress, SweepTable, TrainingProgress
from pgsrm.record.summary import end_of_run_line, end_of_sweep_table, summarise
from pgsrm.record.tenths import tenth_bounds
from pgsrm.util.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    run = RunFolder(tmp_path / "outputs/runs/color-pgsrm-nano-sound-s1-0123abcd")
    assert run.acquire()
    yield run
    run.release()


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """A full disk without root: the kernel lets no file of this process grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def row(update: int) -> dict[str, float]:
    return {
        "update": update,
        "reward/mean": update / 100,
        "policy/entropy": 8.0 - update / 100,
        "policy/kl": 0.01,
        "reward/exact_match": 0.5,
        "time/update": 0.25,
        "time/left": 766.0,
    }


# Run folder


def test_metrics_come_back_and_nan_is_json_null(folder: RunFolder) -> None:
    folder.append_metrics({"update": 1, "loss/policy": torch.tensor(0.5), "grad/actor_norm": np.float32(0.25)})
    folder.append_metrics({"update": 2, "loss/policy": math.nan, "loss/value": math.inf})
    lines = folder.metrics.read_text().splitlines()
    assert json.loads(lines[0]) == {"update": 1, "loss/policy": 0.5, "grad/actor_norm": 0.25}
    assert lines[1] == '{"update":2,"loss/policy":null,"loss/value":null}'
    assert math.isnan(folder.read_metrics()[1]["loss/policy"])


def test_lines_are_on_file_before_the_process_ends(folder: RunFolder) -> None:
    for update in range(3):
        folder.append_metrics(row(update))
        assert RunFolder(folder.path).read_metrics()[-1]["update"] == update


@pytest.mark.parametrize("half", [b'{"update": 5, "reward/mean": 0.1', b'{"update": 5}'])
def test_half_written_line_is_neither_read_nor_kept(folder: RunFolder, half: bytes) -> None:
    for update in range(5):
        folder.append_metrics(row(update))
    with open(folder.metrics, "ab") as file:
        file.write(half)
    assert [line["update"] for line in folder.read_metrics()] == [0, 1, 2, 3, 4]
    last = folder.last_metrics()
    assert last is not None and last["update"] == 4
    folder.truncate_after(5)
    folder.append_metrics(row(5))
    assert [line["update"] for line in folder.read_metrics()] == [0, 1, 2, 3, 4, 5]


def test_resume_cuts_metrics_and_samples_back_to_the_checkpoint(folder: RunFolder) -> None:
    for update in range(10):
        folder.append_metrics(row(update))
        folder.append_samples([{"update": update, "response": "grün"}, {"update": update, "response": "b"}])
    folder.truncate_after(6)
    folder.append_metrics(row(7))
    assert [line["update"] for line in folder.read_metrics()] == list(range(8))
    samples = [json.loads(line) for line in folder.samples.read_text().splitlines()]
    assert [sample["update"] for sample in samples] == [update for update in range(7) for _ in range(2)]
    assert samples[0]["response"] == "grün"


def test_last_metrics_of_a_line_longer_than_the_first_read(folder: RunFolder) -> None:
    assert folder.last_metrics() is None
    for update in range(3):
        folder.append_metrics({"update": update, **{f"reward/{name}": 0.123456789 for name in range(1000)}})
    last = folder.last_metrics()
    assert last is not None and (last["update"], len(last)) == (2, 1001)


def test_status_merges_and_a_damaged_one_is_none(folder: RunFolder) -> None:
    assert folder.status() is None and folder.state() == "waiting"
    folder.write_status(state="running", pid=os.getpid(), host=socket.gethostname())
    folder.write_status(update=3)
    assert folder.status() == {
        "state": "running",
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "update": 3,
    }
    assert folder.state() == "running"
    ended = subprocess.Popen(["true"])
    ended.wait()
    folder.write_status(pid=ended.pid)
    assert folder.state() == "cut off"
    folder.write_status(state="finished")
    assert folder.state() == "finished"
    (folder.path / "status.json").write_text('{"state": "fin')
    assert folder.status() is None
    assert {path.name for path in folder.path.iterdir()} == {"lock", "status.json"}


def test_only_one_process_trains_a_run(folder: RunFolder) -> None:
    script = "import sys; from pgsrm.record import RunFolder; print(RunFolder(sys.argv[1]).acquire())"

    def another_gets_it() -> bool:
        command = [sys.executable, "-c", script, str(folder.path)]
        return subprocess.check_output(command, cwd=ROOT, text=True).strip() == "True"

    assert not another_gets_it()
    folder.release()
    assert another_gets_it()
    assert folder.acquire()  # the other process is gone, and its lock with it


def test_full_disk_leaves_whole_lines_and_says_what_to_do(folder: RunFolder) -> None:
    with no_file_longer_than(1000), pytest.raises(DiskFull, match="same command resumes") as caught:
        for update in range(100):
            folder.append_metrics(row(update))
    assert str(folder.path) in str(caught.value) and "\n" not in str(caught.value)
    assert isinstance(caught.value, UserError)
    content = folder.metrics.read_bytes()
    assert 800 < len(content) < 1000 and content.endswith(b"\n")
    folder.append_metrics(row(len(folder.read_metrics())))
    assert [line["update"] for line in folder.read_metrics()] == list(range(len(folder.read_metrics())))


def test_no_space_left_on_the_device_is_disk_full(folder: RunFolder) -> None:
    folder.samples.symlink_to("/dev/full")
    with pytest.raises(DiskFull):
        folder.append_samples([{"update": 1}])
    folder.write_status(state="running")
    with no_file_longer_than(10), pytest.raises(DiskFull):
        folder.write_status(state="finished", reason="x" * 100)
    assert folder.status() == {"state": "running"}


# Checkpoints


def tensors(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    weight = torch.randn(7, 5)
    return {
        "weight": weight,
        "tied": weight,
        "view": weight[2:4],
        "transposed": weight.T,
        "bfloat16": torch.randn(3).to(torch.bfloat16),
        "rng": torch.get_rng_state(),
        "step": torch.tensor(3.0),
        "empty": torch.empty(0, 4),
        "parameter": torch.nn.Parameter(torch.randn(2)),
    }


def test_checkpoint_round_trip_is_exact(folder: RunFolder) -> None:
    generator = np.random.default_rng(1).bit_generator.state
    state = {
        "kl_coef": 0.1 + 0.2,
        "numpy": generator,
        "best": math.inf,
        "order": [3, 1],
        "done": True,
        "x": None,
    }
    assert checkpoint.load_latest(folder) is None
    checkpoint.save(folder, 12, tensors(1), state)
    loaded = checkpoint.load_latest(folder)
    assert loaded is not None
    update, found, found_state = loaded
    assert (update, found_state) == (12, state)
    assert found.keys() == tensors(1).keys()
    for name, tensor in tensors(1).items():
        assert found[name].dtype == tensor.dtype
        torch.testing.assert_close(found[name], tensor.detach(), rtol=0, atol=0)
    assert found["tied"] is found["weight"]
    # What is done to loaded tensors stays in memory.
    found["weight"].zero_()
    again = checkpoint.load_latest(folder)
    assert again is not None and again[1]["weight"].abs().sum() > 0


def test_last_two_checkpoints_are_kept_and_leftovers_removed(folder: RunFolder) -> None:
    leftover = folder.checkpoints / ".000099.tmp"
    leftover.mkdir(parents=True)
    for update in (10, 20, 30, 1_000_000):
        checkpoint.save(folder, update, {"a": torch.zeros(1)}, {})
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == ["000030", "1000000"]
    # Going back to 30 gives the later one up: it must not take the place of a good one.
    checkpoint.save(folder, 40, {"a": torch.zeros(1)}, {})
    checkpoint.save(folder, 40, {"a": torch.ones(1)}, {"again": True})
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == ["000030", "000040"]
    loaded = checkpoint.load_latest(folder)
    assert loaded is not None and loaded[2] == {"again": True}


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
def test_damaged_checkpoint_falls_back_to_the_one_before(
    folder: RunFolder, name: str, damage: Callable[[Path], None]
) -> None:
    checkpoint.save(folder, 1, tensors(1), {"n": 1})
    checkpoint.save(folder, 2, tensors(2), {"n": 2})
    damage(folder.checkpoints / "000002" / name)
    warnings: list[str] = []
    loaded = checkpoint.load_latest(folder, warn=warnings.append)
    assert loaded is not None and (loaded[0], loaded[2]) == (1, {"n": 1})
    assert len(warnings) == 1 and "000002" in warnings[0] and "\n" not in warnings[0]
    damage(folder.checkpoints / "000001" / name)
    assert checkpoint.load_latest(folder, warn=warnings.append) is None


def test_full_disk_keeps_the_earlier_checkpoints(folder: RunFolder) -> None:
    checkpoint.save(folder, 1, {"a": torch.ones(10)}, {"n": 1})
    with no_file_longer_than(50_000), pytest.raises(DiskFull, match="same command"):
        checkpoint.save(folder, 2, {"a": torch.ones(50_000)}, {"n": 2})
    with no_file_longer_than(50_000), pytest.raises(DiskFull):
        checkpoint.save(folder, 2, {"a": torch.ones(10)}, {"n": [0] * 50_000})
    assert [path.name for path in folder.checkpoints.iterdir()] == ["000001"]
    assert checkpoint.load_latest(folder) is not None


def test_checkpoint_refuses_what_json_cannot_hold(folder: RunFolder) -> None:
    with pytest.raises(TypeError):
        checkpoint.save(folder, 1, {"a": torch.ones(1)}, {"rng": b"bytes"})
    assert list(folder.checkpoints.iterdir()) == []


# MLflow


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {"uri": f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/outputs/mlflow.db", "experiment": "pgsrm"}


PARAMS = {"task": "color", "reward": "pgsrm", "seed": "1", "model": "nano", "ppo": "sound"} | {
    f"ppo.value_{number}": str(number) for number in range(120)
}
KILLED = """
import os, signal, sys, time
from pgsrm.record import RunFolder
from pgsrm.record.mlflow_mirror import MlflowMirror
folder, uri = RunFolder(sys.argv[1]), sys.argv[2]
mirror = MlflowMirror(folder, {"uri": uri, "experiment": "pgsrm"}, folder.name, {}, {})
for update in range(120):
    folder.append_metrics({"update": update, "reward/mean": update / 100, "time/update": 0.25})
mirror.start()
while "update\\": 119" not in (folder.mlflow.read_text() if folder.mlflow.exists() else ""):
    time.sleep(0.05)
os.kill(os.getpid(), signal.SIGKILL)
"""


def history(tracking: dict[str, Any], run: str, metric: str) -> list[tuple[int, float]]:
    found = MlflowClient(tracking_uri=tracking_uri(tracking)).get_metric_history(run, metric)
    return sorted((point.step, point.value) for point in found)


def wait_for(folder: RunFolder, update: int) -> None:
    """Until the mirror remembers that it sent `update`, or for 10 seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if folder.mlflow.exists() and json.loads(folder.mlflow.read_text())["update"] == update:
            return
        time.sleep(0.02)


def test_mirror_has_every_line_params_and_tags(folder: RunFolder, tracking: dict[str, Any]) -> None:
    experiment = prepare(tracking)
    mirror = MlflowMirror(folder, tracking, folder.name, PARAMS, {"sweep": "sweep-1", "none": None})
    mirror.start()
    for update in range(400):
        folder.append_metrics({**row(update), "reward/odd (%)": 1.0, "loss/value": math.nan, "note": "text"})
    mirror.finish("failed", "loss is not a number")
    sent = json.loads(folder.mlflow.read_text())
    assert history(tracking, sent["run_id"], "reward/mean") == [(update, update / 100) for update in range(400)]
    assert len(history(tracking, sent["run_id"], "reward/odd ___")) == 400
    run = MlflowClient(tracking_uri=tracking["uri"]).get_run(sent["run_id"])
    assert run.info.experiment_id == experiment and run.info.status == "FAILED"
    assert run.data.params == PARAMS
    assert run.data.tags["sweep"] == "sweep-1" and "none" not in run.data.tags
    assert run.data.tags["reason"] == "loss is not a number"
    assert "loss/value" not in run.data.metrics and "note" not in run.data.metrics
    assert run.info.run_name == folder.name
    # The time stamps are training time, so that what is sent again is the same.
    points = MlflowClient(tracking_uri=tracking["uri"]).get_metric_history(sent["run_id"], "reward/mean")
    assert sorted(point.timestamp - run.info.start_time for point in points)[:3] == [250, 500, 750]


def test_mlflow_has_description_commit_samples_and_model_once_however_often_they_are_sent(
    folder: RunFolder, tracking: dict[str, Any]
) -> None:
    config = {"choices": {"task": "color", "reward": "pgsrm", "model": "nano", "ppo": "sound"}, "seed": 1}
    status = {"label": "alpha=8 color pgsrm s1, nano sound", "commit": "ab" * 20 + "-dirty", "sweep": "now"}
    tags = run_tags(config, status, str(folder.path))
    folder.write_status(state="finished", **status)
    folder.append_metrics(row(1))
    for update in (1, 2):
        samples = [
            {"update": update, "prompt": f"p{n} 'ü'", "response": "r", "reward": 0.5, "tokens": [1]} for n in range(2)
        ]
        folder.append_samples(samples)
    folder.model.mkdir()
    for _ in range(2):
        MlflowMirror(folder, tracking, status["label"], {}, tags).send_now(("finished", None))
    client = MlflowClient(tracking["uri"])
    experiment = client.get_experiment_by_name("pgsrm")
    run = client.get_run(json.loads(folder.mlflow.read_text())["run_id"])
    assert run.info.run_name == "alpha=8 color pgsrm s1, nano sound"
    assert run.data.tags["mlflow.source.git.commit"] == "ab" * 20 and run.data.tags["uncommitted_changes"] == "true"
    assert run.data.tags["final_model"] == str(folder.model)
    assert run.data.tags["mlflow.note.content"] == (
        "Task **color**, rewarded by **pgsrm**; the policy is nano, the algorithm ppo=sound, the seed 1. "
        f"Varied or set: alpha=8.\n\nRun folder: `{folder.path}`"
    )
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [{"path": "samples.json", "type": "table"}]
    (artifact,) = client.list_artifacts(run.info.run_id)
    beside = Path(tracking["uri"].removeprefix("sqlite:///")).with_name("mlartifacts")
    table = json.loads((beside / run.info.run_id / "artifacts" / artifact.path).read_text())
    assert table["columns"] == ["update", "prompt", "response", "reward"]
    assert table["data"] == [[u, f"p{n} 'ü'", "r", 0.5] for u in (2, 1) for n in (1, 0)]
    # The first view is reward, entropy, KL, in the mode for trained models.
    state = json.loads(experiment.tags["mlflow.sharedViewState.pgsrm"])
    assert [chart["metricKey"] for chart in state["compareRunCharts"]][:3] == [
        "reward/mean",
        "policy/entropy",
        "policy/kl",
    ]
    assert len(experiment.tags["mlflow.sharedViewState.pgsrm"]) < 5000  # MLflow's limit
    # What somebody writes there stays; a resumed run has the commit of the code that resumed it.
    client.set_tag(run.info.run_id, "mlflow.note.content", "mine")
    MlflowMirror(folder, tracking, "", {}, run_tags(config, {**status, "commit": "cd" * 20}, "")).send_now()
    tags = client.get_run(run.info.run_id).data.tags
    assert (tags["mlflow.note.content"], tags["uncommitted_changes"]) == ("mine", "false")
    assert tags["mlflow.source.git.commit"] == "cd" * 20


def test_samples_are_not_written_where_a_moved_database_once_was(folder: RunFolder, tmp_path: Path) -> None:
    folder.write_status(state="finished")
    folder.append_metrics(row(1))
    folder.append_samples([{"update": 1, "prompt": "p"}])
    before = {"uri": f"sqlite:///{tmp_path}/outputs/mlflow.db", "experiment": "pgsrm"}
    assert prepare(before) == "1"
    os.rename(tmp_path / "outputs", tmp_path / "moved")
    there = RunFolder(tmp_path / "moved/runs" / folder.name)
    MlflowMirror(there, {**before, "uri": f"sqlite:///{tmp_path}/moved/mlflow.db"}, "run", {}, {}).send_now(
        ("finished", None)
    )
    assert json.loads(there.mlflow.read_text())["state"] == "finished"
    assert not (tmp_path / "outputs").exists()
    os.rename(tmp_path / "moved", tmp_path / "outputs")


def test_killed_run_goes_on_in_the_same_mlflow_run(folder: RunFolder, tracking: dict[str, Any]) -> None:
    prepare(tracking)
    killed = subprocess.call([sys.executable, "-c", KILLED, folder.path, tracking["uri"]], cwd=ROOT)
    assert killed == -signal.SIGKILL
    before = json.loads(folder.mlflow.read_text())
    with open(folder.metrics, "ab") as file:
        file.write(b'{"update": 120, "reward/me')
    folder.write_status(state="running")
    assert not is_complete(folder)

    folder.truncate_after(99)  # the checkpoint; 100 to 119 have been sent and come again
    mirror = MlflowMirror(folder, tracking, folder.name, {}, {})
    mirror.start()
    for update in range(100, 200):
        # The clock is the one thing that differs when updates are made again.
        folder.append_metrics({"update": update, "reward/mean": update / 100, "time/update": 0.5})
    mirror.finish("finished")
    assert json.loads(folder.mlflow.read_text())["run_id"] == before["run_id"]
    assert history(tracking, before["run_id"], "reward/mean") == [(update, update / 100) for update in range(200)]
    assert len(history(tracking, before["run_id"], "time/update")) == 200
    assert MlflowClient(tracking_uri=tracking["uri"]).get_run(before["run_id"]).info.status == "FINISHED"
    folder.write_status(state="finished")
    assert is_complete(folder)


def test_batch_sent_but_not_remembered_is_not_sent_twice(folder: RunFolder, tracking: dict[str, Any]) -> None:
    """Wrong version: updates computed again have other times, and MLflow keeps both points of one step."""
    prepare(tracking)
    for update in range(50):
        folder.append_metrics(row(update))
    first = MlflowMirror(folder, tracking, folder.name, {}, {})
    first.start()
    first.finish("stopped")
    sent = json.loads(folder.mlflow.read_text())
    # As if the process had died after MLflow took the lines and before mlflow.json was written.
    folder.mlflow.write_text(json.dumps({**sent, "update": 29, "seconds": 7.5}))
    folder.truncate_after(39)  # the checkpoint
    for update in range(40, 60):
        folder.append_metrics({**row(update), "time/update": 0.75})
    second = MlflowMirror(folder, tracking, folder.name, {}, {})
    second.start()
    second.finish("finished")
    assert history(tracking, sent["run_id"], "reward/mean") == [(update, update / 100) for update in range(60)]
    assert json.loads(folder.mlflow.read_text())["seconds"] == pytest.approx(50 * 0.25 + 10 * 0.75)


def test_line_is_sent_once_it_is_whole(
    folder: RunFolder, tracking: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgsrm.record.mirror._PERIOD", 0.05)
    prepare(tracking)
    folder.metrics.write_bytes(b'{"update": 0, "reward/mean": 0.5}\n{"update": 1, "reward/me')
    mirror = MlflowMirror(folder, tracking, folder.name, {}, {})
    mirror.start()
    wait_for(folder, update=0)
    time.sleep(0.2)
    with open(folder.metrics, "ab") as file:
        file.write(b'an": 0.75}\n')
    mirror.finish("finished")
    run = json.loads(folder.mlflow.read_text())["run_id"]
    assert history(tracking, run, "reward/mean") == [(0, 0.5), (1, 0.75)]


def test_file_cut_while_the_mirror_reads_it(
    folder: RunFolder, tracking: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgsrm.record.mirror._PERIOD", 0.05)
    prepare(tracking)
    for update in range(50):
        folder.append_metrics({**row(update), "time/update": 0.123456789})
    mirror = MlflowMirror(folder, tracking, folder.name, {}, {})
    mirror.start()
    wait_for(folder, update=49)
    folder.truncate_after(20)
    for update in range(21, 80):
        folder.append_metrics(row(update))  # shorter lines
    mirror.finish("finished")
    run = json.loads(folder.mlflow.read_text())["run_id"]
    assert history(tracking, run, "reward/mean") == [(update, update / 100) for update in range(80)]


def test_run_deleted_in_mlflow_gets_a_new_one_with_all_lines(folder: RunFolder, tracking: dict[str, Any]) -> None:
    prepare(tracking)
    folder.append_metrics(row(0))
    folder.mlflow.write_text(json.dumps({"run_id": "0" * 32, "tracking_uri": tracking["uri"], "update": 0}))
    mirror = MlflowMirror(folder, tracking, folder.name, {}, {})
    mirror.start()
    mirror.finish("finished")
    sent = json.loads(folder.mlflow.read_text())
    assert sent["run_id"] != "0" * 32 and len(history(tracking, sent["run_id"], "reward/mean")) == 1


def listening(answering: bool) -> tuple[socket.socket, str]:
    """An address on loopback: of a closed port, or of a server that takes connections and says nothing."""
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    uri = f"http://user:hunter2@127.0.0.1:{server.getsockname()[1]}"
    if answering:
        server.listen()
    else:
        server.close()
    return server, uri


@pytest.mark.parametrize("answering", [False, True])
def test_dead_server_costs_one_warning_and_no_training_time(
    folder: RunFolder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, answering: bool
) -> None:
    monkeypatch.setattr("pgsrm.record.mirror._PERIOD", 0.1)
    server, uri = listening(answering)
    caplog.set_level(logging.WARNING)
    begin = time.monotonic()
    mirror = MlflowMirror(folder, {"uri": uri, "experiment": "pgsrm"}, folder.name, {}, {})
    mirror.start()
    for update in range(300):
        folder.append_metrics(row(update))
    in_training = time.monotonic() - begin
    time.sleep(0.5)  # enough for several tries
    mirror.finish("finished", patience=1.0)
    assert in_training < 1
    assert time.monotonic() - begin < 4
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2 and "training continues" in warnings[0] and not any("\n" in each for each in warnings)
    assert "not all of it was sent; the same command sends the rest, or" in warnings[1] and "pgsrm.sync" in warnings[1]
    assert "hunter2" not in warnings[0] and (answering or "Connection refused" in warnings[0])
    server.close()
    assert not folder.mlflow.exists() and len(folder.read_metrics()) == 300


def test_server_that_comes_back_gets_everything(
    folder: RunFolder,
    tracking: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    prepare(tracking)
    monkeypatch.setattr("pgsrm.record.mirror._PERIOD", 0.05)
    calls = 0
    log_batch = MlflowClient.log_batch

    def flaky(self: MlflowClient, *args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % 3 == 2:
            log_batch(self, *args, **options)  # taken, and the answer lost
        if calls % 3:
            raise ConnectionError("connection reset")
        return log_batch(self, *args, **options)

    monkeypatch.setattr(MlflowClient, "log_batch", flaky)
    mirror = MlflowMirror(folder, tracking, folder.name, {"task": "color"}, {})
    mirror.start()
    for update in range(300):
        folder.append_metrics(row(update))
    wait_for(folder, update=299)
    monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
    mirror.finish("finished")
    sent = json.loads(folder.mlflow.read_text())
    assert history(tracking, sent["run_id"], "policy/kl") == [(update, 0.01) for update in range(300)]
    assert len(caplog.records) == 1


def make_database(uri: str) -> None:
    assert prepare({"uri": uri, "experiment": "pgsrm"}) is not None


def test_several_processes_may_make_the_database_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")  # spares importing MLflow three times
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    processes = [context.Process(target=make_database, args=(uri,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]


def test_mlflow_serves_a_user_without_home_and_name(tmp_path: Path) -> None:
    """As in a container with a user id that no file knows. Wrong version: "Could not determine home directory"."""
    code = """
import pwd, sys
def unknown(number):
    raise KeyError(f"getpwuid(): uid not found: {number}")
pwd.getpwuid = unknown
from pgsrm.record.mlflow_store import prepare
print(prepare({"uri": sys.argv[1], "experiment": "pgsrm"}))
"""
    environ = {name: value for name, value in os.environ.items() if name not in ("HOME", "USER", "LOGNAME", "USERNAME")}
    command = [sys.executable, "-c", code, f"sqlite:///{tmp_path}/mlflow.db"]
    done = subprocess.run(command, env={**environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_unreachable_server_before_the_sweep_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    _, uri = listening(False)
    assert prepare({"uri": uri, "experiment": "pgsrm"}) is None
    assert len(caplog.records) == 1 and "the runs go on" in caplog.text and "hunter2" not in caplog.text


def test_deleted_experiment_is_a_user_error(tracking: dict[str, Any]) -> None:
    other = {**tracking, "experiment": "deleted"}
    experiment = prepare(other)
    assert experiment is not None
    MlflowClient(tracking_uri=tracking["uri"]).delete_experiment(experiment)
    with pytest.raises(UserError, match=r"tracking\.experiment=deleted"):
        prepare(other)


@pytest.mark.parametrize("uri", [None, "outputs/mlflow", "file:///tmp/mlruns", "ftp://host", "http://", "sqlite:"])
def test_wrong_address_is_a_user_error(uri: str | None) -> None:
    with pytest.raises(UserError, match=r"tracking\.uri=.*tracking=none"):
        tracking_uri({"uri": uri, "experiment": "pgsrm"})


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = {"uri": "sqlite:///outputs/mlflow.db", "experiment": "pgsrm"}
    assert tracking_uri(here) == f"sqlite:///{tmp_path}/outputs/mlflow.db"
    assert tracking_uri({**here, "uri": f"sqlite:///{tmp_path}/a.db"}) == f"sqlite:///{tmp_path}/a.db"
    hint = ui_hint(here, "1")
    assert f"--backend-store-uri sqlite:///{tmp_path}/outputs/mlflow.db" in hint and "\n" not in hint
    page = "runs?compareRunsMode=CHART&workflowType=machine_learning&viewStateShareKey=pgsrm"
    assert f"http://127.0.0.1:5000/#/experiments/1/{page}" in hint
    assert ui_hint({**here, "uri": "http://host:5000/"}, "7") == f"curves: http://host:5000/#/experiments/7/{page}"
    assert page in (ROOT / "Makefile").read_text()  # what `make ui` prints


def test_params_are_flat_and_hold_no_secret() -> None:
    config = {
        "choices": {
            "task": "color",
            "reward": "pgsrm",
            "model": "nano",
            "ppo": "sound",
            "tracking": "mlflow",
        },
        "seed": 1,
        "task": {"max_new_tokens": 2, "holdout": 0.0, "checker": {"_target_": "a.B"}},
        "parent": {
            "api_key": "sk-1",
            "apiKey": "sk-2",
            "headers": {"Authorization": "sk-3"},
            "auth_tokens": ["sk-4"],
        },
        "model": {"tokenizer": "own", "path": None, "password": 5},
        "tracking": {"uri": "http://me:sk-6@host:5000"},
        "my (odd) key": "sk-7",
    }
    params = run_params(config)
    assert params["task"] == "color" and params["ppo"] == "sound" and params["seed"] == "1"
    assert params["task.max_new_tokens"] == "2" and params["task.checker._target_"] == "a.B"
    assert params["model.tokenizer"] == "own" and params["model.path"] == "None"
    assert params["tracking.uri"] == "http://***@host:5000"
    assert "sk-" not in str(params) and params["model.password"] == "***"
    assert "my _odd_ key" in params and "choices.task" not in params


def test_importing_the_record_does_not_import_mlflow_or_torch() -> None:
    modules = "run_folder, checkpoint, mlflow_mirror, mlflow_store, params, progress, summary, environment"
    script = f"import sys; from pgsrm.record import {modules}; print([m for m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not any(f"'{name}'" in loaded.stdout for name in ("mlflow", "torch", "rich", "numpy", "requests"))


# Documentation


def test_every_metric_is_explained() -> None:
    page = (ROOT / "docs/metrics.md").read_text()
    sources = "".join(
        (ROOT / "pgsrm" / name).read_text() for name in ("trainer.py", "reward/scorer.py", "ppo/update.py")
    )
    logged = set(re.findall(r'"((?:reward|response|policy|loss|advantage|value|grad|time)/\w+)"', sources))
    logged.discard("advantage/square")  # an intermediate of advantage/std
    assert len(logged) > 20
    assert [name for name in sorted(logged) if f"`{name}`" not in page] == []


# Progress and summaries


def in_terminal(columns: int, show: Callable[[Any], None]) -> list[str]:
    """The lines that `show` leaves on a terminal of so many columns."""
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    with os.fdopen(terminal, "w") as stream:
        show(stream)
        stream.flush()
        output = b""
        os.set_blocking(main, False)
        while True:
            try:
                output += os.read(main, 65536)
            except BlockingIOError:
                break
    os.close(main)
    from rich.text import Text

    return [Text.from_ansi(line).plain for line in output.decode().replace("\r", "\n").split("\n")]


@pytest.fixture
def sweep(tmp_path: Path) -> list[RunFolder]:
    """Five runs with long names, one in each state."""
    runs = []
    for index, state in enumerate(["finished", "failed", "running", "stopped", None]):
        run = RunFolder(tmp_path / f"sentiment-pgsrm-gpt2_small-released-s{index}-0123abc{index}")
        run.create()
        if state:
            for update in range(1, 100):
                run.append_metrics(row(update))
            run.append_metrics({**row(100), "eval/train_exact_match": 0.75, "eval/holdout_exact_match": 0.25})
            reason = "out of memory" if state == "failed" else None
            run.write_status(
                state=state,
                reason=reason,
                updates=100 if state == "finished" else 2000,
                seconds=161.0,
                pid=os.getpid(),
                host=socket.gethostname(),
            )
            run.release()
        runs.append(run)
    return runs


@pytest.mark.parametrize("columns", [80, 100])
def test_bar_fits_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))  # rich asks the size of standard streams only

    def show(stream: Any) -> None:
        with RunProgress("sentiment-pgsrm-gpt2_small-released-s10-0123abcd", 2000, done=5, stream=stream) as bar:
            bar.show(row(6))
            bar.show(row(1234))

    lines = [line for line in in_terminal(columns, show) if line.strip()]
    assert max(map(len, lines)) <= columns
    assert "1234/2000" in lines[-1] and "reward 12.340 entropy -4.34 KL 0.010 left 12:46" in lines[-1]


@pytest.mark.parametrize("columns", [80, 100])
def test_sweep_table_fits_the_terminal(sweep: list[RunFolder], columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))  # rich asks the size of standard streams only

    def show(stream: Any) -> None:
        with SweepTable(sweep, stream=stream) as table:
            table.refresh()

    lines = [line for line in in_terminal(columns, show) if line.strip()]
    assert max(map(len, lines)) <= columns
    assert [line.split()[1] for line in lines[-5:]] == ["failed", "stopped", "running", "waiting", "finished"]
    assert lines[-5].split()[2:] == ["100/2000", "1.000", "7.00", "0.010", "2:41"]
    assert lines[-3].split()[2:] == ["100/2000", "1.000", "7.00", "0.010", "12:46", "left"]


COST = {"time/tokens_per_second": 12345.6, "memory/resident_peak": 21.0, "memory/cuda_peak": 70.25}


@pytest.mark.parametrize(("columns", "cost"), [(80, False), (99, False), (100, True), (140, True)])
def test_bar_has_throughput_and_memory_where_there_is_room(
    columns: int, cost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))  # rich asks the size of standard streams only

    def show(stream: Any) -> None:
        with RunProgress("sentiment-pgsrm-gpt2_small-released-s10-0123abcd", 2000, done=5, stream=stream) as bar:
            bar.show({**row(1234), **COST})

    lines = [line for line in in_terminal(columns, show) if line.strip()]
    assert max(map(len, lines)) <= columns
    assert ("left 12:46 12346 tokens/s 70.2 GiB" in lines[-1]) == cost


def test_a_plain_line_has_throughput_and_memory() -> None:
    stream = io.StringIO()
    with RunProgress("sentiment-pgsrm-gpt2_small-released-s10-0123abcd", 2000, stream=stream) as progress:
        progress.show({**row(1), **COST})
        progress.show({**row(200), **COST, "memory/cuda_peak": math.nan})
        progress.show({**row(400), **{name: COST[name] for name in COST if name != "memory/cuda_peak"}})
    lines = stream.getvalue().splitlines()
    assert [line.split("  ")[6:] for line in lines] == [
        ["12346 tokens/s", "70.2 GiB"],
        ["12346 tokens/s"],
        ["12346 tokens/s", "21.0 GiB"],
    ]
    assert max(map(len, lines)) <= 106


def test_what_is_counted_says_how_long_it_still_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """20 of 100 were there before: only the new ones say how fast it goes."""
    now, stream = [50.0], io.StringIO()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with CountProgress("answers", 100, done=20, stream=stream) as progress:
        for done in range(20, 101):
            progress.show(done)
            now[0] += 3.0
    lines = stream.getvalue().splitlines()
    assert lines[:3] == ["answers  20/100", "answers  30/100  left 3:30", "answers  40/100  left 3:00"]
    assert len(lines) == 9 and lines[-1] == "answers  100/100"


def test_a_bar_leaves_standard_output_where_it_goes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`sft ... > train.log` on a terminal. Wrong version: the lines that are printed meanwhile stand beside the bar alone."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")

    def show(stream: Any) -> None:
        with TrainingProgress(1, 2, stream=stream) as progress:
            progress.epoch(1, 0.5)
            progress.show(2)

    lines = in_terminal(80, show)
    assert "2/2" in "".join(lines) and "epoch" not in "".join(lines)
    assert capsys.readouterr().out.startswith("epoch 1/1: training loss 0.500, ")


def test_a_training_tells_of_steps_and_epochs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps on the stream of progress, epochs on standard output; the seconds are those since the training began."""
    now, stream = [50.0], io.StringIO()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with TrainingProgress(2, 4, stream=stream) as progress:
        for made in range(1, 5):
            now[0] += 3.0
            progress.show(made)
            if made % 2 == 0:
                progress.epoch(made // 2, 1 / made)
    assert capsys.readouterr().out == ("epoch 1/2: training loss 0.500, 6 s\nepoch 2/2: training loss 0.250, 12 s\n")
    assert stream.getvalue().splitlines() == [
        "gradient steps  1/4  left 0:09",
        "gradient steps  2/4  left 0:06",
        "gradient steps  3/4  left 0:03",
        "gradient steps  4/4",
    ]


def test_plain_lines_where_there_is_no_terminal(sweep: list[RunFolder]) -> None:
    stream = io.StringIO()
    with RunProgress("sentiment-pgsrm-gpt2_small-released-s10-0123abcd", 2000, stream=stream) as progress:
        for update in range(1, 2001):
            progress.show(row(update))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 11 and max(map(len, lines)) <= 100
    assert lines[5].startswith("sentiment-pgsrm-…all-released-s10  1000/2000  reward 10.000  entropy -2.00")

    stream = io.StringIO()
    with SweepTable(sweep, stream=stream) as table:
        for _ in range(10):
            table.refresh()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "5 runs: 1 failed, 1 stopped, 1 running, 1 waiting, 1 finished"
    assert lines[1].startswith("  sentiment-pgsrm-gpt2_small-released-s2  100/2000")
    assert len(lines) == 4 and max(map(len, lines)) <= 100


def test_summaries(sweep: list[RunFolder]) -> None:
    runs = [summarise(run) for run in sweep]
    assert runs[0].reward_first == pytest.approx(0.055) and runs[0].reward_last == pytest.approx(0.955)
    assert (runs[0].match, runs[0].held_out, runs[0].update, runs[0].reward_now) == (0.75, 0.25, 100, 1.0)
    assert end_of_run_line(runs[0]) == (
        "sentiment-pgsrm-gpt2_small-released-s0 finished in 2:41: "
        "reward 0.06 -> 0.96, right answers 75 %, 25 % held out"
    )
    # A tenth of the planned 2000 updates has not been made.
    assert " failed at update 100 of 2000 in 2:41: reward - -> 1.00 now, right" in end_of_run_line(runs[1])
    assert end_of_run_line(runs[1]).endswith("right answers 75 %, 25 % held out; out of memory")
    lines = end_of_sweep_table(runs).splitlines()
    assert max(map(len, lines)) <= 105
    cells = " ".join(lines[2].split())
    assert cells == "sentiment-pgsrm-gpt2_small-released-s0 finished 100/100 0.055 0.955 75 % 25 % 2:41"
    assert lines[-1] == "sentiment-pgsrm-gpt2_small-released-s1: out of memory"
    assert lines[-2].split() == ["sentiment-pgsrm-gpt2_small-released-s4", "waiting", "0/?", *["-"] * 5]


def test_tenths_are_of_the_planned_updates_and_are_found_in_long_files(tmp_path: Path) -> None:
    """The wrong version took tenths of the updates made: a run cut off in its rise seemed to have had less to gain."""
    run = RunFolder(tmp_path / "color-pgsrm-s0-0123abcd")
    run.create()
    run.write_status(state="stopped", updates=1000)
    for update in range(0, 951):
        metrics = {"update": update, "padding": "x" * 2000}
        if update:
            metrics["reward/mean"] = update / 1000
        if update in (0, 500):
            metrics["eval/train_exact_match"] = update / 1000
        run.append_metrics(metrics)
    found = summarise(run)
    assert found.reward_first == pytest.approx(0.0505) and math.isnan(found.reward_last)
    assert (found.reward_now, found.match) == (0.95, 0.5)  # the last evaluation is megabytes before the end
    for update in range(951, 1001):
        run.append_metrics({"update": update, "reward/mean": update / 1000})
    assert summarise(run).reward_last == pytest.approx(0.9505)
    run.release()
    with open(run.metrics, "a") as file:
        file.write('{"update": 1001, "rew')
    assert summarise(run).update == 1000


def test_below_ten_updates_each_is_a_tenth(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "color-pgsrm-s0-0123abcd")
    run.create()
    run.write_status(state="finished", updates=3)
    for update in (1, 2, 3):
        run.append_metrics({"update": update, "reward/mean": float(update)})
    run.release()
    assert (summarise(run).reward_first, summarise(run).reward_last) == (1.0, 3.0)
    assert tenth_bounds(25)[0] == (0, 2) and tenth_bounds(25)[-1] == (22, 25) and tenth_bounds(0) == [(0, 0)]


# Environment


def test_environment_names_versions_and_the_commit_of_this_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    found = environment("cpu")
    assert found["versions"]["torch"].startswith("2.") and found["versions"]["python"] == sys.version.split()[0]
    assert (found["device"], found["pid"], found["host"]) == ("cpu", os.getpid(), socket.gethostname())
    json.dumps(found)


def test_commit_is_none_for_a_package_installed_in_somebody_elses_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    module = tmp_path / "pgsrm/record/environment.py"
    module.parent.mkdir(parents=True)
    module.write_text("")
    git("add", ".")
    git("commit", "-qm", "first")
    monkeypatch.setattr("pgsrm.record.environment.__file__", str(module))
    assert commit() == git("rev-parse", "HEAD")
    module.write_text("# changed\n")
    assert commit() == git("rev-parse", "HEAD") + "-dirty"
    installed = tmp_path / ".venv/lib/site-packages/pgsrm/record/environment.py"
    installed.parent.mkdir(parents=True)
    monkeypatch.setattr("pgsrm.record.environment.__file__", str(installed))
    assert commit() is None
