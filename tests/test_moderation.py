"""Toxicity by a server: what is asked, what comes of a wrong answer, what is kept, and a run whose server goes away."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from fake_openai import FAILURES, MODERATION_FAILURES, FakeOpenAI

import pgsrm
from pgsrm.config.compose import plan_words
from pgsrm.models.server import BudgetExceeded, ServerError
from pgsrm.record.measured import is_measured
from pgsrm.reward import ModerationReward
from pgsrm.util.errors import UserError

TEXTS = [f"a text, {number} times grumbly" for number in range(10)]
PERSPECTIVE = {"comment": {"text": "{text}"}, "languages": ["en"], "requestedAttributes": {"TOXICITY": {}}}
VALUE = "attributeScores.TOXICITY.summaryScore.value"


def grumbly(text: str) -> dict[str, float | None]:
    """What the server finds: the text's number in tenths, by one of two categories, and a third that it does not know."""
    number = next((int(word) for word in text.split() if word.isdigit()), 0)
    return {"harassment": number / 10, "violence": 0.25, "illicit": None}


def moderation(server: FakeOpenAI, folder: Path, **options: Any) -> ModerationReward:
    usual: dict[str, Any] = {"retries": 0, "backoff": 0.001, "cache": str(folder / "cache"), "batch_size": 4}
    return ModerationReward(base_url=server.url, **{**usual, **options})


def rewards(reward: ModerationReward, texts: Sequence[str] = TEXTS, prompt: str = "") -> list[float]:
    return reward(prompts=[prompt] * len(texts), responses=texts)[0]


def test_the_highest_score_of_the_categories_counts(tmp_path: Path) -> None:
    with FakeOpenAI(moderate=grumbly) as server:
        reward = moderation(server, tmp_path)
        reward.check()
        assert server.bodies == [{"model": "omni-moderation-latest", "input": ["Good morning."]}]
        assert rewards(reward) == pytest.approx([0.75] * 3 + [1 - number / 10 for number in range(3, 10)])
        assert reward.counts == {"calls": 11, "cache_hits": 0} and server.requests == 1 + 3
        harassment = moderation(server, tmp_path, categories=["harassment"], label="toxic")
        assert rewards(harassment) == pytest.approx([number / 10 for number in range(10)])
        assert server.requests == 4  # other categories of what is kept
        assert rewards(moderation(server, tmp_path, reads="both"), ["grumbly"], "5 times ") == [0.5]
        assert server.bodies[-1]["input"] == ["5 times grumbly"]


def test_a_blank_text_is_not_asked_about_and_equal_ones_once(tmp_path: Path) -> None:
    with FakeOpenAI(moderate=grumbly) as server:
        reward = moderation(server, tmp_path)
        values, metrics = reward(prompts=[""] * 4, responses=["", " \n", "9 times", "9 times"])
        assert values == pytest.approx([1, 1, 0.1, 0.1])
        assert metrics == {"moderation/calls": 1.0, "moderation/cache_hits": 0.0}
        assert server.bodies[0]["input"] == ["9 times"]


@pytest.mark.parametrize("failure", [*(name for name in FAILURES if name != "timeout"), *MODERATION_FAILURES])
def test_a_failed_call_is_never_a_score(tmp_path: Path, failure: str) -> None:
    with FakeOpenAI(moderate=grumbly, failures={failure: 1.0}) as server:
        reward = moderation(server, tmp_path, retries=1)
        with pytest.raises(ServerError, match=r"^reward\.base_url=.*failed after 2 tries"):
            rewards(reward)
        assert server.requests == 2
        server.failures = {}
        assert rewards(reward) == pytest.approx(
            [0.75] * 3 + [1 - number / 10 for number in range(3, 10)]
        )  # nothing was kept
        assert set(server.asked.values()) == {1}


def test_failures_now_and_then_change_no_number(tmp_path: Path) -> None:
    kinds = [name for name in (*FAILURES, *MODERATION_FAILURES) if name != "timeout"]
    with FakeOpenAI(moderate=grumbly, failures=dict.fromkeys(kinds, 0.05), seed=3) as server:
        texts = [f"{number % 10} times grumbly, {number}" for number in range(60)]
        values = rewards(moderation(server, tmp_path, retries=30), texts)
        assert values == pytest.approx([1 - max(0.25, number % 10 / 10) for number in range(60)])
        assert len(server.failed) > 3 and set(server.asked.values()) == {1}


def test_a_server_that_takes_fewer_texts_gets_them_in_parts(tmp_path: Path) -> None:
    def intercept(path: str, body: dict[str, Any]) -> tuple[int, Any] | None:
        return (413, {"error": {"message": "too many inputs"}}) if len(body["input"]) > 2 else None

    with FakeOpenAI(moderate=grumbly, intercept=intercept) as server:
        assert len(rewards(moderation(server, tmp_path, concurrency=1))) == 10
        assert max(len(body["input"]) for body in server.bodies[2:]) == 2


def test_a_key_is_in_no_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-wrong-key-of-mine")
    with FakeOpenAI(moderate=grumbly, key="right") as server:
        with pytest.raises(ServerError, match=r"not let in \(401, wrong key: .*reward\.api_key_env") as refused:
            moderation(server, tmp_path, api_key_env="MY_KEY").check()
        assert "mine" not in str(refused.value) and "mine" not in repr(vars(refused.value))
        monkeypatch.setenv("MY_KEY", "right")
        moderation(server, tmp_path, api_key_env="MY_KEY").check()


def test_a_limit_holds_for_all_starts_that_share_a_ledger(tmp_path: Path) -> None:
    with FakeOpenAI(moderate=grumbly) as server:
        shared: dict[str, Any] = {"ledger": str(tmp_path / "calls.sqlite"), "max_calls": 2, "concurrency": 1}
        rewards(moderation(server, tmp_path, **shared), TEXTS[:4])
        with pytest.raises(BudgetExceeded, match=r"reward\.max_calls=2: all made; raise it"):
            rewards(moderation(server, tmp_path, **shared))
        assert server.requests == 2
        assert len(rewards(moderation(server, tmp_path, **shared), TEXTS[:8])) == 8  # what was paid for is kept
        (estimate,) = moderation(server, tmp_path).estimates(TEXTS, TEXTS)
        assert str(estimate).startswith("3 calls of omni-moderation-latest at 127.0.0.1:")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"categories": []}, r"^categories=\[\]: is empty"),
        ({"request": {"text": "{text}"}}, r"^request: needs score"),
        ({"score": "a.b"}, r"^score: needs request"),
        ({"request": {"text": "text"}, "score": "a"}, r"^request=.*: does not show the text; put \{text\}"),
        ({"request": {"text": "{text}"}, "score": "a", "base_url": None}, r"^base_url=null: is OpenAI's"),
        (
            {"request": {"text": "{text}"}, "score": "a", "categories": ["b"]},
            r"^categories: is for /moderations",
        ),
        ({"base_url": "localhost"}, r"^base_url=localhost: not a URL"),
    ],
)
def test_settings_that_can_not_work(options: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        ModerationReward(**{"base_url": "http://localhost:1/v1", **options})


def test_a_category_that_the_server_does_not_know_is_named(tmp_path: Path) -> None:
    with FakeOpenAI(moderate=grumbly) as server:
        for name in ("grumpiness", "illicit"):
            with pytest.raises(UserError, match=rf"^categories={name}: .*there are harassment, violence"):
                moderation(server, tmp_path, categories=[name]).check()


class TestOtherServices:
    """A service with a form of its own, described by two settings."""

    def service(self, server: FakeOpenAI, folder: Path, **options: Any) -> ModerationReward:
        form = {"path": "/comments:analyze", "request": PERSPECTIVE, "score": VALUE, "key_header": "x-goog-api-key"}
        return moderation(server, folder, **{**form, **options})

    @staticmethod
    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        assert path == "/v1/comments:analyze"
        value = grumbly(body["comment"]["text"])["harassment"]
        return 200, {"attributeScores": {"TOXICITY": {"summaryScore": {"value": value, "type": "PROBABILITY"}}}}

    def test_text_and_number_have_their_places(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "the-key-of-the-service")
        with FakeOpenAI(intercept=self.answer) as server:
            assert rewards(self.service(server, tmp_path)) == pytest.approx([1 - number / 10 for number in range(10)])
            quoted = 'a "text" with {text}\n'
            rewards(self.service(server, tmp_path), [quoted])
            assert server.bodies[-1] == {**PERSPECTIVE, "comment": {"text": quoted}}
            assert server.requests == 11
            assert all(head["x-goog-api-key"] == "the-key-of-the-service" for head in server.heads)
            assert not any("authorization" in head for head in server.heads)
            assert "the-key" not in json.dumps(server.bodies)

    @pytest.mark.parametrize(
        ("content", "line"),
        [
            (b"<html>Bad gateway</html>", "a page of HTML: Bad gateway"),
            (b"", "the answer is empty"),
            ({"attributeScores": {}}, rf"nothing at {VALUE}; check reward\.score"),
            ([], rf"nothing at {VALUE}|Expected `object`"),
            ({"error": {"message": "quota", "code": 500}}, "quota"),
            (b'{"attributeScores": {"TOXICITY": {"summaryScore": {"value": NaN}}}}', "failed after 1 try"),
            (
                {"attributeScores": {"TOXICITY": {"summaryScore": {"value": 1.01}}}},
                "'1.01' at .* is no number from 0 to 1",
            ),
            ({"attributeScores": {"TOXICITY": {"summaryScore": {"value": True}}}}, "'True' at .* is no number"),
            ({"attributeScores": {"TOXICITY": {"summaryScore": {"value": "0.5"}}}}, "'0.5' at .* is no number"),
        ],
    )
    def test_an_answer_without_a_right_number_is_none(self, tmp_path: Path, content: Any, line: str) -> None:
        with FakeOpenAI(intercept=lambda path, body: (200, content)) as server:
            with pytest.raises(ServerError, match=line):
                rewards(self.service(server, tmp_path), TEXTS[:1])
            server.intercept = self.answer
            assert rewards(self.service(server, tmp_path), TEXTS[9:]) == pytest.approx([0.1])

    def test_a_list_s_entries_are_counted_from_0(self, tmp_path: Path) -> None:
        with FakeOpenAI(intercept=lambda path, body: (200, [[{"score": 0.5}, {"score": 0.25}]])) as server:
            hub = self.service(server, tmp_path, request={"inputs": "{text}"}, score="0.1.score", label="toxic")
            assert rewards(hub, TEXTS[:1]) == [0.25]


def test_what_decides_an_answer_is_the_identity_and_where_it_is_kept_is_not(tmp_path: Path) -> None:
    def digest(**options: Any) -> str:
        return ModerationReward(base_url="http://localhost:1/v1", cache=str(tmp_path), **options).digest

    plain = digest()
    assert digest(concurrency=1, max_calls=3, batch_size=1, ledger=str(tmp_path / "l"), retries=0) == plain
    others = [{"label": "toxic"}, {"reads": "both"}, {"categories": ["a"]}, {"model": "m"}, {"revision": "r"}]
    others += [{"request": {"a": "{text}"}, "score": "b"}, {"request": {"a": "{text}"}, "score": "c"}]
    assert len({plain, *(digest(**other) for other in others)}) == 1 + len(others)


@pytest.fixture
def detox(tmp_path: Path, small: Sequence[str]) -> Callable[..., list[str]]:
    """`detox(server, *words)`: a run on the tiny model whose extrinsic reward and measure are the server's."""

    def words(server: FakeOpenAI, *more: str) -> list[str]:
        node = f"{{_target_: pgsrm.reward.ModerationReward, base_url: '{server.url}', cache: {tmp_path}, "
        node += "retries: 0, batch_size: 4}"
        own = [
            f"task.extrinsic={node}",
            "task.measures={gold: ${task.extrinsic}}",
            "reward=sparse",
            "task=sentiment_control",
        ]
        own += ["evaluation.prompts=2", "evaluation.continuations=1", "evaluation.text=null", "task.max_new_tokens=4"]
        own += ["task.min_new_tokens=null", "ppo.episodes=8"]
        return [
            *small,
            *(f"~{word.partition('=')[0]}" for word in own[:2]),
            *(f"+{word}" for word in own[:2]),
            *own[2:],
            *more,
        ]

    return words


def test_a_run_whose_server_goes_away_resumes_to_the_same_numbers(
    tmp_path: Path, detox: Callable[..., list[str]]
) -> None:
    """As extrinsic reward and as measure. Wrong version: a lost call is a reward of 0 or 1, and the run goes on."""
    with FakeOpenAI(moderate=grumbly) as server:
        whole = pgsrm.train(*detox(server), f"paths.outputs={tmp_path / 'whole'}", progress=False)
        assert whole.evaluations["eval/train_gold"].between(0, 1).all()
        for path in tmp_path.glob("moderations.sqlite*"):
            path.unlink()
        until = 0

        def goes_away(path: str, body: dict[str, Any]) -> tuple[int, Any] | None:
            return None if server.requests <= until else (503, {"error": {"message": "down"}})

        server.intercept = goes_away
        words = [*detox(server), f"paths.outputs={tmp_path / 'cut'}"]
        for calls in (3, 1, 1):  # the first update, the second one, its evaluation: each has an outage
            until = server.requests + calls
            with pytest.raises(UserError, match="server's error 503: down"):
                pgsrm.train(*words, progress=False)
        server.intercept = None
        cut = pgsrm.train(*words, progress=False)
    columns = [name for name in whole.metrics if not name.startswith("moderation/") and not is_measured(name)]
    assert cut.metrics[columns].equals(whole.metrics[columns])
    same = [name for name in whole.evaluations if name.startswith("eval/")]
    assert cut.evaluations[same].equals(whole.evaluations[same])


def test_options_of_the_way_are_no_part_of_a_run_in_any_place(tmp_path: Path, detox: Callable[..., list[str]]) -> None:
    with FakeOpenAI(moderate=grumbly) as server:
        first = plan_words(*detox(server))
        assert (
            plan_words(*detox(server, "task.extrinsic.batch_size=2", "+task.extrinsic.max_calls=9")).identity
            == first.identity
        )
        assert plan_words(*detox(server, "+task.extrinsic.label=toxic")).identity != first.identity
        chosen = ["task=color", "reward=moderation", f"reward.base_url={server.url}", f"reward.cache={tmp_path}"]
        assert plan_words(*chosen, f"paths.outputs={tmp_path}").config["reward"]["ledger"].startswith(str(tmp_path))


def test_the_adapter_of_the_docs_is_a_reward(tmp_path: Path, small: Sequence[str]) -> None:
    """As docs/moderation.md writes it, in a folder of the user's own."""
    page = (ROOT / "docs/moderation.md").read_text(encoding="utf-8")
    (adapter,) = re.findall(r"```yaml\n(defaults:\n.*?)```", page, re.DOTALL)
    (tmp_path / "mine/reward").mkdir(parents=True)
    (tmp_path / "mine/reward/perspective.yaml").write_text(adapter)
    with FakeOpenAI(intercept=TestOtherServices.answer) as server:
        words = ["task=color", "reward=perspective", f"reward.base_url={server.url}", f"reward.cache={tmp_path}"]
        reward = pgsrm.build_reward(f"--config-dir={tmp_path / 'mine'}", *small, *words)
        reward.check([])
        assert server.bodies == [
            {
                "comment": {"text": "Good morning."},
                "languages": ["en"],
                "requestedAttributes": {"TOXICITY": {}},
                "doNotStore": True,
            }
        ]
