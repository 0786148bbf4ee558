"""A search by Optuna: each trial is a run, and what the runs so far came to decides which values are tried next.

The study lies in optuna.db, beside the runs. A trial is there before its run starts and is told its result when the run has
ended, so that the same command resumes a search: runs that were cut off are resumed as the trials that they were, and nothing
that has finished is repeated. Hydra's own plugin (hydra-optuna-sweeper 1.3.0) needs an Optuna below 3, whose database breaks
with the SQLAlchemy that MLflow needs.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pgsrm.config.plan import Plan
from pgsrm.launch.search import Judge, Pruned, check_search, check_waits, intermediate
from pgsrm.launch.sweep import SweepFailed, outputs_of, prepare_tracking, print_where
from pgsrm.record import RunFolder
from pgsrm.record.mlflow_store import sqlite_uri
from pgsrm.record.summary import aligned
from pgsrm.util.errors import UserError
from pgsrm.util.numbers import counted, number_text

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from omegaconf import DictConfig
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, Trial

Launch = Callable[[Sequence[Sequence[str]], int, Judge | None], "Sequence[JobReturn]"]
_DIGITS = 4  # significant ones of a value that is tried, so that names and tables can be read
_SAMPLERS = ("TPESampler", "GPSampler", "CmaEsSampler", "RandomSampler")
_WORDS = "overrides"  # a trial's words for the command line, kept with it


@dataclass(frozen=True)
class Space:
    """The overrides that all trials share, and for each key that is searched where its values come from."""

    fixed: list[str]
    searched: "dict[str, BaseDistribution]"

    @classmethod
    def read(cls, overrides: Sequence[str]) -> Self:
        """From the words of a command line; of two for one key the later counts.

        Raises:
            UserError: nothing to search, or values that Optuna can't search.
        """
        from hydra.core.override_parser.overrides_parser import OverridesParser

        _import_optuna()
        parsed = {one.key_or_group: one for one in OverridesParser.create().parse_overrides(list(overrides))}
        fixed = [str(one.input_line) for one in parsed.values() if not one.is_sweep_override()]
        searched = {key: _distribution(one) for key, one in parsed.items() if one.is_sweep_override()}
        if not searched:
            raise UserError(
                "hydra/sweeper=search: nothing to search; give a key several values, as ppo.kl_coef=0.01,0.1 or "
                "'ppo.actor_lr=tag(log,interval(1e-5,1e-3))'"
            )
        return cls(fixed, searched)

    def words(self, values: "dict[str, Any]") -> list[str]:
        """The overrides of the run with these values."""
        return [*self.fixed, *(f"{key}={_text(values[key])}" for key in self.searched)]

    def corners(self) -> list[list[str]]:
        """Runs that have, taken together, each choice and each end of the intervals: what all trials lie between."""
        ends = {key: _ends(distribution) for key, distribution in self.searched.items()}
        count = max(map(len, ends.values()))
        return [
            self.words({key: values[place % len(values)] for key, values in ends.items()}) for place in range(count)
        ]

    def lines(self) -> list[str]:
        """`ppo.kl_coef: 0.01 to 0.1, by its logarithm`, a line a key."""
        return [f"  {key}: {_in_words(distribution)}" for key, distribution in self.searched.items()]


def search(
    space: Space,
    corners: Sequence[Plan],
    launch: Launch,
    *,
    trials: int,
    at_a_time: int,
    direction: str,
    sampler: str,
    seed: int,
    study_name: str | None,
    prune_after: int | None = None,
) -> None:
    """Train runs until there are `trials` of them with a result, and print what they came to, the best first.

    Args:
        space: what is searched.
        trials: runs in all, those of before included.
        at_a_time: runs of a batch.
        direction: maximize or minimize.
        sampler: a class of optuna.samplers.
        seed: of the sampler.
        study_name: its name in optuna.db; None for one of its own.
        corners: the plans of `space.corners()`: their identities are part of the study's name, so that other data, code or
            settings make another study.
        launch: trains the runs with these overrides, as the launchers do, and gives up those that a judge says.
        prune_after: trials with a result from which runs are given up that stand below their median; None: never.

    Raises:
        UserError: a sampler that is none, or a study of another space.
        SweepFailed: it was stopped, or no run has come to a result.
    """
    check_search(corners)
    metric = corners[0].settings.objective
    _make_sampler(sampler, seed)
    study = _open(outputs_of(corners), study_name or _name(space, corners, direction), space, direction)
    print(f"search: {direction} {metric} in {counted(trials, 'trial')}, {at_a_time} at a time, of")
    print("\n".join(space.lines()))
    print(f"study: {study.study_name} in {outputs_of(corners) / 'optuna.db'}, {_so_far(study)}", flush=True)
    while batch := _next_trials(
        study, space, trials, at_a_time, lambda number: _make_sampler(sampler, _seed(seed, number))
    ):
        jobs = [trial.user_attrs[_WORDS] for trial in batch]
        judge = None if prune_after is None else _median_rule(study, metric, prune_after)
        for trial, outcome in zip(batch, launch(jobs, batch[0].number, judge), strict=True):
            _tell(study, trial, outcome, space, metric)
        _stop_if_all_fail(study)
    print("\n".join(_table(study, space, metric, direction)))
    print(
        f"best of {counted(len(study.trials), 'trial')}: {metric}={_text(study.best_value)} with {_values(study.best_trial, space)}"
    )
    print_where(corners[0].config, prepare_tracking(corners[0].config["tracking"]))


def slots_of(config: "DictConfig", plan: Plan, trials: int) -> int:
    """How many trials the launcher of this config trains at a time.

    Raises:
        UserError: it is none of this package's, or does not say.
    """
    from pgsrm.launch.local import make_slots, visible_gpus

    launcher, slots = config.hydra.launcher, config.hydra.launcher.get("slots")
    name = config.hydra.runtime.choices["hydra/launcher"]
    if name not in ("local", "slurm"):
        raise UserError(f"hydra/launcher={name}: hydra/sweeper=search has the results of local and slurm alone")
    if name == "slurm":
        check_waits(launcher.wait)
        if slots is None:
            raise UserError(
                "hydra.launcher.slots=null: how many trials at a time? Fewer let each choose by more results"
            )
        return min(slots, trials)
    return len(make_slots([plan] * trials, slots, visible_gpus(), launcher.get("runs_per_gpu") or 1))


def check_can_prune(config: "DictConfig") -> None:
    """Raise UserError for a launcher that does not end a run for a search."""
    name = config.hydra.runtime.choices["hydra/launcher"]
    if name != "local":
        raise UserError(
            f"hydra.sweeper.prune=true: hydra/launcher={name} gives no run up; choose hydra/launcher=local, or "
            "hydra.sweeper.prune=false"
        )


def _median_rule(study: "Study", metric: str, after: int) -> Judge:
    """Optuna's MedianPruner, step by step through what a run has come to, in episodes.

    It compares with the trials that have a result. Those of the batch get theirs together, when all of its runs have ended: so
    no verdict depends on which of several runs is quicker, or on when somebody looks.
    """
    optuna = _import_optuna()
    pruner = optuna.pruners.MedianPruner(n_startup_trials=after)

    def judge(folder: RunFolder) -> str | None:
        seen: dict[int, float] = {}
        for step, value in sorted(intermediate(folder, metric).items()):
            seen[step] = value
            so_far = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, intermediate_values=dict(seen))
            if pruner.prune(study, so_far):
                return (
                    f"pruned by the search at {counted(step, 'episode')}: {metric}={_text(float(value))} and all before are "
                    "worse than the median of the other trials; its own command resumes it"
                )
        return None

    return judge


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UserError("hydra/sweeper=search: Optuna is not installed; pip install 'pgsrm[optuna]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _distribution(override: Any) -> "BaseDistribution":
    """What Hydra's grammar says of a key's values, as Optuna has it.

    interval(1,8) has all numbers between, int(interval(1,8)) the whole ones; tag(log,interval(...)) is searched by the
    logarithm; range(1,9,2) has the values that it has in a sweep.
    """
    from hydra.core.override_parser.types import Transformer
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    key, value = override.key_or_group, override.value()
    try:
        if override.is_interval_sweep():
            log = "log" in value.tags
            if isinstance(value.start, int) and isinstance(value.end, int):
                return IntDistribution(value.start, value.end, log=log)
            return FloatDistribution(float(value.start), float(value.end), log=log)
        choices = list(override.sweep_iterator(transformer=Transformer.encode))
        if override.is_range_sweep() and not value.shuffle and all(type(choice) is int for choice in choices):
            return IntDistribution(min(choices), max(choices), step=abs(int(value.step)))
    except ValueError as error:
        raise UserError(f"{override.input_line}: {error}; correct the ends") from error
    if len(set(choices)) < 2:
        raise UserError(f"{key}: one value is nothing to search; give several, or leave out the comma")
    return CategoricalDistribution([choice if isinstance(choice, str) else _text(choice) for choice in choices])


def _ends(distribution: "BaseDistribution") -> list[Any]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return [distribution.low, distribution.high]


def _in_words(distribution: "BaseDistribution") -> str:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(map(str, distribution.choices))
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    ends = f"{_text(distribution.low)} to {_text(distribution.high)}"
    step = distribution.step if isinstance(distribution, IntDistribution) and distribution.step > 1 else None
    kind = "whole numbers" if isinstance(distribution, IntDistribution) else "all between"
    return (
        f"{ends}, {kind}"
        + (f" in steps of {step}" if step else "")
        + (", by the logarithm" if distribution.log else "")
    )


def _text(value: Any) -> str:
    """A float stays one, with a point or an exponent: a key that takes whole numbers alone refuses it at the first look."""
    return number_text(float(f"{value:.{_DIGITS}g}")) if isinstance(value, float) else str(value)


def _name(space: Space, corners: Sequence[Plan], direction: str) -> str:
    """`actor_lr+kl_coef-1a2b3c4d`: what is searched, and the hash of all that the results depend on."""
    from optuna.distributions import distribution_to_json

    keys = "+".join(key.rpartition(".")[2] for key in space.searched)
    spaces = {key: distribution_to_json(distribution) for key, distribution in sorted(space.searched.items())}
    deciding = [spaces, direction, corners[0].settings.objective, sorted(plan.identity for plan in corners)]
    return f"{keys}-{hashlib.sha256(json.dumps(deciding).encode()).hexdigest()[:8]}"


def _open(outputs: Path, name: str, space: Space, direction: str) -> "Study":
    """The study of that name in optuna.db, made where it is not there yet."""
    optuna = _import_optuna()
    outputs.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=sqlite_uri(outputs / "optuna.db"), study_name=name, direction=direction, load_if_exists=True
    )
    if study.direction.name.lower() != direction or any(set(t.params) - set(space.searched) for t in study.trials):
        raise UserError(f"hydra.sweeper.study={name}: is the study of another search; choose another name")
    return study


def _make_sampler(name: str, seed: int) -> Any:
    optuna = _import_optuna()
    if name not in _SAMPLERS:
        raise UserError(f"hydra.sweeper.sampler={name}: not an option; there are {', '.join(_SAMPLERS)}")
    try:
        return getattr(optuna.samplers, name)(seed=seed)
    except ImportError as error:
        raise UserError(f"hydra.sweeper.sampler={name}: {str(error).splitlines()[0]}; install what it needs") from error


def _seed(seed: int, number: int) -> int:
    """Of the sampler that draws from this trial on; neighbouring seeds of NumPy's would begin alike."""
    return int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:4], "big")


def _next_trials(
    study: "Study", space: Space, trials: int, at_a_time: int, sampler_for: Callable[[int], Any]
) -> "list[Trial | FrozenTrial]":
    """Those that were begun and have no result, then new ones.

    A sampler is made for each batch, by its first trial's number: a search that was interrupted draws the values that it would
    have drawn.
    """
    from optuna.trial import TrialState

    begun = [trial for trial in study.get_trials(states=[TrialState.RUNNING]) if _WORDS in trial.user_attrs]
    batch: list[Trial | FrozenTrial] = list(begun[:at_a_time])
    count = len(study.trials)
    study.sampler = sampler_for(count)
    for _ in range(min(at_a_time - len(batch), trials - count)):
        trial = study.ask(space.searched)
        trial.set_user_attr(_WORDS, space.words(trial.params))
        batch.append(trial)
    return batch


def _tell(study: "Study", trial: "Trial | FrozenTrial", outcome: "JobReturn", space: Space, metric: str) -> None:
    from hydra.core.utils import JobStatus
    from optuna.trial import Trial, TrialState

    so_far = intermediate(RunFolder(outcome.working_dir), metric) if outcome.working_dir else {}
    for step, value in so_far.items():
        Trial(study, trial._trial_id).report(value, step)
    if outcome.status is JobStatus.COMPLETED:
        study.tell(trial.number, outcome.return_value)
        came_to = f"{metric}={_text(outcome.return_value)}"
    elif isinstance(outcome._return_value, Pruned):
        study.tell(trial.number, state=TrialState.PRUNED)
        came_to = str(outcome._return_value).partition(":")[0]
    else:
        study.tell(trial.number, state=TrialState.FAIL)
        came_to = f"failed ({outcome._return_value})"
    print(f"trial {trial.number}: {_values(trial, space)}: {came_to}", flush=True)


def _values(trial: "Trial | FrozenTrial", space: Space) -> str:
    return " ".join(f"{key}={_text(trial.params[key])}" for key in space.searched)


def _so_far(study: "Study") -> str:
    from optuna.trial import TrialState

    done = len(study.get_trials(states=[TrialState.COMPLETE]))
    failed = len(study.get_trials(states=[TrialState.FAIL]))
    pruned = len(study.get_trials(states=[TrialState.PRUNED]))
    begun = len(study.trials) - done - failed - pruned
    if not study.trials:
        return "new"
    others = "".join(f", {count} {name}" for count, name in ((failed, "failed"), (pruned, "pruned")) if count)
    return f"{counted(done, 'trial')} done{others}" + (f", {begun} to resume" if begun else "")


def _stop_if_all_fail(study: "Study") -> None:
    """Raise SweepFailed where every trial so far has failed: what is wrong is wrong with all of them."""
    from optuna.trial import TrialState

    if all(trial.state is TrialState.FAIL for trial in study.trials):
        which = "the only trial" if len(study.trials) == 1 else f"all {len(study.trials)} trials"
        raise SweepFailed(f"{which} so far failed, for the reasons above; the search ends here")


def _table(study: "Study", space: Space, metric: str, direction: str) -> list[str]:
    """A line for each trial, the best first and those without a result last."""
    from optuna.trial import TrialState

    sign = -1 if direction == "maximize" else 1
    done = [trial for trial in study.trials if trial.state is TrialState.COMPLETE]
    if not done:
        raise SweepFailed("no trial has a result, for the reasons above")
    done.sort(key=lambda trial: (sign * (trial.value or 0.0), trial.number))
    others = [trial for trial in study.trials if trial.state is not TrialState.COMPLETE]
    ends = ["pruned" if trial.state is TrialState.PRUNED else "failed" for trial in others]
    rows = [
        [str(trial.number), *(_text(trial.params.get(key, "-")) for key in space.searched), result]
        for trials, results in ((done, [_text(trial.value) for trial in done]), (others, ends))
        for trial, result in zip(trials, results, strict=True)
    ]
    return aligned([["trial", *space.searched, metric], *rows], left=0)
