"""Whether the Hugging Face hub can be reached: its client tries for half a minute, and says so in ten lines."""

from pathlib import Path
from typing import Any

_SECONDS = 5


def hub_problem() -> str | None:
    """Why nothing can be fetched from the hub now, None if it answers; a few words, within seconds."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=_SECONDS)
    except Exception as error:  # the transport's own: no name, no route, no answer in time, a proxy
        return f"no connection to {constants.ENDPOINT}: {' '.join(str(error).split())[:100] or type(error).__name__}"
    return None


def source(name: str | None, files: Path | None, revision: str | None = None) -> dict[str, Any]:
    """The arguments by which transformers finds `files`, a folder, or without it the hub model `name`.

    Where the hub does not answer, it looks in the hub's cache alone.
    """
    where = {"pretrained_model_name_or_path": str(files or name), "revision": revision or "main"}
    return {**where, "local_files_only": files is not None or hub_problem() is not None}


def model_source(name: str | None, files: Path | None, revision: str | None = None) -> dict[str, Any]:
    """As `source`, for a model's weights: with peft installed, transformers asks the hub for adapters unless told not to."""
    where = source(name, files, revision)
    return {**where, "adapter_kwargs": {"local_files_only": where["local_files_only"]}}
