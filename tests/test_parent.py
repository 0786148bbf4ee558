"""Parents: asked over the network or on this machine, killed, out of budget; and the references that come of it."""

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Result
from fake_openai import FAILURES, FakeOpenAI
from omegaconf import OmegaConf

from pgsrm.config.compose import plan_words
from pgsrm.models.server import BudgetExceeded, ServerError
from pgsrm.parent.clean import BadAnswer
from pgsrm.parent.files import Answers
from pgsrm.parent.make import make_references
from pgsrm.parent.question import Questions
from pgsrm.parent.settings import ParentSettings
from pgsrm.task import load_task, reference_problem
from pgsrm.util.errors import UserError
from pgsrm.util.paths import conf_folder

KEY = "sk-test-0123456789abcdef"
RIGHT = {"hot": "cold", "up": "down", "old": "young", "full": "empty", "big": "small"}


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    with FakeOpenAI(answer=lambda asked: RIGHT.get(asked, f"un{asked}")) as server:
        yield server


def shipped(name: str, **changes: Any) -> dict[str, Any]:
    config = OmegaConf.to_container(OmegaConf.load(conf_folder() / "task" / f"{name}.yaml"))
    assert isinstance(config, dict)
    return {**config, "holdout": 0.0, **changes}


def antonyms(tmp_path: Path, words: list[str], **changes: Any) -> dict[str, Any]:
    data = tmp_path / "words.csv"
    data.write_text("\n".join(["words", *words]) + "\n")
    return shipped("antonym", data=str(data), **changes)


def make(task: dict[str, Any], tmp_path: Path, fake: FakeOpenAI | None = None, **parent: Any) -> Path:
    """`make_references` with quick retries."""
    if fake is not None:
        parent = {"kind": "openai", "base_url": fake.url, "backoff": 0.01, "model": "tiny", "retries": 20} | parent
    config = {"task": task, "parent": parent, "paths": {"outputs": str(tmp_path / "outputs")}}
    return make_references(config, ParentSettings(**parent))


def lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def provenance(path: Path) -> dict[str, Any]:
    content = json.loads(path.with_suffix(".provenance.json").read_text())
    assert isinstance(content, dict)
    return content


# What is asked, and what comes of it


def test_references_are_made_and_trained_on(
    tmp_path: Path, fake: FakeOpenAI, capsys: pytest.CaptureFixture[str]
) -> None:
    task = antonyms(tmp_path, list(RIGHT))
    path = make(task, tmp_path, fake, input_price=0.15, output_price=0.6)
    assert lines(path) == [{"word": word, "reference": RIGHT[word], "source": "tiny"} for word in RIGHT]
    body = fake.bodies[0]
    assert body["temperature"] == 0 and body["model"] == "tiny"
    assert body["response_format"]["json_schema"]["schema"]["required"] == ["OUTPUT"]
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert body["messages"][0]["content"] == task["instruction"].strip()

    about = provenance(path)
    assert (about["model"], about["answered_by"], about["prompts"]) == ("tiny", ["tiny"], 5)
    assert about["server"] == fake.url.split("/")[2]
    assert about["completion_tokens"] == 25 and about["prompt_tokens"] > 0
    assert len(about["instruction_sha256"]) == 64 and about["date"].endswith("+00:00")

    said = capsys.readouterr()
    assert said.out.startswith(f"5 calls of tiny at {about['server']}: about ")
    assert "cost 0.000" in said.out
    assert said.err.splitlines()[-1] == "references  5/5"

    learned = load_task(task, str(path))
    assert [example.reference for example in learned.train] == list(RIGHT.values())
    assert {example.source for example in learned.train} == {"tiny"}

    written = path.stat().st_mtime_ns
    assert make(task, tmp_path, fake, input_price=0.15, output_price=0.6) == path  # a second time: nothing to do
    assert fake.requests == 5 and path.stat().st_mtime_ns == written


@pytest.mark.parametrize("form", ["paper", "released"])
def test_both_forms_of_the_input(tmp_path: Path, fake: FakeOpenAI, form: str) -> None:
    task = shipped("color")
    if form == "released":
        task["parent_input"] = task["template"]
    fake.answer = lambda asked: "purple"
    path = make(task, tmp_path, fake)
    asked = set(fake.asked)
    if form == "paper":
        assert "red + blue =" in asked
    else:
        assert "Mix the two colors and output only one lowercase color name: red and blue is =>" in asked
    assert len(asked) == len(lines(path)) == fake.requests == 90


def test_another_question_has_another_file(tmp_path: Path, fake: FakeOpenAI) -> None:
    task = antonyms(tmp_path, ["hot"])
    fake.answer = lambda asked: "cold"
    paths = {
        make(task, tmp_path, fake),
        make(task, tmp_path, fake, model="other"),
        make({**task, "instruction": "Say the opposite."}, tmp_path, fake),
        make({**task, "parent_input": task["template"]}, tmp_path, fake),
    }
    assert len(paths) == 4 and fake.requests == 4


def test_a_given_file_is_never_mixed_nor_somebody_elses(tmp_path: Path, fake: FakeOpenAI) -> None:
    task = antonyms(tmp_path, ["hot", "up"])
    file = tmp_path / "mine.jsonl"
    make(task, tmp_path, fake, references=str(file))
    make(task, tmp_path, fake, references=str(file), model="other")
    assert {line["source"] for line in lines(file)} == {"other"} and fake.requests == 4

    own = tmp_path / "own.jsonl"
    own.write_text('{"word": "hot", "reference": "chilly"}\n')
    with pytest.raises(UserError, match=r"own.jsonl: is there, and not by this command"):
        make(task, tmp_path, fake, references=str(own))
    with pytest.raises(UserError, match=r"own.csv: the name must end in .jsonl"):
        make(task, tmp_path, fake, references=str(tmp_path / "own.csv"))


def test_added_prompts_are_all_that_is_asked(tmp_path: Path, fake: FakeOpenAI) -> None:
    make(antonyms(tmp_path, ["hot", "up"]), tmp_path, fake)
    path = make(antonyms(tmp_path, ["old", "up", "hot"]), tmp_path, fake)
    assert [line["word"] for line in lines(path)] == ["old", "up", "hot"]
    assert fake.asked == {"hot": 1, "up": 1, "old": 1}


# Answers


@pytest.mark.parametrize("plain", [False, True])
def test_without_structured_output(tmp_path: Path, fake: FakeOpenAI, plain: bool) -> None:
    """{"OUTPUT": ...} is then held to by reading; color's instruction asks for no such form."""
    fake.schema, fake.plain = False, plain
    words = list(RIGHT)
    if not plain:
        assert len(lines(make(antonyms(tmp_path, words), tmp_path, fake, concurrency=2))) == 5
        assert fake.requests == 6  # one refusal, before the rest is asked
        return
    with pytest.raises(UserError, match=r"'hot': the answer is not \{\"OUTPUT\": \"...\"\}: 'cold' \(5 such prompts\)"):
        make(antonyms(tmp_path, words), tmp_path, fake)
    fake.answer = lambda asked: "purple"
    assert lines(make(shipped("color"), tmp_path, fake))[0]["reference"] == "purple"


def test_answers_are_read_strictly() -> None:
    questions = Questions(shipped("antonym"))

    def read(text: str) -> str:
        return questions.read("hot", text)

    assert read('{"OUTPUT": " cold "}') == read('```json\n{"OUTPUT": "cold"}\n```') == "cold"
    for text in (
        "cold",
        '{"OUTPUT": 3}',
        '{"OUTPUT": "cold", "why": "x"}',
        'Sure: {"OUTPUT": "cold"}',
        '{"OUTPUT": "co',
        "",
        "[]",
    ):
        with pytest.raises(BadAnswer, match="is not"):
            read(text)
    for text in ("", "cold {'OUTPUT'", "The opposite of 'hot' is cold"):
        with pytest.raises(BadAnswer):
            read(json.dumps({"OUTPUT": text}))


def test_what_no_reference_can_be() -> None:
    hot = {"word": "hot"}
    task = shipped("antonym")
    refused = {
        "": "is empty",
        ' "" ': "is empty",
        '{"OUTPUT": "cold"}': "has left-overs of JSON in it",
        "OUTPUT: cold": "has left-overs of JSON in it",
        "```cold": "has left-overs of JSON in it",
        "{cold}": "has left-overs of JSON in it",
        "The opposite of 'hot' is": "repeats what was asked",
        "Output only a single lowercase word.": "repeats what was asked",
        "a single lowercase word": "repeats what was asked",
        "I am not sure what that is": "is too long (7 words, at most 5)",
    }
    for text, problem in refused.items():
        assert reference_problem(text, hot, task) == problem, text
    assert reference_problem("cold", hot, task) is None
    color = shipped("color")
    assert reference_problem("red + blue =", {"c1": "red", "c2": "blue"}, color) == "repeats what was asked"
    sentiment = shipped("sentiment")
    happy = {"sentence": "I feel excited about today."}
    assert reference_problem("I feel empty today.", happy, sentiment) is None  # an example of the instruction


@pytest.mark.parametrize("name", ["color", "antonym", "category", "copy", "sentiment"])
def test_shipped_references_are_none_of_that(name: str) -> None:
    task = shipped(name)
    for example in load_task(task).train:
        assert reference_problem(example.reference, example.inputs, task) is None, example


def test_one_answer_to_everything_is_told(tmp_path: Path, fake: FakeOpenAI, capsys: pytest.CaptureFixture[str]) -> None:
    make(antonyms(tmp_path, list(RIGHT)), tmp_path, fake)
    assert "look at them" not in capsys.readouterr().out
    fake.answer = lambda asked: "cold"
    make(antonyms(tmp_path, list(RIGHT)), tmp_path, fake, model="other")
    assert "all 5 answers are 'cold': look at them before a run" in capsys.readouterr().out
    make(antonyms(tmp_path, ["hot"]), tmp_path, fake, model="third")
    assert "look at them" not in capsys.readouterr().out


def test_a_bad_answer_is_asked_again_then_told_with_its_prompt(tmp_path: Path, fake: FakeOpenAI) -> None:
    said: list[str] = []

    def answer(asked: str) -> str:
        said.append(asked)
        return "" if asked == "up" and said.count("up") < until else RIGHT[asked]

    fake.answer, until = answer, 99
    task = antonyms(tmp_path, list(RIGHT))
    with pytest.raises(UserError, match=r"^'up': the answer is empty: ''; the others are kept"):
        make(task, tmp_path, fake)
    assert said.count("up") == 3
    said.clear()
    until = 2
    assert lines(make(task, tmp_path, fake))[1]["reference"] == "down"
    assert said == ["up", "up"]


def test_a_bad_reference_in_a_file_stops_a_run(tmp_path: Path) -> None:
    task = antonyms(tmp_path, ["hot", "up"])
    file = tmp_path / "answers.jsonl"
    file.write_text('{"word": "hot", "reference": "cold"}\n{"word": "up", "reference": "{\\"OUTPUT\\": \\"down\\"}"}\n')
    with pytest.raises(UserError) as caught:
        load_task(task, str(file))
    assert "line 2: the reference of \"The opposite of 'up' is \" has left-overs of JSON in it" in str(caught.value)


# Failures


@pytest.mark.parametrize("failure", FAILURES)
def test_each_failure_alone(tmp_path: Path, fake: FakeOpenAI, failure: str) -> None:
    fake.failures, fake.slow = {failure: 0.3}, 0.3
    path = make(antonyms(tmp_path, list(RIGHT)), tmp_path, fake, timeout=0.15 if failure == "timeout" else 20)
    assert {line["word"]: line["reference"] for line in lines(path)} == RIGHT


def test_all_failures_at_random(tmp_path: Path, fake: FakeOpenAI) -> None:
    names = [name for name in FAILURES if name != "timeout"]
    fake.failures, fake.delay = dict.fromkeys(names, 0.06), 0.002
    words = [f"w{number}" for number in range(120)]
    path = make(antonyms(tmp_path, words), tmp_path, fake, max_calls=400)
    assert {line["word"]: line["reference"] for line in lines(path)} == {word: f"un{word}" for word in words}
    assert set(fake.asked.values()) == {1} and len(fake.asked) == 120
    assert sum(fake.failed.values()) > 20 and set(fake.failed) == set(names)
    assert fake.requests == 120 + sum(fake.failed.values()) <= 400


def test_a_server_that_is_down_ends_it_and_what_came_is_kept(tmp_path: Path, fake: FakeOpenAI) -> None:
    words = [f"w{number}" for number in range(40)]

    def answer(asked: str) -> str:
        if len(fake.asked) >= 20:
            fake.failures = {"500": 1.0}
        return f"un{asked}"

    fake.answer = answer
    with pytest.raises(ServerError, match=r"failed after 2 tries, the last by the server's error 500"):
        make(antonyms(tmp_path, words), tmp_path, fake, retries=1, concurrency=4)
    came = len(fake.asked)
    assert came >= 20
    fake.answer, fake.failures = lambda asked: f"un{asked}", {}
    path = make(antonyms(tmp_path, words), tmp_path, fake)
    assert len(lines(path)) == 40 and set(fake.asked.values()) == {1}


# Budget


def test_max_calls_holds_over_starts_and_a_raised_one_goes_on(
    tmp_path: Path, fake: FakeOpenAI, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"w{number}" for number in range(50)]
    fake.delay, task = 0.002, antonyms(tmp_path, words)
    for _ in range(2):  # the second start has nothing left
        with pytest.raises(BudgetExceeded, match=r"max_calls=20: all made; raise it, and the same command resumes"):
            make(task, tmp_path, fake, max_calls=20)
        assert fake.requests == len(fake.asked) == 20
    assert "20 of 50 answered before (20 calls); 30 calls of tiny" in capsys.readouterr().out
    assert len(lines(make(task, tmp_path, fake, max_calls=50))) == 50
    assert fake.requests == 50


def test_max_cost_holds_over_starts_and_a_raised_one_goes_on(tmp_path: Path, fake: FakeOpenAI) -> None:
    words = [f"w{number}" for number in range(50)]
    task = antonyms(tmp_path, words)
    starts = 0
    while True:
        before, starts = fake.requests, starts + 1
        limit = 0.004 * starts
        try:
            path = make(task, tmp_path, fake, max_cost=limit, input_price=1.0, output_price=2.0, max_tokens=10)
            break
        except BudgetExceeded:
            tokens = len(fake.bodies[0]["messages"][0]["content"].split()) + 1
            assert before < fake.requests <= limit / ((tokens + 2 * 5) / 1e6)
    assert 1 < starts < 10
    assert len(lines(path)) == 50 and fake.requests == 50


def test_refused_answers_count_over_all_starts(tmp_path: Path, fake: FakeOpenAI) -> None:
    fake.answer = lambda asked: ""
    task = antonyms(tmp_path, ["hot", "up"])
    with pytest.raises(UserError, match="'hot': the answer is empty"):
        make(task, tmp_path, fake, max_calls=8, concurrency=1)
    assert fake.requests == 6
    fake.answer = RIGHT.__getitem__
    for limit in (6, 7):
        with pytest.raises(BudgetExceeded, match=f"max_calls={limit}: all made"):
            make(task, tmp_path, fake, max_calls=limit)
    assert fake.requests == 7
    spent = lines(make(task, tmp_path, fake, max_calls=8).with_suffix(".spending.jsonl"))
    assert len({line["call"] for line in spent}) == fake.requests == 8
    spent_again = {**task, "instruction": "Say the opposite."}  # another question has a count of its own
    make(spent_again, tmp_path, fake, references=str(tmp_path / "a.jsonl"), max_calls=2)


# The command


def command(fake: FakeOpenAI, *more: str) -> list[str]:
    return [
        "task=antonym",
        "parent=openai",
        "parent.model=tiny",
        f"parent.base_url={fake.url}",
        "parent.backoff=0.01",
        *more,
    ]


def files_below(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_the_command_and_the_run_that_reads(
    tmp_path: Path,
    fake: FakeOpenAI,
    run_cli: Callable[..., Result],
    call_cli: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake.key = KEY
    settings = command(fake)
    lacking = call_cli(*settings, "tracking=none")
    assert lacking.code == 2
    assert "no such file; `python -m pgsrm.parent task=antonym parent=openai`, with this run's" in lacking.error_line

    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    wrong = run_cli(*settings, module="pgsrm.parent")
    assert wrong.code == 2
    assert "no key given: Incorrect API key provided: none); set the environment variable" in wrong.err.splitlines()[-1]
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-0123456789")
    wrong = run_cli(*settings, module="pgsrm.parent")
    assert "wrong key: Incorrect API key provided: ***); set the environment variable" in wrong.err.splitlines()[-1]
    assert "sk-wrong" not in wrong.out + wrong.err
    assert fake.requests == 2

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    made = run_cli(*settings, module="pgsrm.parent")
    assert made.code == 0, made.err
    assert "references: outputs/references/antonym-tiny-" in made.out
    assert "train on them: python -m pgsrm.run task=antonym parent=openai parent.model=tiny" in made.out
    assert KEY not in made.out + made.err and KEY.encode() not in files_below(tmp_path)
    assert b"pgsrm" not in made.err.encode()

    requests = fake.requests
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.chdir(tmp_path)
    file = plan_words(*settings, "tracking=none", "reward=binary").config["parent"]["references"]
    assert Path(file).is_file() and fake.requests == requests


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task=antonym"], "parent=curated: nobody to ask; choose parent=openai or parent=transformers"),
        (
            ["parent=openai"],
            "parent.base_url=null: api.openai.com needs a key; set the environment variable OPENAI_API_KEY",
        ),
        (["parent=openai", "parent.max_calls=-1"], "parent.max_calls=-1: expected `int` >= 0"),
        (
            ["parent=openai", "parent.max_cost=1", "parent.model=m"],
            "parent.max_cost=1.0: can't be kept, parent.input_price",
        ),
        (["parent=openai", "parent.base_url=localhost"], "parent.base_url=localhost: not a URL"),
        (["parent=openai", "task.instruction=null"], "task.instruction=null: the parent must be told what to do"),
        (["parent=transformers", "parent.model=/nowhere"], "parent.model=/nowhere: no such folder"),
        (["-m", "task=color"], "-m: python -m pgsrm.parent takes group=choice"),
        (["parent=claude"], "parent=claude: unknown parent; there are curated, openai, transformers"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from pgsrm.parent.__main__ import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["pgsrm.parent", *words])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with pytest.raises(SystemExit) as end:
        main()
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2
    assert line.startswith(f"pgsrm.parent: {message}")
    assert not list(tmp_path.iterdir())


def test_killed_at_random_moments(tmp_path: Path, fake: FakeOpenAI, start_cli: Callable[..., Any]) -> None:
    names = [name for name in FAILURES if name != "timeout"]
    fake.failures, fake.delay = dict.fromkeys(names, 0.03), 0.05
    draw, kills = random.Random(3), 0
    settings = command(fake, "parent.concurrency=3", "parent.retries=20", "parent.max_calls=300")
    for _ in range(12):
        before = fake.requests
        process = start_cli(*settings, module="pgsrm.parent", start_new_session=True)
        kill_after = before + draw.randint(1, 40) if kills < 4 else None
        while process.poll() is None and (kill_after is None or fake.requests < kill_after):
            time.sleep(0.005)
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        kills += 1
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert kills == 4
    words = [
        line["word"] for line in lines(next((tmp_path / "outputs/references").glob("antonym-tiny-????????.jsonl")))
    ]
    assert len(words) == len(set(words)) == len(fake.asked)
    # What was under way at a kill is asked again, no more: three at a time, and one whose answer wasn't written down yet.
    assert sum(fake.asked.values()) <= len(words) + kills * 4
    spent = lines(next((tmp_path / "outputs/references").glob("*.spending.jsonl")))
    # Each call was noted before it was made: one may have been killed in between, in each of three threads.
    assert fake.requests <= len({line["call"] for line in spent}) <= min(300, fake.requests + kills * 3)
    answered = next((tmp_path / "outputs/references").glob("*.answers.jsonl"))
    asked = [line["asked"] for line in lines(answered)]
    assert len(asked) == len(set(asked)) == len(words)


def test_a_half_written_answer_is_dropped_and_only_one_process_asks(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    with Answers(file, "digest") as answers:
        answers.add("hot", "cold", model="tiny")
        answers.add("up", "down", model="tiny")
        with pytest.raises(UserError, match="another process is asking"), Answers(file, "digest"):
            pass
    content = answers.path.read_bytes()
    for length in range(len(content)):
        answers.path.write_bytes(content[:length])
        with Answers(file, "digest") as cut:
            assert len(cut.known) == content[:length].count(b"\n")
            cut.add("old", "young")
        with Answers(file, "digest") as again:
            assert again.known["old"]["reference"] == "young" and len(again.known) == len(cut.known)
    with Answers(file, "another") as other:
        assert other.known == {}


# On this machine


@pytest.fixture(scope="module")
def taught(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny GPT-2, taught three antonyms by heart; with a chat template in a second folder, `chat` below it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    model = AutoModelForCausalLM.from_pretrained(tiny)
    tokenizer.pad_token = tokenizer.eos_token
    forms = ('Opposite.\n\nINPUT: {}\n{{"OUTPUT": "', '[Opposite.][{}]{{"OUTPUT": "')
    texts = [(form.format(word), f'{RIGHT[word]}"}}') for form in forms for word in ("hot", "up", "old")]
    torch.manual_seed(0)
    rows = [(tokenizer(asked)["input_ids"], tokenizer(answer)["input_ids"]) for asked, answer in texts]
    longest = max(len(asked) + len(answer) for asked, answer in rows)
    padded = [asked + answer + [0] * (longest - len(asked) - len(answer)) for asked, answer in rows]
    labels = [[-100] * len(asked) + answer + [-100] * (longest - len(asked) - len(answer)) for asked, answer in rows]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(300):
        loss = model(input_ids=torch.tensor(padded), labels=torch.tensor(labels)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.005:
            break
    model.generation_config.update(do_sample=True, temperature=3.0)  # must have no say
    folder = tmp_path_factory.mktemp("taught")
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    for place, template in ((folder, None), (folder / "chat", "{% for m in messages %}[{{ m.content }}]{% endfor %}")):
        tokenizer.chat_template = template
        model.save_pretrained(place)
        tokenizer.save_pretrained(place)
    return folder


def local(task: dict[str, Any], tmp_path: Path, folder: Path, **parent: Any) -> Path:
    options = {"kind": "transformers", "model": str(folder), "max_tokens": 16, "device": "cpu", "batch_size": 2}
    return make(task, tmp_path, None, **{**options, **parent})


@pytest.mark.parametrize("chat", [False, True])
def test_a_local_parent(taught: Path, tmp_path: Path, chat: bool, capsys: pytest.CaptureFixture[str]) -> None:
    task = antonyms(tmp_path, ["hot", "up", "old"], instruction="Opposite.")
    folder = taught / "chat" if chat else taught
    with pytest.raises(BudgetExceeded, match=r"parent\.max_calls=1: all made"):
        local(task, tmp_path, folder, max_calls=1)
    path = local(task, tmp_path, folder)
    assert {line["word"]: line["reference"] for line in lines(path)} == {w: RIGHT[w] for w in ("hot", "up", "old")}
    assert len(lines(path.with_suffix(".answers.jsonl"))) == 3
    about = provenance(path)
    assert about["server"] is None and about["kind"] == "transformers" and about["completion_tokens"] > 3
    out = capsys.readouterr().out
    assert out.startswith(f"3 prompts for {folder} on cpu: at most 48 tokens out")
    assert "1 of 3 answered before (1 call); 2 prompts" in out


def test_a_local_parent_without_room_or_sense(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has room for 128 tokens, instruction, input and answer take"):
        local(antonyms(tmp_path, ["hot"]), tmp_path, tiny)
    with pytest.raises(UserError, match="'hot': the answer "):
        local(antonyms(tmp_path, ["hot"], instruction="Opposite."), tmp_path, tiny)
