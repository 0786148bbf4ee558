"""Models in a GGUF file, the form of llama.cpp: read by transformers and the `gguf` library, quantised weights as float32."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pgsrm.util.errors import UserError, reason

MAGIC = b"GGUF"
EOS_KEY = "tokenizer.ggml.eos_token_id"


def check_library(key: str) -> None:
    """Raise UserError, which begins with `key`, unless what reads such files is installed."""
    missing = [name for name in ("gguf", "accelerate") if find_spec(name) is None]
    if missing:
        libraries = " and ".join(missing)
        raise UserError(f"{key}: reading GGUF files needs {libraries}; install with: pip install {' '.join(missing)}")


def check_file(file: Path, key: str) -> None:
    """Raise UserError, which begins with `key`, unless `file` begins as a GGUF file and can be read here."""
    try:
        with file.open("rb") as content:
            is_gguf = content.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise UserError(f"{key}: can't be read ({error.strerror}); name a GGUF file") from error
    if not is_gguf:
        raise UserError(f"{key}: is no GGUF file; name one, a folder in the hub's layout or a hub model")
    check_library(key)


def read_model(file: Path, dtype: Any) -> Any:
    """The causal language model of a GGUF file, its weights of torch's type `dtype`.

    It is a plain one: transformers takes what it read for quantised, and does not save that.
    """
    from transformers import AutoModelForCausalLM

    with _alone(file) as source:
        read: Any = AutoModelForCausalLM.from_pretrained(**source, dtype=dtype)
    config = copy.deepcopy(read.config)
    vars(config).pop("quantization_config", None)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.load_state_dict(read.state_dict())
    return model


def read_tokenizer(file: Path) -> Any:
    """The tokenizer of a GGUF file, with the EOS token that the file names.

    Some versions of transformers (5.17) take another, that which begins a message of a chat.
    """
    from gguf import GGUFReader
    from transformers import AutoTokenizer

    with _alone(file) as source:
        tokenizer: Any = AutoTokenizer.from_pretrained(**source)
    tokenizer.name_or_path = str(file)
    named = GGUFReader(file).get_field(EOS_KEY)
    token = None if named is None else tokenizer.convert_ids_to_tokens(int(named.contents()))
    if token is not None:  # else the file names none of its vocabulary
        tokenizer.eos_token = token
    return tokenizer


def convert(file: Path, folder: Path) -> None:
    """Save a GGUF file's model, in float32, and its tokenizer in the hub's layout.

    Raises:
        UserError: for a file that transformers can't read.
    """
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        model, tokenizer = read_model(file, torch.float32), read_tokenizer(file)
    except Exception as error:  # files of others: whatever is wrong with them, the reason is in the error
        raise UserError(
            f"{file.name}: can't be converted ({reason(error)}); install the gguf and transformers of requirements.lock"
        ) from error
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _alone(file: Path) -> Iterator[dict[str, str]]:
    """Arguments by which transformers reads this file, and nothing that lies beside it, as the config of another model."""
    with TemporaryDirectory() as folder:
        (Path(folder) / file.name).symlink_to(file.resolve())
        yield {"pretrained_model_name_or_path": folder, "gguf_file": file.name}
