"""A sweep as Slurm jobs: submitted, or also watched to its end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pgsrm.launch.search import check_search, check_waits
from pgsrm.launch.slurm.queue import Queue
from pgsrm.launch.slurm.submit import check_cluster, submit
from pgsrm.launch.sweep import (
    freeze,
    launching,
    outputs_of,
    prepare_tracking,
    print_where,
    report,
    send_the_rest,
    survey,
)
from pgsrm.record import RunFolder
from pgsrm.record.mlflow_store import is_sqlite
from pgsrm.util.numbers import counted
from pgsrm.util.shell import python, quoted

if TYPE_CHECKING:  # a wrong value is told before what a plan needs is imported
    from pgsrm.config.plan import Plan

POLL_SECONDS = 15.0  # between two questions to Slurm's controller, which all users share


def run_sweep(plans: Sequence[Plan], slots: int | None, wait: bool, retry_failed: bool = True) -> None:
    """Freeze and submit the runs that are neither finished nor queued; with `wait` show them until all jobs have ended.

    Raises:
        UserError: Slurm refuses the jobs.
        SweepFailed: with `wait`, when a run failed or was cut off.
    """
    if plans[0].settings.dry_run:
        surveyed = survey(plans, retry_failed)
        check_cluster(surveyed.to_start)
        print(surveyed.lines(), flush=True)
        return
    check_cluster(plans)
    with launching(outputs_of(plans)):
        surveyed = survey(plans, retry_failed)
        print(surveyed.line(), flush=True)
        freeze(surveyed.to_start)
        ids = submit(surveyed.to_start, slots) if surveyed.to_start else []
    if ids:
        print(
            f"submitted {counted(len(surveyed.to_start), 'run')}: job{'s' if len(ids) > 1 else ''} {', '.join(ids)}",
            flush=True,
        )
    tracking = plans[0].config["tracking"]
    if wait:
        _watch([plan.folder for plan in surveyed.plans])
        experiment = prepare_tracking(tracking)
        if experiment is not None:
            send_the_rest([plan.folder for plan in surveyed.plans])
        report(surveyed.plans, experiment)
        return
    print(f"status: {_command('status', plans)}")
    if is_sqlite(tracking):  # no job touches such a file: they run on several machines
        print(f"to MLflow, now and then: {_command('sync', plans)}", flush=True)
    else:
        print_where(plans[0].config, prepare_tracking(tracking))


def run_batch(plans: Sequence[Plan], slots: int | None, wait: bool, retry_failed: bool = True) -> str | None:
    """The runs that a search tries next: submit them and wait for their end; MLflow's experiment.

    Raises:
        UserError: the launcher is not to wait, or Slurm refuses the jobs.
    """
    check_waits(wait)
    check_search(plans)
    check_cluster(plans)
    with launching(outputs_of(plans)):
        surveyed = survey(plans, retry_failed)
        freeze(surveyed.to_start)
        if surveyed.to_start:
            submit(surveyed.to_start, slots)
    folders = [plan.folder for plan in surveyed.plans]
    _watch(folders)
    experiment = prepare_tracking(plans[0].config["tracking"])
    if experiment is not None:
        send_the_rest(folders)
    return experiment


def _command(module: str, plans: Sequence[Plan]) -> str:
    return f"{python()} -m pgsrm.{module} {quoted(str(outputs_of(plans)))}"


def _watch(folders: Sequence[RunFolder]) -> None:
    """The live table, until no job is left. Ctrl-C ends the watching; the jobs go on."""
    from pgsrm.record.progress import SweepTable

    queue = Queue.ask(folders)
    asked = time.monotonic()
    with SweepTable(folders, state=lambda folder: queue.state(folder)) as table:
        while any(queue.state(folder) in ("queued", "running") for folder in folders):
            time.sleep(1)
            if time.monotonic() - asked > POLL_SECONDS:
                queue, asked = Queue.ask(folders), time.monotonic()
            table.refresh()
