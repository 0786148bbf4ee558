"""A task without right answers: from its prompts to a trained run, its measures, and what refuses it."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, interrupt_again

import pgsrm
from pgsrm.analysis import plot_figures
from pgsrm.config.compose import compose_words
from pgsrm.evaluation.variety import variety
from pgsrm.models.classifier import BUCKETS, features, load_classifier, save_hashed
from pgsrm.nano.sentiment_data import half
from pgsrm.ppo.losses import value_loss
from pgsrm.record.measured import is_measured
from pgsrm.reward import ClassifierReward
from pgsrm.util.errors import UserError

SMALL = (
    "ppo.batch_size=8",
    "ppo.episodes=16",
    "evaluation.every=2",
    "evaluation.continuations=1",
    "evaluation.text=null",
)


@pytest.fixture
def common(tmp_path: Path) -> Sequence[str]:
    """Overrides for two updates on twenty of the shipped openings."""
    lines = (ROOT / "pgsrm/task/data/sentiment_control.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "few.jsonl").write_text("\n".join(lines[:20]), encoding="utf-8")
    where = f"task.data={tmp_path / 'few.jsonl'}", f"paths.outputs={tmp_path}"
    return ("task=sentiment_control", *where, *SMALL, "tracking=none", "threads=1")


def test_sparse_and_critic_train_offline_on_the_shipped_default_and_are_compared(
    tmp_path: Path, common: Sequence[str]
) -> None:
    for reward in ("sparse", "critic"):
        run = pgsrm.train(*common, f"reward={reward}", progress=False)
        assert "reward/exact_match" not in run.metrics and "eval/holdout_exact_match" not in run.evaluations
        last = run.evaluations.iloc[-1]
        for name in ("gold", "gold_share", "extrinsic", "distinct_2", "repetition", "kl", "length"):
            assert np.isfinite(last[f"eval/holdout_{name}"]), name
        assert run.evaluations["eval/holdout_kl"].iloc[0] == pytest.approx(0, abs=1e-5)  # still the reference
        assert last["eval/holdout_kl"] > 1e-5
        assert 0 <= last["eval/holdout_gold_share"] <= 1 and last["eval/holdout_length"] <= 19
    assert {"critic/positive", "critic/clean", "reward/extrinsic", "value/explained_variance"} <= set(run.metrics)
    samples = [json.loads(line) for line in (run.folder / "samples.jsonl").read_text().splitlines()]
    assert all("exact_match" not in sample and len(sample["token_rewards"]) <= 19 for sample in samples)
    assert set(pgsrm.load_runs(tmp_path)["reward.arm"]) == {"critic", "sparse"}
    assert plot_figures.main(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path), "--formats", "png"]) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Sentiment control" in page and "At the same KL" in page


def test_random_arms_repeat_themselves_after_an_interrupt(
    tmp_path: Path, tiny: Path, common: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shuffled places and a random gate. Wrong version: they draw from a generator that no checkpoint has."""
    (tmp_path / "letters.txt").write_text("\n".join(f"positive {letter}" for letter in "abcdefghijklmnopqrstuvwxyz"))
    arm = "reward=critic", "reward.arm=shuffled", "reward.gate={share: 0.5}"
    letters = "critic=lexicon", f"critic.path={tmp_path / 'letters.txt'}"
    words = [*common, *arm, *letters, "evaluation.measures=null", f"model.path={tiny}"]
    whole = (run := pgsrm.train(*words, progress=False)).metrics
    samples = (run.folder / "samples.jsonl").read_bytes()
    interrupt_again(run.folder, words, 0, monkeypatch)
    resumed = pgsrm.train(*words, progress=False)
    assert resumed.folder == run.folder and list(resumed.metrics["update"]) == [1, 2]
    without_times = [name for name in whole if not is_measured(name)]
    assert resumed.metrics[without_times].equals(whole[without_times])
    assert (run.folder / "samples.jsonl").read_bytes() == samples
    assert set(whole["critic/asked"]) == {0.5} and whole["critic/coverage"].gt(0).any()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("reward=pgsrm",), "no references to compare with"),
        (("reward=binary",), "no checker"),
        (("reward=sparse", "parent.error_rate=0.1"), "nothing is an error"),
        (("reward=sparse", "task.min_new_tokens=20"), "task.min_new_tokens=20"),
        (("reward=sparse", "task.extrinsic=null"), "reward.extrinsic=null"),
        (("reward=sparse", "task.extrinsic.label=sad"), "task.extrinsic.label=sad: sentiment has no such label"),
        (("reward=sparse", "task.extrinsic.model=sentimint"), "task.extrinsic.model=sentimint: no such classifier"),
        (("reward=critic", "task.extrinsic.model=sentimint"), "task.extrinsic.model=sentimint: no such classifier"),
        (
            ("reward=critic", "reward.extrinsic={_target_: pgsrm.reward.ClassifierReward, model: x}"),
            "reward.extrinsic.model=x",
        ),
        (("reward=sparse", "task.measures.gold.model=x"), "task.measures.gold.model=x: no such classifier"),
        (("reward=classifier", "reward.model=x"), "reward.model=x: no such classifier"),
        (("reward=sparse", "+task.extrinsic.device=gpu"), "task.extrinsic.device=gpu: not a device"),
        (("reward=sparse", "task.extrinsic.model=./nowhere"), "no such classifier"),
        (("reward=classifier", "+reward.device=gpu"), "reward.device=gpu: not a device"),
        (("reward=sparse", "ppo.clip_range=null", "ppo.epochs=1", "ppo.ratio_limit=2"), "ppo.ratio_limit"),
        (
            ("reward=critic", "+reward.values.x=0.3"),
            "+reward.values.x=0.3: reward.values would have no positive, negative, which the task has; "
            "set +task.critic.values.x, or reward.values as a whole",
        ),
        (
            ("reward=critic", "++reward.values.positive=1"),
            "reward.values would have no negative, which the task has; set task.critic.values.positive, or",
        ),
        (
            ("reward=sum", "+reward@reward.parts.judge=critic", "-m", "+reward.parts.judge.values.x=1,2"),
            "+reward.parts.judge.values.x=1: reward.parts.judge.values would have no positive, negative",
        ),
        (
            ("reward=sparse", "+evaluation.measures.mine._target_=pgsrm.reward.BinaryReward"),
            "evaluation.measures would have no extrinsic, gold, which the task has; set +task.measures.mine._target_, or",
        ),
    ],
)
def test_what_such_a_task_can_not_have(call_cli: Callable[..., Any], words: Sequence[str], problem: str) -> None:
    result = call_cli("task=sentiment_control", *words, "tracking=none", "dry_run=true")
    assert result.code == 2 and problem in result.error_line


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["+task.critic.values.x=0.3"], {"positive": 0.5, "negative": -0.5, "x": 0.3}),
        (["reward.values={a: 1}", "+reward.values.b=2"], {"a": 1, "b": 2}),
        (["++reward.values.positive=1", "++reward.values.negative=-1"], {"positive": 1, "negative": -1}),
        (["task.critic.values=null", "+reward.values.x=1"], {"x": 1}),
    ],
)
def test_labels_get_values_where_none_is_lost(words: list[str], values: dict[str, float]) -> None:
    config, _ = compose_words(["task=sentiment_control", "reward=critic", *words], "test")
    assert config.reward["values"] == values


def test_a_task_with_right_answers_has_no_reward_of_its_own(call_cli: Callable[..., Any]) -> None:
    result = call_cli("task=color", "reward=sparse", "tracking=none", "dry_run=true")
    assert result.code == 2 and "reward.extrinsic=null" in result.error_line


def test_the_length_of_each_response_is_drawn_and_repeats_itself() -> None:
    def lengths() -> list[int]:
        trainer = pgsrm.Trainer.build("task=sentiment_control", "reward=sparse", *SMALL, "task.min_new_tokens=2")
        rollout = trainer.sample(trainer.task.train[:60])
        ended = [ids[-1] in trainer.codec.eos for ids in rollout.response_ids]
        return [len(ids) for ids, end in zip(rollout.response_ids, ended, strict=True) if not end]

    first = lengths()
    assert first == lengths() and max(first) == 19 and min(first) < 6 and len(set(first)) > 8


def test_variety_by_hand() -> None:
    values = variety(["A film a film", "a song"])
    assert values["distinct_1"] == 3 / 6  # a, film, song
    assert values["distinct_2"] == 3 / 4  # a film, film a, a song; "a film" twice
    assert values["repetition"] == pytest.approx((1 / 3 + 0) / 2)


def test_a_hashed_classifier_is_a_sum_of_its_features(tmp_path: Path) -> None:
    weights = np.zeros(BUCKETS)
    for text, weight in (("good", 2.0), ("bad", -1.0), ("not good", -4.0)):
        (bucket,) = features(text) - features(text.split()[0]) - features(text.split()[-1]) or features(text)
        weights[bucket] = weight
    save_hashed(tmp_path / "c.safetensors", weights, 0.5, ("negative", "positive"))
    reward = ClassifierReward(str(tmp_path / "c.safetensors"))
    texts = ["A GOOD film", "bad, good", "not good", "good good"]
    assert reward(prompts=[""] * 4, responses=texts) == [2.5, 1.5, -1.5, 2.5]
    probability = ClassifierReward(str(tmp_path / "c.safetensors"), value="probability", label="Negative")
    assert probability(prompts=[""], responses=["good"]) == [pytest.approx(1 / (1 + np.exp(2.5)))]
    both = ClassifierReward(str(tmp_path / "c.safetensors"), reads="both")
    assert both(prompts=["not "], responses=["good"]) == [-1.5]


@pytest.mark.parametrize("name", ["sentiment", "sentiment_gold"])
def test_the_shipped_classifiers_know_good_from_bad(name: str) -> None:
    reward = ClassifierReward(name)
    good, bad, empty = reward(prompts=["", "", ""], responses=["a wonderful and moving film", "a boring, bad mess", ""])
    assert good > 0.5 > -0.5 > bad and abs(empty) < 2
    alone = reward(prompts=[""], responses=["a boring, bad mess"])
    assert alone == [pytest.approx(bad, abs=1e-4)]  # the same beside others as alone
    assert len(load_classifier(name).digest) == 64


def test_the_halves_are_equal_and_stand_still() -> None:
    assert half("A film. ") == half("a film.")
    assert 400 < sum(half(f"sentence {n}") == "A" for n in range(1000)) < 600


def test_a_clipped_value_gains_nothing_by_moving_on() -> None:
    values, targets, old = (torch.tensor([row]) for row in ([0.9, 0.1, -1.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]))
    mask = torch.ones(1, 3, dtype=torch.bool)
    # 0.9 is beyond 0 + 0.2: the error is that of 0.2; 0.1 is within; -1 is worse than -0.2 and counts as it is
    expected = (0.8**2 + 0.9**2 + 2.0**2) / 3
    assert value_loss(values, targets, mask, old=old, clip=0.2).item() == pytest.approx(expected)


@pytest.mark.parametrize("label", [2, -1, -3, "neutral"])
def test_a_bad_label_names_the_labels(label: str | int) -> None:
    """Wrong version: -1 is the last label, and -3 ends a run in a traceback."""
    with pytest.raises(UserError, match=f"^label={label}: sentiment has no such label; there are negative, positive"):
        ClassifierReward(label=label).check()


def test_a_classifier_s_device_that_is_not_there_is_named_where_it_is_used() -> None:
    reward = ClassifierReward("sentiment_gold", device="cuda:99")
    reward.check()  # a run may be planned on a machine without it
    with pytest.raises(UserError, match=r"^device=cuda:99: this machine has no such device"):
        reward(prompts=[""], responses=["good"])


def test_a_language_model_is_no_classifier(tiny: Path) -> None:
    """Wrong version: transformers makes up the head that it lacks, at random."""
    with pytest.raises(UserError, match=r"lacks weights of a classifier \(score.weight\)"):
        ClassifierReward(str(tiny)).check()


def save_roberta(tiny: Path, folder: Path) -> Any:
    """A classifier with random weights, in the hub's layout; its tokenizer."""
    from transformers import AutoTokenizer, RobertaConfig, RobertaForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(tiny, model_max_length=32)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(1)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=34,
    )
    RobertaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


def test_a_long_text_is_cut_to_the_positions_that_roberta_has_behind_its_paddings(tiny: Path, tmp_path: Path) -> None:
    """Wrong version: it is cut to `max_position_embeddings`, and its last two tokens have no position."""
    tokenizer = save_roberta(tiny, tmp_path)
    long = "word " * 60
    cut = tokenizer.decode(tokenizer(long)["input_ids"][:32])
    earned = ClassifierReward(str(tmp_path), label=1)(prompts=["", "", ""], responses=["good", long, cut])
    assert earned[1] == pytest.approx(earned[2], abs=1e-5) != earned[0]


def test_an_extrinsic_reward_in_a_folder_beside_the_command_trains(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As RELC's tasks have it, the reward is a measure too. Wrong version: `changed since it was planned: evaluation`."""
    monkeypatch.chdir(tmp_path)
    save_roberta(tiny, tmp_path / "mine")
    words = ["task=sentiment_control", "reward=sparse", "task.extrinsic.model=mine", "task.extrinsic.label=1"]
    words += ["ppo.batch_size=4", "ppo.episodes=4", "evaluation.text=null", "evaluation.prompts=2", "tracking=none"]
    words += ["task.measures.gold=null", "threads=1", f"model.path={tiny}", f"paths.outputs={tmp_path / 'outputs'}"]
    made = pgsrm.train(*words, progress=False)
    assert made.state == "finished"
    absolute = pgsrm.train(*words, f"task.extrinsic.model={tmp_path / 'mine'}", progress=False)
    assert absolute.folder == made.folder
