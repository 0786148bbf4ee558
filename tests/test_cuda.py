"""On a GPU: the numbers of the CPU, the waits that test_waits.py counts, and a resumed run like one that was not cut."""

import copy
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from conftest import in_float64, whole_and_resumed
from test_simple_policy import CHOICES, PROMPTS, assert_equal_training, ppo_settings

from pgsrm.models.precision import multiply_in_tf32
from pgsrm.models.settings import Dtype
from pgsrm.policy.fast.policy import FastPolicy
from pgsrm.policy.graphed import GraphedPolicy
from pgsrm.policy.sampling import Sampling
from pgsrm.policy.simple import SimplePolicy
from pgsrm.ppo.update import Learner, step
from pgsrm.record.measured import is_measured
from pgsrm.rollout import at_last_token

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
LoadPolicy = Callable[..., Any]
GPU = torch.device("cuda")
SHORT = ["task.min_new_tokens=4", "task.max_new_tokens=8"]


@pytest.fixture(autouse=True)
def _float32() -> None:
    """As a process begins: a run with model.dtype=tfloat32 changes it for all that follow."""
    multiply_in_tf32(GPU, False)


def on_gpu(policy: FastPolicy, kind: type[FastPolicy] | type[SimplePolicy] = FastPolicy, **options: Any) -> Any:
    """The same policy there."""
    model = copy.deepcopy(policy.model).to(GPU)
    if kind is FastPolicy:
        options["prompts"] = policy.prompts
    return kind(model, copy.deepcopy(model), policy.eos, padding=policy.padding, **options)


def updates(policy: Any, choice: str) -> Callable[[], None]:
    """What makes an update of ten responses of up to three tokens."""
    learner = Learner(policy, ppo_settings(choice), torch.Generator().manual_seed(0))

    def update() -> None:
        uniforms = torch.rand(10, 3, dtype=torch.float64)
        sampled = policy.sample(PROMPTS * 2, uniforms, Sampling(3), learner.reuses_prefill(10))
        rewards = at_last_token([float(row) for row in range(10)], sampled.responses)
        step(learner, PROMPTS * 2, sampled.responses, rewards, sampled.prefill)

    return update


def waits(call: Callable[[], None]) -> list[str]:
    """Where the host waits for the GPU within a call."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return [f"{w.filename}:{w.lineno}" for w in seen if "synchroniz" in str(w.message)]


@pytest.mark.parametrize("tolerance", [1e-3, 1e-9], ids=["float32", "float64"])
@pytest.mark.parametrize("architecture", ["gpt2", "qwen2"])
@pytest.mark.parametrize("choice", CHOICES)
def test_training_has_the_cpus_numbers(
    load_policy: LoadPolicy, monkeypatch: pytest.MonkeyPatch, architecture: str, choice: str, tolerance: float
) -> None:
    settings, double = ppo_settings(choice), tolerance < 1e-8
    if double:
        in_float64(monkeypatch)
    policy = load_policy(architecture, double=double, prompts=PROMPTS, padding=settings.padding)
    there = on_gpu(policy)
    there._asks_every = 2
    # the responses' tensors are compared where the policy is
    monkeypatch.setattr(torch.testing, "assert_close", _close_anywhere(torch.testing.assert_close))
    assert_equal_training(there, policy, settings, tolerance)


def _close_anywhere(assert_close: Callable[..., None]) -> Callable[..., None]:
    def compare(one: torch.Tensor, other: torch.Tensor, **options: Any) -> None:
        assert_close(one.cpu(), other.cpu(), **options)

    return compare


@pytest.mark.parametrize("architecture", ["gpt2", "qwen2"])
def test_the_fast_policy_has_the_simple_ones_numbers(
    load_policy: LoadPolicy, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    in_float64(monkeypatch)
    settings = msgspec.structs.replace(ppo_settings("sound"), micro_batch=3)
    policy = load_policy(architecture, double=True, prompts=PROMPTS)
    assert_equal_training(
        on_gpu(policy), on_gpu(policy, SimplePolicy, gradient_checkpointing=True), settings, tolerance=1e-9
    )


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize(("choice", "steps"), [("sound", 1), ("per_token", 2)])
def test_an_update_waits_once_for_its_tokens_and_once_a_gradient_step(
    load_policy: LoadPolicy, choice: str, steps: int, bfloat16: bool
) -> None:
    policy = on_gpu(load_policy(prompts=PROMPTS), bfloat16=bfloat16)
    update = updates(policy, choice)
    update()
    found = waits(update)
    assert len(found) == 1 + steps, found


def test_bfloat16_is_near_float32(load_policy: LoadPolicy) -> None:
    policy = load_policy(prompts=PROMPTS)
    exact, near = on_gpu(policy), on_gpu(policy, bfloat16=True)
    responses = [[1, 2, 3]] * len(PROMPTS)
    one, other = (p.score(p.pad(PROMPTS, responses)).logits.log_softmax(-1).detach().cpu() for p in (exact, near))
    assert 1e-6 < (one - other).norm() / one.norm() < 2e-2


@pytest.mark.parametrize(
    "words",
    [
        ["task=antonym", "model.policy=fast"],
        ["task=antonym", "ppo=released", "ppo.batch_size=4"],
        ["task=sentiment_control", "reward=critic", "critic=nano", *SHORT],
        ["task=antonym", "model.policy=fast", "model.dtype=bfloat16"],
        ["task=antonym", "model.policy=graphed"],
        ["task=antonym", "model.policy=graphed", "ppo.epochs=2", "ppo.clip_range=0.2", "ppo.micro_batch=2"],
        ["task=antonym", "model.policy=graphed", "model.dtype=bfloat16"],
        ["task=antonym", "model.policy=graphed", "model.dtype=tfloat32"],
    ],
    ids=["word", "released", "critic", "bfloat16", "graphs", "graphs-epochs", "graphs-bfloat16", "graphs-tfloat32"],
)
def test_a_run_that_was_cut_ends_as_one_that_was_not(
    small: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    words = [*small, *words, "model.device=cuda", "seed=3"]
    if "critic=nano" in words:
        words.append(f"critic.cache={tmp_path / 'replies'}")
    whole, resumed = whole_and_resumed(words, monkeypatch)
    # replies are kept, so that the second run asks less
    asked = ("critic/calls", "critic/cache_hits")
    without_times = [name for name in whole if not is_measured(name) and name not in asked]
    assert resumed[without_times].equals(whole[without_times])
    assert (whole["memory/cuda_peak"].dropna() > 0).all() and whole["memory/cuda_peak"].notna().any()


def test_classifiers_have_the_cpus_numbers() -> None:
    from pgsrm.reward.classifier import ClassifierReward

    texts = ["a lovely day in the park", "what a dreadful and boring film", "it was fine"]
    for path, label in (("sentiment_gold", "positive"), ("toxicity_gold", "civil")):
        here, there = (
            ClassifierReward(path, label, device=device)(prompts=[""] * 3, responses=texts)
            for device in ("cpu", "cuda")
        )
        assert list(there) == pytest.approx(list(here), abs=1e-4)


def test_the_shipped_critic_says_the_same(tmp_path: Path) -> None:
    from pgsrm.critic.local import LocalCritic

    texts = ["a lovely day in the park", "what a dreadful and boring film", "the plot is dull, the acting superb"]
    said = []
    for device in ("cpu", "cuda"):
        critic = LocalCritic(device=device, cache=str(tmp_path / device))
        said.append(critic(prompts=["The film is"] * 3, responses=texts, extrinsic=None))
    assert said[0] == said[1]


# CUDA graphs


def graphed(policy: FastPolicy, length: int = 3, bfloat16: bool = False) -> GraphedPolicy:
    """The same model there, with room for responses of `length` tokens."""
    model = copy.deepcopy(policy.model).to(GPU)
    dtype: Dtype = "bfloat16" if bfloat16 else "float32"
    return GraphedPolicy(model, copy.deepcopy(model), policy.eos, policy.prompts, length, dtype)


@pytest.mark.parametrize("architecture", ["gpt2", "qwen2"])
@pytest.mark.parametrize(
    ("choice", "changes"),
    [
        ("sound", {}),
        ("sound", {"micro_batch": 3}),
        ("sound", {"epochs": 2, "micro_batch": 4, "clip_range": 0.2}),
        ("sound", {"baseline": "response_value"}),
        ("per_token", {"epochs": 2, "minibatches": 3}),
        ("grpo", {}),
    ],
    ids=str,
)
@pytest.mark.parametrize(("tolerance", "length"), [(1e-9, 3), (1e-9, 5), (1e-3, 3)])
def test_the_policy_of_graphs_has_the_simple_ones_numbers(
    load_policy: LoadPolicy,
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
    choice: str,
    changes: dict[str, Any],
    tolerance: float,
    length: int,
) -> None:
    double = tolerance < 1e-8
    if double:
        in_float64(monkeypatch)
    policy = load_policy(architecture, double=double, prompts=PROMPTS)
    settings = msgspec.structs.replace(ppo_settings(choice), **changes)
    assert_equal_training(graphed(policy, length), on_gpu(policy, SimplePolicy), settings, tolerance)


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize(("choice", "steps"), [("sound", 1), ("per_token", 2)])
def test_an_update_by_graphs_waits_and_grows_no_more_than_it_has_to(
    load_policy: LoadPolicy, choice: str, steps: int, bfloat16: bool
) -> None:
    """One wait for the tokens, one a gradient step; and the memory of the second update after the twentieth."""
    policy = graphed(load_policy(prompts=PROMPTS), bfloat16=bfloat16)
    update = updates(policy, choice)
    update()
    found = waits(update)
    assert len(found) == 1 + steps, found
    torch.cuda.synchronize()
    before, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    for _ in range(20):
        update()
    torch.cuda.synchronize()
    # what an update leaves may be a response's token longer or shorter
    assert torch.cuda.memory_allocated() - before < 1 << 16
    assert torch.cuda.memory_reserved() - reserved <= 4 << 20


def test_graphs_read_the_weights_that_there_are(load_policy: LoadPolicy) -> None:
    """In bfloat16 too, whose copies of the weights a replay makes again; shapes in turn; gradients of two passes at once."""
    policy = load_policy(prompts=PROMPTS)
    responses = [[1, 2, 3], [4], [5, 6], [7, 0], [8]]
    for bfloat16, limit in ((False, 1e-4), (True, 2e-2)):
        mine, fast = graphed(policy, bfloat16=bfloat16), on_gpu(policy, bfloat16=bfloat16)
        for seed in range(3):
            torch.manual_seed(seed)
            with torch.no_grad():
                for one, other in zip(mine.model.parameters(), fast.model.parameters(), strict=True):
                    one.add_(0.02 * torch.randn_like(one))
                    other.copy_(one)
            mine.weights_changed()
            fast.weights_changed()
            for rows in (5, 3, 5):
                found = []
                for each in (mine, fast):
                    each.model.zero_grad()
                    total: Any = 0.0
                    for answers in (responses[:rows], responses[::-1][:rows]):
                        batch = each.pad(PROMPTS[:rows], answers)
                        scores = each.score(batch)
                        logprobs = scores.logits.log_softmax(-1)[scores.contexts.place]
                        total = total + logprobs.gather(-1, batch.response_ids[..., None])[batch.response_mask].sum()
                    total.backward()
                    found.append(torch.cat([p.grad.flatten() for p in each.model.parameters()]))
                assert (found[0] - found[1]).norm() / found[1].norm() < limit


def test_an_update_by_graphs_launches_little(load_policy: LoadPolicy) -> None:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    policy = graphed(load_policy(prompts=PROMPTS))
    update = updates(policy, "sound")
    for _ in range(2):
        update()
    with record(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        update()
        torch.cuda.synchronize()
    counts = {event.key: event.count for event in profiler.key_averages() if event.key.startswith("cu")}
    assert sum(count for name, count in counts.items() if "GraphLaunch" in name) == 4, counts
    assert sum(count for name, count in counts.items() if "LaunchKernel" in name) < 500, counts
