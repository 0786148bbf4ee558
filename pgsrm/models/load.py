"""Loading a model and its tokenizer, of whichever kind `model.path` names (`pgsrm.models.settings.local_files`)."""

from typing import Any

import torch
from torch.nn import GELU
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.activations import FastGELUActivation, NewGELUActivation
from transformers.utils import logging

from pgsrm.models import gguf_file
from pgsrm.models.hub import model_source, source
from pgsrm.models.precision import attend_in_float32, say_where_bfloat16_is_slow, without_cudnn_attention
from pgsrm.models.settings import ModelSettings, is_gguf, local_files
from pgsrm.models.text import ChatTemplate, Codec
from pgsrm.util.errors import UserError, reason


def resolve_device(name: str, key: str = "model.device") -> torch.device:
    """The device that the config's `key` names; raises UserError where this machine has none such."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"{key}={name}: this machine has no such device; use auto or cpu") from error


def load_tokenizer(settings: ModelSettings) -> Any:
    """The tokenizer of a model; raises UserError where there is none."""
    files = local_files(settings.path)
    try:
        if files is not None and is_gguf(files):
            return gguf_file.read_tokenizer(files)
        return AutoTokenizer.from_pretrained(**source(settings.path, files, settings.revision))
    except Exception as error:  # files of others: whatever is wrong with them, the reason is in the error
        raise UserError(
            f"model.path={settings.path}: has no tokenizer that can be loaded ({reason(error)}); "
            "save one there with save_pretrained"
        ) from error


def read_model(settings: ModelSettings, dtype: torch.dtype) -> Any:
    """A causal language model as its files have it, with weights of type `dtype`; raises UserError where there is none."""
    logging.disable_progress_bar()
    files = local_files(settings.path)
    try:
        if files is not None and is_gguf(files):
            return gguf_file.read_model(files, dtype)
        return AutoModelForCausalLM.from_pretrained(
            **model_source(settings.path, files, settings.revision), dtype=dtype
        )
    except Exception as error:
        raise UserError(
            f"model.path={settings.path}: can't be loaded ({reason(error)}); name a causal language model"
        ) from error


def load_model(settings: ModelSettings, device: torch.device) -> Any:
    """A causal language model in eval mode, without its own generation defaults.

    A model brings sampling settings of its own (temperature, top_k); they would come between the sampled and the scored
    distribution, and this package samples by itself. What stays are the ids that end a response, all that are declared.
    """
    without_cudnn_attention(device)
    model = read_model(settings, torch.float32)
    ends = declared_eos(model)
    model.generation_config = GenerationConfig(bos_token_id=model.config.bos_token_id, eos_token_id=ends or None)
    fuse_activations(model)
    if settings.dtype == "bfloat16" and device.type == "cpu":
        say_where_bfloat16_is_slow("model.dtype", device)
        attend_in_float32(model)
    return model.to(device).eval()


def declared_eos(model: Any) -> list[int]:
    """The ids that end a response by a model's config or generation config, either of which may list several."""
    ends: list[int] = []
    for config in (model.config, model.generation_config):
        declared = getattr(config, "eos_token_id", None)
        ends += declared if isinstance(declared, list) else [] if declared is None else [declared]
    return list(dict.fromkeys(ends))


def load_codec(settings: ModelSettings, model: Any) -> Codec:
    """The tokenizer of a loaded model, with all ids that end a response; the model then declares the same ones.

    The first of them pads. Those that the model has no embedding for can't, and are never sampled: they are left out.
    """
    chat = ChatTemplate(settings.system_prompt) if settings.chat_template else None
    codec = Codec(load_tokenizer(settings), declared_eos(model), chat)
    rows = model.get_input_embeddings().num_embeddings
    known = tuple(token for token in codec.eos if token < rows)
    if not known:
        raise UserError(
            f"model.path={settings.path}: the EOS token has the id {codec.eos[0]}, the model embeds {rows} tokens; "
            "resize its embeddings (resize_token_embeddings) and save it"
        )
    codec.eos = known
    model.generation_config.eos_token_id = list(known)
    return codec


def fuse_activations(model: Any) -> None:
    """Replace GPT-2's GELU, written out in eight elementwise steps, by torch's one: equal up to float rounding."""
    for module in list(model.modules()):
        for name, part in module.named_children():
            if isinstance(part, NewGELUActivation | FastGELUActivation):
                setattr(module, name, GELU(approximate="tanh"))
