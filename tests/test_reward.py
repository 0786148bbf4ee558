"""Rewards: hand-worked numbers, responses without a vector, and what a user's reward may return."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from pgsrm.embedder import WordVectors
from pgsrm.reward import Annotation, BinaryReward, Reward, Scored, SemanticReward, Span, at_last_token, normalise
from pgsrm.reward.scorer import Scorer, _no_signal
from pgsrm.rollout import Rollout
from pgsrm.task import Example
from pgsrm.util.errors import UserError
from pgsrm.util.paths import conf_folder

# Cosines with "same": 1, 0.6, 0, -0.8, -1.
DIRECTIONS = {
    "same": (1, 0),
    "near": (0.6, 0.8),
    "unrelated": (0, 1),
    "far": (-0.8, -0.6),
    "opposite": (-1, 0),
}


class PlaneEmbedder:
    """Looks texts up in DIRECTIONS and notes what it was asked."""

    dimension = 2

    def __init__(self) -> None:
        self.asked: list[str] = []

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        return np.array([DIRECTIONS.get(text, (0, 0)) for text in texts], dtype=np.float32)


def batch(responses: list[str], references: list[str] | None = None) -> dict[str, Any]:
    """All that a reward is called with."""
    n = len(responses)
    return {
        "prompts": ["Say same: "] * n,
        "references": references or ["same"] * n,
        "responses": responses,
        "inputs": [{"word": str(i)} for i in range(n)],
        "token_ids": [[7, 8]] * n,
        "offsets": [[(0, 2), (2, len(response))] for response in responses],
    }


def semantic(responses: list[str], references: list[str] | None = None, **options: Any) -> list[float]:
    return SemanticReward(PlaneEmbedder(), **options)(**batch(responses, references))[0]


class TestSemanticReward:
    def test_length_penalty_divides_what_more_words_than_the_reference_earn(self) -> None:
        responses = ["cold", "cold cold", "cold zxqv zxqv", "", "my ring", "I lost my  ring", "I lost my my ring ring"]
        references = ["cold"] * 4 + ["I lost my ring"] * 3
        free, paid = (
            SemanticReward(WordVectors(), length_penalty=penalty)(**batch(responses, references))[0]
            for penalty in (None, "ratio")
        )
        assert free[:4] == pytest.approx([1, 1, 1, 0])
        assert paid == pytest.approx(
            [f * ratio for f, ratio in zip(free, [1, 1 / 2, 1 / 3, 1, 1, 1, 4 / 6], strict=True)]
        )

    @pytest.mark.parametrize(
        ("similarity", "transform", "alpha", "expected"),
        [
            # ((c + 1) / 2) ** alpha of 1, 0.6, 0, -0.8, -1
            ("cosine", "affine", 1, [1, 0.8, 0.5, 0.1, 0]),
            ("cosine", "affine", 2, [1, 0.64, 0.25, 0.01, 0]),
            ("cosine", "affine", 4, [1, 0.4096, 0.0625, 0.0001, 0]),
            # max(0, c) ** alpha
            ("cosine", "clip", 1, [1, 0.6, 0, 0, 0]),
            ("cosine", "clip", 4, [1, 0.1296, 0, 0, 0]),
            # distances sqrt(2 - 2c): 0, sqrt 0.8, sqrt 2, sqrt 3.6, 2; similarity 1 - d
            ("euclidean", "affine", 1, [1, 1 - 0.8**0.5 / 2, 1 - 2**0.5 / 2, 1 - 3.6**0.5 / 2, 0]),
            ("euclidean", "affine", 4, [1, 0.0933747, 0.0073593, 6.935e-6, 0]),
            ("euclidean", "clip", 1, [1, 1 - 0.8**0.5, 0, 0, 0]),
            ("euclidean", "clip", 2, [1, (1 - 0.8**0.5) ** 2, 0, 0, 0]),
        ],
    )
    def test_formulas(self, similarity: str, transform: str, alpha: float, expected: list[float]) -> None:
        rewards = semantic(list(DIRECTIONS), similarity=similarity, transform=transform, alpha=alpha)
        assert rewards == pytest.approx(expected, abs=1e-6)

    def test_the_default_is_affine_cosine_to_the_fourth_power(self) -> None:
        assert semantic(["near", "unrelated"]) == pytest.approx([0.4096, 0.0625])

    def test_each_response_meets_its_own_reference(self) -> None:
        rewards = semantic(["same", "unrelated", "opposite"], ["opposite", "unrelated", "unrelated"])
        assert rewards == pytest.approx([0, 1, 0.0625])

    @pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
    @pytest.mark.parametrize(("transform", "zero_vector"), [("affine", 0.0625), ("clip", 0)])
    def test_a_response_without_a_vector(self, similarity: str, transform: str, zero_vector: float) -> None:
        options: dict[str, Any] = {"similarity": similarity, "transform": transform}
        assert semantic(["", "same"], **options) == pytest.approx([0, 1])
        rewards = semantic(["", "same"], without_vector="zero_vector", **options)
        assert rewards == pytest.approx([zero_vector, 1])

    def test_stays_within_0_and_1_when_rounding_does_not(self) -> None:
        class Rounded(PlaneEmbedder):
            def embed(self, texts: Sequence[str]) -> np.ndarray:
                return super().embed(texts) * np.float32(1.0001)

        rewards, _ = SemanticReward(Rounded())(**batch(["same", "opposite"]))
        assert rewards == [1, 0]

    def test_metrics(self) -> None:
        _, metrics = SemanticReward(PlaneEmbedder())(**batch(["same", "near", "far", "what"]))
        assert metrics == pytest.approx({"similarity": (1 + 0.6 - 0.8 + 0) / 4, "without_vector": 1 / 4})

    def test_a_reference_without_a_vector_is_named(self) -> None:
        with pytest.raises(UserError, match="the reference '42' has no vector"):
            semantic(["same", "near"], ["same", "42"])

    def test_embeds_a_reference_once(self) -> None:
        embedder = PlaneEmbedder()
        reward = SemanticReward(embedder)
        reward(**batch(["near", "far"], ["same", "same"]))
        reward(**batch(["near", "far"], ["opposite", "same"]))
        assert sorted(embedder.asked) == ["far", "far", "near", "near", "opposite", "same"]


class TestBinaryReward:
    def test_is_what_the_checker_says(self) -> None:
        def checker(response: str, reference: str, inputs: Mapping[str, str]) -> bool:
            return response == reference + inputs["word"]

        assert BinaryReward(checker)(**batch(["same0", "same", "same2"])) == [1.0, 0.0, 1.0]


class TestNormalise:
    @pytest.mark.parametrize(
        "output",
        [
            [1, 0.5],
            (1, 0.5),
            ([1, 0.5], {}),
            np.array([1, 0.5]),
            np.array([1, 0.5], dtype=np.float32),
            [np.float32(1), True / 2],
        ],
    )
    def test_one_number_a_response(self, output: Any) -> None:
        scored = normalise(output, [[1], [2, 3]])
        assert (scored.totals, scored.metrics) == ([1.0, 0.5], {})
        assert scored.token_rewards == [[1.0], [0.0, 0.5]] and not scored.per_token
        assert all(type(reward) is float for rewards in scored.token_rewards for reward in rewards)

    @pytest.mark.parametrize("output", [[[1], [0, 2]], [np.array([1]), (0, 2)]])
    def test_one_number_a_token(self, output: Any) -> None:
        scored = normalise((output, {"length": np.float32(1.5)}), [[1], [2, 3]])
        assert (scored.token_rewards, scored.metrics) == ([[1.0], [0.0, 2.0]], {"length": 1.5})
        assert scored.totals == [1.0, 2.0] and scored.per_token

    def test_tensors(self) -> None:
        import torch

        token_ids = [[1, 2], [3, 4]]
        assert normalise(torch.tensor([1, 2]), token_ids).totals == [1.0, 2.0]
        assert normalise(list(torch.tensor([1, 2])), token_ids).totals == [1.0, 2.0]
        assert normalise(torch.tensor([[1, 2], [3, 4]]), token_ids).token_rewards == [[1.0, 2.0], [3.0, 4.0]]

    @pytest.mark.parametrize(
        ("output", "message"),
        [
            ([1.0], "returned 1 reward for 2 responses; return one for each"),
            ([1.0, 2.0, 3.0], "returned 3 rewards for 2 responses"),
            ([1.0, math.nan], "the reward of response 1 is nan; it must be a finite number"),
            ([math.inf, 1.0], "the reward of response 0 is inf"),
            ([None, 1.0], "the reward of response 0 is None"),
            (["good", 1.0], "the reward of response 0 is 'good'"),
            (0.5, "it returned 0.5; return a list"),
            (None, "it returned None; return a list"),
            ({"a": 1, "b": 2}, "return a list"),
            ([1.0, [1.0, 2.0]], "numbers and lists side by side"),
            ([[1.0], [1.0]], "the reward of response 1 has 1 number for 2 tokens"),
            ([[1.0], [0.0, math.nan]], "the reward of response 1, token 1, is nan"),
            (([1.0, 2.0], {"length": math.nan}), "the metric length is nan"),
            (([1.0, 2.0], {"mean": 1.0}), "reward/mean is a metric that every run has; call its mean otherwise"),
            (([1.0, 2.0], {}, [{}]), "it returned 1 annotation for 2 responses"),
            (([1.0, 2.0], {}, 7), "its annotations are 7; return a list"),
            (
                ([1.0, 2.0], {}, [{}, {"span": []}]),
                "annotation of response 1 is .*; return a dict of spans and components",
            ),
            (
                ([1.0, 2.0], {}, [{"spans": [(0, 1)]}, {}]),
                r"response 0 has the span \(0, 1\); return \(start, end, label",
            ),
            (([1.0, 2.0], {}, [{"spans": 3}, {}]), "response 0 has the spans 3; return a list"),
            (([1.0, 2.0], {}, [{"spans": [(2, 1, "a", 0)]}, {}]), "response 0 marks characters 2 to 1"),
            (([1.0, 2.0], {}, [{"components": {"a": None}}, {}]), "the component a is None; it must be a finite"),
            (([1.0, 2.0], {}, [{"components": [1.0]}, {}]), r"the components \[1.0\]; return a dict"),
        ],
    )
    def test_anything_else_is_an_error_that_names_the_reward(self, output: Any, message: str) -> None:
        with pytest.raises(UserError, match=f"^reward=mine: .*{message}"):
            normalise(output, [[1], [2, 3]], name="mine")

    def test_annotations(self) -> None:
        """Spans with and without a worth, components, and a response without either."""
        given = [{"spans": [(0, 2, "praise", np.float32(0.5)), (3, 4, "dull", None)]}, {"components": {"near": 1}}]
        scored = normalise(([1.0, 2.0], {}, given), [[1], [2, 3]], responses=["good", "b"])
        assert scored.annotations == [
            Annotation((Span(0, 2, "praise", 0.5), Span(3, 4, "dull"))),
            Annotation(components={"near": 1.0}),
        ]
        assert scored.annotations[0].plain() == {"spans": [[0, 2, "praise", 0.5], [3, 4, "dull", None]]}
        assert scored.annotations[1].plain() == {"components": {"near": 1.0}}
        with pytest.raises(UserError, match="the annotation of response 0 marks characters 3 to 4 of 3; count within"):
            normalise(([1.0, 2.0], {}, given), [[1], [2, 3]], responses=["god", "b"])


class TestWhatFlows:
    """A rollout and what it is worth are checked where they are made."""

    EXAMPLES = (Example("up: ", "down", {}, "user"), Example("hot: ", "cold", {}, "user"))

    def rollout(self, **changes: Any) -> Rollout:
        given: dict[str, Any] = {
            "examples": self.EXAMPLES,
            "prompt_ids": [[1], [2]],
            "response_ids": [[5, 6], [7]],
            "texts": ["down", "c"],
            "offsets": [[(0, 2), (2, 4)], [(0, 1)]],
        }
        return Rollout(**{**given, **changes})

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"texts": ["down"]}, "2, 2, 2, 1, 2 examples, prompts, responses, texts and offsets"),
            (
                {"examples": [], "prompt_ids": [], "response_ids": [], "texts": [], "offsets": []},
                "0, 0, 0, 0, 0 examples",
            ),
            ({"response_ids": [[5, 6], []], "offsets": [[(0, 2), (2, 4)], []]}, "row 1 has no token in its response"),
            ({"prompt_ids": [[1], []]}, "row 1 has no token in its prompt"),
            ({"offsets": [[(0, 2)], [(0, 1)]]}, "row 0 has 1 offset for 2 tokens"),
            ({"offsets": [[(0, 2), (2, 4)], [(0, 2)]]}, "row 1 has an offset outside its text of 1 character"),
        ],
    )
    def test_a_rollout_that_does_not_fit_together_names_the_row(self, changes: dict[str, Any], message: str) -> None:
        assert len(self.rollout()) == 2
        with pytest.raises(UserError, match=message):
            self.rollout(**changes)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"token_rewards": [[1.0], []]}, r"row 1 has the rewards \[\]"),
            ({"token_rewards": [[1.0, math.inf]]}, "row 0 has the rewards"),
            ({"token_rewards": [[1.0]], "annotations": [Annotation(), Annotation()]}, "2 annotations for 1 response"),
            (
                {"token_rewards": [[1.0]], "annotations": [Annotation((Span(2, 1, "a"),))]},
                "row 0 has a span from 2 to 1",
            ),
        ],
    )
    def test_rewards_that_do_not_fit_together_name_the_row(self, given: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            Scored(**given)

    def test_one_number_stands_at_the_last_token(self) -> None:
        assert at_last_token([0.5, -1.0], [[7, 8, 9], "a"]) == [[0.0, 0.0, 0.5], [-1.0]]

    def test_the_metrics_of_rewards_per_token(self) -> None:
        """Tokens 0.5, 0, -1: mean -1/6, deviation from it, two of three with a reward; totals 0.5 and -1."""

        def reward(**_: Any) -> Any:
            annotations = [
                {"spans": [(0, 1, "a", 0.5)], "components": {"near": 0.5}},
                {"components": {"near": 1.5, "own": 2}},
            ]
            return [[0.5, 0.0], [-1.0]], {"odd": 3.0}, annotations

        metrics = Scorer(reward, lambda *_: True, eos=(6,))(self.rollout()).metrics
        assert metrics["reward/mean"] == pytest.approx(-0.25)
        assert metrics["reward/token_mean"] == pytest.approx(-0.5 / 3)
        assert metrics["reward/token_std"] == pytest.approx(math.sqrt(1.25 / 3 - (0.5 / 3) ** 2))
        assert metrics["reward/token_share"] == pytest.approx(2 / 3)
        assert metrics["reward/odd"] == 3.0
        assert metrics["reward/spans"] == 0.5
        assert (metrics["reward/component_near"], metrics["reward/component_own"]) == (1.0, 2.0)
        assert metrics["response/length"] == 1.5 and metrics["response/eos"] == 0.5
        of_groups = Scorer(lambda **_: [0.5, -1.0], None, eos=(6,), group_size=1)(self.rollout()).metrics
        assert of_groups["reward/no_signal"] == 1.0  # each of its groups is equal in itself
        plain = Scorer(lambda **_: [0.5, -1.0], lambda *_: True, eos=(6,))(self.rollout()).metrics
        assert not [name for name in plain if "token" in name or "component" in name or "spans" in name]


def brevity(*, responses: list[str], weight: float, **_: Any) -> list[float]:
    """A user's reward, as docs/rewards.md writes it."""
    return [-weight * len(response) for response in responses]


class TestConfig:
    """The files of conf/reward/, instantiated as a run does."""

    def build(self, name: str, **others: Any) -> Any:
        config = OmegaConf.create({"reward": OmegaConf.load(conf_folder() / "reward" / f"{name}.yaml"), **others})
        return instantiate(config).reward

    def test_pgsrm(self) -> None:
        reward: Reward = self.build("pgsrm", embedder=OmegaConf.load(conf_folder() / "embedder" / "static.yaml"))
        scored = normalise(reward(**batch(["hot", "table", "", "Cold."], ["cold"] * 4)), [[7, 8]] * 4)
        rewards, metrics = scored.totals, scored.metrics
        assert rewards[0] == pytest.approx(((1 + self.cosine("hot", "cold")) / 2) ** 4, abs=1e-6)
        assert rewards[1:] == pytest.approx([1 / 16, 0, 1], abs=0.02)
        assert metrics["without_vector"] == 1 / 4

    def cosine(self, a: str, b: str) -> float:
        first, second = WordVectors().embed([a, b])
        return float(first @ second)

    def test_binary(self) -> None:
        task = {"checker": {"_target_": "pgsrm.task.NormalizedEquality"}}
        reward: Reward = self.build("binary", task=task)
        assert reward(**batch(["Same.", "sane"])) == [1.0, 0.0]

    def test_a_function_by_name(self) -> None:
        config = {"_target_": f"{__name__}.brevity", "_partial_": True, "weight": 0.5}
        reward: Callable[..., Any] = instantiate(OmegaConf.create(config))
        assert normalise(reward(**batch(["ab", ""])), [[7, 8]] * 2).totals == [-1.0, 0.0]


@pytest.mark.parametrize(
    ("rewards", "size", "share"),
    [
        ([1.0, 1.0, 2.0, 2.0], 4, 0.0),
        ([1.0, 1.0, 2.0, 2.0], 2, 1.0),
        ([1.0, 1.0, 2.0, 3.0], 2, 0.5),
        ([[1.0], [0.0, 1.0], [2.0], [1.0, 1.0]], 2, 0.5),  # still to come: 1, 1 and 1; then 2, 2 and 1
    ],
)
def test_no_signal_is_the_share_of_groups_that_are_equal_in_themselves(rewards: Any, size: int, share: float) -> None:
    ids = [[7] * (len(row) if isinstance(row, list) else 1) for row in rewards]
    assert _no_signal(normalise(rewards, ids), size) == share
