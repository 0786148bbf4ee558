"""Rewards, checkers and embedders of a user's own: what is wrong with one is told in a line, before anything starts."""

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pgsrm.reward import SemanticReward
from pgsrm.util.errors import ParameterError, UserError
from pgsrm.util.objects import check_call, name_of

MODULE = "code_of_their_own"


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """`own_module(source)` makes a module that a `_target_` can name."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(source: str) -> None:
        (tmp_path / f"{MODULE}.py").write_text(source)

    yield write
    sys.modules.pop(MODULE, None)


def by_name(*, responses: Any, **_: Any) -> None:
    """Takes what it needs."""


def in_order(response: str, reference: str, inputs: Any) -> None:
    """Takes three."""


class TestCalls:
    def test_what_can_be_called_passes(self) -> None:
        check_call(by_name, "prompts", "responses", by_name=True)
        check_call(in_order, "response", "reference", "inputs", by_name=False)
        check_call(lambda a, b, c: a, "response", "reference", "inputs", by_name=False)  # names of its own
        check_call(functools.partial(by_name, weight=1), "responses", by_name=True)
        check_call(dict, "responses", by_name=True)  # has no signature

    def test_a_wrapper_is_called_and_not_what_it_wraps(self) -> None:
        """Wrong version: a reward that a decorator makes of a function of one response is refused, though it works."""

        @functools.wraps(in_order)
        def each(**batch: Any) -> None:
            """Calls `in_order` for each response."""

        check_call(each, "prompts", "responses", by_name=True)
        check_call(functools.partial(each, weight=1), "prompts", "responses", by_name=True)
        check_call(functools.cache(in_order), "response", "reference", "inputs", by_name=False)

    @pytest.mark.parametrize(
        ("names", "keywords", "why"),
        [
            (("prompts",), True, "missing a required argument: 'responses'"),
            (("responses", "prompts"), False, "too many positional arguments"),
        ],
    )
    def test_what_cannot_be_called_is_named(self, names: Sequence[str], keywords: bool, why: str) -> None:
        with pytest.raises(ParameterError) as caught:
            check_call(by_name, *names, by_name=keywords)
        assert str(caught.value).startswith(f"_target_=by_name: can't be called with {', '.join(names)} ({why}")

    def test_names(self) -> None:
        assert name_of(by_name) == "by_name"
        assert name_of(functools.partial(by_name, weight=1)) == "by_name"
        assert name_of(functools.partial(TestCalls)) == "TestCalls"
        assert name_of(TestCalls()) == "TestCalls"


@pytest.mark.parametrize(
    ("source", "override", "line"),
    [
        (
            "def own(prompts, responses):\n    return [0.0 for _ in responses]\n",
            "+reward={_target_:MODULE.own,_partial_:true}",
            "reward._target_=own: can't be called with prompts, references, responses, inputs, token_ids, offsets (got an "
            "unexpected keyword argument 'references'); name those that it needs, and take the others as **_",
        ),
        (
            "def own(*, respones, **_):\n    return [0.0 for _ in respones]\n",
            "+reward={_target_:MODULE.own,_partial_:true}",
            "(missing a required argument: 'respones')",
        ),
        (
            "def own(*, respones, **_):\n    return [0.0 for _ in respones]\n",
            "+reward={_target_:pgsrm.reward.SumReward,parts:{a:{_target_:MODULE.own,_partial_:true}}}",
            "reward.parts.a._target_=own: can't be called",
        ),
        (
            "class Own:\n    def __call__(self, response, reference):\n        return True\n",
            "task.checker._target_=MODULE.Own",
            "task.checker._target_=Own: can't be called with response, reference, inputs (too many positional",
        ),
        (
            "class Own: pass\n",
            "embedder={_target_:MODULE.Own}",
            "embedder._target_=Own: is no embedder; name a class that has a method embed(texts)",
        ),
        (
            "class Own:\n    def embed(self, texts):\n        return [[3.0, 4.0] for _ in texts]\n",
            "embedder={_target_:MODULE.Own}",
            "embedder=Own: embed gave a row of length 5 for ",
        ),
    ],
)
def test_before_anything_starts(
    call_cli: Callable[..., Any],
    small: Sequence[str],
    own_module: Callable[[str], None],
    tmp_path: Path,
    source: str,
    override: str,
    line: str,
) -> None:
    own_module(source)
    group, _, node = override.removeprefix("+").partition("=")
    whole = group in ("reward", "embedder")
    words = [word for word in small if not (whole and word.startswith(f"{group}="))]
    result = call_cli(
        *words, *([f"~{group}"] if whole else []), f"{'+' if whole else ''}{group}={node}".replace("MODULE", MODULE)
    )
    assert result.code == 2
    assert line in result.error_line
    assert result.out == ""
    assert not (tmp_path / "outputs/runs").exists()


OWN = f"{{_target_:{MODULE}.own,_partial_:true}}"


@pytest.mark.parametrize(
    ("reward", "key"),
    [
        (["~reward", f"+reward={OWN}"], "reward."),
        (["reward=sum", f"+reward.parts.mine={OWN}"], "reward.parts.mine."),
        (["reward=sparse", f"task.extrinsic={OWN}"], "task.extrinsic."),
        (
            [
                "reward=sum",
                f"+reward.parts.dense={{_target_:pgsrm.reward.CriticReward,arm:decomposed,extrinsic:{OWN}}}",
            ],
            "reward.parts.dense.extrinsic.",
        ),
    ],
)
def test_a_reward_is_to_take_all_references_where_there_are_several(
    call_cli: Callable[..., Any],
    small: Sequence[str],
    own_module: Callable[[str], None],
    tmp_path: Path,
    reward: list[str],
    key: str,
) -> None:
    """Wrong version: the first batch ends in a traceback."""
    own_module(
        "def own(*, prompts, references, responses, inputs, token_ids, offsets):\n    return [0.0 for _ in responses]\n"
    )
    words = [*(word for word in small if not word.startswith("reward=")), *reward, "dry_run=true"]
    assert call_cli(*words, "task=antonym").code == 0
    data = tmp_path / "several.jsonl"
    data.write_text('{"word": "hot", "reference": ["cold", "icy"]}\n{"word": "big", "reference": "small"}\n')
    result = call_cli(*words, "task=antonym", f"task.data={data}")
    assert result.code == 2 and "(got an unexpected keyword argument 'all_references')" in result.error_line
    assert f"{key}_target_=own: can't be called with" in result.error_line


def test_hydra_adds_no_lines_of_its_own(run_cli: Callable[..., Any], small: Sequence[str], tmp_path: Path) -> None:
    """Wrong version: `Error getting object at mine.reward`, and two more lines."""
    (tmp_path / "mine.py").write_text("def reward(:\n")
    result = run_cli(*small, "reward._target_=mine.reward", pythonpath=tmp_path)
    assert result.code == 2
    assert len(result.err.splitlines()) == 1, result.err
    assert "reward._target_=mine.reward: can't be imported (invalid syntax (mine.py, line 1))" in result.err


def test_a_function_is_called_by_its_name(
    call_cli: Callable[..., Any], small: Sequence[str], own_module: Callable[[str], None]
) -> None:
    """Wrong version: `reward=_DeferredTarget: it returned 1 reward`."""
    own_module("def own(*, responses, **_):\n    return [1.0]\n")
    words = [word for word in small if not word.startswith("reward=")]
    result = call_cli(*words, "~reward", f"+reward={{_target_:{MODULE}.own,_partial_:true}}")
    assert result.code == 2
    assert "reward=own: it returned 1 reward for " in result.error_line


class Gives:
    """An embedder that gives what it was made with."""

    dimension = 2

    def __init__(self, *given: Any) -> None:
        self.given = list(given)

    def embed(self, texts: Sequence[str]) -> Any:
        """The next of these."""
        return self.given.pop(0)


class TestVectors:
    @pytest.mark.parametrize(
        "rows",
        [
            [[1.0, 0.0]],
            np.array([[1.0, 0.0]]),
            np.array([[1.0, 0.0]], dtype=np.float16),
            np.array([[0.6, 0.8]]).astype(np.float16),
        ],
    )
    def test_of_every_form(self, rows: Any) -> None:
        rewards, _ = SemanticReward(Gives(rows, [[0.0, 1.0]]))(references=["a"], responses=["b"])
        assert rewards == pytest.approx([((float(np.asarray(rows)[0][1]) + 1) / 2) ** 4], abs=1e-3)

    @pytest.mark.parametrize(
        ("rows", "what"),
        [
            (None, "the shape () for 2 texts; return a row for each"),
            ([[1.0, 0.0]], "the shape (1, 2) for 2 texts; return a row for each"),
            ([1.0, 0.0], "the shape (2,) for 2 texts"),
            ([[1.0], [0.0, 1.0]], "no table of numbers (setting an array element with a sequence"),
            ([["a"], ["b"]], "no table of numbers"),
            ([[1.0, 0.0], [2.0, 0.0]], "a row of length 2 for 'right'; divide each row by its length"),
            ([[1.0, 0.0], [np.nan, 0.0]], "a row of length nan for 'right'"),
        ],
    )
    def test_what_is_no_row_of_unit_length_is_refused(self, rows: Any, what: str) -> None:
        with pytest.raises(UserError) as caught:
            SemanticReward(Gives(rows)).check(["left", "right"])
        assert f"embedder=Gives: embed gave {what}" in str(caught.value)

    def test_of_another_dimension_than_before(self) -> None:
        reward = SemanticReward(Gives([[1.0, 0.0]], [[1.0]]))
        reward.check(["left"])
        with pytest.raises(UserError, match="embed gave rows of 1 number after rows of 2; give all one length"):
            reward(references=["left"], responses=["right"])
