"""Loading a model and its tokenizer: the shipped nano, a folder in the hub's layout, or a model of the hub by name."""

from typing import Any

import torch
from safetensors import SafetensorError
from torch.nn import GELU
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.activations import FastGELUActivation, NewGELUActivation
from transformers.utils import logging

from pgsrm.models.precision import attend_in_float32
from pgsrm.models.settings import SHIPPED, ModelSettings
from pgsrm.models.text import Codec
from pgsrm.util.errors import UserError


def resolve_device(name: str) -> torch.device:
    """The device that `model.device` names; raises UserError where this machine has none such."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"model.device={name}: this machine has no such device; use auto or cpu") from error


def load_tokenizer(settings: ModelSettings) -> Any:
    """The tokenizer beside a model; raises UserError where there is none."""
    try:
        return AutoTokenizer.from_pretrained(settings.path or SHIPPED, revision=settings.revision or "main")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise UserError(
            f"model.path={settings.path}: has no tokenizer that can be loaded ({reason}); "
            "save one there with save_pretrained"
        ) from error


def load_model(settings: ModelSettings, device: torch.device) -> Any:
    """A causal language model in eval mode, without its own generation defaults.

    A model brings sampling settings of its own (temperature, top_k); they would come between the sampled and the scored
    distribution, and this package samples by itself. What stays are the ids that end a response, all that are declared.
    """
    logging.disable_progress_bar()
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            settings.path or SHIPPED, revision=settings.revision or "main", dtype=torch.float32
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise UserError(
            f"model.path={settings.path}: can't be loaded ({reason}); name a causal language model"
        ) from error
    ends = declared_eos(model)
    model.generation_config = GenerationConfig(bos_token_id=model.config.bos_token_id, eos_token_id=ends or None)
    fuse_activations(model)
    if settings.dtype == "bfloat16" and device.type == "cpu":
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
    codec = Codec(load_tokenizer(settings), declared_eos(model))
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
