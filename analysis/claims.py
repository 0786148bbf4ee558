"""Claims about training, checked on runs: named, with a definition, a value, an interval and a verdict.

A claims file is a list in YAML; analysis/claims.yaml has the paper's and explains the keys. A claim is checked for
every task and setting by itself, on the finished seeds:

- holds: the whole interval of the value lies where the claim says.
- does not hold: the whole interval lies elsewhere.
- not enough runs: too few finished seeds; or the interval holds a bound, so that more seeds would have to tell; or
  everything would hold, but a seed failed (what diverges leaves no number, and the mean of the others would flatter).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from intervals import MIN_SEEDS, Estimate, difference_interval, mean_interval
from measures import MEASURES, series
from runs import Run
from tables import NONE, Cell, Table
from variants import Variant

PAPER = Path(__file__).with_name("claims.yaml")
HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "not enough runs"
REQUIRED = ("name", "says", "metric", "measure", "where", "expect")
OPTIONAL = ("source", "minus", "min_seeds")


class ClaimsError(Exception):
    """A claims file that can't be used; the message is one line that names the file, the claim and the key."""


@dataclass(frozen=True, eq=False)
class Claim:
    """One statement: a measure of a metric, on the runs of `where` (minus that on those of `minus`), within bounds."""

    name: str
    says: str
    source: str
    metric: str
    measure: str
    level: float | None  # what `episodes_to` counts up to
    where: Mapping[str, tuple[str, ...]]
    minus: Mapping[str, tuple[str, ...]] | None
    low: float
    high: float
    strict: bool  # whether the bounds themselves are outside
    min_seeds: int

    @property
    def definition(self) -> str:
        """The claim as a formula: "rise of reward/mean ≥ 0.1"."""
        measure = self.measure if self.level is None else f"{self.measure} {self.level:g}"
        what = f"{measure.replace('_', ' ')} of {self.metric}"
        if self.minus is not None:
            what += f", {_conditions(self.where)} minus {_conditions(self.minus)},"
        below, above = ("<", ">") if self.strict else ("≤", "≥")
        if self.low == -float("inf"):
            return f"{what} {below} {self.high:g}"
        if self.high == float("inf"):
            return f"{what} {above} {self.low:g}"
        return f"{self.low:g} {below} {what} {below} {self.high:g}"


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


def read_claims(path: Path) -> list[Claim]:
    """The claims of a YAML file.

    Raises:
        ClaimsError: for the first thing that is wrong with it.
    """
    import yaml  # type: ignore[import-untyped]

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ClaimsError(f"--claims={path}: can't be read ({error.strerror}); name a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise ClaimsError(f"--claims={path}: is no YAML{line}; see analysis/claims.yaml for an example") from error
    if not isinstance(content, list):
        raise ClaimsError(f"--claims={path}: is no list of claims; begin each with '- name: ...'")
    claims = [_claim(entry, f"--claims={path}: claim {number}") for number, entry in enumerate(content, start=1)]
    for i, claim in enumerate(claims):
        if claim.name in [each.name for each in claims[:i]]:
            raise ClaimsError(f"--claims={path}: claim {i + 1}: name={claim.name} is taken; give each its own")
    return claims


def _claim(entry: Any, where: str) -> Claim:
    if not isinstance(entry, dict):
        raise ClaimsError(f"{where}: is no mapping; it needs the keys {', '.join(REQUIRED)}")
    where = f"{where} ({entry['name']})" if "name" in entry else where
    for key in REQUIRED:
        if key not in entry:
            raise ClaimsError(f"{where}: {key} is missing; set it")
    for key in entry:
        if key not in REQUIRED + OPTIONAL:
            raise ClaimsError(f"{where}: {key} is unknown; there are {', '.join(REQUIRED + OPTIONAL)}")
    measure, level = _measure(entry["measure"], where)
    low, high, strict = _bounds(entry["expect"], where)
    seeds = entry.get("min_seeds", MIN_SEEDS)
    if not isinstance(seeds, int) or seeds < MIN_SEEDS:
        raise ClaimsError(f"{where}: min_seeds={seeds}: must be a whole number of at least {MIN_SEEDS}")
    return Claim(
        name=str(entry["name"]),
        says=str(entry["says"]),
        source=str(entry.get("source", "")),
        metric=str(entry["metric"]),
        measure=measure,
        level=level,
        where=_filter(entry["where"], f"{where}: where"),
        minus=_filter(entry["minus"], f"{where}: minus") if "minus" in entry else None,
        low=low,
        high=high,
        strict=strict,
        min_seeds=seeds,
    )


def _measure(value: Any, where: str) -> tuple[str, float | None]:
    name, level = next(iter(value.items())) if isinstance(value, dict) and len(value) == 1 else (value, None)
    if name not in MEASURES:
        raise ClaimsError(f"{where}: measure={name} is unknown; there are {', '.join(MEASURES)}")
    if (name == "episodes_to") != (level is not None) or not (level is None or _is_number(level)):
        raise ClaimsError(f"{where}: measure={name}: only episodes_to takes a level, a number: {{episodes_to: 0.5}}")
    return name, level


def _bounds(value: Any, where: str) -> tuple[float, float, bool]:
    """Lower and upper bound, infinite where there is none, and whether they are outside (above, below)."""
    keys = set(value) if isinstance(value, dict) else set()
    strict = keys <= {"above", "below"}
    if not keys or not (strict or keys <= {"at_least", "at_most"}) or not all(map(_is_number, value.values())):
        raise ClaimsError(
            f"{where}: expect={value}: give at_least, at_most or both, or above, below or both, with numbers"
        )
    low = value.get("above" if strict else "at_least", -float("inf"))
    high = value.get("below" if strict else "at_most", float("inf"))
    if low > high:
        raise ClaimsError(f"{where}: expect={value}: the lower bound is above the upper one; swap them")
    return float(low), float(high), strict


def _filter(value: Any, where: str) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise ClaimsError(f"{where}={value}: is no mapping; write {{reward: pgsrm}}, or {{}} for all runs")
    return {str(k): tuple(map(_text, v if isinstance(v, list) else [v])) for k, v in value.items()}


def _text(value: Any) -> str:
    return f"{value:g}" if _is_number(value) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


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
    both = " and of ".join(_conditions(found) for found in (claim.where, claim.minus) if found)
    tasks = ", ".join(claim.where.get("task", ()))
    nothing = Estimate(float("nan"), n=0)
    return [Check(claim, tasks or NO_TASK, NO_TASK, "", nothing, UNDECIDED, f"no run of {both or 'any kind'}")]


NO_TASK = "-"


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


def _conditions(found: Mapping[str, tuple[str, ...]]) -> str:
    return ", ".join(f"{key}={'|'.join(wanted)}" for key, wanted in found.items()) or "all"
