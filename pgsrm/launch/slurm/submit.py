"""Frozen runs -> job arrays, through submitit. A task of an array trains the run of one folder."""

from __future__ import annotations

import contextlib
import io
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from pgsrm.config.cluster import ClusterSettings, sbatch_options
from pgsrm.launch.slurm.job import TrainRun
from pgsrm.launch.slurm.queue import Job
from pgsrm.util.errors import UserError

if TYPE_CHECKING:  # a wrong value is told before what a plan needs is imported
    from pgsrm.config.plan import Plan

# A warning while Python starts would kill the job, and a job that has ended is not requeued. Ignored, it is followed by
# Slurm's own requeueing; the job's own handlers take over as soon as they are there.
_PYTHON = shlex.join(["bash", "-c", 'trap "" USR2 TERM; exec "$0" "$@"', sys.executable])
_UNLIMITED = 10**9  # submitit would count time-outs, and tasks at a time


# What a job's processes inherit and a submission must not pass on: sbatch would take it for options, the new job's
# processes for their own. Kept: what says which cluster to speak to.
_OF_A_JOB = (
    "SLURM",
    "SUBMITIT_",
    "PMI_",
    "PMIX_",
    "CUDA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
)
_OF_THE_CLUSTER = {"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_TIME_FORMAT"}


@contextlib.contextmanager
def outside_a_job() -> Iterator[None]:
    """The environment as it would be on a login node, for submitting from within a job, as from an interactive one."""
    inherited = {}
    if "SLURM_JOB_ID" in os.environ:
        names = [name for name in os.environ if name.startswith(_OF_A_JOB) and name not in _OF_THE_CLUSTER]
        inherited = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(inherited)


def check_cluster(plans: Sequence[Plan]) -> None:
    """Ask sbatch, before anything is written, whether it would take the jobs.

    Raises:
        UserError: there is no Slurm here, or it refuses partition, account, resources or an option.
    """
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise UserError(
            "hydra/launcher=slurm: there is no sbatch on this machine; start the sweep on a login node of the cluster, "
            "or leave the launcher out to train here"
        )
    for group in _alike(plans):
        settings = group[0].settings
        options = sbatch_options(settings.cluster, settings.resources)
        flags = [f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()]
        with outside_a_job():
            done = subprocess.run(["sbatch", "--test-only", *flags, "--wrap=true"], capture_output=True, text=True)
        if done.returncode != 0:
            reason = _reason(done.stderr)
            away = "slurm controller" in reason.lower()  # it does not answer: nothing is wrong with the options
            remedy = "the same command tries again" if away else "correct cluster or resources"
            raise UserError(f"sbatch {' '.join(flags)}: {reason}; {remedy}")


def submit(plans: Sequence[Plan], slots: int | None) -> list[str]:
    """Submit frozen runs, those of equal cluster and resources in arrays; returns the ids of the jobs.

    `slots` runs at a time, divided among the arrays; None for as many as the cluster lets run.

    Raises:
        UserError: sbatch refused an array; those before it are submitted.
    """
    arrays = [array for group in _alike(plans) for array in _split(group, _limit(group[0].settings.cluster))]
    share = _UNLIMITED if slots is None else max(1, slots // len(arrays))
    ids: list[str] = []
    for array in arrays:
        try:
            ids.append(_submit_array(array, share))
        except UserError as error:
            submitted = sum(map(len, arrays[: len(ids)]))
            raise UserError(
                f"{error}; {submitted} of {len(plans)} runs are submitted{' as ' if ids else ''}{', '.join(ids)}, "
                "the same command submits the others"
            ) from error
    return ids


def _alike(plans: Iterable[Plan]) -> list[list[Plan]]:
    """Plans in groups of equal cluster, resources and processes: an array has one set of options."""
    groups: dict[bytes, list[Plan]] = {}
    for plan in plans:
        key = msgspec.json.encode([plan.settings.cluster, plan.settings.resources, plan.settings.processes])
        groups.setdefault(key, []).append(plan)
    return list(groups.values())


def _split(plans: Sequence[Plan], size: int) -> list[Sequence[Plan]]:
    return [plans[start : start + size] for start in range(0, len(plans), size)]


def _limit(cluster: ClusterSettings) -> int:
    """Most tasks of one array: MaxArraySize, which is one above the largest index."""
    if cluster.max_array_size is not None:
        return cluster.max_array_size
    done = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True)
    limit = re.search(r"^MaxArraySize\s*=\s*(\d+)", done.stdout, re.MULTILINE)
    if limit is None:
        raise UserError(f"scontrol show config: no MaxArraySize ({_reason(done.stderr)}); set cluster.max_array_size")
    return int(limit[1])


def _submit_array(plans: Sequence[Plan], at_a_time: int) -> str:
    """One call of sbatch; each run's job.json is there before it, and has the id after it."""
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    name = f"pgsrm-{secrets.token_hex(4)}"
    logs = Path(plans[0].config["paths"]["outputs"]) / "slurm" / name
    logs.mkdir(parents=True, exist_ok=True)
    executor = SlurmExecutor(folder=logs, max_num_timeout=_UNLIMITED, python=_PYTHON)
    executor.update_parameters(**_parameters(plans[0], name), array_parallelism=at_a_time)
    alone = len(plans) == 1
    now = datetime.now(UTC).isoformat(timespec="seconds")
    jobs = [Job(name, None if alone else index, None, str(logs), now) for index in range(len(plans))]
    for plan, job in zip(plans, jobs, strict=True):
        job.write(plan.folder)
    try:
        # submitit prints what it then raises
        with contextlib.redirect_stderr(io.StringIO()), outside_a_job(), executor.batch():
            submitted = [
                executor.submit(TrainRun(str(plan.folder.path), plan.settings.cluster.signal_seconds)) for plan in plans
            ]
    except (FailedJobError, FailedSubmissionError, OSError) as error:
        raise UserError(f"sbatch: {_reason(str(error))}") from error
    for plan, job, submission in zip(plans, jobs, submitted, strict=True):
        msgspec.structs.replace(job, id=submission.job_id).write(plan.folder)
    return submitted[0].job_id.partition("_")[0]


def _parameters(plan: Plan, name: str) -> dict[str, Any]:
    """What submitit's executor is given. Options go through as sbatch names them."""
    cluster, resources = plan.settings.cluster, plan.settings.resources
    setup, srun = list(cluster.setup), []
    if resources.cpus is not None:
        threads = max(1, resources.cpus // plan.settings.processes)
        setup.append(f"export OMP_NUM_THREADS={threads} MKL_NUM_THREADS={threads}")
        srun.append(f"--cpus-per-task={resources.cpus}")  # since Slurm 22.05 it does not inherit sbatch's
    return {
        "job_name": name,
        "time": None,  # sbatch's own default instead of submitit's five minutes
        "wckey": None,  # submitit's own, which a cluster that keeps such keys would refuse
        "signal_delay_s": cluster.signal_seconds,
        "setup": setup,
        "srun_args": srun,
        "stderr_to_stdout": True,
        "additional_parameters": {**sbatch_options(cluster, resources), "requeue": True},
    }


def _reason(stderr: str) -> str:
    """The line of sbatch's that says why: the last one, without its prefix."""
    lines = [line for line in stderr.strip().splitlines() if not line.startswith("Try ")] or ["no reason given"]
    return re.sub(r"^(sbatch: )?(error: )?(allocation failure: )?", "", lines[-1])
