"""Supervised fine-tuning, the best of n without training, and prompts that are too long for a model."""

import csv
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

import pgsrm
from pgsrm.algorithm import __main__ as command
from pgsrm.algorithm.judged_samples import Sampler
from pgsrm.algorithm.selection import best_of_n_kl
from pgsrm.algorithm.settings import SFTSettings
from pgsrm.algorithm.sft import Pair, encode_pairs, mean_loss, tune
from pgsrm.config.compose import plan_words
from pgsrm.models.text import Codec
from pgsrm.models.tuning import steps
from pgsrm.policy.sampling import Sampling
from pgsrm.record.model_name import path_name
from pgsrm.reward.scorer import Scorer
from pgsrm.task import Example
from pgsrm.util.errors import UserError

PAIRS = [Pair([5, 6, 7], [8, 9, 0]), Pair([5, 6], [10, 0]), Pair([11, 12, 13, 14], [15, 16, 17, 0]), Pair([9], [8, 0])]


def test_the_loss_is_that_of_the_references_and_eos_alone(tiny: Path, load_policy: Callable[..., Any]) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(tiny).eval()
    total = 0.0
    with torch.no_grad():
        for prompt, answer in PAIRS:
            logprobs = model(torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
            total -= sum(logprobs[len(prompt) - 1 + place, token].item() for place, token in enumerate(answer))
    assert mean_loss(load_policy(), PAIRS) == pytest.approx(total / 11, rel=1e-5)


def test_tuning_repeats_itself_and_does_not_depend_on_the_micro_batch(load_policy: Callable[..., Any]) -> None:
    def tuned(seed: int, **settings: Any) -> tuple[Any, list[float]]:
        policy, losses, made = load_policy(), list[float](), list[int]()
        how = SFTSettings(batch_size=3, lr=0.01, **settings)
        tune(policy, PAIRS, how, seed, lambda _, loss: losses.append(loss), made.append)
        assert made == list(range(1, steps(len(PAIRS), how) + 1))
        return policy, losses

    policy, losses = tuned(0)
    same, same_losses = tuned(0)
    assert losses == same_losses and len(losses) == 3 and losses[2] < losses[0]
    assert mean_loss(policy, PAIRS) == mean_loss(same, PAIRS) < losses[2]
    assert tuned(0, micro_batch=1)[1] == pytest.approx(losses, rel=1e-4)
    assert tuned(1)[1] != losses


def test_a_reference_is_encoded_as_it_would_be_sampled(tiny: Path) -> None:
    """Wrong version: the blank between prompt and reference is lost, or EOS is not trained."""
    codec = Codec(AutoTokenizer.from_pretrained(tiny))
    for prompt, says in (("Text: hot\nShort:", " cold"), ("hot is ", "cold")):
        (pair,) = encode_pairs(codec, [Example(prompt, "cold", {}, "")])
        assert pair.prompt == codec.encode(prompt) and pair.answer[-1] == codec.eos[0]
        assert codec.decode([pair.answer])[0] == [says]


@pytest.fixture
def words(tmp_path: Path, tiny: Path) -> Sequence[str]:
    """For fine-tuning the tiny model on ten of the shipped texts."""
    lines = (ROOT / "pgsrm/task/data/summary.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "few.jsonl").write_text("\n".join(lines[:10]), encoding="utf-8")
    where = f"task.data={tmp_path / 'few.jsonl'}", f"model.path={tiny}", f"paths.outputs={tmp_path}"
    return ("task=summary", *where, "task.max_input_words=6", "threads=1", "sft.epochs=2", "sft.lr=0.01")


def test_each_prompt_must_fit_with_its_own_reference(tmp_path: Path, tiny: Path) -> None:
    """The model has 128 positions, a long word below has 71 tokens.

    Wrong versions: the longest prompt must fit with the longest reference of all; a held-out pair that is too long ends in a
    traceback.
    """
    long = [" ".join("abcde"[place % 5] * 7 + str(row) for place in range(8)) for row in range(12)]
    data = tmp_path / "words.jsonl"
    words = ["task=antonym", f"task.data={data}", "task.max_new_tokens=4", "task.holdout=0.3", f"model.path={tiny}"]

    def written(*both: int) -> None:
        rows = [
            {
                "word": long[row] if row == 0 or row in both else f"w{row}",
                "reference": long[row] if row in (1, *both) else "x",
            }
            for row in range(12)
        ]
        data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")

    written()
    command.sft([*words, "threads=1", f"out={tmp_path / 'tuned'}"])
    assert (tmp_path / "tuned" / "model.safetensors").is_file()
    for row in range(2, 12):
        written(row)
        if any(example.inputs["word"] == long[row] for example in pgsrm.load_task(*words[:4]).holdout):
            break
    with pytest.raises(UserError, match=r"the longest prompt and its reference have \d+ tokens, and the model has 128"):
        command.sft([*words, "threads=1", f"out={tmp_path / 'other'}"])


def test_the_command_saves_a_model_that_a_run_starts_from(
    tmp_path: Path, words: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "tuned"
    out.mkdir(parents=True)  # an empty folder may be there
    command.sft([*words, f"out={out}"])
    told, progress = capsys.readouterr()
    assert [line.split("  ")[:2] for line in progress.splitlines()] == [
        ["gradient steps", "1/2"],
        ["gradient steps", "2/2"],
    ]
    before, after = json.loads((out / "sft.json").read_text())["held-out loss"]
    assert after < before and f"held-out loss before: {before:.3f}" in told and "epoch 2/2" in told
    assert f"{after:.3f}" in told and [path.name for path in out.parent.iterdir()] == ["tuned"]
    plan = plan_words(*words, f"model.path={out}", "reward=sparse", "tracking=none")
    assert plan.config["model"]["path"] == str(out) and "sft" not in plan.config
    AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)


FEW = {"hot": "cold", "big": "small", "fast": "slow", "happy": "sad", "light": "dark", "open": "closed"}


@pytest.fixture
def antonyms(tmp_path: Path, tiny: Path) -> Sequence[str]:
    """Six words for the tiny model, a third of them held out; what it says is never right."""
    rows = [{"word": word, "reference": reference} for word, reference in FEW.items()]
    (tmp_path / "words.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    where = f"task.data={tmp_path / 'words.jsonl'}", f"model.path={tiny}", f"paths.outputs={tmp_path}"
    return ("task=antonym", *where, "task.holdout=0.34", "task.max_new_tokens=4", "threads=1")


def test_the_best_of_n_is_a_table_and_a_file_of_it(
    tmp_path: Path, tiny: Path, antonyms: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """samples=6: n is 1, 2, 4 and 6. A measure that is the reward itself says what the reward says."""
    measure = "evaluation.measures={again:{_target_:pgsrm.reward.BinaryReward,checker:${task.checker}},same:${reward}}"
    words = [*antonyms, "reward=pgsrm", "reward.alpha=2", measure, "samples=6"]
    out = tmp_path / "new" / "best.csv"
    command.best_of_n([*words, f"out={out}"])
    told, progress = capsys.readouterr()
    assert "reward pgsrm, alpha=2, " in told and progress.splitlines()[-1].split("  ")[:2] == ["responses", "36/36"]
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["split"], row["prompts"], row["n"]) for row in rows] == [
        (split, prompts, n) for split, prompts in (("trained", "4"), ("held out", "2")) for n in "1246"
    ]
    about = {"task": "antonym", "reward": "pgsrm, alpha=2", "model": path_name(str(tiny)), "samples": "6", "seed": "0"}
    for row in rows:
        assert about.items() <= row.items() and float(row["KL at most"]) == pytest.approx(
            best_of_n_kl(int(row["n"])), abs=1e-4
        )
        assert 0 <= float(row["KL"]) <= float(row["KL at most"])
        assert row["right answers"] == row["measure again"] == "0.0"
        assert float(row["measure same"]) == pytest.approx(float(row["mean reward"]))
        assert (row["mean reward low"] == "") == (row["split"] == "held out")  # two prompts have no interval
    for split in (rows[:4], rows[4:]):
        rewards = [float(row["mean reward"]) for row in split]
        assert rewards == sorted(rewards) and rewards[0] < rewards[-1]
    again, other = tmp_path / "again.csv", tmp_path / "other.csv"
    command.best_of_n([*words, f"out={again}"])
    command.best_of_n([*words, "seed=1", f"out={other}"])
    assert (
        again.read_bytes() == out.read_bytes()
        and other.read_text().splitlines()[1:] != out.read_text().splitlines()[1:]
    )


def test_a_reward_is_standardised_and_attached_before_samples_are_judged(
    tmp_path: Path, antonyms: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a run: what it asks for is there at the first call, also in a critic's reward. It pays 2 where both were given."""
    (tmp_path / "needs_both.py").write_text(
        "from pgsrm.critic import Critique\n"
        "class Reward:\n"
        "    drawn = 0\n"
        "    def standardise(self, samples):\n"
        "        self.drawn = len(samples()[1])\n"
        "    def __call__(self, *, responses, **_):\n"
        "        return [2.0 if self.drawn == 512 else 0.0] * len(responses)\n"
        "class Critic:\n"
        "    policy = None\n"
        "    def attach(self, policy, codec):\n"
        "        self.policy = policy\n"
        "    def __call__(self, *, responses, **_):\n"
        "        assert self.policy is not None\n"
        "        return [Critique((), 'clean') for _ in responses]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    of_critic = (
        "reward=critic",
        "reward.extrinsic={_target_:needs_both.Reward}",
        "reward.critic={_target_:needs_both.Critic}",
        "reward.values={good:1.0}",
    )
    measures = "evaluation.measures={again:{_target_:needs_both.Reward}}"
    out = tmp_path / "best.csv"
    command.best_of_n([*antonyms, *of_critic, measures, "samples=1", f"out={out}"])
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(float(row["mean reward"]), float(row["measure again"])) for row in rows] == [(2.0, 2.0)] * 2


def test_of_each_split_so_many_prompts_as_an_evaluation_has(tmp_path: Path, antonyms: Sequence[str]) -> None:
    out = tmp_path / "best.csv"
    command.best_of_n([*antonyms, "reward=binary", "samples=1", "evaluation.prompts=1", f"out={out}"])
    with out.open(newline="") as file:
        assert [(row["split"], row["prompts"]) for row in csv.DictReader(file)] == [("trained", "1"), ("held out", "1")]


def test_each_sample_is_judged_with_its_own_prompt(tiny: Path, load_policy: Callable[..., Any]) -> None:
    """Nine samples are two rounds, and a reward per token counts as a sum. Wrong version: rows belong to other prompts."""
    codec, asked = Codec(AutoTokenizer.from_pretrained(tiny)), list[tuple[str, str]]()

    def reward(prompts: list[str], responses: list[str], token_ids: list[list[int]], **_: Any) -> list[list[float]]:
        asked.extend(zip(prompts, responses, strict=True))
        return [[float(len(prompt))] * len(ids) for prompt, ids in zip(prompts, token_ids, strict=True)]

    def checker(response: str, reference: str, inputs: Mapping[str, Any]) -> bool:
        return len(response) % 2 == inputs["odd"]

    examples = [Example("a is ", "x", {"odd": 0}, ""), Example("abc is ", "x", {"odd": 1}, "")]
    ids = {example.prompt: codec.encode(example.prompt) for example in examples}
    sampler = Sampler(load_policy(), codec, ids, Sampling(3), None, Scorer(reward, checker, codec.eos), {})
    added = list[int]()
    judged = sampler(examples, 9, np.random.default_rng(0), added.append)
    assert added == [16, 2] and len(set(asked)) > 9
    for number, (example, of_prompt) in enumerate(zip(examples, judged, strict=True)):
        texts = [text for prompt, text in asked if prompt == example.prompt]
        assert of_prompt.values["right answers"] == [float(len(text) % 2 == number) for text in texts]
        assert {reward / len(example.prompt) for reward in of_prompt.rewards} <= {1.0, 2.0, 3.0}
        longest = max(of_prompt.rewards)
        right = [of_prompt.values["right answers"][row] for row in range(9) if of_prompt.rewards[row] == longest]
        assert of_prompt.best_of(9) == pytest.approx({"mean reward": longest, "right answers": sum(right) / len(right)})


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (["best_of_n", "task=antonym"], "out: missing; name a new file that ends in .csv"),
        (["best_of_n", "task=antonym", "out=x"], "out=x: names no CSV file"),
        (["best_of_n", "task=antonym", "out=there.csv"], "out=there.csv: is there already"),
        (["best_of_n", "task=antonym", "out=x.csv", "samples=0"], "samples=0: is no number of samples"),
        (["best_of_n", "task=antonym", "out=x.csv", "samples=2.5"], "samples=2.5: is no number of samples"),
        (["best_of_n", "task=antonym", "out=x.csv", "processes=2"], "processes: best_of_n is one process"),
        (["best_of_n", "task=antonym", "out=x.csv", "reward=nope"], "nope"),
        (["best_of_n", "task=sentiment_control", "out=x.csv", "reward=binary"], "reward.checker=null: the task has no"),
        (["best_of_n", "task=antonym", "out=x.csv", "reward.alpha=-1", "reward=pgsrm"], "reward.alpha"),
        (["best_of_n", "out=x.csv", "--cfg", "job"], "python -m pgsrm.algorithm best_of_n takes"),
        (["sft", "task=summary"], "out: missing"),
        (["sft", "task=summary", "out=."], "out=.: is there already"),
        (["sft", "task=sentiment_control", "out=x"], "316 of 316 prompts have no reference"),
        (["sft", "task=summary", "out=x", "processes=2"], "processes: sft is one process"),
        (["sft", "task=summary", "out=x", "sft.lr=0"], "sft.lr=0: expected `float` > 0.0"),
        (["sft", "out=x", "--cfg", "job"], "python -m pgsrm.algorithm sft takes"),
        (["dpo"], "dpo: no such algorithm; there are sft, best_of_n"),
    ],
)
def test_bad_input(
    given: list[str], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a file").touch()
    (tmp_path / "there.csv").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    monkeypatch.setattr(sys, "argv", ["pgsrm.algorithm", *given])
    with pytest.raises(SystemExit) as end:
        command.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        end.value.code
        and problem in line
        and sorted(file.name for file in tmp_path.iterdir()) == ["a file", "there.csv"]
    )


def test_a_prompt_that_is_too_long_is_one_line_before_anything_starts(
    call_cli: Callable[..., Any], tmp_path: Path
) -> None:
    row = {"document": "A word or two. " * 100, "reference": "Words."}
    (tmp_path / "long.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({**row, "document": "Short."}) + "\n")
    given = ("task=summary", f"task.data={tmp_path / 'long.jsonl'}", "reward=sparse", "tracking=none", "dry_run=true")
    line = call_cli(*given).error_line
    assert "tokens, and the model has 256 positions for prompt and response; set task.max_input_words=" in line
    (remedy,) = (word.rstrip(",") for word in line.split() if word.startswith("task.max_input_words="))
    assert call_cli(*given, remedy).code == 0
    words = int(remedy.partition("=")[2])
    assert 100 < words < 230
    assert call_cli(*given, f"task.max_input_words={words + 1}").code == 2


def test_the_words_that_fit_are_those_of_the_prompt_with_the_most_tokens_per_word(
    call_cli: Callable[..., Any], tmp_path: Path
) -> None:
    """Wrong version: the longest prompt says how many, and with them another one is too long still."""
    texts = ["a word or two " * 500, "Phosphatidylinositol-3-kinase " * 40, "short"]
    rows = [{"document": text, "title": text, "reference": "Words."} for text in texts]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ("task=summary", f"task.data={tmp_path / 'long.jsonl'}", "reward=sparse", "tracking=none", "dry_run=true")
    for template in (
        "'Text: {document}\\nShort:'",
        "'{title}: {document}, and in a word or two, or in twenty, it is:'",
    ):
        line = call_cli(*given, f"task.template={template}").error_line
        (remedy,) = (word.rstrip(",") for word in line.split() if word.startswith("task.max_input_words="))
        assert call_cli(*given, f"task.template={template}", remedy).code == 0
        words = int(remedy.partition("=")[2])
        assert call_cli(*given, f"task.template={template}", f"task.max_input_words={words + 1}").code == 2


def test_the_words_that_fit_are_found_without_counting_all_prompts_at_each_step(
    call_cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shortest prompt has the most tokens per word when it is cut, and still it is the one that counts."""
    texts = [f"{number} " + "a word or two and " * 80 for number in range(600)] + ["7.3 " * 150 + "and so on " * 20]
    rows = [{"document": text, "reference": "Words."} for text in texts]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ("task=summary", f"task.data={tmp_path / 'long.jsonl'}", "reward=sparse", "tracking=none", "dry_run=true")
    made, counted = list[str](), list[str]()

    class Counting:
        def __init__(self, tokenizer: Any) -> None:
            self._tokenizer = tokenizer

        @classmethod
        def from_file(cls, path: str) -> "Counting":
            return cls(Tokenizer.from_file(path))

        def __getattr__(self, name: str) -> Any:
            return getattr(self._tokenizer, name)

        def encode_batch(self, texts: list[str]) -> Any:
            counted.extend(texts)
            return self._tokenizer.encode_batch(texts)

    shortened = Example.shortened
    with monkeypatch.context() as patched:
        patched.setattr("tokenizers.Tokenizer", Counting)
        patched.setattr(Example, "shortened", lambda *what: (made.append(""), shortened(*what))[1])
        line = call_cli(*given).error_line
    (remedy,) = (word.rstrip(",") for word in line.split() if word.startswith("task.max_input_words="))
    assert call_cli(*given, remedy).code == 0
    assert call_cli(*given, f"task.max_input_words={int(remedy.partition('=')[2]) + 1}").code == 2
    # In a step of the binary search 64; all of them when it begins and ends, and those that are too long then once more.
    assert 601 < len(counted) < 4 * 601 and 601 < len(made) < 6 * 601


def test_where_no_number_of_words_fits_none_is_named(call_cli: Callable[..., Any], tmp_path: Path) -> None:
    """A text without blanks is one word."""
    rows = [{"document": text, "reference": "Words."} for text in ("\u7814\u7a76" * 300, "Short.")]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ("task=summary", f"task.data={tmp_path / 'long.jsonl'}", "reward=sparse", "tracking=none", "dry_run=true")
    line = call_cli(*given).error_line
    assert "for prompt and response; shorten the prompts, or choose another model" in line
    assert "max_input_words" not in line
