"""Verdicts on claims: each is checked for every task and setting by itself, on the finished seeds.

- holds: the whole interval of the value lies where the claim says.
- does not hold: the whole interval lies elsewhere.
- not enough runs: too few finished seeds; or the interval holds a bound, so that more seeds would have to tell; or
  everything would hold, but a seed failed (what diverges leaves no number, and the mean of the others would flatter).
- no verdict: as many more runs of the same kind would not tell either; the reason says why.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pgsrm.analysis.claims import EQUAL_KL, Claim, ClaimsError, conditions_text, value_text
from pgsrm.analysis.distance import common, up_to_distance
from pgsrm.analysis.intervals import (
    Estimate,
    censored_mean_interval,
    difference_interval,
    mean_interval,
    rank_difference_interval,
)
from pgsrm.analysis.measures import ADDS_UP, MEASURES, NAN, NO_VALUE, late_change, lowest, series
from pgsrm.analysis.results import DISTANCE, KL
from pgsrm.analysis.runs import Run
from pgsrm.analysis.tables import NONE, Cell, Table
from pgsrm.analysis.variants import Variant, differ_in_length
from pgsrm.util.numbers import counted, significant

HOLDS, FAILS, UNDECIDED, NO_VERDICT = "holds", "does not hold", "not enough runs", "no verdict"
INSIDE, OUTSIDE = "inside", "outside"
# The mean of k1 over a batch is below zero by noise alone, by about 0.01 once smoothed. Further down the tokens are not
# drawn from the policy that is scored (top-k, an EOS without a gradient): what is measured is no divergence any more.
LOWEST_KL = -0.1  # nats per token
NO_TASK = "-"


@dataclass(frozen=True)
class Check:
    """A claim on one task and setting: what came out and why."""

    claim: Claim
    task: str
    reward: str
    settings: str
    estimate: Estimate
    verdict: str
    reason: str
    variants: tuple[Variant, ...] = ()

    @property
    def episodes(self) -> str:
        """Episodes per run: what a curve does within a run depends on the run's length. Of runs that stopped early a range."""
        lengths = {round(run.length) for variant in self.variants for run in variant.complete or variant.runs}
        return " to ".join(f"{length:,}" for length in sorted({min(lengths), max(lengths)})) if lengths else NONE


def check_all(claims: Iterable[Claim], variants: Sequence[Variant]) -> list[Check]:
    """Every claim on every task and setting that has runs for it; one line without a task where none has."""
    return [check for claim in claims for check in _check(claim, variants)]


def _check(claim: Claim, variants: Sequence[Variant]) -> list[Check]:
    checks = []
    for variant in variants:
        if not _matches(variant.runs[0], claim.where):
            continue
        if claim.minus is None:
            checks.append(_judge(claim, variant, None))
            continue
        others = [v for v in variants if v.task == variant.task and _matches(v.runs[0], claim.minus)]
        checks += [_judge(claim, variant, other) for other in others if other.same_setup(variant)]
    if checks:
        return checks
    both = " and of ".join(conditions_text(conditions) for conditions in (claim.where, claim.minus) if conditions)
    tasks = ", ".join(claim.where.get("task", ()))
    nothing = Estimate(float("nan"), n=0)
    return [Check(claim, tasks or NO_TASK, NO_TASK, "", nothing, UNDECIDED, f"no run of {both or 'any kind'}")]


def claims_table(checks: Mapping[str, Sequence[Check]]) -> Table:
    """One row per check; `checks` by the name of their experiment, "" for none."""
    head = ["claim", "task", "reward", "settings", "episodes", "definition", "value", "verdict", "why", "experiment"]
    rows: list[list[Cell]] = []
    for experiment, of_experiment in checks.items():
        for c in of_experiment:
            what = [c.claim.name, c.task, c.reward, c.settings, c.episodes, c.claim.definition]
            rows.append([*what, c.estimate, c.verdict, c.reason, experiment or NONE])
    return Table("claims", "Claims", head, rows, left=9, notes=("Value: mean over seeds [95% interval].",))


def _judge(claim: Claim, variant: Variant, other: Variant | None) -> Check:
    groups = [variant] if other is None else [variant, other]
    kl = common(run for group in groups for run in group.complete) if claim.measure == EQUAL_KL else NAN
    measured = [[_value(claim, run, kl) for run in group.complete] for group in groups]
    values = [[value for value, _ in pairs if value == value] for pairs in measured]
    ends = [
        [run.length for run, (value, _) in zip(group.complete, pairs, strict=True) if value == value]
        for group, pairs in zip(groups, measured, strict=True)
    ]
    estimate = _estimate(values, ends)
    missing = Counter(reason for pairs in measured for value, reason in pairs if value != value)
    verdict, reason = _verdict(claim, estimate, groups, values, missing)
    if kl > 0:
        reason += f", up to KL {significant(kl, 2)}"
    settings = variant.settings
    if other is not None and other.settings != settings:
        settings = " / ".join(group.settings or group.reward_title for group in groups)
    reward = " − ".join(group.reward_title for group in groups)
    return Check(claim, variant.task, reward, settings, estimate, verdict, reason, tuple(groups))


def _estimate(values: Sequence[Sequence[float]], ends: Sequence[Sequence[float]]) -> Estimate:
    """A group's mean, or the first minus the second. Infinite values are those of runs that had not got there at their ends."""
    censored = any(math.isinf(value) for group_values in values for value in group_values)
    if len(values) == 1:
        return censored_mean_interval(values[0], ends[0]) if censored else mean_interval(values[0])
    return rank_difference_interval(*values, *ends) if censored else difference_interval(*values)


def _value(claim: Claim, run: Run, kl: float) -> tuple[float, str]:
    """The claim's measure of a run, and why there is none where it is NaN; kl: up to which `at_equal_kl` compares."""
    metric = series(run, claim.metric)
    if not len(metric.values):
        return NAN, f"{claim.metric} is not recorded"
    if claim.metric == KL and lowest(metric) < LOWEST_KL:
        return NAN, f"{KL} goes below {LOWEST_KL:g}, so that it is no divergence,"
    if claim.measure == EQUAL_KL:
        return up_to_distance(run, claim.metric, kl), _no_distance(run, kl)
    extra = () if claim.level is None else (claim.level,)
    return MEASURES[claim.measure](metric, *extra), NO_VALUE.get(claim.measure, "no value")


def _no_distance(run: Run, kl: float) -> str:
    if DISTANCE not in run.metrics:
        return f"{DISTANCE} is not recorded"
    return "the metric is not recorded from the reference policy on" if kl else "no distance that all runs come to"


def _verdict(
    claim: Claim,
    estimate: Estimate,
    groups: Sequence[Variant],
    values: Sequence[Sequence[float]],
    missing: Mapping[str, int],
) -> tuple[str, str]:
    """`values` are those of the finished runs, a group; `missing` says how many of these have none, by the reason."""
    counts = [len(group_values) for group_values in values]
    runs = [run for group in groups for run in group.runs]
    failed = sum(run.failed for run in runs)
    problems = [f"{failed} of {counted(len(runs), 'run')} failed"] if failed else []
    problems += [f"{reason} in {counted(count, 'finished run')}" for reason, count in missing.items()]
    if min(counts) < claim.min_seeds:
        if claim.must_finish and sum(run.diverged for run in groups[0].runs) >= claim.min_seeds:
            return FAILS, "; ".join(problems)
        going_on = any(not run.complete and not run.failed for run in runs)
        enough = all(len(group.complete) + sum(run.failed for run in group.runs) >= claim.min_seeds for group in groups)
        if enough and not going_on:
            return NO_VERDICT, "; ".join(problems)
        return UNDECIDED, "; ".join([f"{min(counts)} of {claim.min_seeds} finished seeds", *problems])
    moving = next(filter(None, (_still_moving(claim, group) for group in groups)), "")
    if moving:
        return NO_VERDICT, "; ".join([moving, *problems])
    length = min(run.length for run in groups[0].complete)
    if claim.measure == "rise_time" and claim.minus is None and length <= claim.high < math.inf:
        return NO_VERDICT, f"runs of {counted(f'{length:,.0f}', 'episode')} can't go beyond {claim.high:,.0f}"
    if MEASURES.get(claim.measure) in ADDS_UP and len(groups) > 1 and differ_in_length(groups):
        lengths = [run.length for group in groups for run in group.complete]
        ends = f"runs of {min(lengths):,.0f} to {max(lengths):,.0f} episodes"
        return NO_VERDICT, "; ".join([f"{ends}, over which {claim.measure} adds up", *problems])
    notes = [_seeds(counts)]
    never = sum(math.isinf(value) for group_values in values for value in group_values)
    if never == sum(counts) and len(groups) > 1:
        return NO_VERDICT, f"{notes[0]}, none of which reaches {claim.level:g}"
    if never:
        notes.append(f"{never} of {sum(counts)} never reach {claim.level:g}")
    place = _place(claim, estimate)
    if place == OUTSIDE:
        return FAILS, "; ".join([*notes, *problems])
    if place != INSIDE:
        return UNDECIDED, "; ".join([f"{', '.join(notes)}, the interval holds the bound {place}", *problems])
    if problems:
        return UNDECIDED, f"{', '.join(notes)} would hold, but {', '.join(problems)}"
    return HOLDS, "; ".join(notes)


def _still_moving(claim: Claim, group: Variant) -> str:
    """What the metric still does in the second half, where that is more than the claim's `settled`; else ""."""
    changes = [late_change(series(run, claim.metric)) for run in group.complete]
    change = mean_interval([value for value in changes if value == value]).value
    if not abs(change) > claim.settled:
        return ""
    return f"still {'rising' if change > 0 else 'falling'}, {change:+.3f} from the sixth tenth to the last"


def _place(claim: Claim, e: Estimate) -> str:
    """Whether the interval is `INSIDE` of the claim's bounds, `OUTSIDE`, or which bound is in it."""
    bounds = [(claim.low, e.low, e.high), (-claim.high, -e.high, -e.low)]  # both as lower bounds
    bounds = [bound for bound in bounds if bound[0] > -math.inf]
    if any(far < bound or (claim.strict and far == bound) for bound, _, far in bounds):
        return OUTSIDE
    if all(near > bound or (not claim.strict and near == bound) for bound, near, _ in bounds):
        return INSIDE
    below = claim.low > -math.inf and (e.low < claim.low or (claim.strict and e.low == claim.low))
    return f"{claim.low if below else claim.high:g}"


def _seeds(counts: Sequence[int]) -> str:
    return counted(" and ".join(map(str, dict.fromkeys(counts))), "seed")


def _matches(run: Run, conditions: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether choices (task, reward, ppo, ...) and values (ppo.kl_coef, ...) are among those named."""
    values = _values(run)
    return all(key in values and value_text(values[key]) in wanted for key, wanted in conditions.items())


def _values(run: Run) -> dict[str, str]:
    return {**run.settings, **run.choices, "experiment": run.experiment}


def check_names(claims: Iterable[Claim], variants: Sequence[Variant]) -> list[str]:
    """A note for each condition of which no run has any value, with those that they have.

    Raises:
        ClaimsError: for a metric or a condition's key that no run has.
    """
    runs = [run for variant in variants for run in variant.runs]
    metrics = {name for run in runs for name in run.metrics}
    known: dict[str, set[str]] = {}
    for values in map(_values, runs):
        for key, value in values.items():
            known.setdefault(key, set()).add(value_text(value))
    notes = []
    for claim in claims:
        if claim.metric not in metrics:
            names = ", ".join(sorted(_recorded(runs[0]) | metrics))
            raise ClaimsError(f"{claim.place}: metric={claim.metric} is in no run; there are {names}")
        for key, wanted in [*claim.where.items(), *(claim.minus or {}).items()]:
            if key not in known:
                raise ClaimsError(f"{claim.place}: {key} is in no run's config; there are {', '.join(sorted(known))}")
            if not known[key] & set(wanted):
                notes.append(
                    f"{claim.place}: no run has {key}={'|'.join(wanted)}; they have {', '.join(sorted(known[key]))}"
                )
    return notes


def _recorded(run: Run) -> set[str]:
    """Every metric in a run's file; none where the run is not in a folder."""
    try:
        lines = (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return {name for line in lines for name in json.loads(line)}
    except (OSError, ValueError):
        return set()
