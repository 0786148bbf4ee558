"""A rubric of verifiers as a reward: by stand-ins with the attributes that verifiers 0.1 and later versions of it have."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pgsrm
from pgsrm.reward import RubricReward
from pgsrm.util.errors import UserError

ANSWERS = ["cold", "table"]


def right(completion: Any, answer: str) -> float:
    return float(completion[-1]["content"] == answer)


async def length(completion: Any, **kwargs: Any) -> int:
    assert kwargs["state"]["answer"] == kwargs["info"]["reference"] == "cold" and kwargs["word"] == "hot"
    return len(completion[-1]["content"])


def parsed(parser: Callable[[Any], str], completion: Any) -> float:
    return float(parser(completion) == "COLD")


def call(reward: RubricReward) -> tuple[list[float], dict[str, float]]:
    return reward(prompts=["hot?"] * 2, references=["cold"] * 2, responses=ANSWERS, inputs=[{"word": "hot"}] * 2)


@pytest.mark.parametrize("names", [("reward_funcs", "reward_weights"), ("funcs", "weights")], ids=["0.1", "later"])
def test_the_weighted_sum_of_its_functions(names: tuple[str, str]) -> None:
    rubric = SimpleNamespace(**dict(zip(names, ([right, length], [1.0, 0.5]), strict=True)))
    rewards, metrics = call(RubricReward(rubric))
    assert rewards == [3.0, 2.5] and metrics == {"right": 0.5, "length": 4.5}


def test_a_group_of_rubrics_and_what_each_gives_its_functions() -> None:
    one = SimpleNamespace(funcs=[right], weights=[2.0])
    other = SimpleNamespace(
        funcs=[parsed], weights=[], class_objects={"parser": lambda said: said[-1]["content"].upper()}
    )
    assert call(RubricReward(SimpleNamespace(rubrics=[one, other])))[0] == [3.0, 0.0]


def test_functions_of_one_name_have_a_metric_each() -> None:
    def another(value: float) -> Any:
        def right(completion: Any) -> float:
            return value

        return right

    def right_2(completion: Any) -> float:
        return 16.0

    rubric = SimpleNamespace(funcs=[right, another(2.0), right_2, another(4.0)], weights=[1.0] * 4)
    rewards, metrics = call(RubricReward(rubric))
    assert metrics == {"right": 0.5, "right_3": 2.0, "right_2": 16.0, "right_4": 4.0} and rewards == [23.0, 22.0]
    assert list(metrics) == ["right", "right_3", "right_2", "right_4"]


@pytest.mark.parametrize("references", [["cold", "icy"], ["icy", "cold"]])
def test_what_is_no_number_is_told_whichever_reference_it_is_of(references: list[str]) -> None:
    """Wrong version: NaN is hidden behind a number where its reference is not the first."""

    def broken(completion: Any, info: dict[str, str]) -> float:
        return math.nan if info["reference"] == "icy" else 0.5

    reward = RubricReward(SimpleNamespace(funcs=[broken], weights=[1.0]))
    rewards, _ = reward(
        prompts=["hot?"], references=references[:1], all_references=[references], responses=["x"], inputs=[{}]
    )
    assert math.isnan(rewards[0])


def test_a_response_is_judged_by_each_of_several_references_or_by_all_in_a_list() -> None:
    """The largest sum counts, and the metrics are of that reference. Wrong version: the first reference alone."""
    seen: list[Any] = []

    def equal(completion: Any, answer: Any) -> float:
        seen.append(answer)
        text = completion[-1]["content"]
        return float(text in answer if isinstance(answer, list) else text == answer)

    def as_long(completion: Any, info: Any) -> float:
        return float(isinstance(info["reference"], str) and len(completion[-1]["content"]) == len(info["reference"]))

    rubric = SimpleNamespace(funcs=[equal, as_long], weights=[1.0, 0.5])
    batch: dict[str, Any] = {
        "prompts": ["hot?", "big?"],
        "references": ["cold", "small"],
        "all_references": [["cold", "icy"], ["small"]],
        "responses": ["icy", "small"],
        "inputs": [{}, {}],
    }
    assert RubricReward(rubric)(**batch) == ([1.5, 1.5], {"equal": 1.0, "as_long": 1.0})
    assert RubricReward(rubric, references="list")(**batch) == ([1.0, 1.0], {"equal": 1.0, "as_long": 0.0})
    assert seen == ["cold", "icy", "small", ["cold", "icy"], ["small"]]


def test_texts_in_place_of_messages() -> None:
    def said(prompt: str, completion: str) -> float:
        return float((prompt, completion) == ("hot?", "table"))

    assert call(RubricReward(SimpleNamespace(funcs=[said]), conversational=False))[0] == [0.0, 1.0]


def test_what_a_rubric_may_not_be_is_one_line() -> None:
    def group(prompts: Any, completions: Any) -> list[float]:
        return []

    def asks(completion: Any, grader: Any) -> float:
        return 0.0

    for rubric, says in (
        (SimpleNamespace(), "rubric: SimpleNamespace has no functions"),
        (SimpleNamespace(funcs=[right], weights=[1.0, 2.0]), "rubric: 1 function with 2 weights"),
        (SimpleNamespace(funcs=[group]), "rubric: group judges a group of responses together"),
    ):
        with pytest.raises(UserError, match=says):
            RubricReward(rubric)
    with pytest.raises(UserError, match="rubric: asks asks for grader; there are word, reference, prompt"):
        call(RubricReward(SimpleNamespace(funcs=[asks])))
    with pytest.raises(UserError, match="answer=solution: no such column; there are word, reference"):
        call(RubricReward(SimpleNamespace(funcs=[right]), answer="solution"))


def test_a_run_under_a_rubric(small: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_rubric.py").write_text(
        "from types import SimpleNamespace\n\n\n"
        "def short(completion):\n    return 1 / (1 + len(completion[-1]['content']))\n\n\n"
        "def rubric(weight=1.0):\n    return SimpleNamespace(funcs=[short], weights=[weight])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = ["reward=verifiers", "reward.rubric._target_=own_rubric.rubric", "+reward.rubric.weight=0.5"]
    run = pgsrm.train("task=antonym", *small, *words, progress=False)
    assert (run.metrics["reward/mean"] - 0.5 * run.metrics["reward/short"]).abs().max() < 1e-6
