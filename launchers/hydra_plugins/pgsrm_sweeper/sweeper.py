"""`hydra/sweeper=product`: Hydra's own, which composes every config of a sweep only to see that it can be composed.

The launchers here compose and check all of them before anything is written; once is enough.
"""

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.plugins.sweeper import Sweeper  # noqa: F401  (marks this as a Hydra plugin module)


class Product(BasicSweeper):
    """Every combination of the comma-separated values."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Left to the launcher."""
