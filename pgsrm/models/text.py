"""Between text and token ids: prompts are encoded once, sampled responses are decoded and never encoded again."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from pgsrm.util.errors import UserError
from pgsrm.util.text import nfc


class Codec:
    """A tokenizer as this package uses it. `eos` is the id that ends a response."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        if tokenizer.eos_token_id is None:
            raise UserError(
                f"model.path={tokenizer.name_or_path}: the tokenizer has no EOS token; give it one and save it"
            )
        self.eos: int = tokenizer.eos_token_id
        # policies repeat themselves more and more: most responses of a later update were decoded before
        self._decode = lru_cache(maxsize=50_000)(self._decode_uncached)

    def encode(self, prompt: str) -> list[int]:
        """A prompt's token ids, with whatever the tokenizer puts in front (Llama's BOS) and nothing behind."""
        return list(self.tokenizer(prompt)["input_ids"])

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
