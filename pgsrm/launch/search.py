"""What Hydra's search sweepers (Optuna, Nevergrad, Ax) are told of a run: one number, the config's `objective`.

They call `launch` several times, each time with the runs that they chose by the results of those before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pgsrm.config.schema import check_metric
from pgsrm.launch.sweep import SweepFailed, print_where
from pgsrm.record import RunFolder
from pgsrm.record.summary import end_of_run_line, summarise
from pgsrm.record.tenths import course, tenth_bounds
from pgsrm.util.errors import UserError

if TYPE_CHECKING:  # a wrong value is told before what a plan needs is imported
    from hydra.core.config_loader import ConfigLoader
    from hydra.core.utils import JobReturn
    from omegaconf import DictConfig

    from pgsrm.config.plan import Plan

Judge = Callable[[RunFolder], str | None]  # why a search ends a run before its end; None: it goes on

_WHOLE_SWEEPS = ("hydra_plugins.pgsrm_sweeper.", "hydra._internal.core_plugins.basic_sweeper.")
_OURS = "hydra_plugins.pgsrm_"


def is_search(config: "DictConfig") -> bool:
    """Whether the sweeper of this composed config chooses its runs by the results of others."""
    return not str(config.hydra.sweeper._target_).startswith(_WHOLE_SWEEPS)


def searched_keys(config: "DictConfig") -> set[str]:
    """The keys that a search varies: those with several values on the command line or in `hydra.sweeper.params`."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    overrides = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
    swept = {override.key_or_group for override in overrides if override.is_sweep_override()}
    return swept | set(map(str, config.hydra.sweeper.get("params") or {}))


def launch(
    config_loader: "ConfigLoader",
    config: "DictConfig",
    jobs: Sequence[Sequence[str]],
    first: bool,
    sweep: Callable[[Sequence[Plan]], None],
    batch: Callable[[Sequence[Plan]], str | None],
    states: Callable[[list[RunFolder]], Callable[[RunFolder], str]],
    pruned: Judge | None = None,
) -> "list[JobReturn]":
    """Plan the runs of one call of Hydra to a launcher, and train them; in a search, what each came to.

    Args:
        config_loader: Hydra's, which composed `config`.
        config: the sweep's.
        jobs: one list of overrides for each run.
        first: whether this is the sweeper's first call.
        sweep: trains a whole sweep.
        batch: trains what a search tries next, waits for its end, and returns MLflow's experiment.
        states: of these folders, as they are after the batch.
        pruned: says of a run that the search gives it up.

    Raises:
        UserError: an override is wrong; no run has started then.
        SweepFailed: a run failed or was stopped.
    """
    from pgsrm.config.compose import Composer

    composer = Composer(config_loader, config)
    if not is_search(config):
        sweep(composer.plans(jobs))
        return []
    plans = composer.plans(jobs, named=searched_keys(config))
    report_batch(plans, config, first, batch(plans))
    return results(plans, jobs, states([plan.folder for plan in plans]), pruned)


def check_search(plans: Sequence[Plan]) -> None:
    """Raise UserError, before anything is trained, for a search that could not learn what its runs came to."""
    for settings in (plan.settings for plan in plans):
        if settings.dry_run:
            raise UserError(
                "dry_run=true: a search chooses its runs by the results of those before, so there is no list of them to "
                "show; leave it out"
            )
        check_metric(settings, "objective", settings.objective)


def check_waits(wait: bool) -> None:
    """Raise UserError for a launcher that returns before its runs have ended."""
    if not wait:
        raise UserError(
            "hydra/launcher=slurm: returns when the jobs are submitted, and a search needs their results to choose the "
            "next ones; add hydra.launcher.wait=true"
        )


def objective(folder: RunFolder, metric: str) -> float:
    """What a finished run came to; NaN if it diverged.

    As in status and report: of a metric in eval/ the last evaluation's value, of any other the mean over the last tenth of the
    run's updates.

    Raises:
        UserError: the run has no such metric.
    """
    rows = folder.read_metrics()
    values = {int(row["update"]): row[metric] for row in rows if isinstance(row.get(metric), int | float)}
    if not values:
        names = sorted({name for row in rows for name in row} - {"update", "episodes"})
        raise UserError(f"objective={metric}: {folder.name} has no such metric; there are {', '.join(names)}")
    if metric.startswith("eval/"):
        return values[max(values)]
    after, until = tenth_bounds(course(folder.status() or {}) or max(values))[-1]
    last = [value for update, value in values.items() if after < update <= until]
    return math.fsum(last) / len(last) if last else math.nan


def intermediate(folder: RunFolder, metric: str) -> dict[int, float]:
    """What a run has come to so far: episodes -> value, for the evaluations or the whole tenths of `objective`'s metric."""
    rows = [row for row in folder.read_metrics() if isinstance(row.get(metric), int | float)]
    if metric.startswith("eval/"):
        return {int(row["episodes"]): row[metric] for row in rows}
    means: dict[int, float] = {}
    for after, until in tenth_bounds(course(folder.status() or {})):
        tenth = [row for row in rows if after < row["update"] <= until]
        if tenth and tenth[-1]["update"] == until:
            means[int(tenth[-1]["episodes"])] = math.fsum(row[metric] for row in tenth) / len(tenth)
    return means


class Pruned(UserError):
    """A run that the search gave up for what it had come to so far."""


def results(
    plans: Sequence[Plan],
    jobs: Sequence[Sequence[str]],
    state_of: Callable[[RunFolder], str],
    pruned: Judge | None = None,
) -> "list[JobReturn]":
    """What each run of a batch came to, as Hydra hands it to the sweeper; a run that failed or diverged has an error there.

    A run that `pruned` gives up has `Pruned` there, also where it ended before it was noticed: how often a machine looks must
    not decide what a search finds.

    Raises:
        SweepFailed: runs were stopped, or others train them; the same command resumes the search.
    """
    given_up = {plan.folder.path: None if pruned is None else pruned(plan.folder) for plan in plans}
    for folder in (plan.folder for plan in plans if not given_up[plan.folder.path]):
        state = state_of(folder)
        if state in ("stopped", "waiting"):
            raise SweepFailed(f"{folder.name}: {state}; the same command resumes the search")
        if state in ("running", "queued"):
            raise SweepFailed(
                f"{folder.name}: {state}, started by another command; wait for it, then give this one again"
            )
    return [
        _result(plan, job, state_of(plan.folder), given_up[plan.folder.path])
        for plan, job in zip(plans, jobs, strict=True)
    ]


def _result(plan: Plan, job: Sequence[str], state: str, pruned: str | None) -> "JobReturn":
    from hydra.core.utils import JobReturn, JobStatus

    outcome, metric = JobReturn(overrides=list(job), status=JobStatus.FAILED), plan.settings.objective
    outcome.working_dir = str(plan.folder.path)
    if pruned:
        outcome.return_value = Pruned(pruned)
        return outcome
    if state != "finished":
        reason = (plan.folder.status() or {}).get("reason") or state
        outcome.return_value = UserError(f"{plan.folder.name}: {reason}")
        return outcome
    value = objective(plan.folder, metric)
    if not math.isfinite(value):
        outcome.return_value = UserError(f"{plan.folder.name}: {metric} is {value}")
        return outcome
    outcome.status, outcome.return_value = JobStatus.COMPLETED, value
    return outcome


def report_batch(plans: Sequence[Plan], config: "DictConfig", first: bool, experiment: str | None) -> None:
    """What another's sweeper does not say: a line for each run of a batch and, before the first batch's, where everything is.

    Sweepers of this package say both themselves.
    """
    if str(config.hydra.sweeper._target_).startswith(_OURS):
        return
    if first:
        print_where(plans[0].config, experiment)
    for path in dict.fromkeys(plan.folder.path for plan in plans):
        print(end_of_run_line(summarise(RunFolder(path))), flush=True)
