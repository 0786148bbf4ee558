"""The environment of a run: versions, commit, host and device, for status.json. Imports nothing heavy."""

import os
import platform
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

_PACKAGES = (
    "pgsrm",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "gensim",
    "hydra-core",
    "mlflow",
    "submitit",
)


def environment(device: str) -> dict[str, Any]:
    """The fields versions, commit, device, threads, pid, host and job (Slurm's, else null) of status.json.

    Args:
        device: as torch names it, `cpu` or `cuda:0`; a GPU's product name is added where torch is loaded.
    """
    torch = sys.modules.get("torch")
    if torch is not None and device.startswith("cuda"):
        device = f"{device} ({torch.cuda.get_device_name(device)})"
    return {
        "versions": versions(),
        "commit": commit(),
        "device": device,
        "threads": torch.get_num_threads() if torch is not None else None,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "job": slurm_job(),
    }


def slurm_job() -> str | None:
    """The Slurm job that this process is part of, if any: 12, or 12_3 for a task of an array, as squeue shows it."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID")


def versions() -> dict[str, str]:
    """Package -> version of Python and of what is installed among the packages that change results."""
    from importlib.metadata import PackageNotFoundError, version  # a run's process alone asks

    installed = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


def commit() -> str | None:
    """The commit of the checkout that this package lies in, with `-dirty` after local changes, else None."""
    checkout = Path(__file__).resolve().parents[2]
    # An installed package may lie in somebody else's checkout, whose commit says nothing about it.
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
