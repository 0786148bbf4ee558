"""Types of numbers in the typed settings, which msgspec checks when a config is read; how a number is shown."""

import re
from array import array
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

Positive = Annotated[float, Meta(gt=0, lt=float("1e30"))]  # no infinities
NonNegative = Annotated[float, Meta(ge=0, lt=float("1e30"))]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Finite = Annotated[float, Meta(gt=float("-1e30"), lt=float("1e30"))]
Count = Annotated[int, Meta(ge=1)]


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean; `values` must not be empty."""
    return sum(values) / len(values)


def in_float32(values: Sequence[float]) -> list[float]:
    """Each as float32 has it, which an update computes with: sums that are equal but for their order are equal then."""
    return array("f", values).tolist()


def number_text(value: float | str) -> str:
    """A number, or its text, as people write it: 1e-5 where Python writes 1e-05."""
    return re.sub(r"(?<=\de)([+-])0+(?=\d)", r"\1", str(value))


def counted(number: int | str, thing: str) -> str:
    """`1 run`, `2 runs`: a number, or its text, and the thing in the singular or with the plural's s."""
    return f"{number} {thing}{'' if str(number) == '1' else 's'}"


def significant(value: float, digits: int) -> str:
    """A number for people, to so many significant digits, but no power of ten where it is large: 0.031; 1,240 and not 1.2e+03."""
    short = f"{value:.{digits}g}"
    return f"{value:,.0f}" if abs(float(short)) >= 10**digits else short
