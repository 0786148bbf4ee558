"""Rewards from spans: where they stand and what they sum to. test_spans.py has borders, ways of matching, and credit."""

import re
import shlex
from collections.abc import Callable
from typing import Any

import pytest

import pgsrm
from pgsrm.critic import Critique, GoldCritic
from pgsrm.reward import CriticReward, SumReward, normalise
from pgsrm.reward.spans import token_values, tokens_of
from pgsrm.rollout import Span
from pgsrm.util.errors import UserError
from pgsrm.util.objects import mask_object

GOOD, BAD = "positive", "negative"
VALUES = {GOOD: 0.5, BAD: -0.5}
TEXT = " a warm, slow film"
OFFSETS = [(0, 2), (2, 7), (7, 8), (8, 11), (11, 13), (13, 18), (18, 18)]  # " sl" "ow" are two tokens; the last is EOS
SPANS = (Span(3, 7, GOOD), Span(9, 13, BAD))


def extrinsic(*, responses: list[str], **_: Any) -> list[float]:
    """The number of characters: another for every beginning of a text."""
    return [float(len(text)) for text in responses]


class Given:
    """A critic that says what it was told to."""

    def __init__(self, *critiques: Critique) -> None:
        self.critiques = list(critiques)
        self.asked: list[str] = []

    def __call__(self, *, responses: list[str], **_: Any) -> list[Critique]:
        self.asked += responses
        return [self.critiques[i % len(self.critiques)] for i in range(len(responses))]


SAID = Critique(SPANS, "parsed", quotes=2)


def rewards_of(reward: CriticReward, rows: int = 1) -> Any:
    batch: dict[str, Any] = {
        "prompts": [f"p{row}" for row in range(rows)],
        "references": [""] * rows,
        "responses": [TEXT] * rows,
        "inputs": [{}] * rows,
        "token_ids": [[*range(6), 99]] * rows,
        "offsets": [OFFSETS] * rows,
    }
    return normalise(reward(**batch), batch["token_ids"], responses=batch["responses"])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (None, "returned NoneType; return a list with one Critique per response"),
        ([SAID], "1 critique for 2 responses; return one for each"),
        ([SAID, None], "for response 1 it returned NoneType; return a pgsrm.critic.Critique"),
        ([SAID, [(3, 7, GOOD)]], "for response 1 it returned list; return a pgsrm.critic.Critique"),
        (
            [Critique(SPANS, "ok"), SAID],
            "for response 0 it returned the outcome 'ok'; choose one of parsed, clean, unparsed",
        ),
        ([Critique(SPANS, "clean"), SAID], "spans with the outcome 'clean', which marks nothing; say 'parsed'"),
        ([Critique(((3, 7, GOOD),), "parsed"), SAID], "return pgsrm.rollout.Span"),
        ([Critique((Span(18, 26, GOOD),), "parsed"), SAID], "a span from 18 to 26, of 18 characters; count"),
        ([Critique((Span(-3, 2, GOOD),), "parsed"), SAID], "a span from -3 to 2, of 18 characters; count"),
        ([Critique((Span(0.0, 2.0, GOOD),), "parsed"), SAID], "a span from 0.0 to 2.0, of 18 characters; count whole"),
    ],
)
@pytest.mark.parametrize("gold", [False, True])
def test_what_a_critic_of_ones_own_returns_is_checked(given: Any, told: str, gold: bool) -> None:
    """Also behind `critic=gold`. Wrong version: an AttributeError of ours, or a misspelt outcome that marks nothing, silently."""

    def own(**_: Any) -> Any:
        return given

    critic: Any = GoldCritic(critic=own, flipped=0.5) if gold else own
    with pytest.raises(UserError, match=f"^critic=own: .*{re.escape(told)}"):
        rewards_of(CriticReward(extrinsic, critic, values=VALUES), rows=2)


def test_a_span_belongs_to_the_tokens_that_wrote_it() -> None:
    assert tokens_of(Span(3, 7, GOOD), OFFSETS) == [1]
    assert tokens_of(Span(9, 13, BAD), OFFSETS) == [3, 4]
    assert tokens_of(Span(0, 1, GOOD), OFFSETS) == [0] and tokens_of(Span(17, 18, GOOD), OFFSETS) == [5]
    # a character that two tokens wrote: the second has no characters of its own
    assert tokens_of(Span(1, 2, GOOD), [(0, 1), (1, 2), (2, 2), (2, 3)]) == [1, 2]


@pytest.mark.parametrize(
    ("per", "on", "expected"),
    [
        ("token", "all", [0, 0.5, 0, -0.5, -0.5, 0, 0]),
        ("span", "all", [0, 0.5, 0, -0.25, -0.25, 0, 0]),
        ("token", "first", [0, 0.5, 0, -0.5, 0, 0, 0]),
        ("span", "last", [0, 0.5, 0, 0, -0.5, 0, 0]),
    ],
)
def test_values_of_tokens(per: Any, on: Any, expected: list[float]) -> None:
    assert token_values(SPANS, TEXT, OFFSETS, VALUES, per, on) == expected


@pytest.mark.parametrize(
    ("arm", "expected"),
    [
        ("sparse", [0, 0, 0, 0, 0, 0, 18]),
        ("critic", [0, 0.5, 0, -0.5, -0.5, 0, 18]),
        ("uniform", [*[-0.5 / 7] * 6, 18 - 0.5 / 7]),
        ("total_at_end", [0, 0, 0, 0, 0, 0, 17.5]),
        ("critic_only", [0, 0.5, 0, -0.5, -0.5, 0, 0]),
        ("decomposed", [2, 5, 1, 3, 2, 5, 0]),
        ("shaped", [0, 0.5, 0, -0.5, -0.5, 0, 18.5]),
    ],
)
def test_where_each_arm_puts_its_rewards(arm: Any, expected: list[float]) -> None:
    scored = rewards_of(CriticReward(extrinsic, Given(SAID), arm))
    assert scored.token_rewards[0] == pytest.approx(expected)
    returns = {"decomposed": 18, "shaped": 18, "sparse": 18, "critic_only": -0.5}
    assert scored.totals[0] == pytest.approx(returns.get(arm, 17.5))


def test_shuffled_keeps_the_values_and_repeats_itself() -> None:
    first, again = (rewards_of(CriticReward(extrinsic, Given(SAID), "shuffled"), 8) for _ in range(2))
    other = rewards_of(CriticReward(extrinsic, Given(SAID), "shuffled", arm_seed=1), 8)
    assert first.token_rewards == again.token_rewards != other.token_rewards
    assert len({tuple(row) for row in first.token_rewards}) > 1
    assert all(total == pytest.approx(17.5) for total in first.totals)


def test_the_gate_decides_who_is_asked() -> None:
    for gate, asked in (({"below": 17.0}, 0), ({"below": 18.0}, 8), ({"share": 0.25}, 2)):
        critic = Given(SAID)
        scored = rewards_of(CriticReward(extrinsic, critic, gate=gate), 8)
        assert len(critic.asked) == asked
        assert scored.metrics["critic/asked"] == asked / 8
        assert sum(total != 18 for total in scored.totals) == asked


@pytest.mark.parametrize(("outcome", "last"), [("clean", 18.25), ("unparsed", 17.0)])
def test_an_outcome_has_its_own_reward(outcome: Any, last: float) -> None:
    reward = CriticReward(extrinsic, Given(Critique((), outcome)), outcomes={"clean": 0.25, "unparsed": -1.0})
    assert rewards_of(reward).token_rewards[0] == [0, 0, 0, 0, 0, 0, last]


@pytest.mark.parametrize(
    ("critiques", "line"),
    [
        ([Critique((), "unparsed", "I like it.")], "critic: none of 8 replies has a form that is read"),
        ([Critique((), "parsed", "Good: x", quotes=1, lost=1)], "critic: none of 8 quotes is in its response"),
        ([SAID, Critique((), "unparsed")], None),
        ([Critique((), "clean")], None),
        ([SAID, Critique((), "parsed", quotes=2, lost=2)], None),
    ],
)
def test_a_critic_of_no_use_is_told_once(
    caplog: pytest.LogCaptureFixture, critiques: list[Critique], line: str | None
) -> None:
    reward = CriticReward(extrinsic, Given(*critiques))
    rewards_of(reward, 7)
    assert not caplog.messages  # too few to say
    rewards_of(reward, 8)
    rewards_of(reward, 8)
    assert len(caplog.messages) == (line is not None)
    assert line is None or (caplog.messages[0].startswith(line) and repr(critiques[0].reply) in caplog.messages[0])


def test_a_label_that_is_worth_nothing_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Wrong version: a critic whose labels are not those of the task earns nothing, and nobody says so."""
    odd = Critique((Span(3, 7, "made_up"), Span(9, 13, BAD)), "parsed", quotes=2)
    reward = CriticReward(extrinsic, Given(odd), values={GOOD: 0.5, "unsupported": -0.5, BAD: 0.0})
    for _ in range(2):
        assert rewards_of(reward).totals == [18]
    (line,) = caplog.messages
    assert line.startswith(
        "critic: marks made_up, which earns nothing, since reward.values has positive, unsupported, negative;"
    )
    assert "'reward.values={positive: 0.5, unsupported: -0.5, negative: 0.0, made_up: -0.5}'" in line
    assert "reward.parts.NAME.values" in line


def test_the_remedy_for_a_label_keeps_what_the_task_pays(caplog: pytest.LogCaptureFixture) -> None:
    """Wrong version: it sets the new label alone, and following it takes the task's own labels away."""
    words = "task=summary", "reward=critic", "critic=lexicon"
    task = pgsrm.build_reward(*words)
    odd = Critique((Span(0, 1, "made up"),), "parsed", quotes=1)
    rewards_of(CriticReward(extrinsic, Given(odd), values=task._values))
    shown = caplog.messages[0].partition("set all labels, as ")[2].partition(", with 0 for")[0]
    followed = pgsrm.build_reward(*words, *shlex.split(shown))
    assert followed._values == {**task._values, "made up": -0.5} and len(followed._values) == 4


@pytest.mark.parametrize(
    "outer",
    [
        lambda inner: inner,
        lambda inner: SumReward({"inner": inner}),
        lambda inner: CriticReward(inner, Given(SAID)),
        lambda inner: SumReward({"outer": CriticReward(SumReward({"inner": inner}), Given(SAID))}),
    ],
)
def test_a_reply_in_a_warning_is_masked_as_samples_are(caplog: pytest.LogCaptureFixture, outer: Any) -> None:
    """Wrong version: the console shows the offensive words that samples hide, quoted by the critic."""
    inner = CriticReward(extrinsic, Given(Critique((), "unparsed", "I won't say grumbly.")))
    mask_object(outer(inner), lambda text: text.replace("grumbly", "g******"))
    rewards_of(inner, 8)
    assert 'one is "I won\'t say g******."' in caplog.messages[0]


def test_streams_and_annotations() -> None:
    scored = rewards_of(CriticReward(extrinsic, Given(SAID, Critique((), "unparsed"))), 2)
    metrics = scored.metrics
    assert (metrics["extrinsic"], metrics["critic/spans"], metrics["critic/unparsed"]) == (18, 1, 0.5)
    assert metrics["critic/coverage"] == 3 / 14
    assert (metrics["critic/positive"], metrics["critic/negative"]) == (0.25, -0.5)
    assert scored.annotations[0].spans == (Span(3, 7, GOOD, 0.5), Span(9, 13, BAD, -0.5))
    assert scored.annotations[0].components == {"extrinsic": 18, "intrinsic": -0.5}


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: CriticReward(None, Given(SAID)), "^extrinsic=null"),
        (lambda: CriticReward(extrinsic, None), "^critic=null"),
        (lambda: CriticReward(extrinsic, Given(SAID), match="released_detox", per="span"), "^match="),
        (lambda: CriticReward(extrinsic, Given(SAID), gate={"below": 1, "share": 0.5}), "^gate:"),
        (lambda: CriticReward(None, Given(SAID), "critic_only", gate={"below": 1}), "^gate.below="),
        (lambda: CriticReward(extrinsic, Given(SAID), outcomes={"parsed": 0.1}), "^outcomes.parsed: .*`values`"),
    ],
)
def test_settings_that_contradict_each_other(make: Callable[[], Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        make()
