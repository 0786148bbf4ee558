"""Rewards: hand-worked numbers, responses without a vector, and what a user's reward may return."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from pgsrm.embedder import WordVectors
from pgsrm.reward import BinaryReward, Reward, SemanticReward, normalise
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
        rewards, metrics = normalise(output, [[1], [2, 3]])
        assert (rewards, metrics) == ([1.0, 0.5], {})
        assert all(type(reward) is float for reward in rewards)

    @pytest.mark.parametrize("output", [[[1], [0, 2]], [np.array([1]), (0, 2)]])
    def test_one_number_a_token(self, output: Any) -> None:
        rewards, metrics = normalise((output, {"length": np.float32(1.5)}), [[1], [2, 3]])
        assert (rewards, metrics) == ([[1.0], [0.0, 2.0]], {"length": 1.5})

    def test_tensors(self) -> None:
        import torch

        token_ids = [[1, 2], [3, 4]]
        assert normalise(torch.tensor([1, 2]), token_ids)[0] == [1.0, 2.0]
        assert normalise(list(torch.tensor([1, 2])), token_ids)[0] == [1.0, 2.0]
        assert normalise(torch.tensor([[1, 2], [3, 4]]), token_ids)[0] == [[1.0, 2.0], [3.0, 4.0]]

    @pytest.mark.parametrize(
        ("output", "message"),
        [
            ([1.0], "returned 1 rewards for 2 responses"),
            ([1.0, 2.0, 3.0], "returned 3 rewards for 2 responses"),
            ([1.0, math.nan], "the reward of response 1 is nan; it must be a finite number"),
            ([math.inf, 1.0], "the reward of response 0 is inf"),
            ([None, 1.0], "the reward of response 0 is None"),
            (["good", 1.0], "the reward of response 0 is 'good'"),
            (0.5, "it returned 0.5; return a list"),
            (None, "it returned None; return a list"),
            ({"a": 1, "b": 2}, "return a list"),
            ([1.0, [1.0, 2.0]], "numbers and lists side by side"),
            ([[1.0], [1.0]], "the reward of response 1 has 1 numbers for 2 tokens"),
            ([[1.0], [0.0, math.nan]], "the reward of response 1, token 1, is nan"),
            (([1.0, 2.0], {"length": math.nan}), "the metric length is nan"),
        ],
    )
    def test_anything_else_is_an_error_that_names_the_reward(self, output: Any, message: str) -> None:
        with pytest.raises(UserError, match=f"^reward=mine: .*{message}"):
            normalise(output, [[1], [2, 3]], name="mine")


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
        rewards, metrics = normalise(reward(**batch(["hot", "table", "", "Cold."], ["cold"] * 4)), [[7, 8]] * 4)
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
        assert normalise(reward(**batch(["ab", ""])), [[7, 8]] * 2)[0] == [-1.0, 0.0]
