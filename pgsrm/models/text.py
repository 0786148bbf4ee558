"""Between text and token ids: prompts are encoded once, sampled responses are decoded and never encoded again."""

import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from pgsrm.util.errors import UserError
from pgsrm.util.text import nfc


class Codec:
    """A tokenizer as this package uses it. `eos` are the ids that end a response; the tokenizer's own comes first.

    `declared` are those that the model's configs name besides (`pgsrm.models.load.declared_eos`).
    """

    def __init__(self, tokenizer: Any, declared: Sequence[int] = ()) -> None:
        self.tokenizer = tokenizer
        own = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        self.eos: tuple[int, ...] = tuple(dict.fromkeys([*own, *declared]))
        if not self.eos:
            raise UserError(
                f"model.path={tokenizer.name_or_path}: neither tokenizer nor model has an EOS token, which ends a response; "
                "give the tokenizer one and save it"
            )
        self._behind = ids_behind(tokenizer)
        if self._behind:
            names = " ".join(tokenizer.convert_ids_to_tokens(self._behind))
            print(f"{tokenizer.name_or_path}: its tokenizer's {names} behind every text is left out", file=sys.stderr)
        # policies repeat themselves more and more: most responses of a later update were decoded before
        self._decode = lru_cache(maxsize=50_000)(self._decode_uncached)

    def encode(self, prompt: str) -> list[int]:
        """A prompt's token ids, with whatever the tokenizer puts in front (Llama's BOS) and nothing behind."""
        return encode_prompt(self.tokenizer, prompt, self._behind)

    def encode_text(self, text: str) -> list[int]:
        """The token ids of a text alone."""
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def decode(self, responses: Sequence[Sequence[int]]) -> tuple[list[str], list[list[tuple[int, int]]]]:
        """Texts and, for each token of each response, its (start, end) characters in the text; EOS covers none."""
        decoded = [self._decode(tuple(response)) for response in responses]
        return [text for text, _ in decoded], [list(offsets) for _, offsets in decoded]

    def _decode_uncached(self, ids: tuple[int, ...]) -> tuple[str, tuple[tuple[int, int], ...]]:
        """Offsets are the lengths of the decoded beginnings: right for any tokenizer, also where a character spans tokens."""
        ends = [len(self._text(ids[: count + 1])) for count in range(len(ids))]
        text = self._text(ids)
        ends = [min(end, len(text)) for end in ends]
        starts = [0, *ends[:-1]]
        return text, tuple((min(start, end), end) for start, end in zip(starts, ends, strict=True))

    def _text(self, ids: Sequence[int]) -> str:
        """In NFC, as everything is that responses are compared with; offsets count the characters of that form."""
        return nfc(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def ids_behind(tokenizer: Any) -> list[int]:
    """The special tokens that a tokenizer puts behind every text, such as T5's end; an answer would begin behind them."""
    whole, alone = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (True, False))
    for start in range(len(whole) - len(alone) + 1):
        if list(whole[start : start + len(alone)]) == list(alone):
            return list(whole[start + len(alone) :])
    return []


def encode_prompt(tokenizer: Any, prompt: str, behind: Sequence[int] | None = None) -> list[int]:
    """A prompt's token ids: what the tokenizer puts in front stays, what it puts behind (`ids_behind`) is left out."""
    ids, behind = list(tokenizer(prompt)["input_ids"]), ids_behind(tokenizer) if behind is None else list(behind)
    return ids[: -len(behind)] if behind and ids[-len(behind) :] == behind else ids
