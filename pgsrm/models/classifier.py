"""Classifiers of texts: any sequence-classification model of transformers, and a logistic one over hashed n-grams.

Both give logits (n, L) of n texts for L labels. The hashed one needs NumPy alone and has no words in its file.
"""

import json
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pgsrm.models.digest import hub_commit, model_digest
from pgsrm.models.hub import model_source, source
from pgsrm.models.lengths import longest_read
from pgsrm.models.settings import SHIPPED, local_files
from pgsrm.util.digest import content_digest
from pgsrm.util.errors import ParameterError, of_a_parameter, reason
from pgsrm.util.paths import PACKAGE

NAMES = {
    "sentiment": PACKAGE / "nano/sentiment.safetensors",
    "sentiment_gold": PACKAGE / "nano/sentiment_gold",
    "toxicity": PACKAGE / "nano/toxicity.safetensors",
    "toxicity_gold": PACKAGE / "nano/toxicity_gold",
}
BUCKETS = 2**16
_TOKEN = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*|[.,!?]")


class Classifier(Protocol):
    """`labels` name the L classes."""

    labels: list[str]

    @property
    def digest(self) -> str:
        """Hash of all that decides the logits."""

    def logits(self, texts: Sequence[str]) -> "np.ndarray[Any, np.dtype[np.float64]]":
        """Logits (n, L) of n texts; each text's are the same beside others as alone, up to rounding."""
        ...


def features(text: str) -> set[int]:
    """The buckets of the words and of the pairs of neighbouring words in a text, in lower case; each counts once."""
    words = _TOKEN.findall(text.lower())
    grams = [*words, *(f"{first} {second}" for first, second in pairwise(words))]
    return {zlib.crc32(gram.encode()) % BUCKETS for gram in grams}


class HashedClassifier:
    """Two classes, by a logistic regression over hashed words and pairs of words: `weights` (BUCKETS,) and `bias`.

    The file is a safetensors file; its header names the labels. The second label's logit is the sum of its features'
    weights and the bias, the first one's is 0.
    """

    def __init__(self, file: Path) -> None:
        from safetensors import safe_open

        self._file = file
        with safe_open(file, framework="np") as opened:
            self._weights = opened.get_tensor("weights").astype(np.float64)
            self._bias = float(opened.get_tensor("bias")[0])
            self.labels: list[str] = json.loads(opened.metadata()["labels"])

    @cached_property
    def digest(self) -> str:
        """Hash of the file."""
        return content_digest([self._file])

    def logits(self, texts: Sequence[str]) -> "np.ndarray[Any, np.dtype[np.float64]]":
        """Logits (n, 2), those of the first label 0."""
        positive = [self._bias + self._weights[sorted(features(text))].sum() for text in texts]
        return np.stack([np.zeros(len(texts)), np.array(positive)], axis=1)


class TransformersClassifier:
    """A sequence-classification model: a folder in the hub's layout, or a hub model. `batch_size` texts at a time.

    key: the parameter that `name` is the value of, for messages.
    """

    def __init__(
        self,
        name: str,
        folder: Path | None,
        tokenizer: Path | None,
        batch_size: int,
        device: str,
        key: str = "model",
    ) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(**source(name, tokenizer or folder))
            model, found = AutoModelForSequenceClassification.from_pretrained(
                **model_source(name, folder), dtype=torch.float32, output_loading_info=True
            )
        except Exception as error:  # files of others: whatever is wrong with them, the reason is in the error
            raise ParameterError(
                f"{key}={name}: can't be loaded ({reason(error)}); name a sequence-classification model"
            ) from error
        if missing := sorted(found["missing_keys"]):  # transformers makes them up: a language model has no such head
            raise ParameterError(
                f"{key}={name}: lacks weights of a classifier ({missing[0]}); name a sequence-classification model"
            )
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        # a causal model reads its output in front of the padding that its config names: texts are padded with that
        pad = model.config.pad_token_id
        if pad is None or not 0 <= pad < len(self.tokenizer):
            model.config.pad_token_id = self.tokenizer.pad_token_id
        elif pad != self.tokenizer.pad_token_id:
            self.tokenizer.pad_token = self.tokenizer.convert_ids_to_tokens(pad)
        self.tokenizer.padding_side = "right"
        self._read, self._device, self._batch = model.eval(), device, batch_size
        self._longest = longest_read(model.config, self.tokenizer)
        self.labels = [str(model.config.id2label[index]) for index in range(model.config.num_labels)]
        self._name, self._folder = name, folder

    @cached_property
    def _model(self) -> Any:
        """On its device, which need not be there where a run is only planned."""
        from pgsrm.models.load import resolve_device

        with of_a_parameter():
            return self._read.to(resolve_device(self._device, "device"))

    @cached_property
    def digest(self) -> str:
        """Hash of the folder's files, or the hub model's commit."""
        if self._folder is not None:
            return model_digest(self._folder)
        return f"{self._name} {hub_commit(self._name, None)}"

    def logits(
        self, texts: Sequence[str], answers: Sequence[str] | None = None
    ) -> "np.ndarray[Any, np.dtype[np.float64]]":
        """Logits (n, L), in float32 arithmetic; a text longer than the model's positions is cut at its end.

        answers: n second texts, which the tokenizer puts behind the first ones as its model expects.
        """
        # a model can't read nothing: an empty text is a blank
        paired = [""] * len(texts) if answers is None else answers
        filled = [
            text if answer or self.tokenizer(text)["input_ids"] else " "
            for text, answer in zip(texts, paired, strict=True)
        ]

        def encode(rows: slice) -> Any:
            second = None if answers is None else list(answers[rows])
            return self.tokenizer(
                filled[rows], second, return_tensors="pt", padding=True, truncation=True, max_length=self._longest
            )

        return self._logits(len(texts), encode)

    def logits_of_ids(self, rows: Sequence[Sequence[int]]) -> "np.ndarray[Any, np.dtype[np.float64]]":
        """Logits (n, L) of n texts as token ids, at least one each; one longer than the model's positions is cut at its start."""
        cut = [list(row[-self._longest :]) for row in rows]
        return self._logits(len(rows), lambda part: self.tokenizer.pad({"input_ids": cut[part]}, return_tensors="pt"))

    def _logits(self, count: int, encode: Callable[[slice], Any]) -> "np.ndarray[Any, np.dtype[np.float64]]":
        """Those of `count` texts; `encode` gives the model's inputs for some of them."""
        import torch

        rows: list[Any] = []
        for start in range(0, count, self._batch):
            inputs = encode(slice(start, start + self._batch)).to(self._model.device)
            with torch.no_grad():
                rows.append(self._model(**inputs).logits.double().cpu().numpy())
        return np.concatenate(rows) if rows else np.zeros((0, len(self.labels)))


def load_classifier(name: str, batch_size: int = 64, device: str = "auto", key: str = "model") -> Classifier:
    """The classifier of this name: one of `NAMES` (shipped), a folder, a hashed one's file, or a hub name.

    Raises:
        ParameterError: of `key`, there is none, or it can't be loaded.
    """
    shipped = NAMES.get(name)
    with of_a_parameter():
        files = shipped or local_files(name, key)
    is_there = files.exists() if files else "/" in name  # a hub name has an owner
    if not is_there:
        raise ParameterError(
            f"{key}={name}: no such classifier; there are {', '.join(NAMES)}, folders in the hub's layout and hub models"
        )
    if files and files.is_file():
        return _load_hashed(name, files, key)
    return TransformersClassifier(name, files, SHIPPED if shipped else None, batch_size, device, key)


def _load_hashed(name: str, file: Path, key: str) -> HashedClassifier:
    try:
        return HashedClassifier(file)
    except Exception as error:
        raise ParameterError(
            f"{key}={name}: is no classifier's file ({type(error).__name__}); name a folder or a hub model"
        ) from error


def save_hashed(file: Path, weights: "np.ndarray[Any, Any]", bias: float, labels: Iterable[str]) -> None:
    """Write a `HashedClassifier`'s file, weights in float16."""
    from safetensors.numpy import save_file

    tensors: dict[str, Any] = {"weights": weights.astype(np.float16), "bias": np.array([bias], dtype=np.float32)}
    save_file(tensors, file, {"labels": json.dumps(list(labels))})
