"""A reward model: a sequence-classification model with one output, and the card that this project's own ones have.

`python -m pgsrm.reward_model train` makes such folders. A model of another origin, from the hub, has no card: prompt and
response are then read as its tokenizer puts them together, in its chat template where it has one.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import msgspec
import numpy as np

from pgsrm.models.classifier import TransformersClassifier, load_classifier
from pgsrm.models.settings import local_files
from pgsrm.models.text import ChatTemplate, Codec
from pgsrm.util.errors import ParameterError, of_a_parameter

CARD = "reward_model.json"
REMEDY = "name a folder that `python -m pgsrm.reward_model train` made, or a hub model with one output"


class Trained(msgspec.Struct, frozen=True, kw_only=True):
    """What a reward model was trained with, as far as it says which pairs were kept out."""

    # `reward_model.holdout`.
    holdout: float


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """What a reward reads of a model's card; the rest of the file is for people."""

    # Mean of the outputs for samples of the reference policy.
    mean: float
    # Their standard deviation, above 0.
    std: float
    # Whether prompts are put into the model's chat template.
    chat_template: bool = False
    # The system's message in it.
    system_prompt: str | None = None
    # How held-out pairs were chosen (`pgsrm.reward_model.pairs.SPLIT`); "" in a card of version 0.2.0, which chose others.
    split: str = ""
    # How it was trained; None in a card that was not written by `python -m pgsrm.reward_model train`.
    settings: Trained | None = None


class RewardModel:
    """The reward model of a folder in the hub's layout, or of a hub name; `batch_size` texts at a time.

    card: None for a model of another origin.

    Raises:
        ParameterError: of `path`, for a model that can't be had or that has not one output.
    """

    def __init__(self, path: str, batch_size: int = 64, device: str = "auto") -> None:
        with of_a_parameter():
            files = local_files(path, "path")
        if (files is None and "/" not in path) or (files is not None and not files.is_dir()):
            raise ParameterError(f"path={path}: no such folder; {REMEDY}")
        loaded = load_classifier(path, batch_size, device, key="path")
        if len(loaded.labels) != 1 or not isinstance(loaded, TransformersClassifier):
            raise ParameterError(f"path={path}: has {len(loaded.labels)} outputs, a reward model has one; {REMEDY}")
        self._model = loaded
        self.card = (
            None if files is None or not (files / CARD).is_file() else _read_card(path, (files / CARD).read_bytes())
        )

    @property
    def digest(self) -> str:
        """Hash of what decides the outputs, the card included."""
        return self._model.digest

    def outputs(
        self, prompts: Sequence[str] | None, responses: Sequence[str]
    ) -> "np.ndarray[Any, np.dtype[np.float64]]":
        """What the model says of n responses to n prompts (n,), as it stands: not standardised. None: the responses alone."""
        if self._codec is not None:
            asked = [""] * len(responses) if prompts is None else prompts
            rows = [encode(self._codec, *pair) for pair in zip(asked, responses, strict=True)]
            return self._model.logits_of_ids(rows)[:, 0]
        if prompts is None:
            return self._model.logits(responses)[:, 0]
        tokenizer = self._model.tokenizer
        if not tokenizer.chat_template:
            return self._model.logits(prompts, responses)[:, 0]
        texts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}], tokenize=False
            )
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        return self._model.logits_of_ids(tokenizer(texts, add_special_tokens=False)["input_ids"])[:, 0]

    @cached_property
    def _codec(self) -> Codec | None:
        if self.card is None:
            return None
        return Codec(
            self._model.tokenizer, (), ChatTemplate(self.card.system_prompt) if self.card.chat_template else None
        )


def encode(codec: Codec, prompt: str, response: str) -> list[int]:
    """The token ids of a prompt and a response, as a policy would have them.

    EOS does not follow: transformers pools at the last token that is no padding, and most causal models pad with EOS.
    """
    return codec.encode(prompt) + codec.encode_answer(prompt, response) or [codec.eos[0]]


def _read_card(path: str, content: bytes) -> Card:
    try:
        card = msgspec.json.decode(content, type=Card)
    except msgspec.MsgspecError as error:
        raise ParameterError(f"path={path}: its {CARD} can't be read ({error}); train the model again") from error
    if not (np.isfinite(card.mean) and np.isfinite(card.std) and card.std > 0):
        raise ParameterError(f"path={path}: its {CARD} has the deviation {card.std}; train the model again")
    return card
