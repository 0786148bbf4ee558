"""What a reward that compares with references asks of a task."""

from __future__ import annotations

from collections.abc import Sequence

from pgsrm.util.errors import UserError


def compared(
    references: Sequence[str], all_references: Sequence[Sequence[str]] | None = None
) -> Sequence[Sequence[str]]:
    """What each response is compared with, at least one text: all its references in a batch that has several for any."""
    return [[reference] for reference in references] if all_references is None else all_references


def check_references(references: Sequence[str], name: str, needs_all: bool = False) -> None:
    """Raise UserError, which begins with the reward's `name`, where a run's prompts have no reference to compare with.

    needs_all: also where only some of them have none.
    """
    lacking = sum(not reference for reference in references)
    if lacking == len(references):
        raise UserError(
            f"{name}: the task has no references to compare with; give its data a column `reference`, or choose a reward "
            "that needs none (a classifier, or reward=sparse of a task that has one)"
        )
    if lacking and needs_all:
        raise UserError(
            f"{name}: {lacking} of the prompts have no reference, and every response to them would earn 0; "
            "remove their rows, or fill in their column `reference`"
        )
