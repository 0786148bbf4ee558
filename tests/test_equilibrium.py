"""Where entropy bonus and KL term lead a policy without a reward: formulas against gradient ascent, and the update itself."""

import math
from typing import Any

import msgspec
import pytest
import torch
from test_pitfalls import SETTINGS

import pgsrm
from pgsrm.config.plan import Shared
from pgsrm.policy.sampling import truncate
from pgsrm.ppo.equilibrium import equilibrium_logprobs
from pgsrm.ppo.losses import kl_divergence, token_entropy
from pgsrm.rollout import Scored

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, -6.0], dtype=torch.float64)


def settings(**changes: Any) -> Any:
    chosen = {
        "entropy_coef": 0.02,
        "kl_coef": 0.01,
        "kl_estimator": "exact",
        "kl_in": "loss",
        "kl_reference": "initial",
    }
    return msgspec.structs.replace(SETTINGS, **(chosen | changes))


def expected_gradient(
    logits: torch.Tensor, estimator: Any, bonus: float, pull: float, drawn: torch.Tensor | None = None
) -> torch.Tensor:
    """Of the loss, with respect to the policy's logits, in expectation over tokens that the policy draws, or `drawn` (V,)."""
    logits = logits.clone().requires_grad_()
    tokens = torch.arange(len(logits))
    logprobs, reference = logits.log_softmax(-1), LOGITS.log_softmax(-1)
    rows, references = logits.expand(len(logits), -1), LOGITS.expand(len(logits), -1)
    kl = kl_divergence(estimator, logprobs[tokens], reference[tokens], rows, references)
    weights = logprobs.exp().detach() if drawn is None else drawn
    loss = pull * (weights * kl).sum() - bonus * token_entropy(logits)
    (gradient,) = torch.autograd.grad(loss, logits)
    return gradient


@pytest.mark.parametrize("estimator", ["exact", "k2", "k3"])
@pytest.mark.parametrize(("bonus", "pull"), [(0.02, 0.01), (0.005, 0.01), (0.02, 0.2), (0.5, 0.001)])
def test_the_expected_gradient_vanishes_there_and_nowhere_near(estimator: str, bonus: float, pull: float) -> None:
    there = equilibrium_logprobs(settings(kl_estimator=estimator, entropy_coef=bonus, kl_coef=pull), LOGITS)
    assert there is not None
    assert there.exp().sum().item() == pytest.approx(1, abs=1e-12)
    assert expected_gradient(there, estimator, bonus, pull).abs().max() < 1e-12
    beside = there + 0.1 * torch.tensor([1.0, -1, 0, 0, 0], dtype=torch.float64)
    assert expected_gradient(beside, estimator, bonus, pull).abs().max() > 1e-6


def test_k1_in_the_loss_leaves_the_bonus_alone() -> None:
    """Wrong version: k1, whose name is the KL's, taken for something that pulls."""
    uniform = torch.zeros(5, dtype=torch.float64)
    assert expected_gradient(uniform, "k1", 0.02, 10.0).abs().max() < 1e-12
    there = equilibrium_logprobs(settings(kl_estimator="k1", kl_coef=10.0), LOGITS)
    assert there is not None and torch.allclose(there, torch.full_like(there, -math.log(5)))


@pytest.mark.parametrize(
    ("changes", "temperature"),
    [
        ({}, 3.0),
        ({"kl_estimator": "k2"}, 3.0),
        ({"entropy_coef": 0.0}, 1.0),
        ({"entropy_coef": 0.0, "kl_coef": 0.0}, 1.0),
        ({"kl_coef": 0.0}, math.inf),
        ({"kl_estimator": "k1"}, math.inf),
        ({"kl_reference": "previous"}, math.inf),
        ({"kl_estimator": "k3"}, None),
        ({"kl_in": "reward"}, None),
        ({"temperature": 0.7, "top_k": 50, "train_eos": False}, 3.0),  # exact: whatever is drawn
        ({"kl_estimator": "k2", "temperature": 0.7}, None),
        ({"kl_estimator": "k2", "top_k": 50}, None),
        ({"kl_estimator": "k2", "train_eos": False}, None),
        ({"kl_estimator": "k2", "dropout": True}, None),
        ({"kl_estimator": "k2", "top_k": 50, "entropy_coef": 0.0}, 1.0),
        ({"kl_estimator": "k1", "top_k": 50}, None),
        ({"kl_estimator": "k1", "top_k": 50, "kl_reference": "previous"}, None),
        ({"kl_estimator": "k1", "train_eos": False, "entropy_coef": 0.0}, None),
        ({"kl_estimator": "k1", "top_k": 50, "kl_coef": 0.0}, math.inf),
    ],
)
def test_the_temperature_of_every_choice(changes: dict[str, Any], temperature: float | None) -> None:
    assert settings(**changes).equilibrium_temperature == temperature


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
@pytest.mark.parametrize("changes", [{"temperature": 2.0}, {"top_k": 2}, {"train_eos": False}])
def test_no_estimate_of_tokens_that_are_not_the_policys_own_draws(estimator: str, changes: dict[str, Any]) -> None:
    """Wrong version: the formulas of tokens that are drawn from pi, where the expected gradient of what is drawn is not zero."""
    there, bonus = equilibrium_logprobs(settings(kl_estimator=estimator, kl_coef=0.04), LOGITS), 0.02
    if estimator == "k1":  # k1 alone has no gradient anywhere
        there, bonus = LOGITS, 0.0
    assert there is not None
    assert expected_gradient(there, estimator, bonus, 0.04).abs().max() < 1e-12
    drawn = truncate(there, changes.get("temperature", 1.0), changes.get("top_k", 0)).softmax(-1)
    if "train_eos" in changes:  # the last token is the EOS
        drawn = drawn * torch.tensor([1.0, 1, 1, 1, 0], dtype=torch.float64)
    assert expected_gradient(there, estimator, bonus, 0.04, drawn / drawn.sum()).abs().max() > 1e-6
    assert equilibrium_logprobs(settings(kl_estimator=estimator, kl_coef=0.04, **changes), LOGITS) is None


def test_no_estimate_where_whitening_decides() -> None:
    assert equilibrium_logprobs(settings(kl_in="reward"), LOGITS) is None


def predicted(*overrides: str) -> dict[str, float]:
    """Line 0 of a run's metrics, as far as it says where the policy would go."""
    trainer = pgsrm.Trainer.build("task=color", "evaluation.text=null", *overrides)
    trainer.record_evaluation()
    return {name: value for name, value in trainer.folder.read_metrics()[0].items() if name.startswith("equilibrium/")}


def test_a_run_says_where_it_would_go() -> None:
    """Wrong versions: the entropy of what the reference draws at temperature 1; a temperature where nothing pulls."""
    flat = predicted("ppo.kl_estimator=k1")
    assert flat == {"equilibrium/entropy": pytest.approx(math.log(8192), abs=1e-6)}
    still, warm, hot = (predicted(f"ppo.entropy_coef={bonus}", "ppo.kl_coef=0.01") for bonus in (0, 0.005, 0.02))
    assert [line["equilibrium/temperature"] for line in (still, warm, hot)] == [1.0, 1.5, 3.0]
    entropies = [line["equilibrium/entropy"] for line in (still, warm, hot)]
    assert entropies[0] < entropies[1] - 0.5 < entropies[2] - 1 < math.log(8192) - 1
    assert predicted("ppo.kl_in=reward", "ppo.entropy_coef=0.01") == {}


def test_the_prediction_without_a_bonus_is_the_reference_own_entropy() -> None:
    trainer = pgsrm.Trainer.build("task=color", "evaluation.text=null", "ppo.entropy_coef=0", "ppo.batch_size=28")
    trainer.record_evaluation()
    rollout = trainer.sample(trainer.task.train)
    measured = trainer.learn(rollout, Scored([[0.0] * len(ids) for ids in rollout.response_ids]))["policy/entropy"]
    # other draws of the same tokens' distributions
    assert trainer.folder.read_metrics()[0]["equilibrium/entropy"] == pytest.approx(measured, rel=0.15)


def test_a_start_warns_once_where_the_policy_would_be_flattened(caplog: pytest.LogCaptureFixture) -> None:
    shared = Shared()
    for temperature in (1.5, 3.0, 3.0):
        shared.warn(settings(entropy_coef=0.01 * (temperature - 1), kl_coef=0.01))
    assert [record.getMessage() for record in caplog.records] == [
        "ppo.entropy_coef=0.02, ppo.kl_coef=0.01, ppo.kl_estimator=exact: where the reward says nothing, the policy drifts to "
        "the reference at temperature 3; ppo.entropy_coef=0.005 would be 1.5"
    ]
    caplog.clear()
    for changes in (
        {},
        {"top_k": 50},
        {"kl_coef": 0.0},
    ):  # a k1 of other draws has no temperature, and holds nothing back
        shared.warn(settings(kl_estimator="k1", **changes))
    shared.warn(settings(kl_estimator="k2", top_k=50))
    assert [record.getMessage() for record in caplog.records] == [
        "ppo.entropy_coef=0.02, ppo.kl_coef=0.01, ppo.kl_estimator=k1: where the reward says nothing, the policy drifts away from "
        "the reference, and nothing pulls it back; ppo.kl_estimator=exact against ppo.kl_reference=initial with "
        "ppo.kl_coef above 0 does"
    ]
