"""Where PPO on language models goes wrong: each test names the wrong version that it fails on.

Each was a mistake in some public project. Three more are tested elsewhere: advantages and KL estimators by hand in test_ppo,
resuming in test_run.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from conftest import spread

from pgsrm.models.load import load_tokenizer
from pgsrm.models.settings import ModelSettings
from pgsrm.models.text import Codec
from pgsrm.policy.sampling import Sampling, truncate
from pgsrm.ppo.settings import PPOSettings
from pgsrm.ppo.update import Learner, step
from pgsrm.rollout import at_last_token

LoadPolicy = Callable[..., Any]
ARCHITECTURES = pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen2"])

# Ragged, with a shared beginning; the second holds the EOS (0), which also fills up shorter rows.
PROMPTS = [[5, 6, 7], [5, 6, 0, 20, 21, 22], [5, 6, 30, 31], [5, 6, 40]]
RESPONSES = [[50, 51, 0], [52, 53, 54], [0], [55, 0]]
REWARDS = at_last_token([1.0, 0.25, 0.5, 0.0], RESPONSES)

SETTINGS = PPOSettings(
    episodes=100,
    batch_size=4,
    actor_lr=1e-3,
    critic_lr=1e-2,
    entropy_coef=0.01,
    baseline="prompt_value",
    whiten_advantages=True,
    kl_coef=0.05,
    kl_estimator="exact",
    train_eos=True,
)


def new_learner(policy: Any, **changes: Any) -> Learner:
    return Learner(policy, msgspec.structs.replace(SETTINGS, **changes), torch.Generator().manual_seed(0))


def logprobs(policy: Any, prompts: list[list[int]], responses: list[list[int]]) -> list[list[float]]:
    """The policy's log-probabilities of ragged responses, in one padded batch."""
    logits = spread(policy.score(policy.pad(prompts, responses))).log_softmax(-1)
    return [[logits[i, t, token].item() for t, token in enumerate(row)] for i, row in enumerate(responses)]


def alone(model: Any, prompt: list[int], response: list[int]) -> list[float]:
    """The same of one example: nothing to pad, so no mask and no positions to get wrong."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + response])).logits[0].log_softmax(-1)
    return [logits[len(prompt) + t - 1, token].item() for t, token in enumerate(response)]


def flat(policy: Any) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(policy.model.parameters()).detach().clone()


def gradient(policy: Any) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in policy.model.parameters()])


# 1. Masks


def test_1_masks_come_from_lengths(load_policy: LoadPolicy) -> None:
    """Wrong version: mask = (ids != pad). The EOS fills up rows here, and is also a prompt's and a response's token."""
    batch = load_policy(prompts=PROMPTS).pad(PROMPTS, RESPONSES)
    prefix = len(batch.prefix_ids)
    assert batch.prompt_mask.sum(1).tolist() == [len(p) - prefix for p in PROMPTS]
    assert batch.response_mask.sum(1).tolist() == [3, 3, 1, 2]


def test_1_a_sampled_eos_is_trained(load_policy: LoadPolicy) -> None:
    """Wrong version: the EOS is masked away; a policy that is rewarded for stopping never learns to."""
    policy = load_policy(prompts=PROMPTS)
    learner = new_learner(policy, whiten_advantages=False, entropy_coef=0.0, kl_coef=0.0)
    before = logprobs(policy, PROMPTS, [[0]] * 4)
    for _ in range(5):
        step(learner, PROMPTS, [[0]] * 4, [[1.0]] * 4)
    after = logprobs(policy, PROMPTS, [[0]] * 4)
    assert all(b[0] > a[0] + 0.1 for a, b in zip(before, after, strict=True))


def test_1_nothing_after_eos_is_in_the_loss(load_policy: LoadPolicy) -> None:
    """Wrong version: the filler behind a short response counts; a longer neighbour would then change its gradient."""
    gradients = []
    for longest in ([52, 53], [52, 53, 54, 55, 56]):
        policy = load_policy(prompts=PROMPTS)
        # the neighbour earns what the baseline says, and so nothing: only how far its row reaches is different
        settings = {"whiten_advantages": False, "baseline": "none", "entropy_coef": 0.0, "kl_coef": 0.0}
        learner = new_learner(policy, **settings, max_grad_norm=1e9)
        metrics = step(learner, PROMPTS[:2], [[50, 0], longest], [[0.0, 1.0], [0.0] * len(longest)])
        tokens = 2 + len(longest)
        assert metrics["loss/policy"] == pytest.approx(-sum(alone(load_policy().model, PROMPTS[0], [50, 0])) / tokens)
        gradients.append(gradient(policy) * tokens)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-4)


# 2. Positions


@ARCHITECTURES
@pytest.mark.parametrize("share", [True, False])
def test_2_a_padded_batch_scores_as_each_example_alone(load_policy: LoadPolicy, architecture: str, share: bool) -> None:
    """Wrong version: left padding without position ids; GPT-2 then counts the pads."""
    policy = load_policy(architecture, prompts=PROMPTS, share=share)
    padded = logprobs(policy, PROMPTS, RESPONSES)
    for prompt, response, row in zip(PROMPTS, RESPONSES, padded, strict=True):
        assert row == pytest.approx(alone(policy.model, prompt, response), abs=1e-5, rel=1e-5)


def test_2_right_padding_is_another_distribution(load_policy: LoadPolicy) -> None:
    """docs/fidelity.md, D4: the released code's way. Only the longest prompt is scored as it was sampled."""
    policy = load_policy(prompts=PROMPTS, padding="right")
    padded = logprobs(policy, PROMPTS, RESPONSES)
    off = [
        max(abs(a - b) for a, b in zip(row, alone(policy.model, prompt, response), strict=True))
        for prompt, response, row in zip(PROMPTS, RESPONSES, padded, strict=True)
    ]
    assert off[1] < 1e-5
    assert min(off[0], *off[2:]) > 0.01


# 3. Alignment


@ARCHITECTURES
@pytest.mark.parametrize("how", [Sampling(5), Sampling(5, temperature=0.7), Sampling(5, top_k=7)], ids=str)
def test_3_recomputed_logprobs_are_the_samplers(load_policy: LoadPolicy, architecture: str, how: Sampling) -> None:
    """Wrong versions: logits[:, t] for token t; scoring at another temperature or top-k than sampling (6)."""
    policy = load_policy(architecture, prompts=PROMPTS)
    uniforms = torch.rand(40, 5, generator=torch.Generator().manual_seed(1))
    sampled = policy.sample(PROMPTS * 10, uniforms, how)
    batch = policy.pad(PROMPTS * 10, sampled.responses)
    logits = truncate(spread(policy.score(batch)), how.temperature, how.top_k)
    scored = logits.log_softmax(-1).gather(-1, batch.response_ids[..., None])[..., 0]
    mask = batch.response_mask
    torch.testing.assert_close(scored[mask], sampled.logprobs[:, : mask.shape[1]][mask], rtol=1e-5, atol=1e-5)


# 4. First ratio and first KL


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [3, 0]], ids=["all", "without the longest"])
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "exact"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"micro_batch": 1},
        {"clip_range": 0.2, "micro_batch": 3},
        {"temperature": 0.5},
        {"top_k": 5},
        {"temperature": 0.5, "top_k": 5, "scored_distribution": "full"},
        {"train_eos": False},
        {"padding": "right"},
    ],
    ids=str,
)
def test_4_first_ratio_is_1_and_first_kl_0(
    load_policy: LoadPolicy, changes: dict[str, Any], estimator: str, rows: list[int]
) -> None:
    """Wrong versions: dropout on, another padding for the reference, a truncated policy against a full reference."""
    policy = load_policy(prompts=PROMPTS, padding=changes.get("padding", "left"))
    batch = [[given[i] for i in rows] for given in (PROMPTS, RESPONSES, REWARDS)]
    metrics = step(new_learner(policy, kl_estimator=estimator, **changes), *batch)
    assert metrics["policy/ratio_max"] == pytest.approx(1, abs=1e-5)
    assert metrics["policy/kl"] == pytest.approx(0, abs=1e-5)
    assert metrics["loss/kl"] == pytest.approx(0, abs=1e-5)
    assert metrics["policy/kl_previous"] == pytest.approx(0, abs=1e-5)


def test_4_the_second_update_has_left_the_reference(load_policy: LoadPolicy) -> None:
    """Wrong version: policy and reference are one object, and the KL is 0 for ever."""
    learner = new_learner(load_policy(prompts=PROMPTS))
    step(learner, PROMPTS, RESPONSES, REWARDS)
    assert step(learner, PROMPTS, RESPONSES, REWARDS)["loss/kl"] > 1e-3


# 5. Dropout


@ARCHITECTURES
def test_5_dropout_is_off_everywhere(load_policy: LoadPolicy, architecture: str) -> None:
    """Wrong version: model.train() before the update. All three models have dropout in their configs."""
    policy = load_policy(architecture, prompts=PROMPTS)
    learner = new_learner(policy)
    assert max(getattr(policy.model.config, n, 0) for n in ("attn_pdrop", "attention_dropout")) == 0.1
    step(learner, PROMPTS, RESPONSES, REWARDS)
    assert not policy.model.training and not policy.reference.training
    batch, uniforms = policy.pad(PROMPTS, RESPONSES), torch.full((4, 3), 0.5)
    assert torch.equal(policy.score(batch).logits, policy.score(batch).logits)
    assert torch.equal(policy.score_reference(batch)[0], policy.score_reference(batch)[0])
    samples = [policy.sample(PROMPTS, uniforms, Sampling(3)).logprobs for _ in range(2)]
    assert torch.equal(*samples)


# 6. One distribution


def chi_square(counts: torch.Tensor, probabilities: torch.Tensor) -> float:
    """Standard scores that the chi-square statistic lies above its mean; cells expected under 5 are pooled."""
    expected = probabilities.double() * counts.sum()
    rare = expected < 5
    observed = torch.cat([counts[~rare].double(), counts[rare].sum(0, keepdim=True).double()])
    expected = torch.cat([expected[~rare], expected[rare].sum(0, keepdim=True)])
    statistic = ((observed - expected) ** 2 / expected.clamp(min=1e-9))[expected > 0].sum().item()
    freedom = int((expected > 0).sum()) - 1
    return (statistic - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize(
    "how", [Sampling(1), Sampling(1, temperature=0.6), Sampling(1, top_k=20)], ids=["plain", "temperature", "top_k"]
)
def test_6_tokens_are_drawn_from_the_distribution_that_is_scored(load_policy: LoadPolicy, how: Sampling) -> None:
    """Wrong version: generate(do_sample=True), which takes the model's own top_k 3, top_p 0.5, temperature 0.3."""
    policy = load_policy()
    prompt, draws = [5, 6, 7], 20_000
    uniforms = torch.rand(draws, 1, generator=torch.Generator().manual_seed(3))
    tokens = torch.tensor([r[0] for r in policy.sample([prompt] * draws, uniforms, how).responses])
    counts = torch.bincount(tokens, minlength=policy.model.config.vocab_size)
    with torch.no_grad():
        logits = truncate(policy.model(torch.tensor([prompt])).logits[0, -1], how.temperature, how.top_k)
    assert abs(chi_square(counts, logits.softmax(-1))) < 4
    with torch.no_grad():
        wrong = truncate(policy.model(torch.tensor([prompt])).logits[0, -1], how.temperature * 0.7, how.top_k)
    assert chi_square(counts, wrong.softmax(-1)) > 4  # the test can tell


def test_6_a_token_that_left_the_top_k_is_not_scored_at_minus_infinity(load_policy: LoadPolicy) -> None:
    """Wrong version: after a gradient step, or a rounding, the sampled token is outside, and the loss is NaN."""
    policy = load_policy(prompts=PROMPTS)
    learner = new_learner(policy, top_k=2, clip_range=0.2, epochs=4, actor_lr=1e-2)
    metrics = step(learner, PROMPTS, RESPONSES, REWARDS)  # by hand: none of these is among the top 2
    assert all(math.isfinite(value) for value in metrics.values()), metrics
    assert flat(policy).isfinite().all()


# 7. Ids


def test_7_ids_are_not_what_their_text_encodes_to(tiny: Path, load_policy: LoadPolicy) -> None:
    """Why responses are never encoded again; the loop itself is watched in test_run."""
    codec = Codec(load_tokenizer(ModelSettings(path=str(tiny))))
    uniforms = torch.rand(20, 6, generator=torch.Generator().manual_seed(0))
    responses = load_policy().sample([[5, 6]] * 20, uniforms, Sampling(6)).responses
    texts, _ = codec.decode(responses)
    assert sum(codec.encode(text) != row for text, row in zip(texts, responses, strict=True)) > 10


# 8. Global means


def big_batch() -> tuple[list[list[int]], list[list[int]], list[list[float]]]:
    """50 ragged examples."""
    generator = torch.Generator().manual_seed(5)

    def ids(count: int) -> list[int]:
        return torch.randint(1, 300, (count,), generator=generator).tolist()

    lengths = torch.randint(1, 7, (50, 2), generator=generator).tolist()
    prompts = [[5, 6, *ids(p)] for p, _ in lengths]
    responses = [[*ids(r), 0] if i % 2 else ids(r) for i, (_, r) in enumerate(lengths)]
    return prompts, responses, at_last_token(torch.rand(50, generator=generator).tolist(), responses)


@pytest.mark.parametrize("micro_batch", [10, 7, 1])
@pytest.mark.parametrize("baseline", ["prompt_value", "response_value", "batch_mean"])
def test_8_fifty_is_five_times_ten(load_policy: LoadPolicy, micro_batch: int, baseline: str) -> None:
    """Wrong version: a mean a micro-batch, averaged; responses differ in length, so their means weigh differently."""
    prompts, responses, rewards = big_batch()
    gradients, logged = [], []
    for size in (None, micro_batch):
        policy = load_policy(prompts=prompts)
        learner = new_learner(policy, micro_batch=size, baseline=baseline, max_grad_norm=1e9)
        torch.nn.init.constant_(learner.value_head.weight, 0.01)
        torch.nn.init.constant_(policy.reference.get_input_embeddings().weight[3:9], 0.1)  # so that there is a KL
        metrics = step(learner, prompts, responses, rewards)
        logged.append(metrics)
        gradients.append((gradient(policy), learner.value_head.weight.grad))
    assert logged[0]["loss/kl"] > 1e-4
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert logged[0] == pytest.approx(logged[1], rel=1e-4, abs=1e-5)


def test_8_entropy_and_kl_are_over_response_tokens_alone(load_policy: LoadPolicy) -> None:
    """Wrong versions: TRL's entropy counts pads, trlX's KL counts the prompt."""
    policy = load_policy(prompts=PROMPTS)
    metrics = step(new_learner(policy), PROMPTS, RESPONSES, REWARDS)
    model, entropies = load_policy().model, []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        with torch.no_grad():
            logp = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        entropies += (-(logp.exp() * logp).sum(-1)).tolist()
    assert len(entropies) == 9
    assert metrics["policy/entropy"] == pytest.approx(sum(entropies) / 9, rel=1e-5)


# 11. Whitening


def test_11_whitened_advantages_over_the_mask(load_policy: LoadPolicy) -> None:
    """Wrong version: mean and variance count the filler's zeros."""
    metrics = step(new_learner(load_policy(prompts=PROMPTS)), PROMPTS, RESPONSES, REWARDS)
    assert metrics["advantage/mean"] == pytest.approx(0, abs=1e-6)
    assert metrics["advantage/std"] == pytest.approx(1, abs=1e-5)


def test_11_equal_rewards_and_a_batch_of_one_give_no_noise(load_policy: LoadPolicy) -> None:
    """Wrong versions: a variance of 0 without eps (NaN); a batch of one whitened to 0, or divided by n - 1 = 0."""
    quiet = {"entropy_coef": 0.0, "kl_coef": 0.0, "max_grad_norm": 1e9, "weight_decay": 0.0}
    policy = load_policy(prompts=PROMPTS)
    step(new_learner(policy, **quiet), PROMPTS, RESPONSES, at_last_token([0.5] * 4, RESPONSES))
    assert gradient(policy).abs().max() == 0
    policy = load_policy(prompts=PROMPTS)
    metrics = step(new_learner(policy, **quiet), PROMPTS[:1], RESPONSES[:1], at_last_token([0.5], RESPONSES[:1]))
    assert metrics["advantage/mean"] == pytest.approx(0.5)
    assert gradient(policy).abs().max() > 0


@pytest.mark.parametrize("baseline", ["prompt_value", "response_value", "batch_mean", "none"])
def test_11_equal_rewards_do_not_blow_up_the_baselines_noise(load_policy: LoadPolicy, baseline: str) -> None:
    """Wrong version: the only differences left are the value head's, and whitening makes advantages of size 1 of them."""
    policy = load_policy(prompts=PROMPTS)
    quiet = {"entropy_coef": 0.0, "kl_coef": 0.0, "weight_decay": 0.0}
    learner = new_learner(policy, baseline=baseline, **quiet)
    torch.nn.init.normal_(learner.value_head.weight, std=0.1)
    metrics = step(learner, PROMPTS, RESPONSES, at_last_token([0.5] * 4, RESPONSES))
    assert gradient(policy).abs().max() == 0
    assert metrics["advantage/std"] == 0


# 12. Value head


@pytest.mark.parametrize("baseline", ["prompt_value", "response_value"])
def test_12_the_value_head_starts_at_zero(load_policy: LoadPolicy, baseline: str) -> None:
    """Wrong version: torch's default initialisation; the first advantages are then the rewards plus noise."""
    learner = new_learner(load_policy(prompts=PROMPTS), baseline=baseline, whiten_advantages=False)
    metrics = step(learner, PROMPTS, RESPONSES, REWARDS)
    assert metrics["value/mean"] == 0
    # each token's advantage is its response's reward: (3 x 1 + 3 x 0.25 + 1 x 0.5 + 2 x 0) / 9
    assert metrics["advantage/mean"] == pytest.approx(4.25 / 9)
    assert step(learner, PROMPTS, RESPONSES, REWARDS)["value/mean"] != 0


def test_12_the_value_loss_does_not_train_the_policy(load_policy: LoadPolicy) -> None:
    """Wrong version: the head reads hidden states with their gradient."""
    policy = load_policy(prompts=PROMPTS)
    learner = new_learner(policy, baseline="none", entropy_coef=0.0, kl_coef=0.0, whiten_advantages=True)
    torch.nn.init.constant_(learner.value_head.weight, 0.1)
    step(learner, PROMPTS, RESPONSES, at_last_token([0.5] * 4, RESPONSES))  # no advantage, but a value error
    assert learner.value_head.weight.grad.abs().max() > 0
    assert gradient(policy).abs().max() == 0


# 13. Gradient norm


def test_13_each_optimisers_gradient_is_clipped_and_the_norm_before_is_logged(load_policy: LoadPolicy) -> None:
    """Wrong versions: one norm over both (the value loss then scales the policy's step); the clipped norm logged."""
    norms = {}
    for limit in (1e9, 0.05):
        policy = load_policy(prompts=PROMPTS)
        learner = new_learner(policy, max_grad_norm=limit)
        metrics = step(learner, PROMPTS, RESPONSES, REWARDS)
        after = gradient(policy).norm().item(), learner.value_head.weight.grad.norm().item()
        norms[limit] = metrics["grad/actor_norm"], metrics["grad/critic_norm"], *after
    actor, critic = norms[1e9][:2]
    assert min(actor, critic) > 0.1
    assert norms[0.05][:2] == pytest.approx((actor, critic), rel=1e-5)
    assert norms[0.05][2] == pytest.approx(0.05, rel=1e-3)
    assert norms[0.05][3] <= 0.05


# 15. Memory


@ARCHITECTURES
def test_15_logits_are_made_at_response_positions_alone(load_policy: LoadPolicy, architecture: str) -> None:
    """Wrong version: logits of the whole sequence, of which the prompt's (100 positions of 103) are of no use."""
    prompts = [[5, 6, *range(10, 108)], [5, 6, *range(11, 60)]]
    policy = load_policy(architecture, prompts=prompts)
    positions = []
    policy.model.get_output_embeddings().register_forward_hook(
        lambda m, i, out: positions.append(out.shape[:2].numel())
    )
    policy.score(policy.pad(prompts, [[1, 2, 3], [4]]))
    assert sum(positions) < 20
    positions.clear()
    policy.sample(prompts, torch.rand(2, 3), Sampling(3))
    assert sum(positions) < 20


# 16. Seeds


def test_16_a_sample_does_not_depend_on_its_batch(load_policy: LoadPolicy) -> None:
    """Wrong version: torch.multinomial on the batch, whose draws depend on how many rows there are."""
    policy = load_policy(prompts=PROMPTS)
    prompts = PROMPTS * 8
    uniforms = torch.rand(32, 5, generator=torch.Generator().manual_seed(0))
    together = policy.sample(prompts, uniforms, Sampling(5)).responses
    apart = [
        response
        for start in range(0, 32, 5)
        for response in policy.sample(prompts[start : start + 5], uniforms[start : start + 5], Sampling(5)).responses
    ]
    assert apart == together
    assert len({tuple(r) for r in together}) > 16
