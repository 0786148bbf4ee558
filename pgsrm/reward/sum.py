"""Several rewards at once: a weighted sum, each part divided by its own deviation where it is asked to be."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pgsrm.models.asking import Estimate, estimates_of
from pgsrm.reward.output import OWNED, RESERVED, normalise, with_part
from pgsrm.rollout import Annotation, Scored, Span
from pgsrm.util.errors import ParameterError, under
from pgsrm.util.numbers import Finite
from pgsrm.util.objects import digest_of, restore_object, state_of

Scale = Literal["batch", "running"]
TAKEN = RESERVED | {prefix.rstrip("/") for prefix in OWNED} | {"time"}
FLAT = 1e-6  # a deviation this small beside the largest number is rounding alone


class SumReward:
    """The sum over parts of weight x reward / scale.

    parts: rewards by name, per response or per token; None leaves a part out. A reward per response stands at the last token,
    as everywhere. weights: by the parts' names, 1 for those that are not named; a part of weight 0 is logged alone. normalise:
    by the parts' names, what the part is divided by, the mean being kept:

    - None: nothing.
    - batch: the standard deviation of its rewards in the batch.
    - running: that of its rewards in all training batches so far, this one included (arXiv:2401.07382 scales so).

    The deviation is that of the numbers which the part gave: one per response, or one per token of the responses. Nothing is
    counted for the other tokens of a reward per response, and there is no padding. Numbers that are all equal are not scaled.

    Metrics: `NAME`, the mean of the part's totals before scale and weight; `NAME_scale`, what it was divided by. A part's own
    metrics keep their names; one that two parts have becomes `NAME/metric`, and a critic's seconds `time/NAME/critic`.
    Annotations: the parts' spans, whose values are scaled and weighted; as components what each part adds to the total, by its
    name, and its own as `NAME.component`.

    Raises ParameterError for a part that is no reward, for a name that can't be one, and for weights or scales of no part.
    """

    def __init__(
        self,
        parts: dict[str, Any],
        weights: dict[str, Finite] | None = None,
        normalise: dict[str, Scale | None] | None = None,
    ) -> None:
        self.parts = {str(name): part for name, part in parts.items() if part is not None}
        _check_parts(self.parts)
        for key, given in (("weights", weights), ("normalise", normalise)):
            unknown = [name for name in given or {} if name not in parts]
            if unknown:
                raise ParameterError(f"{key}.{unknown[0]}: there is no such part; there are {', '.join(self.parts)}")
        self._weights = {name: float((weights or {}).get(name, 1.0)) for name in self.parts}
        self._scales = {name: how for name in self.parts if (how := (normalise or {}).get(name)) is not None}
        self._seen = {name: Moments() for name, how in self._scales.items() if how == "running"}

    @property
    def digest(self) -> str | None:
        """Those of the parts, by their names; None if no part has one."""
        digests = {}
        for name, part in sorted(self.parts.items()):
            with under(f"parts.{name}"):
                digests[name] = digest_of(part)
        return "; ".join(f"{name} {digest}" for name, digest in digests.items() if digest is not None) or None

    @property
    def inner_rewards(self) -> dict[str, Any]:
        """The parts by their keys in the config."""
        return {f"parts.{name}": part for name, part in self.parts.items()}

    @property
    def scaled(self) -> bool:
        """Whether a part is divided by a deviation, so that what texts earn depends on which others they are given with."""
        return bool(self._scales)

    def estimates(self, prompts: Sequence[str], responses: Sequence[str]) -> list[Estimate]:
        """What the parts ask of servers about n texts at most."""
        return [estimate for part in self.parts.values() for estimate in estimates_of(part, prompts, responses)]

    def state(self) -> dict[str, Any]:
        """What the running deviations are made of, and what the parts remember."""
        parts = {name: state for name, part in self.parts.items() if (state := state_of(part)) is not None}
        return {"seen": {name: list(seen) for name, seen in self._seen.items()}, "parts": parts}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Make them what they were when `state` returned this."""
        self._seen = {name: Moments(*state["seen"][name]) for name in self._seen}
        for name, inner in state["parts"].items():
            restore_object(self.parts[name], inner)

    def __call__(
        self, *, responses: list[str], token_ids: list[list[int]], **others: Any
    ) -> tuple[list[float] | list[list[float]], dict[str, float], list[Annotation]]:
        """One number per response where all parts give one, else one list per response; metrics; annotations."""
        given = {}
        for name, part in self.parts.items():
            with under(f"parts.{name}"):
                output = part(responses=responses, token_ids=token_ids, **others)
            given[name] = normalise(output, token_ids, name, responses)
        scales = {name: self._scale(name, scored) for name, scored in given.items()}  # once all parts have answered
        factors = {name: self._weights[name] / scale for name, scale in scales.items()}
        metrics = _metrics(given, {f"{name}_scale": scales[name] for name in self._scales})
        annotations = [_annotation(given, factors, row) for row in range(len(token_ids))]
        if any(scored.per_token for scored in given.values()):
            rows = [[scored.token_rewards[row] for scored in given.values()] for row in range(len(token_ids))]
            return [[_dot(factors, token) for token in zip(*row, strict=True)] for row in rows], metrics, annotations
        totals = zip(*(scored.totals for scored in given.values()), strict=True)
        return [_dot(factors, row) for row in totals], metrics, annotations

    def _scale(self, name: str, scored: Scored) -> float:
        """What a part is divided by."""
        how = self._scales.get(name)
        if how is None:
            return 1.0
        numbers = [reward for rewards in scored.token_rewards for reward in rewards]
        seen = Moments.of(numbers if scored.per_token else scored.totals)
        if how == "running":
            seen = self._seen[name] = self._seen[name].with_more(seen)
        return seen.deviation if seen.deviation > FLAT * seen.largest else 1.0


class Moments(NamedTuple):
    """Of numbers: how many, their mean, the sum of their squared distances from it, and the largest without its sign."""

    number: int = 0
    mean: float = 0.0
    squares: float = 0.0
    largest: float = 0.0

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Moments:
        """Those of at least one number."""
        mean = math.fsum(numbers) / len(numbers)
        squares = math.fsum((number - mean) ** 2 for number in numbers)
        return cls(len(numbers), mean, squares, max(map(abs, numbers)))

    def with_more(self, other: Moments) -> Moments:
        """Those of both sets of numbers together (Chan, Golub and LeVeque 1983)."""
        count, apart = self.number + other.number, other.mean - self.mean
        squares = self.squares + other.squares + apart**2 * self.number * other.number / count
        mean = self.mean + apart * other.number / count
        return Moments(count, mean, squares, max(self.largest, other.largest))

    @property
    def deviation(self) -> float:
        """The standard deviation, divided by the count."""
        return math.sqrt(self.squares / self.number) if self.number else 0.0


def _check_parts(parts: Mapping[str, Any]) -> None:
    if not parts:
        raise ParameterError(
            "parts: is empty; add a reward, as +reward@reward.parts.binary=binary does, or one of your own by "
            "+reward.parts.NAME._target_=..."
        )
    for name, part in parts.items():
        if not callable(part):
            raise ParameterError(f"parts.{name}={part!r}: is no reward; name one in parts.{name}._target_")
        if not re.fullmatch(r"\w[\w-]*", name):
            raise ParameterError(f"parts.{name}: is no name; write letters, digits, _ and - alone")
        if name in TAKEN:
            raise ParameterError(f"parts.{name}: is a name of the run's own metrics; call the part otherwise")


def _dot(factors: Mapping[str, float], rewards: Sequence[float]) -> float:
    return math.fsum(factor * reward for factor, reward in zip(factors.values(), rewards, strict=True))


def _metrics(given: Mapping[str, Scored], scales: Mapping[str, float]) -> dict[str, float]:
    """The mean total of each part, what parts were divided by, and the parts' own metrics."""
    metrics = {name: sum(scored.totals) / len(scored) for name, scored in given.items()} | dict(scales)
    times = Counter(metric for scored in given.values() for metric in scored.metrics)
    shared = {metric for metric, count in times.items() if count > 1}  # the first that has it is renamed too
    for name, scored in given.items():
        metrics = with_part(metrics, name, scored.metrics, shared)
    return metrics


def _annotation(given: Mapping[str, Scored], factors: Mapping[str, float], row: int) -> Annotation:
    """What all parts say of one response."""
    spans: list[Span] = []
    components = {name: factors[name] * scored.totals[row] for name, scored in given.items()}
    for name, scored in given.items():
        if scored.annotations:
            annotation = scored.annotations[row]
            spans += [_weighted(span, factors[name]) for span in annotation.spans]
            components |= {f"{name}.{part}": value for part, value in annotation.components.items()}
    return Annotation(tuple(spans), components)


def _weighted(span: Span, factor: float) -> Span:
    return span if span.value is None else Span(span.start, span.end, span.label, factor * span.value)
