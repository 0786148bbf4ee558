"""Whether prompts fit into a model, seen from its files alone: a second before a run starts, without torch."""

import heapq
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pgsrm.models.settings import ModelSettings, is_gguf, local_files
from pgsrm.util.errors import UserError

LONGEST = 64  # prompts, by their bytes, whose tokens are counted


def check_fit(
    settings: ModelSettings, prompts: Sequence[str], max_new_tokens: int, shortened: Callable[[int], list[str]]
) -> None:
    """Raise UserError where a prompt and its response have more tokens than the model has positions.

    shortened: the prompts as they are with this `task.max_input_words`; the error names the largest one that fits.

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
    longest = _longest(tokenizer, candidates)
    if longest > room:
        words = _fitting(tokenizer, room, max(len(prompt.split()) for prompt in prompts), shortened)
        raise UserError(too_long(longest, max_new_tokens, positions, words))


def _longest(tokenizer: Any, prompts: Sequence[str]) -> int:
    return max((len(encoding.ids) for encoding in tokenizer.encode_batch(list(prompts))), default=0)


def _fitting(tokenizer: Any, room: int, most: int, shortened: Callable[[int], list[str]]) -> int | None:
    """The largest number of words, below `most`, with which all prompts have `room` tokens at most; None where one has more."""
    fits, fails = 0, most
    while fails - fits > 1:
        words = (fits + fails) // 2
        if _longest(tokenizer, [prompt for prompt in shortened(words) if len(prompt.encode()) > room]) <= room:
            fits = words
        else:
            fails = words
    return fits or None


def too_long(longest: int, max_new_tokens: int, positions: int, words: int | None = None) -> str:
    """The error's line; words: how many words of each column would fit."""
    keep = "" if words is None else f"={words}"
    return (
        f"task.max_new_tokens={max_new_tokens}: the longest prompt has {longest} tokens, and the model has {positions} positions "
        f"for prompt and response; set task.max_input_words{keep}, which keeps the beginning of each input, shorten the prompts, "
        "or choose another model"
    )


def position_limit(config: Any) -> int | None:
    """Most tokens that a model takes, by its transformers config; None where that names no limit: none at all, or -1."""
    named = getattr(config, "max_position_embeddings", None)
    return named if named is not None and named > 0 else None


def _positions(folder: Path) -> int | None:
    """As `position_limit`, by the config's file."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return None
    names = ("max_position_embeddings", "n_positions")
    found = [config[name] for name in names if isinstance(config, dict) and isinstance(config.get(name), int)]
    return found[0] if found and found[0] > 0 else None
