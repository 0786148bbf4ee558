"""What training did to the rest of a model: other wordings, other tasks, variety; and lm-evaluation-harness's tasks."""

import csv
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT, SHIPPED_TEXT, exit_code

import pgsrm
from pgsrm import downstream
from pgsrm.evaluation import downstream as evaluation_downstream
from pgsrm.evaluation.downstream import Answered, Asked, Question, answer_perplexity
from pgsrm.evaluation.kept_answers import KeptAnswers
from pgsrm.evaluation.variety import self_bleu, variety
from pgsrm.models.text import Codec
from pgsrm.policy.sampling import Sampling
from pgsrm.task import Example, load_task, placeholders

OWN = "The opposite of '{word}' is "


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def run(small: Sequence[str]) -> pgsrm.Run:
    return pgsrm.train("task=antonym", *small, *SHIPPED_TEXT, "task.holdout=0.2", "ppo.actor_lr=1e-2", progress=False)


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    def call(*words: Any) -> tuple[int, str, str]:
        out = [] if "--out" in words else ["--out", str(tmp_path / "tables")]
        monkeypatch.setattr(sys, "argv", ["pgsrm.downstream", *map(str, words), *out])
        code = exit_code(downstream.main)
        written = capsys.readouterr()
        return code, written.out, written.err

    return call


def test_a_run_before_and_after(run: pgsrm.Run, command: Callable[..., Any], tmp_path: Path) -> None:
    """Right answers to the task's own wording and the perplexity are those of the run's evaluations."""
    code, out, _ = command(run.folder, "--tasks", "antonym,copy", "--wording", "Opposite: {word} - ")
    assert code == 0 and "| before | PGSRM |" in out
    (file,) = (tmp_path / "tables").glob("*.csv")
    table = rows(file)
    wordings = yaml.safe_load(downstream.WORDINGS.read_text())["antonym"]
    own = [row for row in table if row["task, or measure"] == "antonym"]
    assert [row["wording"] for row in own[::2]] == [OWN, *wordings, "Opposite: {word} - "]
    assert [row["prompts"].split(":")[0] for row in own] == ["trained", "held out"] * (len(own) // 2)
    assert [row["prompts"] for row in table if row["task, or measure"] == "copy"] == ["all: 110"]
    first, last = run.evaluations.iloc[0], run.evaluations.iloc[-1]
    plain = next(row for row in table if row["task, or measure"] == "perplexity of plain text")
    for row, metric in zip([*own[:2], plain], ["train_exact_match", "holdout_exact_match", "perplexity"], strict=True):
        assert float(row["before"]) == pytest.approx(first[f"eval/{metric}"], rel=1e-5)
        assert float(row["PGSRM"]) == pytest.approx(last[f"eval/{metric}"], rel=1e-5)
    assert float(plain["before"]) != float(plain["PGSRM"])
    kl = next(row for row in table if row["task, or measure"] == "sampled answers: KL")
    assert kl["before"] == "" and float(kl["PGSRM"]) > 0


@pytest.mark.parametrize("lora", [[], ["model.lora={rank: 2, alpha: 4, targets: [c_attn]}"]], ids=["whole", "lora"])
def test_the_untrained_model_is_loaded_once(
    small: Sequence[str],
    command: Callable[..., Any],
    tmp_path: Path,
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
    lora: list[str],
) -> None:
    """Of two tasks and three runs: their own models, and one that all of them began as. Settings with a list have no hash."""
    from pgsrm.models import load

    for words in (["task=color", "seed=0"], ["task=color", "seed=1"], ["task=antonym"]):
        pgsrm.train(*small, *lora, "ppo.episodes=4", "evaluation.text=null", *words, progress=False)
    loaded: list[str] = []
    real = load.load_model

    def counting(settings: Any, device: Any) -> Any:
        loaded.append(str(settings.path))
        return real(settings, device)

    monkeypatch.setattr(load, "load_model", counting)
    monkeypatch.setattr("pgsrm.evaluation.downstream.load_model", counting)
    code, _, _ = command(tmp_path / "outputs/runs", "--tasks", "", "--samples", "1")
    assert code == 0 and len(loaded) == len(set(loaded)) == 4
    assert [path for path in loaded if not path.endswith("/model")] == [str(tiny)]


def test_seeds_are_one_column_and_other_prompts_another_table(
    small: Sequence[str], command: Callable[..., Any], tmp_path: Path
) -> None:
    for words in (["seed=0"], ["seed=1"], ["task.holdout=0.5"]):
        pgsrm.train("task=color", *small, "ppo.episodes=4", "evaluation.text=null", *words, progress=False)
    code, out, _ = command(tmp_path / "outputs/runs", "--tasks", "", "--samples", "1")
    assert code == 0
    heads = [line for line in out.splitlines() if line.startswith("| task")]
    assert len(heads) == 2 and all(line.count("PGSRM") == 1 for line in heads)
    assert out.count("trained: 90") == 4 and out.count("held out: ") == 4
    names = sorted(file.name for file in (tmp_path / "tables").glob("*.csv"))  # wrong version: one overwrites the other
    assert names == ["downstream_color_gpt2.csv", "downstream_color_gpt2_2.csv"]


def test_the_best_models_are_asked_of_the_runs_that_kept_them(
    small: Sequence[str], command: Callable[..., Any], tmp_path: Path
) -> None:
    """Their perplexity is that of the best evaluation. Wrong version: the final model's."""
    metric = "eval/perplexity"
    words = ["task=color", *small, *SHIPPED_TEXT, "evaluation.every=1", "ppo.actor_lr=3e-2"]
    kept = pgsrm.train(*words, f"stop.metric={metric}", "stop.mode=max", "stop.keep_best=true", progress=False)
    course = kept.evaluations[metric]
    assert 0 < course.idxmax() < course.index[-1]
    other = pgsrm.train(*words, "seed=1", progress=False)
    lacking = f"{other.folder}: has no best model (no best/); a run keeps one where stop.keep_best=true is set from"
    code, out, err = command("--best", tmp_path / "outputs/runs", "--tasks", "", "--samples", "1")
    assert code == 0 and f"note: {lacking}" in err and "the model of its best evaluation (stop.keep_best)" in out
    (file,) = (tmp_path / "tables").glob("*.csv")
    assert file.name == "downstream_color_gpt2_best.csv" and "keep_best=" not in file.read_text()
    plain = next(row for row in rows(file) if row["task, or measure"] == "perplexity of plain text")
    assert float(list(plain.values())[-3]) == pytest.approx(course.max(), rel=1e-5)
    code, out, err = command("--best", other.folder)
    assert (code, out) == (2, "") and err.startswith(f"pgsrm: {lacking} its start") and err.count("\n") == 1


def test_a_command_that_was_cut_off_asks_only_the_other_models(
    small: Sequence[str], command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = pgsrm.train("task=color", *small, "ppo.episodes=4", progress=False)
    tables, text = tmp_path / "tables", tmp_path / "text.txt"
    text.write_text("Mix the two colors and output one color name. " * 5)
    words = [run.folder, "--tasks", "", "--samples", "1", "--text", text]

    def asked(*more: Any) -> tuple[list[str], str]:
        code, out, err = command(*words, *more)
        assert code == 0
        return [line.split(" ")[0] for line in err.splitlines()], out.partition(str(tmp_path))[0]

    def interrupted(*_: Any) -> Answered:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(evaluation_downstream, "ask", interrupted)
        code, _, err = command(*words)
    assert code == 130 and err.splitlines()[-1] == (
        "pgsrm: interrupted; the same command asks the models that have not answered yet"
    )
    assert not list(tables.glob("*.csv")) and len((tables / "answered.jsonl").read_text().splitlines()) == 2
    with (tables / "answered.jsonl").open("a") as file:
        file.write('{"key": "0", "matc')  # killed while it wrote
    (tmp_path / "taken/answered.jsonl").mkdir(parents=True)
    kinds, table = asked()
    assert kinds == ["answered", "asking"]
    with monkeypatch.context() as patched:
        patched.setattr(evaluation_downstream, "load_model", None)  # nothing is loaded
        patched.setattr("pgsrm.models.load.load_model", None)
        assert asked() == (["answered"] * 2, table)
    code, out, err = command(*words, "--out", tmp_path / "taken")
    assert (code, out) == (2, "") and err.splitlines()[-1].startswith(
        f"pgsrm: --out={tmp_path / 'taken/answered.jsonl'}: "
    )
    assert asked("--out", tmp_path / "elsewhere") == (["asking"] * 2, table)
    assert asked("--samples", "2")[0] == ["asking"] * 2
    weights = run.folder / "model/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert asked()[0] == ["answered", "asking"]
    monkeypatch.setattr("pgsrm.evaluation.kept_answers.folder_digest", lambda *_: "of another version")
    assert asked()[0] == ["asking"] * 2


def test_all_that_is_asked_is_in_the_key_of_the_answers() -> None:
    example = Example("hot: ", "cold", {"word": "hot"}, "data")
    other = replace(example, reference="cool")
    question = Question("antonym", OWN, "trained", [example], lambda *_: True, "exact match", 2)
    asked = Asked([question], [example], Sampling(2, 1.0, None), None, 4, "Some text.")
    others = [
        *(
            replace(asked, questions=[replace(question, **{name: value})])
            for name, value in {"examples": [other], "checked_by": "another", "max_new_tokens": 3}.items()
        ),
        replace(asked, questions=[question, question]),
        *(
            replace(asked, **{name: value})
            for name, value in {
                "own": [other],
                "sampling": Sampling(2, 0.7, None),
                "min_new_tokens": 1,
                "samples": 3,
                "text": "Another text.",
            }.items()
        ),
    ]
    kept = KeptAnswers(None)
    keys = [kept.key("model", each) for each in [asked, *others]] + [kept.key("another model", asked)]
    assert len(set(keys)) == len(keys) == 11
    assert kept.key("model", replace(asked, questions=[replace(question)])) == keys[0]


def test_answers_are_kept_under_the_code_that_gave_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Wrong version: the package is updated while a model is asked, and its answers count as the new code's."""
    asked = Asked([], [], Sampling(2, 1.0, None), None, 1, "")
    kept = KeptAnswers(tmp_path / "answered.jsonl")
    monkeypatch.setattr("pgsrm.evaluation.kept_answers.folder_digest", lambda *_: "of another version")
    kept.add(kept.key("model", asked), Answered([], {"perplexity": math.nan}))
    later = KeptAnswers(tmp_path / "answered.jsonl")
    assert later.get(later.key("model", asked)) is None
    monkeypatch.undo()
    again = KeptAnswers(tmp_path / "answered.jsonl")
    found = again.get(again.key("model", asked))
    assert found is not None and math.isnan(found.measures["perplexity"])


@pytest.mark.parametrize(
    "words, line",
    [
        (["nowhere"], "pgsrm: RUN=nowhere: no such folder"),
        (["RUN", "--wording", "The opposite of {sentence} is "], "no column `sentence`"),
        (["RUN", "--tasks", "antonyms"], "antonyms"),
        (["RUN", "--text", "none.txt"], "none.txt"),
        (["RUN", "--out", "FILE/below"], "can't be written"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], line: str, run: pgsrm.Run, command: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "FILE").touch()
    before = sorted(Path().rglob("downstream"))
    code, out, err = command(
        *[word.replace("RUN", str(run.folder)).replace("FILE", str(tmp_path / "FILE")) for word in words]
    )
    assert sorted(Path().rglob("downstream")) == before  # wrong version: an empty outputs/downstream
    assert code == 2 and out == "" and line in err
    assert len([each for each in err.splitlines() if not each.startswith("pgsrm.analysis: ")]) == 1


def test_perplexity_of_answers_is_that_of_a_plain_forward_pass(load_policy: Callable[..., Any], tiny: Path) -> None:
    """One answer at a time. Wrong versions: the prompt's tokens counted, an EOS counted, a mean of means."""
    from transformers import AutoTokenizer

    codec = Codec(AutoTokenizer.from_pretrained(tiny))
    pairs = [("The opposite of 'hot' is ", "cold"), ("red and blue is => ", "purple and so on"), ("hot", "")]
    examples = [Example(prompt, reference, {}, "user") for prompt, reference in pairs]
    policy = load_policy("gpt2")
    total, tokens = 0.0, 0
    for prompt, answer in pairs[:2]:
        before, behind = codec.encode(prompt), codec.encode_answer(prompt, answer)
        with torch.no_grad():
            logits = policy.model(input_ids=torch.tensor([before + behind])).logits[0].log_softmax(-1)
        total -= sum(logits[len(before) + i - 1, token].item() for i, token in enumerate(behind))
        tokens += len(behind)
    policy.model.train()
    assert answer_perplexity(policy, codec, examples) == pytest.approx(math.exp(total / tokens), rel=1e-4)
    assert math.isnan(answer_perplexity(policy, codec, examples[2:]))


def test_self_bleu_by_hand() -> None:
    assert self_bleu([["a"], ["a"]]) == pytest.approx(1)
    assert self_bleu([["a"], ["b"]]) == 0
    # "a b" has a and not b, and no pair: (1/2 · (1/2)/1)^(1/2); "a c" likewise
    assert self_bleu([["a", "b"], ["a", "c"]]) == pytest.approx(0.5)
    # "a" is shorter than its nearest reference by one: exp(1 - 2/1); of "a a" one a is in the other, and no pair
    assert self_bleu([["a"], ["a", "a"]]) == pytest.approx((math.exp(-1) + 0.5) / 2)


def test_a_task_without_a_checker_has_its_measures_alone(
    small: Sequence[str], command: Callable[..., Any], tmp_path: Path
) -> None:
    """Nothing is right or wrong there. Wrong version: a traceback, as no question has a longest answer."""
    run = pgsrm.train("task=color", *small, "task.checker=null", progress=False)
    code, out, _ = command(run.folder, "--tasks", "", "--samples", "1")
    assert code == 0 and "| perplexity of plain text |" in out
    (file,) = (tmp_path / "tables").glob("*.csv")
    assert not [row for row in rows(file) if row["prompts"]]


def test_answers_without_words_are_counted_and_are_not_varied() -> None:
    """Wrong version: each counts 0, and a policy that says nothing is as varied as can be."""
    same = {"self_bleu": 1.0, "empty": 0.0}
    assert variety(["a b", "a b"]).items() >= same.items()
    assert variety(["a b", "", "a b", " \n"]).items() >= {**same, "empty": 0.5}.items()
    for texts, share in ((["", ""], 1.0), (["a b", ""], 0.5)):
        found = variety(texts)
        assert "self_bleu" not in found and found["empty"] == share


def test_a_table_has_answers_without_words_where_there_are_some() -> None:
    name, asked = "sampled answers: without words", Asked([], [], Sampling(1), None, 1, "")
    none, some = Answered([], {"a": 0.0, name: 0.0}), Answered([], {name: 0.5})
    assert [row[0] for row in downstream._rows(asked, none, [[none, none], [none]])] == ["a"]
    (_, (_, _, _, before, cell)) = downstream._rows(asked, none, [[none, some]])
    assert (before.value, cell.value) == (0, 0.25)


def test_self_bleu_is_sacrebleus() -> None:
    import random

    metric = pytest.importorskip("sacrebleu.metrics").BLEU(effective_order=True, tokenize="none")
    draw = random.Random(0)
    for count, longest in ((2, 3), (7, 8), (30, 6)):
        texts = [[draw.choice("abcdefg") for _ in range(draw.randint(1, longest))] for _ in range(count)]
        lines = [" ".join(words) for words in texts]
        each = [metric.sentence_score(line, lines[:i] + lines[i + 1 :]).score / 100 for i, line in enumerate(lines)]
        assert self_bleu(texts) == pytest.approx(sum(each) / count)


@pytest.mark.parametrize("wording", ["{word} ({kind}) is ", "{kind} {n}: ", "{n} {kind} {word}: "])
def test_a_wording_with_other_columns_has_the_same_split(wording: str, tmp_path: Path) -> None:
    """Wrong version: split by the columns that the wording shows, so that words that were trained on count as held out."""
    data = tmp_path / "data.jsonl"
    lines = [{"words": f"word {i}", "kind": "ab"[i % 2], "n": str(i), "reference": f"answer {i}"} for i in range(40)]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = {"data": str(data), "template": "{word} is ", "holdout": 0.25, "max_new_tokens": 2, "max_input_words": 2}
    own, other = load_task(config), load_task({**config, "template": wording}, None, "{word} is ")
    assert len(own.holdout) == 10
    for ours, theirs in ((own.train, other.train), (own.holdout, other.holdout)):
        assert [example.reference for example in ours] == [example.reference for example in theirs]
    trained = downstream.Trained([], None, {"task": config, "parent": {"references": None}})  # type: ignore[arg-type]
    assert trained.in_wording(wording).holdout == other.holdout


def test_the_shipped_wordings_ask_what_the_tasks_ask() -> None:
    wordings = yaml.safe_load(downstream.WORDINGS.read_text())
    assert set(wordings) == set(downstream.TASKS)
    for name, templates in wordings.items():
        own = yaml.safe_load((ROOT / f"conf/task/{name}.yaml").read_text())["template"]
        assert len({own, *templates}) == 1 + len(templates) >= 3
        assert all(placeholders(template, "") == placeholders(own, "") for template in templates)


def test_the_harness_asks_the_held_out_prompts() -> None:
    """The data of examples/lm_eval are those of task=antonym, the right answer among the choices."""
    folder = ROOT / "examples/lm_eval"
    asked = [json.loads(line) for line in (folder / "antonym_heldout.jsonl").read_text().splitlines()]
    task = pgsrm.load_task("task=antonym")
    assert [(row["prompt"], row["reference"]) for row in asked] == [(e.prompt, e.reference) for e in task.holdout]
    assert all(row["reference"] in row["choices"] and len(set(row["choices"])) == 4 for row in asked)
    for file in folder.glob("*.yaml"):
        node = yaml.safe_load(file.read_text())
        assert (ROOT / node["dataset_kwargs"]["data_files"]["test"]).is_file() and node["task"] == file.stem
    generation = yaml.safe_load((folder / "pgsrm_antonym.yaml").read_text())["generation_kwargs"]
    assert generation["max_gen_toks"] == task.max_new_tokens
