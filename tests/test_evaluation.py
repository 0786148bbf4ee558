"""What a run is measured by beside its training, and a parent that errs at a known rate."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, SHIPPED_TEXT
from omegaconf import open_dict

from pgsrm.config.compose import compose_run
from pgsrm.config.plan import Plan, build_task, plan
from pgsrm.evaluation.distance import distance
from pgsrm.evaluation.evaluation import WINDOW, perplexity, text_windows
from pgsrm.evaluation.inputs import AUSTEN, SHIPPED, read_text
from pgsrm.models.text import Codec
from pgsrm.parent.mistakes import with_mistakes
from pgsrm.record import RunFolder
from pgsrm.record.measured import is_measured
from pgsrm.task import Example, NormalizedEquality, Task, load_task, task_digest
from pgsrm.util.errors import UserError
from pgsrm.util.paths import conf_folder

OTHER = "embedder@evaluation.embedder=static"
Train = Callable[..., RunFolder]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def evaluations(folder: RunFolder) -> list[dict[str, Any]]:
    """The values `eval/*`, an evaluation each."""
    lines = [{k: v for k, v in row.items() if k.startswith("eval/")} for row in rows(folder.metrics)]
    return [line for line in lines if line]


def trained(folder: RunFolder) -> list[dict[str, Any]]:
    """metrics.jsonl without evaluations, times and line 0."""
    lines = rows(folder.metrics)[1:]
    return [{k: v for k, v in line.items() if not k.startswith("eval/") and not is_measured(k)} for line in lines]


def make_plan(*overrides: str, without: Sequence[str] = ()) -> Plan:
    """The plan of one run, as the command line makes it; `without` are keys that the config then lacks."""
    config, choices = compose_run(overrides)
    for section, _, key in (each.partition(".") for each in without):
        with open_dict(config):
            del config[section][key]
    return plan(config, choices)


@pytest.fixture
def train_here(small: Sequence[str], resume: Callable[..., None]) -> Train:
    """`train_here(*overrides)`: a small run of the task antonym, a fifth held out, trained in this process."""

    def train(*overrides: str) -> RunFolder:
        given = {each.lstrip("+~").partition("=")[0] for each in overrides}
        defaults = [*small, "task=antonym", "task.holdout=0.2"]
        made = make_plan(*[each for each in defaults if each.partition("=")[0] not in given], *overrides)
        made.freeze()
        resume(made.folder)
        return made.folder

    return train


# Perplexity


@pytest.fixture(scope="module")
def codec(tiny: Path) -> Codec:
    from transformers import AutoTokenizer

    return Codec(AutoTokenizer.from_pretrained(tiny))


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_perplexity_is_that_of_a_plain_forward_pass(load_policy: Callable[..., Any], architecture: str) -> None:
    """One window at a time, from the model itself. Wrong versions: the first token counted, dropout on, windows joined."""
    policy = load_policy(architecture)
    windows = torch.randint(0, 300, (9, 20), generator=torch.Generator().manual_seed(0))
    total = 0.0
    with torch.no_grad():
        for window in windows:
            logits = policy.model(input_ids=window.unsqueeze(0)).logits[0]
            total -= logits[:-1].log_softmax(-1).gather(-1, window[1:].unsqueeze(-1)).sum().item()
    policy.model.train()  # as a run with ppo.dropout=true has it
    assert perplexity(policy, windows) == pytest.approx(math.exp(total / (9 * 19)), rel=1e-5)
    assert policy.model.training


def test_a_child_that_has_come_apart_has_an_infinite_perplexity() -> None:
    class Apart:
        def text_logprob(self, windows: torch.Tensor) -> float:
            return -1e6

    assert perplexity(Apart(), torch.zeros(1, 2)) == math.inf  # type: ignore[arg-type]


def test_windows_are_whole_and_a_rest_is_left_out(codec: Codec) -> None:
    ids = codec.encode_text(read_text(AUSTEN))
    windows = text_windows(codec, read_text(AUSTEN), positions=1024)
    assert windows.shape == (len(ids) // WINDOW, WINDOW)
    assert windows.flatten().tolist() == ids[: windows.numel()]
    assert text_windows(codec, read_text(AUSTEN), positions=50).shape[1] == 50
    short = codec.encode_text("in want of a wife")
    assert text_windows(codec, "in want of a wife", positions=None).tolist() == [short]


def test_a_config_that_names_minus_one_positions_names_no_limit(load_policy: Callable[..., Any], codec: Codec) -> None:
    """As some models' configs do. Wrong version: a text is cut into windows of -1 tokens."""
    policy = load_policy()
    assert policy.positions == 128
    policy.model.config.max_position_embeddings = -1
    assert policy.positions is None and text_windows(codec, read_text(AUSTEN), policy.positions).shape[1] == WINDOW


def plain_words(text: str) -> str:
    """Lower-case words between single spaces, one at either end: what is in another text is there as whole words."""
    return f" {' '.join(re.findall(r'[a-z]+', text.lower()))} "


def test_the_shipped_text_is_not_among_the_tasks_data() -> None:
    """Nothing of several words that a task asks for or answers with is in it; and it has something to read."""
    assert (SHIPPED / AUSTEN).is_file() and 5_000 < len(read_text(AUSTEN)) < 20_000
    files = sorted((ROOT / "pgsrm/task/data").glob("*.jsonl"))
    texts = {value for path in files for row in rows(path) for key, value in row.items() if key != "source"}
    several = {words for text in texts if " " in (words := plain_words(text)).strip()}
    assert len(files) >= 8 and len(several) > 200
    book = plain_words(read_text(AUSTEN))
    assert plain_words("It is a truth, universally acknowledged;") in book
    assert [words for words in several if words in book] == []


# The evaluation in a run


def test_every_metric_that_a_run_writes_is_documented(train_here: Train) -> None:
    page = (ROOT / "docs/metrics.md").read_text()
    names = {name for row in rows(train_here(*SHIPPED_TEXT, OTHER, "parent.error_rate=0.5").metrics) for name in row}
    expected = {f"eval/{split}_{name}" for split in ("train", "holdout") for name in ("top_share", "other_reward")}
    expected |= {"eval/train_misled_exact_match", "eval/train_misled_error_match"}
    assert {"eval/train_sampled_exact_match", "eval/perplexity", *expected} <= names
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []


def test_an_evaluation_leaves_the_training_as_it_is(train_here: Train) -> None:
    """Wrong version: the sampled answers take numbers from the training's generators."""
    often, seldom = train_here("evaluation.every=1", OTHER), train_here("evaluation.every=4", "evaluation.text=null")
    assert trained(often) == trained(seldom)
    assert len(evaluations(often)) == 5 and len(evaluations(seldom)) == 2
    assert "eval/perplexity" not in evaluations(seldom)[0]
    shared = evaluations(seldom)[-1]
    assert {k: evaluations(often)[-1][k] for k in shared} == shared


def test_sampled_answers_are_drawn_by_seed_and_update_and_greedy_ones_are_not(
    load_policy: Callable[..., Any], codec: Codec
) -> None:
    from pgsrm.evaluation.evaluation import Evaluation
    from pgsrm.policy.sampling import Sampling
    from pgsrm.reward.scorer import Scorer

    texts: list[list[str]] = []

    def reward(**_: Any) -> list[float]:
        return [0.0] * len(examples)

    def checker(text: str, reference: str, inputs: Any) -> bool:
        texts[-1].append(text)
        return len(text) % 2 == 0

    examples = [Example(f"The opposite of '{i}' is ", "cold", {}, "user") for i in range(40)]
    task = Task(examples, [], checker, 3, "digest")
    ids = {example.prompt: codec.encode(example.prompt) for example in examples}

    def answers(seed: int, update: int) -> tuple[list[str], list[str]]:
        """Greedy and sampled: the checker is asked for both, in this order."""
        texts.append([])
        evaluate = Evaluation(task, load_policy(), codec, ids, Scorer(reward, checker, (0,)), Sampling(3), seed)
        metrics = evaluate(update)
        assert metrics["eval/train_sampled_exact_match"] == sum(len(t) % 2 == 0 for t in texts[-1][40:]) / 40
        return texts[-1][:40], texts[-1][40:]

    (greedy, sampled), again, other_seed, later = (answers(*each) for each in ((0, 7), (0, 7), (1, 7), (0, 8)))
    assert (greedy, sampled) == again
    assert greedy == other_seed[0] == later[0] != sampled
    assert sampled != other_seed[1] != later[1] != sampled


def test_the_share_of_the_commonest_answer(train_here: Train, tmp_path: Path) -> None:
    """Against the greedy answers of the model that the run saved."""
    from collections import Counter

    from pgsrm.models.load import load_model, load_tokenizer
    from pgsrm.models.settings import ModelSettings
    from pgsrm.policy.fast.policy import FastPolicy

    folder = train_here("ppo.actor_lr=1e-3")
    settings = ModelSettings(path=str(folder.model))
    codec = Codec(load_tokenizer(settings))
    policy = FastPolicy(load_model(settings, torch.device("cpu")), None, codec.eos)
    last = evaluations(folder)[-1]
    task = load_task({**json_config(folder)["task"]})
    for split, examples in (("train", task.train), ("holdout", task.holdout)):
        texts = codec.decode(policy.greedy([codec.encode(e.prompt) for e in examples], task.max_new_tokens))[0]
        counts = Counter(texts)
        assert last[f"eval/{split}_top_share"] == pytest.approx(counts.most_common(1)[0][1] / len(texts))
        assert last[f"eval/{split}_distinct"] == pytest.approx(len(counts) / len(texts))


def json_config(folder: RunFolder) -> dict[str, Any]:
    from pgsrm.config.plan import load_settings

    return load_settings(folder)[1]


def test_the_other_reward_is_pgsrms_under_the_other_embedder(train_here: Train) -> None:
    """Under reward=pgsrm with its defaults and the same embedder it is the reward; whatever else is rewarded, it is that."""
    same = train_here(OTHER)
    for line in evaluations(same):
        assert line["eval/train_other_reward"] == pytest.approx(line["eval/train_reward"], rel=1e-6)
        assert line["eval/holdout_other_reward"] == pytest.approx(line["eval/holdout_reward"], rel=1e-6)
    binary, steep = train_here(OTHER, "reward=binary"), train_here(OTHER, "reward.alpha=8")
    for folder in (binary, steep):  # before training all are the same policy
        assert evaluations(folder)[0]["eval/train_other_reward"] == evaluations(same)[0]["eval/train_other_reward"]
        assert evaluations(folder)[0]["eval/train_reward"] != evaluations(same)[0]["eval/train_reward"]


# Identity


def test_what_an_evaluation_can_do_besides_leaves_a_default_run_its_name(small: Sequence[str], tmp_path: Path) -> None:
    """The names of runs that were made before these keys existed."""
    new = ("evaluation.text", "evaluation.embedder", "parent.error_rate", "parent.error_seed", "parent.right")
    small = [*small, *SHIPPED_TEXT]
    plain = make_plan(*small).identity
    assert make_plan(*small, without=new).identity == plain
    for number, name in enumerate(("a.txt", "b.txt", "c.txt")):
        (tmp_path / name).write_text(f"Some plain text, {number // 2}.")
    texts = [make_plan(*small, f"evaluation.text={tmp_path / name}").identity for name in ("a.txt", "b.txt", "c.txt")]
    assert texts[0] == texts[1] != texts[2]  # by content
    others = [make_plan(*small, each).identity for each in ("evaluation.text=null", OTHER, "parent.error_rate=0.5")]
    assert len({plain, *texts, *others}) == 6


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("evaluation.text=nowhere.txt", "evaluation.text=nowhere.txt: can't be read (No such file or directory); give"),
        ("evaluation.text=one.txt", "evaluation.text=one.txt: has less than two words; give"),
        ("evaluation.text=latin.txt", "evaluation.text=latin.txt: not UTF-8; save the file as UTF-8"),
        ("evaluation.embedder={path:x}", "evaluation.embedder._target_: missing"),
        ("embedder@evaluation.embedder=numberbatch", "evaluation.embedder.path=???: has no value"),
        ("embedder@evaluation.embedder=statik", "embedder=statik: unknown embedder"),
        ("parent.error_rate=1.5", "parent.error_rate=1.5: expected `float` <= 1.0; set parent.error_rate"),
    ],
)
def test_bad_input(
    call_cli: Callable[..., Any], small: Sequence[str], tmp_path: Path, override: str, what: str
) -> None:
    (tmp_path / "one.txt").write_text("word")
    (tmp_path / "latin.txt").write_bytes("caf\u00e9 cr\u00e8me".encode("latin-1"))
    result = call_cli(*small, override)
    assert result.code == 2
    assert what in result.error_line
    assert not (tmp_path / "outputs/runs").exists()


# A parent that errs


def antonyms(**task: Any) -> Task:
    from omegaconf import OmegaConf

    return load_task({**OmegaConf.load(conf_folder() / "task/antonym.yaml"), "holdout": 0.0, **task})


def errors(task: Task, rate: float, seed: int = 0) -> dict[str, str]:
    return {e.prompt: e.error for e in with_mistakes(task, rate, seed).train if e.error is not None}


def test_errors_come_at_the_asked_rate_and_are_nested() -> None:
    task = antonyms(holdout=0.2)
    found = {rate: errors(task, rate) for rate in (0.0, 0.1, 0.2, 0.4, 1.0)}
    assert [len(found[rate]) for rate in found] == [0, 10, 20, 40, 99]
    for less, more in ((0.1, 0.2), (0.2, 0.4), (0.4, 1.0)):
        assert found[less].items() <= found[more].items()
    assert errors(task, 0.2) == found[0.2] != errors(task, 0.2, seed=1)


def test_an_error_is_another_prompts_reference_and_no_right_answer() -> None:
    task = antonyms(holdout=0.2)
    wrong = with_mistakes(task, 1.0, 0)
    references = {example.reference for example in task.train}
    for example, right in zip(wrong.train, task.train, strict=True):
        assert example.error in references and example.taught == example.error
        assert not task.checker(example.error, example.reference, example.inputs)
        assert (example.prompt, example.reference, example.inputs) == (right.prompt, right.reference, right.inputs)
    assert wrong.holdout == task.holdout
    assert len({example.error for example in wrong.train}) > 30  # drawn, not one for all


def test_errors_do_not_depend_on_the_order_of_the_data_and_change_its_digest() -> None:
    task = antonyms()
    backwards = Task(task.train[::-1], [], task.checker, 2, task_digest(task.train[::-1], []))
    assert errors(task, 0.3).keys() == errors(backwards, 0.3).keys()
    digests = [with_mistakes(task, rate, seed).digest for rate, seed in ((0.0, 0), (0.1, 0), (0.1, 1), (0.2, 0))]
    assert digests[0] == task.digest and len(set(digests)) == 4


def test_where_every_answer_is_right_no_error_can_be_made() -> None:
    examples = [Example(f"{i} is ", "warm", {}, "user") for i in range(4)]
    with pytest.raises(UserError, match=r"parent\.error_rate: every reference of task\.data is right for '[0-3] is '"):
        with_mistakes(Task(examples, [], NormalizedEquality(), 2, ""), 0.5, 0)


ANSWERS = """
from pgsrm.task import NormalizedEquality
SEEN = []
def reward(*, prompts, references, **_):
    SEEN.append((list(prompts), list(references)))
    return [len(reference) / 20 for reference in references]
"""


def test_training_sees_the_errors_and_evaluations_the_right_references(
    train_here: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "seen.py").write_text(ANSWERS)
    monkeypatch.syspath_prepend(tmp_path)
    folder = train_here("~reward", "+reward={_target_:seen.reward,_partial_:true}", "parent.error_rate=1")
    import seen  # type: ignore[import-not-found]

    right = {example.prompt: example.reference for example in antonyms().train}
    wrong = errors(antonyms(holdout=0.2), 1.0)
    batches = [batch for batch in seen.SEEN if len(batch[0]) == 4]
    whole = [batch for batch in seen.SEEN if len(batch[0]) > 4]
    assert len(batches) == 4 and len(whole) == 6
    for prompts, references in batches:
        assert references == [wrong[prompt] for prompt in prompts]
    for prompts, references in whole:
        assert references == [right[prompt] for prompt in prompts]
    for sample in rows(folder.samples):
        assert sample["reference"] == wrong[sample["prompt"]]


def answered(path: Path, answers: Mapping[str, str]) -> Path:
    """A references' file for the antonyms: the data's own answers, but for those given."""
    lines = [{**e.inputs, "reference": answers.get(e.inputs["word"], e.reference)} for e in antonyms().train]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_parents_own_errors_are_trained_on_and_measured_against_the_datas_references(
    tmp_path: Path,
) -> None:
    whole = antonyms(holdout=0.2)
    trained, held = whole.train[0], whole.holdout[0]
    given = answered(tmp_path / "answers.jsonl", {trained.inputs["word"]: "sofa", held.inputs["word"]: "sofa"})
    plans = {right: make_plan("task=antonym", "task.holdout=0.2", f"parent.references={given}", f"parent.right={right}")
             for right in ("parent", "data")}  # fmt: skip
    tasks = {right: build_task(plan.config) for right, plan in plans.items()}
    assert [(e.reference, e.error) for e in (tasks["parent"].train[0], tasks["parent"].holdout[0])] == [
        ("sofa", None)
    ] * 2
    first = tasks["data"].train[0]
    assert (first.prompt, first.reference, first.taught) == (trained.prompt, trained.reference, "sofa")
    assert tasks["data"].train[1:] == whole.train[1:] and tasks["data"].holdout == whole.holdout
    assert plans["parent"].identity != plans["data"].identity


def test_a_file_of_the_datas_own_answers_is_the_same_run_whoever_is_right(tmp_path: Path) -> None:
    given = answered(tmp_path / "answers.jsonl", {})
    words = ([], [f"parent.references={given}"], [f"parent.references={given}", "parent.right=data"])
    assert len({make_plan("task=antonym", *each).identity for each in words}) == 1


def test_where_the_data_has_no_references_a_parent_cannot_be_held_against_them(
    call_cli: Callable[..., Any], small: Sequence[str], tmp_path: Path
) -> None:
    (tmp_path / "words.csv").write_text("word\nhot\nglorp\n")
    (tmp_path / "answers.jsonl").write_text(
        '{"word": "hot", "reference": "cold"}\n{"word": "glorp", "reference": "sofa"}\n'
    )
    words = ("task=antonym", f"task.data={tmp_path}/words.csv", f"parent.references={tmp_path}/answers.jsonl")
    result = call_cli(*small, *words, "task.holdout=0", "parent.right=data")
    assert result.code == 2
    assert "parent.right=data: not every row" in result.error_line and "parent.right=parent" in result.error_line
    assert call_cli(*small, *words, "task.holdout=0", "dry_run=true").code == 0


def test_what_the_misled_prompts_are_answered() -> None:
    """Five prompts, three of them misled: one answered rightly, one with the error, one neither way."""
    from pgsrm.evaluation.evaluation import Evaluation
    from pgsrm.policy.sampling import Sampling
    from pgsrm.reward.scorer import Scorer

    rows = [("a", "x", None), ("b", "x", "y"), ("c", "x", "y"), ("d", "x", "y"), ("e", "y", None)]
    given = {"a": "x", "b": "x", "c": "y", "d": "z", "e": "x"}
    examples = [Example(prompt, reference, {}, "user", error) for prompt, reference, error in rows]

    class Fixed:
        """A policy and a codec whose token ids are the characters' codes."""

        positions = None

        def answers(self, prompts: list[list[int]], draws: Any) -> list[list[list[int]]]:
            greedy, _ = draws
            assert greedy[1].top_k == 1
            return [[[ord(given[chr(ids[0])])] for ids in prompts], [[ord("-")] for _ in prompts]]

        def decode(self, ids: list[list[int]]) -> tuple[list[str], list[Any]]:
            return [chr(each[0]) for each in ids], [[(0, 1)] for _ in ids]

    def reward(*, references: list[str], responses: list[str], **_: Any) -> list[float]:
        return [float(a == b) for a, b in zip(references, responses, strict=True)]

    def metrics_of(train: list[Example]) -> dict[str, float]:
        fixed: Any = Fixed()
        scorer = Scorer(reward, lambda text, reference, inputs: text == reference, eos=(0,))
        task = Task(train, [], scorer.checker, 1, "")
        ids = {example.prompt: [ord(example.prompt)] for example in train}
        return Evaluation(task, fixed, fixed, ids, scorer, Sampling(1), 0)(0)

    metrics = metrics_of(examples)
    assert metrics["eval/train_misled_exact_match"] == pytest.approx(1 / 3)
    assert metrics["eval/train_misled_error_match"] == pytest.approx(1 / 3)
    assert metrics["eval/train_exact_match"] == pytest.approx(2 / 5)
    assert metrics["eval/train_reward"] == pytest.approx(2 / 5)
    assert not any("misled" in name for name in metrics_of([examples[0], examples[4]]))


def test_a_finished_run_is_evaluated_again(train_here: Train) -> None:
    """The saved model, measured as the run's last update was."""
    from pgsrm.evaluation.__main__ import evaluate_run

    folder = train_here(OTHER, "parent.error_rate=0.2", "ppo.actor_lr=1e-3", "ppo.top_k=5")
    assert evaluate_run(folder) == pytest.approx(evaluations(folder)[-1], rel=1e-6)
    assert evaluations(folder)[-1] != evaluations(folder)[0]


def test_a_finished_run_is_evaluated_by_the_scale_that_its_reward_had(
    train_here: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong version: the deviation is that of this evaluation's answers alone."""
    from pgsrm.evaluation.__main__ import evaluate_run

    part = "+reward@reward.parts.near=text_metric"
    folder = train_here("reward=sum", part, "+reward.normalise.near=running", "ppo.actor_lr=1e-3")
    kept = json.loads(folder.reward.read_text())["reward"]["seen"]["near"]
    assert kept[0] == sum(line["episodes"] > 0 for line in folder.read_metrics()) * 4
    assert evaluate_run(folder) == pytest.approx(evaluations(folder)[-1], rel=1e-6)
    assert capsys.readouterr().err == ""
    folder.reward.unlink()
    assert evaluate_run(folder)["eval/train_reward"] != pytest.approx(
        evaluations(folder)[-1]["eval/train_reward"], rel=1e-3
    )
    told = capsys.readouterr().err
    assert (
        told.startswith(f"{folder.path}: has no reward.json, as a run of an earlier version") and told.count("\n") == 1
    )


def test_a_run_whose_reward_asks_the_policy_is_evaluated_again(
    train_here: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong version: the reward is given no policy."""
    from pgsrm.evaluation.__main__ import evaluate_run

    (tmp_path / "asking_reward.py").write_text(
        "class Asking:\n"
        "    def attach(self, policy, codec):\n"
        "        self.policy, self.codec = policy, codec\n\n"
        "    def __call__(self, *, prompts, responses, **_):\n"
        "        greedy = self.policy.greedy([self.codec.encode(prompt) for prompt in prompts], 2)\n"
        "        return [float(sum(ids) + len(text)) for ids, text in zip(greedy, responses, strict=True)]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    folder = train_here("~reward", "+reward._target_=asking_reward.Asking", "ppo.actor_lr=1e-3")
    assert evaluate_run(folder) == pytest.approx(evaluations(folder)[-1], rel=1e-6)


def test_only_a_finished_run_is_evaluated_again(run_cli: Callable[..., Any]) -> None:
    result = run_cli("nowhere", module="pgsrm.evaluation")
    assert result.code == 2
    assert result.error_line == "pgsrm: nowhere: no run's folder (it has no config.yaml); name one of outputs/runs"


def test_a_run_that_stopped_early_is_evaluated_as_it_was(train_here: Train) -> None:
    """What is sampled then follows from the updates that were made, not from those that were planned."""
    from pgsrm.evaluation.__main__ import evaluate_run

    folder = train_here(OTHER, "stop.metric=reward/std", "stop.mode=min", "stop.patience=1", "ppo.actor_lr=1e-3")
    assert (folder.status() or {})["update"] < (folder.status() or {})["updates"]
    assert evaluate_run(folder) == pytest.approx(evaluations(folder)[-1], rel=1e-6)


def test_exact_match_is_against_the_right_reference_whatever_is_rewarded() -> None:
    from pgsrm.reward import BinaryReward
    from pgsrm.reward.scorer import Scorer
    from pgsrm.rollout import Rollout

    score = Scorer(BinaryReward(NormalizedEquality()), NormalizedEquality(), eos=(0,))
    examples = [Example("up: ", "down", {}, "user", error="cold"), Example("hot: ", "cold", {}, "user")]
    for texts, rewards, exact in ((["cold", "cold"], [1.0, 1.0], 0.5), (["down", "cold"], [0.0, 1.0], 1.0)):
        scored = score(Rollout(examples, [[1], [1]], [[1], [1]], texts, [[(0, 4)], [(0, 4)]]))
        assert scored.totals == rewards
        assert scored.metrics["reward/exact_match"] == exact


def test_the_page_says_how_every_evaluation_is_made() -> None:
    """Each row of the evaluation's table has a formula or a definition."""
    section = (ROOT / "docs/metrics.md").read_text().partition("## Evaluation")[2].partition("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("| `eval/")]
    assert len(table) >= 7
    assert all(len(re.split(r"(?<!\\)\|", line)[2].strip()) > 10 for line in table)


def test_the_distance_of_a_policy_from_itself_is_0_also_under_dropout(load_policy: Callable[..., Any]) -> None:
    """Wrong version: ppo.dropout=true leaves units out of the policy, and not of the reference."""
    prompts = [[5, 6, 7], [5, 6]]
    policy = load_policy("gpt2", prompts=prompts)
    policy.model.train()
    assert distance(policy, prompts, [[50, 51, 0], [52, 0]])["kl"] == pytest.approx(0, abs=1e-6)
    assert policy.model.training
