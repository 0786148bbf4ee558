"""A parent that isn't one is told: what answers are like as a whole, beside the data's own references."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Result
from fake_openai import FakeOpenAI
from test_parent import RIGHT, antonyms, command, make, shipped

from pgsrm.parent.summary import doubts, summarise
from pgsrm.task import load_task


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    with FakeOpenAI(answer=lambda asked: RIGHT.get(asked, f"un{asked}")) as server:
        yield server


@pytest.mark.parametrize("name", ["color", "antonym", "category", "copy", "sentiment"])
def test_shipped_references_raise_no_doubt(name: str) -> None:
    examples = load_task(shipped(name)).train
    own = summarise((example.reference, example.inputs.values()) for example in examples)
    assert not doubts(own, own)
    if name != "copy":  # whose task is to repeat
        assert not doubts(own, None)
        repeats = summarise(
            (value, example.inputs.values()) for example in examples for value in [*example.inputs.values()][:1]
        )
        assert "repeat their input" in doubts(repeats, own)[0]
    same = summarise(("OUTPUT", example.inputs.values()) for example in examples)
    assert (
        doubts(same, own)[-1]
        == f"all {len(examples)} answers are 'output': look at them before a run is rewarded for that"
    )


def test_the_numbers() -> None:
    made = summarise(
        [("Cold", ["hot"]), ("cold.", ["warm"]), ("up", ["up"]), ("a", ["b"]), ("cold", ["x"]), ("d", ["e"])]
    )
    assert made.line == "answers: 6, distinct 4 (67%), equal to an input 1 (17%), commonest 'cold' 3, 'up' 1, 'a' 1"
    assert doubts(made, None) == ["50% of the answers are 'cold': look at them before a run is rewarded for that"]
    varied = summarise([(str(number), ["x"]) for number in range(6)])
    assert doubts(made, varied) == [
        "50% of the answers are 'cold', 17% in the data's own references: look at them before a run is rewarded for that"
    ]
    halves = summarise([(str(number // 4), ["x"]) for number in range(100)])
    many = summarise([(str(number), ["x"]) for number in range(100)])
    assert "25 distinct answers to 100 prompts, the data's own references have 100" in doubts(halves, many)[0]


def test_the_command_says_it(
    tmp_path: Path, fake: FakeOpenAI, run_cli: Callable[..., Result], capsys: pytest.CaptureFixture[str]
) -> None:
    make(antonyms(tmp_path, list(RIGHT)), tmp_path, fake, model="good")
    said = capsys.readouterr().out
    assert "answers: 5, distinct 5 (100%), equal to an input 0 (0%)" in said and "look at them" not in said
    fake.answer = lambda asked: asked
    made = run_cli(*command(fake), module="pgsrm.parent")
    assert made.code == 0, made.err
    assert "answers: 124, distinct 124 (100%), equal to an input 124 (100%), commonest" in made.out
    assert "right by the data's own references: 0 of 124 (0%)" in made.out
    assert "100% of the answers repeat their input, 0% in the data's own references: look at them before" in made.out
    assert "embedder=static reward=pgsrm: an answer earns 1.00, the best other answer 0." in made.out
    assert "it is first for 100% of the prompts\n" in made.out
