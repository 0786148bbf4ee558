"""The baseline that the paper compares with: right or wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pgsrm.reward.references import compared
from pgsrm.task import Checker
from pgsrm.util.errors import ParameterError


class BinaryReward:
    """1 for a response that the task's checker accepts, 0 for any other (paper, section 4.3)."""

    def __init__(self, checker: Checker | None) -> None:
        if checker is None:
            raise ParameterError(
                "checker=null: the task has no checker, so that nothing is right or wrong; choose reward=sparse, or set "
                "task.checker"
            )
        self._checker = checker

    def __call__(
        self,
        *,
        references: Sequence[str],
        responses: Sequence[str],
        inputs: Sequence[Mapping[str, str]],
        all_references: Sequence[Sequence[str]] | None = None,
        **_: Any,
    ) -> list[float]:
        """One reward per response, 0.0 or 1.0; of several references any that the checker accepts will do."""
        rows = zip(responses, compared(references, all_references), inputs, strict=True)
        return [float(any(self._checker(text, one, row) for one in several)) for text, several, row in rows]
