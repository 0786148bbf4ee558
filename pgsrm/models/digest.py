"""The identity of a model: a hash of all files that the loaders of models and tokenizers read."""

from pathlib import Path

from pgsrm.util.digest import content_digest, folder_digest

# Weights (shards and their index); configs, end-of-sequence ids, vocabularies, merges, added and special tokens; SentencePiece
# and tiktoken models; chat templates; code that comes with a model. Each tokenizer class reads some of them. Not GGUF files, which
# nothing reads that is given their folder.
SUFFIXES = frozenset(
    (".safetensors", ".json", ".txt", ".model", ".spm", ".tiktoken", ".vocab", ".codes", ".jinja", ".py")
)
TEMPLATES = "additional_chat_templates"  # the one subfolder that is read


def model_digest(folder: Path) -> str:
    """Hash (hex) of a model's folder in the hub's layout: names and contents of the files that decide its answers.

    For a GGUF file, which holds the tokenizer too: the hash of its content.
    """
    if folder.is_file():
        return content_digest([folder])
    folders = [folder, folder / TEMPLATES]
    files = [file for path in folders if path.is_dir() for file in path.iterdir()]
    return folder_digest(folder, (file for file in files if file.is_file() and file.suffix in SUFFIXES))


def hub_commit(name: str, revision: str | None) -> str | None:
    """The commit of a hub model's files in the local cache; None if it is not in the cache yet."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(cached).parent.name if isinstance(cached, str) else None
