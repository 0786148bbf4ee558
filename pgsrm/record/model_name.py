"""What the trained model and the reward are called, in names of runs, tables, legends and trackers: by what decides them."""

import functools
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from pgsrm.util.paths import conf_folder

_LONGEST = 40
# Choices of groups that runs of earlier versions did not have.
DEFAULTS = {"algorithm": "ppo"}


def model_name(config: Mapping[str, Any]) -> str:
    """The name of a composed config's model: its choice, or `path_name` where `model.path` is not the choice's own.

    So `model=hf model.path=org/tiny_llama` is called tiny_llama, and `model=gpt2_small model.path=null` nano. config: a
    resolved one with its `choices`. Of a choice in a folder of the user's own, what its file says is not known.
    """
    choice = str((config.get("choices") or {}).get("model", "custom"))
    model = config.get("model") or {}
    path = model.get("path")
    file = conf_folder() / "model" / f"{choice}.yaml"
    if "path" not in model or not file.is_file() or path == _own_path(choice, (config.get("task") or {}).get("paper")):
        return choice
    return "nano" if path is None else path_name(str(path))


def path_name(path: str) -> str:
    """A hub model, folder or GGUF file by the last part of its name that says something; safe in a shell, of bounded length."""
    parts = [part for part in PurePosixPath(path.rstrip("/")).parts if part not in ("/", "..")]
    name = parts[-1] if parts else path
    if name in ("model", "best") and len(parts) > 1:  # of a run that has finished
        name = parts[-2] if name == "model" else f"best_{parts[-2]}"
    return re.sub(r"[^\w.+=-]+", "_", name.removesuffix(".gguf"))[:_LONGEST] or "_"


def deciding_model(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a config's `model` that decide what it answers before training: not where and by which code it computes."""
    return {key: value for key, value in config["model"].items() if key not in ("device", "policy", "shard")}


def reward_name(config: Mapping[str, Any]) -> str:
    """The name of a composed config's reward: its choice, or its function or class where that is another than the choice's.

    So `reward=binary reward._target_=my_rewards.brevity` is called brevity, and so is a reward that is no choice's. config: with
    its `choices`. A choice in a folder of the user's own is called by its file.
    """
    choice = (config.get("choices") or {}).get("reward")
    reward = config.get("reward")
    target = reward.get("_target_") if isinstance(reward, Mapping) else None
    if not isinstance(target, str):
        return str(choice or "custom")
    shipped = _shipped_rewards()
    if choice is not None and (choice not in shipped or target == shipped[choice]):
        return str(choice)
    # Another name below pgsrm is what an earlier version called the same.
    is_another = choice is None or not target.startswith("pgsrm.") or target in shipped.values()
    return path_name(target.rpartition(".")[2]) if is_another else str(choice)


def shown_choices(config: Mapping[str, Any]) -> dict[str, str]:
    """The choice of each config group, the model and the reward by their names."""
    choices = {str(group): str(choice) for group, choice in (config.get("choices") or {}).items()}
    if not choices:
        return {}
    named = {"model": model_name(config)} if "model" in choices else {}
    if "reward" in choices or "reward" in config:
        named["reward"] = reward_name(config)
    return {**DEFAULTS, **choices, **named}


def algorithm_choice(choices: Mapping[str, str]) -> tuple[str, str]:
    """By which choice a run learns: `("ppo", "sound")`, or `("algorithm", "dpo")` where that is not PPO."""
    algorithm = choices.get("algorithm", DEFAULTS["algorithm"])
    if algorithm == DEFAULTS["algorithm"]:
        return "ppo", choices.get("ppo", "custom")
    return "algorithm", algorithm


def _own_path(choice: str, paper: Mapping[str, Any] | None) -> Any:
    """The `model.path` in a shipped choice's file; paper: the task's values of the paper, which one of them reads."""
    path = _written_path(choice)
    if isinstance(path, str) and path.startswith("${"):
        return (paper or {}).get("model", path.rpartition(",")[2].rstrip("}"))
    return path


@functools.lru_cache
def _written_path(choice: str) -> Any:
    import yaml  # type: ignore[import-untyped]

    written = yaml.safe_load((conf_folder() / "model" / f"{choice}.yaml").read_bytes())
    return written.get("model", written).get("path")


@functools.lru_cache
def _shipped_rewards() -> dict[str, str]:
    """The `_target_` of each shipped choice of `reward`. It is a line of its file: reading YAML takes a hundred times as long."""
    files = sorted((conf_folder() / "reward").glob("*.yaml"))
    found = {file.stem: re.search(r"^_target_: (\S+)", file.read_text(), re.MULTILINE) for file in files}
    return {name: match[1] for name, match in found.items() if match}
