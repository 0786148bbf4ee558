"""A critic on this machine: a causal language model that reads a review and writes quotes, greedily."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from pgsrm.critic.critique import Critique
from pgsrm.critic.formats import read_reply
from pgsrm.models.settings import ModelSettings, check_model, identify_model
from pgsrm.util.digest import content_digest
from pgsrm.util.errors import UserError
from pgsrm.util.numbers import Count
from pgsrm.util.paths import local_path

if TYPE_CHECKING:
    from pgsrm.models.text import Codec
    from pgsrm.policy.protocol import Policy

SHIPPED = Path(__file__).parent / "weights"
TEXT = "{text}"  # where the instruction has the response, behind its prompt
PLAIN = f"Review: {TEXT}\nGood:"  # what the shipped critic was trained on
_KEPT = 50_000  # replies; policies repeat themselves more and more


class LocalCritic:
    """Any causal language model that is asked by an instruction and answers in the text form (`pgsrm.critic.formats`).

    path: a folder in the hub's layout, a GGUF file or a hub name; null: the shipped critic, nano trained to quote
    (docs/critic.md). instruction: a text file that ends where the model goes on, and has {text} where prompt and response
    stand; null: the shipped critic's own form. max_new_tokens: of a reply. The model sees prompt and response as one text;
    quotes count within the response alone.

    Raises UserError for a model or an instruction that can't be read.
    """

    def __init__(
        self,
        path: Annotated[str, Meta(min_length=1)] | None = None,
        instruction: str | None = None,
        max_new_tokens: Count = 40,
        device: str = "auto",
    ) -> None:
        self._path, self._device, self._length = path, device, max_new_tokens
        self._instruction_file = None if instruction is None else local_path(instruction, "critic.instruction")
        self._replies: dict[str, str] = {}
        self.counts = {"calls": 0, "cache_hits": 0}

    @cached_property
    def instruction(self) -> str:
        """What the model is asked, with {text} in it."""
        if self._instruction_file is None:
            return PLAIN
        try:
            text = self._instruction_file.read_text(encoding="utf-8").rstrip("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"critic.instruction={self._instruction_file}: can't be read ({error})") from error
        if text.count(TEXT) != 1:
            raise UserError(
                f"critic.instruction={self._instruction_file}: has {text.count(TEXT)} places {TEXT}; put one where the text stands"
            )
        return text

    @property
    def digest(self) -> str:
        """Hash of the model's files and the instruction."""
        files = [] if self._instruction_file is None else [self._instruction_file]
        if self._path is None:
            return content_digest([SHIPPED / "model.safetensors", *files])
        return f"{identify_model(self._settings)} {content_digest(files)}"

    def check(self) -> None:
        """Raise UserError for a model that can't be had, and for an instruction without its place."""
        if self._path is not None:
            check_model(self._settings)
        _ = self.instruction

    def __call__(
        self, *, prompts: Sequence[str], responses: Sequence[str], extrinsic: Sequence[float] | None
    ) -> list[Critique]:
        """One critique per response; equal texts are read once."""
        texts = [f"{prompt}{response}".replace("\n", " ") for prompt, response in zip(prompts, responses, strict=True)]
        new = [text for text in dict.fromkeys(texts) if text not in self._replies]
        self.counts["calls"] += len(new)
        self.counts["cache_hits"] += len(texts) - len(new)
        self._replies |= dict(zip(new, self._ask(new), strict=True))
        critiques = [read_reply(self._replies[text], response) for text, response in zip(texts, responses, strict=True)]
        for text in list(self._replies)[: max(0, len(self._replies) - _KEPT)]:
            del self._replies[text]
        return critiques

    def _ask(self, texts: list[str]) -> list[str]:
        """The model's replies, which begin where the instruction ends."""
        if not texts:
            return []
        policy, codec = self._model
        begun = self.instruction.rpartition("\n")[2]  # "Good:", which the reply goes on with
        prompts = [codec.encode(self.instruction.replace(TEXT, text)) for text in texts]
        ids = policy.greedy(prompts, self._length)
        replies, _ = codec.decode(ids)
        # a small model goes on with another review behind its reply
        return ["\n".join(f"{begun}{reply}".split("\n")[:2]) for reply in replies]

    @cached_property
    def _model(self) -> tuple[Policy, Codec]:
        from pgsrm.models.load import load_codec, load_model, resolve_device
        from pgsrm.policy.choose import build_policy

        model = load_model(self._settings, resolve_device(self._device))
        # the shipped critic has nano's tokenizer, which is there once
        codec = load_codec(self._settings if self._path is not None else ModelSettings(), model)
        example = codec.encode(self.instruction.replace(TEXT, "a film"))
        policy = build_policy(model, None, codec.eos, [example], self._length, self._settings)
        return policy, codec

    @property
    def _settings(self) -> ModelSettings:
        return ModelSettings(path=str(SHIPPED) if self._path is None else self._path, device=self._device)
