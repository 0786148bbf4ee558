"""From a composed config to a run folder: checked, given an identity, and frozen before anything starts.

A run reads nothing but its folder's config.yaml, so that editing conf/ afterwards changes nothing for it. Its identity is
the hash of what decides its result; the same config therefore finds the same folder, whose run is skipped if it has
finished and goes on if it was cut off.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pgsrm.child.load import check_model
from pgsrm.errors import UserError
from pgsrm.record import RunFolder
from pgsrm.record.files import replace, writing
from pgsrm.settings import Settings, read_settings

NAMED = ("task", "reward", "model", "ppo")  # the config groups in a run's name


@dataclass(frozen=True)
class Plan:
    """One run to be: its folder (not yet made), its config with interpolations resolved, and its status fields."""

    folder: RunFolder
    config: dict[str, Any]
    updates: int
    identity: str
    variant: str

    def freeze(self, sweep: str | None = None) -> None:
        """Make the folder and write config.yaml, unless an earlier start did."""
        try:
            self.folder.create()
            if not self.folder.config.exists():
                with writing(self.folder.path):
                    replace(self.folder.config, OmegaConf.to_yaml(OmegaConf.create(self.config)).encode())
        except OSError as error:
            outputs = self.config["paths"]["outputs"]
            problem = f"paths.outputs={outputs}: can't be written ({error.strerror})"
            raise UserError(f"{problem}; name a folder that you may write to") from error
        if self.folder.status() is None:
            self.folder.write_status(
                state="waiting",
                reason=None,
                update=0,
                updates=self.updates,
                episodes=0,
                identity=self.identity,
                variant=self.variant,
                sweep=sweep,
                seconds=0.0,
            )


def plan(config: DictConfig, choices: dict[str, str]) -> Plan:
    """Check a composed config down to its data, and name its run.

    Raises:
        UserError: for the first thing that would not work.
    """
    settings = read_settings(config)
    check_model(settings.model)
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    frozen = _absolute_paths({str(key): value for key, value in plain.items()})
    task, reward = build_objects(frozen)
    if hasattr(reward, "check"):
        reward.check([example.reference for example in task.train + task.holdout])
    digest = task.digest
    identity, variant = _identity(frozen, digest, with_seed=True), _identity(frozen, digest, with_seed=False)
    frozen["choices"] = {group: choices[group] for group in sorted(choices)}
    name = "-".join([*(choices.get(group, "custom") for group in NAMED), f"s{settings.seed}", identity[:8]])
    folder = RunFolder(Path(settings.paths.outputs).absolute() / "runs" / name)
    return Plan(folder, frozen, settings.ppo.updates, identity, variant)


def build_objects(config: dict[str, Any]) -> tuple[Any, Any]:
    """The task (prompts, references, checker) and the reward of a resolved config; quick, models load at first use."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    from pgsrm.task import load_task

    task = load_task(config["task"], config["parent"]["references"])
    try:
        reward = instantiate(config["reward"])
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(f"reward: {config['reward']['_target_']} can't be made ({reason})") from error
    return task, reward


def load_settings(folder: RunFolder) -> tuple[Settings, dict[str, Any]]:
    """The settings and the plain config of a frozen run."""
    config = OmegaConf.load(folder.config)
    assert isinstance(config, DictConfig)
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    config.pop("choices")
    return read_settings(config), {str(key): value for key, value in plain.items()}


def _absolute_paths(config: dict[str, Any]) -> dict[str, Any]:
    """Paths that exist as given are made absolute, so that a run can go on from another working directory."""
    for section, key in (("task", "data"), ("parent", "references"), ("model", "path")):
        value = config[section].get(key)
        if value and Path(value).expanduser().exists():
            config[section][key] = str(Path(value).expanduser().absolute())
    config["paths"]["outputs"] = str(Path(config["paths"]["outputs"]).absolute())
    return config


def _identity(config: dict[str, Any], digest: str, with_seed: bool) -> str:
    """SHA-256 of what decides a run's numbers: prompts and references by content, not by file name.

    Left out: where it runs and writes (paths, tracking, checkpoints, device, threads), and what the parent is asked.
    """
    deciding = {
        "prompts": digest,
        "max_new_tokens": config["task"]["max_new_tokens"],
        "checker": config["task"]["checker"],
        "reward": config["reward"],
        "model": {key: value for key, value in config["model"].items() if key != "device"},
        "ppo": config["ppo"],
        "evaluation": config["evaluation"],
    }
    if with_seed:
        deciding["seed"] = config["seed"]
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()
