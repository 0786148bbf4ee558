"""Whether two models have one vocabulary, seen from their files alone: before a run starts, without torch."""

from collections.abc import Mapping

from pgsrm.models.settings import ModelSettings, is_gguf, local_files
from pgsrm.util.errors import UserError


def check_same_vocabulary(one: ModelSettings, other: ModelSettings, key: str) -> None:
    """Raise UserError, which names `one` as `key`, unless both have the same tokens under the same ids.

    Only seen here for folders with a tokenizer.json; `compare_vocabularies` looks again when both are loaded.
    """
    ours, others = _vocabulary(one), _vocabulary(other)
    if ours is not None and others is not None:
        compare_vocabularies(ours, others, f"{key}={one.path}")


def _vocabulary(settings: ModelSettings) -> dict[str, int] | None:
    """Token -> id; None where no tokenizer.json says so."""
    files = local_files(settings.path)
    if files is None or is_gguf(files) or not (files / "tokenizer.json").is_file():
        return None
    from tokenizers import Tokenizer

    vocabulary: dict[str, int] = Tokenizer.from_file(str(files / "tokenizer.json")).get_vocab()
    return vocabulary


def compare_vocabularies(one: Mapping[str, int], other: Mapping[str, int], key: str) -> None:
    """Raise UserError unless the same ids stand for the same tokens in both; `key` names the first, `model.path` the other."""
    if one == other:
        return
    shared = sum(other.get(token) == number for token, number in one.items())
    raise UserError(
        f"{key}: has another vocabulary than model.path ({len(one)} tokens and {len(other)}, {shared} of them the same under the "
        "same id); name a model with the same tokenizer"
    )
