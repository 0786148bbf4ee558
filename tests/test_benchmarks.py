"""The benchmarks run, their baseline is the package's update, and their count of multiply-adds is right."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, environment

import pgsrm
from benchmarks import methods, update
from benchmarks.arithmetic import Shape, Work, count_work
from benchmarks.baselines import TransformersLearner
from benchmarks.embedder import _count
from benchmarks.span_matching import measure
from pgsrm.config.compose import plan_words
from pgsrm.embedder.cache import VectorCache
from pgsrm.embedder.cached import CachedEmbedder
from pgsrm.ppo import update as update_steps
from pgsrm.ppo.settings import PPOSettings
from pgsrm.ppo.update import Learner, step
from pgsrm.rollout import Span, at_last_token

PROMPTS = [[5, 6, 7], [5, 6, 20, 21, 22], [5, 6, 30, 31], [5, 6, 7]]  # ragged, one twice
RESPONSES = [[50, 51, 0], [52, 53, 54], [0], [50, 51, 0]]
REWARDS = [1.0, 0.25, 0.5, 0.75]


def run_module(*arguments: str) -> list[str]:
    """The lines that `python -m ...` prints."""
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_update_prints_a_row_for_each_method(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    arguments = ["--shape", "tiny", "--methods", "fast,plain,batched,one_by_one", "--rounds", "1", "--batch", "4"]
    arguments += ["--seconds", "0.1", "--threads", "1", "--json", str(out)]
    lines = run_module("benchmarks.update", *arguments)
    for method in ("fast", "plain", "batched", "one_by_one"):
        (row,) = [line.split() for line in lines if line.startswith(f"{method}  ")]
        assert len(row) == 6
        assert all(float(number) > 0 for number in row[1:]), row
    for name in ("GEMM speed", "lower bound", "fast / lower bound"):
        (line,) = [line for line in lines if line.startswith(name)]
        assert float(line.removeprefix(name).split()[0]) > 0
    result = json.loads(out.read_text())
    assert [row["method"] for row in result["rows"]] == ["fast", "plain", "batched", "one_by_one"]
    assert result["setup"]["model"] == "tiny"


@pytest.mark.slow
def test_the_profile_of_an_update() -> None:
    arguments = ["--shape", "tiny", "--batch", "4", "--seconds", "0.1", "--threads", "1", "--profile", "5"]
    shares = [float(line.split("%")[0]) for line in run_module("benchmarks.update", *arguments)[1:]]
    assert len(shares) == 5 and shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 100


def test_the_fast_path_has_the_benchmarks_reward(tmp_path: Path, tiny: Path) -> None:
    """Wrong version: the others train on a free reward, the fast path on its task's own."""
    run = methods.load_run(methods.Setup(str(tiny), "color", 4, 2, "float32", "cpu", 1, 0.1))
    rollout = run.sample(run.draw_prompts())
    assert run.score(rollout).totals == methods.reward(rollout.response_ids)


def test_the_work_of_an_update_by_hand() -> None:
    """A prefix of 2 tokens; 3 distinct prompts with 1, 3 and 2 tokens of their own; 3 distinct pairs of 3, 3 and 1 tokens."""
    work = count_work(2, PROMPTS, RESPONSES)
    # policy: 2 + 6 of the prompts, 2 + 2 + 0 of the responses; sampling feeds 2 + 2 + 0 + 2, the reference 4
    # of the prompts' 8 tokens all but 3 ends are read for keys and values; logits: those 3 and 4; 6 in sampling, 4 the reference's
    assert work == Work(trained_tokens=12, trained_for_keys=5, read_tokens=10, trained_logits=7, read_logits=10)
    shape = Shape(layers=2, width=10, heads=2, vocabulary=30, positions=16)
    # a token 12 x 2 x 100 = 2400, a position's logits 300, an MLP 800: (36 + 10) x 2400 + (21 + 10) x 300 - 3 x 5 x 800
    assert work.multiply_adds(shape) == 110_400 + 9_300 - 12_000
    # two epochs: twice what is trained
    assert count_work(2, PROMPTS, RESPONSES, 2) == Work(24, 10, 10, 14, 10)
    # a Llama with one key head of two and 12 gated units: a token 2 x (2 x 100 + 2 x 10 x 5 + 3 x 10 x 12), an MLP 360
    llama = Shape(layers=2, width=10, heads=2, vocabulary=30, positions=16, key_heads=1, gated=12)
    assert work.multiply_adds(llama) == 46 * 1320 + 9_300 - 15 * 360


def test_a_workload_sets_what_the_command_line_does_not() -> None:
    args = update.parse(["--workload", "relc", "--batch", "4"])
    assert (args.task, args.ppo, args.batch, args.new_tokens) == ("sentiment_control", "per_token", 4, 19)
    assert update.parse([]).ppo == "sound"


def test_the_parts_of_an_update_add_up(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has some time, a part inside another counts once, and the sum is the update's time."""
    monkeypatch.setattr(torch.Tensor, "backward", torch.Tensor.backward)  # what is watched is as before afterwards
    monkeypatch.setattr(update_steps, "score_tokens", update_steps.score_tokens)
    monkeypatch.setattr(update_steps, "keep_reference", update_steps.keep_reference)
    monkeypatch.setattr(update_steps, "clip_grad_norm_", update_steps.clip_grad_norm_)
    setup = methods.Setup(str(tiny), "sentiment_control", 4, 3, "float32", "cpu", 1, 0.1, ppo="per_token")
    run, parts = methods.load_run(setup), methods.Parts()
    parts.watch(run)
    started = time.perf_counter()
    methods.update_once(run)
    took = time.perf_counter() - started
    found = parts.of([took])
    assert tuple(found) == methods.PARTS and all(seconds > 0 for seconds in found.values())
    assert sum(found.values()) == pytest.approx(took)


def ppo_of(choice: str) -> PPOSettings:
    return plan_words(f"ppo={choice}", "ppo.batch_size=4", "tracking=none").settings.ppo


@pytest.mark.parametrize("rows", [4, 1])
@pytest.mark.parametrize("ppo", ["sound", "per_token"])
def test_the_baseline_makes_the_packages_update(rows: int, ppo: str, load_policy: Callable[..., Any]) -> None:
    """Losses, gradients and new weights of two updates: the value head is zero before the first."""
    settings = ppo_of(ppo)
    ours, theirs = load_policy(prompts=PROMPTS[:3]), load_policy()
    with torch.no_grad():  # a policy that is its own reference has no KL
        for parameter in [*ours.model.parameters(), *theirs.model.parameters()]:
            parameter.mul_(1.1)
    learner = Learner(ours, settings, torch.Generator())
    plain = TransformersLearner(theirs.model, theirs.reference, settings, eos=0, rows=rows)
    for _ in range(2):
        expected = step(learner, PROMPTS, RESPONSES, at_last_token(REWARDS, RESPONSES))
        for name, value in plain.learn(PROMPTS, RESPONSES, REWARDS).items():
            assert value == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name
        compare_gradients(plain.model, ours.model)
        compare_gradients(plain.value_head, learner.value_head)
    for mine, other in zip(plain.model.parameters(), ours.model.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def compare_gradients(plain: Any, ours: Any) -> None:
    """Within 1e-4 of each tensor's norm."""
    for (name, mine), other in zip(plain.named_parameters(), ours.parameters(), strict=True):
        assert (mine.grad - other.grad).norm() <= 1e-4 * other.grad.norm() + 1e-7, name


def test_the_baseline_cuts_a_response_behind_its_eos(load_policy: Callable[..., Any]) -> None:
    """The first response's second token is made EOS, and the same random numbers are drawn again."""
    policy = load_policy()

    def sample(eos: int) -> list[list[int]]:
        torch.manual_seed(3)
        policy.model.generation_config.eos_token_id = eos
        return TransformersLearner(policy.model, policy.reference, ppo_of("sound"), eos, rows=1).sample(PROMPTS, 4)

    whole = sample(eos=0)[0]
    assert len(whole) == 4
    assert sample(eos=whole[1])[0] == whole[: whole.index(whole[1]) + 1]


@pytest.mark.slow
def test_startup_prints_a_row_for_each_command() -> None:
    lines = run_module("benchmarks.startup", "--repeat", "1")
    for name in ("import hydra", "--help", "--cfg job", "config error", "config error, sweep", "torch, transformers"):
        (row,) = [line for line in lines if line.startswith(f"{name}  ")]
        assert all(float(number) > 0 for number in row.removeprefix(name).split()), row


def test_matmul_prints_a_row_for_each_product() -> None:
    lines = run_module("benchmarks.matmul", "--shape", "tiny", "--threads", "1", "--seconds", "0.01")
    assert lines[1].endswith("taken here")
    assert len(lines) == 14
    for line in lines[2:]:
        *_, ratio, taken = line.split()
        assert float(ratio) > 0 and taken in ("MKL", "oneDNN"), line


@pytest.mark.slow
def test_embedder_prints_both_tables() -> None:
    arguments = ["--words", "3000", "--dimension", "8", "--updates", "1", "--task", "color", "--embedders", "static"]
    lines = run_module("benchmarks.embedder", *arguments)
    assert lines[0].startswith("3,000 words in 8 dimensions, ")
    cpu = {}
    for name in ("first start, alone", "later start, alone", "first start, four at once", "later start, four at once"):
        (row,) = [line.removeprefix(name).split() for line in lines if line.startswith(f"{name}  ")]
        assert len(row) == 4
        cpu[name] = float(row[1])
    assert cpu["later start, alone"] < cpu["first start, alone"]  # it reads what the other has converted
    (row,) = [line.split() for line in lines if line.startswith("static  ")]
    assert row[1] == "-" and float(row[2]) > float(row[3]) > 0 and row[-1] == "0.0"


def test_embedder_counts_time_and_unseen_texts(tmp_path: Path) -> None:
    class Words:
        def embed(self, texts: list[str]) -> None:
            sum(range(2_000_000))

    class Letters(CachedEmbedder):
        digest = "letters"

        def _embed_unseen(self, texts: list[str]) -> np.ndarray:
            return np.array([[len(text), 1.0] for text in texts])

    class Counted(Letters):  # whose methods are replaced, not the package's
        embed = Letters.embed
        _checked = Letters._checked

    spent = {"embedder": 0.0, "unseen": 0.0}
    _count(Words, Counted, spent)
    embedder = Counted(VectorCache(str(tmp_path)))
    embedder.embed(["a", "bb", "a", ""])
    embedder.embed(["bb", "ccc"])
    assert spent["unseen"] == 3
    before = spent["embedder"]
    Words().embed([])
    assert spent["embedder"] > before > 0


def test_spans_lost_and_invented_by_hand() -> None:
    class Words:
        """A codec whose tokens are words with the blank before them."""

        def encode_text(self, text: str) -> str:
            return text

        def decode(self, texts: list[str]) -> tuple[list[str], list[list[tuple[int, int]]]]:
            ends = [[i for i, letter in enumerate(text) if letter == " "] + [len(text)] for text in texts]
            return texts, [list(zip([0, *row], row, strict=False)) for row in ends]

    # tokens "a", " warm", " film", " arm"; "a" and "arm" are in "warm", but not as words
    texts = [("a warm film arm", (Span(2, 6, "positive"),)), ("a", (Span(0, 1, "negative"),))]
    codec: Any = Words()
    stripped, unstripped = (measure(codec, texts, way) for way in ("released_sentiment", "released_detox"))
    assert (stripped["recall"], stripped["precision"], stripped["lost"]) == (1, 2 / 4, 0)
    assert (unstripped["recall"], unstripped["precision"], unstripped["lost"]) == (1 / 2, 1 / 2, 1 / 2)
    exact = measure(codec, texts, "offset")
    assert (exact["recall"], exact["precision"], exact["lost"], exact["spans"]) == (1, 1, 0, 2)


@pytest.mark.slow
def test_sweep_prints_a_row_for_each_step() -> None:
    lines = run_module("benchmarks.sweep", "--runs", "4", "--loggers", "0")
    assert lines[0].startswith("4 runs") and [line[:4] for line in lines[1:]] == ["plan", "free", "the ", "stat"]
    assert all(float(number) > 0 for line in lines[1:] for number in line.split()[-3:])


@pytest.mark.slow
def test_evaluation_prints_its_parts(tiny: Path) -> None:
    words = [f"model.path={tiny}", "task=antonym", "evaluation.prompts=8"]
    lines = run_module("benchmarks.evaluation", "--rounds", "1", *words)
    assert lines[0].endswith(", 16 prompts") and len(lines) == 6
    assert all(float(line.removesuffix(" s").split()[-1]) > 0 for line in lines[1:])


@pytest.mark.slow
def test_together_prints_a_row_for_each_number_of_runs(tiny: Path) -> None:
    words = [f"model.path={tiny}", "model.device=cpu", "task=antonym", "reward=binary", "ppo.batch_size=4", "threads=1"]
    lines = run_module("benchmarks.together", "--runs", "1,2", "--seconds", "0.2", *words)
    one, two = (line.split() for line in lines[-2:])
    assert [one[0], two[0]] == ["1", "2"] and float(one[3]) == 1.0
    assert float(two[3]) == pytest.approx(float(two[2]) / float(one[2]), abs=0.02)
    assert float(two[2]) == pytest.approx(float(two[1]) * 2, rel=0.5)


@pytest.mark.slow
def test_together_ends_when_one_run_fails(tiny: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.together", "--runs", "2", f"model.path={tiny}", "task=antonim"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "unknown task" in done.stderr and "2 runs at once: one of them failed" in done.stderr


@pytest.mark.slow
def test_the_share_before_training(tmp_path: Path) -> None:
    """Both rewards' runs start from one model, which is asked once: nano's color answers are right in 4 of 100 draws."""
    for reward in ("pgsrm", "binary"):
        words = ["task=color", f"reward={reward}", "ppo.episodes=20", "ppo.batch_size=10", "evaluation.text=null"]
        pgsrm.train(*words, "tracking=none", "threads=1", f"paths.outputs={tmp_path}", progress=False)
    lines = run_module("benchmarks.share", str(tmp_path), "--draws", "4", "--out", str(tmp_path / "share.png"))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert [row[:2] + row[4:5] for row in rows] == [["nano", "color", name] for name in ("PGSRM", "Binary")]
    right, drawn = (int(number) for number in rows[0][3].split("(")[1].rstrip(")").split(" of "))
    assert drawn == 4 * 72 and 1 <= right <= 32  # 0.037 of 288 are 11
    assert rows[1][3] == rows[0][3] and all(row[6].endswith(" of 1") for row in rows)
    assert (tmp_path / "share.png").stat().st_size > 1000
