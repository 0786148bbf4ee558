"""Several rewards at once: numbers by hand, scales over real tokens alone, what each part says, and runs that resume."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import interrupt_again

import pgsrm
from pgsrm.config.compose import plan_words
from pgsrm.critic import LexiconCritic
from pgsrm.record.measured import is_measured
from pgsrm.reward import CriticReward, Scored, SumReward, normalise
from pgsrm.rollout import Span
from pgsrm.trainer import Trainer
from pgsrm.util.errors import ParameterError, UserError
from pgsrm.util.objects import (
    as_before,
    attach_object,
    check_object,
    digest_of,
    is_standardised,
    mask_object,
    standardise_object,
    state_of,
)

IDS = [[7], [7, 8], [7, 8, 9]]
TEXTS = ["a", "ab", "abc"]
ORDER = [0, 1, 2]


def length(*, responses: list[str], **_: Any) -> tuple[list[float], dict[str, float]]:
    return [float(len(text)) for text in responses], {"letters": 2.0}


def places(*, token_ids: list[list[int]], **_: Any) -> Any:
    """1 at each first token, -2 at each third."""
    annotations = [
        {"spans": [(0, 1, "first", 1.0), (0, 1, "unpaid", None)], "components": {"good": 1.0}} for _ in token_ids
    ]
    return [[1.0, 0.0, -2.0][: len(ids)] for ids in token_ids], {"letters": 3.0, "critic/calls": 5.0}, annotations


def scored(reward: Any, rows: Sequence[int] = ORDER) -> Scored:
    ids, texts = [IDS[row] for row in rows], [TEXTS[row] for row in rows]
    n = len(rows)
    offsets = [[(at, at + 1) for at in range(len(text))] for text in texts]
    given = {"prompts": [""] * n, "references": [""] * n, "inputs": [{}] * n, "offsets": offsets}
    return normalise(reward(responses=texts, token_ids=ids, **given), ids, "sum", texts)


def test_a_sum_of_responses_and_tokens_by_hand() -> None:
    both = scored(SumReward({"length": length, "places": places, "none": None}, {"length": 0.5, "none": 3}))
    assert both.per_token
    assert both.token_rewards == [[1 + 0.5], [1, 1.0], [1, 0, -2 + 1.5]]
    alone = scored(SumReward({"length": length}))
    assert not alone.per_token and alone.totals == [1, 2, 3]


def test_each_part_is_told_of_by_its_name() -> None:
    both = scored(SumReward({"length": length, "places": places}, {"length": 0.5, "places": 2}))
    assert both.metrics == {
        "length": 2.0,  # before the weight
        "places": (1 + 1 - 1) / 3,
        "length/letters": 2.0,  # both have one
        "places/letters": 3.0,
        "critic/calls": 5.0,
    }
    assert both.annotations[2].spans == (Span(0, 1, "first", 2.0), Span(0, 1, "unpaid", None))
    assert both.annotations[2].components == {"length": 1.5, "places": -2.0, "places.good": 1.0}


def test_the_scale_is_the_deviation_of_what_a_part_gave() -> None:
    """Wrong version: over a padded matrix, where the zeros beside short responses count."""
    both = scored(
        SumReward({"length": length, "places": places}, normalise={"length": "batch", "places": "batch"}), ORDER
    )
    of_responses = (2 / 3) ** 0.5  # of 1, 2, 3
    of_tokens = (7 / 6 - (1 / 6) ** 2) ** 0.5  # of 1, 1, 0, 1, 0, -2
    assert both.metrics["length_scale"] == pytest.approx(of_responses)
    assert both.metrics["places_scale"] == pytest.approx(of_tokens)
    assert both.token_rewards[2] == pytest.approx([1 / of_tokens, 0, -2 / of_tokens + 3 / of_responses])


def test_equal_numbers_are_not_scaled() -> None:
    """Wrong version: a division by 0, or by the rounding of 0.1, and rewards of 1e16."""
    flat = SumReward({"flat": lambda *, responses, **_: [0.1] * len(responses)}, normalise={"flat": "batch"})
    assert scored(flat).totals == [0.1] * 3


def test_a_running_scale_is_that_of_all_batches() -> None:
    running = SumReward({"length": length}, normalise={"length": "running"})
    scored(running, [0, 0, 1])
    assert scored(running, [2]).metrics["length_scale"] == pytest.approx((11 / 16) ** 0.5)  # of 1, 1, 2, 3
    kept = json.loads(json.dumps(running.state()))
    with as_before(running):
        scored(running, [0, 1])
    assert running.state() == kept
    later = SumReward({"length": length}, normalise={"length": "running"})
    later.restore(kept)
    assert scored(later, [0, 2]).totals == scored(running, [0, 2]).totals


def test_what_parts_need_is_passed_on() -> None:
    calls = []

    class Part:
        digest = "abc"
        check = staticmethod(lambda references: calls.append(references))
        attach = staticmethod(lambda policy, codec: calls.append((policy, codec)))
        state = staticmethod(lambda: 5)
        restore = staticmethod(calls.append)

        def __call__(self, **_: Any) -> list[float]:
            return [1.0]

    outer = CriticReward(SumReward({"inner": SumReward({"part": Part()}), "length": length}), arm="sparse")
    assert digest_of(outer) == "_extrinsic inner part abc"
    check_object(outer, ["r"])
    attach_object(outer, 1, 2)
    outer.restore(state_of(outer))
    assert calls == [["r"], (1, 2), 5]


def test_each_reward_of_a_sum_within_a_critic_is_reached_once() -> None:
    """Wrong version: a critic within a critic's extrinsic reward, which is the policy itself, is never given the policy."""
    calls: list[Any] = []

    class Recorded:
        def __init__(self, name: str) -> None:
            self._name = name

        def check(self, *arguments: Any) -> None:
            calls.append(("check", self._name, *arguments))

        def attach(self, *arguments: Any) -> None:
            calls.append(("attach", self._name, *arguments))

        def mask_messages(self, *arguments: Any) -> None:
            calls.append(("mask", self._name, *arguments))

        def standardise(self, *arguments: Any) -> None:
            calls.append(("standardise", self._name, *arguments))

        def __call__(self, **_: Any) -> list[Any]:
            return []

    def samples() -> tuple[list[str], list[str]]:
        return [], []

    inner = CriticReward(length, Recorded("inner critic"))
    parts = {"judge": inner, "deep": SumReward({"a": Recorded("a"), "b": Recorded("b")})}
    outer = CriticReward(SumReward(parts), Recorded("outer critic"))
    names = ["inner critic", "a", "b", "outer critic"]

    check_object(outer, ["r"])
    assert calls == [("check", name, *([] if "critic" in name else [["r"]])) for name in names]
    calls.clear()
    attach_object(outer, 1, 2)
    assert calls == [("attach", name, 1, 2) for name in names]
    calls.clear()
    mask_object(outer, str.upper)
    assert calls == [("mask", name, str.upper) for name in ("a", "b")]  # a critic reward masks what its critic says
    calls.clear()
    assert is_standardised(outer) and not is_standardised(CriticReward(SumReward({"judge": inner}), arm="sparse"))
    standardise_object(outer, samples)
    assert calls == [("standardise", name, samples) for name in ("a", "b")]


def test_an_error_of_a_reward_within_others_has_its_whole_key() -> None:
    class Wrong:
        def check(self, references: list[str]) -> None:
            raise ParameterError("model=x: no such model")

        def standardise(self, samples: Any) -> None:
            raise ParameterError("mean=x: no number")

        def __call__(self, **_: Any) -> list[float]:
            return []

    outer = CriticReward(SumReward({"deep": SumReward({"a": Wrong()})}), LexiconCritic())
    with pytest.raises(ParameterError, match=r"^extrinsic\.parts\.deep\.parts\.a\.model=x: "):
        check_object(outer, [])
    with pytest.raises(ParameterError, match=r"^extrinsic\.parts\.deep\.parts\.a\.mean=x: "):
        standardise_object(outer, lambda: ([], []))


def test_models_of_a_reward_within_a_reward_are_its_digest() -> None:
    """Wrong version: attributes of attributes are not looked at."""
    inner = CriticReward(length, LexiconCritic())

    class Mine:
        def __init__(self) -> None:
            self.inner = inner

    assert digest_of(Mine()) == f"inner _critic {LexiconCritic().digest}"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"parts": {}}, r"^parts: is empty"),
        ({"parts": {"a": None}}, r"^parts: is empty"),
        ({"parts": {"a": {"weight": 1}}}, r"^parts\.a=.*: is no reward; name one in parts\.a\._target_"),
        ({"parts": {"a/b": length}}, r"^parts\.a/b: is no name"),
        ({"parts": {"mean": length}}, r"^parts\.mean: is a name of the run's own metrics"),
        ({"parts": {"a": length}, "weights": {"b": 1}}, r"^weights\.b: there is no such part; there are a"),
        ({"parts": {"a": length}, "normalise": {"b": "batch"}}, r"^normalise\.b: there is no such part"),
    ],
)
def test_what_is_no_sum(options: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        SumReward(**options)


def critic(extrinsic: Any = length) -> CriticReward:
    return CriticReward(extrinsic, LexiconCritic())


def test_critics_within_critics_log_each_what_they_do() -> None:
    """Wrong version: a name is told apart once, and meets the one that was told apart within."""
    one, three = (scored(reward).metrics for reward in (critic(), critic(critic(critic()))))
    assert len(three) == 3 * (len(one) - 1) + 1  # `letters` is of the innermost reward, and is there once
    times = ["time/critic", "time/extrinsic/critic", "time/extrinsic/extrinsic/critic"]
    assert [name for name in three if is_measured(name)] == times
    assert {"extrinsic", "extrinsic/extrinsic", "extrinsic/extrinsic/extrinsic"} < three.keys()


def test_sums_within_sums_log_each_what_their_parts_do() -> None:
    """Wrong version: the outer `a` and the inner one have a single `time/a/critic`, and a single `a_scale`."""
    inner = SumReward({"a": critic(), "c": critic()}, normalise={"a": "batch"})
    metrics = scored(SumReward({"a": critic(), "b": inner, "e": critic()}, normalise={"a": "batch"})).metrics
    times = {"time/a/critic", "time/b/a/critic", "time/c/critic", "time/e/critic"}
    assert {name for name in metrics if is_measured(name)} == times
    assert {"a", "a_scale", "b/a", "b/a_scale"} < metrics.keys()


def test_prefixes_are_not_worth_what_a_scale_of_their_own_makes_them() -> None:
    part = SumReward({"length": length}, normalise={"length": "batch"})
    with pytest.raises(UserError, match=r"^arm=decomposed: takes differences"):
        CriticReward(part, arm="decomposed")
    around = SumReward({"inner": part})  # wrong version: seen in the outermost sum alone
    with pytest.raises(UserError, match=r"^arm=decomposed: takes differences"):
        CriticReward(around, arm="decomposed")


MINE = """
def length(*, responses, weight: float = 1.0, **_):
    return [weight * len(text) for text in responses]
"""


@pytest.fixture
def sum_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: Sequence[str]) -> Callable[..., list[str]]:
    """`sum_of(*words)`: a run on the tiny model with the sum of the letters and of a critic's rewards per token."""
    (tmp_path / "letters.txt").write_text("\n".join(f"positive {letter}" for letter in "aeiou"))
    (tmp_path / "sum_parts_of_mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)

    def words(*more: str) -> list[str]:
        added = [
            "task=color",
            "reward=sum",
            "+reward@reward.parts.critic=critic",
            "reward.parts.critic.arm=critic_only",
        ]
        added += ["critic=lexicon", f"critic.path={tmp_path / 'letters.txt'}", "+reward.weights.critic=0.5"]
        added += ["+reward.parts.length._target_=sum_parts_of_mine.length", "+reward.parts.length._partial_=true"]
        return [*small, "task.max_new_tokens=5", *added, *more]

    return words


def test_a_sum_that_was_interrupted_ends_with_the_same_numbers(
    sum_of: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong versions: the running scale starts again, counts an update twice, or counts what an evaluation asked."""
    words = sum_of("+reward.normalise.length=running", "evaluation.text=null")
    whole = (run := pgsrm.train(*words, progress=False)).metrics
    assert {"reward/length", "reward/length_scale", "reward/critic", "critic/spans"} <= set(whole)
    assert whole["reward/length_scale"].nunique() == 4  # it moves from update to update
    samples = (run.folder / "samples.jsonl").read_bytes()
    assert set(json.loads(samples.splitlines()[0])["annotations"]["components"]) == {
        "length",
        "critic",
        "critic.intrinsic",
    }
    interrupt_again(run.folder, words, 1, monkeypatch)
    resumed = pgsrm.train(*words, progress=False)
    without_times = [name for name in whole if not is_measured(name)]
    assert resumed.metrics[without_times].equals(whole[without_times])
    assert (run.folder / "samples.jsonl").read_bytes() == samples
    often = pgsrm.train(*words, "evaluation.every=1", progress=False).metrics
    assert often["reward/length_scale"].equals(whole["reward/length_scale"])


def test_an_outage_of_one_part_is_not_remembered_by_another(
    sum_of: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pgsrm.models.server import ServerError

    trainer = Trainer.build(*sum_of("+reward.normalise.length=running", "evaluation.text=null"))
    before = state_of(trainer.score.reward)
    with pytest.raises(ServerError, match="checkpoint written at update 0"), trainer.checkpoint_on_outage():
        trainer.score(trainer.sample(trainer.draw_prompts()))
        assert state_of(trainer.score.reward) != before
        raise ServerError("gone")
    assert state_of(trainer.score.reward) == before


def test_parts_are_part_of_what_identifies_a_run(sum_of: Callable[..., list[str]], tmp_path: Path) -> None:
    import sys

    first = plan_words(*sum_of())
    assert plan_words(*sum_of()).identity == first.identity
    # a critic that is a model: where its replies are kept decides nothing, in whatever place it stands
    asked = [word for word in sum_of() if not word.startswith("critic")] + ["critic=nano"]
    elsewhere = [*asked, f"critic.cache={tmp_path}"]
    assert plan_words(*asked).identity == plan_words(*elsewhere).identity != first.identity
    del sys.modules["sum_parts_of_mine"]
    (tmp_path / "sum_parts_of_mine.py").write_text(MINE + "# changed\n")
    changed = plan_words(*sum_of())
    assert [name for name in first.parts if first.parts[name] != changed.parts[name]] == ["reward's code"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("+reward.parts.length.weight=heavy",), "reward.parts.length.weight=heavy: expected `float`"),
        (("+reward.parts.length.size=1",), None),  # taken as **_
        (("reward.parts.critic.per=word",), "reward.parts.critic.per=word: not an option; there are token, span"),
        (("reward.weights.length=2",), "+reward.weights.length=2 adds it"),
        (("+reward.normalise.length=all",), "not an option; there are batch, running"),
        (("+reward.weights.lenght=2",), "reward.weights.lenght: there is no such part; there are critic, length"),
        (("~reward.parts.length._partial_",), "reward.parts.length.responses: missing"),
    ],
)
def test_words_of_the_command_line(
    sum_of: Callable[..., list[str]], call_cli: Callable[..., Any], words: Sequence[str], line: str | None
) -> None:
    result = call_cli(*sum_of(*words, "dry_run=true"))
    assert result.code == (0 if line is None else 2), result.err
    assert line is None or line in result.error_line


def test_each_critics_seconds_have_a_name_of_their_own_and_are_known_as_measured() -> None:
    """Wrong versions: `a/time/critic`, which a comparison of two runs takes for a result; a critic within a critic unseen."""

    def metrics(reward: Any) -> set[str]:
        given = {"responses": ["so good", "bad"], "token_ids": [[1, 2], [3]], "offsets": [[(0, 3), (3, 7)], [(0, 3)]]}
        made = reward(prompts=["", ""], references=["", ""], inputs=[{}, {}], **given)
        return {name for name in normalise(made, [[1, 2], [3]]).metrics if "spans" in name or "time" in name}

    one, other = CriticReward(length, LexiconCritic()), CriticReward(length, LexiconCritic(), arm="critic_only")
    assert metrics(SumReward({"a": one})) == {"critic/spans", "time/critic"}
    two = {"a/critic/spans", "b/critic/spans", "time/a/critic", "time/b/critic"}
    assert metrics(SumReward({"a": one, "b": other})) == two
    assert all(is_measured(name) == ("time" in name) for name in two)
    within = {"critic/spans", "time/critic", "extrinsic/critic/spans", "time/extrinsic/critic"}
    assert metrics(CriticReward(one, LexiconCritic())) == within
