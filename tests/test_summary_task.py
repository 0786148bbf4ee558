"""Summaries: ROUGE, files read as they are published, a task with references and without right answers."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

import pgsrm
from pgsrm.analysis import plot_figures
from pgsrm.record import RunFolder
from pgsrm.record.summary import end_of_run_line, summarise
from pgsrm.reward import RougeReward
from pgsrm.reward.rouge import rouge
from pgsrm.task import load_task
from pgsrm.util.errors import UserError

# response, reference, and (F1, precision, recall) of ROUGE-1, ROUGE-2 and ROUGE-L, as the package rouge-score has them
ROUGE_SCORE = [
    ("the cat sat on the mat", "the cat was on the mat", ((5 / 6,) * 3, (0.6,) * 3, (5 / 6,) * 3)),
    ("", "the cat", ((0, 0, 0),) * 3),
    ("the cat", "", ((0, 0, 0),) * 3),
    ("", "", ((0, 0, 0),) * 3),
    ("the the the the", "the cat the dog", ((0.5,) * 3, (0,) * 3, (0.5,) * 3)),
    ("one two three one two", "one two one two three", ((1,) * 3, (0.75,) * 3, (0.8,) * 3)),
    ("The CAT, sat!", "the cat sat.", ((1,) * 3,) * 3),
    ("one", "one", ((1,) * 3, (0,) * 3, (1,) * 3)),
    ("a b c d e f", "f e d c b a", ((1,) * 3, (0,) * 3, (1 / 6,) * 3)),
    ("don't stop-it", "dont stop it", ((4 / 7, 0.5, 2 / 3), (0.4, 1 / 3, 0.5), (4 / 7, 0.5, 2 / 3))),
    ("Café naïve 2024", "cafe naive 2024", ((2 / 7, 1 / 4, 1 / 3), (0,) * 3, (2 / 7, 1 / 4, 1 / 3))),
    ("Café naïve", "café naïve", ((1,) * 3,) * 3),
    ("猫が好き", "猫が好き", ((0,) * 3,) * 3),
    ("İstanbul \u212aelvin", "istanbul kelvin", ((0.4, 1 / 3, 0.5), (0,) * 3, (0.4, 1 / 3, 0.5))),
    ("x1y2 ½ ²", "x1y2 1 2 2", ((0.4, 1, 0.25), (0,) * 3, (0.4, 1, 0.25))),
    (
        "A girl lost her red kite and found it in a tree.",
        "A girl finds her lost kite in a tall tree.",
        ((16 / 22, 8 / 12, 8 / 10), (0.2, 2 / 11, 2 / 9), (14 / 22, 7 / 12, 7 / 10)),
    ),
]


@pytest.mark.parametrize(("response", "reference", "expected"), ROUGE_SCORE)
def test_rouge_is_that_of_the_package_rouge_score(response: str, reference: str, expected: Any) -> None:
    for kind, values in zip(("rouge1", "rouge2", "rougeL"), expected, strict=True):
        for measure, value in zip(("f1", "precision", "recall"), values, strict=True):
            assert rouge(response, reference, kind, measure) == pytest.approx(value, abs=1e-12), (kind, measure)  # type: ignore[arg-type]


def test_the_package_itself_where_it_is_installed() -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rouge1", "rouge2", "rougeL"])
    for response, reference, expected in ROUGE_SCORE:
        scores = scorer.score(reference, response).values()
        theirs = [(score.fmeasure, score.precision, score.recall) for score in scores]
        assert theirs == [pytest.approx(values, abs=1e-12) for values in expected]


def test_the_reward_is_rouge_times_its_scale_and_logs_it_unscaled() -> None:
    texts = {"responses": ["the cat", ""], "references": ["the dog", "the dog"]}
    assert RougeReward(scale=100)(**texts) == ([50.0, 0.0], {"rouge1": 0.25})
    assert RougeReward("rougeL", "recall")(**texts) == ([0.5, 0.0], {"rougeL_recall": 0.25})


@pytest.mark.parametrize(
    ("references", "problem"),
    [
        (["", ""], "reward=rouge: the task has no references to compare with"),
        (["a cat", ""], "reward=rouge: 1 of the prompts have no reference"),
        (["a cat", "猫が好き"], "the reference '猫が好き' has no word of a-z"),
    ],
)
def test_what_rouge_can_not_compare_with(references: Sequence[str], problem: str) -> None:
    RougeReward().check(["a cat"])
    with pytest.raises(UserError, match=problem):
        RougeReward().check(references)
    with pytest.raises(UserError, match="'cat' has less than two words"):
        RougeReward("rouge2").check(["cat"])


# Files


def _task(path: Path, **keys: Any) -> dict[str, Any]:
    return {"data": str(path), "template": "Text: {source}\nShort:", "checker": None, "max_new_tokens": 9, **keys}


def _write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_a_file_of_scitldr_is_read_as_it_is(tmp_path: Path) -> None:
    """Sentences in lists; several summaries, all of them; a column `source` that is the text; a row twice."""
    row = {"source": ["One thing. ", "", "Two."], "target": [" A.  ", "B."], "rouge_scores": [0.5], "title": "T"}
    file = _write(tmp_path / "dev.jsonl", row, {**row, "title": "U"}, {**row, "source": ["Other."], "target": ["C."]})
    task = load_task(_task(file, reference="{target}", skip=["repeated"]))
    assert [example.prompt for example in task.train] == ["Text: One thing. Two.\nShort:", "Text: Other.\nShort:"]
    assert [(example.references, example.source) for example in task.train] == [
        (("A.", "B."), "user"),
        (("C.",), "user"),
    ]
    assert task.train[0].inputs["rouge_scores"] == "[0.5]"


def test_a_file_in_the_shape_of_tldr(tmp_path: Path) -> None:
    rows = {"prompt": "POST: a\n\nTL;DR:", "label": "b"}, {"prompt": "POST: c\n\nTL;DR:", "label": "d"}
    file = _write(tmp_path / "tldr.jsonl", *rows)
    task = load_task(_task(file, template="{prompt}", reference="{label}"))
    assert [(example.prompt, example.reference) for example in task.train] == [
        ("POST: a\n\nTL;DR:", "b"),
        ("POST: c\n\nTL;DR:", "d"),
    ]


def test_a_list_in_the_column_reference(tmp_path: Path) -> None:
    rows = [{"source": ["s"], "reference": ["", "first", "second"]}, {"source": [], "reference": "x"}]
    with pytest.raises(UserError, match="line 2: `source` is empty"):
        load_task(_task(_write(tmp_path / "a.jsonl", *rows)))
    (example,) = load_task(_task(_write(tmp_path / "a.jsonl", rows[0]))).train
    assert example.references == ("first", "second")


def test_a_prompt_again_with_another_reference_is_refused(tmp_path: Path) -> None:
    file = _write(tmp_path / "a.jsonl", {"source": "s", "target": "a"}, {"source": "s", "target": "b"})
    with pytest.raises(UserError, match="line 2: the prompt of line 1 again"):
        load_task(_task(file, reference="{target}"))


def test_the_column_source_is_where_a_reference_comes_from_unless_a_template_asks_for_it(tmp_path: Path) -> None:
    file = _write(tmp_path / "a.jsonl", {"text": "t", "reference": "r", "source": "s"})
    (example,) = load_task(_task(file, template="{text}")).train
    assert (example.source, example.inputs) == ("s", {"text": "t"})
    file = _write(tmp_path / "a.jsonl", {"text": "t", "source": "s"})
    (example,) = load_task(_task(file, template="{text}", reference="{source}")).train
    assert (example.source, example.reference) == ("user", "s")


def test_long_inputs_are_cut_by_words(tmp_path: Path) -> None:
    file = _write(tmp_path / "a.jsonl", {"source": "one  two\nthree four", "target": "a b c d"})
    (example,) = load_task(_task(file, reference="{target}", max_input_words=3)).train
    assert example.prompt == "Text: one  two\nthree\nShort:" and example.reference == "a b c d"
    assert load_task(_task(file, max_input_words=4)).train[0].inputs["source"] == "one  two\nthree four"


# A run


@pytest.fixture
def common(tmp_path: Path, tiny: Path) -> Sequence[str]:
    """Overrides for two updates on ten of the shipped texts, by the tiny model."""
    lines = (ROOT / "pgsrm/task/data/summary.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "few.jsonl").write_text("\n".join(lines[:10]), encoding="utf-8")
    where = f"task.data={tmp_path / 'few.jsonl'}", f"paths.outputs={tmp_path}", f"model.path={tiny}"
    small = "ppo.batch_size=8", "ppo.episodes=16", "evaluation.every=2", "evaluation.continuations=1"
    quick = "task.max_new_tokens=6", "task.max_input_words=8", "evaluation.text=null", "tracking=none", "threads=1"
    return ("task=summary", *where, *small, *quick)


def test_a_task_with_references_and_without_right_answers_goes_through_every_room(
    tmp_path: Path, common: Sequence[str]
) -> None:
    sparse = pgsrm.train(*common, "reward=sparse", progress=False)
    assert {"reward/rouge1", "reward/extrinsic"} <= set(sparse.metrics)
    assert "eval/holdout_exact_match" not in sparse.evaluations
    last = sparse.evaluations.iloc[-1]
    assert last["eval/holdout_extrinsic"] == pytest.approx(6 * last["eval/holdout_rouge_1"], abs=1e-9)
    assert 0 <= last["eval/holdout_rouge_l"] <= last["eval/holdout_rouge_1"] and 0 <= last["eval/holdout_gold"] <= 1
    samples = [json.loads(line) for line in (sparse.folder / "samples.jsonl").read_text().splitlines()]
    assert all(sample["reference"] and "exact_match" not in sample for sample in samples)
    assert plot_figures.main(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path), "--formats", "png"]) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Summary" in page and samples[0]["reference"] in page
    assert f"gold measure {last['eval/holdout_gold']:.2f}" in end_of_run_line(summarise(RunFolder(sparse.folder)))


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("task=sentiment_control", "reward=rouge"), "reward=rouge: the task has no references"),
        (("task=summary", "reward=rouge", "reward.kind=rouge3"), "there are rouge1, rouge2, rougeL"),
        (("task=summary", "reward=sparse", "task.extrinsic.scale=0"), "reward.extrinsic.scale=0"),
        (("task=summary", "reward=binary"), "no checker"),
        (("task=summary", "reward=sparse", "task.max_input_words=0"), "task.max_input_words=0"),
        (("task=summary", "reward=sparse", "task.template=Text: {article}"), "no column `article`"),
    ],
)
def test_bad_input(call_cli: Callable[..., Any], words: Sequence[str], problem: str) -> None:
    result = call_cli(*words, "tracking=none", "dry_run=true")
    assert result.code == 2 and problem in result.error_line
