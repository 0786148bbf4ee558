"""PPO: pure functions against numbers worked by hand, and `step` against its plain definition (`pgsrm.ppo.plain`)."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
import torch
from conftest import in_float64, spread

from pgsrm.policy.sampling import Sampling
from pgsrm.ppo.advantages import (
    advantages_and_targets,
    generalized_advantages,
    group_baseline,
    group_deviation,
    rewards_to_go,
    token_rewards,
    whiten,
)
from pgsrm.ppo.kl_control import next_coefficient
from pgsrm.ppo.losses import kl_divergence, masked_mean, policy_loss, token_entropy, token_logprobs, value_loss
from pgsrm.ppo.metrics import explained_variance
from pgsrm.ppo.plain import PlainLearner
from pgsrm.ppo.settings import PPOSettings
from pgsrm.ppo.statistics import token_statistics
from pgsrm.ppo.update import Learner, step
from pgsrm.rollout import at_last_token
from pgsrm.util.errors import UserError

LoadPolicy = Callable[..., Any]
LN2, LN3 = math.log(2), math.log(3)

# Prompts that share two tokens and are ragged; responses with EOS (0) at the end, in the first place, and absent.
PROMPTS = [[5, 6, 7], [5, 6, 20, 21, 22], [5, 6, 30, 31], [5, 6, 40]]
RESPONSES = [[50, 51, 0], [52, 53, 54], [0], [55, 0]]
NUMBERS = [1.0, 0.25, 0.5, 0.0]
REWARDS = at_last_token(NUMBERS, RESPONSES)
TOKEN_REWARDS = [[0.5, 0.0, 0.5], [0.25, 0.5, -0.5], [0.125], [0.0, 0.75]]

PAPER = PPOSettings(
    episodes=100,
    batch_size=4,
    actor_lr=1e-3,
    critic_lr=1e-2,
    entropy_coef=0.01,
    baseline="response_value",
    whiten_advantages=False,
    kl_coef=0.05,
    kl_estimator="k1",
    train_eos=True,
    scored_distribution="full",
)


def close(actual: Any, expected: Any, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(torch.as_tensor(actual), torch.as_tensor(expected), rtol=tolerance, atol=tolerance)


# Losses, by hand


def test_masked_mean_divides_by_the_whole_batchs_count() -> None:
    values, mask = torch.tensor([[1.0, 2.0], [4.0, 8.0]]), torch.tensor([[True, True], [True, False]])
    close(masked_mean(values, mask), 7 / 3)
    close(masked_mean(values[:1], mask[:1], 3) + masked_mean(values[1:], mask[1:], 3), 7 / 3)


def test_token_logprobs_and_entropy() -> None:
    logits = torch.tensor([[[0.0, LN3], [0.0, 0.0]]])  # probabilities 1/4, 3/4 and 1/2, 1/2
    close(token_logprobs(logits, torch.tensor([[1, 0]])), [[math.log(0.75), -LN2]])
    close(token_entropy(logits), [[0.25 * math.log(4) + 0.75 * math.log(4 / 3), LN2]])


def test_entropy_of_a_truncated_distribution_counts_what_is_left() -> None:
    close(token_entropy(torch.tensor([[[0.0, 0.0, -math.inf]]])), [[LN2]])


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        ("k1", LN2),  # pi = 1/2, pi_ref = 1/4: log 2
        ("k2", LN2**2 / 2),
        ("k3", 0.5 - 1 + LN2),  # exp(-log 2) - 1 + log 2
        ("exact", 0.5 * LN2 + 0.5 * math.log(2 / 3)),  # 1/2 log(1/2 : 1/4) + 1/2 log(1/2 : 3/4)
    ],
)
def test_kl_estimators(estimator: Any, expected: float) -> None:
    logits, reference = torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[0.0, LN3]]])
    token = torch.tensor([[0]])
    sampled = token_logprobs(logits, token), token_logprobs(reference, token)
    close(kl_divergence(estimator, *sampled, logits, reference), [[expected]])


def test_k1_as_a_loss_does_not_pull_and_k2_pulls_as_the_exact_kl_does() -> None:
    """docs/fidelity.md, D14: the estimators' gradients in expectation over the policy's tokens."""
    reference = torch.tensor([0.3, -0.2, 1.0, 0.0])

    def expected_gradient(estimator: Any) -> torch.Tensor:
        logits = torch.tensor([0.5, 0.1, -0.3, 0.9], requires_grad=True)
        if estimator == "exact":
            kl = kl_divergence("exact", logits[None, :1], logits[None, :1], logits[None, None], reference[None, None])
            return torch.autograd.grad(kl.sum(), logits)[0]
        tokens = torch.arange(4)[None]
        policy, ref = token_logprobs(logits.expand(1, 4, 4), tokens), token_logprobs(reference.expand(1, 4, 4), tokens)
        probabilities = policy.detach().exp()  # the tokens are drawn from pi: the drawing has no gradient
        return torch.autograd.grad((probabilities * kl_divergence(estimator, policy, ref)).sum(), logits)[0]

    close(expected_gradient("k1"), torch.zeros(4))
    assert expected_gradient("exact").abs().max() > 0.1
    close(expected_gradient("k2"), expected_gradient("exact"))


def test_policy_loss_without_ratio_is_minus_logp_times_advantage() -> None:
    logprobs, advantages = torch.tensor([[-1.0, -2.0], [-3.0, -9.0]]), torch.tensor([[1.0, 1.0], [-2.0, 5.0]])
    mask = torch.tensor([[True, True], [True, False]])
    # -(-1 - 2 + 6) / 3; what pi_old was does not matter
    close(policy_loss(logprobs, logprobs * 0, advantages, mask, None), -1.0)


def test_policy_loss_clips_the_ratio_on_the_pessimistic_side() -> None:
    ratios = torch.tensor([[1.5, 0.5, 1.5, 0.5]])
    advantages = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    mask = torch.ones(1, 4, dtype=torch.bool)
    # min(r A, clip(r, 0.8, 1.2) A): 1.2, 0.5, -1.5, -0.8; minus the mean is 0.6 / 4
    close(policy_loss(ratios.log(), torch.zeros(1, 4), advantages, mask, 0.2), 0.15)


def test_clipped_tokens_get_no_gradient() -> None:
    ratios = torch.tensor([[1.5, 0.5, 1.5, 0.5]])
    logprobs = ratios.log().requires_grad_()
    mask = torch.ones(1, 4, dtype=torch.bool)
    policy_loss(logprobs, torch.zeros(1, 4), torch.tensor([[1.0, 1.0, -1.0, -1.0]]), mask, 0.2).backward()
    # d r / d log pi = r where the ratio is not clipped: -(0, 0.5, -1.5, 0) / 4
    close(logprobs.grad, [[0.0, -0.125, 0.375, 0.0]])


def test_value_loss_is_the_mean_square() -> None:
    values, returns = torch.tensor([0.0, 1.0]), torch.tensor([2.0, 4.0])
    close(value_loss(values, returns), 6.5)  # (4 + 9) / 2
    close(value_loss(values[:1], returns[:1], count=2) + value_loss(values[1:], returns[1:], count=2), 6.5)


def test_the_statistics_in_one_pass_are_the_definitions_with_their_gradients() -> None:
    """`token_statistics` has a backward of its own: against `losses` under autograd, in float64.

    Contexts are shared by several tokens, some of them the same ones.
    """
    generator = torch.Generator().manual_seed(0)
    logits, reference = torch.randn(2, 4, 11, dtype=torch.float64, generator=generator) * 3
    place, tokens = torch.tensor([[0, 2, 0], [0, 1, 3]]), torch.tensor([[5, 1, 5], [7, 0, 10]])
    weights = torch.randn(3, 2, 3, dtype=torch.float64, generator=generator)
    one_pass, plain = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    logprobs, entropy, kl = token_statistics(one_pass, place, tokens, reference.log_softmax(-1))
    actual = logprobs, entropy[place], kl[place]
    each, other = plain[place], reference[place]
    expected_logprobs, ref = token_logprobs(each, tokens), token_logprobs(other, tokens)
    expected = expected_logprobs, token_entropy(each), kl_divergence("exact", expected_logprobs, ref, each, other)
    for mine, theirs in zip(actual, expected, strict=True):
        close(mine, theirs, 1e-12)
    for parts in (weights, *(weights * (torch.arange(3) == i)[:, None, None] for i in range(3))):
        (mine,) = torch.autograd.grad(actual, one_pass, list(parts), retain_graph=True)
        (theirs,) = torch.autograd.grad(expected, plain, list(parts), retain_graph=True)
        close(mine, theirs, 1e-12)


# Advantages, by hand


def test_one_reward_a_response_reaches_every_token_undiminished() -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    given = token_rewards(torch.tensor([2.0, 3.0]), mask)
    close(given, [[0.0, 2.0, 0.0], [3.0, 0.0, 0.0]])
    close(rewards_to_go(given, mask), [[2.0, 2.0, 0.0], [3.0, 0.0, 0.0]])


def test_rewards_a_token_are_summed_from_each_token_on() -> None:
    mask = torch.tensor([[True, True, True], [True, True, False]])
    rewards = torch.tensor([[1.0, 0.0, 2.0], [0.5, -1.0, 9.0]])  # the 9 is padding
    close(rewards_to_go(rewards, mask), [[3.0, 2.0, 2.0], [-0.5, -1.0, 0.0]])


def test_returns_are_discounted_a_token() -> None:
    mask = torch.tensor([[True, True, True], [True, True, False]])
    rewards = torch.tensor([[1.0, 0.0, 2.0], [0.5, -1.0, 9.0]])
    close(rewards_to_go(rewards, mask, gamma=0.5), [[1.5, 1.0, 2.0], [0.0, -1.0, 0.0]])


def test_generalized_advantages_by_hand() -> None:
    """With gamma = lambda = 0.5: deltas 1 + 0.5 * 2 - 1 = 1, 0 + 0.5 * 4 - 2 = 0, 2 - 4 = -2; A_0 = 1 + 0 - 2 / 16."""
    mask = torch.tensor([[True, True, True], [True, False, False]])
    rewards, values = torch.tensor([[1.0, 0.0, 2.0], [3.0, 9.0, 9.0]]), torch.tensor([[1.0, 2.0, 4.0], [1.0, 7.0, 7.0]])
    close(generalized_advantages(rewards, values, mask, 0.5, 0.5), [[0.875, -0.5, -2.0], [2.0, 0.0, 0.0]])
    undiscounted = generalized_advantages(rewards, values, mask, 1.0, 1.0)
    close(undiscounted, (rewards_to_go(rewards, mask) - values) * mask)


def test_group_baselines_by_hand() -> None:
    totals = torch.tensor([1.0, 3.0, 8.0, 0.0, 0.0, 0.6])
    close(group_baseline(totals, 3, leave_one_out=False), [4.0, 4.0, 4.0, 0.2, 0.2, 0.2])
    close(group_baseline(totals, 3, leave_one_out=True), [5.5, 4.5, 2.0, 0.3, 0.3, 0.0])
    close(group_deviation(totals, 3), [math.sqrt(13) + 1e-4] * 3 + [math.sqrt(0.12) + 1e-4] * 3)


@pytest.mark.parametrize("baseline", ["group_mean", "leave_one_out"])
def test_a_group_of_equal_rewards_has_no_advantage(baseline: Any) -> None:
    """Wrong version: the mean of seven rewards of 0.7 is off by a rounding, and whitening makes 1.2 of it."""
    for size, reward in itertools.product(range(2, 9), (0.1, 0.7, 2.3, 33.33)):
        how = {"batch_size": 2 * size, "group_size": size, "scale_by_group": True, "whiten_advantages": True}
        settings = msgspec.structs.replace(PAPER, baseline=baseline, **how)
        mask = torch.ones(2 * size, 2, dtype=torch.bool)
        totals = torch.tensor([reward] * size + [reward / 3] * size)
        rewards, nothing = token_rewards(totals, mask), torch.zeros(2 * size, 2)
        advantages, _ = advantages_and_targets(settings, rewards, nothing[:, 0], nothing, 0.0, mask, mask)
        assert advantages.eq(0).all(), (size, reward)


def test_explained_variance() -> None:
    """By hand; and 0 where the returns are equal but for rounding, as those of a sparse reward that all or none earn."""
    mask = torch.tensor([[True, True], [True, False]])
    targets, values = torch.tensor([[1.0, 2.0], [3.0, 9.0]]), torch.tensor([[1.0, 2.0], [2.0, 9.0]])
    assert explained_variance(values, targets, mask).item() == pytest.approx(1 - (2 / 9) / (2 / 3))
    assert explained_variance(targets, targets, mask) == 1
    whole, values = torch.ones(8, 5, dtype=torch.bool), torch.linspace(-0.2, 0.3, 40).view(8, 5)
    for reward in (0.0, 0.3, -7.0):
        rewards = token_rewards(torch.full((8,), reward), whole)
        targets = generalized_advantages(rewards, values, whole, 1.0, 1.0) + values
        assert explained_variance(values, targets, whole) == 0, reward


def test_whitening_is_masked_with_biased_variance() -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    advantages = torch.tensor([[1.0, 1.0, 7.0], [4.0, 7.0, 7.0]])  # masked mean 2, variance (1 + 1 + 4) / 3 = 2
    root = math.sqrt(2)
    close(whiten(advantages, mask), [[-1 / root, -1 / root, 0.0], [2 / root, 0.0, 0.0]])


def test_whitening_leaves_a_batch_of_one_and_zeroes_equal_rewards() -> None:
    mask = torch.tensor([[True, True]])
    close(whiten(torch.tensor([[3.0, 3.0]]), mask), [[3.0, 3.0]])
    close(whiten(torch.tensor([[3.0, 3.0], [3.0, 3.0]]), mask.expand(2, 2)), torch.zeros(2, 2))


# KL coefficient, by hand


@pytest.mark.parametrize(
    ("control", "kl", "expected"),
    [
        ("fixed", 100.0, 1.0),
        ("paper", 1.21, 1.5),  # above 1.5 x 0.8 = 1.2
        ("paper", 1.19, 1.0),
        ("paper", 0.54, 1.0),  # 0.8 / 1.5 = 0.533
        ("paper", 0.53, 1 / 1.5),
        ("paper", -0.5, 1 / 1.5),
        ("ziegler", 0.88, 1 + 0.1 * 50 / 1000),  # 0.88 / 0.8 - 1 = 0.1
        ("ziegler", 8.0, 1 + 0.2 * 50 / 1000),
        ("ziegler", 0.0, 1 - 0.2 * 50 / 1000),
    ],
)
def test_kl_coefficient(control: Any, kl: float, expected: float) -> None:
    assert next_coefficient(1.0, kl, control, 0.8, 50, 1000) == pytest.approx(expected)


def test_no_target_keeps_the_coefficient() -> None:
    """Table 2 has no target: experiment=paper on copy and sentiment."""
    assert next_coefficient(5e-5, 9.0, "paper", None, 10, 1e4) == 5e-5


# One step against its definition


def double_learner(policy: Any, settings: PPOSettings, monkeypatch: pytest.MonkeyPatch) -> Learner:
    """The package's own code in float64, so that it can be compared to the tenth digit."""
    in_float64(monkeypatch)
    learner = Learner(policy, settings, torch.Generator().manual_seed(0))
    learner.value_head.double()
    return learner


def assert_same_step(
    learner: Learner, plain: PlainLearner, expected: dict[str, float], actual: dict[str, float], tolerance: float
) -> None:
    """Equal metrics, and equal gradients, as they are after clipping; with several steps the norm is a mean, so metrics alone."""
    for name, value in expected.items():
        assert actual[name] == pytest.approx(value, rel=tolerance, abs=tolerance), name
    if learner.settings.epochs * learner.settings.minibatches > 1:
        return
    limit = learner.settings.max_grad_norm
    kept = 1.0 if limit is None else min(1.0, limit / (expected["grad/actor_norm"] + 1e-6))
    for parameter, gradient in zip(learner.policy.model.parameters(), plain.gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient * kept, rtol=tolerance, atol=tolerance)


def compare(
    load_policy: LoadPolicy,
    monkeypatch: pytest.MonkeyPatch,
    settings: PPOSettings,
    architecture: str = "gpt2",
    rewards: Any = REWARDS,
    updates: int = 3,
    tolerance: float = 1e-10,
    prompts: Sequence[list[int]] = PROMPTS,
    responses: Sequence[list[int]] = RESPONSES,
) -> None:
    """Several updates of both must be equal, and before each what both say of the responses.

    From the second on, value head, KL and moments are not zero.
    """
    policy = load_policy(architecture, double=True, prompts=prompts, padding=settings.padding)
    assert policy.prefix == (prompts[0][:2] if prompts[0][0] == 5 else [])
    plain, learner = PlainLearner(policy.model, policy.eos, settings), double_learner(policy, settings, monkeypatch)
    shuffle, rows = torch.Generator().manual_seed(0), len(prompts)  # as the learner's
    width = max(map(len, prompts)) if settings.padding == "right" else None
    for _ in range(updates):
        scores = spread(policy.score(policy.pad(prompts, responses)))
        for mine, prompt, response in zip(scores, prompts, responses, strict=True):
            look = plain.look(plain.policy, prompt, response, width)
            close(mine[: len(response)].log_softmax(-1), look.logits.log_softmax(-1), tolerance)
        parts = [list(range(rows))] * settings.epochs
        if settings.minibatches > 1:
            orders = [torch.randperm(rows, generator=shuffle) for _ in range(settings.epochs)]
            parts = [part.tolist() for order in orders for part in order.tensor_split(settings.minibatches)]
        expected, actual = plain.step(prompts, responses, rewards, parts), step(learner, prompts, responses, rewards)
        assert_same_step(learner, plain, expected, actual, tolerance)
    for mine, theirs in zip(policy.model.parameters(), plain.policy.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)
    close(learner.value_head.weight[0], plain.weight, tolerance)
    close(learner.value_head.bias, plain.bias, tolerance)


@pytest.mark.usefixtures("width")
def test_step_is_algorithm_1(load_policy: LoadPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(load_policy, monkeypatch, PAPER)


@pytest.mark.usefixtures("width")
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_step_is_algorithm_1_for(load_policy: LoadPolicy, monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
    compare(load_policy, monkeypatch, PAPER, architecture)


@pytest.mark.usefixtures("width")
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen2"])
@pytest.mark.parametrize("prompts", [PROMPTS, [[7, 1], [8, 2, 3, 4], [9, 5, 6], [3]]], ids=["prefix", "no prefix"])
def test_losses_and_gradients_in_float32(load_policy: LoadPolicy, architecture: str, prompts: list[list[int]]) -> None:
    """Within 1e-5 of the definition's, relative to the whole gradient's norm; no clipping between."""
    settings = msgspec.structs.replace(PAPER, **SOUND, max_grad_norm=1e9)
    policy = load_policy(architecture, prompts=prompts)
    with torch.no_grad():  # a policy that is its own reference has no KL
        for parameter in policy.model.parameters():
            parameter *= 1.1
    plain = PlainLearner(policy.model, policy.eos, settings)
    plain.reference.load_state_dict(policy.reference.state_dict())
    learner = Learner(policy, settings, torch.Generator())
    expected, actual = plain.step(prompts, RESPONSES, REWARDS), step(learner, prompts, RESPONSES, REWARDS)
    for name in ("loss/policy", "loss/kl", "loss/actor", "loss/value", "policy/entropy", "grad/actor_norm"):
        assert actual[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-6), name
    for parameter, gradient in zip(policy.model.parameters(), plain.gradients, strict=True):
        assert (parameter.grad - gradient).norm() <= 1e-5 * expected["grad/actor_norm"]


@pytest.mark.usefixtures("width")
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen2"])
@pytest.mark.parametrize("prompts", [PROMPTS, [[7, 1], [8, 2, 3, 4], [9, 5, 6]]], ids=["prefix", "no prefix"])
def test_step_with_eos_in_every_position(
    load_policy: LoadPolicy, monkeypatch: pytest.MonkeyPatch, architecture: str, prompts: list[list[int]]
) -> None:
    """First, second, third and nowhere, for each of the prompts; some rows are equal."""
    endings = [[0], [50, 0], [50, 51, 0], [50, 51, 52]]
    rows = [(prompt, ending) for prompt in prompts for ending in endings]
    rows += rows[:2]
    settings = msgspec.structs.replace(PAPER, **SOUND)
    asked, answers = [prompt for prompt, _ in rows], [answer for _, answer in rows]
    rewards = at_last_token([0.1 * (i % 7) for i in range(len(rows))], answers)
    compare(load_policy, monkeypatch, settings, architecture, rewards, 2, prompts=asked, responses=answers)


SOUND = {"baseline": "prompt_value", "whiten_advantages": True, "kl_estimator": "exact"}
SOUND |= {"scored_distribution": "sampled", "kl_coef": 0.01, "entropy_coef": 0.02}


@pytest.mark.parametrize(
    "switches",
    [
        SOUND,
        {"baseline": "none"},
        {"baseline": "batch_mean"},
        {"baseline": "prompt_value"},  # docs/fidelity.md, D2
        {"train_eos": False},  # docs/fidelity.md, D3
        {"padding": "right"},  # docs/fidelity.md, D4
        {"clip_range": 0.2},  # docs/fidelity.md, D7; one step per batch: the ratio is 1, the gradient the same
        {"temperature": 0.7, "scored_distribution": "full"},  # docs/fidelity.md, D9
        {"temperature": 0.7, "scored_distribution": "sampled"},
        {"top_k": 5, "scored_distribution": "full"},
        {"top_k": 5, "scored_distribution": "sampled"},
        {"kl_estimator": "k2"},  # docs/fidelity.md, D14
        {"kl_estimator": "k3"},
        {"kl_estimator": "exact"},
        {"weight_decay": 0.3, "adam_eps": 1e-3},  # docs/fidelity.md, D15
        {"whiten_advantages": True, "train_eos": False},
        {"micro_batch": 3},
        {"max_grad_norm": 0.01},
        {"kl_in": "reward"},
        {"kl_in": "reward", "kl_estimator": "exact", "gamma": 0.9, "train_eos": False},
        {"baseline": "token_values"},
        {"baseline": "token_values", "gamma": 0.9, "gae_lambda": 0.8, "kl_in": "reward", "train_eos": False},
        {"baseline": "token_values", "gae_lambda": 0.5, "micro_batch": 3, "whiten_advantages": True},
        {"baseline": "token_values", "kl_in": "reward", "micro_batch": 3, "epochs": 2, "clip_range": 0.2},
        {"baseline": "batch_mean", "micro_batch": 1},
        {"baseline": "group_mean", "group_size": 2, "scale_by_group": True, "micro_batch": 2},
        {"baseline": "leave_one_out", "group_size": 2, "micro_batch": 1},
        {"baseline": "token_values", "value_clip": 0.01, "epochs": 2, "clip_range": 0.2, "critic_lr": 1e-2},
        {"value_clip": 0.01, "epochs": 2, "clip_range": 0.2, "critic_lr": 1e-2},
        {"epochs": 3, "clip_range": 0.2, "actor_lr": 1e-1, "ratio_limit": 1.001},  # later steps are left out
        {"max_grad_norm": None},
        {"baseline": "group_mean", "group_size": 2, "scale_by_group": True},  # GRPO
        {"baseline": "leave_one_out", "group_size": 2, "kl_in": "reward"},  # RLOO
        {"kl_control": "ziegler", "kl_target": 0.1, "kl_horizon": 20.0},
        {"kl_control": "paper", "kl_target": 0.001},
        {"kl_reference": "previous"},
    ],
    ids=lambda switches: ",".join(f"{key}={value}" for key, value in switches.items()),
)
def test_step_with_each_switch(
    load_policy: LoadPolicy, monkeypatch: pytest.MonkeyPatch, switches: dict[str, Any]
) -> None:
    compare(load_policy, monkeypatch, msgspec.structs.replace(PAPER, **switches))


@pytest.mark.parametrize("train_eos", [True, False])
@pytest.mark.parametrize("baseline", ["prompt_value", "response_value", "token_values", "batch_mean", "none"])
def test_step_with_rewards_a_token(
    load_policy: LoadPolicy, monkeypatch: pytest.MonkeyPatch, baseline: Any, train_eos: bool
) -> None:
    """What is given at an EOS counts for the tokens before it, also where the EOS itself is not trained."""
    settings = msgspec.structs.replace(PAPER, baseline=baseline, train_eos=train_eos)
    compare(load_policy, monkeypatch, settings, rewards=TOKEN_REWARDS)


def test_rewards_are_numbers_of_any_kind(load_policy: LoadPolicy) -> None:
    """Also such as numpy does not take; and what is no number is refused, and does not become one."""

    def metrics_with(kind: Callable[[float], Any]) -> dict[str, float]:
        learner = Learner(load_policy(prompts=PROMPTS), PAPER, torch.Generator().manual_seed(0))
        return step(learner, PROMPTS, RESPONSES, [[kind(one) for one in row] for row in REWARDS])

    plain = metrics_with(float)
    kinds: list[Callable[[float], Any]] = [
        torch.tensor,
        lambda one: torch.tensor([one]),
        lambda one: torch.tensor(one, requires_grad=True),
        lambda one: torch.tensor(one, dtype=torch.bfloat16),
    ]
    for kind in kinds:
        assert metrics_with(kind) == pytest.approx(plain, rel=1e-2)
    for wrong in (lambda _: None, lambda _: "1"):
        with pytest.raises((TypeError, ValueError)):
            metrics_with(wrong)


@pytest.mark.usefixtures("width")
def test_step_with_epochs_minibatches_and_clipping(load_policy: LoadPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Advantages and old log-probs are fixed before the first of the gradient steps; large steps, so that some clip."""
    settings = msgspec.structs.replace(
        PAPER, epochs=2, minibatches=2, clip_range=0.05, actor_lr=1e-2, whiten_advantages=True
    )
    with monkeypatch.context() as patch:
        compare(load_policy, patch, settings)
    policy = load_policy(prompts=PROMPTS)
    metrics = step(Learner(policy, settings, torch.Generator().manual_seed(0)), PROMPTS, RESPONSES, REWARDS)
    assert 0 < metrics["policy/clip_fraction"] < 1
    assert metrics["policy/ratio_max"] > 1.05


@pytest.mark.parametrize("control", ["paper", "ziegler"])
@pytest.mark.parametrize("micro_batch", [None, 1])
def test_the_controller_goes_by_the_policy_that_sampled(
    load_policy: LoadPolicy, monkeypatch: pytest.MonkeyPatch, control: Any, micro_batch: int | None
) -> None:
    """Wrong version: the mean over the gradient steps, whose policies did not draw these tokens."""
    steps = {"epochs": 2, "minibatches": 2, "clip_range": 0.2, "micro_batch": micro_batch, "actor_lr": 1e-3}
    adaptive = {"kl_coef": 0.1, "kl_control": control, "kl_target": 0.01, "kl_horizon": 20.0}
    compare(load_policy, monkeypatch, msgspec.structs.replace(PAPER, **steps, **adaptive))


def test_step_with_equal_rewards_and_whitening(load_policy: LoadPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    """As reward=binary gives where no answer is right: no signal, whatever the values are by then."""
    settings = msgspec.structs.replace(PAPER, **SOUND)
    with monkeypatch.context() as patch:
        compare(load_policy, patch, settings, rewards=REWARDS, updates=1)
    compare(
        load_policy,
        monkeypatch,
        msgspec.structs.replace(settings, critic_lr=0.1),
        rewards=at_last_token([0.5] * 4, RESPONSES),
    )


def test_the_deviation_of_equal_advantages_is_0_however_large_they_are(load_policy: LoadPolicy) -> None:
    """Wrong version: their mean square, less the square of their mean, in float32: 0.02 for advantages of 100.1."""
    settings = msgspec.structs.replace(PAPER, baseline="none")
    learner = Learner(load_policy("gpt2"), settings, torch.Generator())
    metrics = step(learner, PROMPTS, RESPONSES, at_last_token([100.1] * 4, RESPONSES))
    assert metrics["advantage/mean"] == pytest.approx(100.1) and metrics["advantage/std"] < 1e-5


def test_step_with_one_response(load_policy: LoadPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = msgspec.structs.replace(PAPER, **SOUND)
    compare(load_policy, monkeypatch, settings, rewards=[[0.0, 0.0, 0.7]], prompts=PROMPTS[:1], responses=RESPONSES[:1])


@pytest.mark.parametrize("baseline", ["prompt_value", "token_values"])
def test_step_with_a_minibatch_of_nothing_but_untrained_eos(
    load_policy: LoadPolicy, monkeypatch: pytest.MonkeyPatch, baseline: Any
) -> None:
    assert RESPONSES[2] == [0]
    steps = {"minibatches": 4, "clip_range": 0.2, "train_eos": False, "baseline": baseline}
    compare(load_policy, monkeypatch, msgspec.structs.replace(PAPER, **steps))


@pytest.mark.usefixtures("width")
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen2"])
@pytest.mark.parametrize("steps", [{}, {"epochs": 3, "clip_range": 0.2, "kl_in": "reward"}], ids=["one step", "epochs"])
def test_step_on_the_samplings_own_pass(
    load_policy: LoadPolicy, monkeypatch: pytest.MonkeyPatch, architecture: str, steps: dict[str, Any]
) -> None:
    """As runs do it: what sampling computed of the prompts is what the update differentiates, in its first step."""
    settings = msgspec.structs.replace(PAPER, **(SOUND | steps))
    policy = load_policy(architecture, double=True, prompts=PROMPTS)
    plain, learner = PlainLearner(policy.model, policy.eos, settings), double_learner(policy, settings, monkeypatch)
    prompts = [PROMPTS[i] for i in (0, 1, 1, 2, 3, 0)]
    assert learner.reuses_prefill(len(prompts))
    for update in range(2):
        uniforms = torch.rand(6, 3, generator=torch.Generator().manual_seed(update), dtype=torch.float64)
        sampled = policy.sample(prompts, uniforms, Sampling(3), with_graph=True)
        numbers = [float(len(response) + response[0] % 5) for response in sampled.responses]
        rewards = at_last_token(numbers, sampled.responses)
        expected = plain.step(prompts, sampled.responses, rewards, [range(6)] * settings.epochs)
        actual = step(learner, prompts, sampled.responses, rewards, sampled.prefill)
        assert_same_step(learner, plain, expected, actual, 1e-10)


@pytest.mark.parametrize(
    ("given", "switches", "what"),
    [
        ((PROMPTS, RESPONSES, REWARDS[:1]), {}, "4 prompts, 4 responses, 1 reward"),
        ((PROMPTS, RESPONSES[:1], REWARDS), {}, "4 prompts, 1 response, 4 rewards"),
        (([], [], []), {}, "0 prompts"),
        ((PROMPTS, [[50], [], [0], [0]], [[1.0]] * 4), {}, "row 1 has no token in its response"),
        ((PROMPTS, RESPONSES, [[1.0], *TOKEN_REWARDS[1:]]), {}, "row 0 has 1 reward for 3 tokens"),
        ((PROMPTS, RESPONSES, [1.0, *TOKEN_REWARDS[1:]]), {}, r"row 0 has the reward 1\.0; give a list.*at_last_token"),
        ((PROMPTS[:3], RESPONSES[:3], REWARDS[:3]), {"baseline": "group_mean", "group_size": 2}, "no multiple"),
    ],
)
def test_a_batch_that_does_not_fit_together_is_refused(
    load_policy: LoadPolicy, given: Any, switches: dict[str, Any], what: str
) -> None:
    """Wrong version: one reward for four responses is broadcast."""
    policy = load_policy(prompts=PROMPTS)
    learner = Learner(policy, msgspec.structs.replace(PAPER, **switches), torch.Generator())
    with pytest.raises(UserError, match=f"ppo.step: .*{what}"):
        step(learner, *given)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "exact"])
def test_padding_is_no_token(load_policy: LoadPolicy, estimator: Any) -> None:
    """Wrong version: EOS, which pads, is so improbable that k3 of it is infinite, and the run stops as if it had diverged."""
    policy = load_policy("llama", prompts=PROMPTS)
    head = policy.model.get_output_embeddings().weight
    with torch.no_grad():
        head.mul_(0.01)
        row = policy.score(policy.pad(PROMPTS, RESPONSES)).prompt_hidden[0]
        head[policy.eos[0]] = -300 * row / row.square().sum()  # after the first prompt
    settings = msgspec.structs.replace(PAPER, kl_estimator=estimator, kl_coef=0.1)
    learner = Learner(policy, settings, torch.Generator())
    metrics = step(learner, PROMPTS, [[50, 51, 52], [53], [54], [55]], [[0.0, 0.0, 1.0], [0.25], [0.5], [0.0]])
    assert all(math.isfinite(value) for value in metrics.values())


def test_micro_batches_bound_what_the_reference_holds(load_policy: LoadPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong version: its log-probabilities of the whole batch, a vocabulary a token, are held through all steps."""
    from pgsrm.policy.fast.policy import FastPolicy

    rows, score = [], FastPolicy.score_reference

    def counted(self: FastPolicy, batch: Any) -> Any:
        rows.append(len(batch))
        return score(self, batch)

    monkeypatch.setattr(FastPolicy, "score_reference", counted)
    settings = msgspec.structs.replace(PAPER, micro_batch=2, epochs=2, clip_range=0.2)
    learner = Learner(load_policy(prompts=PROMPTS), settings, torch.Generator())
    step(learner, PROMPTS, RESPONSES, REWARDS)
    assert set(rows) == {2}


@pytest.mark.parametrize(
    ("switches", "passes"),
    [
        ({"micro_batch": 2}, 2),
        ({"micro_batch": 2, "epochs": 2, "clip_range": 0.2}, 4),
        ({"micro_batch": 2, "baseline": "group_mean", "group_size": 2, "scale_by_group": True}, 2),
        ({"micro_batch": 2, "kl_control": "ziegler", "kl_target": 0.1}, 2),
        # what needs a pass over the whole batch before
        ({"micro_batch": 2, "whiten_advantages": True}, 4),
        ({"micro_batch": 2, "baseline": "batch_mean"}, 4),
        ({"micro_batch": 1, "baseline": "group_mean", "group_size": 2}, 8),
    ],
    ids=str,
)
def test_micro_batches_are_read_once_where_their_advantages_are_their_own(
    load_policy: LoadPolicy, monkeypatch: pytest.MonkeyPatch, switches: dict[str, Any], passes: int
) -> None:
    """On four responses. The numbers are those of `test_step_with_each_switch`."""
    from pgsrm.policy.fast.policy import FastPolicy

    rows, score = [], FastPolicy.score

    def counted(self: FastPolicy, batch: Any, *arguments: Any) -> Any:
        rows.append(len(batch))
        return score(self, batch, *arguments)

    monkeypatch.setattr(FastPolicy, "score", counted)
    learner = Learner(load_policy(prompts=PROMPTS), msgspec.structs.replace(PAPER, **switches), torch.Generator())
    step(learner, PROMPTS, RESPONSES, REWARDS)
    assert rows == [switches["micro_batch"]] * passes


# The switches change what they say


def weights_after(load_policy: LoadPolicy, updates: int = 2, **switches: Any) -> torch.Tensor:
    settings = msgspec.structs.replace(PAPER, **switches)
    policy = load_policy(prompts=PROMPTS, padding=settings.padding)
    learner = Learner(policy, settings, torch.Generator().manual_seed(0))
    for _ in range(updates):
        step(learner, PROMPTS, RESPONSES, REWARDS)
    return torch.nn.utils.parameters_to_vector(policy.model.parameters())


@pytest.mark.parametrize(
    "switches",
    [
        {"baseline": "none"},
        {"baseline": "batch_mean"},
        {"baseline": "prompt_value"},
        {"whiten_advantages": True},
        {"train_eos": False},
        {"padding": "right"},
        {"dropout": True},
        {"scored_distribution": "sampled", "top_k": 290},
        {"scored_distribution": "sampled", "temperature": 0.5},
        {"kl_estimator": "k2"},
        {"kl_estimator": "k3"},
        {"kl_estimator": "exact"},
        {"kl_coef": 0.0},
        {"kl_control": "paper", "kl_target": 10.0},
        {"kl_control": "ziegler", "kl_target": 10.0, "kl_horizon": 10.0},
        {"kl_reference": "previous", "kl_estimator": "k3"},
        {"entropy_coef": 0.1},
        {"weight_decay": 0.0},
        {"max_grad_norm": 1e-6, "adam_eps": 1e-3},
    ],
    ids=lambda switches: ",".join(f"{key}={value}" for key, value in switches.items()),
)
def test_each_switch_changes_the_weights(load_policy: LoadPolicy, switches: dict[str, Any]) -> None:
    updates = 3  # the KL coefficient moves after the first, and then acts on a policy that has left the reference
    plain = {"kl_estimator": "k3"} if "kl_reference" in switches else {}  # k1's gradient knows no reference
    assert not torch.equal(
        weights_after(load_policy, updates, **plain), weights_after(load_policy, updates, **switches)
    )


def test_an_untrained_eos_gets_no_gradient_and_a_trained_one_does(load_policy: LoadPolicy) -> None:
    """docs/fidelity.md, D3, with a batch of which every response is an EOS alone: nothing is left to train on without it."""
    changes = {}
    for train_eos in (True, False):
        policy = load_policy(prompts=PROMPTS)
        settings = msgspec.structs.replace(PAPER, train_eos=train_eos, weight_decay=0.0, entropy_coef=0.0, kl_coef=0.0)
        before = torch.nn.utils.parameters_to_vector(policy.model.parameters()).clone()
        step(Learner(policy, settings, torch.Generator()), PROMPTS, [[0]] * 4, [[number] for number in NUMBERS])
        after = torch.nn.utils.parameters_to_vector(policy.model.parameters())
        assert after.isfinite().all()
        changes[train_eos] = (after - before).abs().max().item()
    assert changes[True] > 1e-4
    assert changes[False] == 0.0


@pytest.mark.parametrize("baseline", ["none", "batch_mean", "prompt_value"])
def test_a_batch_without_a_trained_token_does_no_harm(load_policy: LoadPolicy, baseline: Any) -> None:
    """Wrong version: whitening divides by a mask's sum of zero, and every weight is NaN."""
    policy = load_policy(prompts=PROMPTS)
    settings = msgspec.structs.replace(PAPER, train_eos=False, whiten_advantages=True, baseline=baseline)
    metrics = step(Learner(policy, settings, torch.Generator()), PROMPTS, [[0]] * 4, [[number] for number in NUMBERS])
    assert all(math.isfinite(value) for value in metrics.values()), metrics
    assert torch.nn.utils.parameters_to_vector(policy.model.parameters()).isfinite().all()


@pytest.mark.parametrize(
    "switches",
    [{}, SOUND, {"baseline": "response_value", "train_eos": False}, {"epochs": 2, "minibatches": 3, "micro_batch": 2}],
)
def test_equal_rows_give_what_they_give_apart(
    load_policy: LoadPolicy, monkeypatch: pytest.MonkeyPatch, switches: dict[str, Any]
) -> None:
    """Equal prompts and equal answers are computed once; wrong version: their gradients are counted once, too."""
    rows = [0, 1, 1, 2, 0, 3, 0, 1]
    prompts, responses = [PROMPTS[i] for i in rows], [RESPONSES[i] for i in rows]
    responses[-1] = [9, 9, 0]
    rewards = at_last_token([0.1 * i for i in range(len(rows))], responses)
    results = []
    for share in (True, False):
        policy = load_policy(double=True, prompts=PROMPTS, share=share)
        learner = double_learner(policy, msgspec.structs.replace(PAPER, **switches), monkeypatch)
        metrics = [step(learner, prompts, responses, rewards) for _ in range(2)]
        results.append((metrics, list(policy.model.parameters())))
    for mine, theirs in zip(results[0][0], results[1][0], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-10, abs=1e-10)
    for ours, others in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(ours, others, rtol=1e-10, atol=1e-10)


def test_the_value_of_an_untrained_eos_is_still_its_reward(load_policy: LoadPolicy) -> None:
    """The value loss is MSE(v, r) (Algorithm 1, line 12), whatever tokens are in the policy's loss."""
    policy = load_policy(prompts=PROMPTS)
    settings = msgspec.structs.replace(PAPER, train_eos=False)
    metrics = step(Learner(policy, settings, torch.Generator()), PROMPTS, RESPONSES, REWARDS)
    assert metrics["loss/value"] == pytest.approx((1 + 0.0625 + 0.25 + 0) / 4)  # v = 0, rewards 1, 1/4, 1/2, 0


def test_dropout_is_on_when_asked_in_sampling_and_in_scoring(load_policy: LoadPolicy) -> None:
    """docs/fidelity.md, D5; and the greedy evaluation stays without."""
    policy = load_policy(prompts=PROMPTS)
    Learner(policy, msgspec.structs.replace(PAPER, dropout=True), torch.Generator())
    uniforms, batch = torch.full((4, 3), 0.5), policy.pad(PROMPTS, RESPONSES)
    torch.manual_seed(1)
    sampled = [policy.sample(PROMPTS, uniforms, Sampling(3)).logprobs[:, 0] for _ in range(2)]
    scored = [policy.score(batch).logits for _ in range(2)]
    assert not torch.equal(sampled[0], sampled[1])
    assert not torch.equal(scored[0], scored[1])
    assert torch.equal(policy.score_reference(batch)[0], policy.score_reference(batch)[0])
    assert policy.greedy(PROMPTS, 8) == policy.greedy(PROMPTS, 8)
    assert policy.model.training  # and greedy puts it back


def test_previous_reference_is_the_policy_before_the_last_update(load_policy: LoadPolicy) -> None:
    """docs/fidelity.md, D6: the KL is one update's change, where that against the initial model is the sum of all."""
    kls: dict[str, list[float]] = {"initial": [], "previous": []}
    for reference, kl in kls.items():
        policy = load_policy(prompts=PROMPTS)
        settings = msgspec.structs.replace(PAPER, kl_reference=reference, kl_estimator="exact", actor_lr=3e-3)
        learner = Learner(policy, settings, torch.Generator())
        for _ in range(4):
            before = {name: value.clone() for name, value in policy.model.state_dict().items()}
            kl.append(step(learner, PROMPTS, RESPONSES, REWARDS)["loss/kl"])
        if reference == "previous":
            assert all(torch.equal(policy.reference.state_dict()[name], value) for name, value in before.items())
    assert kls["initial"][0] == kls["previous"][0] == pytest.approx(0, abs=1e-6)
    assert kls["initial"][1] == pytest.approx(kls["previous"][1], rel=1e-4)
    assert kls["previous"][3] < 0.7 * kls["initial"][3]


def test_the_adaptive_coefficient_moves_with_the_measured_kl(load_policy: LoadPolicy) -> None:
    """The first update's KL is 0, below target / 1.5; Ziegler's measures the sum over a response, not a token."""
    settings = msgspec.structs.replace(PAPER, kl_control="paper", kl_target=0.8)
    learner = Learner(load_policy(prompts=PROMPTS), settings, torch.Generator())
    assert step(learner, PROMPTS, RESPONSES, REWARDS)["policy/kl_coef"] == 0.05
    assert step(learner, PROMPTS, RESPONSES, REWARDS)["policy/kl_coef"] == pytest.approx(0.05 / 1.5)

    settings = msgspec.structs.replace(PAPER, kl_control="ziegler", kl_target=1.2, kl_horizon=40, actor_lr=1e-3)
    learner = Learner(load_policy(prompts=PROMPTS), settings, torch.Generator())
    step(learner, PROMPTS, RESPONSES, REWARDS)
    assert learner.kl_coef == pytest.approx(0.05 * (1 - 0.2 * 4 / 40))
    coefficient = learner.kl_coef
    token_kl = step(learner, PROMPTS, RESPONSES, REWARDS)["policy/kl"]
    response_kl = token_kl * 9 / 4  # 9 tokens in 4 responses
    errors = [max(-0.2, min(0.2, kl / 1.2 - 1)) for kl in (token_kl, response_kl)]
    assert errors[0] != errors[1]  # else this test could not tell
    assert learner.kl_coef == pytest.approx(coefficient * (1 + errors[1] * 4 / 40), rel=1e-5)


# Settings that contradict each other


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"epochs": 2}, "ppo.clip_range"),
        ({"minibatches": 2}, "ppo.clip_range"),
        ({"minibatches": 5, "clip_range": 0.2}, "ppo.minibatches=5"),
        ({"episodes": 3}, "ppo.episodes=3"),
        ({"group_size": 3}, "ppo.group_size=3: ppo.batch_size=4"),
        ({"baseline": "leave_one_out"}, "ppo.baseline=leave_one_out: .* set ppo.group_size"),
        ({"scale_by_group": True}, "ppo.scale_by_group=true: .* set ppo.group_size"),
        ({"gae_lambda": 0.9}, "ppo.gae_lambda=0.9: .* ppo.baseline=token_values"),
    ],
)
def test_contradictions_are_named(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError, match=key):
        msgspec.structs.replace(PAPER, **changes).check()


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(load_policy: LoadPolicy) -> None:
    """Wrong version: the weights are NaN from there on, and the run continues with them."""
    policy = load_policy(prompts=PROMPTS)
    learner = Learner(policy, msgspec.structs.replace(PAPER, kl_coef=1e38, kl_estimator="k1"), torch.Generator())
    before = [parameter.clone() for parameter in policy.model.parameters()]
    with pytest.raises(UserError, match=r"not finite \(policy/kl_coef 1e\+38.*ppo.kl_control=fixed"):
        step(learner, PROMPTS, RESPONSES, REWARDS)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(before, policy.model.parameters(), strict=True))


def test_an_incomplete_batch_is_not_drawn() -> None:
    assert msgspec.structs.replace(PAPER, episodes=99, batch_size=50).updates == 1
