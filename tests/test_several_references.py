"""Prompts with several references: how they are read, rewarded, checked, learned from and shown."""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pgsrm
from pgsrm.algorithm.selection import Pair, against_references
from pgsrm.analysis import plot_figures
from pgsrm.embedder import WordVectors
from pgsrm.parent.mistakes import taught_by, with_mistakes
from pgsrm.reward import BinaryReward, CriticReward, RougeReward, SemanticReward, SumReward, TextMetricReward
from pgsrm.reward.check import check_reward, rewards_of
from pgsrm.reward.scorer import Scorer
from pgsrm.reward_model.pairs import over_samples
from pgsrm.rollout import Rollout
from pgsrm.task import Example, NormalizedEquality, Task, accepts, every_reference, load_task
from pgsrm.text_reward import TextReward
from pgsrm.trl import dataset_rows, reward_function
from pgsrm.util.errors import UserError

HOT = Example("hot is ", "cold", {"word": "hot"}, "user", further=("chilly", "icy"))
BIG = Example("big is ", "small", {"word": "big"}, "user")
WORDS = [{"word": "hot", "reference": ["cold", "chilly"]}, {"word": "big", "reference": "small"}]
CONFIG: dict[str, Any] = {"template": "The opposite of '{word}' is", "max_new_tokens": 2}


def written(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def task_of(path: Path, *rows: dict[str, Any], references: str | None = None, **keys: Any) -> Task:
    return load_task({**CONFIG, "data": written(path, *rows), **keys}, references)


# Reading


def test_a_list_is_several_references(tmp_path: Path) -> None:
    """Blank ones and a text that comes again do not count; one text in a list is as a text."""
    rows = [*WORDS, {"word": "old", "reference": ["", "young", " young "]}]
    hot, big, old = task_of(tmp_path / "a.jsonl", *rows).train
    assert (hot.reference, hot.references, hot.taught) == ("cold", ("cold", "chilly"), "cold")
    assert (big.references, old.references) == (("small",), ("young",))
    assert every_reference([hot, big]) == ["cold", "chilly", "small"]


def test_a_list_in_the_template_of_the_reference(tmp_path: Path) -> None:
    """One reference for each of its texts; a list that the prompt shows too is one text in both."""
    row = {"word": ["a", "b"], "answers": {"text": ["x", "y"]}, "why": ["z"]}
    template = "{answers.text} of {word} by {why}"
    (example,) = task_of(tmp_path / "a.jsonl", row, reference=template).train
    assert example.references == ("x of a b by z", "y of a b by z")


def test_a_file_of_a_parent_may_have_lists(tmp_path: Path) -> None:
    answers = written(tmp_path / "parent.jsonl", {"word": "hot", "reference": ["icy", "cool"]}, WORDS[1])
    hot, big = task_of(tmp_path / "a.jsonl", *WORDS, references=answers).train
    assert (hot.references, big.references) == (("icy", "cool"), ("small",))
    bad = written(tmp_path / "bad.jsonl", {"word": "hot", "reference": ["icy", "The opposite of 'hot' is"]}, WORDS[1])
    with pytest.raises(UserError, match=r"line 1: the reference of .* repeats what was asked"):
        task_of(tmp_path / "a.jsonl", *WORDS, references=bad)


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        ([], "`reference` is a list without a text; write one text, a list of texts, or null"),
        (["", "  "], "`reference` is a list without a text"),
        (["cold", 1], "`reference` is a list that does not have texts alone; write one text, or a list of texts"),
        ([["cold"]], "`reference` is a list that does not have texts alone"),
        ([{"text": "cold"}], "`reference` is a list that does not have texts alone"),
        (["cold", None], "`reference` is a list that does not have texts alone"),
    ],
)
def test_bad_lists(tmp_path: Path, reference: Any, problem: str) -> None:
    file, row = tmp_path / "a.jsonl", {"word": "hot", "reference": reference}
    with pytest.raises(UserError, match=r"^task.data=.*a.jsonl: line 2: ") as caught:
        task_of(file, WORDS[1], row, checker=None)
    assert problem in str(caught.value) and "\n" not in str(caught.value)
    parent = written(tmp_path / "p.jsonl", WORDS[1], row)
    with pytest.raises(UserError, match=r"^parent.references=.*p.jsonl: line 2: ") as caught:
        task_of(file, WORDS[1], {"word": "hot"}, references=parent)
    assert problem in str(caught.value)
    # who gives the parent's answers need not mend the data's own
    parent = written(tmp_path / "p.jsonl", *WORDS)
    assert task_of(file, WORDS[1], row, references=parent).train[1].references == ("cold", "chilly")
    with pytest.raises(UserError, match=r"^task.data=.*: line 1: `target` is a list"):
        task_of(file, {"word": "hot", "target": reference}, reference="{target}")


def test_two_lists_in_the_template_of_the_reference_are_refused(tmp_path: Path) -> None:
    row = {"word": "hot", "a": ["x", "y"], "b": ["x", "y"]}
    with pytest.raises(
        UserError, match=r"^task.reference='{a} {b}': in line 1 of task.data=.* a and b are lists .*; take one"
    ):
        task_of(tmp_path / "a.jsonl", row, reference="{a} {b}")


def test_the_identity_of_a_task_has_all_references(tmp_path: Path) -> None:
    """One text in a list is the task that it was; one more reference is another task."""
    one = task_of(tmp_path / "a.jsonl", {"word": "hot", "reference": "cold"}).digest
    assert one == "3abef1f9f1c95b9010432c07e58e1a7a7ab1ed95bd79bc507fff1511cc53ad66"  # since 0.2.0
    assert task_of(tmp_path / "a.jsonl", {"word": "hot", "reference": ["cold"]}).digest == one
    assert (
        len(
            {
                task_of(tmp_path / "a.jsonl", row, WORDS[1]).digest
                for row in (WORDS[0], {**WORDS[0], "reference": "cold"})
            }
        )
        == 2
    )


# Rewards


def asked(responses: Sequence[str]) -> dict[str, Any]:
    """A batch of responses to HOT, the last one to BIG."""
    examples = [HOT] * (len(responses) - 1) + [BIG]
    return {
        "prompts": [e.prompt for e in examples],
        "responses": list(responses),
        "references": [e.reference for e in examples],
        "all_references": [list(e.references) for e in examples],
        "inputs": [e.inputs for e in examples],
        "token_ids": [[0]] * len(examples),
        "offsets": [[(0, len(text))] for text in responses],
    }


@pytest.mark.parametrize(
    "reward",
    [
        SemanticReward(WordVectors()),
        SemanticReward(WordVectors(), "euclidean", "clip"),
        RougeReward(),
        TextMetricReward("levenshtein"),
    ],
    ids=["pgsrm", "euclidean", "rouge", "levenshtein"],
)
def test_the_best_of_the_references_counts(reward: Any) -> None:
    """The reward is the largest of those by each reference alone, which are exactly what they were."""
    batch = asked(["cold", "icy", "warm weather", "", "tiny"])
    one_by_one = [
        [reward(responses=[text], references=[reference])[0][0] for reference in references]
        for text, references in zip(batch["responses"], batch["all_references"], strict=True)
    ]
    rewards, metrics = reward(**batch)
    assert rewards == [max(row) for row in one_by_one]
    assert rewards[1] == max(rewards) > one_by_one[1][0]
    assert next(iter(metrics.values())) >= next(iter(reward(**{**batch, "all_references": None})[1].values()))


def test_one_reference_gives_what_it_gave_before() -> None:
    """Bit for bit: the paper's formula, row by row, with and without the keyword for several."""
    responses, references = ["cold", "warm", "zxqv", "the cold sea"], ["cold", "chilly", "icy", "small"]
    vectors = WordVectors()
    cosines = (vectors.embed(responses) * vectors.embed(references)).sum(axis=1)
    expected = ((cosines + 1) / 2).clip(0, 1) ** 4.0
    expected[2] = 0.0  # no vector
    reward = SemanticReward(vectors)
    assert reward(responses=responses, references=references)[0] == expected.tolist()
    singles = [[text] for text in references]
    assert reward(responses=responses, references=references, all_references=singles)[0] == expected.tolist()


def test_a_length_penalty_is_counted_by_each_reference() -> None:
    """A response is held against the reference by which it earns most, its length counted: here not the first."""
    reward = SemanticReward(WordVectors(), length_penalty="ratio")
    given = {"responses": ["very cold"], "references": ["cold"]}
    (one,), _ = reward(**given)
    (best,), _ = reward(**given, all_references=[["cold", "very cold"]])
    assert one < 0.5 < best == pytest.approx(1)


def test_each_reference_is_embedded_once() -> None:
    class Counting(WordVectors):
        texts: list[str] = []  # noqa: RUF012

        def embed(self, texts: Sequence[str]) -> np.ndarray:
            self.texts.extend(texts)
            return super().embed(texts)

    reward = SemanticReward(Counting())
    reward.check(every_reference([HOT, BIG]))
    for _ in range(3):
        reward(**asked(["warm", "large"]))
    assert Counting.texts == ["cold", "chilly", "icy", "small", *["warm", "large"] * 3]


def test_a_reward_within_another_gets_all_references() -> None:
    batch = asked(["icy", "small"])
    binary = BinaryReward(NormalizedEquality())
    assert binary(**batch) == [1.0, 1.0]
    assert SumReward({"a": binary})(**batch)[0] == [1.0, 1.0]
    assert CriticReward(binary, arm="sparse")(**batch)[0] == [[1.0], [1.0]]
    assert CriticReward(binary, arm="decomposed")(**asked(["chilly", "small"]))[0] == [[1.0], [1.0]]


def test_a_reward_that_knows_one_reference_gets_the_first() -> None:
    seen: list[Any] = []

    def own(*, references: Sequence[str], responses: Sequence[str], **more: Any) -> list[float]:
        seen.append((references, more.get("all_references")))
        return [0.0] * len(responses)

    rewards_of(own, [HOT, BIG], ["a", "b"])
    rewards_of(own, [BIG], ["b"])
    assert seen == [(["cold", "small"], [["cold", "chilly", "icy"], ["small"]]), (["small"], None)]


# Checkers and evaluation


def test_any_reference_is_right() -> None:
    check = NormalizedEquality()
    assert [accepts(check, text, HOT) for text in ("Icy.", "cold", "warm")] == [True, True, False]
    rollout = Rollout([HOT, BIG], [[1], [1]], [[1], [1]], ["icy", "icy"], [[(0, 3)], [(0, 3)]])
    scored = Scorer(BinaryReward(check), check, ())(rollout)
    assert scored.totals == [1.0, 0.0] and scored.metrics["reward/exact_match"] == 0.5


def test_another_answer_that_is_right_is_no_other_answer() -> None:
    """`embedder check` ranks a right answer among those of the other prompts; BIG's is one of HOT's own here."""
    hot = Example("hot is ", "cold", {"word": "hot"}, "user", further=("small",))
    assert check_reward(SemanticReward(WordVectors()), [hot, BIG]).first == 1.0


def test_a_parents_answer_among_the_right_ones_is_no_error(tmp_path: Path) -> None:
    """Training is given that answer alone. One error for one answer: a parent's file with lists is refused there."""
    file = tmp_path / "a.jsonl"
    config = {**CONFIG, "data": written(file, *WORDS)}
    answers = written(tmp_path / "p.jsonl", {"word": "hot", "reference": "chilly"}, WORDS[1])
    hot, big = taught_by(load_task(config, answers), config).train
    assert (hot.all_taught, hot.references, big.error) == (("chilly",), ("cold", "chilly"), None)
    several = load_task(config, written(tmp_path / "q.jsonl", *WORDS))
    with pytest.raises(
        UserError, match=r"^parent.right=data: parent.references has several references for .*hot.*; give"
    ):
        taught_by(several, config)


def test_an_error_on_purpose_is_none_of_the_references() -> None:
    """Of the prompts with the answers cold, chilly and icy only BIG's answer is wrong for HOT."""
    others = [Example(f"{n} is ", text, {"word": str(n)}, "user") for n, text in enumerate(("Icy", "chilly"))]
    task = Task([HOT, BIG, *others], [], NormalizedEquality(), 2, "")
    wrong = with_mistakes(task, 1.0, 0).train[0]
    assert wrong.all_taught == ("small",) and wrong.references == ("cold", "chilly", "icy")


# Learning from references


def test_the_first_reference_is_learned_and_no_other_is_rejected() -> None:
    rollout = Rollout(
        [HOT, HOT, BIG], [[1]] * 3, [[1], [2], [3]], ["icy ", "warm", "tiny"], [[(0, 3)], [(0, 4)], [(0, 4)]]
    )
    pairs = against_references(rollout, [Pair([1], [7])] * 3)
    assert [pair.rejected for pair in pairs] == [[2], [3]]
    made = over_samples([HOT], [["icy", "warm", " chilly"]], 9, random.Random(0))
    assert [(pair.chosen, pair.rejected) for pair in made] == [("cold", "warm")]


# Other trainers


def test_texts_of_other_trainers() -> None:
    score = TextReward("reward=binary", "task=antonym")
    assert score(["p", "p"], ["icy", "icy"], [["cold", "icy"], "cold"]).totals == [1.0, 0.0]
    for bad in ([], ["cold", 1]):
        with pytest.raises(UserError, match=r"^references: row 1 has \[.*; give one text, or a list of texts"):
            score(["p", "p"], ["a", "b"], ["cold", bad])  # type: ignore[list-item]
    assert score(["p"], ["icy"], [np.array(["cold", "icy"])]).totals == [1.0]  # type: ignore[list-item]  # as of a table
    for none in (None, 3, float("nan")):  # an empty cell of a table
        with pytest.raises(UserError, match=rf"^references: row 0 has {none}; give one text, or a list of texts"):
            score(["p"], ["a"], [none])  # type: ignore[list-item]


def of_one_reference(
    *, prompts: Any, references: Any, responses: Any, inputs: Any, token_ids: Any, offsets: Any
) -> list[float]:
    """A reward without a keyword for several."""
    return [0.0 for _ in responses]


def test_a_reward_of_ones_own_is_asked_about_several_when_they_come() -> None:
    """Wrong version: a traceback in the trainer's first batch that has several."""
    score = TextReward("task=antonym", reward=of_one_reference)
    assert score(["p", "p"], ["a", "b"], ["cold", "icy"]).totals == [0.0, 0.0]
    with pytest.raises(UserError, match=r"^reward\._target_=of_one_reference: can't be called with .*'all_references'"):
        score(["p"], ["a"], [["cold", "icy"]])


def test_a_column_of_lists_in_trl(tmp_path: Path) -> None:
    words = ("task=antonym", f"task.data={written(tmp_path / 'a.jsonl', *WORDS)}", "task.holdout=0")
    rows = dataset_rows(*words)
    assert [row["reference"] for row in rows] == [["cold", "chilly"], ["small"]]  # one type in the column
    function = reward_function("reward=binary", "task=antonym")
    given = {"prompts": ["p"] * 2, "completions": ["chilly", "large"], "reference": [row["reference"] for row in rows]}
    assert function(**given) == [1.0, 0.0]


# All of it


@pytest.mark.parametrize("algorithm", ["ppo", "dpo"])
def test_a_run_shows_them_as_they_are(tmp_path: Path, tiny: Path, algorithm: str) -> None:
    opposites = {"hot": ["cold", "chilly"], "old": "young", "big": ["small", "tiny"], "wet": "dry"}
    data = written(tmp_path / "a.jsonl", *({"word": word, "reference": given} for word, given in opposites.items()))
    where = f"task.data={data}", f"paths.outputs={tmp_path}", f"model.path={tiny}", f"algorithm={algorithm}"
    few = "ppo.batch_size=4", "ppo.episodes=8", "evaluation.every=2", "tracking=none", "threads=1", "task.holdout=0.25"
    run = pgsrm.train("task=antonym", *where, *few, "reward=pgsrm", "evaluation.embedder=null", progress=False)
    shown = {sample["prompt"].split("'")[1]: sample["reference"] for sample in run.samples.to_dict("records")}
    assert shown and all(opposites[word] == given for word, given in shown.items())
    assert plot_figures.main(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path), "--formats", "png"]) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert any(" | ".join(given) in page for given in opposites.values() if isinstance(given, list))


def test_bad_references_are_one_line_before_the_run(tmp_path: Path, call_cli: Callable[..., Any]) -> None:
    data = written(tmp_path / "a.jsonl", {"word": "hot", "reference": ["cold", 2]}, WORDS[1])
    result = call_cli("task=antonym", f"task.data={data}", "tracking=none", "dry_run=true")
    assert result.code == 2 and "line 1: `reference` is a list that does not have texts alone" in result.error_line
