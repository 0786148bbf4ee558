"""What a parent's answer is taken for: whole, without what models and servers put around it, or refused with its prompt."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_openai import FakeOpenAI
from test_parent import antonyms, lines, make, shipped

from pgsrm.parent.clean import BadAnswer
from pgsrm.parent.files import Answers
from pgsrm.parent.question import Questions
from pgsrm.task import reference_problem
from pgsrm.util.errors import UserError

FORM = '{"OUTPUT": "cold"}'


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    with FakeOpenAI(answer=lambda asked: "cold") as server:
        yield server


def read(text: str) -> str:
    """As antonym's answer, which has a form."""
    return Questions(shipped("antonym")).read("hot", text)


def read_plain(text: str, tmp_path: Path, asked: str = "red + blue =", **changes: Any) -> str:
    """As color's answer, which has none."""
    return Questions(shipped("color", **changes)).read(asked, text)


# Whole


@pytest.mark.parametrize("finish", ["content_filter", "error", "tool_calls", "unknown", None])
@pytest.mark.parametrize("form", [True, False])
def test_only_an_answer_that_ended_by_itself_is_taken(
    tmp_path: Path, fake: FakeOpenAI, finish: str | None, form: bool
) -> None:
    fake.finish, fake.answer = finish, lambda asked: "purp"
    fake.schema, fake.plain = form, not form
    task = antonyms(tmp_path, ["hot"], instruction="Opposite." + ' {"OUTPUT": "..."}' * form)
    with pytest.raises(UserError) as caught:
        make(task, tmp_path, fake)
    reason = "none" if finish is None else f"'{finish}'"
    assert f"'hot': the answer may not be whole, its finish_reason is {reason} and not 'stop'" in str(caught.value)
    assert not list((tmp_path / "outputs/references").glob("words-tiny-????????.jsonl"))
    fake.finish = "stop"
    assert lines(make(task, tmp_path, fake))[0]["reference"] == "purp"


def test_a_cut_off_answer_names_the_limit(tmp_path: Path, fake: FakeOpenAI) -> None:
    fake.finish = "length"
    with pytest.raises(UserError, match=r"'hot': the answer is cut off by parent\.max_tokens"):
        make(antonyms(tmp_path, ["hot"]), tmp_path, fake)


# Stripped


AROUND = [
    "<think></think>{}",
    "<think>\n\n</think>\n\n{}",
    "<think>Is it cold? </think> {}",
    "<THINKING>a<think>b</think>c</thinking>{}",
    "The beginning of this thought was in the prompt.</think>\n{}",
    "[THINK]x[/THINK]{}",
    "◁think▷x◁/think▷{}",
    "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>{}<|return|>",
    "{}<|im_end|>",
    "{}<|im_end|>\n<|endoftext|>",
    "{}</s>",
    "{}<eos>",
    "<s> [INST] [/INST] {} </s>",
    "[/INST] {}",
    "{}<end_of_turn>\n",
    "{}<｜end▁of▁sentence｜>",
    "<|im_start|>assistant\n{}<|im_end|>",
    "<|start_header_id|>assistant<|end_header_id|>\n\n{}<|eot_id|>",
    "<start_of_turn>model\n{}<end_of_turn>",
    "assistant\n\n{}",
    "\ufeff{}",
    "\u200b{}\u200b\u2060",
    "```\n{}\n```",
    "```json\n{}\n```",
]


@pytest.mark.parametrize("around", AROUND)
def test_what_is_around_an_answer_is_stripped(around: str, tmp_path: Path) -> None:
    assert read(around.replace("{}", FORM)) == "cold"
    assert read_plain(around.replace("{}", "purple"), tmp_path) == "purple"
    if not around.startswith("```"):
        assert read(json.dumps({"OUTPUT": around.replace("{}", "cold")})) == "cold"


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("**purple**", "purple"),
        ("**purple**.", "purple."),
        ("*purple*", "purple"),
        ("***purple***", "purple"),
        ("`purple`", "purple"),
        ('"purple"', "purple"),
        ("'purple'", "purple"),
        ("“purple”", "purple"),
        ("«purple»", "purple"),
        ('**"purple"**', "purple"),
        ("```purple```", "purple"),
        ("```text\npurple\n```", "purple"),
        ("~~~\npurple\n~~~", "purple"),
        ("# purple", "purple"),
        ("* purple", "purple"),
        ("<b>purple</b>", "purple"),
        ("\\boxed{purple}", "purple"),
        ('"caf\\u00e9"', "café"),
        ("cafe\u0301", "café"),
        ("pur\u200bple", "purple"),
        ("pur\u00adple", "purple"),
        ("pur\u200dple", "purple"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("👩\u200d🚀", "👩\u200d🚀"),
        ("don't", "don't"),
        ("'don't'", "don't"),
        ("'tis", "'tis"),
        ("-5", "-5"),
        ("5 * 3", "5 * 3"),
        ("blue-green", "blue-green"),
        ("light_blue", "light_blue"),
        ("I can't sleep", "I can't sleep"),
        ("sure", "sure"),
        ("<think/>purple", "purple"),
        ("<p>purple</p>", "purple"),
        ("5 - 3", "5 - 3"),
        ("5' 3\"", "5' 3\""),
        ("a < b > c", "a < b > c"),
    ],
)
def test_marks_around_a_word(text: str, reference: str, tmp_path: Path) -> None:
    assert read_plain(text, tmp_path) == reference
    assert read_plain(reference, tmp_path) == reference
    assert read(json.dumps({"OUTPUT": text})) == reference


@pytest.mark.parametrize("text", ["7", "-0.5", "true", "false", "null", '"7"', "1e3", "1234567890" * 600])
def test_plain_answers_that_are_json_by_chance(text: str, tmp_path: Path) -> None:
    assert read_plain(text, tmp_path) == text.strip('"')
    with pytest.raises(BadAnswer, match=r"is not \{"):
        read(text)


@pytest.mark.parametrize("sentence", ["Say **this** now", 'He said "no"', "<|im_end|> ends a turn", "`code`"])
def test_the_prompts_own_marks_stay(sentence: str, tmp_path: Path) -> None:
    data = tmp_path / "own.jsonl"
    data.write_text(json.dumps({"sentence": sentence}) + "\n")
    questions = Questions(shipped("copy", data=str(data)))
    (asked,) = questions.asked
    if (
        "<|" in sentence
    ):  # in front of all else: a special token of the answer and none of the sentence can't be told apart
        assert reference_problem(sentence, {"sentence": sentence}, shipped("copy")) is None
        return
    assert questions.read(asked, json.dumps({"OUTPUT": sentence})) == sentence


# Refused


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("<think>red and blue make", "is a thought that does not end"),
        ("purple<think>", "is a thought that does not end"),
        ("<think>a</think>purple<think>b", "is a thought that does not end"),
        ("<think>a</think>", "is empty"),
        ("<|im_end|>", "is empty"),
        ("** **", "has"),
        ("purple<|im_end|>\n<|im_start|>user\nmore", r"has <\|im_end\|> in it"),
        ("pur</s>ple", "has </s> in it"),
        ("<0x0A>x purple", ""),
        ("**purple** and", "has markdown in it"),
        ("**purple", "has markdown in it"),
        ("__purple__", "has markdown in it"),
        ("The answer is purple.", "has words around it"),
        ("*purple", "has markdown in it"),
        ("purple*", "has markdown in it"),
        ("<b>purple", "has a tag in it"),
        ("purple</answer>", "has a tag in it"),
        ("“purple", "has half a pair of quotes in it"),
        ("- purple", "has a list's mark in it"),
        ("1. purple", "has a list's mark in it"),
        ("purple\\n", "has an escaped character in it"),
        ("assistant: purple", "has a role in it"),
        ("purple\nuser", "has a role in it"),
        ("purple\n\nExplanation: both", "has several lines"),
        ("...", "has no word in it"),
        ("Answer: purple", "has words around it"),
        ("**Answer:** purple", "has markdown in it"),
        ("Sure! purple", "has words around it"),
        ("I'm sorry, but I can't help.", "has words around it"),
        ("pur\ufffdple", r"has the character U\+FFFD in it"),
        ("pur\x00ple", r"has the character U\+0000 in it"),
        ("pur\ud83dple", "has half of a character in it"),
        ('["purple"]', "has left-overs of JSON in it"),
        ('{"OUTPUT": "pur\\ud83d"}', "has half of a character in it"),
        ('{"OUTPUT": "purple", "OUTPUT": "red"}', "is not"),
        ('{"answer": "purple"}', "is not"),
        ('{"OUTPUT": 7}', "is not"),
        ("[" * 100_000, "is not|too long|has"),
    ],
)
def test_what_is_refused(text: str, problem: str, tmp_path: Path) -> None:
    if problem == "":
        assert read_plain(text, tmp_path) == "x purple"  # a token of one byte, here a line's end in front
        return
    if text.startswith("[[["):
        with pytest.raises(BadAnswer):
            read(text)
        return
    with pytest.raises(BadAnswer, match=problem):
        read_plain(text, tmp_path)
    if not text.startswith(("{", "[")):
        with pytest.raises(BadAnswer, match=problem):
            read(json.dumps({"OUTPUT": text}))


def test_half_a_character_from_a_server_stops_at_its_prompt(tmp_path: Path, fake: FakeOpenAI) -> None:
    """Both as JSON in JSON, and in the protocol's own."""
    fake.answer = lambda asked: "co\ud83dld" if asked == "hot" else "down"
    for schema in (True, False):
        fake.schema, fake.plain = schema, not schema
        with pytest.raises(
            UserError, match=r"^'hot': the answer has half of a character in it: 'co\ufffdld'; the others"
        ):
            make(antonyms(tmp_path, ["hot", "up"], instruction="Opposite." + "OUTPUT" * schema), tmp_path, fake)


def test_a_run_refuses_references_with_such_left_overs() -> None:
    task, hot = shipped("antonym"), {"word": "hot"}
    assert reference_problem("cold<|im_end|>", hot, task) == "has <|im_end|> in it"
    assert reference_problem("<think>hm</think>", hot, task) == "has <think> in it"
    assert reference_problem("co\ufffd", hot, task) == "has the character U+FFFD in it"
    assert reference_problem("x<y", hot, task) is None


def test_answers_kept_under_other_rules_are_asked_again(tmp_path: Path, fake: FakeOpenAI) -> None:
    task = antonyms(tmp_path, ["hot", "up"])
    path = make(task, tmp_path, fake)
    assert fake.requests == 2
    digest = lines(path.with_suffix(".answers.jsonl"))[0]["digest"]
    with Answers(path, digest) as answers:
        more = {"model": "tiny", "prompt_tokens": 1, "completion_tokens": 1}
        answers.add("hot", "<think></think>cold", **more)
    assert [line["reference"] for line in lines(make(task, tmp_path, fake))] == ["cold", "cold"]
    assert fake.requests == 3
