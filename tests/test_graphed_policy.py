"""The policy of CUDA graphs, computed on a CPU without them: the same code on the same fixed tensors, but for the capture."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
import torch
from captured import capture_on_cpu
from conftest import Result, in_float64, whole_and_resumed
from test_policy import WINDOW, tiny_of
from test_simple_policy import CHOICES, PROMPTS, assert_equal_training, ppo_settings
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel
from waits import waits

from pgsrm.models.lora import add_adapters
from pgsrm.models.precision import multiply_in_tf32
from pgsrm.models.settings import Dtype, LoraSettings, ModelSettings
from pgsrm.policy import choose, graphed
from pgsrm.policy.base import greedily
from pgsrm.policy.choose import build_policy
from pgsrm.policy.fast.policy import FastPolicy
from pgsrm.policy.graphed import GraphedPolicy
from pgsrm.policy.sampling import Sampling
from pgsrm.policy.simple import SimplePolicy
from pgsrm.ppo.update import Learner, step
from pgsrm.record.measured import is_measured
from pgsrm.rollout import at_last_token
from pgsrm.util.errors import UserError

LoadPolicy = Callable[..., Any]
SUPPORTED = [choice for choice in CHOICES if ppo_settings(choice).padding == "left"]
RESPONSES = [[50, 51, 0], [52], [53, 0], [54, 55, 56], [57, 58]]


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole masks, whatever else spares the host a wait, and operations that are captured and replayed."""
    for module in ("matrices", "forward", "policy"):
        monkeypatch.setattr(f"pgsrm.policy.fast.{module}.is_asynchronous", lambda device: True)
    capture_on_cpu(monkeypatch)


def policies(load_policy: LoadPolicy, architecture: str = "gpt2", length: int = 3, **options: Any) -> tuple[Any, Any]:
    """The policy of a tiny model, and the simple one of the same model."""
    model = load_policy(architecture, **options).model
    one, other = copy.deepcopy(model), copy.deepcopy(model)
    mine = GraphedPolicy(one, copy.deepcopy(model), (0,), PROMPTS, length)
    return mine, SimplePolicy(other, copy.deepcopy(model), (0,))


def logprobs(policy: Any, prompts: Sequence[list[int]], responses: Sequence[list[int]]) -> Tensor:
    batch = policy.pad(prompts, responses)
    scores = policy.score(batch)
    there = scores.logits.log_softmax(-1)[scores.contexts.place]
    return there.gather(-1, batch.response_ids[..., None])[..., 0] * batch.response_mask


# Numbers


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("tolerance", [1e-5, 1e-10], ids=["float32", "float64"])
@pytest.mark.parametrize("choice", SUPPORTED)
def test_training_is_the_simple_policys_for_every_choice_of_ppo(
    load_policy: LoadPolicy, monkeypatch: pytest.MonkeyPatch, choice: str, tolerance: float
) -> None:
    """Three updates: responses of several lengths, EOS within them, prompts of several lengths, one of them a prefix longer."""
    double = tolerance < 1e-8
    if double:
        in_float64(monkeypatch)
    mine, simple = policies(load_policy, double=double)
    assert_equal_training(mine, simple, ppo_settings(choice), tolerance)
    assert mine._recordings


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen2"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"micro_batch": 3},
        {"baseline": "response_value"},
        {"baseline": "token_values", "epochs": 2, "minibatches": 3, "clip_range": 0.2},
        {"epochs": 2, "micro_batch": 4, "clip_range": 0.2},
    ],
    ids=str,
)
@pytest.mark.parametrize(("length", "prefix_pays"), [(3, False), (3, True), (5, True)])
def test_training_is_the_simple_policys_for(
    load_policy: LoadPolicy,
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
    changes: dict[str, Any],
    length: int,
    prefix_pays: bool,
) -> None:
    """With room for as many tokens as there are, and for more; the shared prefix computed in every row, and once."""
    in_float64(monkeypatch)
    monkeypatch.setattr(graphed, "_prefix_pays", lambda *_: prefix_pays)
    mine, simple = policies(load_policy, architecture, length, double=True)
    assert_equal_training(mine, simple, msgspec.structs.replace(ppo_settings("sound"), **changes), 1e-10)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_recorded_pass_holds_no_node_of_a_parameter(load_policy: LoadPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier graph holds those nodes with the stream that they were made on, which CUDA refuses within a capture."""
    mine, _ = policies(load_policy)
    parameters, found = {id(parameter) for parameter in mine.model.parameters()}, list[int]()
    grad = torch.autograd.grad

    def noted(result: Tensor, *given: Any, **options: Any) -> Any:
        nodes, seen = [result.grad_fn], set[Any]()
        while nodes:
            node = nodes.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            nodes += [below for below, _ in node.next_functions]
            if hasattr(node, "variable"):
                found.append(id(node.variable))
        return grad(result, *given, **options)

    monkeypatch.setattr(torch.autograd, "grad", noted)
    first = logprobs(mine, PROMPTS[:3], RESPONSES[:3]).sum()
    first.backward()
    logprobs(mine, PROMPTS[3:], RESPONSES[3:]).sum().backward()  # of another shape, while the first one's graph lives
    assert found and not parameters & set(found)
    assert {id(parameter) for parameter in mine.model.parameters()} == parameters


def test_what_no_recording_has_room_for_is_computed_all_the_same(
    load_policy: LoadPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts from outside the task, longer ones, longer responses, and more logits than may be kept."""
    mine, simple = policies(load_policy)
    assert mine.positions is not None
    most = [50] * (mine.positions - 1)  # behind the prompt of one token, and with no room behind the longest prompt
    cases = [
        ([[9, 8, 7], [4], [5, 6, 7, 8, 9], [1, 2], [3]], RESPONSES, True),  # without the prefix
        ([*PROMPTS[:4], list(range(5, 25))], RESPONSES, False),
        (PROMPTS, [[50, 51, 52, 53, 54], *RESPONSES[1:]], True),
        ([[4]], [most], False),
        (PROMPTS, RESPONSES, True),
    ]
    for prompts, responses, recorded in cases:
        mine._recordings.clear()
        torch.testing.assert_close(logprobs(mine, prompts, responses), logprobs(simple, prompts, responses))
        assert bool(mine._recordings) == recorded
        (one, places), (other, others) = (
            policy.score_reference(policy.pad(prompts, responses)) for policy in (mine, simple)
        )
        mask = simple.pad(prompts, responses).response_mask
        torch.testing.assert_close(one[places.place[mask]], other[others.place[mask]], rtol=1e-4, atol=1e-4)
        ways = [greedily(len(prompts), 4), (torch.rand(len(prompts), 4, dtype=torch.float64), Sampling(4))]
        assert mine.answers(prompts, ways) == simple.answers(prompts, ways)
    monkeypatch.setattr(graphed, "LOGITS_LIMIT", 1000)
    mine._recordings.clear()
    torch.testing.assert_close(logprobs(mine, PROMPTS, RESPONSES), logprobs(simple, PROMPTS, RESPONSES))
    assert not mine._recordings


def test_a_recording_is_made_once_a_shape(load_policy: LoadPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, _ = policies(load_policy)
    uniforms = torch.rand(5, 3, dtype=torch.float64)
    for _ in range(3):
        mine.sample(PROMPTS, uniforms, Sampling(3))
        logprobs(mine, PROMPTS, RESPONSES).sum().backward()
    assert len(mine._recordings) == 2
    mine.sample(PROMPTS, uniforms, Sampling(3, top_k=5))
    mine.sample(PROMPTS[:2], uniforms[:2], Sampling(3))
    assert len(mine._recordings) == 4
    monkeypatch.setattr(graphed, "MOST_RECORDINGS", 4)
    mine.sample(PROMPTS[:3], uniforms[:3], Sampling(3))
    assert len(mine._recordings) == 1


@pytest.mark.parametrize("prefix_pays", [False, True])
def test_batches_of_several_sizes_share_recordings(
    load_policy: LoadPolicy, monkeypatch: pytest.MonkeyPatch, prefix_pays: bool
) -> None:
    """DPO leaves out another number of pairs each time, and references may be longer than what is sampled."""
    monkeypatch.setattr(graphed, "_prefix_pays", lambda *_: prefix_pays)
    mine, simple = policies(load_policy)
    prompts, responses = PROMPTS * 8, [*RESPONSES, [60, 61, 62, 63, 64, 65], *RESPONSES[1:]] * 4
    for rows in (37, 40, 33, 38, 31):  # what a larger batch left behind goes nowhere
        for policy in (mine, simple):
            policy.model.zero_grad()
            (logprobs(policy, prompts[:rows], responses[:rows]).exp().sum()).backward()
        for one, other in zip(mine.model.parameters(), simple.model.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)
        batch, theirs = mine.pad(prompts[:rows], responses[:rows]), simple.pad(prompts[:rows], responses[:rows])
        (one, places), (other, others) = mine.score_reference(batch), simple.score_reference(theirs)
        mask = theirs.response_mask
        torch.testing.assert_close(one[places.place[mask]], other[others.place[mask]], rtol=1e-4, atol=1e-4)
    assert sorted(key[:2] for key in mine._recordings) == [
        ("reference's rest", 32),
        ("reference's rest", 40),
        ("score", 32),
        ("score", 40),
    ]


def test_a_second_pass_leaves_the_first_ones_gradient_as_it_was(load_policy: LoadPolicy) -> None:
    """Two passes with gradient before a backward pass, as a loss of two batches has them; and gradients that add up."""
    mine, simple = policies(load_policy)
    others = [[60, 61, 62], [63], [64], [65, 66], [67]]
    for policy in (mine, simple):
        first, second = logprobs(policy, PROMPTS, RESPONSES), logprobs(policy, PROMPTS, others)
        (2 * first.sum() - second.square().sum()).backward()
        logprobs(policy, PROMPTS, others).sum().backward()
    for one, other in zip(mine.model.parameters(), simple.model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)


def test_an_update_beside_a_pass_that_is_held_is_the_simple_policys(load_policy: LoadPolicy) -> None:
    """Someone looks at `score` and keeps what it says: the KL stays one of the same tokens."""
    mine, simple = policies(load_policy)
    found = []
    for policy in (mine, simple):
        with torch.no_grad():
            for weight in policy.model.parameters():
                weight.mul_(1.05)
        held = policy.score(policy.pad(PROMPTS, RESPONSES))
        learner = Learner(policy, ppo_settings("sound"), torch.Generator().manual_seed(0))
        for responses in ([[50, 51, 52]] * 5, RESPONSES):  # rows of one length, too
            rewards = at_last_token([1.0, 0.0, 0.5, 0.2, 0.3], responses)
            found.append(step(learner, PROMPTS, responses, rewards))
        del held
    assert abs(found[0]["policy/kl"]) > 1e-3
    for one, other in zip(found[:2], found[2:], strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_recordings_share_one_set_of_gradients(load_policy: LoadPolicy) -> None:
    """Each is as large as the model, and DPO has a recording for each of some twenty sizes."""
    mine, _ = policies(load_policy)
    for rows in (5, 16, 24):
        logprobs(mine, (PROMPTS * 5)[:rows], (RESPONSES * 5)[:rows]).sum().backward()
    sets = [recording._gradients for _, recording in mine._recordings.values()]
    assert len(sets) == 3
    assert len({tensor.data_ptr() for tensors in sets for tensor in tensors}) == len(list(mine.model.parameters()))


def test_uniforms_of_another_width_are_taken_as_the_other_policies_take_them(load_policy: LoadPolicy) -> None:
    mine, simple = policies(load_policy)
    uniforms = torch.rand(len(PROMPTS), 10, dtype=torch.float64)
    assert mine.answer(PROMPTS, uniforms, Sampling(3)) == simple.answer(PROMPTS, uniforms, Sampling(3))


def test_a_first_call_in_inference_mode_spoils_no_later_one(load_policy: LoadPolicy) -> None:
    mine, simple = policies(load_policy)
    with torch.inference_mode():
        assert mine.greedy(PROMPTS, 3) == simple.greedy(PROMPTS, 3)
    assert mine.greedy(PROMPTS, 3) == simple.greedy(PROMPTS, 3)


def test_a_pass_that_is_dropped_holds_nothing_up(load_policy: LoadPolicy) -> None:
    mine, _ = policies(load_policy)
    held = logprobs(mine, PROMPTS, RESPONSES)
    assert mine._gradient_pool.awaits_backward
    del held
    assert not mine._gradient_pool.awaits_backward
    last = logprobs(mine, PROMPTS, RESPONSES).sum()
    last.backward(retain_graph=True)
    assert not mine._gradient_pool.awaits_backward
    with pytest.raises(RuntimeError, match="one backward pass"):
        last.backward()


def test_other_weights_are_read_where_they_are(load_policy: LoadPolicy) -> None:
    """Loaded weights, as of a resumed run, and another reference."""
    mine, simple = policies(load_policy)
    logprobs(mine, PROMPTS, RESPONSES)
    mine.score_reference(mine.pad(PROMPTS, RESPONSES))
    other = {name: tensor + 0.01 * torch.randn_like(tensor) for name, tensor in simple.model.state_dict().items()}
    for policy in (mine, simple):
        policy.model.load_state_dict(other)
        policy.weights_changed()
        policy.set_reference(other)
    torch.testing.assert_close(logprobs(mine, PROMPTS, RESPONSES), logprobs(simple, PROMPTS, RESPONSES))
    batch = mine.pad(PROMPTS, RESPONSES)
    torch.testing.assert_close(mine.score_reference(batch)[0], mine.score(batch).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("wide", [False, True])
def test_a_replay_in_bfloat16_makes_its_own_copies_of_the_weights(
    load_policy: LoadPolicy, monkeypatch: pytest.MonkeyPatch, wide: bool
) -> None:
    """And an embedding with a padding_idx, as SmolLM2's, which is left to autograd."""
    if wide:
        monkeypatch.setattr("pgsrm.policy.fast.matrices.WIDE", 1)
    model = load_policy("llama").model
    model.model.embed_tokens.padding_idx = 2
    mine = GraphedPolicy(model, copy.deepcopy(model), (0,), PROMPTS, 3, "bfloat16")
    other = copy.deepcopy(model)
    fast = FastPolicy(other, copy.deepcopy(model), (0,), PROMPTS, bfloat16=True)
    settings = msgspec.structs.replace(ppo_settings("sound"), actor_lr=3e-2, batch_size=5)
    gradients = []
    for policy in (mine, fast):
        learner = Learner(policy, settings, torch.Generator().manual_seed(0))
        for update in range(3):
            uniforms = torch.rand(5, 3, generator=torch.Generator().manual_seed(update), dtype=torch.float64)
            prefill = policy.sample(PROMPTS, uniforms, Sampling(3), with_graph=True).prefill
            step(learner, PROMPTS, RESPONSES, at_last_token([1.0, 0.0, 0.5, 0.2, 0.3], RESPONSES), prefill)
        gradients.append(torch.cat([weight.grad.flatten() for weight in policy.model.parameters()]))
        for weight, given in zip(policy.model.parameters(), mine.model.parameters(), strict=True):
            weight.data.copy_(given)
        policy.weights_changed()
    found, expected = (logprobs(policy, PROMPTS, RESPONSES) for policy in (mine, fast))
    assert (found - expected).norm() / expected.norm() < 2e-2
    assert (gradients[0] - gradients[1]).norm() / gradients[1].norm() < 0.2


def test_adapters_and_bfloat16(load_policy: LoadPolicy) -> None:
    model = load_policy().model
    torch.manual_seed(0)
    adapted = add_adapters(model, LoraSettings(rank=2))
    mine = GraphedPolicy(adapted, None, (0,), PROMPTS, 3)
    simple = SimplePolicy(copy.deepcopy(adapted), None, (0,))
    settings = msgspec.structs.replace(ppo_settings("sound"), actor_lr=0.1)
    assert_equal_training(mine, simple, settings, 1e-4)
    low = GraphedPolicy(load_policy().model, None, (0,), PROMPTS, 3, "bfloat16")
    exact = logprobs(policies(load_policy)[1], PROMPTS, RESPONSES)
    assert 1e-6 < (logprobs(low, PROMPTS, RESPONSES) - exact).norm() / exact.norm() < 2e-2


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize(("choice", "steps"), [("sound", 1), ("per_token", 2), ("grpo", 1)])
def test_an_update_waits_once_for_its_tokens_and_once_a_gradient_step(
    load_policy: LoadPolicy, choice: str, steps: int
) -> None:
    mine, _ = policies(load_policy)
    learner = Learner(mine, ppo_settings(choice), torch.Generator().manual_seed(0))
    for update in range(2):
        with waits() as seen:
            uniforms = torch.rand(10, 3, dtype=torch.float64)
            sampled = mine.sample(PROMPTS * 2, uniforms, Sampling(3), learner.reuses_prefill(10))
            rewards = at_last_token([float(row) for row in range(10)], sampled.responses)
            step(learner, PROMPTS * 2, sampled.responses, rewards, sampled.prefill)
        assert len(seen) == 1 + steps, (update, seen)


# What is refused


def test_what_graphs_can_not_have_is_refused(load_policy: LoadPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(model: Any, **options: Any) -> Any:
        settings = ModelSettings(policy="graphed", **options.pop("model", {}))
        return build_policy(model, copy.deepcopy(model), (0,), PROMPTS, 9, settings, **options)

    model = load_policy().model
    with pytest.raises(UserError, match=r"model\.policy=graphed: needs an NVIDIA GPU.* set model\.policy=auto"):
        build(model)
    monkeypatch.setattr("pgsrm.policy.choose._has_graphs", lambda device: True)
    monkeypatch.setattr("pgsrm.policy.fast.forward.is_asynchronous", lambda device: True)  # whole masks
    assert isinstance(build(model), GraphedPolicy)
    for key, options in (("padding=right", {"padding": "right"}), ("dropout=true", {"dropout": True})):
        with pytest.raises(UserError, match=rf"has no ppo\.{key}; set model\.policy=fast"):
            build(model, **options)
    with pytest.raises(UserError, match="attention window"):
        build(tiny_of("mistral", **WINDOW))
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    with pytest.raises(UserError, match="has the attention eager"):
        build(eager)
    stretched = load_policy("llama").model
    stretched.model.rotary_emb.rope_type = "dynamic"
    with pytest.raises(UserError, match="positions that follow the longest text"):
        build(stretched)


def test_auto_takes_graphs_for_a_small_model_that_is_trained_on_a_gpu(
    load_policy: LoadPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kind(model: Any, **options: Any) -> type[Any]:
        settings = ModelSettings(**options.pop("settings", {}))
        options = {"trained_alone": True, **options}
        return type(build_policy(model, copy.deepcopy(model), (0,), PROMPTS, 3, settings, **options))

    for architecture in ("gpt2", "llama", "qwen2"):
        assert kind(load_policy(architecture).model) is FastPolicy  # on a CPU
    assert [choose._has_graphs(torch.device(name)) for name in ("cuda:1", "xpu", "cpu")] == [True, False, False]
    monkeypatch.setattr("pgsrm.policy.choose._has_graphs", lambda device: True)
    for architecture in ("gpt2", "llama", "qwen2"):
        assert kind(load_policy(architecture).model) is GraphedPolicy
    model = load_policy().model
    for options in (
        {"trained_alone": False},
        {"padding": "right"},
        {"dropout": True},
        {"settings": {"lora": LoraSettings(rank=2)}},
        {"settings": {"gradient_checkpointing": True}},
        {"settings": {"policy": "fast"}},
    ):
        assert kind(model, **options) is FastPolicy, options
    assert kind(tiny_of("mistral", **{**WINDOW, "sliding_window": 64})) is FastPolicy  # not one of those that were seen
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    assert kind(eager) is FastPolicy
    monkeypatch.setattr("pgsrm.policy.choose.MOST_WEIGHTS", 1000)
    assert kind(model) is FastPolicy


def test_a_prefix_is_computed_once_where_that_takes_less_than_its_launches(load_policy: LoadPolicy) -> None:
    """The measured cases (docs/performance.md): 12 tokens of GPT-2 Small in float32, and not in TF32; never of nano."""
    small = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=768, n_head=12, vocab_size=100))
    tiny = load_policy().model
    cases: list[tuple[Any, int, Dtype, bool]] = [
        (small, 12, "float32", True),
        (small, 12, "tfloat32", False),
        (small, 12, "bfloat16", False),
        (small, 100, "tfloat32", True),
        (small, 0, "float32", False),
        (tiny, 12, "float32", False),
    ]
    for model, length, dtype, pays in cases:
        assert graphed._prefix_pays(model, length, dtype) == pays, (length, dtype)


def test_recordings_that_are_dropped_take_their_memory_along(
    load_policy: LoadPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA stops where a graph is recorded into memory whose other graphs have all gone."""
    monkeypatch.setattr(graphed, "MOST_RECORDINGS", 1)
    mine, simple = policies(load_policy)
    first = logprobs(mine, PROMPTS, RESPONSES).sum()
    pools = mine._pool, mine._gradient_pool
    assert mine.greedy(PROMPTS, 3) == simple.greedy(PROMPTS, 3)  # drops the first pass's recording
    assert mine._pool is not pools[0] and mine._gradient_pool is not pools[1]
    (first + logprobs(mine, PROMPTS[:3], RESPONSES[:3]).sum()).backward()
    (logprobs(simple, PROMPTS, RESPONSES).sum() + logprobs(simple, PROMPTS[:3], RESPONSES[:3]).sum()).backward()
    for one, other in zip(mine.model.parameters(), simple.model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)


def test_tf32_needs_a_gpu(load_policy: LoadPolicy) -> None:
    model = load_policy().model
    with pytest.raises(UserError, match=r"model\.dtype=tfloat32: only NVIDIA GPUs .* set model\.dtype=float32"):
        build_policy(model, None, (0,), PROMPTS, 3, ModelSettings(dtype="tfloat32"))
    assert isinstance(build_policy(model, None, (0,), PROMPTS, 3, ModelSettings()), FastPolicy)
    matmul = torch.backends.cuda.matmul
    try:
        for wanted in (True, False):
            multiply_in_tf32(torch.device("cuda"), wanted)
            assert matmul.allow_tf32 == wanted
    finally:
        matmul.allow_tf32 = False


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["model.dtype=tfloat32", "model.device=cpu"], "model.dtype=tfloat32: only NVIDIA GPUs have it"),
        (["model.policy=graphed", "model.device=cpu"], "model.policy=graphed: needs an NVIDIA GPU, model.device=cpu"),
        (["model.policy=graphed", "model.gradient_checkpointing=true"], "has no model.gradient_checkpointing=true"),
        (["model.policy=graphed", "processes=2", "model.shard=true"], "has no model.shard=true"),
    ],
)
def test_what_does_not_go_together_is_said_before_anything_starts(
    call_cli: Callable[..., Result], words: list[str], line: str
) -> None:
    result = call_cli("task=antonym", "reward=binary", "tracking=none", *words)
    assert result.code and line in result.error_line


# Runs


def test_a_run_that_was_cut_ends_as_one_that_was_not(small: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgsrm.policy.choose._has_graphs", lambda device: True)
    words = [*small, "task=antonym", "model.policy=graphed", "seed=3"]
    whole, resumed = whole_and_resumed(words, monkeypatch)
    names = [name for name in whole if not is_measured(name)]
    assert resumed[names].equals(whole[names])
