"""Whether prompts fit into a model, seen from its files alone: a second before a run starts, without torch."""

import heapq
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from pgsrm.models.settings import ModelSettings, is_gguf, local_files
from pgsrm.util.errors import UserError

LONGEST = 64  # prompts, by their bytes, whose tokens are counted
_UNLIMITED = 512  # tokens that are read where no limit is known

# Which prompt, how many words of each column -> the prompt as it is with this `task.max_input_words`.
Shortened = Callable[[int, int], str]


def check_fit(settings: ModelSettings, prompts: Sequence[str], max_new_tokens: int, shortened: Shortened) -> None:
    """Raise UserError where a prompt and its response have more tokens than the model has positions.

    The error names the largest `task.max_input_words` with which all prompts fit, by what `shortened` makes of them.

    Only seen here for folders with a tokenizer.json, and without what a chat template adds: the policy looks again when it
    has been loaded (`pgsrm.policy.choose.check_lengths`). No token is shorter than a byte, so that short prompts need no
    tokenizer.
    """
    folder = local_files(settings.path)
    if folder is None or is_gguf(folder) or not (folder / "tokenizer.json").is_file():
        return
    positions = _positions(folder)
    room = positions - max_new_tokens if positions else 0
    candidates = heapq.nlargest(LONGEST, prompts, key=lambda prompt: len(prompt.encode()))
    if not positions or len(candidates[0].encode()) <= room:
        return
    from tokenizers import Tokenizer

    tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    longest = max(_lengths(tokenizer, candidates))
    if longest > room:
        words = _fitting(tokenizer, room, prompts, shortened)
        raise UserError(too_long(longest, max_new_tokens, positions, words))


def _lengths(tokenizer: Any, texts: Iterable[str]) -> list[int]:
    """How many tokens each text has."""
    return [len(encoding.ids) for encoding in tokenizer.encode_batch(list(texts))]


def _fitting(tokenizer: Any, room: int, prompts: Sequence[str], shortened: Shortened) -> int:
    """The largest number of words with which all prompts have `room` tokens at most; 0 where there is none.

    Counting the tokens of thousands of documents takes seconds. So the number is searched on `LONGEST` prompts, those with the
    most bytes when they are cut, and tried on all prompts once. Prompts that are too long even so are searched in turn.
    """
    words = max(len(prompt.split()) for prompt in prompts)
    rows: Sequence[int] = range(len(prompts))
    hardest = heapq.nlargest(LONGEST, rows, key=lambda row: len(shortened(row, room).encode()))
    while hardest:
        words = _fitting_few(tokenizer, room, hardest, words, shortened)
        if not words:
            break
        texts = {row: text for row in rows if len((text := shortened(row, words)).encode()) > room}
        lengths = dict(zip(texts, _lengths(tokenizer, texts.values()), strict=True))
        rows = [row for row, length in lengths.items() if length > room]
        hardest = heapq.nlargest(LONGEST, rows, key=lengths.__getitem__)
    return words


def _fitting_few(tokenizer: Any, room: int, rows: Sequence[int], most: int, shortened: Shortened) -> int:
    """As `_fitting`, below `most` and for these prompts alone, all of which are looked at in each step of a binary search."""
    fits, fails = 0, most
    while fails - fits > 1:
        words = (fits + fails) // 2
        if max(_lengths(tokenizer, (shortened(row, words) for row in rows))) <= room:
            fits = words
        else:
            fails = words
    return fits


def too_long(longest: int, max_new_tokens: int, positions: int, words: int | None = None) -> str:
    """The error's line; words: how many words of each column would fit, 0 where not even one would, None where unknown."""
    keep = "" if words is None else f"={words}"
    cut = "" if words == 0 else f"set task.max_input_words{keep}, which keeps the beginning of each input, "
    return (
        f"task.max_new_tokens={max_new_tokens}: the longest prompt has {longest} tokens, and the model has {positions} positions "
        f"for prompt and response; {cut}shorten the prompts, or choose another model"
    )


def position_limit(config: Any) -> int | None:
    """Most tokens that a model takes, by its transformers config; None where that names no limit: none at all, or -1."""
    named = getattr(config, "max_position_embeddings", None)
    return named if named is not None and named > 0 else None


def longest_read(config: Any, tokenizer: Any) -> int:
    """Most tokens of a text that a sequence-classification model reads, in training and afterwards.

    RoBERTa's positions begin behind that of its padding: its tokenizer says how many are left. 512 where the config names no limit.
    """
    return min(position_limit(config) or _UNLIMITED, tokenizer.model_max_length)


def _positions(folder: Path) -> int | None:
    """As `position_limit`, by the config's file."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return None
    names = ("max_position_embeddings", "n_positions")
    found = [config[name] for name in names if isinstance(config, dict) and isinstance(config.get(name), int)]
    return found[0] if found and found[0] > 0 else None
