"""reward=text_metric: the libraries' own numbers, what it can not compare with, a run."""

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import pytest

import pgsrm
from pgsrm.reward import TextMetricReward
from pgsrm.reward.text_metric import LIBRARIES
from pgsrm.util.errors import UserError

METRICS = tuple(LIBRARIES)
# response, reference, and chrF, BLEU, Levenshtein's and Indel's similarity: by hand where a comment says how
PAIRS = [
    ("cold", "cold", (1, 1, 1, 1)),
    ("", "cold", (0, 0, 0, 0)),
    ("hot", "cold", (None, 0, 0.25, 2 / 7)),  # two replacements and one deletion of 4; indel: 2 + 3 of 7, "o" stays
    (
        "cold cold",
        "cold",
        (None, 0.5, 4 / 9, 8 / 13),
    ),  # BLEU: 1 of 2 words, and 1/2 for no pair; 5 insertions of 9; of 13
    ("ab", "abcd", (None, None, 0.5, 4 / 6)),
    ("I hate my new job.", "I love my new job.", (None, None, 15 / 18, 30 / 36)),  # three letters replaced
    ("the cat sat on the mat", "the cat was on the mat", (None, None, None, None)),
]


def _rewards(metric: Any, response: str, reference: str, **options: Any) -> float:
    rewards, logged = TextMetricReward(metric, **options)(responses=[response], references=[reference])
    assert list(logged) == [metric] and logged[metric] == rewards[0]
    return rewards[0]


def _libraries(response: str, reference: str) -> tuple[float, ...]:
    import sacrebleu
    from rapidfuzz.distance import Indel, Levenshtein

    of_sentence = [sacrebleu.sentence_chrf, sacrebleu.sentence_bleu]
    return (
        *(metric(response, [reference]).score / 100 for metric in of_sentence),
        *(distance.normalized_similarity(response, reference) for distance in (Levenshtein, Indel)),
    )


@pytest.mark.parametrize(("response", "reference", "by_hand"), PAIRS)
def test_the_numbers_are_the_libraries_own(response: str, reference: str, by_hand: Sequence[float | None]) -> None:
    theirs = _libraries(response, reference)
    for metric, expected, worked in zip(METRICS, theirs, by_hand, strict=True):
        value = _rewards(metric, response, reference, form="as_written")
        assert value == pytest.approx(expected, abs=1e-12) and 0 <= value <= 1, metric
        if worked is not None:
            assert value == pytest.approx(worked, abs=1e-9), metric


@pytest.mark.parametrize("metric", METRICS)
def test_case_white_space_and_punctuation_around_count_only_as_written(metric: str) -> None:
    for response in ("thin", " Thin.", "THIN\n", '"thin"'):
        assert _rewards(metric, response, "thin") == 1
    assert _rewards(metric, " Thin.", "thin", form="as_written") < 0.7
    assert _rewards(metric, "  ", "thin") == _rewards(metric, "\n", "thin", form="as_written") == 0


def test_the_scale_is_not_in_the_logged_metric() -> None:
    reward = TextMetricReward("levenshtein", scale=100)
    assert reward(responses=["ab", "abcd"], references=["abcd"] * 2) == ([50, 100], {"levenshtein": 0.75})


def test_a_missing_reference() -> None:
    TextMetricReward().check(["cold"])
    with pytest.raises(UserError, match="reward=text_metric: the task has no references"):
        TextMetricReward().check(["", " "])
    with pytest.raises(UserError, match="reward=text_metric: 1 of the prompts have no reference"):
        TextMetricReward().check(["cold", ""])


@pytest.mark.parametrize(
    ("words", "missing", "problem"),
    [
        (("reward.metric=chrf",), "sacrebleu", "metric=chrf needs the library sacrebleu; pip install 'pgsrm[text-metrics]'"),
        (("reward.metric=indel",), "rapidfuzz", "metric=indel needs the library rapidfuzz; pip install 'pgsrm[text-metrics]'"),
        (("reward.metric=meteor",), "", "there are chrf, bleu, levenshtein, indel"),
        (("reward.form=lower",), "", "there are normalized, as_written"),
        (("task=sentiment_control",), "", "reward=text_metric: the task has no references"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_before_a_run(
    call_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, words: Sequence[str], missing: str, problem: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("pgsrm.reward.text_metric.find_spec", lambda name: None if name == missing else find(name))
    result = call_cli("task=antonym", "reward=text_metric", *words, "tracking=none", "dry_run=true")
    assert result.code == 2 and problem in result.error_line


def test_a_run(small: Sequence[str]) -> None:
    words = "task=antonym", "reward=text_metric", "reward.metric=indel", "evaluation.text=null"
    run = pgsrm.train(*small, *words, progress=False)
    assert run.state == "finished" and "indel" in set(run.config.reward.values())
    logged, rewards = run.metrics["reward/indel"].tolist(), run.metrics["reward/mean"].tolist()
    assert logged == pytest.approx(rewards, abs=1e-6) and max(rewards) > 0
