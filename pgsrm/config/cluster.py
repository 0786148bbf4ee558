"""The config groups `cluster` (where jobs run) and `resources` (how much each gets). Neither is part of a run's identity."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from pgsrm.util.errors import UserError
from pgsrm.util.numbers import Count

# Options of sbatch that have a key of their own, and those that a submission sets itself.
_OWN_KEYS = {
    "partition": "cluster.partition",
    "account": "cluster.account",
    "qos": "cluster.qos",
    "signal": "cluster.signal_seconds",
    "time": "resources.hours",
    "mem": "resources.memory_gb",
    "cpus-per-task": "resources.cpus",
    "gpus-per-node": "resources.gpus",
    "array": "hydra.launcher.slots",
    "job-name": None,
    "output": None,
    "error": None,
    "open-mode": None,
    "requeue": None,
    "no-requeue": None,
}

Name = Annotated[str, Meta(min_length=1, pattern=r"^\S+$", description="a name without spaces")]

GPUs = Annotated[str, Meta(pattern=r"^[\w.-]+:[1-9]\d*$", description="a number, or TYPE:NUMBER as in a100:1")]


class ClusterSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The `cluster` config group: where jobs run. null leaves a value to the cluster's own default."""

    # sbatch --partition.
    partition: Name | None = None
    # sbatch --account.
    account: Name | None = None
    # sbatch --qos.
    qos: Name | None = None
    # Lines of shell that each job runs first: module load ..., export ...
    setup: list[str] = []
    # Any other option of sbatch by its long name; true for an option without a value.
    sbatch: dict[str, Any] = {}
    # Most runs in one job array; null = as many as the cluster allows (scontrol show config).
    max_array_size: Count | None = None
    # Seconds between the warning that a job's time is over and its end: room for an update and a checkpoint.
    signal_seconds: Annotated[int, Meta(ge=1, le=65535)] = 120

    def check(self) -> None:
        """Raise UserError for an option of sbatch that is set elsewhere, or whose name or value can't be one."""
        for option, value in self.sbatch.items():
            if not isinstance(value, bool | int | float | str | None):
                raise UserError(
                    f"cluster.sbatch.{option}={value}: give one value, as sbatch takes it, or true for none"
                )
            name = option.replace("_", "-")
            if name in _OWN_KEYS:
                own = _OWN_KEYS[name]
                remedy = f"set {own} instead" if own else "every submission sets it itself; leave it out"
                raise UserError(f"cluster.sbatch.{option}={value}: {remedy}")
            if not name.replace("-", "").isalnum():
                raise UserError(f"cluster.sbatch.{option}: not an option's name; give it without dashes in front")


class ResourceSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The `resources` config group: how much one run gets. null leaves a value to the cluster's own default."""

    # Time limit of a job in hours; a run that needs longer resumes in its next job by itself.
    hours: Annotated[float, Meta(gt=0)] | None = None
    # Memory of the machine, in GiB.
    memory_gb: Annotated[float, Meta(gt=0)] | None = None
    # CPU cores, and threads of a run, divided among its processes.
    cpus: Count | None = None
    # GPUs: a number, or TYPE:NUMBER as in a100:1; 0 or null = none.
    gpus: Annotated[int, Meta(ge=0)] | GPUs | None = None


def sbatch_options(cluster: ClusterSettings, resources: ResourceSettings) -> dict[str, Any]:
    """Long option of sbatch -> value, of what is set; True stands for an option without a value."""
    options: dict[str, Any] = {
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "time": None if resources.hours is None else max(1, round(resources.hours * 60)),
        "mem": None if resources.memory_gb is None else f"{max(1, round(resources.memory_gb * 1024))}M",
        "cpus-per-task": resources.cpus,
        "gpus-per-node": resources.gpus or None,
        **{name.replace("_", "-"): value for name, value in cluster.sbatch.items()},
    }
    return {name: value for name, value in options.items() if value is not None and value is not False}
