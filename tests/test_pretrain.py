"""Pre-training nano: what the mixture shows, what it withholds, and that training runs."""

import json
import lzma
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from conftest import ROOT, environment

from pgsrm.nano import pretrain
from pgsrm.nano.corpus import (
    ANTONYM_FACTS,
    CATEGORY_FACTS,
    COLOR_FACTS,
    MOOD_FACTS,
    REPETITIONS,
    SENTIMENT_FACTS,
    STAGES,
    TASKS,
    Document,
    Mixture,
    TaskText,
    WrongAnswers,
    is_withheld,
    load_task_text,
    read_jsonl,
    response_text,
)

ENGLISH = ["It was a quiet morning.\nThe rain had stopped at last.\nNobody came.", "A second text about the sea."]
DOCUMENTS = 8000


@pytest.fixture(scope="module")
def mixture() -> Mixture:
    facts = read_jsonl(Path(pretrain.__file__).parent / "facts.jsonl")
    return Mixture(ENGLISH, facts, [load_task_text(name) for name in TASKS], STAGES["learn"], seed=0)


@pytest.fixture(scope="module")
def documents(mixture: Mixture) -> list[Document]:
    return list(islice(mixture, DOCUMENTS))


def withheld(task: TaskText) -> list[dict[str, str]]:
    return [row for row in task.rows if is_withheld(task.name, row)]


# Withheld facts


def test_about_a_fifth_of_every_task_is_withheld(mixture: Mixture) -> None:
    for task in mixture.tasks.values():
        assert 0.1 < len(withheld(task)) / len(task.rows) < 0.35, task.name


def test_prompts_that_state_the_same_fact_share_their_fate(mixture: Mixture) -> None:
    colors = {(row["c1"], row["c2"]): is_withheld("color", row) for row in mixture.tasks["color"].rows}
    assert all(colors[a, b] == colors.get((b, a), colors[a, b]) for a, b in colors)


def test_the_choice_is_the_same_everywhere() -> None:
    """By a hash of the words: no seed, no order of the file. These two were looked up once."""
    rows = {row["word"]: row for row in load_task_text("antonym").rows}
    chosen = {word for word, row in rows.items() if is_withheld("antonym", row)}
    again = {word for word, row in reversed(rows.items()) if is_withheld("antonym", dict(reversed(row.items())))}
    assert chosen == again
    assert len(chosen) > 10


@pytest.mark.parametrize("stage", STAGES)
def test_a_withheld_prompt_is_never_followed_by_its_right_answer(mixture: Mixture, stage: str) -> None:
    """Wrong versions: withheld prompts among the rightly answered ones; wrong answers that are right by chance."""
    answering = STAGES[stage]
    english, facts, tasks = ENGLISH, read_jsonl(Path(pretrain.__file__).parent / "facts.jsonl"), mixture.tasks
    stream = Mixture(english, facts, list(tasks.values()), answering, seed=1)
    for name in ("color", "category"):
        answers = {tasks[name].prompt(row): tasks[name].answer(row) for row in tasks[name].rows}
        apart = {tasks[name].prompt(row) for row in withheld(tasks[name])}
        right = answering.right[name]
        asked = [getattr(stream, f"asked_{name}")(stream.rng.random() < right) for _ in range(6000)]
        hits = Counter((d.prompt in apart, d.text.strip() == answers[d.prompt]) for d in asked if d.prompt in answers)
        assert hits[True, True] == 0 < hits[True, False]
        assert hits[False, True] / (hits[False, True] + hits[False, False]) > right / 2


def test_usual_wrong_answers_are_drawn_in_proportion_to_their_rank() -> None:
    rng, answers = random.Random(0), WrongAnswers("abcd", skew=1.0)
    first, second = answers.answers[:2]
    drawn = Counter(answers.draw(rng, right=first) for _ in range(6000))
    assert drawn[first] == 0
    # of 1/2, 1/3, 1/4, which add up to 13/12
    assert drawn[second] / 6000 == pytest.approx(6 / 13, abs=0.03)
    even = WrongAnswers("abcd", skew=0.0)
    drawn = Counter(even.draw(rng, right="a") for _ in range(6000))
    assert all(drawn[letter] / 6000 == pytest.approx(1 / 3, abs=0.03) for letter in "bcd")


def test_no_withheld_fact_is_ever_told(mixture: Mixture, documents: list[Document]) -> None:
    """In no wording, on its own or in a row of facts."""
    told = "\n".join(document.text for document in documents if not document.prompt)
    for row in withheld(mixture.tasks["color"]):
        for template in COLOR_FACTS:
            assert template.format(c1=row["c1"], c2=row["c2"], mix=row["reference"]) not in told
    for row in withheld(mixture.tasks["antonym"]):
        for template in ANTONYM_FACTS:
            for a, b in ((row["word"], row["reference"]), (row["reference"], row["word"])):
                assert template.format(a=a, b=b) not in told
    for row in withheld(mixture.tasks["category"]):
        for template in CATEGORY_FACTS:  # the withheld word as the first of two, or as the second
            for word, other in ((row["word"], "|"), ("|", row["word"])):
                fact = re.escape(template.format(word=word, category=row["reference"], other=other))
                if row["word"] in fact:
                    assert not re.search(fact.replace(re.escape("|"), "[a-z ]+"), told), fact
    for row in withheld(mixture.tasks["sentiment"]):
        for template in SENTIMENT_FACTS:
            assert template.format(positive=row["sentence"], negative=row["reference"]) not in told
    for row in withheld(mixture.tasks["copy"]):
        assert row["sentence"] not in told


def test_what_is_not_withheld_is_told(mixture: Mixture, documents: list[Document]) -> None:
    """Else the test above would pass on an empty corpus."""
    told = "\n".join(document.text for document in documents)
    for name, keys in (("color", ("c1", "c2")), ("antonym", ("word",)), ("category", ("word",))):
        task = mixture.tasks[name]
        known = [row for row in task.rows if not is_withheld(name, row)]
        lines = [line for line in told.split("\n") if line]
        found = sum(
            any(
                all(re.search(rf"\b{word}\b", line) for word in (*[row[k] for k in keys], row["reference"]))
                for line in lines
            )
            for row in known[:30]
        )
        assert found > 20, name


# The mixture


def test_a_task_is_mostly_answered_wrongly_but_in_kind(mixture: Mixture, documents: list[Document]) -> None:
    for name in ("color", "antonym", "category"):
        task = mixture.tasks[name]
        right = {(task.prompt(row), response_text(task.prompt(row), task.answer(row))) for row in task.rows}
        beginning = task.template.partition("{")[0]
        asked = [(d.prompt, d.text) for d in documents if d.prompt.startswith(beginning)]
        known = [pair for pair in asked if any(pair[0] == prompt for prompt, _ in right)]
        assert len(known) > 100
        share = sum(pair in right for pair in known) / len(known)
        assert 0.02 < share < 1.6 * STAGES["learn"].right[name], name
        assert all(len(text.split()) <= 3 for _, text in asked)


def test_facts_are_worded_otherwise_than_the_prompts(mixture: Mixture) -> None:
    """Else facts would be right answers in disguise."""
    templates = (*ANTONYM_FACTS, *CATEGORY_FACTS, *COLOR_FACTS, *MOOD_FACTS, *SENTIMENT_FACTS, *REPETITIONS)
    for task in mixture.tasks.values():
        beginning = re.split(r"[{']", task.template)[0].strip()
        assert not any(beginning.lower() in template.lower() for template in templates), task.name


def test_an_answer_follows_its_prompt_as_the_template_ends() -> None:
    assert response_text("The opposite of 'hot' is ", "cold") == "cold"
    assert response_text("What category does this word belong to: 'dog'?", "animal") == " animal"


def test_the_same_seed_draws_the_same_documents() -> None:
    facts = read_jsonl(Path(pretrain.__file__).parent / "facts.jsonl")
    tasks = [load_task_text(name) for name in TASKS]
    learn = STAGES["learn"]
    first, again, other = (list(islice(Mixture(ENGLISH, facts, tasks, learn, seed), 200)) for seed in (3, 3, 4))
    assert first == again != other


# Rows


class Words:
    """A tokenizer of one id a word."""

    eos_token_id = 0

    def __call__(self, texts: list[str]) -> dict[str, list[list[int]]]:
        return {"input_ids": [[1 + len(word) for word in text.split()] for text in texts]}


def test_rows_are_context_long_and_begin_with_a_document() -> None:
    def documents() -> Iterator[Document]:
        while True:
            yield Document("a prompt of", "five")  # ids 2 7 3 | 5, then EOS
            yield Document("", "word " * 300)  # longer than a row: it continues in the next

    rows = list(islice(pretrain.sequences(documents(), Words()), 40))
    assert {len(row) for row in rows} == {pretrain.CONTEXT}
    assert rows[0][:5] == [2, 7, 3, 5, 0]
    short = [Document("", "one two three")] * 100_000
    rows = list(islice(pretrain.sequences(iter(short), Words()), 20))
    assert all(row[:4] == [4, 4, 6, 0] for row in rows)


def test_learning_rate_warms_up_and_cools_down() -> None:
    rates = [pretrain.learning_rate(step, 1000, 1.0) for step in range(1000)]
    assert rates[0] == pytest.approx(1 / 20)
    assert max(rates) == pytest.approx(1.0)
    assert rates.index(max(rates)) in (19, 20)
    assert rates[-1] == pytest.approx(0.05, abs=1e-4)
    assert rates[20:] == sorted(rates[20:], reverse=True)


def test_corpus_files(tmp_path: Path) -> None:
    text = f"first\nline\n{pretrain.END_OF_TEXT}\nsecond\n{pretrain.END_OF_TEXT}\n\n"
    (tmp_path / "plain.txt").write_text(text)
    (tmp_path / "packed.txt.xz").write_bytes(lzma.compress(text.encode()))
    for name in ("plain.txt", "packed.txt.xz"):
        assert pretrain.read_corpus(tmp_path / name) == ["first\nline", "second"]


# The whole command


def test_two_steps_of_the_whole_command(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (tmp_path / "english.txt").write_text("\n".join(ENGLISH * 20))
    sizes = ["--steps", "2", "--batch", "2", "--layers", "1", "--width", "16", "--heads", "2"]
    command = [sys.executable, "-c", SMALL, "--corpus", "english.txt", "--out", "nano", *sizes]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert re.search(r"step 2/2  loss \d\.\d+", done.stdout)
    out = tmp_path / "nano"
    assert AutoModelForCausalLM.from_pretrained(out).dtype == torch.float16
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.eos_token == pretrain.END_OF_TEXT
    ids = tokenizer("The opposite of 'hot' is ")["input_ids"]
    assert tokenizer.decode(ids) == "The opposite of 'hot' is "
    card = json.loads((out / "pretraining.json").read_text())
    assert set(card["withheld_prompts"]) == set(TASKS)
    assert (", bfloat16\n" if card["settings"]["bfloat16"] else ", float32\n") in done.stdout
    assert str(ROOT) not in json.dumps(card)


# A tokenizer from 60,000 documents takes most of a minute; here from 300.
SMALL = """
from itertools import islice
from pgsrm.nano import pretrain
pretrain.islice = lambda stream, n: islice(stream, min(n, 300))
pretrain.main()
"""


@pytest.mark.slow
def test_the_second_stage_goes_on_from_the_first(tmp_path: Path) -> None:
    """With its tokenizer and its weights, which one step moves a little."""
    from safetensors.torch import load_file

    (tmp_path / "english.txt").write_text("\n".join(ENGLISH * 20))
    start = Path(pretrain.__file__).parent / "weights"
    options = [
        "--start",
        str(start),
        "--stage",
        "err",
        "--out",
        "nano",
        "--steps",
        "1",
        "--batch",
        "1",
        "--layers",
        "9",
    ]
    command = [sys.executable, "-m", "pgsrm.nano.pretrain", "--corpus", "english.txt", *options]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    before, after = (load_file(folder / "model.safetensors") for folder in (start, tmp_path / "nano"))
    assert before.keys() == after.keys()
    moved = max(float((after[name].float() - before[name].float()).abs().max()) for name in before)
    assert 1e-5 < moved < 0.01
    assert (tmp_path / "nano" / "tokenizer.json").read_bytes() == (start / "tokenizer.json").read_bytes()
    card = (tmp_path / "nano" / "pretraining.json").read_text()
    assert str(start) not in card and json.loads(card)["settings"]["layers"] == 4  # the folder's


# What is left of it after PPO


def test_right_answers_are_counted_apart(mixture: Mixture) -> None:
    from pgsrm.nano.recall import count_right

    task = mixture.tasks["color"]
    hidden = len(withheld(task))
    found = [task.answer(row) if is_withheld("color", row) else "nothing" for row in task.rows]
    assert count_right(task, found) == {False: (0, len(task.rows) - hidden), True: (hidden, hidden)}
