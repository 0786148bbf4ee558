"""What larger models need: gradient checkpointing and low-rank adapters."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from conftest import in_float64, spread
from test_pitfalls import SETTINGS
from test_run import without_times

from pgsrm.config.compose import plan_words
from pgsrm.models import settings as model_settings
from pgsrm.models.load import load_model
from pgsrm.models.lora import add_adapters, merged
from pgsrm.models.settings import LoraSettings, ModelSettings, check_model
from pgsrm.policy.checkpointing import checkpointable_layers
from pgsrm.policy.fast import policy as fast_policy
from pgsrm.policy.fast.policy import FastPolicy
from pgsrm.policy.sampling import Sampling
from pgsrm.ppo.update import Learner, step
from pgsrm.record import RunFolder
from pgsrm.rollout import at_last_token
from pgsrm.util.errors import UserError

LoadPolicy = Callable[..., Any]
CPU = torch.device("cpu")

# Ragged prompts that share two tokens, one of them twice with the same answer; EOS (0) at the end, first, and absent.
PROMPTS = [[5, 6, 7], [5, 6, 20, 21, 22], [5, 6, 30, 31], [5, 6, 40], [5, 6, 7]]
RESPONSES = [[50, 51, 0], [52, 53, 54], [0], [55, 0], [50, 51, 0]]
NUMBERS = [1.0, 0.25, 0.5, 0.0, 0.75]
REWARDS = at_last_token(NUMBERS, RESPONSES)

SOUND = msgspec.structs.replace(SETTINGS, batch_size=5)


def gradients(model: Any) -> list[torch.Tensor]:
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def assert_equal(mine: Sequence[Any], theirs: Sequence[Any], tolerance: float) -> None:
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


# Gradient checkpointing


@pytest.fixture
def in_double(monkeypatch: pytest.MonkeyPatch) -> None:
    in_float64(monkeypatch)


CASES: list[tuple[str, dict[str, Any]]] = [
    *((architecture, {}) for architecture in ("gpt2", "llama", "qwen2")),
    ("gpt2", {"baseline": "response_value"}),
    ("gpt2", {"baseline": "token_values"}),
    ("gpt2", {"padding": "right"}),
    ("gpt2", {"micro_batch": 2}),
    ("qwen2", {"epochs": 2, "minibatches": 2, "clip_range": 0.2}),
]


@pytest.mark.usefixtures("in_double", "width")
@pytest.mark.parametrize(("architecture", "switches"), CASES, ids=str)
def test_checkpointing_changes_no_loss_and_no_gradient(
    load_policy: LoadPolicy, architecture: str, switches: dict[str, Any]
) -> None:
    settings, results = msgspec.structs.replace(SOUND, **switches), []
    for on in (True, False):
        policy = load_policy(
            architecture, double=True, prompts=PROMPTS, padding=settings.padding, gradient_checkpointing=on
        )
        learner = Learner(policy, settings, torch.Generator().manual_seed(0))
        learner.value_head.double()
        metrics = [step(learner, PROMPTS, RESPONSES, REWARDS) for _ in range(2)]
        results.append((metrics, gradients(policy.model)))
    for mine, theirs in zip(results[0][0], results[1][0], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-10, abs=1e-10)
    assert max(gradient.abs().max() for gradient in results[0][1]) > 1e-3
    assert_equal(results[0][1], results[1][1], 1e-10)


@pytest.mark.parametrize(("on", "again"), [(True, 2), (False, 0)])
def test_layers_are_computed_again_in_the_backward_pass_without_dropout(
    load_policy: LoadPolicy, on: bool, again: int
) -> None:
    """Wrong versions: transformers' switch alone, which does nothing in eval mode; or all of the model in training mode."""
    policy = load_policy(prompts=PROMPTS, gradient_checkpointing=on)
    calls = []
    for block in policy.model.transformer.h:
        block.mlp.register_forward_pre_hook(
            lambda module, _: calls.append([m.training for m in policy.model.modules()])
        )
    logits = policy.score(policy.pad(PROMPTS, RESPONSES)).logits
    before = len(calls)
    logits.square().mean().backward()
    assert len(calls) - before == again  # two layers
    assert not any(map(any, calls))


def test_checkpointing_keeps_less(load_policy: LoadPolicy) -> None:
    kept = {}
    for on in (True, False):
        policy, sizes = load_policy(prompts=PROMPTS, gradient_checkpointing=on), []

        def keep(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            policy.score(policy.pad(PROMPTS, RESPONSES))
        kept[on] = sum(sizes)
    assert kept[True] < kept[False] / 2


def test_dropout_that_is_asked_for_is_the_same_when_computed_again(
    load_policy: LoadPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And sampling, with the model in training mode, still has its cache."""
    results = []
    for on in (True, False):
        policy = load_policy(share=False, gradient_checkpointing=True)
        policy.model.train()
        sampled = policy.sample(PROMPTS, torch.full((5, 3), 0.5), Sampling(3))
        torch.manual_seed(1)
        if not on:
            monkeypatch.setattr(fast_policy, "checkpointing", lambda layers: nullcontext())
        logits = policy.score(policy.pad(PROMPTS, RESPONSES)).logits
        logits.square().mean().backward()
        results.append(gradients(policy.model))
        assert max(map(len, sampled.responses)) == 3
    assert_equal(*results, 0)


def test_checkpointing_makes_no_use_of_the_samplings_pass(load_policy: LoadPolicy) -> None:
    policy = load_policy(prompts=PROMPTS, gradient_checkpointing=True)
    assert policy.sample(PROMPTS, torch.full((5, 3), 0.5), Sampling(3), with_graph=True).prefill is None


def test_a_model_without_such_layers() -> None:
    with pytest.raises(UserError, match=r"model.gradient_checkpointing=true: Linear has no .*; set it to false"):
        checkpointable_layers(torch.nn.Linear(2, 2))


# Adapters


def load_adapted(folder: Path, settings: LoraSettings | None = None, **options: Any) -> FastPolicy:
    torch.manual_seed(3)
    model = add_adapters(load_model(ModelSettings(path=str(folder)), CPU), settings or LoraSettings())
    return FastPolicy(model, None, eos=(0,), prompts=PROMPTS, **options)


def both(policy: FastPolicy) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (C, V) of policy and reference."""
    batch = policy.pad(PROMPTS, RESPONSES)
    return policy.score(batch).logits.detach(), policy.score_reference(batch)[0]


@pytest.mark.usefixtures("width")
@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen2"])
def test_the_reference_is_the_policy_without_adapters(
    model_folders: dict[str, Path], load_policy: LoadPolicy, architecture: str, checkpointed: bool
) -> None:
    """Equal at first; then the policy moves, and the reference and every weight of the model stay bit for bit."""
    policy = load_adapted(model_folders[architecture], gradient_checkpointing=checkpointed)
    policy.score_reference(policy.pad(PROMPTS, RESPONSES))
    plain = load_policy(architecture, prompts=PROMPTS)
    frozen = {name: p.clone() for name, p in policy.model.named_parameters() if not p.requires_grad}
    policy_before, reference_before = both(policy)
    torch.testing.assert_close(policy_before, reference_before, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(reference_before, both(plain)[1], rtol=1e-5, atol=1e-5)
    learner = Learner(policy, msgspec.structs.replace(SOUND, actor_lr=1e-2), torch.Generator().manual_seed(0))
    trained = [p for p in policy.model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) < sum(p.numel() for p in policy.model.parameters()) / 4
    assert [id(p) for p in learner.actor_optimizer.param_groups[0]["params"]] == [id(p) for p in trained]
    metrics = [step(learner, PROMPTS, RESPONSES, REWARDS) for _ in range(3)]
    assert metrics[0]["grad/actor_norm"] > 0
    policy_after, reference_after = both(policy)
    assert (policy_after - policy_before).abs().max() > 0.01
    assert torch.equal(reference_after, reference_before)
    policy._kept_prefill, policy._keeps_reference = None, False  # nothing from before
    torch.testing.assert_close(both(policy)[1], reference_before, rtol=1e-5, atol=1e-5)
    for name, parameter in policy.model.named_parameters():
        assert name not in frozen or torch.equal(parameter, frozen[name])


def test_the_samplings_graph_outlives_the_references_pass(tiny: Path) -> None:
    """Adapters are off between the policy's pass over the prompts and its gradient."""
    results = []
    for reuse in (True, False):
        policy = load_adapted(tiny)
        learner = Learner(policy, msgspec.structs.replace(SOUND, actor_lr=1e-2), torch.Generator().manual_seed(0))
        metrics = []
        for _ in range(3):
            uniforms = torch.rand(5, 3, generator=torch.Generator().manual_seed(1))
            sampled = policy.sample(PROMPTS, uniforms, Sampling(3), with_graph=reuse)
            assert (sampled.prefill is None) == (not reuse)
            rewards = at_last_token(NUMBERS, sampled.responses)
            metrics.append(step(learner, PROMPTS, sampled.responses, rewards, sampled.prefill))
        results.append((metrics, gradients(policy.model)))
    for mine, theirs in zip(results[0][0], results[1][0], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-4)
    assert_equal(results[0][1], results[1][1], 1e-4)


def test_the_reference_has_no_dropout(tiny: Path) -> None:
    policy = load_adapted(tiny, share=False)
    expected = both(policy)[1]
    policy.model.train()
    batch = policy.pad(PROMPTS, RESPONSES)
    assert torch.equal(policy.score_reference(batch)[0], expected)
    assert not torch.equal(policy.score(batch).logits, policy.score(batch).logits)  # the policy has


def test_the_merged_model_is_the_policy_and_plain(tiny: Path, load_policy: LoadPolicy) -> None:
    policy = load_adapted(tiny, LoraSettings(rank=2, alpha=8, targets="all-linear"))
    learner = Learner(policy, msgspec.structs.replace(SOUND, actor_lr=1e-2), torch.Generator().manual_seed(0))
    for _ in range(2):
        step(learner, PROMPTS, RESPONSES, REWARDS)
    expected, before = both(policy)
    plain = merged(policy.model)
    assert [name for name, _ in plain.named_parameters()] == [n for n, _ in load_policy().model.named_parameters()]
    actual = FastPolicy(plain, None, eos=(0,), prompts=PROMPTS)
    logits = actual.score(actual.pad(PROMPTS, RESPONSES)).logits
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert (logits - before).abs().max() > 0.01


# Settings


@pytest.mark.parametrize(
    ("targets", "what"),
    [(["nowhere"], "can't be used (Target modules"), (["wte"], "embeddings and output layer can't be among them")],
)
def test_targets_that_do_not_do(tiny: Path, targets: list[str], what: str) -> None:
    with pytest.raises(UserError) as error:
        load_adapted(tiny, LoraSettings(targets=targets))
    assert str(error.value).startswith(f"model.lora.targets={targets}: {what}")


def test_peft_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    check_model(ModelSettings(lora=LoraSettings()))
    monkeypatch.setattr(model_settings, "find_spec", lambda name: None)
    check_model(ModelSettings())
    with pytest.raises(UserError, match=r"model\.lora: needs the peft library; .*pip install peft"):
        check_model(ModelSettings(lora=LoraSettings()))


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        (["model.lora={}", "ppo.kl_reference=previous"], "ppo.kl_reference=previous: with model.lora the reference is"),
        (["model.lora={rank: 0}"], "model.lora.rank=0: expected `int` >= 1; set model.lora.rank"),
        (["model.lora={ranks: 4}"], "model.lora.ranks: unknown key; there are alpha, rank, targets"),
        (["model.gradient_checkpointing=1"], "model.gradient_checkpointing=1: expected `bool`, got `int`"),
    ],
)
def test_settings_that_do_not_do(small: Sequence[str], overrides: list[str], what: str) -> None:
    with pytest.raises(UserError) as error:
        plan_words(*small, *overrides)
    assert what in str(error.value)


def test_both_are_in_a_runs_name_where_they_are_used(small: Sequence[str]) -> None:
    runs = [[], ["model.gradient_checkpointing=true"], ["model.lora={}"], ["model.lora={rank: 4}"]]
    assert len({plan_words(*small, *overrides).identity for overrides in runs}) == len(runs)
    defaults = ["model.gradient_checkpointing=false", "model.lora=null"]
    assert plan_words(*small, *defaults).identity == plan_words(*small).identity
    said = "model.lora={alpha: 16, rank: 8, targets: null}"
    assert plan_words(*small, said).identity == plan_words(*small, "model.lora={}").identity


# Runs


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.lora={rank: 4}"],
        ["model.lora={rank: 4, targets: all-linear}", "model.gradient_checkpointing=true", "ppo.micro_batch=2"],
        ["model.gradient_checkpointing=true"],
    ],
    ids=["lora", "both", "checkpointing"],
)
def test_a_run_that_is_stopped_goes_on_as_if_nothing_had_happened(
    small: Sequence[str],
    tmp_path: Path,
    resume: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    overrides: list[str],
) -> None:
    """And leaves a plain model that answers as its policy did."""
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    from pgsrm.trainer import Trainer

    folders, policies = [], []
    learn, finish = Trainer.learn, Trainer.finish

    def learn_and_stop(self: Trainer, *arguments: Any) -> dict[str, float]:
        if self.update == 1:  # at the end of the second update
            os.kill(os.getpid(), signal.SIGTERM)
        return learn(self, *arguments)

    def note_and_finish(self: Trainer) -> None:
        batch = self.policy.pad(PROMPTS, RESPONSES)
        policies.append((spread(self.policy.score(batch)).detach(), self.policy.score_reference(batch)[0]))
        finish(self)

    monkeypatch.setattr(Trainer, "finish", note_and_finish)
    for outputs, ends in (("undisturbed", ["finished"]), ("cut", ["stopped", "finished"])):
        plan = plan_words(*small, *overrides, "ppo.actor_lr=1e-2", f"paths.outputs={tmp_path / outputs}")
        plan.freeze()
        for end in ends:
            with monkeypatch.context() as patch:
                if end == "stopped":
                    patch.setattr(Trainer, "learn", learn_and_stop)
                torch.manual_seed(len(folders) + 10)  # what a process begins with decides nothing
                resume(plan.folder, end)
                if end == "stopped":
                    check_checkpoint(plan.folder, "lora" in overrides[0])
        folders.append(plan.folder)
    undisturbed, cut = folders
    assert without_times(undisturbed) == without_times(cut)
    assert undisturbed.samples.read_text() == cut.samples.read_text()
    tensors = [load_file(folder.model / "model.safetensors") for folder in folders]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])

    assert not list(cut.model.glob("adapter*"))
    for name in [each for each in sys.modules if each.partition(".")[0] == "peft"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "peft", None)
    plain = FastPolicy(AutoModelForCausalLM.from_pretrained(cut.model), None, eos=(0,))
    batch = plain.pad(PROMPTS, RESPONSES)
    mask = batch.response_mask
    torch.testing.assert_close(spread(plain.score(batch))[mask], policies[-1][0][mask], rtol=1e-4, atol=1e-3)


def check_checkpoint(folder: RunFolder, adapters_alone: bool) -> None:
    """With adapters, a checkpoint has none of the model's own weights: they are loaded again."""
    from safetensors import safe_open

    (checkpoint,) = folder.checkpoints.iterdir()
    with safe_open(checkpoint / "tensors.safetensors", "pt") as file:
        names = [name for name in file.keys() if name.startswith("policy/")]  # noqa: SIM118
        sizes = [file.get_slice(name).get_shape() for name in names]
    assert names
    assert all(4 in size for size in sizes) == adapters_alone  # the rank
