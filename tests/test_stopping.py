"""Early stopping: when a run ends, that it resumes as if nothing had happened, and what status and analysis make of it."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import interrupt_again

import pgsrm
from pgsrm.config.compose import plan_words
from pgsrm.config.schema import StopSettings
from pgsrm.record import RunFolder
from pgsrm.record.measured import is_measured
from pgsrm.stopping import Stopping
from pgsrm.util.errors import UserError

MATCH = "eval/holdout_exact_match"


def ends_at(values: Sequence[float], metric: str = MATCH, **settings: Any) -> int | None:
    """The place of the value at which a run with these values of its metric ends; None if it does not."""
    stopping = Stopping(StopSettings(metric=metric, **settings))
    for place, value in enumerate(values):
        stopping.see({"update": place, metric: value, "reward/std": 1.0})
        if stopping.due:
            return place
    return None


def test_patience_counts_values_without_an_improvement() -> None:
    assert ends_at([0.1, 0.2, 0.2, 0.2], patience=2) == 3
    assert ends_at([0.1, 0.2, 0.2, 0.3, 0.3], patience=2) is None
    assert ends_at([0.3, 0.2, 0.1, 0.1], patience=3, mode="min") is None
    assert ends_at([0.3, 0.4, 0.5], patience=2, mode="min") == 2
    assert ends_at([0.1, 0.15, 0.19], patience=2, min_delta=0.1) == 2
    assert (
        ends_at([0.1, 0.15, 0.21], patience=2, min_delta=0.1) is None
    )  # more than 0.1 above the best, which stayed 0.1
    assert ends_at([0.1, math.nan, math.nan], patience=2) == 2
    assert ends_at([math.nan, 0.1, 0.2], patience=2) is None
    assert ends_at([0.1] * 9, patience=9) is None


def test_the_reason_names_the_best_and_what_was_counted() -> None:
    stopping = Stopping(StopSettings(metric="reward/mean", patience=1))
    stopping.begin([{"update": 3, "reward/mean": 0.25}, {"update": 4, "other": 1.0}, {"update": 5, "reward/mean": 0.1}])
    assert stopping.reason == (
        "stopped early at update 5: reward/mean was best at update 3 (0.25), and 1 updates since then were no better"
    )


@pytest.fixture
def words(small: Sequence[str]) -> list[str]:
    """A run of twelve updates that can only stand still: its learning rate is next to nothing. It ends at update 4 of 12."""
    changed = [word for word in small if not word.startswith(("ppo.episodes", "task.holdout"))]
    return [
        *changed,
        "ppo.episodes=48",
        "task.holdout=0.2",
        "ppo.actor_lr=1e-12",
        "ppo.critic_lr=1e-12",
        f"stop.metric={MATCH}",
        "stop.patience=2",
        "checkpoint.updates=1",
    ]


def test_a_run_that_stops_early_is_a_finished_run_with_a_reason(
    words: list[str], call_cli: Callable[..., Any], tmp_path: Path
) -> None:
    run = pgsrm.train(*words, progress=False)
    status = json.loads((run.folder / "status.json").read_text())
    assert run.state == "finished" and status["stopped_early"] is True
    assert (status["update"], status["updates"]) == (4, 12)
    assert status["reason"].startswith(f"stopped early at update 4: {MATCH} was best at update 0 (0)")
    assert list(run.evaluations["update"]) == [0, 2, 4]
    assert run.model is not None and not (run.folder / "checkpoints").exists()
    before = (run.folder / "metrics.jsonl").read_bytes()
    again = call_cli(*words)
    assert again.code == 0 and "stopped early at update 4" in again.out
    assert (run.folder / "metrics.jsonl").read_bytes() == before
    from pgsrm.launch.status import table

    shown = table([RunFolder(run.folder)])
    assert "finished" in shown and "4/12" in shown and f"{run.name}: stopped early at update 4" in shown


def test_a_training_metric_ends_a_run_with_an_evaluation(words: list[str]) -> None:
    changed = [word for word in words if not word.startswith("stop.")]
    run = pgsrm.train(*changed, "stop.metric=policy/kl_coef", "stop.patience=2", progress=False)
    made = run.metrics["update"].max()
    assert made == 3  # the coefficient is the same in every update: the first is the best, and two are no better
    assert list(run.evaluations["update"]) == [0, 2, 3]


@pytest.mark.parametrize("update", [0, 1, 2])
def test_an_interrupted_run_stops_where_it_would_have(
    words: list[str], update: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lines(run: pgsrm.Run) -> list[dict[str, float]]:
        rows = RunFolder(run.folder).read_metrics()
        return [{name: value for name, value in row.items() if not is_measured(name)} for row in rows]

    whole = pgsrm.train(*words, progress=False)
    expected, reason = lines(whole), (RunFolder(whole.folder).status() or {})["reason"]
    interrupt_again(whole.folder, words, update, monkeypatch)
    resumed = pgsrm.train(*words, progress=False)
    assert lines(resumed) == expected and (RunFolder(resumed.folder).status() or {})["reason"] == reason


def test_a_kill_after_the_last_checkpoint_leaves_only_the_end_to_do(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pgsrm.trainer import Trainer

    def killed(self: Trainer) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Trainer, "finish", killed)
        pgsrm.train(*words, progress=False)
    run = pgsrm.train(*words, progress=False)
    assert run.state == "finished" and run.metrics["update"].max() == 4


def test_what_can_be_wrong_is_one_line(words: list[str], small: Sequence[str]) -> None:
    def refused(*more: str) -> str:
        with pytest.raises(UserError) as error:
            pgsrm.train(*words, *more, progress=False)
        return str(error.value)

    assert "stop.metric=eval/typo: the run has no such metric; there are " in refused("stop.metric=eval/typo")
    typo = refused("stop.metric=reward/typo")
    assert "stop.metric=reward/typo: the run has no such metric; there are " in typo and "reward/mean" in typo
    assert refused("task.holdout=0") == f"stop.metric={MATCH}: no prompts are held out; set task.holdout=0.2"
    assert refused("stop.patience=0").startswith("stop.patience=0: expected `int` >= 1")
    assert refused("stop.mode=up") == "stop.mode=up: not an option; there are max, min"


def test_early_stopping_decides_a_run_and_its_absence_leaves_names_as_they_were(small: Sequence[str]) -> None:
    plain = plan_words(*small).identity
    assert plan_words(*small, "stop.patience=3").identity == plain
    stopping = plan_words(*small, "stop.metric=reward/mean").identity
    assert stopping != plain and plan_words(*small, "stop.metric=reward/mean", "stop.patience=3").identity != stopping


def test_analysis_takes_the_updates_that_were_made(tmp_path: Path) -> None:
    from analysis_runs import ramp, write_run

    from pgsrm.analysis.curves import curve
    from pgsrm.analysis.measures import end, series
    from pgsrm.analysis.results import learning, state
    from pgsrm.analysis.variants import load_variants
    from pgsrm.record.summary import summarise

    write_run(tmp_path, seed=0, rewards=ramp(0.1, 0.7))
    early = {"stopped_early": True, "update": 50, "reason": "stopped early at update 50: ..."}
    folder = write_run(tmp_path, seed=1, rewards=ramp(0.2, 0.5, 50), updates=100, status=early)
    (variant,), notes = load_variants([tmp_path], ["reward/mean"])
    assert len(variant.complete) == 2 and not notes
    _, short = variant.runs
    measured = series(short, "reward/mean")
    assert measured.tenths[0] == pytest.approx(0.2) and measured.tenths[-1] == pytest.approx(0.5)
    assert end(measured) == pytest.approx(0.5) and short.progress == 1.0
    drawn = curve(variant, "reward/mean")
    assert drawn is not None and drawn.episodes[-1] == 50 * 50 and drawn.seeds == 2
    assert any(note.startswith("1 run stopped early: ") for note in learning([variant]).notes)
    assert state(short) == "stopped early, 50% of the updates"
    summary = summarise(RunFolder(folder))
    assert (summary.reward_first, summary.reward_last) == (pytest.approx(0.2), pytest.approx(0.5))
