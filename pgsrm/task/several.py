"""Prompts with several references: what a checker accepts, and in which form rewards get them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol


class Referenced(Protocol):
    """What is asked of an example here."""

    @property
    def references(self) -> tuple[str, ...]:
        """Its right references, at least one text."""

    @property
    def inputs(self) -> dict[str, str]:
        """Its columns."""


def accepts(checker: Callable[[str, str, Mapping[str, str]], bool], response: str, example: Referenced) -> bool:
    """Whether the checker accepts a response by any of the example's references."""
    return any(checker(response, reference, example.inputs) for reference in example.references)


def every_reference(examples: Iterable[Referenced]) -> list[str]:
    """The references of all examples in a row, "" for an example without one: what a reward's `check` gets."""
    return [reference for example in examples for reference in example.references]


def reference_columns(references: Sequence[Sequence[str]]) -> dict[str, Any]:
    """The references of n responses as a reward takes them: `references`, the first of each.

    Where any has several there is `all_references` too, all of each. A reward that never meets such data never gets that keyword.
    """
    columns: dict[str, Any] = {"references": [each[0] for each in references]}
    if any(len(each) > 1 for each in references):
        columns["all_references"] = [list(each) for each in references]
    return columns
