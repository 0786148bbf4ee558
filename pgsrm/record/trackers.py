"""Which trackers mirror a run's folder, and what each of them has of it."""

from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pgsrm.record.mirror import Mirror, has_all, remembered
from pgsrm.record.run_folder import RunFolder
from pgsrm.util.errors import UserError

MLFLOW = "mlflow"
# Tracker of the key `trackers` -> the package that it needs, which is also the name of the extra that brings it.
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}


def check_trackers(names: Collection[str]) -> None:
    """Raise UserError for a tracker whose package is not installed."""
    for name in names:
        if find_spec(PACKAGES[name]) is None:
            raise UserError(f"{name}: the package {PACKAGES[name]} is missing; pip install 'pgsrm[{name}]'")


def trackers_of(config: Mapping[str, Any]) -> list[str]:
    """The trackers of a run's config, MLflow first."""
    return [*([MLFLOW] if config.get("tracking") else []), *(config.get("trackers") or [])]


def is_complete(tracker: str, folder: RunFolder, config: Mapping[str, Any]) -> bool:
    """Whether the tracker has all of a run that has ended; else a mirror's `start` and `finish`, or `send_now`, send the rest."""
    if tracker == MLFLOW:
        from pgsrm.record.mlflow_mirror import is_complete

        return is_complete(folder, config["tracking"]["uri"])
    if tracker == "tensorboard" and not any(_tensorboard(folder).glob("events.out.tfevents.*")):
        return False
    return has_all(folder, remembered(folder.wandb if tracker == "wandb" else folder.tensorboard))


def make_mirror(tracker: str, folder: RunFolder, config: dict[str, Any]) -> Mirror:
    """The tracker's mirror of the folder, not started. `config` is the run's frozen one, its paths as they are now."""
    from pgsrm.record.params import run_params, run_tags

    status = folder.status() or {}
    name = status.get("label") or folder.name  # what differs first, for a narrow column
    params, outputs = run_params(config), folder.path.parent.parent
    if tracker == "tensorboard":
        from pgsrm.record.tensorboard_mirror import TensorboardMirror

        return TensorboardMirror(folder, _tensorboard(folder), params)
    if tracker == "wandb":
        from pgsrm.record.wandb_mirror import WandbMirror

        return WandbMirror(folder, outputs, name, status.get("sweep"), params)
    from pgsrm.record.mlflow_mirror import MlflowMirror

    tags = run_tags(config, status, str(folder.path.absolute()))
    return MlflowMirror(folder, config["tracking"], name, params, tags)


def _tensorboard(folder: RunFolder) -> Path:
    """Where the run's event files are."""
    return folder.path.parent.parent / "tensorboard" / folder.name
