"""Detoxification: its data as they are, hashed word lists, what is not shown, the worst of several answers."""

import codecs
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

import pgsrm
from pgsrm.config.plan import build_evaluation
from pgsrm.critic import LexiconCritic
from pgsrm.evaluation.evaluation import worth
from pgsrm.nano.classifiers import auc, calibration
from pgsrm.nano.toxicity import profane_words, toxic_words
from pgsrm.nano.toxicity_data import Comment, pieces, read_files
from pgsrm.record.measured import is_measured
from pgsrm.reward import ClassifierReward
from pgsrm.reward_model.__main__ import _composed
from pgsrm.rollout import Span
from pgsrm.task import NormalizedEquality, load_task
from pgsrm.text_reward import TextReward
from pgsrm.util.errors import UserError
from pgsrm.util.words import WordList, hashed

RUDE = "grumbly"  # stands for what no file of this project has in clear

ROWS = [
    {"prompt": {"text": "She said that", "toxicity": 0.1}, "continuation": {"text": " all is well", "toxicity": 0.2}},
    {"prompt": {"text": "What a grumbly", "toxicity": 0.7}, "continuation": {"text": " old man", "toxicity": 0.4}},
    {"prompt": {"text": "That grumbly dog", "toxicity": 0.9}, "continuation": {"text": " again", "toxicity": None}},
    {"prompt": {"text": "", "toxicity": 0.95}, "continuation": {"text": " a", "toxicity": 0.9}},
    {"prompt": {"text": "What a grumbly", "toxicity": 0.8}, "continuation": {"text": " cat", "toxicity": 0.9}},
    {"prompt": {"text": "Without a score", "toxicity": None}, "continuation": {"text": " b", "toxicity": 0.9}},
]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """A file in the form of RealToxicityPrompts, with an empty prompt and one that stands there twice."""
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return file


def task_of(file: Path, **keys: Any) -> dict[str, Any]:
    """The config of a task on a file."""
    return {"data": str(file), "template": "{prompt.text}", "checker": None, "max_new_tokens": 3, **keys}


# The data as they are


def test_an_object_in_a_line_is_columns_and_its_scores_choose_the_rows(prompts: Path) -> None:
    keep = {"column": "prompt.toxicity", "above": 0.6, "below": None}
    with pytest.raises(
        UserError, match=r"line 4: `prompt\.text` is empty; .* leave such rows out by task\.skip=\[empty\]"
    ):
        load_task(task_of(prompts, keep=keep))
    right = {"checker": NormalizedEquality(), "reference": "{continuation.text}"}
    with pytest.raises(UserError, match=r"line 5: the prompt of line 2 again; .* task\.skip=\[repeated\]"):
        load_task(task_of(prompts, keep=keep, skip=["empty"], **right))
    answered = load_task(task_of(prompts, keep=keep, skip=["empty", "repeated"], **right))
    assert [example.reference for example in answered.train] == ["old man", "again"]
    task = load_task(task_of(prompts, keep=keep, skip=["empty", "repeated"]))
    assert [example.prompt for example in task.train] == ["What a grumbly", "That grumbly dog"]
    assert task.train[0].inputs["prompt.toxicity"] == "0.7" and task.train[0].inputs["continuation.text"] == "old man"
    # the threshold counts by the prompts that it leaves, as everything of a task's data does
    same, wider = (
        load_task(task_of(prompts, keep={**keep, "above": above}, skip=["empty", "repeated"])) for above in (0.65, 0.05)
    )
    assert same.digest == task.digest != wider.digest and len(wider.train) == 3
    below = load_task(task_of(prompts, keep={"column": "prompt.toxicity", "above": None, "below": 0.8}))
    assert [example.prompt for example in below.train] == ["She said that", "What a grumbly"]


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        (
            {"keep": {"column": "prompt.toxcity", "above": 0.6}},
            r"task\.keep\.column=prompt\.toxcity: .* mean prompt\.toxicity\?",
        ),
        (
            {"keep": {"column": "prompt.text", "above": 0}},
            r"task\.keep\.column=prompt\.text: .* line 1: 'She said that' is no number",
        ),
        ({"keep": {"column": "prompt.toxicity", "above": 2}}, r"task\.keep=.* keeps none of the 6 rows"),
        ({"template": "{prompt.txt}"}, r"no column `prompt\.txt`"),
        ({"template": "{prompt.}"}, "is not a column name"),
    ],
)
def test_what_is_wrong_with_the_rows_is_one_line(prompts: Path, keys: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        load_task(task_of(prompts, **keys))


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("task.keep={column: prompt.toxicity}", "task.keep: has neither above nor below"),
        ("task.keep={column: prompt.toxicity, over: 1}", "task.keep.over: unknown key; there are above, below, column"),
        ("task.keep={column: prompt.toxicity, above: high}", "task.keep.above=high: expected"),
        ("task.skip=[blank]", "task.skip=['blank']: not an option; there are empty, repeated"),
        ("task.mask=nowhere.txt", "task.mask=nowhere.txt: can't be read"),
    ],
)
def test_what_is_wrong_with_a_setting_is_one_line(call_cli: Callable[..., Any], word: str, problem: str) -> None:
    result = call_cli("task=detox", "reward=sparse", word, "tracking=none", "dry_run=true")
    assert result.code == 2 and problem in result.error_line


def test_a_name_that_two_ways_lead_to_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"a.b": 1, "a": {"b": 2}}\n')
    with pytest.raises(UserError, match=r"line 1: column `a\.b` appears twice"):
        load_task(task_of(tmp_path / "x.jsonl", template="{a.b}"))


def test_the_shipped_openings_are_a_task() -> None:
    lines = (ROOT / "pgsrm/task/data/detox.jsonl").read_text(encoding="utf-8").splitlines()
    shown = [WordList("offensive.txt", "k").masked(line) for line in lines]
    assert len(lines) >= 300 and shown == lines  # mild: none of them has a listed word


# Hashed lists


def test_a_list_of_hashes_marks_the_words_that_it_has_not(tmp_path: Path) -> None:
    (tmp_path / "rude.txt").write_text(f"toxic {hashed(RUDE)}\npositive lovely\n")
    assert RUDE not in (tmp_path / "rude.txt").read_text()
    critic = LexiconCritic(str(tmp_path / "rude.txt"))
    (critique,) = critic(prompts=[""], responses=["a Grumbly, grumblyish and lovely day"], extrinsic=None)
    assert critique.spans == (Span(2, 9, "toxic"), Span(26, 32, "positive"))
    (tmp_path / "half.txt").write_text("toxic #12345\n")
    with pytest.raises(UserError, match=r"critic\.path=.*half\.txt: line 1: 'toxic #12345' is no label and word"):
        LexiconCritic(str(tmp_path / "half.txt"))


@pytest.mark.parametrize("name", ["toxic.txt", "offensive.txt"])
def test_no_shipped_list_has_an_offensive_word_in_clear(name: str) -> None:
    lines = (ROOT / "pgsrm/critic" / name).read_text().splitlines()
    assert len(lines) > 200 and all(line.startswith("toxic #") and len(line) == 23 for line in lines)
    words = WordList(name, "k")
    assert words.label(codecs.decode("FGHCVQ", "rot13")) == "toxic" and words.label("table") is None


def test_a_file_here_goes_before_a_shipped_list_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(LexiconCritic("toxic.txt").labels) > 200
    (tmp_path / "toxic.txt").write_text("toxic grumbly\n")
    assert LexiconCritic("toxic.txt").labels == {"grumbly": "toxic"}


def test_a_masked_text_keeps_its_length_and_first_letters(tmp_path: Path) -> None:
    (tmp_path / "rude.txt").write_text(f"toxic {hashed(RUDE)}\n")
    text = "GRUMBLY people, un-grumbly: ça grumblé"
    masked = WordList(str(tmp_path / "rude.txt"), "k").masked(text)
    assert masked == "G****** people, un-g******: ça grumblé" and len(masked) == len(text)


def test_a_listed_word_with_an_ending_behind_an_apostrophe_is_masked(tmp_path: Path) -> None:
    """Wrong version: it is another word than the listed one, and shown in full, where a curly apostrophe hides it."""
    (tmp_path / "rude.txt").write_text(f"toxic {hashed(RUDE)}\ntoxic o'grumbles\n")
    masked = WordList(str(tmp_path / "rude.txt"), "k").masked
    assert masked("A grumbly's, grumbly’s and rock'n'grumbly day") == "A g******'s, g******’s and rock'n'g****** day"
    assert masked("O'Grumbles don't") == "O********* don't"


class Quoting:
    """A reward of one's own whose messages quote texts: it pays 1 for those that it would not show as they are."""

    masked: Callable[[str], str] = str

    def mask_messages(self, masked: Callable[[str], str]) -> None:
        self.masked = masked

    def __call__(self, *, responses: Sequence[str], **_: Any) -> list[float]:
        return [float(self.masked(text) != text) for text in responses]


def test_rewards_and_measures_quote_texts_as_samples_show_them(tmp_path: Path) -> None:
    """In a run, an evaluation again, somebody else's trainer, and the command that orders pairs by a reward."""
    (tmp_path / "rude.txt").write_text(f"toxic {hashed(RUDE)}\n")
    target = f"{__name__}.Quoting"
    parts = "reward=sum", f"+reward.parts.mine._target_={target}", f"+evaluation.measures.mine._target_={target}"
    words = "task=antonym", f"task.mask={tmp_path / 'rude.txt'}", *parts
    asked = {"prompts": [""], "responses": [RUDE], "references": ["x"]}
    composed = _composed(words, "pairs")
    measures = build_evaluation(composed.settings).measures
    given = {"inputs": [{}], "token_ids": [[1]], "offsets": [[(0, len(RUDE))]]}
    assert pgsrm.build_reward(*words)(**asked, **given)[0] == [1]
    assert TextReward(*words)(**asked).totals == [1]
    assert composed.labels("reward")([composed.task.train[0]], [RUDE]) == [1]
    assert measures["mine"](**asked) == [1]


# A run


def test_a_run_shows_no_listed_word_unless_asked(tmp_path: Path, tiny: Path, prompts: Path) -> None:
    """Spans, offsets and rewards are those of the text; wrong version: the reward reads what is shown."""
    (tmp_path / "rude.txt").write_text(f"toxic {hashed(RUDE)}\n" + "".join(f"toxic {letter}\n" for letter in "aeiou"))
    data = f"task.data={prompts}", "task.template='{prompt.text}'", "task.skip=[empty,repeated]", "task.holdout=0"
    sizes = "ppo.batch_size=8", "ppo.episodes=16", "evaluation.text=null", "threads=1", "tracking=none"
    measures = "task.measures.toxicity=null", "task.measures.gold=null", "evaluation.continuations=3"
    critic = "reward=critic", "critic=lexicon", f"critic.path={tmp_path / 'rude.txt'}", "reward.values={toxic: -0.5}"
    words = ["task=detox", *data, *sizes, *measures, *critic, f"model.path={tiny}", f"paths.outputs={tmp_path}"]
    shown, hidden = (
        pgsrm.train(*words, f"task.mask={mask}", progress=False) for mask in ("null", tmp_path / "rude.txt")
    )
    assert shown.folder != hidden.folder
    columns = [name for name in shown.metrics if not is_measured(name)]
    assert shown.metrics[columns].equals(hidden.metrics[columns])
    clear, masked = shown.samples.to_dict("records"), hidden.samples.to_dict("records")
    prompts_shown = {row["prompt"] for row in masked}
    assert (
        "What a grumbly" in {row["prompt"] for row in clear}
        and RUDE not in (hidden.folder / "samples.jsonl").read_text()
    )
    assert {"What a g******", "That g****** dog"} & prompts_shown
    for before, after in zip(clear, masked, strict=True):
        assert len(before["response"]) == len(after["response"])
        assert (before["annotations"], before["offsets"]) == (after["annotations"], after["offsets"])
    last = hidden.evaluations.iloc[-1]
    assert 0 <= last["eval/train_extrinsic"] <= last["eval/train_extrinsic_max"] <= 1
    assert {"eval/train_extrinsic_any", "eval/train_extrinsic_share"} <= set(hidden.evaluations)


def test_expected_maximum_by_hand() -> None:
    """Two prompts, three answers each. Wrong version: the largest of all, or answers of other prompts together."""

    class Measure:
        threshold = 0.5

    totals = [0.1, 0.6, 0.2, 0.3, 0.5, 0.4]
    values = dict(worth(Measure(), totals, 3))
    assert values == {"": pytest.approx(0.35), "_max": pytest.approx(0.55), "_share": 1 / 6, "_any": 1 / 2}
    assert set(dict(worth(object(), totals, 3))) == {"", "_max"}


# How lists and classifiers were made


def test_pieces_of_a_comment_are_judged_by_what_they_say() -> None:
    text = " ".join(["word"] * 15) + " you grumbly old  grumbly man there"
    places = [(text.index(RUDE), text.index(RUDE) + 7), (text.rindex(RUDE), text.rindex(RUDE) + 7)]
    assert pieces([Comment(text, places)]) == [
        (" ".join(["word"] * 15), False),
        ("you grumbly old grumbly man there", True),
        ("you old man there", False),
    ]


def test_words_that_people_mark() -> None:
    rude, plain = Comment("Grumbly man", [(0, 7)]), Comment("grumbly weather", [(8, 15)])
    assert toxic_words([rude, rude, plain]) == {"grumbly"}  # two of three times; weather and man are too rare
    assert toxic_words([rude, plain, plain]) == set()  # one of three times
    assert toxic_words([rude, rude, plain], least=1) == {"grumbly", "weather"}
    assert toxic_words([Comment(f"{'x' * 40} grumbly", [(0, 48)])] * 3) == set()  # a whole sentence
    texts = [("a grumbly b", True)] * 3 + [("a b", True)] + [("a", False)] * 4
    assert profane_words(texts) == {"b"}  # grumbly is in too few


def test_files_in_two_halves(tmp_path: Path, prompts: Path) -> None:
    scored = [{part: {"profanity": None, **row[part]} for part in ("prompt", "continuation")} for row in ROWS]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in scored), encoding="utf-8")
    (tmp_path / "spans.csv").write_text('spans,text\n"[0, 1]",ab c\n[],nothing marked\n', encoding="utf-8")
    halves = read_files([prompts, tmp_path / "spans.csv"])
    sentences = sorted(halves["A"].sentences + halves["B"].sentences)
    assert ("That grumbly dog", True) in sentences and (" all is well", False) in sentences
    assert " old man" not in dict(sentences) and " again" not in dict(sentences)  # neither clear nor known
    assert halves["A"].comments + halves["B"].comments == [Comment("ab c", [(0, 2)])]
    prompts.write_text('{"text": "x"}\n')
    with pytest.raises(
        UserError, match=r"line 1: .*missing required field `prompt`; give RealToxicityPrompts' own file"
    ):
        read_files([prompts])


class Fixed:
    """A classifier whose log-odds are the text."""

    labels = ("civil", "toxic")
    digest = ""

    def logits(self, texts: Sequence[str]) -> Any:
        return np.array([[0.0, float(text)] for text in texts])


def test_auc_and_calibration_by_hand() -> None:
    texts = [("1", True), ("0", True), ("0", False), ("-1", False)]
    assert auc(Fixed(), texts) == pytest.approx(3.5 / 4)  # type: ignore[arg-type]
    rows = calibration(Fixed(), texts, (0, 0.4, 1))  # type: ignore[arg-type]
    (whole,) = calibration(Fixed(), texts, (0, 1), share=0.2)  # type: ignore[arg-type]
    assert whole == (4, pytest.approx(0.2 * (0.7310586 + 0.5) / 2 + 0.8 * (0.5 + 0.2689414) / 2), pytest.approx(0.2))
    assert rows == [
        (1, pytest.approx(1 / (1 + np.e)), 0.0),
        (3, pytest.approx((0.7310586 + 1) / 3), pytest.approx(2 / 3)),
    ]


@pytest.mark.parametrize("name", ["toxicity", "toxicity_gold"])
def test_the_shipped_classifiers_know_civil_from_rude(name: str) -> None:
    toxicity = ClassifierReward(name, label="toxic", value="probability")
    rude = f"you are a {codecs.decode('fghcvq vqvbg', 'rot13')} and a liar"
    mild = "and then we went home and had some tea"
    civil = ClassifierReward(name, label="civil", value="probability")
    said, (tea, kind) = (
        toxicity(prompts=["", ""], responses=[rude, mild]),
        civil(prompts=["", ""], responses=[mild, rude]),
    )
    assert said[0] > 0.5 > 0.15 > said[1] and tea == pytest.approx(1 - said[1]) and kind < 0.5
