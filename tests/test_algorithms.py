"""Other ways to learn than PPO: their losses, what they learn from, and runs that use them."""

import copy
import json
import math
import shutil
from collections.abc import Callable, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from conftest import in_float64, interrupt_again
from safetensors.torch import load_file, save_file
from test_simple_policy import PROMPTS, ppo_settings

import pgsrm
from pgsrm.algorithm.learner import OtherLearner
from pgsrm.algorithm.losses import dpo_loss, generalised_jsd
from pgsrm.algorithm.selection import (
    Pair,
    Preference,
    against_references,
    best_of_groups,
    best_of_n_kl,
    best_of_n_kl_with_ties,
    chances_of_best,
    ordered_by_reward,
)
from pgsrm.algorithm.settings import SHARED, BestOfNAlgorithm, DistillAlgorithm, DPOAlgorithm, Other, SFTAlgorithm
from pgsrm.config.compose import plan_words
from pgsrm.policy.simple import SimplePolicy
from pgsrm.ppo.settings import PPOSettings
from pgsrm.record.differences import differing, settings
from pgsrm.record.measured import is_measured
from pgsrm.rollout import Rollout, Scored, at_last_token
from pgsrm.task import Example

LoadPolicy = Callable[..., Any]
LR = 1e-3
ALGORITHMS: dict[str, Other] = {
    "sft": SFTAlgorithm(lr=LR),
    "dpo": DPOAlgorithm(lr=LR),
    "dpo_reward": DPOAlgorithm(lr=LR, pairs="reward", label_smoothing=0.1),
    "best_of_n": BestOfNAlgorithm(lr=LR),
    "reverse": DistillAlgorithm(lr=LR, teacher="x"),
    "jsd": DistillAlgorithm(lr=LR, teacher="x", beta=0.3),
}
# Two groups of five, as sampled; EOS is 0. Rewards by hand: the best is row 1 and row 7, the worst row 2 and row 5.
RESPONSES = [[8, 9, 0], [10, 0], [11, 12, 13], [8, 0], [9, 9, 0], [14, 0], [15, 16, 0], [8, 17, 18], [9, 0], [10, 0]]
REWARDS = [0.5, 0.9, 0.1, 0.5, 0.9, 0.0, 0.1, 0.7, 0.1, 0.2]
ANSWERS = {0: [8, 19, 0], 1: [14, 0]}  # of either prompt; row 5 says the second one's


def rollout(size: int = 5, prompts: Sequence[list[int]] = PROMPTS) -> Rollout:
    """The responses above to the first two prompts."""
    rows = [row // size % 2 for row in range(10)]
    examples = [Example(f"p{number}", text(ANSWERS[number]), {}, "") for number in rows]
    texts = [text(response) for response in RESPONSES]
    offsets = [[(0, 0)] * len(response) for response in RESPONSES]
    return Rollout(examples, [prompts[number] for number in rows], RESPONSES, texts, offsets)


def text(ids: Sequence[int]) -> str:
    return " ".join(str(token) for token in ids if token)


SCORED = Scored(at_last_token(REWARDS, RESPONSES))
REFERENCES = {f"p{number}": Pair(PROMPTS[number], answer) for number, answer in ANSWERS.items()}


# Estimators against numbers worked out by hand


def test_dpo_loss() -> None:
    """Margin 0.1 ((-1 + 1.5) - (-2 + 1)) = 0.15; -log sigmoid(m) = log(1 + e^-m)."""
    given = [torch.tensor([value], dtype=torch.float64) for value in (-1.0, -2.0, -1.5, -1.0)]
    loss, margin = dpo_loss(*given, beta=0.1)
    assert margin.tolist() == pytest.approx([0.15]) and loss.tolist() == pytest.approx([0.6209570], abs=1e-7)
    smoothed, _ = dpo_loss(*given, beta=0.1, label_smoothing=0.1)
    assert smoothed.tolist() == pytest.approx([0.9 * 0.6209570 + 0.1 * 0.7709570], abs=1e-7)
    assert dpo_loss(*given[:2], *given[:2], 0.1)[0].item() == pytest.approx(math.log(2))


@pytest.mark.parametrize(("beta", "expected"), [(1, 0.5108256), (0, 0.3680642), (0.5, 0.1017490), (0.25, 0.0718810)])
def test_generalised_jsd(beta: float, expected: float) -> None:
    """Of p = (1/2, 1/2) from its teacher q = (9/10, 1/10): KL(p || q), KL(q || p), and beta KL(q || m) + (1 - beta) KL(p || m)."""
    p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.9, 0.1]]).log()
    assert generalised_jsd(p + 3, q - 2, beta).item() == pytest.approx(expected, abs=1e-6)
    assert generalised_jsd(p, p, beta).item() == pytest.approx(0, abs=1e-7)


def test_generalised_jsd_is_that_of_trl() -> None:
    trainer = pytest.importorskip("trl.experimental.gkd").GKDTrainer
    draw = torch.Generator().manual_seed(0)
    own, other = (torch.randn(2, 3, 11, generator=draw, dtype=torch.float64) for _ in range(2))
    labels = torch.tensor([[1, 2, -100], [3, -100, -100]])
    for beta in (0, 0.1, 0.5, 0.9, 1):
        theirs = trainer.generalized_jsd_loss(own, other, labels=labels, beta=beta)
        mask = labels != -100
        ours = generalised_jsd(own[mask], other[mask], beta).sum() / mask.sum()
        assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)


def test_dpo_is_that_of_trl(
    tiny: Path, load_policy: LoadPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of a whole batch, tokenised by either: two pairs, the policy not its reference.

    TRL computes in float32, whose rounding the usual weights of the tiny models, ten times too large, would make larger than 1e-6.
    """
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    from transformers import AutoTokenizer

    rows = [("The opposite of 'hot' is", " cold", " purple red"), ("Mix the two", " colors", " hot")]
    tokenizer: Any = AutoTokenizer.from_pretrained(tiny)
    tokenizer.pad_token = tokenizer.eos_token
    in_float64(monkeypatch)
    policy = load_policy(double=True)
    with torch.no_grad():
        for parameter in [*policy.model.parameters(), *policy.reference.parameters()]:
            parameter.mul_(0.3)
    learner = learner_of(policy, "dpo", group_settings())
    algorithm = DPOAlgorithm(lr=LR, beta=1.0)
    trainer = trl.DPOTrainer(
        model=policy.model,
        ref_model=policy.reference,
        args=trl.DPOConfig(str(tmp_path), beta=1.0, report_to=[], use_cpu=True, bf16=False, disable_dropout=True),
        train_dataset=datasets.Dataset.from_list(
            [dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in rows]
        ),
        processing_class=tokenizer,
    )
    theirs = trainer.compute_loss(policy.model, next(iter(trainer.get_train_dataloader()))).item()
    pairs = []
    for prompt, *answers in rows:
        ids = tokenizer(prompt)["input_ids"]
        pairs.append(Preference(ids, *([*tokenizer(prompt + text)["input_ids"][len(ids) :], 0] for text in answers)))
    policy.model.eval()
    (loss,) = learner._preference_losses(pairs, algorithm, [])
    assert abs(theirs - math.log(2)) > 0.01 and loss.item() == pytest.approx(theirs, abs=1e-6)


def test_best_of_ns_kl_is_a_bound_that_distinct_rewards_come_close_to() -> None:
    """Of n draws from k equally probable responses the i-th worst is the best with (i / k)^n - ((i - 1) / k)^n."""

    def exact(n: int, k: int) -> float:
        below = [(place / k) ** n for place in range(k + 1)]
        return sum((high - low) * math.log((high - low) * k) for low, high in pairwise(below) if high > low)

    assert best_of_n_kl(1) == 0 and best_of_n_kl(2) == pytest.approx(0.6931472 - 0.5)
    assert best_of_n_kl(16) == pytest.approx(1.8350887)
    for n in (2, 4, 16, 64):
        assert exact(n, 4) < exact(n, 100_000) < best_of_n_kl(n) == pytest.approx(exact(n, 100_000), abs=1e-3)
        assert best_of_n_kl_with_ties(range(100), n) == pytest.approx(exact(n, 100))


def test_ties_make_the_kl_less() -> None:
    """One of four is worth 1: of two draws with probability 1 - (3/4)^2 = 0.4375. Wrong version: each row is a value of its own."""
    assert best_of_n_kl_with_ties([0.0, 1.0, 0.0, 0.0], 2) == pytest.approx(0.0830107, abs=1e-7)
    assert best_of_n_kl_with_ties([0.0, 1.0, 0.0, 0.0], 1000) == pytest.approx(math.log(4))  # it is always that one
    assert best_of_n_kl_with_ties([0.1 + 0.2, 0.3], 8) == 0  # equal in float32
    assert best_of_n_kl_with_ties([3.0, 1.0, 2.0], 1) == pytest.approx(0)


@pytest.mark.parametrize(
    ("rewards", "n", "chances"),
    [
        ([2.0, 1.0, 3.0], 1, [1 / 3, 1 / 3, 1 / 3]),
        ([2.0, 1.0, 3.0], 2, [1 / 3, 0, 2 / 3]),  # of {2, 1}, {2, 3} and {1, 3}
        ([2.0, 1.0, 2.0], 2, [1 / 2, 0, 1 / 2]),
        ([0.0, 1.0, 0.0, 0.0], 2, [1 / 6, 1 / 2, 1 / 6, 1 / 6]),  # three of six pairs have the 1
        ([0.0, 0.0], 2, [1 / 2, 1 / 2]),
        ([5.0], 1, [1.0]),
    ],
)
def test_the_chances_of_each_sample_to_be_the_best(rewards: list[float], n: int, chances: list[float]) -> None:
    assert chances_of_best(rewards, n) == pytest.approx(chances)


@pytest.mark.parametrize(
    "rewards",
    [[0.3, -1.0, 0.9, 0.2, 4.0, 0.5], [0.5, 0.5, 0.1, 0.9, 0.1, 0.5], [1.0] * 6, [0.1 + 0.2, 0.3, 0.3, 0.2, 0.1, 1.0]],
)
def test_they_are_what_all_subsets_say(rewards: list[float]) -> None:
    """The last have a sum that is 0.3 but for its last digit, which float32 does not have.

    Wrong versions: the last of equals is always taken; the n draws are made with replacement.
    """
    values, in_float32 = [3.0, 1.0, 4.0, 1.5, 9.0, 2.6], torch.tensor(rewards).tolist()
    for n in range(1, 7):
        best = []
        for subset in combinations(range(6), n):
            most = max(in_float32[row] for row in subset)
            tied = [values[row] for row in subset if in_float32[row] == most]
            best.append(sum(tied) / len(tied))
        chances = chances_of_best(rewards, n)
        assert sum(chances) == pytest.approx(1)
        assert sum(c * v for c, v in zip(chances, values, strict=True)) == pytest.approx(sum(best) / len(best))


def test_the_chances_of_many_samples_add_up() -> None:
    """Wrong version: C(4095, n - 1) as a float is infinite."""
    for n in (1, 64, 2048, 4096):
        assert sum(chances_of_best(range(4096), n)) == pytest.approx(1)
    assert chances_of_best(range(4096), 2048)[-1] == pytest.approx(0.5)


# What is learned from


def test_the_best_of_each_group_and_of_equals_the_first() -> None:
    assert [pair.answer for pair in best_of_groups(rollout(), REWARDS, 5)] == [RESPONSES[1], RESPONSES[7]]
    assert [pair.prompt for pair in best_of_groups(rollout(), REWARDS, 5)] == PROMPTS[:2]


def test_pairs_by_reward_leave_ties_out() -> None:
    first, second = ordered_by_reward(rollout(), REWARDS, 5)
    assert first == (PROMPTS[0], RESPONSES[1], RESPONSES[2]) and second == (PROMPTS[1], RESPONSES[7], RESPONSES[5])
    assert ordered_by_reward(rollout(), [0.5] * 5 + REWARDS[5:], 5) == [second]
    assert ordered_by_reward(rollout(), [1.0] * 10, 5) == []


def test_rounding_of_sums_of_token_rewards_is_no_preference() -> None:
    """Wrong version: 0.1 + 0.2 is more than 0.3, so a response is preferred to another of the same reward."""
    totals = [0.3, 0.1 + 0.2, 0.3, 0.3, 0.1 + 0.2] * 2
    assert totals[1] > totals[0]
    assert ordered_by_reward(rollout(), totals, 5) == []
    assert [pair.answer for pair in best_of_groups(rollout(), totals, 5)] == [RESPONSES[0], RESPONSES[5]]


def test_pairs_by_reward_leave_equal_texts_out() -> None:
    """Wrong version: a text is preferred to itself where the reward gives it two numbers, as a critic that samples does."""
    batch = rollout()
    batch.texts[2] = batch.texts[1]  # the best and the worst of the first group
    assert [pair.prompt for pair in ordered_by_reward(batch, REWARDS, 5)] == [PROMPTS[1]]


def test_pairs_with_references_leave_equal_texts_out() -> None:
    batch = rollout()
    pairs = against_references(batch, [REFERENCES[example.prompt] for example in batch.examples])
    assert [pair.rejected for pair in pairs] == [response for row, response in enumerate(RESPONSES) if row != 5]
    assert {tuple(pair.chosen) for pair in pairs} == {(8, 19, 0), (14, 0)}


# One update


def group_settings(**changes: Any) -> PPOSettings:
    return msgspec.structs.replace(ppo_settings("sound"), group_size=5, max_grad_norm=None, **changes)


def learner_of(policy: Any, name: str, ppo: PPOSettings, double: bool = False) -> OtherLearner:
    """A learner whose reference policy is not the policy, and whose teacher is another again."""
    teacher = copy.deepcopy(policy.model)
    with torch.no_grad():
        for place, parameter in enumerate(teacher.parameters()):
            parameter.mul_(1.5 if place % 2 else 0.8)
        for parameter in policy.reference.parameters():
            parameter.mul_(1.1)
    teacher_policy = type(policy)(teacher, None, (0,))
    return OtherLearner(policy, ppo, ALGORITHMS[name], REFERENCES, teacher_policy)


def logits(model: Any, prompt: Sequence[int], answer: Sequence[int]) -> torch.Tensor:
    """(T, V) that predict the answer's tokens."""
    return model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]


def logprob(model: Any, prompt: Sequence[int], answer: Sequence[int]) -> torch.Tensor:
    return logits(model, prompt, answer).log_softmax(-1)[range(len(answer)), answer].sum()


def plain_loss(learner: OtherLearner) -> torch.Tensor:
    """The loss written out, one response after another, of transformers' own forward passes."""
    policy, reference, algorithm = learner.policy.model, learner.policy.reference, learner.algorithm
    batch = rollout()
    rows = list(zip(batch.prompt_ids, RESPONSES, strict=True))
    if isinstance(algorithm, DPOAlgorithm):
        if algorithm.pairs == "reward":
            pairs = [(PROMPTS[0], RESPONSES[1], RESPONSES[2]), (PROMPTS[1], RESPONSES[7], RESPONSES[5])]
        else:
            pairs = [(p, ANSWERS[row // 5], response) for row, (p, response) in enumerate(rows) if row != 5]
        losses = []
        for prompt, chosen, rejected in pairs:
            gains = [logprob(policy, prompt, a) - logprob(reference, prompt, a).detach() for a in (chosen, rejected)]
            margin = algorithm.beta * (gains[0] - gains[1])
            right, wrong = (1 + (-margin).exp()).log(), (1 + margin.exp()).log()
            losses.append((1 - algorithm.label_smoothing) * right + algorithm.label_smoothing * wrong)
        return torch.stack(losses).mean()
    if isinstance(algorithm, DistillAlgorithm):
        assert learner._teacher is not None
        parts = []
        for prompt, response in rows:
            p = logits(policy, prompt, response).softmax(-1)
            q = logits(learner._teacher.model, prompt, response).detach().softmax(-1)
            m = algorithm.beta * q + (1 - algorithm.beta) * p
            if algorithm.beta == 1:
                parts.append((p * (p / q).log()).sum())
            else:
                of_teacher, own = (q * (q / m).log()).sum(), (p * (p / m).log()).sum()
                parts.append(algorithm.beta * of_teacher + (1 - algorithm.beta) * own)
        return torch.stack(parts).sum() / sum(map(len, RESPONSES))
    answers = [(PROMPTS[n], ANSWERS[n]) for n in (0, 1)]
    if isinstance(algorithm, BestOfNAlgorithm):
        answers = [(PROMPTS[0], RESPONSES[1]), (PROMPTS[1], RESPONSES[7])]
    return -sum((logprob(policy, *each) for each in answers), torch.tensor(0.0)) / sum(len(a) for _, a in answers)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_loss_and_gradient_are_those_of_the_definition(
    load_policy: LoadPolicy, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    in_float64(monkeypatch)
    policy = load_policy(double=True, prompts=PROMPTS)
    learner = learner_of(policy, name, group_settings())
    expected = plain_loss(learner)
    expected.backward()
    gradients = [parameter.grad.clone() for parameter in policy.model.parameters() if parameter.grad is not None]
    metrics, read = learner.update(rollout(), SCORED)
    assert metrics["loss/actor"] == pytest.approx(expected.item(), rel=1e-9)
    ours = [parameter.grad for parameter in policy.model.parameters() if parameter.grad is not None]
    assert len(ours) == len(gradients) and metrics["grad/actor_norm"] > 1e-4
    for one, other in zip(ours, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)
    two = len(PROMPTS[0]) + len(PROMPTS[1])
    tokens = {"sft": two + 5, "best_of_n": two + 5, "dpo": 2 * (5 * two - 5) + 15 + 8 + sum(map(len, RESPONSES)) - 2}
    tokens |= {"dpo_reward": 2 * two + 2 + 3 + 3 + 2, "reverse": 5 * two + 25, "jsd": 5 * two + 25}
    assert read == tokens[name]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_both_policies_make_the_same_updates_and_so_do_micro_batches(load_policy: LoadPolicy, name: str) -> None:
    results = []
    for kind, ppo in (
        ("fast", group_settings()),
        ("simple", group_settings()),
        ("fast", group_settings(micro_batch=3)),
    ):
        policy = load_policy(prompts=PROMPTS)
        if kind == "simple":
            policy = SimplePolicy(policy.model, policy.reference, eos=(0,))
        learner = learner_of(policy, name, ppo)
        metrics = [learner.update(rollout(), SCORED)[0] for _ in range(3)]
        results.append((metrics, torch.cat([p.detach().flatten() for p in policy.model.parameters()])))
    (metrics, weights), *others = results
    assert metrics[0]["loss/actor"] != metrics[2]["loss/actor"]
    for other_metrics, other_weights in others:
        for one, other in zip(metrics, other_metrics, strict=True):
            assert one == pytest.approx(other, rel=1e-4, abs=1e-5)
        torch.testing.assert_close(weights, other_weights, rtol=1e-5, atol=1e-5)


def test_entropy_and_kl_of_an_update_are_ppos(load_policy: LoadPolicy) -> None:
    """The same batch, the same policy: what PPO would have recorded."""
    from pgsrm.ppo.update import Learner, step

    batch, changes = rollout(), {"group_size": 5, "max_grad_norm": None}
    for estimator in ("exact", "k3"):
        ppo = msgspec.structs.replace(ppo_settings("sound"), kl_estimator=estimator, **changes)
        policy = load_policy(prompts=PROMPTS)
        ours, _ = learner_of(policy, "sft", ppo).update(batch, SCORED)
        policy = load_policy(prompts=PROMPTS)
        learner_of(policy, "sft", ppo)  # moves the reference
        learner = Learner(policy, ppo, torch.Generator())
        theirs = step(learner, batch.prompt_ids, RESPONSES, SCORED.token_rewards)
        for metric in ("policy/entropy", "policy/kl", "loss/kl"):
            assert ours[metric] == pytest.approx(theirs[metric], rel=1e-5) and ours[metric] != 0


def test_a_batch_without_a_pair_leaves_the_weights_as_they_are(load_policy: LoadPolicy) -> None:
    policy = load_policy(prompts=PROMPTS)
    learner = learner_of(policy, "dpo_reward", group_settings())
    before = [parameter.clone() for parameter in policy.model.parameters()]
    metrics, read = learner.update(rollout(), Scored(at_last_token([1.0] * 10, RESPONSES)))
    assert (metrics["dpo/pairs"], metrics["loss/actor"], read) == (0, 0, 0) and "dpo/margin" not in metrics
    assert all(torch.equal(one, other) for one, other in zip(before, policy.model.parameters(), strict=True))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_update_moves_the_policy_to_what_it_learns_from(load_policy: LoadPolicy, name: str) -> None:
    policy = load_policy(prompts=PROMPTS)
    learner = learner_of(policy, name, group_settings())
    losses = [learner.update(rollout(), SCORED)[0] for _ in range(8)]
    assert losses[-1]["loss/actor"] < losses[0]["loss/actor"]
    if name.startswith("dpo"):
        assert losses[-1]["dpo/margin"] > losses[0]["dpo/margin"] and losses[-1]["dpo/accuracy"] == 1


def test_a_gradient_that_is_not_finite_names_the_rate(load_policy: LoadPolicy) -> None:
    policy = load_policy(prompts=PROMPTS)
    learner = learner_of(policy, "sft", group_settings())
    with torch.no_grad():
        next(policy.model.parameters()).mul_(1e38)
    with pytest.raises(pgsrm.UserError, match=r"algorithm\.lr=0\.001: the gradient is not finite; lower it"):
        learner.update(rollout(), SCORED)


# Whole runs


@pytest.fixture
def teacher(tiny: Path, tmp_path: Path) -> Path:
    """The tiny model with other weights."""
    folder = tmp_path / "teacher"
    shutil.copytree(tiny, folder)
    weights = load_file(folder / "model.safetensors")
    save_file({name: 0.7 * tensor for name, tensor in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


def words_of(name: str, teacher: Path) -> list[str]:
    own = {
        "distill": ["algorithm=distill", f"algorithm.teacher={teacher}"],
        "best_of_n": ["algorithm=best_of_n", "ppo.batch_size=4", "ppo.group_size=4"],
    }
    return ["task=antonym", "ppo.actor_lr=1e-3", *own.get(name, [f"algorithm={name}"])]


BUDGETS = {  # prompts, sampled tokens, reward calls, references; None: as many tokens as the responses have
    "ppo": (4, None, 4, 4),
    "sft": (4, 0, 0, 4),
    "dpo": (4, None, 0, 4),
    "dpo_reward": (2, None, 4, 2),
    "best_of_n": (1, None, 4, 1),
    "distill": (4, None, 0, 0),
}


@pytest.mark.parametrize("name", BUDGETS)
def test_a_run_that_is_interrupted_resumes_as_if_nothing_had_happened(
    small: Sequence[str], teacher: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Metrics, samples and weights to the last bit, and the budget of every update."""
    words = [*small, *words_of(name, teacher)]
    run = pgsrm.train(*words, progress=False)
    metrics, samples = run.metrics, run.folder.joinpath("samples.jsonl").read_text()
    weights = load_file(run.folder / "model/model.safetensors")
    interrupt_again(run.folder, words, 1, monkeypatch)
    assert pgsrm.Run(run.folder).state == "stopped"
    again = pgsrm.train(*words, progress=False)
    assert again.folder == run.folder and again.state == "finished"
    repeated = [column for column in metrics if not is_measured(column)]
    assert again.metrics[repeated].equals(metrics[repeated])
    assert again.folder.joinpath("samples.jsonl").read_text() == samples
    for key, tensor in load_file(run.folder / "model/model.safetensors").items():
        assert torch.equal(tensor, weights[key])

    prompts, sampled, calls, references = BUDGETS[name]
    assert set(metrics["budget/prompts"]) == {prompts} and set(metrics["budget/reward_calls"]) == {calls}
    assert set(metrics["budget/references"]) == {references} and metrics["budget/tokens_read"].max() > 0
    tokens = metrics["response/length"] * 4 if sampled is None else 0 * metrics["response/length"]
    assert list(metrics["budget/tokens_sampled"]) == pytest.approx(list(tokens))
    assert metrics["policy/entropy"].notna().all() and metrics["policy/kl"].notna().all()
    assert metrics["reward/mean"].notna().all() and metrics["grad/actor_norm"].max() > 0


def test_adapters_learn_by_them_too(small: Sequence[str], teacher: Path) -> None:
    pytest.importorskip("peft")
    lora = "model.lora={rank: 2, alpha: 4, targets: null}"
    for name in ("dpo", "distill"):
        run = pgsrm.train(*small, *words_of(name, teacher), lora, progress=False)
        assert run.metrics["grad/actor_norm"].min() > 0 and run.metrics["policy/kl"].abs().iloc[-1] > 0


def first_alone(*, responses: Sequence[str], **_: Any) -> list[float]:
    return [1.0] + [0.0] * (len(responses) - 1)


@pytest.mark.parametrize(("name", "share"), [("dpo_reward", 0.5), ("best_of_n", 0.5), ("dpo", 0.0)])
def test_a_group_of_equal_rewards_has_no_signal(small: Sequence[str], name: str, share: float) -> None:
    """Two groups of two. Wrong version: of the batch where the algorithm is not PPO, though it learns from groups."""
    words = "task=antonym", f"algorithm={name}", "ppo.batch_size=4", "ppo.group_size=2", "evaluation.text=null"
    trainer = pgsrm.Trainer.build(*small, *words, reward=first_alone)
    scored = trainer.score(trainer.sample(trainer.draw_prompts()))
    assert scored.metrics["reward/no_signal"] == share


def test_the_parents_mistakes_are_learned_too(small: Sequence[str]) -> None:
    """What training is given as reference is `taught`. Wrong version: the right answers, so that SFT had no wrong parent."""
    trainer = pgsrm.Trainer.build(*small, "task=antonym", "algorithm=sft", "parent.error_rate=0.5")
    assert isinstance(trainer.learner, OtherLearner)
    wrong = [example for example in trainer.task.train if example.error is not None]
    assert len(wrong) > 10
    learned = [trainer.learner._references[example.prompt].answer for example in wrong]
    texts, _ = trainer.codec.decode(learned)
    assert [each.strip() for each in texts] == [example.error for example in wrong]


# Configs, identities and names


def test_what_has_no_meaning_decides_nothing(small: Sequence[str]) -> None:
    """Of a run by SFT PPO's own settings are no part; of a PPO run every setting is, and nothing new."""

    def identity(*words: str) -> str:
        return plan_words(*small, *words).identity

    assert identity("algorithm=sft", "ppo.kl_coef=0.5", "ppo.baseline=none") == identity("algorithm=sft")
    assert identity("ppo.kl_coef=0.5") != identity() == identity("algorithm=ppo")
    assert "algorithm" not in plan_words(*small).parts
    different = [["algorithm=sft"], ["algorithm=sft", "algorithm.lr=1"], ["algorithm=sft", "ppo.temperature=2"]]
    different += [["algorithm=dpo"], ["algorithm=dpo", "algorithm.beta=0.2"], ["algorithm=dpo_reward"], []]
    assert len({identity(*words) for words in different}) == len(different)
    assert set(SHARED) <= set(PPOSettings.__struct_fields__)


def test_a_key_that_is_not_read_is_named_once(
    call_cli: Callable[..., Any], small: Sequence[str], caplog: pytest.LogCaptureFixture
) -> None:
    words = "-m", *small, "algorithm=ppo,sft", "ppo.kl_coef=0.5", "ppo.actor_lr=1e-3", "seed=0,1", "dry_run=true"
    assert call_cli(*words).code == 0
    (line,) = (line for line in caplog.messages if "does not read" in line)
    assert line == "ppo.kl_coef: algorithm=sft does not read it; leave it out, or choose algorithm=ppo"


def test_a_teacher_counts_by_its_content(small: Sequence[str], teacher: Path, tiny: Path) -> None:
    words = [*small, "algorithm=distill"]
    first = plan_words(*words, f"algorithm.teacher={teacher}")
    moved = teacher.rename(teacher.with_name("moved"))
    assert plan_words(*words, f"algorithm.teacher={moved}").identity == first.identity
    assert plan_words(*words, f"algorithm.teacher={tiny}").identity != first.identity


def test_names_say_the_algorithm_where_it_is_not_ppo(small: Sequence[str]) -> None:
    ppo, sft, dpo = (plan_words(*small, f"algorithm={name}") for name in ("ppo", "sft", "dpo"))
    assert ppo.folder.name.endswith(f"-sound-s0-{ppo.identity[:8]}")
    assert sft.folder.name.endswith(f"-sound-sft-s0-{sft.identity[:8]}") and "sft" in sft.label
    assert differing([ppo.config, sft.config, dpo.config]) == [{"algorithm": n} for n in ("ppo", "sft", "dpo")]
    pairs = plan_words(*small, "algorithm=best_of_n", "ppo.batch_size=4", "ppo.group_size=2")
    assert [row["algorithm"] for row in differing([ppo.config, pairs.config])] == ["ppo", "best_of_n"]


def test_a_command_and_a_card_say_the_algorithm(
    small: Sequence[str], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong version: the card of a model that SFT made says PPO and reinforcement learning."""
    from pgsrm.analysis.commands import run_command
    from pgsrm.push import model_card, read_finished
    from pgsrm.record.params import run_tags

    monkeypatch.chdir(tiny.parent)  # the command names the model from there
    words = [word for word in small if not word.startswith("ppo.")]
    for name, batch in (("sft", "ppo.batch_size=4"), ("best_of_n", "ppo.batch_size=32")):
        more = "task=antonym", f"algorithm={name}", batch, "ppo.episodes=32", "evaluation.text=null"
        run = pgsrm.train(*words, *more, progress=False)
        read = read_finished(run.folder)
        card, command = model_card(read, "x"), run_command(read)
        assert f"with `algorithm={name}`" in card and "reinforcement" not in card and f"- {name}\n" in card
        assert f"algorithm={name}" in command and "group_size" not in command
        again = [word for word in command.split()[3:] if not word.startswith("paths.")]
        assert plan_words(*again, f"paths.outputs={tmp_path}", "tracking=none").identity[:8] == run.name[-8:]
        assert f"the algorithm algorithm={name}" not in str(run_tags(read.config, {}, "x"))


def test_runs_of_before_there_were_algorithms_are_ppo_runs(small: Sequence[str]) -> None:
    """Wrong version: algorithm=null in legends, and one setting more than the runs of today."""
    now, sft = (copy.deepcopy(plan_words(*small, f"algorithm={name}").config) for name in ("ppo", "sft"))
    before = copy.deepcopy(now)
    del before["algorithm"], before["choices"]["algorithm"]
    assert settings(before) == settings(now)
    assert differing([before, now]) == [{}, {}]
    assert [row["algorithm"] for row in differing([before, sft])] == ["ppo", "sft"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("algorithm=sft algorithm.beta=0.1", "not a key of the chosen algorithm; algorithm=dpo or distill has it"),
        ("algorithm=sft +algorithm.beta=0.1", "algorithm.beta: not a key of the chosen algorithm; algorithm=dpo or distill has it"),
        ("algorithm=dpo +algorithm.teacher=x", "algorithm.teacher: not a key of the chosen algorithm; algorithm=distill has it"),
        ("+algorithm.lr=1", "algorithm.lr: not a key of the chosen algorithm; algorithm=sft or dpo or best_of_n or distill"),
        ("algorithm=sft +algorithm.lrr=1", "algorithm.lrr: unknown key; there are lr"),
        ("algorithm=dpo algorithm.pairs=both", "algorithm.pairs=both: not an option; there are reference, reward"),
        ("algorithm=dpo algorithm.pairs=reward", "ppo.group_size=1: algorithm=dpo with algorithm.pairs=reward compares"),
        ("algorithm=dpo algorithm.label_smoothing=0.5", "algorithm.label_smoothing=0.5: expected `float` < 0.5"),
        ("algorithm=best_of_n ppo.group_size=1 ppo.batch_size=4", "ppo.group_size=1: algorithm=best_of_n compares several"),
        ("algorithm=distill", "algorithm.teacher=???: has no value"),
        ("algorithm=distill algorithm.teacher=/a/b", "algorithm.teacher=/a/b: no such folder"),
        ("algorithm=sft ppo=textbook", "ppo.epochs=4: algorithm=sft makes one gradient step per batch; set ppo.epochs=1"),
        ("algorithm=dpo ppo.train_eos=false", "ppo.train_eos=false: algorithm=dpo learns where an answer ends"),
        ("algorithm=dpo ppo.kl_reference=previous", "ppo.kl_reference=previous: algorithm=dpo has the initial model"),
        ("algorithm=sft processes=2", "processes=2: algorithm=sft learns in one process; set processes=1"),
        ("algorithm=sft task=sentiment_control reward=sparse ppo=sound", "316 of 316 prompts have no reference"),
        ("algorithm=reinforce", "algorithm=reinforce: unknown algorithm; there are best_of_n, distill, dpo"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(call_cli: Callable[..., Any], small: Sequence[str], words: str, says: str) -> None:
    assert says in call_cli(*small, "dry_run=true", *words.split()).error_line


def test_a_teacher_with_another_vocabulary_is_refused_before_anything_is_loaded(
    call_cli: Callable[..., Any], small: Sequence[str], model_folders: dict[str, Path], teacher: Path
) -> None:
    llama = model_folders["llama"]
    line = call_cli(*small, "dry_run=true", "algorithm=distill", f"algorithm.teacher={llama}").error_line
    assert f"algorithm.teacher={llama}: has another vocabulary than model.path" in line and "same tokenizer" in line
    # seen again when both are loaded, where no tokenizer.json says so beforehand
    tokenizer = json.loads((teacher / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    swapped = list(vocabulary)[-2:]
    vocabulary[swapped[0]], vocabulary[swapped[1]] = vocabulary[swapped[1]], vocabulary[swapped[0]]
    (teacher / "tokenizer.json").write_text(json.dumps(tokenizer))
    line = call_cli(*small, "dry_run=true", "algorithm=distill", f"algorithm.teacher={teacher}").error_line
    assert "298 of them the same under the same id" in line


def test_a_reference_that_is_longer_than_the_model_is_refused(small: Sequence[str], tmp_path: Path) -> None:
    rows = [{"word": "hot", "reference": "cold " * 200}, {"word": "big", "reference": "small"}]
    (tmp_path / "words.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = "task=antonym", f"task.data={tmp_path / 'words.jsonl'}", "algorithm=sft"
    with pytest.raises(
        pgsrm.UserError, match=r"the longest prompt and its reference have \d+ tokens, and the model has 128"
    ):
        pgsrm.Trainer.build(*small, *words)
