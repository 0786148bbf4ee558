"""A learned reward: what reward models say of a response, in standard deviations of the reference policy's samples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from msgspec import Meta

from pgsrm.models.settings import check_device
from pgsrm.util.errors import ParameterError, of_a_parameter
from pgsrm.util.numbers import Count, Finite, NonNegative, Positive

if TYPE_CHECKING:
    import numpy as np

    from pgsrm.models.reward_model import RewardModel

STANDARDISED_ON = 512  # samples of the reference policy
FLAT = 1e-6  # a deviation as small as this is rounding alone
Name = Annotated[str, Meta(min_length=1)]
T = TypeVar("T")


class LearnedReward:
    """One number per response: (output - mean) / std of a reward model, or of several together.

    path: a folder that `python -m pgsrm.reward_model train` made, a folder of another reward model or a hub model with one
    output; a list of them is an ensemble. mean, std: of a single model's outputs, instead of what its card says. A model that has
    no card is standardised by the reference policy's samples before a run's first evaluation (`standardise`); where nobody gives
    it such samples by the first texts that it is asked about.
    combine, of the standardised rewards of an ensemble (Coste et al. 2023, arXiv:2310.02743):
        mean: their mean
        min: the smallest, what the most doubtful one says
        mean_minus_std: mean - penalty * standard deviation (of the models' rewards, divided by their number); that paper takes the
            variance
    reads: what the model reads, prompt and response together or the response alone. batch_size: texts read at once. device: auto,
    cpu, cuda.

    Raises ParameterError for a model that can't be had or that has not one output, before a run starts; for a device that is
    not there, where it is first asked.
    """

    def __init__(
        self,
        path: Name | Annotated[list[Name], Meta(min_length=1)],
        combine: Literal["mean", "min", "mean_minus_std"] = "mean",
        penalty: NonNegative = 1.0,
        mean: Finite | None = None,
        std: Positive | None = None,
        reads: Literal["both", "response"] = "both",
        batch_size: Count = 64,
        device: str = "auto",
    ) -> None:
        with of_a_parameter():
            check_device(device, "device")
        self._paths = [path] if isinstance(path, str) else list(path)
        if (mean is None) != (std is None):
            given, lacking = ("mean", "std") if std is None else ("std", "mean")
            raise ParameterError(f"{given}: needs {lacking} beside it; set both, or neither")
        if mean is not None and len(self._paths) > 1:
            raise ParameterError(f"mean={mean}: is of a single model, and path names {len(self._paths)}; leave it out")
        self._combine, self._penalty, self._reads = combine, penalty, reads
        self._given = None if mean is None or std is None else (float(mean), float(std))
        self._options: dict[str, Any] = {"batch_size": batch_size, "device": device}
        self._loaded: list[RewardModel] = []
        self._measured: dict[int, tuple[float, float]] = {}  # mean, std of the models without a card, by their place

    @property
    def models(self) -> Sequence[RewardModel]:
        """The models, loaded at first use."""
        if not self._loaded:
            from pgsrm.models.reward_model import RewardModel

            self._loaded = [RewardModel(path, **self._options) for path in self._paths]
        return self._loaded

    @property
    def digest(self) -> str:
        """Hash of what decides the rewards: the models by content, and how they are combined."""
        how = [self._combine, self._penalty if self._combine == "mean_minus_std" else None, self._given, self._reads]
        content = [*(model.digest for model in self.models), how]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def check(self, references: Sequence[str] = ()) -> None:
        """Raise ParameterError if there is no such model, or if it is no reward model."""
        assert self.models

    def standardise(self, samples: Callable[[], tuple[Sequence[str], Sequence[str]]]) -> None:
        """Measure mean and deviation of models without a card on the reference policy's samples: prompts, and responses to them."""
        if self._given is not None:
            return
        for place, model in enumerate(self.models):
            if model.card is None and place not in self._measured:
                prompts, responses = samples()
                self._measured[place] = moments(model.outputs(self._read(prompts), responses))

    def state(self) -> dict[str, list[float]]:
        """Mean and deviation of models without a card."""
        return {str(place): list(moments) for place, moments in self._measured.items()}

    def restore(self, state: dict[str, list[float]]) -> None:
        """Make it what it was when `state` returned this."""
        self._measured = {int(place): (mean, std) for place, (mean, std) in state.items()}

    def __call__(
        self, *, prompts: Sequence[str], responses: Sequence[str], **_: Any
    ) -> tuple[list[float], dict[str, float]]:
        """One reward per response, the mean output as a metric (`raw`), and of an ensemble the models' `disagreement`."""
        import numpy as np

        read = self._read(prompts)
        outputs = [model.outputs(read, responses) for model in self.models]
        rewards = np.stack([self._standardised(place, values) for place, values in enumerate(outputs)])  # (models, n)
        metrics = {"raw": float(np.mean(outputs))}
        if len(rewards) > 1:
            metrics["disagreement"] = float(rewards.std(axis=0).mean())
        return combined(rewards, self._combine, self._penalty).tolist(), metrics

    def _read(self, prompts: Sequence[str]) -> Sequence[str] | None:
        """The prompts, where the models read them."""
        return None if self._reads == "response" else prompts

    def _standardised(self, place: int, outputs: np.ndarray) -> np.ndarray:
        card = self.models[place].card
        if self._given is not None:
            mean, std = self._given
        elif card is not None:
            mean, std = card.mean, card.std
        else:
            mean, std = self._measured.setdefault(place, moments(outputs))
        rewards: np.ndarray = (outputs - mean) / std
        return rewards


def combined(rewards: np.ndarray, how: str, penalty: float) -> np.ndarray:
    """One reward per response (n,) from those of several models (models, n)."""
    if how == "min":
        lowest: np.ndarray = rewards.min(axis=0)
        return lowest
    mean: np.ndarray = rewards.mean(axis=0)
    return mean if how == "mean" else mean - penalty * rewards.std(axis=0)


def standardised_on(examples: Sequence[T]) -> list[T]:
    """The `STANDARDISED_ON` examples whose answers a reward is standardised by: the first, or all in turn, again and again."""
    return [examples[i % len(examples)] for i in range(STANDARDISED_ON)]


def moments(outputs: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation (divided by the count) of outputs (n,); outputs that are all equal have 1 as theirs."""
    mean, std = float(outputs.mean()), float(outputs.std())
    return mean, std if std > FLAT * max(1.0, float(abs(outputs).max())) else 1.0
