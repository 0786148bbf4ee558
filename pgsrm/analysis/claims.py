"""Claims about training: statements with a definition that can be checked on runs, read from YAML.

A claims file is a list; pgsrm/analysis/claims.yaml has the paper's and explains the keys.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from pgsrm.analysis.intervals import MIN_SEEDS
from pgsrm.analysis.measures import MEASURES

# The one measure that needs two groups of runs: the mean over all distances up to that which all of them come to.
EQUAL_KL = "at_equal_kl"

PAPER = Path(__file__).with_name("claims.yaml")
REQUIRED = ("name", "says", "metric", "measure", "where", "expect")
OPTIONAL = ("source", "minus", "min_seeds", "must_finish", "settled")


class ClaimsError(Exception):
    """A claims file that can't be used; the message is one line that names the file, the claim and the key."""


@dataclass(frozen=True, eq=False)
class Claim:
    """One statement: a measure of a metric, on the runs of `where` (minus that on those of `minus`), within bounds."""

    name: str
    says: str
    source: str
    place: str  # file and number, for messages
    metric: str
    measure: str
    level: float | None  # what `episodes_to` counts up to
    where: Mapping[str, tuple[str, ...]]
    minus: Mapping[str, tuple[str, ...]] | None
    low: float
    high: float
    strict: bool  # whether the bounds themselves are outside
    min_seeds: int
    must_finish: bool  # whether it does not hold of a run that diverged
    settled: float  # no verdict where the metric's `late_change` is larger, up or down; infinite for any

    @property
    def definition(self) -> str:
        """The claim as a formula: "rise of reward/mean ≥ 0.1"."""
        measure = self.measure if self.level is None else f"{self.measure} {self.level:g}"
        what = f"{measure.replace('_', ' ')} of {self.metric}"
        if self.minus is not None:
            what += f", {conditions_text(self.where)} minus {conditions_text(self.minus)},"
        below, above = ("<", ">") if self.strict else ("≤", "≥")
        if self.low == -float("inf"):
            return f"{what} {below} {self.high:g}"
        if self.high == float("inf"):
            return f"{what} {above} {self.low:g}"
        return f"{self.low:g} {below} {what} {below} {self.high:g}"


def read_claims(*paths: Path) -> list[Claim]:
    """The claims of YAML files, each with a name of its own among all.

    Raises:
        ClaimsError: for the first thing that is wrong with them.
    """
    claims: list[Claim] = []
    for path in paths:
        content = _read_yaml(path)
        if not isinstance(content, list):
            raise ClaimsError(f"--claims={path}: is no list of claims; begin each with '- name: ...'")
        for number, entry in enumerate(content, start=1):
            claim = _claim(entry, f"--claims={path}: claim {number}")
            if claim.name in [other.name for other in claims]:
                raise ClaimsError(f"--claims={path}: claim {number}: name={claim.name} is taken; give each its own")
            claims.append(claim)
    return claims


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ClaimsError(f"--claims={path}: can't be read ({error.strerror}); name a YAML file") from error
    except _TwiceError as error:
        raise ClaimsError(f"--claims={path}: {error}; keep one") from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:  # ValueError: a date that is none
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise ClaimsError(
            f"--claims={path}: is no YAML{line}; see pgsrm/analysis/claims.yaml for an example"
        ) from error


class _TwiceError(Exception):
    """A key that a mapping has twice."""


class _Loader(yaml.SafeLoader):
    """YAML in which a key that is there twice is an error: PyYAML takes the last one."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = []
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if name in keys:
                raise _TwiceError(f"{name} is there twice, again in line {key.start_mark.line + 1}")
            keys.append(name)
        return super().construct_mapping(node, deep)


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
    if measure == EQUAL_KL and "minus" not in entry:
        raise ClaimsError(f"{where}: measure={EQUAL_KL}: compares two groups of runs; name the other one under minus")
    if measure == EQUAL_KL and not str(entry["metric"]).startswith("eval/"):
        raise ClaimsError(
            f"{where}: measure={EQUAL_KL}: is of evaluations, where KL is measured; name a metric of eval/"
        )
    low, high, strict = _bounds(entry["expect"], where)
    seeds = entry.get("min_seeds", MIN_SEEDS)
    if not isinstance(seeds, int) or seeds < MIN_SEEDS:
        raise ClaimsError(f"{where}: min_seeds={seeds}: must be a whole number of at least {MIN_SEEDS}")
    must_finish = entry.get("must_finish", False)
    if not isinstance(must_finish, bool):
        raise ClaimsError(f"{where}: must_finish={must_finish}: must be true or false")
    settled = entry.get("settled", float("inf"))
    if "settled" in entry and not (_is_number(settled) and settled > 0):
        raise ClaimsError(f"{where}: settled={settled}: must be a number above 0: the largest late_change that is none")
    return Claim(
        name=str(entry["name"]),
        says=str(entry["says"]),
        source=str(entry.get("source", "")),
        place=where,
        metric=str(entry["metric"]),
        measure=measure,
        level=level,
        where=_filter(entry["where"], f"{where}: where"),
        minus=_filter(entry["minus"], f"{where}: minus") if "minus" in entry else None,
        low=low,
        high=high,
        strict=strict,
        min_seeds=seeds,
        must_finish=must_finish,
        settled=float(settled),
    )


def _measure(value: Any, where: str) -> tuple[str, float | None]:
    name, level = next(iter(value.items())) if isinstance(value, dict) and len(value) == 1 else (value, None)
    if not isinstance(name, str) or name not in (*MEASURES, EQUAL_KL):
        raise ClaimsError(f"{where}: measure={name} is unknown; there are {', '.join([*MEASURES, EQUAL_KL])}")
    if (name == "episodes_to") != (level is not None) or not (level is None or _is_number(level)):
        raise ClaimsError(f"{where}: measure={name}: only episodes_to takes a level, a number: {{episodes_to: 0.5}}")
    return name, level


def _bounds(value: Any, where: str) -> tuple[float, float, bool]:
    """Lower and upper bound, infinite where there is none, and whether they are outside (above, below)."""
    keys = set(value) if isinstance(value, dict) else set()
    strict = keys <= {"above", "below"}
    if not keys or not (strict or keys <= {"at_least", "at_most"}) or not all(map(_is_number, value.values())):
        raise ClaimsError(
            f"{where}: expect={value}: give at_least, at_most or both, or above, below or both, with finite numbers"
        )
    low = value.get("above" if strict else "at_least", -float("inf"))
    high = value.get("below" if strict else "at_most", float("inf"))
    if low > high:
        raise ClaimsError(f"{where}: expect={value}: the lower bound is above the upper one; swap them")
    return float(low), float(high), strict


def _filter(value: Any, where: str) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise ClaimsError(f"{where}={value}: is no mapping; write {{reward: pgsrm}}, or {{}} for all runs")
    conditions = {}
    for key, wanted in value.items():
        wanted = wanted if isinstance(wanted, list) else [wanted]
        if not wanted or any(isinstance(option, dict | list) for option in wanted):
            raise ClaimsError(
                f"{where}: {key} takes a value or a list of values; write ppo.kl_coef: 0.1 for one in ppo"
            )
        conditions[str(key)] = tuple(map(value_text, wanted))
    return conditions


def value_text(value: Any) -> str:
    """A value of YAML or of a run's settings as one text: 4, 4.0 and "4" are "4", true is "true", nothing is "null"."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    try:
        return f"{float(text):.15g}"
    except ValueError:
        return text


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def conditions_text(conditions: Mapping[str, tuple[str, ...]]) -> str:
    """Conditions in one line, as a table shows them: "task=color, reward=pgsrm|binary"; "all" where there are none."""
    return ", ".join(f"{key}={'|'.join(wanted)}" for key, wanted in conditions.items()) or "all"
