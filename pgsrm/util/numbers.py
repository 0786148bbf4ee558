"""Types of numbers in the typed settings, which msgspec checks when a config is read."""

from typing import Annotated

from msgspec import Meta

Positive = Annotated[float, Meta(gt=0, lt=float("1e30"))]  # no infinities
NonNegative = Annotated[float, Meta(ge=0, lt=float("1e30"))]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=1)]
