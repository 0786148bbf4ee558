"""The `model` config group, checked without loading anything: what must answer within a second imports no torch."""

import re
from importlib.util import find_spec
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from pgsrm.models.digest import hub_commit, model_digest
from pgsrm.util.errors import UserError
from pgsrm.util.paths import PACKAGE, local_path

SHIPPED = PACKAGE / "nano" / "weights"
TOKENIZER_FILES = ("tokenizer*", "*.model", "vocab*", "*.tiktoken")  # any of them is one


class LoraSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The adapters: W x becomes W x + alpha / rank * B A x, with B zero at first."""

    # Rows of A and columns of B.
    rank: Annotated[int, Meta(ge=1)] = 8
    # Scale of what the adapters add, divided by the rank.
    alpha: Annotated[float, Meta(gt=0, lt=1e30)] = 16.0
    # Names of the layers that get adapters ([q_proj, v_proj]), or all-linear; null = peft's choice for the architecture.
    targets: list[str] | Literal["all-linear"] | None = None


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
    # How the model computes: fast shares work among prompts and responses, simple makes whole forward passes and takes any
    # causal model; auto: fast where the model suits it. Results are equal up to rounding (but for ppo.dropout's masks).
    policy: Literal["auto", "fast", "simple"] = "auto"
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
    folder = local_path(path, "model.path")
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"model.path={path}: the folder has no config.json; name one in the hub's layout")
        if not any(folder.glob("*.safetensors")):
            raise UserError(f"model.path={path}: the folder has no *.safetensors; save with save_pretrained")
        if not any(
            file for pattern in TOKENIZER_FILES for file in folder.glob(pattern)
        ):  # transformers would make up an empty one
            raise UserError(f"model.path={path}: the folder has no tokenizer; save one there with save_pretrained")
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


def identify_model(settings: ModelSettings) -> list[str | None]:
    """What a run's identity says of its model: a folder's content, a hub model's name and commit."""
    folder = local_path(settings.path or SHIPPED, "model.path")
    if folder.is_dir():
        return [model_digest(folder)]
    assert settings.path is not None
    return [settings.path, hub_commit(settings.path, settings.revision) or settings.revision]


def check_peft() -> None:
    """Raise UserError unless the `peft` library is installed."""
    if find_spec("peft") is None:
        raise UserError("model.lora: needs the peft library; install it with: pip install peft")
