"""Longer runs that begin where a shorter one left off: bit for bit those that were never cut."""

import errno
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import interrupt_again
from safetensors.torch import load_file

import pgsrm
from pgsrm.config.compose import plan_words
from pgsrm.launch.sweep import survey
from pgsrm.record import RunFolder
from pgsrm.record.files import DiskFull
from pgsrm.record.measured import is_measured

KEEP = "checkpoint.keep=true"


@pytest.fixture
def words(small: Sequence[str]) -> list[str]:
    """A run of five updates, the last of which is evaluated for being the last."""
    return [*small, "task=antonym", "seed=3", "ppo.episodes=20", "checkpoint.minutes=600"]


def longer(words: Sequence[str], *besides: str) -> list[str]:
    """The same run with eight updates."""
    return [*words, "ppo.episodes=32", *besides]


def train(words: Sequence[str]) -> Any:
    return pgsrm.train(*words, progress=False)


def elsewhere(words: Sequence[str], folder: Path) -> list[str]:
    """The same run in other outputs, where no other run lies."""
    return [*words, f"paths.outputs={folder}"]


def without_times(run: Any) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not is_measured(key)} for row in rows]


def same(one: Any, other: Any) -> None:
    """Whether two runs wrote the same metrics, samples and weights."""
    assert without_times(one) == without_times(other)
    assert (one.folder / "samples.jsonl").read_text() == (other.folder / "samples.jsonl").read_text()
    weights, others = (load_file(run.folder / "model" / "model.safetensors") for run in (one, other))
    assert weights.keys() == others.keys() and all(weights[name].equal(others[name]) for name in weights)


@pytest.mark.parametrize(
    "kind",
    [
        ["reward=pgsrm"],
        ["reward=binary", "ppo=textbook"],
        ["reward=pgsrm", "reward.alpha=2", "ppo=released"],
        ["reward=pgsrm", "model.lora={rank: 2}"],
        ["reward=pgsrm", "ppo.dropout=true", "ppo.epochs=2", "ppo.clip_range=0.2"],
        ["reward=pgsrm", "ppo.kl_reference=previous"],
        ["algorithm=sft"],
        ["algorithm=best_of_n", "ppo.group_size=2"],
        ["stop.metric=eval/train_exact_match", "stop.patience=50"],
    ],
    ids=lambda kind: kind[-1],
)
def test_a_longer_run_begins_where_a_shorter_one_left_off(words: list[str], tmp_path: Path, kind: list[str]) -> None:
    words = [*words, *kind]
    shorter = train([*words, KEEP])
    before = {path: path.read_bytes() for path in shorter.folder.rglob("*") if path.is_file() and path.name != "lock"}
    assert [path.name for path in (shorter.folder / "checkpoints").iterdir()] == ["000004"]
    run = train(longer(words))
    status = RunFolder(run.folder).status()
    assert status is not None and status["goes_on_from"] == shorter.folder.name
    assert run.folder != shorter.folder and status["update"] == 8 and not (run.folder / "checkpoints").exists()
    same(run, train(elsewhere(longer(words), tmp_path / "whole")))
    assert {path: path.read_bytes() for path in before} == before  # the shorter one is as it was


def test_what_a_kept_checkpoint_is_costs_the_run_nothing(words: list[str], tmp_path: Path) -> None:
    same(train([*words, KEEP]), train(elsewhere(words, tmp_path / "whole")))


def test_the_dry_run_and_the_line_of_a_sweep_say_where_a_run_begins(words: list[str]) -> None:
    shorter = train([*words, KEEP])
    surveyed = survey([plan_words(*longer(words)), plan_words(*longer(words, "seed=4"))])
    assert surveyed.line() == "2 runs: 2 new (1 from where a shorter run left off)"
    assert f", from update 4 of {shorter.folder.name}\n" in surveyed.lines()


def test_no_tracker_gets_what_the_longer_run_has_not(words: list[str]) -> None:
    """A tracker reads the folder before the run cuts it back. Wrong version: the shorter run's last line and its evaluation."""
    train([*words, KEEP])
    plan = plan_words(*longer(words))
    plan.freeze()
    assert [line["update"] for line in plan.folder.read_metrics()] == [0, 1, 2, 3, 4]


def test_a_run_that_was_interrupted_is_a_beginning_too(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_again(train(words).folder, words, 2, monkeypatch)
    plan = plan_words(*longer(words))
    assert plan.beginning is not None and plan.beginning.update == 3
    same(train(longer(words)), train(elsewhere(longer(words), tmp_path / "whole")))


def slow(folder: Path) -> None:
    """A thousand seconds for each recorded update, and as many for each evaluation."""
    path = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [row | {name: 1000.0 for name in ("time/update", "time/evaluation") if name in row} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_time_of_a_longer_run_is_that_of_all_its_updates(words: list[str]) -> None:
    """Wrong version: that of those which were not taken over."""
    shorter = train([*words, KEEP])
    slow(shorter.folder)
    status = RunFolder(train(longer(words)).folder).status()
    assert status is not None and 7000 < status["seconds"] < 7600  # four updates and three evaluations


def test_the_time_of_a_killed_run_has_what_was_made_before(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run = train(words)
    interrupt_again(run.folder, words, 2, monkeypatch)
    slow(run.folder)
    RunFolder(run.folder).write_status(state="running", seconds=0.0, pid=2**22)  # as a kill leaves it
    train(words)
    status = RunFolder(run.folder).status()
    assert status is not None and 5000 < status["seconds"] < 5600  # three updates and two evaluations


@pytest.mark.parametrize(
    "besides", [["seed=4"], ["reward.alpha=2"], ["ppo.batch_size=8", "ppo.episodes=64"], ["evaluation.every=3"]]
)
def test_a_run_of_other_settings_begins_at_its_beginning(words: list[str], besides: list[str]) -> None:
    train([*words, KEEP])
    assert plan_words(*longer(words, *besides)).beginning is None


def test_a_run_begins_at_the_furthest_checkpoint_that_is_shorter(words: list[str]) -> None:
    first, second = train([*words, KEEP]), train(longer(words, KEEP))
    found = {episodes: plan_words(*words, f"ppo.episodes={episodes}").beginning for episodes in (16, 24, 36)}
    assert found[16] is None  # update 4 of the first run is not below its four
    # The second began there, and has the same checkpoint.
    assert found[24] is not None and (found[24].folder.path, found[24].update) == (first.folder, 4)
    assert found[36] is not None and (found[36].folder.path, found[36].update) == (second.folder, 7)


def test_no_run_begins_at_an_update_that_was_evaluated_for_being_the_last(words: list[str], tmp_path: Path) -> None:
    words = [*words, "checkpoint.updates=1"]
    shorter = train([*words, KEEP])
    assert sorted(path.name for path in (shorter.folder / "checkpoints").iterdir()) == ["000004", "000005"]
    same(train(longer(words)), train(elsewhere(longer(words), tmp_path / "whole")))


def test_a_run_that_keeps_its_best_model_begins_at_its_beginning(words: list[str]) -> None:
    words = [*words, "stop.metric=eval/train_exact_match", "stop.patience=50"]
    train([*words, KEEP])
    assert plan_words(*longer(words)).beginning is not None
    assert plan_words(*longer(words, "stop.keep_best=true")).beginning is None


def test_a_beginning_that_has_gone_or_is_damaged_costs_nothing_but_the_updates(
    words: list[str], tmp_path: Path
) -> None:
    whole = train(elsewhere(longer(words), tmp_path / "whole"))
    shorter = train([*words, KEEP])
    plan = plan_words(*longer(words))
    kept = shorter.folder / "checkpoints"
    shutil.move(kept, tmp_path / "kept")
    plan.freeze()
    status = plan.folder.status()
    assert status is not None and status["update"] == 0 and "goes_on_from" not in status
    shutil.rmtree(plan.folder.path)
    shutil.move(tmp_path / "kept", kept)
    (kept / "000004" / "tensors.safetensors").write_bytes(b"half")
    run = train(longer(words))
    same(run, whole)
    assert "goes_on_from" not in (RunFolder(run.folder).status() or {})


def test_a_loop_of_ones_own_begins_at_its_beginning(words: list[str]) -> None:
    train([*words, KEEP])
    trainer = pgsrm.Trainer.build(*longer(words))
    trainer.resume()
    assert trainer.update == 0


def test_a_run_whose_status_is_lost_goes_on_from_its_own_checkpoint(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong version: the shorter run's record in the place of the longer one's, whose updates 6 and 7 are then in no line."""
    folder = RunFolder(train(longer(words)).folder)
    interrupt_again(folder.path, longer(words), 6, monkeypatch)
    train([*words, KEEP])
    (folder.path / "status.json").write_text("")
    assert plan_words(*longer(words)).beginning is None
    same(train(longer(words)), train(elsewhere(longer(words), tmp_path / "whole")))


@pytest.mark.parametrize("failing", ["metrics.jsonl", "state.json", "tensors.safetensors"])
def test_half_a_beginning_is_none(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """Wrong version: a run that begins at update 4 and has no line before, where the shorter run has gone meanwhile."""
    shorter = train([*words, KEEP])
    copy = shutil.copyfile

    def full(source: Path, target: Path) -> Any:
        if source.name == failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        return copy(source, target)

    with monkeypatch.context() as patched, pytest.raises(DiskFull):
        patched.setattr(shutil, "copyfile", full)
        train(longer(words))
    shutil.rmtree(shorter.folder)  # some space is freed
    same(train(longer(words)), train(elsewhere(longer(words), tmp_path / "whole")))


def test_a_run_that_another_launch_has_started_meanwhile_begins_nowhere_else(words: list[str]) -> None:
    """Wrong version: KeyError, where a launch has waited for another one of the same runs."""
    train([*words, KEEP])
    plan = plan_words(*longer(words))
    train(longer(words))
    assert survey([plan]).line() == "1 run: 1 finished"
    assert " from update " not in survey([plan]).lines()
