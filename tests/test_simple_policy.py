"""The simple policy: equal to the fast one, and at home with models that the fast one refuses."""

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
import msgspec
import pytest
import torch
from conftest import in_float64
from test_policy import EXPERTS, FOUR_HEADS, WINDOW, tiny_of

from pgsrm.config.schema import read_settings
from pgsrm.models.settings import LoraSettings, ModelSettings
from pgsrm.policy.base import greedily
from pgsrm.policy.choose import build_policy
from pgsrm.policy.fast.policy import FastPolicy
from pgsrm.policy.sampling import Sampling
from pgsrm.policy.simple import SimplePolicy
from pgsrm.ppo.settings import PPOSettings
from pgsrm.ppo.update import Learner, step
from pgsrm.rollout import at_last_token
from pgsrm.util.errors import UserError
from pgsrm.util.paths import conf_folder

LoadPolicy = Callable[..., Any]
PROMPTS = [[5, 6, 7], [5, 6, 20, 21, 22], [5, 6, 7], [5, 6, 30, 31], [5, 6, 40]]
MAMBA = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
BLOOM = {"hidden_size": 32, "n_layer": 2, "n_head": 4}
MPT = {"d_model": 32, "n_layers": 2, "n_heads": 4}
CHOICES = sorted(path.stem for path in (conf_folder() / "ppo").glob("*.yaml"))


def ppo_settings(choice: str) -> PPOSettings:
    """That of `ppo=choice` for a batch of ten in groups of five; without dropout, whose masks no two policies share."""
    with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
        settings = read_settings(hydra.compose("config", [f"ppo={choice}", "tracking=none"])).ppo
    return msgspec.structs.replace(settings, batch_size=10, actor_lr=1e-3, critic_lr=1e-3, adam_eps=1e-4, dropout=False)


def updates(policy: Any, settings: PPOSettings, double: bool, count: int) -> tuple[list[Any], list[torch.Tensor]]:
    """What each update sampled and its metrics; and the policy's weights and its last gradient."""
    learner = Learner(policy, settings, torch.Generator().manual_seed(0))
    if double:
        learner.value_head.double()
    randomness, seen = torch.Generator().manual_seed(1), []
    how = Sampling(3, settings.temperature, settings.top_k)
    prompts = [prompt for prompt in PROMPTS[:2] for _ in range(5)] if settings.group_size > 1 else PROMPTS * 2
    for _ in range(count):
        uniforms = torch.rand(10, 3, generator=randomness, dtype=torch.float64)
        sampled = policy.sample(prompts, uniforms, how, learner.reuses_prefill(10))
        rewards = [sum(response) % 7 / 7 for response in sampled.responses]
        metrics = step(learner, prompts, sampled.responses, at_last_token(rewards, sampled.responses), sampled.prefill)
        seen.append((sampled.responses, sampled.logprobs, metrics))
    parameters = list(policy.model.parameters())
    return seen, [p.detach() for p in parameters] + [p.grad for p in parameters if p.grad is not None]


def assert_equal_training(fast: Any, simple: Any, settings: PPOSettings, tolerance: float, count: int = 3) -> None:
    double = tolerance < 1e-8
    (mine, tensors), (theirs, others) = (updates(policy, settings, double, count) for policy in (simple, fast))
    for (responses, logprobs, metrics), (given, others_logprobs, expected) in zip(mine, theirs, strict=True):
        assert responses == given
        width = max(map(len, given))
        torch.testing.assert_close(logprobs[:, :width], others_logprobs[:, :width], rtol=tolerance, atol=tolerance)
        assert metrics == pytest.approx(expected, rel=tolerance, abs=tolerance)
    for one, other in zip(tensors, others, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("tolerance", [1e-5, 1e-10], ids=["float32", "float64"])
@pytest.mark.parametrize("choice", CHOICES)
def test_simple_and_fast_are_equal_for_every_choice_of_ppo(
    load_policy: LoadPolicy, monkeypatch: pytest.MonkeyPatch, choice: str, tolerance: float
) -> None:
    """Responses, log-probabilities, metrics, new weights and gradients of three updates."""
    settings, double = ppo_settings(choice), tolerance < 1e-8
    if double:
        in_float64(monkeypatch)
    fast = load_policy(double=double, prompts=PROMPTS, padding=settings.padding)
    model = copy.deepcopy(fast.model)
    simple = SimplePolicy(model, copy.deepcopy(model), eos=(0,), padding=settings.padding)
    assert_equal_training(fast, simple, settings, tolerance)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("changes", [{}, {"micro_batch": 3}, {"baseline": "response_value"}], ids=str)
def test_simple_and_fast_are_equal_for(
    load_policy: LoadPolicy, monkeypatch: pytest.MonkeyPatch, architecture: str, changes: dict[str, Any]
) -> None:
    in_float64(monkeypatch)
    fast = load_policy(architecture, double=True, prompts=PROMPTS)
    model = copy.deepcopy(fast.model)
    simple = SimplePolicy(model, copy.deepcopy(model), eos=(0,), gradient_checkpointing=True)
    assert_equal_training(fast, simple, msgspec.structs.replace(ppo_settings("sound"), **changes), 1e-10)


MLA = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("minicpm3", {**FOUR_HEADS, **MLA, "num_key_value_heads": 4, "dim_model_base": 16}),  # scales by 16 / 32
        (
            "opt",
            {**FOUR_HEADS, "ffn_dim": 32, "word_embed_proj_dim": 16},
        ),  # projects from 32 to 16, as facebook/opt-350m
    ],
)
def test_a_value_is_of_what_the_output_layer_takes(kind: str, sizes: dict[str, Any]) -> None:
    """Wrong version: the simple policy's is of the last layer's output, before what the model makes of it."""
    model = tiny_of(kind, **sizes)
    fast = FastPolicy(model, copy.deepcopy(model), eos=(0,), prompts=PROMPTS)
    other = copy.deepcopy(model)
    simple = SimplePolicy(other, copy.deepcopy(other), eos=(0,))
    assert fast.width == simple.width == model.get_output_embeddings().in_features
    assert_equal_training(fast, simple, ppo_settings("sound"), 1e-4, count=1)


@pytest.mark.usefixtures("width")
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("padding", [5, 20, 0])  # in the prefix of all prompts, in one prompt, in responses
def test_an_embeddings_padding_row_has_no_gradient_of_its_own(
    monkeypatch: pytest.MonkeyPatch, padding: int, tied: bool
) -> None:
    """As torch's own embedding has it; SmolLM2's names its end token so. Its row as an output layer's learns."""
    in_float64(monkeypatch)
    sizes = {**FOUR_HEADS, "pad_token_id": padding, "tie_word_embeddings": tied}
    model = tiny_of("llama", **sizes).double()
    assert model.get_input_embeddings().padding_idx == padding
    fast = FastPolicy(model, copy.deepcopy(model), eos=(0,), prompts=PROMPTS)
    simple = SimplePolicy(copy.deepcopy(model), copy.deepcopy(model), eos=(0,))
    assert_equal_training(fast, simple, ppo_settings("sound"), 1e-10)


def test_answers_and_a_texts_loss_are_the_fast_ones(load_policy: LoadPolicy) -> None:
    fast = load_policy(prompts=PROMPTS)
    simple = SimplePolicy(fast.model, None, eos=(0,))
    assert simple.greedy(PROMPTS, 4) == fast.greedy(PROMPTS, 4)
    windows = torch.arange(1, 41).view(2, 20)
    assert simple.text_logprob(windows) == pytest.approx(fast.text_logprob(windows), rel=1e-5)


def test_both_ways_of_answering_read_the_prompts_once(load_policy: LoadPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers are those of a call each. Wrong version: the second way goes on where the first one's cache ended."""
    fast = load_policy(prompts=PROMPTS)
    simple = SimplePolicy(fast.model, None, eos=(0,))
    ways = [greedily(len(PROMPTS), 4), (torch.rand(len(PROMPTS), 4, dtype=torch.float64), Sampling(4, top_k=20))]
    apart = [fast.answers(PROMPTS, [way])[0] for way in ways]
    assert apart[0] != apart[1] and simple.answers(PROMPTS, ways) == apart
    passes: list[int] = []
    read = FastPolicy._prefill
    monkeypatch.setattr(FastPolicy, "_prefill", lambda self, batch: passes.append(len(batch)) or read(self, batch))
    assert fast.answers(PROMPTS, ways) == apart and passes == [4]  # two of the five prompts are equal


def test_several_ids_end_a_response(load_policy: LoadPolicy) -> None:
    """Wrong version: the first declared one alone; both policies cut at whichever comes first, and keep it."""
    fast = load_policy(prompts=PROMPTS)
    simple = SimplePolicy(fast.model, None, eos=(0,))
    uniforms = torch.rand(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    free = simple.sample(PROMPTS * 10, uniforms, Sampling(6)).responses
    other = max({t for r in free for t in r if t}, key=[t for r in free for t in r].count)
    for policy in (fast, simple):
        policy.eos = (0, other)
        expected = [
            row[: next((i + 1 for i, token in enumerate(row) if token in (0, other)), len(row))] for row in free
        ]
        assert policy.sample(PROMPTS * 10, uniforms, Sampling(6)).responses == expected
    assert any(row[-1] == other and len(row) < 6 for row in expected)


# Models


def alone(model: Any, prompt: Sequence[int], response: Sequence[int]) -> torch.Tensor:
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *response]]), use_cache=False).logits[0].log_softmax(-1)
    return logits[range(len(prompt) - 1, len(prompt) + len(response) - 1), response]


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [("bloom", BLOOM), ("mpt", MPT), ("mistral", WINDOW), ("mamba", MAMBA), ("gpt_oss", EXPERTS)],
)
def test_a_batch_is_scored_as_each_example_alone(kind: str, sizes: dict[str, Any]) -> None:
    """ALiBi twice, a window shorter than prompt and response, a state that is no cache, experts."""
    policy = SimplePolicy(tiny_of(kind, **sizes), None, eos=(0,))
    policy.check(PROMPTS, 9)
    responses = [[50, 51, 0], [52, 53, 54, 55, 56, 57], [0], [55, 0], [1, 2, 3, 4]]
    batch = policy.pad(PROMPTS, responses)
    scores = policy.score(batch)
    logprobs = scores.logits.log_softmax(-1)[scores.contexts.place].gather(-1, batch.response_ids[..., None])[..., 0]
    for row, prompt, response in zip(logprobs, PROMPTS, responses, strict=True):
        torch.testing.assert_close(row[: len(response)], alone(policy.model, prompt, response), rtol=1e-4, atol=1e-4)
    sampled = policy.sample(PROMPTS, torch.rand(5, 4, dtype=torch.float64), Sampling(4))
    for row, prompt, response in zip(sampled.logprobs, PROMPTS, sampled.responses, strict=True):
        torch.testing.assert_close(row[: len(response)], alone(policy.model, prompt, response), rtol=1e-4, atol=1e-4)


def test_auto_says_which_models_the_fast_policy_refuses(capfd: pytest.CaptureFixture[str]) -> None:
    def build(kind: str, sizes: dict[str, Any], policy: str) -> Any:
        model = tiny_of(kind, **sizes)
        settings = ModelSettings(policy=policy)  # type: ignore[arg-type]
        return build_policy(model, copy.deepcopy(model), (0,), PROMPTS, 9, settings)

    capfd.readouterr()
    assert isinstance(build("bloom", BLOOM, "auto"), FastPolicy)
    assert isinstance(build("bloom", BLOOM, "simple"), SimplePolicy)
    assert capfd.readouterr().err == ""
    for kind, sizes in (("mamba", MAMBA), ("mistral", WINDOW), ("mpt", MPT)):
        assert isinstance(build(kind, sizes, "auto"), SimplePolicy)
        lines = [line for line in capfd.readouterr().err.splitlines() if "model.policy" in line]
        assert len(lines) == 1 and lines[0].startswith("model.policy=simple takes the place of fast: ")
        with pytest.raises(UserError, match=r"model\.path: .*set model\.policy=simple"):
            build(kind, sizes, "fast")


def test_a_model_that_sees_later_tokens_suits_neither() -> None:
    model = tiny_of(
        "bert", hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, initializer_range=0.5
    )
    with pytest.raises(UserError, match="otherwise beside others than alone"):
        build_policy(model, None, (0,), PROMPTS, 3, ModelSettings(policy="simple"))


@pytest.mark.parametrize("policy", ["auto", "simple"])
def test_a_model_that_fails_by_itself_is_named_in_one_line(policy: str) -> None:
    """Wrong version: a traceback through transformers."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = tiny_of("camembert", pad_token_id=None, **sizes)
    with pytest.raises(
        UserError, match=r"^model\.path: Camembert\w+ can't compute a response \(ne\(\) received .*\); name a"
    ):
        build_policy(model, None, (0,), PROMPTS, 3, ModelSettings(policy=policy))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("DefaultCPUAllocator: ")]
)
def test_a_lack_of_memory_is_no_fault_of_the_model(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong version: `auto` takes it for a model without a cache, and goes on with the policy that needs more."""
    model = tiny_of("bloom", **BLOOM)

    def forward(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(model, "forward", forward)
    with pytest.raises(type(error), match=str(error)):
        build_policy(model, None, (0,), PROMPTS, 3, ModelSettings())


def test_dropout_bfloat16_and_adapters(load_policy: LoadPolicy) -> None:
    from pgsrm.models.lora import add_adapters

    model = load_policy().model
    low = SimplePolicy(model, copy.deepcopy(model), eos=(0,), bfloat16=True)
    batch = low.pad(PROMPTS, [[7, 8, 0]] * 5)
    exact = SimplePolicy(model, None, eos=(0,)).score(batch).logits
    assert low.score(batch).logits.dtype == torch.float32
    assert not torch.equal(low.score(batch).logits, exact)
    torch.testing.assert_close(low.score(batch).logits, exact, rtol=0.1, atol=0.1)
    low.model.train()  # as ppo.dropout=true has it
    assert not torch.equal(low.score(batch).logits, low.score(batch).logits)
    assert low.greedy(PROMPTS, 3) == low.greedy(PROMPTS, 3)

    adapted = SimplePolicy(add_adapters(load_policy().model, LoraSettings(rank=2)), None, eos=(0,))
    learner = Learner(adapted, msgspec.structs.replace(ppo_settings("sound"), actor_lr=0.1), torch.Generator())
    before = adapted.score_reference(batch)[0]
    torch.testing.assert_close(adapted.score(batch).logits, before)
    responses = [[7, 8, 0], [9], [10, 0], [11], [12]]
    step(learner, PROMPTS, responses, at_last_token([1.0, 0.0, 0.5, 0.2, 0.3], responses))
    torch.testing.assert_close(adapted.score_reference(batch)[0], before)
    assert (adapted.score(batch).logits - before).abs().max() > 0.01


# Runs


@pytest.mark.parametrize(("kind", "sizes"), [("mpt", MPT), ("mamba", MAMBA)], ids=["alibi", "mamba"])
def test_a_model_that_the_fast_policy_refuses_trains(
    kind: str,
    sizes: dict[str, Any],
    tiny: Path,
    tmp_path: Path,
    small: Sequence[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    from transformers import AutoTokenizer

    import pgsrm

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    model = tiny_of(kind, **sizes, vocabulary=len(tokenizer), eos_token_id=0)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    run = pgsrm.train(*small, f"model.path={tmp_path / 'model'}", "ppo.actor_lr=1e-2", progress=False)
    assert "model.policy=simple takes the place of fast" in capsys.readouterr().err
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines] == [0, 1, 2, 3, 4]
    assert lines[1]["policy/kl"] == pytest.approx(0, abs=1e-4) and abs(lines[4]["policy/kl"]) > 1e-4


def test_every_layers_output_is_asked_for_only_where_the_output_layers_input_is_not_seen(
    load_policy: LoadPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores are the same to the last digit, also where nothing is seen and the last layer's output is taken."""
    model, asked, scores = load_policy().model, list[bool](), []
    for output_layer_is_known in (True, False):
        policy = SimplePolicy(model, None, eos=(0,))
        batch, place = policy.pad(PROMPTS, [[8, 9], [3], [4, 0], [7], [1, 2]]), torch.tensor([1, 0, 1, 0, 1])
        forward = policy._forward

        def noted(*given: Any, forward: Any = forward, **options: Any) -> Any:
            asked.append(options["output_hidden_states"])
            return forward(*given, **options)

        monkeypatch.setattr(policy, "_forward", noted)
        if not output_layer_is_known:
            monkeypatch.setattr(model, "get_output_embeddings", lambda: None)
        scores += [policy.score(batch, place), policy.score(batch, place)]
    assert asked == [True, False, True, True]
    for other in scores[1:]:
        for name in ("logits", "states", "prompt_hidden", "value_hidden"):
            assert torch.equal(getattr(scores[0], name), getattr(other, name))


def test_an_output_layer_that_is_seen_in_evaluation_alone(load_policy: LoadPolicy) -> None:
    """Wrong version: a TypeError in the first update, as every layer's output was not asked for after the check before it."""

    class Unseen(torch.nn.Linear):
        def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
            if self.training:
                return torch.nn.functional.linear(hidden, self.weight)
            return super().__call__(hidden)

    model = load_policy().model
    policy, usual = SimplePolicy(model, None, eos=(0,)), SimplePolicy(copy.deepcopy(model), None, eos=(0,))
    model.get_output_embeddings().__class__ = Unseen
    batch, place = policy.pad(PROMPTS, [[8, 9], [3], [4, 0], [7], [1, 2]]), torch.tensor([1, 0, 1, 0, 1])
    for training in (False, True, True, False):
        for each in (policy, usual):
            each.model.train(training)
        with policy.without_dropout(), usual.without_dropout():
            model.get_output_embeddings().train(training)
            score, expected = policy.score(batch, place), usual.score(batch, place)
        for name in ("logits", "states", "prompt_hidden", "value_hidden"):
            assert torch.equal(getattr(score, name), getattr(expected, name))
