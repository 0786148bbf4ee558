"""A reward from a classifier: how surely a response is of one class, for example how positive it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from pgsrm.models.settings import check_device
from pgsrm.util.errors import ParameterError, of_a_parameter
from pgsrm.util.numbers import Count

if TYPE_CHECKING:
    import numpy as np

    from pgsrm.models.classifier import Classifier


class ClassifierReward:
    """One number per response: what a classifier says about one of its labels.

    model: `sentiment`, `sentiment_gold` (shipped, docs/sentiment_control.md), `toxicity`, `toxicity_gold` (docs/detox.md), a folder
    in the hub's layout, or a hub model.
    label: the class, by its name in the model's config (in any case) or by its number. value, with the logits z of the text:
        logit: z of the label, as RELC's released code for sentiment
        probability: softmax(z) of the label; sigmoid(z) where the model has one label alone
        log_odds: log p - log(1 - p), p that probability; of two classes it is the difference of the logits
    reads: what the classifier reads, the response alone or prompt and response together. batch_size: texts read
    at once. device: auto, cpu, cuda.

    Raises ParameterError for a model that can't be had, for one that is no classifier and for a label that it lacks, before a run
    starts; for a device that is not there, where it is first asked.
    """

    def __init__(
        self,
        model: Annotated[str, Meta(min_length=1)] = "sentiment",
        label: str | int = "positive",
        value: Literal["logit", "probability", "log_odds"] = "log_odds",
        reads: Literal["response", "both"] = "response",
        batch_size: Count = 64,
        device: str = "auto",
    ) -> None:
        with of_a_parameter():
            check_device(device, "device")
        self._name, self._label, self._value, self._reads = model, label, value, reads
        self._options: dict[str, Any] = {"batch_size": batch_size, "device": device}
        self._loaded: Classifier | None = None

    @property
    def classifier(self) -> Classifier:
        """The model, loaded at first use."""
        if self._loaded is None:
            from pgsrm.models.classifier import load_classifier

            self._loaded = load_classifier(self._name, **self._options)
        return self._loaded

    @property
    def threshold(self) -> float:
        """Above it a response counts as of the label's class."""
        return 0.5 if self._value == "probability" else 0.0

    @property
    def digest(self) -> str:
        """Hash of what decides the classifier's answers."""
        return self.classifier.digest

    def check(self, references: Sequence[str] = ()) -> None:
        """Raise ParameterError if there is no such model, or no such label of it."""
        self._index()

    def __call__(self, *, prompts: Sequence[str], responses: Sequence[str], **_: Any) -> list[float]:
        """One reward per response."""
        texts = [f"{p}{r}" for p, r in zip(prompts, responses, strict=True)] if self._reads == "both" else responses
        index, logits = self._index(), self.classifier.logits(texts)
        if self._value == "logit":
            values: np.ndarray = logits[:, index]
        else:
            odds = _log_odds(logits, index)
            values = odds if self._value == "log_odds" else _sigmoid(odds)
        return [float(value) for value in values]

    def _index(self) -> int:
        labels = self.classifier.labels
        names = [name.lower() for name in labels]
        if type(self._label) is int and 0 <= self._label < len(labels):  # True is the name of a label
            return self._label
        if str(self._label).lower() in names:
            return names.index(str(self._label).lower())
        raise ParameterError(f"label={self._label}: {self._name} has no such label; there are {', '.join(labels)}")


def _log_odds(logits: np.ndarray, index: int) -> np.ndarray:
    """Logits (n, L) -> log p - log(1 - p) (n,) of the class `index`; of a single logit it is the logit itself."""
    import numpy as np

    if logits.shape[1] == 1:
        return logits[:, 0]
    others = np.delete(logits, index, axis=1)
    most = others.max(axis=1)
    rest: np.ndarray = logits[:, index] - most - np.log(np.exp(others - most[:, None]).sum(axis=1))
    return rest


def _sigmoid(odds: np.ndarray) -> np.ndarray:
    import numpy as np

    result: np.ndarray = 1 / (1 + np.exp(-odds))
    return result
