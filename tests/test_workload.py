"""What a run asks of servers: how many prompts an evaluation takes, and what is said before the first call."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_openai import FakeOpenAI

from pgsrm.config.compose import plan_words
from pgsrm.critic import GoldCritic, RemoteCritic
from pgsrm.evaluation.evaluation import chosen
from pgsrm.evaluation.workload import expected_calls
from pgsrm.models.asking import Estimate, answers_as_they_come, token_limit
from pgsrm.models.server import ServerError
from pgsrm.reward import CriticReward, SumReward
from pgsrm.task import Example
from pgsrm.trainer import Trainer


def test_evaluated_prompts_are_the_same_ones_whatever_else_there_is() -> None:
    """Wrong version: the first of the file, which a row put before them changes."""
    examples = [Example(f"prompt {number}", "", {}, "user") for number in range(40)]
    some = chosen(examples, 10)
    assert len(some) == 10 and [e for e in examples if e in some] == some != examples[:10]
    assert {e.prompt for e in chosen(examples[::-1], 10)} == {e.prompt for e in some}
    assert (
        len({e.prompt for e in chosen([*examples, Example("new", "", {}, "user")], 10)} - {e.prompt for e in some}) < 2
    )
    first = min(examples, key=lambda e: hashlib.sha256(e.prompt.encode()).hexdigest())
    assert chosen(examples, 1) == [first] and chosen(examples, None) == chosen(examples, 99) == examples


def test_an_evaluation_takes_so_many_prompts_of_each_split_and_is_another_run(small: Sequence[str]) -> None:
    words = [*small, "task=color", "reward=binary", "task.holdout=0.2", "evaluation.text=null"]
    assert plan_words(*words).identity != plan_words(*words, "evaluation.prompts=5").identity
    trainer = Trainer.build(*words, "evaluation.prompts=5")
    asked: list[int] = []
    reward = trainer.score.reward

    def counted(**batch: Any) -> Any:
        asked.append(len(batch["responses"]))
        return reward(**batch)

    trainer.score.reward = counted
    trainer.evaluate(0)
    assert asked == [5, 5]


class Paid:
    """A reward of which each text costs a call and ten tokens."""

    def __init__(self, name: str = "m at h") -> None:
        self.name = name

    def estimates(self, prompts: Sequence[str], responses: Sequence[str]) -> list[Estimate]:
        return [Estimate(self.name, len(responses), 10.0 * len(responses), 0.0, len(responses) * 1.0, "critic")]

    def __call__(self, *, responses: Sequence[str], **_: Any) -> list[float]:
        return [0.0] * len(responses)


def test_updates_and_evaluations_are_both_counted(small: Sequence[str]) -> None:
    """Four updates of four, evaluations before, after the second and after the fourth: wrong versions forget some of them."""
    words = [*small, "task=color", "reward=binary", "task.holdout=0.2", "evaluation.prompts=5", "evaluation.text=null"]
    trainer = Trainer.build(*words)
    settings = trainer.settings

    def told(reward: Any, update: int = 0) -> list[str]:
        return expected_calls(trainer.task, reward, trainer.evaluate, settings.ppo, settings.evaluation.every, update)

    assert told(lambda **_: []) == []
    (line,) = told(Paid())
    assert (
        "updates of 4 responses (4) and evaluations of 10 greedy answers (3): 46 calls of m at h: about 460 tokens in"
        in line
    )
    assert "cost 46; 30 of the calls are the evaluations'" in line
    assert "updates of 4 responses (2) and evaluations of 10 greedy answers (1)" in told(Paid(), 2)[0]
    both = SumReward({"a": Paid(), "b": CriticReward(Paid("other"), Paid(), gate={"share": 0.5})})
    assert ["69 calls of m" in one or "46 calls of other" in one for one in told(both)] == [True, True]


def test_a_run_says_it_before_its_first_call(
    tmp_path: Path, tiny: Path, capfd: pytest.CaptureFixture[str], small: Sequence[str]
) -> None:
    """Wrong version: "for an update at most", said of the evaluation before the first update."""
    import pgsrm

    with FakeOpenAI(lambda asked: "Good: none\nBad: none", raw=True) as server:
        words = [*small, "task=sentiment_control", "reward=critic", "critic=openai", f"critic.base_url={server.url}"]
        words += [f"critic.cache={tmp_path}", "critic.structured=false", "evaluation.prompts=2", "evaluation.text=null"]
        words += ["evaluation.measures=null", "ppo.episodes=8", "task.max_new_tokens=3", "task.min_new_tokens=null"]
        pgsrm.train(*words, progress=False)
    lines = [line for line in capfd.readouterr().err.splitlines() if "calls of" in line]
    assert len(lines) == 1 and lines[0].startswith(
        "at most, for updates of 4 responses (2) and evaluations of 2 greedy answers (2): 12 calls"
    )
    assert server.requests <= 12 + 1  # and the check of key and model


def test_gold_around_a_paid_critic_has_its_budget_and_estimate(tmp_path: Path) -> None:
    paid = RemoteCritic("m", "http://localhost:1/v1", cache=str(tmp_path), input_price=1.0, output_price=1.0)
    gold = GoldCritic(paid)
    assert gold.budget is paid.budget
    assert gold.estimates(["a"], ["b"]) == paid.estimates(["a"], ["b"]) != []
    assert GoldCritic().budget is None and GoldCritic().estimates(["a"], ["b"]) == []


def test_the_first_is_asked_alone_and_what_is_paid_for_is_given() -> None:
    asked: list[int] = []
    stopped: list[bool] = []

    def ask(number: int) -> int:
        asked.append(number)
        if number == 3:
            raise ServerError("gone")
        return number * number

    first = answers_as_they_come(ask, [3, 1, 2], 2)
    with pytest.raises(ServerError):
        next(first)
    assert asked == [3]
    came: list[tuple[int, int]] = []
    with pytest.raises(ServerError):
        came.extend(answers_as_they_come(ask, [1, 2, 3], 1, lambda: stopped.append(True)))
    assert stopped == [True]
    assert dict(answers_as_they_come(ask, [1, 2, 4, 5], 2)) == {0: 1, 1: 4, 2: 16, 3: 25}
    assert not list(answers_as_they_come(ask, [], 2))


def test_a_limit_of_tokens_goes_by_the_name_that_the_server_knows() -> None:
    assert token_limit("auto", 5, None) == {"max_completion_tokens": 5}
    assert token_limit("auto", 5, "http://localhost/v1") == {"max_tokens": 5}
    assert token_limit("max_tokens", 5, None) == {"max_tokens": 5}


def test_an_estimate_without_prices_names_their_keys() -> None:
    assert str(Estimate("m at h", 1, 8, 2, None, "critic")).endswith(
        "unknown cost (critic.input_price, critic.output_price)"
    )
    assert str(Estimate("m at h", 1234)) == "1,234 calls of m at h"


def test_ask_says_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Wrong version: a second estimate, of the critic's own, for the first batch."""
    from pgsrm.critic.__main__ import ask_command, check_command

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pgsrm.critic.check_plot.plot", lambda *_: None)
    (tmp_path / "t.txt").write_text("dull\nnice\nslow\n")
    with FakeOpenAI(lambda asked: "Good: none\nBad: none", raw=True) as server:
        words = ["critic=gold", "critic@critic.critic=openai", f"critic.critic.base_url={server.url}"]
        words += ["critic.critic.ledger=null", "critic.critic.structured=false", "critic.critic.cache_megabytes=0"]
        ask_command(["data=t.txt", "out=o.jsonl", *words])
        written = capfd.readouterr()
        assert "3 calls of gpt-4o-mini at " in written.out and "calls of" not in written.err
        check_command(["texts=t.txt", "against=lexicon", *words])
        assert "3 calls of gpt-4o-mini at " in capfd.readouterr().err
