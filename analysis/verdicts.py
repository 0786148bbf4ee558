"""Verdicts on claims: each is checked for every task and setting by itself, on the finished seeds.

- holds: the whole interval of the value lies where the claim says.
- does not hold: the whole interval lies elsewhere.
- not enough runs: too few finished seeds; or the interval holds a bound, so that more seeds would have to tell; or
  everything would hold, but a seed failed (what diverges leaves no number, and the mean of the others would flatter).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from claims import Claim, conditions_text
from intervals import Estimate, difference_interval, mean_interval
from measures import MEASURES, series
from runs import Run
from tables import NONE, Cell, Table
from variants import Variant

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "not enough runs"
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
    both = " and of ".join(conditions_text(found) for found in (claim.where, claim.minus) if found)
    tasks = ", ".join(claim.where.get("task", ()))
    nothing = Estimate(float("nan"), n=0)
    return [Check(claim, tasks or NO_TASK, NO_TASK, "", nothing, UNDECIDED, f"no run of {both or 'any kind'}")]


def claims_table(checks: Mapping[str, Sequence[Check]]) -> Table:
    """A row a check; `checks` by the name of their experiment, "" for none."""
    head = ["claim", "task", "reward", "settings", "definition", "value", "verdict", "why", "experiment"]
    rows: list[list[Cell]] = []
    for experiment, found in checks.items():
        for c in found:
            what = [c.claim.name, c.task, c.reward, c.settings, c.claim.definition]
            rows.append([*what, c.estimate, c.verdict, c.reason, experiment or NONE])
    return Table("claims", "Claims", head, rows, left=8, notes=("Value: mean over seeds [95% interval].",))


def _judge(claim: Claim, variant: Variant, other: Variant | None) -> Check:
    groups = [variant] if other is None else [variant, other]
    values = [_values(claim, group) for group in groups]
    estimate = mean_interval(values[0]) if other is None else difference_interval(values[0], values[1])
    verdict, reason = _verdict(claim, estimate, groups, [len(found) for found in values])
    settings = variant.settings
    if other is not None and other.settings != settings:
        settings = " / ".join(each.settings or each.reward_title for each in groups)
    reward = " − ".join(group.reward_title for group in groups)
    return Check(claim, variant.task, reward, settings, estimate, verdict, reason, tuple(groups))


def _values(claim: Claim, variant: Variant) -> list[float]:
    extra = () if claim.level is None else (claim.level,)
    found = [MEASURES[claim.measure](series(run, claim.metric), *extra) for run in variant.complete]
    return [value for value in found if value == value]


def _verdict(claim: Claim, e: Estimate, groups: Sequence[Variant], counts: Sequence[int]) -> tuple[str, str]:
    runs = [run for group in groups for run in group.runs]
    failed = sum(run.failed for run in runs)
    undefined = sum(len(group.complete) for group in groups) - sum(counts)
    details = []
    if failed:
        details.append(f"{failed} of {len(runs)} runs failed")
    if undefined:
        details.append(f"no value in {undefined} finished run(s)")
    also = "".join(f"; {detail}" for detail in details)
    if min(counts) < claim.min_seeds:
        return UNDECIDED, f"{min(counts)} of {claim.min_seeds} finished seeds{also}"
    if (claim.strict and (e.high <= claim.low or e.low >= claim.high)) or e.high < claim.low or e.low > claim.high:
        return FAILS, f"{_seeds(counts)}{also}"
    inside = claim.low < e.low and e.high < claim.high if claim.strict else claim.low <= e.low and e.high <= claim.high
    if not inside:
        bound = claim.low if e.low <= claim.low else claim.high
        return UNDECIDED, f"{_seeds(counts)}, the interval holds the bound {bound:g}{also}"
    if details:
        return UNDECIDED, f"{_seeds(counts)} would hold, but {', '.join(details)}"
    return HOLDS, _seeds(counts)


def _seeds(counts: Sequence[int]) -> str:
    return f"{' and '.join(map(str, dict.fromkeys(counts)))} seeds"


def _matches(run: Run, conditions: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether choices (task, reward, ppo, ...) and values (ppo.kl_coef, ...) are among those named."""
    values = {**run.settings, **run.choices, "experiment": run.experiment}
    return all(_number_text(values.get(key)) in wanted for key, wanted in conditions.items())


def _number_text(text: str | None) -> str | None:
    try:
        return f"{float(text or ''):g}"
    except ValueError:
        return text
