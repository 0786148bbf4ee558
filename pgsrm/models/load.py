"""Loading a child: the shipped nano, a folder in the hub's layout, or a model of the hub by name."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from pgsrm.models.lora import LoraSettings, check_peft
from pgsrm.models.precision import attend_in_float32
from pgsrm.util.digest import content_digest
from pgsrm.util.errors import UserError
from pgsrm.util.paths import PACKAGE

if TYPE_CHECKING:
    import torch

SHIPPED = PACKAGE / "nano" / "weights"


class ModelSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The `model` config group."""

    # A folder in the hub's layout, a hub name (gpt2, gpt2-large, org/name), or null: the shipped nano.
    path: str | None = None
    # Git revision of a hub model; null = its main branch.
    revision: str | None = None
    # Type of the arithmetic; weights and optimiser stay float32, or small steps would be rounded away.
    dtype: Literal["float32", "bfloat16"] = "float32"
    # auto (a GPU if there is one), cpu, cuda, cuda:1 ... (not mps: sampling adds up in float64)
    device: str = "auto"
    # Whether layers are computed again in the backward pass instead of kept (memory). Results are equal up to rounding.
    gradient_checkpointing: bool = False
    # Whether weights, gradients and optimiser states are divided among the run's processes (memory), by torch's FSDP.
    shard: bool = False
    # Low-rank adapters instead of all weights (memory); null = all weights are trained.
    lora: LoraSettings | None = None


def check_model(settings: ModelSettings) -> None:
    """Raise UserError unless `model.path` is a folder with a model or a hub model whose config can be had.

    And unless the library is there that `model.lora` needs. Whether a device is there is seen on the machine that trains
    (`resolve_device`), its name here.
    """
    if not re.fullmatch(r"auto|(cpu|cuda|xpu)(:\d+)?", settings.device):
        raise UserError(f"model.device={settings.device}: not a device; use auto, cpu, cuda or cuda:1")
    if settings.lora is not None:
        check_peft()
    path = settings.path
    if path is None:
        return
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"model.path={path}: the folder has no config.json; name one in the hub's layout")
        if not any(folder.glob("*.safetensors")):
            raise UserError(f"model.path={path}: the folder has no *.safetensors; save with save_pretrained")
        return
    if path.count("/") > 1 or path.startswith((".", "/", "~")) or folder.exists():
        raise UserError(f"model.path={path}: no such folder; name a folder in the hub's layout or a hub model")
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(path, "config.json", revision=settings.revision, etag_timeout=5)
    except Exception as error:  # the hub client raises its own, requests' and OSError alike
        reason = str(error).strip().splitlines()[0][:120]
        raise UserError(
            f"model.path={path}: neither a folder nor a model that the hub gives ({reason}); "
            "check the name and the network, or name a folder in the hub's layout"
        ) from error


def weights_digest(settings: ModelSettings) -> str | None:
    """Hash of a local model's weights and tokenizer; None for a hub model, which its name and revision identify."""
    folder = Path(settings.path or SHIPPED).expanduser()
    if not folder.is_dir():
        return None
    return content_digest([*folder.glob("*.safetensors"), *folder.glob("tokenizer.json"), folder / "config.json"])


def resolve_device(name: str) -> "torch.device":
    """The device that `model.device` names; raises UserError where this machine has none such."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"model.device={name}: this machine has no such device; use auto or cpu") from error


def load_tokenizer(settings: ModelSettings) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(settings.path or SHIPPED, revision=settings.revision or "main")


def load_model(settings: ModelSettings, device: "torch.device") -> Any:
    """A causal language model in eval mode, without its own generation defaults.

    A model brings sampling settings of its own (temperature, top_k); they would come between the sampled and the scored
    distribution, and this package samples by itself.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.utils import logging

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
    model.generation_config = GenerationConfig(
        bos_token_id=model.config.bos_token_id, eos_token_id=model.config.eos_token_id
    )
    fuse_activations(model)
    if settings.dtype == "bfloat16" and device.type == "cpu":
        attend_in_float32(model)
    return model.to(device).eval()


def fuse_activations(model: Any) -> None:
    """Replace GPT-2's GELU, written out in eight elementwise steps, by torch's one: equal up to float rounding."""
    from torch.nn import GELU
    from transformers.activations import FastGELUActivation, NewGELUActivation

    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation | FastGELUActivation):
                setattr(module, name, GELU(approximate="tanh"))
