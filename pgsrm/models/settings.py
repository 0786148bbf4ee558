"""The `model` config group, checked without loading anything: what must answer within a second imports no torch."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from pgsrm.models.digest import TEMPLATES, hub_commit, model_digest
from pgsrm.models.download import PUBLISHED, is_downloaded, model_folder
from pgsrm.models.gguf_file import check_file
from pgsrm.models.hub import hub_problem
from pgsrm.util.errors import UserError, reason
from pgsrm.util.paths import PACKAGE, local_path

SHIPPED = PACKAGE / "nano" / "weights"
# Shipped models by the names that model.path takes, besides nano itself.
NAMED_MODELS = {f"nano_{name}": PACKAGE / "nano" / name for name in ("1x64", "2x96", "both")}
Dtype = Literal["float32", "tfloat32", "bfloat16"]
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

    # A folder in the hub's layout, a GGUF file, a hub name (gpt2, gpt2-large, org/name), the name of a model that
    # `python -m pgsrm.models download` fetches (smollm2), or null: the shipped nano.
    path: str | None = None
    # Git revision of a hub model; null = its main branch.
    revision: str | None = None
    # Type of the arithmetic; weights and optimiser stay float32, or small steps would be rounded away. tfloat32: float32 whose
    # products an NVIDIA GPU makes of factors with fewer digits, and sooner.
    dtype: Dtype = "float32"
    # auto (a GPU if there is one), cpu, cuda, cuda:1 ... (not mps: sampling adds up in float64)
    device: str = "auto"
    # Whether layers are computed again in the backward pass instead of kept (memory). Results are equal up to rounding.
    gradient_checkpointing: bool = False
    # Whether weights, gradients and optimiser states are divided among the run's processes (memory), by torch's FSDP.
    shard: bool = False
    # How the model computes: fast shares work among prompts and responses, simple makes whole forward passes and takes any
    # causal model; graphed: on an NVIDIA GPU, as CUDA graphs, for models that are computed sooner than launched; auto: the one that
    # suits the model (docs/fast-path.md). Results are equal up to rounding (but for ppo.dropout's masks).
    policy: Literal["auto", "fast", "simple", "graphed"] = "auto"
    # Low-rank adapters instead of all weights (memory); null = all weights are trained.
    lora: LoraSettings | None = None
    # Whether a prompt is put into the model's chat template, as the user's message, with the beginning of an answer behind it.
    chat_template: bool = False
    # The system's message in that template; null = none, or what the template has by itself.
    system_prompt: Annotated[str, Meta(min_length=1)] | None = None


def local_files(path: str | None, key: str = "model.path") -> Path | None:
    """Where the files of a model are on this machine: a folder in the hub's layout or a GGUF file; None for a hub name.

    All that reads a model's files finds them by this. What is returned need not exist.

    Raises:
        UserError: for the name of a published or shipped model that a folder here has too.
    """
    if path is None:
        return SHIPPED
    place = local_path(path, key)
    if path in PUBLISHED or path in NAMED_MODELS:
        if (place / "config.json").is_file():
            kind = "published" if path in PUBLISHED else "shipped"
            raise UserError(
                f"{key}={path}: is a folder here and the name of a {kind} model; give the folder's absolute path, or rename it"
            )
        return NAMED_MODELS.get(path) or model_folder(path)
    is_path = path.count("/") > 1 or path.startswith((".", "/", "~")) or place.suffix == ".gguf" or place.exists()
    return place if is_path else None


def is_gguf(files: Path) -> bool:
    """Whether `local_files` are a GGUF file, and no folder."""
    return files.suffix == ".gguf" and not files.is_dir()


def check_device(name: str, key: str = "model.device") -> None:
    """Raise UserError unless this could be a device's name; whether it is there, `resolve_device` sees where it is used."""
    if not re.fullmatch(r"auto|(cpu|cuda|xpu)(:\d+)?", name):
        raise UserError(f"{key}={name}: not a device; use auto, cpu, cuda or cuda:1")


def check_model(settings: ModelSettings) -> None:
    """Raise UserError unless `model.path` is a folder or file with a model, or a hub model whose config can be had.

    And unless the library is there that `model.lora` needs. Whether a device is there is seen on the machine that trains
    (`resolve_device`), its name here.
    """
    check_device(settings.device)
    _check_computation(settings)
    if settings.lora is not None:
        check_peft()
    if settings.system_prompt is not None and not settings.chat_template:
        raise UserError("model.system_prompt: only a chat template has room for it; set model.chat_template=true")
    path, files = settings.path, local_files(settings.path)
    if files is None:
        _check_hub(settings)
    elif path in PUBLISHED and not is_downloaded(files):
        raise UserError(
            f"model.path={path}: not on this machine yet; fetch it once: python -m pgsrm.models download {path}"
        )
    elif is_gguf(files) and files.exists():
        check_file(files, f"model.path={path}")
    elif files.is_dir():
        _check_folder(files, settings)
    else:
        kind = "file" if is_gguf(files) else "folder"
        raise UserError(
            f"model.path={path}: no such {kind}; name a folder in the hub's layout, a GGUF file or a hub model"
        )


def _check_computation(settings: ModelSettings) -> None:
    """Raise UserError where keys ask for what is not there together; `auto` is seen where it is resolved."""
    on_gpu = settings.device == "auto" or settings.device.startswith("cuda")
    if settings.dtype == "tfloat32" and not on_gpu:
        raise UserError(
            f"model.dtype=tfloat32: only NVIDIA GPUs have it, model.device={settings.device}; set model.dtype=float32"
        )
    if settings.policy != "graphed":
        return
    if not on_gpu:
        raise UserError(
            f"model.policy=graphed: needs an NVIDIA GPU, model.device={settings.device}; set model.policy=auto"
        )
    for key in ("gradient_checkpointing", "shard"):
        if getattr(settings, key):
            raise UserError(f"model.policy=graphed: has no model.{key}=true; set model.policy=fast")


def _check_folder(folder: Path, settings: ModelSettings) -> None:
    where = f"model.path={settings.path}"
    if not (folder / "config.json").is_file():
        files = sorted(file.name for file in folder.glob("*.gguf"))
        remedy = f"name the GGUF file itself ({files[0]})" if files else "name one in the hub's layout"
        if (folder / "model/config.json").is_file():
            remedy = f"of a run, name {settings.path}/model, or its best/"
        raise UserError(f"{where}: the folder has no config.json; {remedy}")
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{where}: the folder has no *.safetensors; save with save_pretrained")
    if not any(file for pattern in TOKENIZER_FILES for file in folder.glob(pattern)):
        # transformers would make up an empty one
        raise UserError(f"{where}: the folder has no tokenizer; save one there with save_pretrained")
    if settings.chat_template and not _has_chat_template(folder):
        raise UserError(
            f"model.chat_template=true: {where} has no chat template; leave it out, or save one with the tokenizer"
        )


def _has_chat_template(folder: Path) -> bool:
    if any(folder.glob("chat_template.*")) or (folder / TEMPLATES).is_dir():
        return True
    try:
        config = json.loads((folder / "tokenizer_config.json").read_bytes())
    except (OSError, ValueError):
        return False
    return bool(isinstance(config, dict) and config.get("chat_template"))


def _check_hub(settings: ModelSettings) -> None:
    from huggingface_hub import hf_hub_download

    path: Any = settings.path
    problem = hub_problem()
    try:
        hf_hub_download(path, "config.json", revision=settings.revision, etag_timeout=5, local_files_only=bool(problem))
    except Exception as error:  # the hub client raises its own, requests' and OSError alike
        raise UserError(
            f"model.path={path}: neither a folder nor a model that the hub gives ({problem or reason(error)}); "
            "check the name and the network, or name a folder in the hub's layout"
        ) from error


def identify_model(settings: ModelSettings) -> list[str | None]:
    """What a run's identity says of its model: the content of a folder or GGUF file, a hub model's name and commit."""
    files = local_files(settings.path)
    if files is not None:
        return [model_digest(files)]
    assert settings.path is not None
    return [settings.path, hub_commit(settings.path, settings.revision) or settings.revision]


def check_peft() -> None:
    """Raise UserError unless the `peft` library is installed."""
    if find_spec("peft") is None:
        raise UserError("model.lora: needs the peft library; install it with: pip install peft")


@contextmanager
def named_as(key: str) -> Iterator[None]:
    """Errors of the `model` group under the names that its keys have in another: `key` is that group's for `model.path`."""
    try:
        yield
    except UserError as error:
        line = str(error).replace("model.path", key)
        raise UserError(re.sub(r"\bmodel\.(device|chat_template)\b", rf"{key.partition('.')[0]}.\1", line)) from error
