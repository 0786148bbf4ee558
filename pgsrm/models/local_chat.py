"""A causal language model on this machine that answers questions: greedily, in batches, what they begin with alike read once."""

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from transformers import GenerationConfig

from pgsrm.models.greedy import GreedyDecoder, common_prefix
from pgsrm.models.lengths import position_limit
from pgsrm.models.load import declared_eos, load_tokenizer, read_model, resolve_device
from pgsrm.models.precision import say_where_bfloat16_is_slow
from pgsrm.models.settings import ModelSettings, named_as
from pgsrm.models.text import ChatTemplate, encode_prompt, ids_behind
from pgsrm.util.errors import UserError

logger = logging.getLogger(__name__)


class LocalChat:
    """A model and its tokenizer, loaded at the first use.

    key: the config key that names the model, for messages. longest: tokens of an answer. chat: whether questions are put into
    the model's chat template; `auto`: where it has one.

    Raises UserError, from its first use on, for a model that can't be loaded or is too small for a question.
    """

    def __init__(self, settings: ModelSettings, key: str, longest: int, chat: bool | Literal["auto"] = "auto") -> None:
        self._settings, self._key, self._longest, self._chat = settings, key, longest, chat

    def use(self, model: Any, tokenizer: Any) -> None:
        """Answer with a model that is loaded already, in eval mode, whose weights may change between two decoders."""
        self.__dict__ |= {"_model": model, "tokenizer": tokenizer}

    @property
    def has_template(self) -> bool:
        """Whether questions are put into a chat template."""
        with named_as(self._key):
            return bool(self.tokenizer.chat_template) if self._chat == "auto" else self._chat

    def encode(self, questions: Sequence[str], beginning: str, system: str | None = None) -> list[list[int]]:
        """Token ids of questions, each with the beginning of its answer; system: its message in a chat template."""
        chat, behind = (ChatTemplate(system), ()) if self.has_template else (None, self._behind)
        with named_as(self._key):
            return [encode_prompt(self.tokenizer, question, behind, chat, beginning) for question in questions]

    def decoder(self, prompts: Sequence[Sequence[int]]) -> GreedyDecoder:
        """What answers these prompts (not empty), some at a time. Raises UserError where one is too long for the model."""
        self._check_room(prompts)
        return GreedyDecoder(self._model, common_prefix(prompts))

    def text(self, tokens: Sequence[int]) -> str:
        """An answer's text, without the tokens that end it."""
        kept = [token for token in tokens if token not in self.ends]
        text: str = self.tokenizer.decode(kept, clean_up_tokenization_spaces=False)
        return text

    @cached_property
    def ends(self) -> set[int]:
        """All tokens that end an answer."""
        return self._ends_of(self._model)

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        with named_as(self._key):
            return load_tokenizer(self._settings)

    @cached_property
    def _model(self) -> Any:
        with named_as(self._key):
            device = resolve_device(self._settings.device)
            if self._settings.dtype == "bfloat16":
                say_where_bfloat16_is_slow(f"{self._key.partition('.')[0]}.dtype", device)
            model = read_model(self._settings, getattr(torch, self._settings.dtype)).to(device).eval()
        # A model brings sampling settings of its own; answers are greedy, and end where the model's own end.
        ends = self._ends_of(model)
        model.generation_config = GenerationConfig(do_sample=False, eos_token_id=sorted(ends) or None)
        return model

    def _ends_of(self, model: Any) -> set[int]:
        return set(declared_eos(model)) | ({self.tokenizer.eos_token_id} - {None})

    @cached_property
    def _behind(self) -> list[int]:
        behind = ids_behind(self.tokenizer)
        if behind:
            names = " ".join(self.tokenizer.convert_ids_to_tokens(behind))
            told = "its tokenizer puts %s behind a text; it is left out"
            logger.warning(f"{self._key}=%s: {told}", self._settings.path, names)
        return behind

    def _check_room(self, prompts: Sequence[Sequence[int]]) -> None:
        name, model = f"{self._key}={self._settings.path}", self._model
        room = position_limit(model.config)
        needed = max(map(len, prompts)) + self._longest
        section = self._key.partition(".")[0]
        if room is not None and needed > room:
            raise UserError(
                f"{name}: has room for {room} tokens, instruction, input and answer take {needed}; "
                f"name one with a longer context, or lower {section}.max_tokens"
            )
        known, highest = model.get_input_embeddings().num_embeddings, max(map(max, prompts))
        if highest >= known:
            raise UserError(
                f"{name}: its tokenizer has the token {highest}, the model only {known}; "
                "save model and tokenizer with as many (resize_token_embeddings)"
            )
