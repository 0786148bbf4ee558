"""What an experiment's file says of it: its command, what it asks, what it sweeps. Files of conf/experiment/."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from pgsrm.util.paths import conf_folder

FOLDER = conf_folder() / "experiment"


@dataclass(frozen=True)
class ExperimentFile:
    """What a file of conf/experiment/ says: its `command`, the question that it `asks`, and the keys that it sweeps.

    `swept` leaves out seed, task and reward; its keys are named as in `Run.values`. Without a file there is the bare
    command alone.
    """

    command: str
    asks: str = ""
    swept: frozenset[str] = frozenset()


@functools.cache
def read_experiment(name: str) -> ExperimentFile:
    """The file of `experiment=name`: the comment at its top is the command, then what it asks."""
    import yaml  # type: ignore[import-untyped]

    bare = ExperimentFile(f"python -m pgsrm.run -m experiment={name}")
    try:
        text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):  # a user's own, kept elsewhere, or since edited
        return bare
    comments = [line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#")]
    commands = [line for line in comments if line.startswith("python ")]
    asks = [line for line in comments if line not in commands and not line.startswith("@package")]
    params = content
    for key in ("hydra", "sweeper", "params"):
        params = params.get(key) if isinstance(params, dict) else None
    swept = (key if "." in key else f"choices.{key}" for key in params or {} if key not in ("seed", "task", "reward"))
    return ExperimentFile(next(iter(commands), bare.command), " ".join(asks), frozenset(swept))
