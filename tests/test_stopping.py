"""Early stopping: when a run ends, that it resumes as if nothing had happened, and what status and analysis make of it."""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import forget, interrupt_again

import pgsrm
import pgsrm.trainer as trainer_module
from pgsrm.config.compose import plan_words
from pgsrm.config.schema import StopSettings
from pgsrm.evaluation.__main__ import evaluate_run
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
        "stopped early at update 5: reward/mean was best at update 3 (0.25), and 1 update since then was no better"
    )
    stopping.see({"update": 6, "reward/mean": 0.1})
    assert stopping.reason.endswith("and 2 updates since then were no better")


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


BEST = "eval/train_reward"


@pytest.fixture
def rising(words: list[str]) -> list[str]:
    """Eight updates that are evaluated each; the rate is so high that the reward rises and falls. The best is kept."""
    replaced = ("task=", "ppo.actor_lr", "ppo.critic_lr", "stop.", "ppo.episodes", "evaluation.every")
    changed = [word for word in words if not word.startswith(replaced)]
    settings = ["task=color", "ppo.actor_lr=0.03", "ppo.episodes=32", "evaluation.every=1", "evaluation.text=null"]
    return [*changed, *settings, f"stop.metric={BEST}", "stop.patience=100", "stop.keep_best=true"]


def best_update(run: pgsrm.Run) -> int:
    """The first of the evaluations with the highest value."""
    return int(run.evaluations.loc[run.evaluations[BEST].idxmax(), "update"])


def test_the_best_model_is_kept_and_measures_as_it_did(
    rising: list[str], run_cli: Callable[..., Any], tmp_path: Path
) -> None:
    run = pgsrm.train(*rising, progress=False)
    best = best_update(run)
    assert 0 < best < 8, "a course whose best is neither its first nor its last"
    assert "keep_best" not in run.name
    assert (RunFolder(run.folder).status() or {})["best_update"] == best
    again = run_cli(str(run.folder), "--best", module="pgsrm.evaluation")
    measured = json.loads(again.out)[BEST]
    assert measured == pytest.approx(run.evaluations.set_index("update")[BEST][best], rel=1e-6)
    last = evaluate_run(RunFolder(run.folder))[BEST]
    assert last == pytest.approx(run.evaluations[BEST].iloc[-1], rel=1e-6) and measured > last
    assert not (run.folder / "checkpoints").exists()

    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pgsrm.push import push

    push(run.folder, tmp_path / "given", best=True)
    given = AutoModelForCausalLM.from_pretrained(tmp_path / "given").state_dict()
    kept, final = run.best_model.state_dict(), run.model.state_dict()
    assert all(given[name].equal(kept[name]) for name in given)
    assert not all(given[name].equal(final[name]) for name in given)
    assert AutoTokenizer.from_pretrained(run.folder / "best")("hot") == run.tokenizer("hot")
    card = (tmp_path / "given/README.md").read_text()
    assert f"{best} updates, {best * 4} sampled responses" in card and f"the best evaluation by `{BEST}`" in card
    before, after = run.evaluations[BEST].iloc[0], run.evaluations.set_index("update")[BEST][best]
    assert f"| {before:.3f} | {after:.3f} |" in card


@pytest.mark.parametrize("update", [1, 4, 6])
def test_an_interrupted_run_keeps_the_same_best_model(
    rising: list[str], update: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pgsrm.train(*rising, progress=False)
    best, weights = best_update(whole), (whole.folder / "best/model.safetensors").read_bytes()
    (whole.folder / "best/model.safetensors").rename(whole.folder.parent / "kept")
    interrupt_again(whole.folder, rising, update, monkeypatch)
    assert not (whole.folder / "best/model.safetensors").exists()
    resumed = pgsrm.train(*rising, progress=False)
    assert (RunFolder(resumed.folder).status() or {})["best_update"] == best == best_update(resumed)
    assert (resumed.folder / "best/model.safetensors").read_bytes() == weights


@pytest.mark.parametrize(("before", "after"), [(False, True), (True, False)])
@pytest.mark.parametrize("update", [2, 6])
def test_a_best_model_is_there_only_if_it_is_of_the_best_evaluation(
    rising: list[str],
    update: int,
    before: bool,
    after: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of a run that had stop.keep_best only before, or only after, an interruption. Wrong version: an earlier model, or no word."""
    whole = pgsrm.train(*rising, progress=False)
    best, weights = best_update(whole), (whole.folder / "best/model.safetensors").read_bytes()
    assert 2 < best < 6
    shutil.rmtree(whole.folder / "best")
    interrupt_again(whole.folder, [*rising[:-1], f"stop.keep_best={str(before).lower()}"], update, monkeypatch)
    capsys.readouterr()
    resumed = pgsrm.train(*rising[:-1], f"stop.keep_best={str(after).lower()}", progress=False)
    there = before if best <= update else after
    assert (resumed.folder / "best/model.safetensors").is_file() == there
    assert not there or (resumed.folder / "best/model.safetensors").read_bytes() == weights
    assert (RunFolder(resumed.folder).status() or {}).get("best_update") == (best if there else None)
    said = f"the best evaluation, at update {best}, came before stop.keep_best=true was set"
    assert (said in capsys.readouterr().err) == (after and not there)


def test_a_kill_between_the_best_model_and_the_status_loses_neither(
    rising: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pgsrm.trainer import Trainer

    finish = Trainer.finish

    def killed(self: Trainer) -> None:
        finish(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Trainer, "finish", killed)
        pgsrm.train(*rising, progress=False)
    run = pgsrm.train(*rising, progress=False)
    assert run.state == "finished" and (RunFolder(run.folder).status() or {})["best_update"] == best_update(run)
    assert run.best_model is not None


def test_adapters_stand_beside_the_best_model(rising: list[str], tiny: Path) -> None:
    """The run goes on with its adapters after each of them was merged into a copy."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain = pgsrm.train(
        *rising[:-1], "model.lora={rank: 2}", progress=False
    )  # without stop.keep_best: the same identity
    course = list(plain.evaluations[BEST])
    forget(plain.folder)
    run = pgsrm.train(*rising, "model.lora={rank: 2}", progress=False)
    assert run.folder == plain.folder and list(run.evaluations[BEST]) == course
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny), run.folder / "best/adapter")
    ids = torch.arange(8)[None]
    torch.testing.assert_close(adapted(ids).logits, run.best_model(ids).logits, rtol=1e-5, atol=1e-5)


def test_the_first_process_alone_merges_and_saves(rising: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong version: each of them copies the model and merges the adapters, for nothing."""
    from pgsrm.util.distributed import Processes

    trainer = pgsrm.Trainer.build(*rising, "model.lora={rank: 2}")
    merges: list[int] = []
    merge = trainer_module.merged

    def counted(model: Any) -> Any:
        merges.append(trainer.processes.rank)
        return merge(model)

    monkeypatch.setattr(trainer_module, "merged", counted)
    for rank in (1, 0):
        trainer.processes = Processes(rank, 2)
        trainer._keep_best()
        assert len(list(trainer.folder.checkpoints.glob("best-*"))) == (1 if rank == 0 else 0)
    for rank in (1, 0):
        trainer.processes = Processes(rank, 2)
        trainer.finish()
        assert trainer.folder.model.exists() == (rank == 0)
    assert merges == [0, 0]


def test_what_is_kept_until_the_end(tmp_path: Path) -> None:
    """The best so far, and the best up to each checkpoint that the run may resume from."""
    from pgsrm.record import best, checkpoint

    folder = RunFolder(tmp_path / "run")
    folder.create()

    def keep(update: int) -> list[str]:
        best.save(folder, update, lambda path: (path / "weights").write_text(str(update)) and None)
        return sorted(path.name for path in folder.checkpoints.glob("*best*"))

    assert keep(0) == ["best-000000"]
    assert keep(1) == ["best-000001"]
    checkpoint.save(folder, 2, {}, {})
    assert keep(3) == ["best-000001", "best-000003"]
    assert keep(4) == ["best-000001", "best-000004"]
    checkpoint.save(folder, 5, {}, {})
    assert keep(6) == ["best-000001", "best-000004", "best-000006"]

    def full(path: Path) -> None:
        (path / "weights").write_text("a half")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="disk is full"):
        best.save(folder, 7, full)
    assert sorted(path.name for path in folder.checkpoints.glob("*best*")) == [
        "best-000001",
        "best-000004",
        "best-000006",
    ]
    best.cut_back(folder, 5)  # the run resumes from its checkpoint
    assert sorted(path.name for path in folder.checkpoints.glob("*best*")) == ["best-000001", "best-000004"]
    assert not best.finish(folder, 5) and not best.finish(folder, None)  # that one was not saved
    assert not folder.best.exists() and folder.status() is None
    folder.write_status(state="running")  # as a run has that trains; without a state nothing is a run's status
    assert best.finish(folder, 4)
    assert (folder.best / "weights").read_text() == "4" and (folder.status() or {})["best_update"] == 4
    assert best.finish(folder, 4)
    assert (folder.best / "weights").read_text() == "4"


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
    assert refused("stop.keep_best=true", "stop.metric=reward/mean") == (
        "stop.keep_best=true: stop.metric is reward/mean, no metric of an evaluation; set one, as "
        "stop.metric=eval/train_exact_match"
    )
    assert refused("stop.keep_best=true", "stop.metric=null").startswith(
        "stop.keep_best=true: stop.metric is null; set"
    )
    assert refused("stop.mode=up") == "stop.mode=up: not an option; there are max, min"


def test_early_stopping_decides_a_run_and_its_absence_leaves_names_as_they_were(small: Sequence[str]) -> None:
    plain = plan_words(*small).identity
    assert plan_words(*small, "stop.patience=3").identity == plain
    stopping = plan_words(*small, "stop.metric=reward/mean").identity
    evaluated = [*small, "stop.metric=eval/train_reward"]
    assert plan_words(*evaluated, "stop.keep_best=true").identity == plan_words(*evaluated).identity
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
