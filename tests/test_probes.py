"""`python -m pgsrm.reward probe`: what each probe is made of, which rewards fail which, the tables."""

import csv
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import exit_code

import pgsrm
from pgsrm.reward import __main__ as command
from pgsrm.reward.best_of import Best, Favourite, best_of
from pgsrm.reward.best_of import table as best_of_table
from pgsrm.reward.probe_plot import plot
from pgsrm.reward.probes import (
    CONTROLS,
    PROBES,
    Answers,
    Result,
    another_fact,
    half,
    markdown,
    negated,
    probe,
    roles_swapped,
    summary,
    verdict,
    with_opposite,
)
from pgsrm.task import Example, NormalizedEquality, Task
from pgsrm.util.errors import UserError

OPPOSITES = {"cold": "hot", "hot": "cold", "lost": "found"}


EQUAL = NormalizedEquality()


def _task(*rows: tuple[str, str], checker: Any = EQUAL) -> Task:
    """Prompts (word, reference), all of them to train on."""
    examples = [Example(f"The opposite of '{word}' is", answer, {"word": word}, "user") for word, answer in rows]
    return Task(examples, [], checker, 2, "")


WORDS = _task(("hot", "cold"), ("big", "small"), ("up", "down"))


def _by_name(result: Result) -> dict[str, Any]:
    return {probed.name: probed for probed in result.probes}


# What is made of a reference


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cold", "not cold"),
        ("never", "not never"),
        ("I am sad.", "I am not sad."),
        ("I'm sad.", "I'm not sad."),
        ("I am not sad.", "I am sad."),
        ("I can't sleep.", "I can sleep."),
        ("I don't like it.", "I like it."),
        ("I lost my ring.", "I never lost my ring."),
        ("The dog barks.", "It is not true that the dog barks."),
        ("Anna sings.", "It is not true that Anna sings."),
    ],
)
def test_a_negation_more_or_less(text: str, expected: str) -> None:
    assert negated(text) == expected


def test_opposites_keep_capitals_and_points() -> None:
    assert with_opposite("cold", OPPOSITES) == "hot"
    assert with_opposite("Cold days. I lost.", OPPOSITES) == "Hot days. I lost."
    assert with_opposite("I lost.", OPPOSITES) == "I found."
    assert with_opposite("pink", OPPOSITES) is None


def test_half_of_the_words_or_of_the_letters() -> None:
    assert (half("I lost my ring."), half("a b c"), half("cold"), half("red"), half("a")) == (
        "I lost",
        "a",
        "co",
        "re",
        None,
    )


def test_each_probe() -> None:
    example = Example("The opposite of 'hot' is", "cold", {"word": "hot", "note": "unused"}, "user")
    answers = Answers(("cold", "small"), OPPOSITES)
    made = {name: make(example, answers) for name, make in {**PROBES, **CONTROLS}.items()}
    assert made == {
        "negated": "not cold",
        "a word's opposite": "hot",
        "the input": "hot",
        "the whole prompt": "The opposite of 'hot' is",
        "another prompt's answer": "small",
        "all answers joined": "cold small",
        "said twice": "cold cold",
        "padded with words": "cold and so on",
        "padded with nonsense": "cold zxqv zxqv",
        "words reversed": None,
        "roles swapped": None,
        "a number or name changed": None,
        "half of it": "co",
        "a letter added": "coldx",
        "a control character": "\x80 cold",
        "in markup": "<b>cold",
        "empty": "",
        "capitals": "COLD",
        "a full stop": "cold.",
        "in quotes": "\"cold'",
    }
    sentence = Example("Copy: I lost my ring.", "I lost my ring.", {"sentence": "I lost my ring."}, "user")
    assert PROBES["words reversed"](sentence, answers) == "ring my lost I"
    assert PROBES["a letter added"](sentence, answers) == "I lost my ringx."
    assert CONTROLS["a full stop"](sentence, answers) == "I lost my ring."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat sat on the bed.", "The bed sat on the cat."),
        ("My boss rejected my report.", "My report rejected my boss."),
        ("I gave her a flower.", None),  # "her" has no noun of its own
        ("The cat saw the cat.", None),
        ("cold", None),
    ],
)
def test_roles_are_swapped(text: str, expected: str | None) -> None:
    assert roles_swapped(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The store closes at nine.", "The store closes at ten."),
        ("Twelve men came.", "One men came."),
        ("We are 9.", "We are 10."),
        ("We eat fish on Sunday.", "We eat fish on Monday."),
        ("I saw Anna, I think.", "I saw Peter, I think."),
        ("I saw Peter.", "I saw Mary."),
        ("Nobody came.", None),
        ("I think I know.", None),
    ],
)
def test_a_number_or_name_is_changed(text: str, expected: str | None) -> None:
    assert another_fact(text) == expected


# The best of many samples


def test_the_best_of_n_by_hand() -> None:
    """Eight samples to one prompt, a reward that likes length, and a second reward that likes "c". Ties: the first drawn."""

    def length(*, responses: Sequence[str], **_: Any) -> list[float]:
        return [float(len(text)) for text in responses]

    def other(*, references: Sequence[str], responses: Sequence[str]) -> tuple[list[float], dict[str, float]]:
        return [float(text.startswith("c")) for text in responses], {}

    examples = _task(("hot", "cold")).train
    drawn = ["a", "cold", "bb", "ccc", "d", "dddd", "e", "cold"]
    results, (favourite,) = best_of(length, EQUAL, other, examples, [drawn])
    assert [best.n for best in results] == [1, 4, 8]
    assert results[0] == Best(1, 20 / 8, 2 / 8, 3 / 8)
    assert results[1] == Best(4, 4.0, 0.5, 0.5)  # cold; dddd, which is before the other cold
    assert results[2] == Best(8, 4.0, 1.0, 1.0)
    assert favourite == Favourite(examples[0], "cold", 4.0, 4.0, True)
    (alone,), _ = best_of(length, None, None, examples, [["a"]])
    assert alone == Best(1, 1.0, None, None)


def test_what_the_reward_likes_and_the_checker_does_not() -> None:
    def length(*, responses: Sequence[str], **_: Any) -> list[float]:
        return [float(len(text)) for text in responses]

    results, favourites = best_of(length, EQUAL, None, WORDS.train, [["cold"], ["very small"], ["up"]])
    text = best_of_table(results, favourites)
    assert "| 1 | 5.33 | 33% | – |" in text
    assert "2 of 3 prompts" in text and text.index("'very small' earns 10.00, where 'small' earns 5.00") < text.index(
        "'up'"
    )


def test_samples_of_a_model_by_the_command(
    call: Callable[..., tuple[int, str, str]], tiny: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new/probes.csv"
    words = ["task=color,antonym", f"model.path={tiny}", "embedder@evaluation.embedder=static", "reward=binary"]
    code, text, _ = call(*words, "--samples", "8", "--out", str(out))
    assert code == 0 and text.count("| best of |") == 2
    with out.open(encoding="utf-8", newline="") as file:
        best = [line for line in csv.DictReader(file) if line["probe"].startswith("best of")]
    assert [line["probe"] for line in best] == [f"best of {n} samples" for n in (1, 4, 8)] * 2
    assert all(
        line["prompts"] == "20" and line["mean"] == line["accepted"] and line["second_embedder"] for line in best
    )
    assert {path.name for path in out.parent.iterdir()} == {"probes.csv", "probes.png", "probes.pdf"}


# What is counted


def test_the_numbers_of_a_reward_that_is_worked_by_hand() -> None:
    """It pays the first letter: 1 for the reference's, else a half for an s, so that "small" is the best constant."""

    def first_letter(*, references: list[str], responses: list[str], **_: Any) -> list[float]:
        pairs = zip(responses, references, strict=True)
        return [1.0 if a[:1] == b[:1] else 0.5 if a[:1] == "s" else 0.0 for a, b in pairs]

    result = probe(WORDS, first_letter)
    probes = _by_name(result)
    assert (result.constant, result.constant_mean, result.unpaid) == ("small", pytest.approx(2 / 3), 0)
    constant = probes["the best constant answer"]  # right to one of three
    assert (constant.prompts, constant.mean, constant.share, constant.passed) == (2, 0.5, 0.0, True)
    twice, markup, empty = (probes[name] for name in ("said twice", "in markup", "empty"))
    assert (twice.prompts, twice.mean, twice.reference, twice.share, twice.accepted) == (3, 1.0, 1.0, 1.0, 0.0)
    assert (twice.passed, markup.passed, empty.passed) == (False, True, True)
    assert probes["words reversed"].passed is None and probes["words reversed"].prompts == 0
    assert probes["capitals"].passed is False and probes["a full stop"].passed is True


def test_the_rule_is_nine_tenths_for_one_prompt_in_twenty() -> None:
    def pays(share: float, prompts: int) -> Any:
        """That share of the reward for an empty response to the first prompts, 1 for everything else."""

        def reward(*, prompts: list[str], responses: list[str], **_: Any) -> list[float]:
            return [
                1.0 if text or prompt not in chosen else share for prompt, text in zip(prompts, responses, strict=True)
            ]

        chosen = {example.prompt for example in task.train[prompts:]}
        return _by_name(probe(task, reward))["empty"]

    task = _task(*((f"word{number}", f"answer{number}") for number in range(20)))
    assert pays(0.89, 0).passed and not pays(0.91, 0).passed
    assert pays(0.5, 1).passed and pays(0.5, 1).share == 0.05 and not pays(0.5, 2).passed


def test_shares_are_counted_from_a_negative_reward_of_the_empty_response() -> None:
    def shifted(*, references: list[str], responses: list[str], **_: Any) -> list[float]:
        return [
            -3.0 + 4 * (a == b) + 2 * (a.lower() == b and a != b) for a, b in zip(responses, references, strict=True)
        ]

    probes = _by_name(probe(WORDS, shifted))
    assert probes["empty"].share == 0 and probes["capitals"].mean == -1 and probes["capitals"].share == 0
    assert (probes["empty"].relative, probes["capitals"].relative) == (0.0, 0.5)


def test_the_figure_counts_as_the_shares_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All rewards are below 0. Wrong version: the quotient of two negative means, where half of the reference is above 1."""
    from matplotlib.axes import Axes

    drawn = list[float]()
    scatter = Axes.scatter

    def noted(axes: Axes, x: Sequence[float], *given: Any, **named: Any) -> Any:
        drawn.extend(x)
        return scatter(axes, x, *given, **named)

    monkeypatch.setattr(Axes, "scatter", noted)

    def negative(*, references: list[str], responses: list[str], **_: Any) -> list[float]:
        return [
            -5.0 + 4 * (a == b) + 2 * (a.lower() == b and a != b) for a, b in zip(responses, references, strict=True)
        ]

    result = probe(WORDS, negative)
    plot({"antonym": result}, {}, "", tmp_path / "probes")
    made = {probed.name: x for probed, x in zip([p for p in result.probes if p.prompts], drawn, strict=True)}
    assert (made["empty"], made["said twice"], made["capitals"]) == (0.0, 0.0, 0.5)


def test_a_reference_that_earns_nothing_is_left_out() -> None:
    result = probe(WORDS, lambda *, responses, **_: [float("cold" in text or "small" in text) for text in responses])
    assert result.unpaid == 1 and _by_name(result)["empty"].prompts == 2
    assert "Left out: 1 prompt whose" in markdown(result)
    with pytest.raises(UserError, match="pays nothing for any reference"):
        probe(WORDS, lambda *, responses, **_: [0.0] * len(responses))


def test_static_vectors_pay_what_the_checker_calls_wrong() -> None:
    """Word order, repetition, unknown words and markup do not count in a mean of word vectors."""
    words = "task=color", "reward=pgsrm"
    probes = _by_name(probe(pgsrm.load_task(*words), pgsrm.build_reward(*words)))
    holes = {name for name, probed in probes.items() if probed.passed is False}
    assert holes == {"said twice", "padded with nonsense", "a control character", "in markup"}
    for name in holes:
        assert probes[name].mean == pytest.approx(1, abs=1e-3) and probes[name].accepted == 0
    assert probes["the input"].mean == pytest.approx(0.29, abs=0.005)


def test_the_checker_as_a_reward_fails_nothing_that_it_calls_wrong() -> None:
    words = "task=color", "reward=binary"
    result = probe(pgsrm.load_task(*words), pgsrm.build_reward(*words))
    assert all(probed.passed in (True, None) for probed in result.probes)
    assert all(probed.share == probed.accepted for probed in result.probes if probed.prompts)


def test_a_reward_that_asks_the_policy_is_refused() -> None:
    class AsksThePolicy:
        def attach(self, policy: Any, codec: Any) -> None:
            self.model = policy.model

        def __call__(self, **_: Any) -> list[float]:
            return []

    with pytest.raises(UserError, match="reward: asks the policy itself, and there is none outside a run"):
        probe(WORDS, AsksThePolicy())


# The command


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The command in this process: exit code, standard output, standard error."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pgsrm.reward", "probe", *words])
        code = exit_code(command.main)
        written = capsys.readouterr()
        return code, written.out, written.err

    return run


def test_the_tables_and_the_file(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    out = tmp_path / "probes.csv"
    code, text, _ = call("task=color,category", "reward=text_metric", "reward.metric=indel", "--out", str(out))
    assert code == 0
    assert "### task=color reward=text_metric reward.metric=indel\n" in text
    assert "| said twice | `indigo indigo` | 90 | " in text and "| probe | color | category |" in text
    with out.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * (len(PROBES) + 1 + len(CONTROLS))
    (added,) = (line for line in lines if line["probe"] == "a letter added" and "task=color" in line["config"])
    assert added["verdict"] == "fail" and float(added["accepted"]) == 0 and int(added["prompts"]) == 90


def test_tables_of_a_task_without_a_checker() -> None:
    def equal(*, references: list[str], responses: list[str], **_: Any) -> list[float]:
        return [float(a == b) for a, b in zip(responses, references, strict=True)]

    result = probe(_task(("hot", "a|`b`"), checker=None), equal)
    assert all(probed.accepted is None for probed in result.probes)
    table = markdown(result).splitlines()
    assert len({line.replace("\\|", "").count("|") for line in table if line.startswith("|")}) == 1
    assert any("`A\\|'B'`" in line for line in table)
    assert any(r"`\x80 a" in line for line in markdown(probe(_task(("hot", "a")), equal)).splitlines())
    assert summary({"one": result, "two": result}).splitlines()[-3:] == [
        "| right: capitals | **0.00, 0%** | **0.00, 0%** |",
        "| right: a full stop | **0.00, 0%** | **0.00, 0%** |",
        "| right: in quotes | **0.00, 0%** | **0.00, 0%** |",
    ]
    assert {verdict(probed) for probed in result.probes if not probed.control} == {"pass", ""}


SCALED = ["reward=sum", "+reward@reward.parts.pgsrm=pgsrm", "+reward.normalise.pgsrm=batch"]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["task=sentiment_control", "reward=sparse"], "task: has no references to make probes of"),
        (["task=summary", "reward=critic", "critic=self_current"], "reward: asks the policy itself"),
        # wrong version: each probe is divided by a deviation of its own, and half of the words earn more than the reference
        (
            ["task=antonym", *SCALED],
            "reward: what it pays for a text depends on the others of its batch",
        ),
        (["task=antonm"], "did you mean antonym?"),
        (["task=antonym", "--samples", "-1"], "--samples=-1: is no number of samples"),
        (["task=antonym", "--out", "."], "--out=.: is a folder; name a file"),
        (["task=antonym", "--out", "/dev/null/x.csv"], "--out=/dev/null/x.csv: can't be written"),
    ],
)
def test_bad_input(call: Callable[..., tuple[int, str, str]], words: list[str], problem: str) -> None:
    code, _, error = call(*words)
    assert code == 2 and problem in error and len(error.strip().splitlines()) == 1
