"""Trackers beside MLflow: TensorBoard and W&B. Where their packages are missing, the tests that need them are skipped."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import interrupt_again

import pgsrm
from pgsrm.launch.status import find_runs
from pgsrm.launch.sync import Sent, sync
from pgsrm.launch.sync import main as sync_main
from pgsrm.record import RunFolder
from pgsrm.record.mirror import Tail, remembered
from pgsrm.record.trackers import is_complete, trackers_of
from pgsrm.util.errors import UserError


def test_the_trackers_of_a_config() -> None:
    assert trackers_of({"tracking": {"uri": "x"}, "trackers": ["wandb"]}) == ["mlflow", "wandb"]
    assert trackers_of({"tracking": None, "trackers": ["tensorboard"]}) == ["tensorboard"]
    assert trackers_of({"tracking": None}) == []  # of an earlier version


def test_bad_input(call_cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgsrm.record.trackers.find_spec", lambda name: None)
    for words, line in {
        ("trackers=[wandb]",): "wandb: the package wandb is missing; pip install 'pgsrm[wandb]'",
        ("trackers=[comet]",): "not an option; there are tensorboard, wandb",
        (
            "tracking=tensorboard",
        ): "tracking=tensorboard: unknown tracking; there are mlflow, none; tensorboard is one of the "
        "trackers beside it: trackers=[tensorboard]",
    }.items():
        result = call_cli(*words, f"paths.outputs={tmp_path / 'outputs'}")
        assert result.code == 2
        assert line in result.error_line
        assert not (tmp_path / "outputs").exists()


def test_a_tail_reads_whole_lines_once_and_a_replaced_file_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    assert tail.read() == (b"", False)
    path.write_bytes(b"1\n2\n3")
    assert tail.read() == (b"1\n2\n", True)
    tail.taken(b"1\n2\n")
    with path.open("ab") as file:
        file.write(b"\n")
    assert tail.read() == (b"3\n", False)
    tail.taken(b"3\n")
    (tmp_path / "new").write_bytes(b"1\n")
    os.replace(tmp_path / "new", path)
    assert tail.read() == (b"1\n", True)


# TensorBoard


def scalars(place: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(place), size_guidance={"scalars": 0}).Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def recorded(folder: RunFolder, name: str) -> list[tuple[int, float]]:
    return [(row["update"], pytest.approx(row[name])) for row in folder.read_metrics() if name in row]


@pytest.fixture
def words(small: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of a run without MLflow."""
    monkeypatch.setattr("pgsrm.record.mirror._PERIOD", 0.05)
    return [*small, "checkpoint.updates=1", "evaluation.text=null"]


def test_tensorboard_has_a_run_once_whatever_happens(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run, a sync after its event files were lost, a run that was interrupted and resumed: each point once, in order."""
    pytest.importorskip("tensorboard")
    words.append("trackers=[tensorboard]")
    folder = RunFolder(pgsrm.train(*words, progress=False).folder)
    place = tmp_path / "outputs/tensorboard" / folder.name
    whole = scalars(place)
    for name in ("reward/mean", "policy/entropy", "eval/train_reward"):
        assert whole[name] == recorded(folder, name)
    assert (sync([folder]).complete, sync([folder]).new) == (1, 0)

    for file in place.iterdir():
        file.unlink()
    assert sync([folder]).new == 1
    assert scalars(place) == whole
    assert sync([folder]).complete == 1

    interrupt_again(folder.path, words, 2, monkeypatch)
    assert not is_complete("tensorboard", folder, {}) or folder.state() == "stopped"
    pgsrm.train(*words, progress=False)
    assert scalars(place)["reward/mean"] == recorded(folder, "reward/mean") == whole["reward/mean"]


def test_a_finished_run_gets_a_tracker_later(words: list[str], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    folder = RunFolder(pgsrm.train(*words, progress=False).folder)
    assert sync([folder]).without == 1
    assert sync([folder], ["tensorboard"]).new == 1
    assert scalars(tmp_path / "outputs/tensorboard" / folder.name)["reward/mean"] == recorded(folder, "reward/mean")
    assert sync([folder], ["tensorboard"]).complete == 1


def test_a_run_without_a_config_keeps_no_other_run_from_its_trackers(
    words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Wrong version: a KeyError, and nothing is sent of the runs behind it."""
    pytest.importorskip("tensorboard")
    folder = RunFolder(pgsrm.train(*words, progress=False).folder)
    broken = folder.path.with_name("a")
    shutil.copytree(folder.path, broken)
    whole = folder.config.read_text()
    for content in ("", whole[: whole.index("paths:")], "task: [\n", "- a list\n"):
        RunFolder(broken).config.write_text(content)
        assert sync([RunFolder(broken), folder], ["tensorboard"]).without == 1
        assert f"left out: {broken}/config.yaml: empty, cut off or broken (no " in capfd.readouterr().err
    assert sync([folder], ["tensorboard"]).complete == 1


def test_sync_says_that_a_folder_cannot_be_written(
    words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(pgsrm.train(*words, progress=False).folder)
    (folder.path.parent / ".sync.lock").mkdir()  # as root one may write everywhere else
    monkeypatch.setattr("sys.argv", ["pgsrm.sync", str(folder.path)])
    with pytest.raises(SystemExit) as end:
        sync_main()
    assert end.value.code == 2
    assert f"pgsrm: {folder.path.parent}: can't be written (Is a directory)" in capfd.readouterr().err


def test_trackers_write_beside_a_run_and_not_beside_a_link_to_it(words: list[str], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = pgsrm.train(*words, progress=False)
    link = tmp_path / "chosen/some/mine"
    link.parent.mkdir(parents=True)
    link.symlink_to(run.folder)
    assert pgsrm.Run(link).name == run.name
    for place in (link, link.parent):
        (folder,) = find_runs([place])
        assert folder.name == run.name
        assert sync([folder], ["tensorboard"]) == (Sent(new=1) if place == link else Sent(complete=1))
    assert scalars(tmp_path / "outputs/tensorboard" / run.name)["reward/mean"] == recorded(folder, "reward/mean")
    assert [path.name for path in (tmp_path / "chosen").iterdir()] == ["some"]


def test_a_tracker_that_fails_stops_no_training(
    words: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And what it lacks is sent once it works."""
    pytest.importorskip("tensorboard")
    import torch.utils.tensorboard.writer as writer

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(writer, "SummaryWriter", full)
        run = pgsrm.train(*words, "trackers=[tensorboard]", progress=False)
        assert run.state == "finished"
        assert len([record for record in caplog.records if "training continues" in record.message]) == 1
        with pytest.raises(UserError, match="can't be written"):
            sync([RunFolder(run.folder)])
    assert sync([RunFolder(run.folder)]).new == 1
    assert "reward/mean" in scalars(run.folder.parent.parent / "tensorboard" / run.name)


# W&B


def test_wandb_offline(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One W&B run for a folder, also over an interruption; nothing new for a second sync."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    words.append("trackers=[wandb]")
    run = pgsrm.train(*words, progress=False)
    folder = RunFolder(run.folder)
    sent = remembered(folder.wandb)
    assert (sent["update"], sent["state"]) == (4, "finished")
    (offline,) = (tmp_path / "outputs/wandb").glob(f"offline-run-*-{sent['id']}")
    assert list(offline.glob("*.wandb"))
    assert sync([folder]).complete == 1
    for left in (
        {"update": 2},
        {"update": 2, "state": "finished"},
    ):  # as if it had been killed there; and resumed before
        folder.wandb.write_text(json.dumps({"id": sent["id"], **left}))
        assert sync([folder]).new == 1
    assert remembered(folder.wandb) == sent
    assert len(list((tmp_path / "outputs/wandb").glob(f"offline-run-*-{sent['id']}"))) in (
        2,
        3,
    )  # two in one second share a name


def test_wandb_without_a_key(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("wandb").teardown()  # what it read of the environment before
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    run = pgsrm.train(*words, "trackers=[wandb]", progress=False)
    assert run.state == "finished"
    assert "W&B: no API key; `wandb login`, or set WANDB_MODE=offline; training continues" in caplog.text
