"""Critics that are language models: what they are asked, what comes of their replies, what is kept and what it may cost."""

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from fake_openai import FAILURES, FakeOpenAI

from pgsrm.critic import LexiconCritic, LocalCritic, RemoteCritic, SelfCritic
from pgsrm.critic.instruction import Instruction
from pgsrm.critic.local import SHIPPED
from pgsrm.models.server import BudgetExceeded, ServerError
from pgsrm.reward import CriticReward, normalise
from pgsrm.rollout import Span
from pgsrm.util.errors import UserError

WORDING = {"asked": "Text: {text}", "labels": {"positive": "Good", "negative": "Bad"}}


def wording(folder: Path, **fields: Any) -> str:
    file = folder / "wording.yaml"
    file.write_text(yaml.safe_dump({**WORDING, **fields}, sort_keys=False))
    return str(file)


def critique(critic: Any, *responses: str, prompt: str = "The film is") -> list[Any]:
    return list(critic(prompts=[prompt] * len(responses), responses=responses, extrinsic=None))


def quoted(critique: Any, response: str) -> list[tuple[str, str]]:
    return [(response[span.start : span.end], span.label) for span in critique.spans]


def by_list(question: str) -> str:
    """A good critic's reply to a question in either form: the words of the shipped list."""
    text = question.rpartition("Review: ")[2].removesuffix("\nGood:")
    spans = critique(LexiconCritic(), text, prompt="")[0].spans
    if "JSON" in question:
        counted: Counter[str] = Counter()
        rows = []
        for span in spans:
            quote = text[span.start : span.end]
            counted[quote] += 1
            rows.append({"quote": quote, "occurrence": counted[quote], "label": span.label})
        return json.dumps({"spans": rows})
    words = {
        label: [text[s.start : s.end] for s in spans if s.label == label] or ["none"]
        for label in ("positive", "negative")
    }
    return f"Good: {'; '.join(words['positive'])}\nBad: {'; '.join(words['negative'])}"


class TestInstruction:
    def test_examples_stand_before_the_text_in_the_form_that_is_asked_for(self, tmp_path: Path) -> None:
        shot = {"prompt": "It is", "response": " so so", "quotes": {"negative": ["so", "so"]}}
        asked = Instruction(wording(tmp_path, instruction="Quote.", examples=[shot]))
        text = asked.question("A", "\nb {text}", None, "text")
        assert text.startswith("Quote. Answer in 2 lines")
        assert text.endswith("Text: It is so so\nGood: none\nBad: so; so\n\nText: A b {text}\n")
        assert '"occurrence": 2, "label": "negative"}]}\n\nText: A b' in asked.question("A", "\nb", None, "json")

    def test_quotes_of_the_prompt_are_right_and_mark_nothing(self, tmp_path: Path) -> None:
        both = Instruction(wording(tmp_path)).read("Good: good; good\nBad: none", "A good", "\ngood film")
        assert (both.spans, both.lost) == ((Span(1, 5, "positive"),), 0)
        apart = Instruction(wording(tmp_path, asked="{prompt} / {response}")).read(
            "Good: A\nBad: none", "A good", " film"
        )
        assert (apart.spans, apart.lost, apart.outcome) == ((), 1, "parsed")

    def test_the_extrinsic_reward_is_shown_where_it_is_asked_for(self, tmp_path: Path) -> None:
        asked = Instruction(wording(tmp_path, asked="{response} ({extrinsic})"))
        assert asked.question("A", " b", 0.12345, "text") == " b (0.123)\n"
        with pytest.raises(UserError, match=r"shows \{extrinsic\}, and this reward.arm has no extrinsic reward"):
            asked.question("A", " b", None, "text")

    def test_other_labels(self, tmp_path: Path) -> None:
        asked = Instruction(wording(tmp_path, labels={"wrong": "Unsupported", "off": "Irrelevant"}))
        read = asked.read("Unsupported: Paris\nIrrelevant: none", "", "in Paris")
        assert read.spans == (Span(3, 8, "wrong"),)
        assert asked.read("Good: Paris\nBad: none", "", "in Paris").outcome == "unparsed"

    @pytest.mark.parametrize(
        ("fields", "line"),
        [
            ({"asked": "Text:"}, "asked: has to show the response once"),
            ({"asked": "{text} {response}"}, "asked: has to show the response once"),
            ({"asked": "{text} {reply}"}, r"\{reply\} is no place; there are text, prompt"),
            ({"labels": {}}, "labels"),
            ({"shots": []}, "unknown field `shots`"),
            (
                {"examples": [{"prompt": "a", "response": "b", "quotes": {"positive": ["c"]}}]},
                "example 1: a quote is not",
            ),
            ({"examples": [{"prompt": "a", "response": "b;", "quotes": {"positive": ["b;"]}}]}, "has ';' in it"),
            (
                {"examples": [{"prompt": "a", "response": "b", "quotes": {"good": ["b"]}}]},
                "label 'good' is not in labels",
            ),
        ],
    )
    def test_a_wrong_file_is_named(self, tmp_path: Path, fields: dict[str, Any], line: str) -> None:
        with pytest.raises(UserError, match=rf"critic\.instruction=.*wording\.yaml: .*{line}"):
            Instruction(wording(tmp_path, **fields))

    def test_a_missing_file_names_the_shipped_ones(self) -> None:
        with pytest.raises(
            UserError, match=r"critic\.instruction=sentimnt: can't be read .*; name one of .*nano, sentiment"
        ):
            Instruction("sentimnt")


class TestShipped:
    TEXTS = (" a lovely and warm story.", " dull, boring and slow.", " in the house.", " good good good fun")

    def test_marks_what_the_words_say(self, tmp_path: Path) -> None:
        critic = LocalCritic(cache=str(tmp_path))
        critic.check()
        critiques = critique(critic, *self.TEXTS, self.TEXTS[0])
        assert quoted(critiques[0], self.TEXTS[0]) == quoted(critique(LexiconCritic(), self.TEXTS[0])[0], self.TEXTS[0])
        assert {label for _, label in quoted(critiques[1], self.TEXTS[1])} == {"negative"}
        assert critiques[2].outcome == "clean" and critiques[0] == critiques[4]
        assert critic.counts == {"calls": 4, "cache_hits": 0}
        # the same text behind a shorter prompt is the same question, and the span another place of the response
        (other,) = critique(critic, f" is{self.TEXTS[0]}", prompt="The film")
        assert critic.counts["calls"] == 4 and other.spans[0].start == critiques[0].spans[0].start + 3
        for said, text in zip(critiques, self.TEXTS, strict=False):
            assert said.outcome != "unparsed" and all(quote in said.reply for quote, _ in quoted(said, text))

    def test_replies_are_kept_for_other_runs_and_equal_alone_or_together(self, tmp_path: Path) -> None:
        first = critique(LocalCritic(cache=str(tmp_path / "a")), *self.TEXTS)
        again = LocalCritic(cache=str(tmp_path / "a"), batch_size=1)
        assert critique(again, *self.TEXTS) == first and again.counts == {"calls": 0, "cache_hits": 4}
        alone = LocalCritic(cache=str(tmp_path / "b"), batch_size=1)
        assert critique(alone, *self.TEXTS) == first and alone.counts["calls"] == 4

    def test_a_reply_that_is_cut_off_marks_nothing(self, tmp_path: Path) -> None:
        (cut,) = critique(LocalCritic(max_tokens=2, cache=str(tmp_path)), self.TEXTS[1])
        assert (cut.outcome, cut.spans) == ("unparsed", ())

    def test_a_wrong_path_is_named_as_the_critics(self) -> None:
        with pytest.raises(UserError, match=r"^critic\.path=/none/at/all: no such folder"):
            LocalCritic("/none/at/all").check()

    def test_the_policys_current_weights_answer_and_nothing_is_kept(self) -> None:
        from contextlib import nullcontext

        from pgsrm.models.load import load_codec, load_model
        from pgsrm.models.settings import ModelSettings

        settings = ModelSettings(path=str(SHIPPED))
        model = load_model(settings, torch.device("cpu"))
        critic = SelfCritic(weights="current", instruction="nano")
        with pytest.raises(UserError, match="there is no policy outside a run"):
            critique(critic, self.TEXTS[0])
        critic.attach(SimpleNamespace(model=model, without_dropout=nullcontext), load_codec(settings, model))
        assert quoted(critique(critic, self.TEXTS[0])[0], self.TEXTS[0])
        with torch.no_grad():
            for weight in model.parameters():
                weight.zero_()
        (after,) = critique(critic, self.TEXTS[0])
        assert (after.outcome, critic.counts) == ("unparsed", {"calls": 2, "cache_hits": 0})


def remote(server: FakeOpenAI, folder: Path, **options: Any) -> RemoteCritic:
    usual: dict[str, Any] = {"retries": 0, "backoff": 0.001, "cache": str(folder / "cache")}
    return RemoteCritic("m", server.url, **{**usual, **options})


class TestServer:
    TEXTS = tuple(f" lovely number {number}, and dull" for number in range(12))

    def test_a_schema_holds_the_reply_where_the_server_has_one(self, tmp_path: Path) -> None:
        with FakeOpenAI(by_list, raw=True) as server:
            critic = remote(server, tmp_path)
            said = critique(critic, *self.TEXTS)
            assert quoted(said[3], self.TEXTS[3]) == [("lovely", "positive"), ("dull", "negative")]
            schema = server.bodies[0]["response_format"]["json_schema"]["schema"]
            assert schema["properties"]["spans"]["items"]["properties"]["label"]["enum"] == ["positive", "negative"]
            assert critique(remote(server, tmp_path), *self.TEXTS) == said and server.requests == 12
        with FakeOpenAI(by_list, raw=True, schema=False) as server:
            assert critique(remote(server, tmp_path / "b"), *self.TEXTS)[3].spans == said[3].spans
            asked = [body["messages"][0]["content"] for body in server.bodies]
            last = next(text for text in asked if text.endswith("Review: The film is" + self.TEXTS[-1]))
            assert "JSON" in asked[0] and "JSON" not in last

    def test_a_wrong_key_is_one_line_before_any_work(self, tmp_path: Path) -> None:
        with (
            FakeOpenAI(by_list, raw=True, key="right") as server,
            pytest.raises(ServerError, match=r"critic\.api_key_env"),
        ):
            remote(server, tmp_path).check()

    def test_what_was_paid_for_is_kept_when_the_server_goes_away(self, tmp_path: Path) -> None:
        with FakeOpenAI(by_list, raw=True) as server:
            server.failures = {"500": 0.3}
            with pytest.raises(ServerError, match=r"failed after 1 try, the last by the server's error 500"):
                critique(remote(server, tmp_path), *self.TEXTS)
            server.failures = {}
            paid = set(server.asked)
            assert paid
            critic = remote(server, tmp_path)
            assert [c.outcome for c in critique(critic, *self.TEXTS)] == ["parsed"] * 12
            assert critic.counts == {"calls": 12 - len(paid), "cache_hits": len(paid)}
            assert set(server.asked.values()) == {1}

    def test_five_hundred_random_replies_reward_nothing_that_is_wrong(self, tmp_path: Path) -> None:
        """Refusals, prose, broken and cut JSON, quotes that aren't there: each is counted, and only a right quote is paid."""
        draw = random.Random(0)
        words = ["lovely", "dull", "film", "slow", "warm", "ending", "the", "and"]
        texts = [" " + " ".join(draw.choice(words) for _ in range(8)) + f" {number}" for number in range(500)]
        kinds = ("right", "absent", "beyond", "prose", "cut", "length", "label", "extra", "clean")
        kind_of = {f"The film is{text}": draw.choice(kinds) for text in texts}
        right = {"quote": "lovely", "occurrence": 1, "label": "positive"}
        replies = {
            "right": {"spans": [right]},
            "absent": {"spans": [{**right, "quote": "lovel"}, {**right, "quote": "Lovely"}]},
            "beyond": {"spans": [{**right, "occurrence": 9}]},
            "label": {"spans": [{**right, "label": "great"}]},
            "extra": {"spans": [{**right, "score": 1}]},
            "clean": {"spans": []},
            "length": {"spans": [right]},
        }

        def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
            kind = kind_of[body["messages"][0]["content"].rpartition("Review: ")[2]]
            text = json.dumps(replies[kind]) if kind in replies else "I can't help with lovely, dull films."
            text = text if kind != "cut" else json.dumps(replies["right"])[:-3]
            finish = "length" if kind == "length" else "stop"
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
            return 200, {"object": "chat.completion", "model": "m", "choices": [choice]}

        with FakeOpenAI(intercept=answer) as server:
            reward = CriticReward(
                extrinsic=lambda *, responses, **_: [0.0] * len(responses), critic=remote(server, tmp_path)
            )
            ids = [[ord(c) for c in text] for text in texts]
            offsets = [[(i, i + 1) for i in range(len(text))] for text in texts]
            batch: dict[str, Any] = {"prompts": ["The film is"] * 500, "responses": texts, "token_ids": ids}
            batch |= {"references": [""] * 500, "inputs": [{}] * 500, "offsets": offsets}
            scored = normalise(reward(**batch), ids, responses=texts)
        outcomes: Counter[str] = Counter()
        for text, rewards, note in zip(texts, scored.token_rewards, scored.annotations, strict=True):
            kind = kind_of[f"The film is{text}"]
            start = text.find("lovely")
            paid = range(start, start + 6) if kind == "right" and start >= 0 else ()
            assert [place for place, value in enumerate(rewards) if value] == list(paid), (kind, text)
            assert len(note.spans) == bool(paid)
            outcomes[
                "clean" if kind == "clean" else "parsed" if kind in ("right", "absent", "beyond") else "unparsed"
            ] += 1
        assert {name: scored.metrics[f"critic/{name}"] for name in outcomes} == {
            name: count / 500 for name, count in outcomes.items()
        }

    def test_limits_hold_for_all_starts_that_share_a_ledger(self, tmp_path: Path) -> None:
        with FakeOpenAI(by_list, raw=True) as server:
            shared = {"ledger": str(tmp_path / "spent.sqlite"), "max_calls": 5, "concurrency": 1}
            critique(remote(server, tmp_path, **shared), *self.TEXTS[:3])
            with pytest.raises(
                BudgetExceeded, match=r"critic\.max_calls=5: all made; raise it, and the same command resumes"
            ):
                critique(remote(server, tmp_path, **shared), *self.TEXTS)
            assert server.requests == 5
            # what is in the store costs nothing, also when all is spent
            critique(remote(server, tmp_path, **shared), *self.TEXTS[:5])
            tokens = {"ledger": shared["ledger"], "max_total_tokens": 2000}
            with pytest.raises(
                BudgetExceeded, match=r"critic\.max_total_tokens=2000: \d+ taken, the next call could take \d+"
            ):
                critique(remote(server, tmp_path, **tokens), *self.TEXTS)

    def test_two_processes_at_once_keep_to_one_limit(self, tmp_path: Path) -> None:
        from concurrent.futures import ThreadPoolExecutor

        with FakeOpenAI(by_list, raw=True, delay=0.002) as server:
            shared = {"ledger": str(tmp_path / "spent.sqlite"), "max_calls": 10, "concurrency": 2}
            critics = [remote(server, tmp_path / str(number), **shared) for number in range(3)]

            def ask(critic: RemoteCritic) -> bool:
                try:
                    critique(critic, *self.TEXTS)
                except BudgetExceeded:
                    return False
                return True

            with ThreadPoolExecutor(3) as pool:
                assert not any(pool.map(ask, critics))
            assert server.requests == 10

    def test_prices_and_an_estimate(self, tmp_path: Path) -> None:
        with FakeOpenAI(by_list, raw=True) as server:
            priced = remote(server, tmp_path, input_price=1.0, output_price=1.0)
            line = str(priced.estimates(["The film is"] * 12, self.TEXTS)[0])
            assert line.startswith(f"12 calls of m at {priced._server.host}: about ") and "cost 0.00" in line
            with pytest.raises(UserError, match=r"critic\.max_cost=1: can't be kept, critic\.input_price is null"):
                remote(server, tmp_path, max_cost=1)


def test_where_replies_are_kept_and_how_a_server_is_reached_is_no_part_of_a_run(tmp_path: Path) -> None:
    from pgsrm.config.compose import plan_words

    def identity(*words: str) -> str:
        places = [f"paths.outputs={tmp_path}", "dry_run=true"]
        return plan_words("task=sentiment_control", "reward=critic", *places, *words).identity

    plain = identity("critic=nano")
    assert identity("critic=nano", f"critic.cache={tmp_path}", "critic.batch_size=3", "critic.device=cpu") == plain
    assert identity("critic=nano", "critic.max_tokens=7") != plain
    copy = tmp_path / "mine.yaml"
    copy.write_bytes(Instruction("nano").content)
    assert identity("critic=nano", f"critic.instruction={copy}") == plain
    copy.write_bytes(Instruction("nano").content + b"instruction: Quote.\n")
    assert identity("critic=nano", f"critic.instruction={copy}") != plain
    assert identity("critic=lexicon") != plain


def test_what_is_spent_is_kept_in_one_place_and_a_folder_hides_no_shipped_instruction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong version: a run that resumes in another folder has spent nothing."""
    from pgsrm.config.compose import compose_words
    from pgsrm.config.plan import resolve

    monkeypatch.chdir(tmp_path)
    (tmp_path / "sentiment").mkdir()
    config, choices = compose_words(["task=sentiment_control", "reward=critic", "critic=openai"], "test")
    critic = resolve(config, choices)["critic"]
    assert critic["ledger"] == f"{tmp_path}/outputs/critic.spending.sqlite"
    assert critic["instruction"] == "sentiment"


@pytest.mark.slow
def test_a_run_that_is_killed_with_a_remote_critic_has_the_same_numbers(
    tmp_path: Path, start_cli: Callable[..., Any], resume: Callable[..., None]
) -> None:
    """SIGKILL while the server fails one request in six; a checkpoint after every update."""
    from test_run import weights, without_times

    from pgsrm.config.compose import plan_words
    from pgsrm.train import run

    def planned(server: FakeOpenAI, name: str) -> Any:
        words: Sequence[str] = [
            "task=sentiment_control",
            "reward=critic",
            "critic=openai",
            "critic.model=m",
            "threads=1",
        ]
        words = [*words, f"critic.base_url={server.url}", "critic.retries=30", "critic.backoff=0.01", "tracking=none"]
        words = [*words, "ppo.episodes=192", "checkpoint.minutes=1e-9", "evaluation.every=100", "evaluation.text=null"]
        made = plan_words(*words, f"paths.outputs={tmp_path / name}", f"critic.cache={tmp_path / name}-replies")
        made.freeze()
        return made.folder

    with FakeOpenAI(by_list, raw=True) as server:
        whole = planned(server, "whole")
        run(whole, show_progress=False)
        right = set(server.asked)
        server.asked.clear()
        server.failures, server.delay = dict.fromkeys(FAILURES, 1 / 6 / len(FAILURES)), 0.01
        server.slow = 0.05
        cut, draw = planned(server, "cut"), random.Random(5)
        for _ in range(2):
            until = server.requests + draw.randint(40, 400)
            process = start_cli(str(cut.path), "--quiet", module="pgsrm.train", start_new_session=True)
            while process.poll() is None and server.requests < until:
                time.sleep(0.002)
            assert process.poll() is None
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        run(cut, show_progress=False)
        assert sum(server.failed.values()) > 2
    assert cut.state() == "finished"
    uncounted = ("critic/calls", "critic/cache_hits")  # of an update that was cut off, some replies are there already

    def numbers(folder: Any) -> list[dict[str, Any]]:
        return [{k: v for k, v in row.items() if k not in uncounted} for row in without_times(folder)]

    assert numbers(cut) == numbers(whole)
    assert cut.samples.read_text() == whole.samples.read_text()
    assert (weights(cut) == weights(whole)).all()
    assert set(server.asked) == right
    assert sum(server.asked.values()) <= len(right) + 2 * 8  # what was under way at a kill, no more
