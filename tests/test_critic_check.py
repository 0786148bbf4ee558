"""`python -m pgsrm.critic`: asking about a file, and a critic's check on spans that were worked out by hand."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import exit_code
from fake_openai import FakeOpenAI

from pgsrm.critic import Critique, LexiconCritic, __main__
from pgsrm.critic.ask import ask, summary
from pgsrm.critic.check import ALL, ANY, check, compare, habits, kappa
from pgsrm.critic.marked import Marked
from pgsrm.rollout import Span
from pgsrm.util.errors import UserError
from pgsrm.util.numbers import counted, significant

GOOD, BAD = "positive", "negative"
Command = Callable[..., tuple[int, str, str]]


def critique(text: str, *marks: tuple[int, int, str], **more: Any) -> Critique:
    return Critique.of_spans([Span(*mark) for mark in marks], text)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`python -m pgsrm.critic` in this process: exit code, standard output, standard error."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["pgsrm.critic", *words])
        code = exit_code(__main__.main)
        written = capsys.readouterr()
        return code, written.out, written.err

    return call


# Numbers


def test_seconds_and_costs_are_written_for_people() -> None:
    shown = [significant(value, 2) for value in (0.0, 0.0312, 4.56, 88.2, 99.6, 120, 4877.3)]
    assert shown == ["0", "0.031", "4.6", "88", "100", "120", "4,877"]


TEXT = "a good, good film"  # "good" at 2 and at 8
OURS = [critique(TEXT, (2, 6, GOOD), (8, 17, GOOD)), critique(TEXT), critique(TEXT, (2, 6, BAD))]
THEIRS = [critique(TEXT, (2, 6, GOOD), (8, 12, GOOD)), critique(TEXT), critique(TEXT, (2, 6, GOOD))]


def test_precision_recall_and_f1_by_span_and_by_character() -> None:
    table = compare(OURS, THEIRS)
    assert list(table) == [BAD, GOOD, ALL, ANY]
    # text 1: one of two spans; 8 of our 13 characters, all 8 of theirs. Text 2: nobody marks. Text 3: the other label.
    assert table[ALL]["spans"]["mean"] == pytest.approx({"precision": 0.5, "recall": 0.5, "f1": 0.5})
    f1 = 2 * 8 / (13 + 8)
    assert table[ALL]["characters"]["mean"] == pytest.approx(
        {"precision": (8 / 13 + 1 + 0) / 3, "recall": 2 / 3, "f1": (f1 + 1) / 3}
    )
    assert table[ALL]["spans"]["pooled"] == pytest.approx({"precision": 1 / 3, "recall": 1 / 3, "f1": 1 / 3})
    assert table[ANY]["characters"]["pooled"] == pytest.approx({"precision": 12 / 17, "recall": 1, "f1": 24 / 29})
    assert table[GOOD]["spans"]["pooled"] == pytest.approx({"precision": 1 / 2, "recall": 1 / 3, "f1": 2 / 5})
    # their side has no negative mark: text 3 counts 0, the two others 1
    assert table[BAD]["spans"]["mean"]["f1"] == pytest.approx(2 / 3)
    assert table[BAD]["spans"]["pooled"] == {"precision": 0, "recall": 0, "f1": 0}
    assert compare(OURS[1:2], THEIRS[1:2])[ALL]["spans"]["pooled"]["f1"] is None


def test_kappa_over_characters() -> None:
    texts = [Marked("ab cd", line=1)]
    ours, theirs = [critique("ab cd", (0, 2, GOOD))], [critique("ab cd", (0, 1, GOOD), (4, 5, BAD))]
    # agree on a, b is ours alone, d theirs; chance (2·1 + 3·3) / 25
    assert kappa(texts, ours, theirs) == pytest.approx((3 / 5 - 11 / 25) / (1 - 11 / 25))
    assert kappa(texts, [critique("ab cd")], [critique("ab cd")]) is None


def test_habits() -> None:
    texts = [Marked(TEXT, rating=2.0), Marked("dull", rating=-2.0), Marked("an odd, odd film of the year", rating=1.0)]
    critiques = [
        Critique((Span(2, 6, GOOD), Span(8, 12, GOOD)), "parsed", "", quotes=3, lost=1),
        Critique((Span(0, 4, BAD),), "parsed", "", quotes=1),
        Critique((), "unparsed", "I can't"),
    ]
    side = habits(texts, critiques)
    assert side["outcomes"] == pytest.approx({"parsed": 2 / 3, "clean": 0, "unparsed": 1 / 3})
    assert (side["spans"], side["lost"], side["twice"], side["covering"]) == pytest.approx((1, 1 / 4, 2 / 3, 1 / 3))
    # middles 4 and 10 of 17 characters, 2 of 4: the second and twice the third fifth
    assert side["places"] == pytest.approx([0, 1 / 3, 2 / 3, 0, 0])
    # marks - ratings: (2, 2), (-1, -2), (0, 1): means 1/3 and 1/3, as ranks the same order
    assert side["rating"] == pytest.approx({"texts": 3, "pearson": (17 / 3) / (14 / 3 * 26 / 3) ** 0.5, "spearman": 1})
    # marks per word 1/2, 1, 0 and words 4, 1, 7
    assert side["length"] == pytest.approx(-3 / (0.5 * 18) ** 0.5)
    nothing = habits([Marked("a"), Marked("b")], [Critique((), "clean")] * 2)
    assert (nothing["lost"], nothing["length"], nothing["places"][0], nothing["rating"]["pearson"]) == (None,) * 4


def test_one_side_alone_has_habits_and_no_agreement() -> None:
    result = check([Marked(TEXT)], {"mine": OURS[:1]})
    assert "agreement" not in result and list(result["habits"]) == ["mine"]


# Asking


class Counting(LexiconCritic):
    """A word list that keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def __call__(self, *, responses: Sequence[str], **others: Any) -> list[Critique]:
        self.asked += responses
        return super().__call__(responses=responses, **others)


def test_asking_resumes_where_a_kill_cut_the_file_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [Marked(f"a wonderful film, part {number}", "How?", rating=float(number)) for number in range(5)]
    texts += [Marked("a boring film"), texts[0]]
    out = tmp_path / "out.jsonl"
    whole = ask(Counting(), texts, out, "me", size=2)
    content = out.read_bytes()
    assert len(content.splitlines()) == 6  # equal texts are asked about once
    assert [text.critique.spans for text in whole if text.critique] == [(Span(2, 11, GOOD),)] * 5 + [
        (Span(2, 8, BAD),),
        (Span(2, 11, GOOD),),
    ]
    out.write_bytes(content[: content.index(b"part 2") + 3])
    again = Counting()
    assert ask(again, texts, out, "me", size=2) == whole
    assert again.asked == [f"a wonderful film, part {number}" for number in (2, 3, 4)] + ["a boring film"]
    assert out.read_bytes() == content
    assert "2 of 6 texts were asked about before; 4 to ask about" in capsys.readouterr().out
    assert summary(whole) == (
        "7 texts: 7 parsed, 0 clean, 0 unparsed; 0 of 7 quotes not in their text; 1.00 spans a text"
    )
    with pytest.raises(UserError, match=r"out=.*: line 1 is of another critic"):
        ask(again, texts, out, "another", size=2)


def test_one_text_is_no_texts() -> None:
    critique = Critique((Span(2, 11, GOOD),), "parsed", quotes=2, lost=1)
    one = Marked("a wonderful film", "How?", critique=critique)
    assert summary([one]) == "1 text: 1 parsed, 0 clean, 0 unparsed; 1 of 2 quotes not in their text; 1.00 spans a text"
    assert check([one], {"lexicon": [critique]})["title"] == "critic=lexicon, 1 text"
    assert [counted(0, "run"), counted("1", "call"), counted("1,234", "call")] == ["0 runs", "1 call", "1,234 calls"]


@pytest.mark.parametrize("content", ['{"response": "mine"}', '{"response": "mine"}\n', "mine\n"])
def test_another_programs_file_is_left_as_it_is(tmp_path: Path, content: str) -> None:
    """Wrong version: a whole line without a newline at its end is taken for one that was cut off, and is removed."""
    out = tmp_path / "out.jsonl"
    out.write_text(content)
    with pytest.raises(UserError, match="line 1: not written by this command"):
        ask(Counting(), [Marked("a film")], out, "me")
    assert out.read_text() == content


def test_a_critic_that_makes_an_estimate_is_let_speak(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    critic: Any = Counting()
    critic.estimates = lambda prompts, responses: [f"{len(responses)} calls, cost 0.1"]
    ask(critic, [Marked("a film")], tmp_path / "out.jsonl", "me")
    written = capsys.readouterr()
    assert written.out == "1 calls, cost 0.1\n" and written.err == "critiques  1/1\n"


# The commands


def test_ask_and_check_from_the_command_line(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.csv").write_text("response,prompt\na wonderful film,How?\na boring end,\n")
    code, out, _ = command("ask", "data=t.csv", "out=a b/asked.jsonl", "critic=gold", "critic.flipped=1", "batch=1")
    assert code == 0 and out.splitlines()[-1] == "a b/asked.jsonl"
    lines = [json.loads(line) for line in (tmp_path / "a b/asked.jsonl").read_text().splitlines()]
    assert [line["spans"][0]["label"] for line in lines] == [BAD, GOOD]
    code, out, _ = command("check", "data=a b/asked.jsonl", "out=seen", "critic=lexicon")
    assert code == 0 and out.startswith("critic=lexicon against asked, 2 texts\n")
    result = json.loads((tmp_path / "seen/check.json").read_text())
    assert result["agreement"][ALL]["spans"]["mean"]["f1"] == 0
    assert result["agreement"][ANY]["characters"]["pooled"]["f1"] == 1
    assert (tmp_path / "seen/check.png").stat().st_size > 10_000
    monkeypatch.setattr("pgsrm.critic.check_plot.plot", lambda *_: None)  # once is enough
    other = ("against=gold", "against.dropped=1", "texts=t.csv", "critic=lexicon")
    code, out, _ = command("check", *other)
    assert (
        code == 0
        and out.splitlines()[-1] == "outputs/critic/lexicon-gold/check.json outputs/critic/lexicon-gold/check.png"
    )
    result = json.loads((tmp_path / "outputs/critic/lexicon-gold/check.json").read_text())
    assert result["habits"]["gold"]["outcomes"]["clean"] == 1 and result["cost_per_1000_texts"] is None
    assert result["seconds_per_1000_texts"] is None  # wrong version: 7,658 s, the loading of the model, for one text
    assert "seconds a thousand texts: one batch does not say" in out
    code, out, _ = command("check", *other, "batch=1")
    result = json.loads((tmp_path / "outputs/critic/lexicon-gold/check.json").read_text())
    assert 0 < result["seconds_per_1000_texts"] < 60 and " s a thousand texts" in out


def test_a_limit_that_is_raised_leaves_it_the_same_critic(command: Command, tmp_path: Path) -> None:
    """Wrong version: the file is refused as another critic's once its limit is no longer the one that it began with."""
    (tmp_path / "t.txt").write_text("dull\nnice\nslow\n")
    with FakeOpenAI(lambda asked: "Good: none\nBad: none", raw=True) as server:
        words = ["ask", "data=t.txt", "out=o.jsonl", "batch=1", "critic=openai", f"critic.base_url={server.url}"]
        words += ["critic.cache_megabytes=0", "critic.ledger=null", "critic.structured=false"]
        code, out, err = command(*words, "critic.max_calls=3")  # the first is a check of key and model
        assert code == 2 and "critic.max_calls=3: all made; raise it" in err
        assert out.startswith("3 calls of gpt-4o-mini at ") and out.count("\n") == 1
        code, out, err = command(*words, "critic.max_calls=10")
        assert code == 0 and "2 of 3 texts were asked about before; 1 call of" in out
        assert "3 texts: 0 parsed, 3 clean" in out and server.requests == 5
        code, _, err = command(*words, "critic.model=other")
        assert code == 2 and "line 1 is of another critic" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["ask", "out=o.jsonl"], "data: missing; name a file of texts"),
        (["ask", "data=t.txt"], "out: missing; name a file that ends in .jsonl"),
        (["ask", "data=t.txt", "out=o.csv"], "out=o.csv: the name must end in .jsonl"),
        (["ask", "data=t.jsonl", "out=./t.jsonl"], "out=t.jsonl: is the file that is read; name another"),
        (["ask", "data=t.txt", "out=o.jsonl", "batch=0"], "batch=0: is no number of texts; give one from 1"),
        (["ask", "data=absent.txt", "out=o.jsonl"], "data=absent.txt: cannot be read (No such file or directory)"),
        (["ask", "dat=t.txt", "data=t.txt", "out=o.jsonl"], "dat=t.txt: unknown key"),
        (["check", "critic.pth=x"], "critic.pth=x: unknown key"),
        (["check", "critic=lexicn"], "critic=lexicn: unknown critic; there are "),
        (["check", "critic=null"], "critic=null: "),
        (["check", "critic=gold", "critic.dropped=2"], "critic.dropped=2: expected `float` <= 1"),
        (["check", "critic=gold", "critic.critic.path=absent"], "critic.path=absent: can't be read"),
        (["check", "against.path=x"], "against.path=x: there is no other critic to set it for; add against=NAME"),
        (["check", "against=lexicon", "data=m.jsonl"], "data=m.jsonl: not together with against=lexicon"),
        (["check", "texts=t.txt", "-m"], "-m: python -m pgsrm.critic check takes group=choice"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(
    command: Command, tmp_path: Path, words: list[str], says: str
) -> None:
    (tmp_path / "t.txt").write_text("a film\n")
    code, _, err = command(*words)
    assert code == 2 and err.startswith(f"pgsrm.critic: {says}"), err
    assert err.count("\n") == 1 and [path.name for path in tmp_path.iterdir()] == ["t.txt"]
