"""How often the host waits for a GPU; counted on a CPU, with the policy computing as it does on a GPU."""

import copy
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch
from conftest import in_float64
from test_simple_policy import PROMPTS, assert_equal_training, ppo_settings
from waits import waits

from pgsrm.policy.sampling import Sampling
from pgsrm.policy.simple import SimplePolicy
from pgsrm.ppo.update import Learner, step
from pgsrm.rollout import at_last_token

LoadPolicy = Callable[..., Any]


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("matrices", "forward", "policy"):
        monkeypatch.setattr(f"pgsrm.policy.fast.{module}.is_asynchronous", lambda device: True)


@pytest.mark.usefixtures("as_on_a_gpu", "width")
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("choice", ["sound", "relc", "released"])
def test_the_numbers_are_the_simple_policys(
    load_policy: LoadPolicy, monkeypatch: pytest.MonkeyPatch, architecture: str, choice: str
) -> None:
    in_float64(monkeypatch)
    settings = ppo_settings(choice)
    fast = load_policy(architecture, double=True, prompts=PROMPTS, padding=settings.padding)
    fast._asks_every = 2
    model = copy.deepcopy(fast.model)
    simple = SimplePolicy(model, copy.deepcopy(model), eos=(0,), padding=settings.padding)
    assert_equal_training(fast, simple, settings, 1e-10)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize(
    ("choice", "changes", "steps"),
    [("sound", {}, 1), ("per_token", {}, 2), ("relc", {"epochs": 2, "minibatches": 5}, 10), ("grpo", {}, 1)],
)
def test_an_update_waits_once_for_its_tokens_and_once_a_gradient_step(
    load_policy: LoadPolicy, choice: str, changes: dict[str, int], steps: int
) -> None:
    policy = load_policy(prompts=PROMPTS)
    learner = Learner(
        policy, msgspec.structs.replace(ppo_settings(choice), **changes), torch.Generator().manual_seed(0)
    )
    for update in range(2):
        with waits() as seen:
            uniforms = torch.rand(10, 3, dtype=torch.float64)
            sampled = policy.sample(PROMPTS * 2, uniforms, Sampling(3), learner.reuses_prefill(10))
            rewards = at_last_token([float(row) for row in range(10)], sampled.responses)
            step(learner, PROMPTS * 2, sampled.responses, rewards, sampled.prefill)
        assert len(seen) == 1 + steps, (update, seen)
