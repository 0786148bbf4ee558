"""Outputs that lie elsewhere than where they were made: moved, copied, or reached by another name."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import environment
from mlflow.tracking import MlflowClient

from pgsrm.config.compose import plan_words
from pgsrm.config.plan import load_settings
from pgsrm.launch.sync import sync
from pgsrm.record import RunFolder
from pgsrm.record.mlflow_mirror import is_complete


@pytest.fixture
def words(small: Sequence[str], tmp_path: Path) -> list[str]:
    """A small run with MLflow, whose data lie below its outputs."""
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs/mine.csv").write_text("prompt,reference\nhot,cold\nbig,small\n")
    kept = [word for word in small if not word.startswith("tracking")]
    return [*kept, "task.template='{prompt}'", f"task.data={tmp_path}/outputs/mine.csv"]


def frozen(words: Sequence[str]) -> RunFolder:
    plan = plan_words(*words)
    plan.freeze()
    return plan.folder


def mlflow_runs(outputs: Path) -> list[Any]:
    client = MlflowClient(f"sqlite:///{outputs}/mlflow.db")
    return client.search_runs(["1"])


def test_moved_outputs_resume_in_one_mlflow_run_and_are_found_by_the_same_command(
    words: list[str], tmp_path: Path, resume: Callable[..., None]
) -> None:
    folder = frozen(words)
    resume(folder)
    folder.write_status(state="stopped")
    lines = folder.metrics.read_bytes().splitlines(keepends=True)
    folder.metrics.write_bytes(b"".join(lines[:3]))  # cut off without a checkpoint: it begins again
    os.rename(tmp_path / "outputs", tmp_path / "moved")
    moved = RunFolder(tmp_path / "moved/runs" / folder.name)
    settings, config = load_settings(moved)
    assert config["paths"]["outputs"] == settings.paths.outputs == str(tmp_path / "moved")
    assert config["task"]["data"] == str(tmp_path / "moved/mine.csv")
    assert config["tracking"]["uri"] == f"sqlite:///{tmp_path}/moved/mlflow.db"
    assert config["model"]["path"] == words[0].partition("=")[2]  # not below the outputs
    resume(moved)
    (run,) = mlflow_runs(tmp_path / "moved")
    assert run.info.status == "FINISHED" and run.info.run_id == json.loads(moved.mlflow.read_text())["run_id"]
    assert not (tmp_path / "outputs").exists()
    assert str(sync([moved])).startswith("0 runs sent, 1 complete before")
    again = plan_words(*[word.replace("/outputs", "/moved") for word in words])  # its identity has no path in it
    assert again.folder.path == moved.path and again.folder.state() == "finished"


def test_a_database_that_was_deleted_gets_its_runs_again(
    words: list[str], tmp_path: Path, resume: Callable[..., None]
) -> None:
    """Also once somebody has made it anew. Wrong version: complete before, and no curve to be seen."""
    folder, database = frozen(words), tmp_path / "outputs/mlflow.db"
    resume(folder)
    sync([folder])
    assert is_complete(folder, f"sqlite:///{database}")
    database.rename(tmp_path / "kept")
    assert not is_complete(folder, f"sqlite:///{database}")
    database.write_bytes(b"")
    assert not is_complete(folder, f"sqlite:///{database}")
    database.unlink()
    # another process: MLflow keeps its connection to the file that has gone
    command = [sys.executable, "-m", "pgsrm.sync", str(folder.path)]
    told = [subprocess.run(command, env=environment(), capture_output=True, text=True).stdout for _ in range(2)]
    assert [line[:11] for line in told] == ["1 run sent,", "0 runs sent"]


def test_a_copy_keeps_away_from_what_it_was_copied_from(words: list[str], tmp_path: Path) -> None:
    """Wrong version: both are there, and the copy writes into the original's database."""
    folder = frozen(words)
    (tmp_path / "outputs/mlflow.db").touch()
    shutil.copytree(tmp_path / "outputs", tmp_path / "copy")
    copy = RunFolder(tmp_path / "copy/runs" / folder.name)
    _, config = load_settings(copy)
    assert config["tracking"]["uri"] == f"sqlite:///{tmp_path}/copy/mlflow.db"
    assert config["task"]["data"] == str(tmp_path / "copy/mine.csv")
    (tmp_path / "copy/mine.csv").unlink()  # what was not copied is read where it is
    assert load_settings(copy)[1]["task"]["data"] == str(tmp_path / "outputs/mine.csv")


def test_a_database_elsewhere_stays_and_a_link_is_no_move(words: list[str], tmp_path: Path) -> None:
    elsewhere = f"tracking.uri=sqlite:///{tmp_path}/other/all.db"
    folder = frozen([*words, elsewhere])
    os.rename(tmp_path / "outputs", tmp_path / "moved")
    os.symlink(tmp_path / "moved", tmp_path / "outputs")
    there = RunFolder(tmp_path / "moved/runs" / folder.name)
    assert load_settings(there)[1]["tracking"]["uri"] == f"sqlite:///{tmp_path}/other/all.db"
    by_link = load_settings(folder)[1]
    assert by_link["paths"]["outputs"] == str(tmp_path / "outputs")
    assert by_link["task"]["data"] == str(tmp_path / "outputs/mine.csv")
    # By its other name it is the same place, and its paths still lead there.
    assert Path(load_settings(there)[1]["task"]["data"]).samefile(tmp_path / "moved/mine.csv")
