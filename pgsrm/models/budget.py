"""What calls of a server may take and cost, counted over all threads and starts."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pgsrm.models.server_errors import ServerError
from pgsrm.util.errors import UserError


class BudgetExceeded(ServerError):
    """One more call could have gone beyond `max_calls` or `max_cost`; it was not made."""


@dataclass
class Spending:
    """Tokens of one call: at first the most that it can take, then what the server says that it took."""

    input_tokens: int
    output_tokens: int


class Budget:
    """Counts calls and tokens over all threads, and stops before a limit would be passed.

    max_calls: HTTP requests, repeated ones included; max_cost: in the prices' currency; input_price, output_price: for a
    million tokens, None = unknown. section: the config group, for messages. A call whose answer was lost (time-out,
    connection reset, no token counts) counts with the most that it can have cost, since the server may have billed it.
    `resume` makes the limits hold over several processes, killed ones among them.

    Raises:
        UserError: if there is a max_cost but no prices.
    """

    def __init__(
        self,
        max_calls: int | None = None,
        max_cost: float | None = None,
        input_price: float | None = None,
        output_price: float | None = None,
        section: str = "parent",
    ) -> None:
        if max_cost is not None and (input_price is None or output_price is None):
            lacking = "input_price" if input_price is None else "output_price"
            raise UserError(
                f"{section}.max_cost={max_cost}: can't be kept, {section}.{lacking} is null; "
                "set it to the price of a million tokens (0 where they cost nothing)"
            )
        self.max_calls, self.max_cost = max_calls, max_cost
        self.input_price, self.output_price = input_price, output_price
        self.calls = self.input_tokens = self.output_tokens = 0
        self._section = section
        self._note: Callable[[int, Spending], None] = lambda number, spending: None
        self._reserved = 0.0
        self._changed = threading.Condition()

    def resume(self, made: Iterable[Spending], note: Callable[[int, Spending], None]) -> None:
        """Count the calls `made` by earlier processes, and `note` each further one by its number, from 0.

        That is called twice: before the call with the most that it can take, after it with what it took.
        """
        for spending in made:
            self.calls += 1
            self.input_tokens += spending.input_tokens
            self.output_tokens += spending.output_tokens
        self._note = note

    def cost(self, input_tokens: float, output_tokens: float) -> float | None:
        """What so many tokens cost; None without prices."""
        if self.input_price is None or self.output_price is None:
            return None
        return (input_tokens * self.input_price + output_tokens * self.output_price) / 1e6

    @property
    def spent(self) -> float | None:
        """The cost so far; None without prices."""
        return self.cost(self.input_tokens, self.output_tokens)

    @contextmanager
    def call(self, input_tokens: int, output_tokens: int) -> Iterator[Spending]:
        """Around one request that takes at most so many tokens; the block sets what it took, where it learns it.

        Raises:
            BudgetExceeded: before the request, if it could pass a limit.
        """
        most = self.cost(input_tokens, output_tokens) or 0.0
        spending = Spending(input_tokens, output_tokens)
        number = self._reserve(most, spending)
        try:
            yield spending
        finally:
            with self._changed:
                self._reserved -= most
                self.input_tokens += spending.input_tokens
                self.output_tokens += spending.output_tokens
                self._changed.notify_all()
                self._note(number, spending)

    def _reserve(self, most: float, spending: Spending) -> int:
        """Put aside what a call can cost; returns its number."""
        with self._changed:
            if self.max_cost is not None:
                # Calls under way mostly cost less than is put aside for them: what is left is known when they are back.
                while (self.spent or 0.0) + self._reserved + most > self.max_cost and self._reserved > 0:
                    self._changed.wait()
                if (self.spent or 0.0) + self._reserved + most > self.max_cost:
                    raise BudgetExceeded(
                        f"{self._section}.max_cost={self.max_cost:g}: {self.spent or 0.0:.4g} spent, the next call could "
                        f"cost {most:.2g}; raise it, and the same command resumes"
                    )
            if self.max_calls is not None and self.calls >= self.max_calls:
                raise BudgetExceeded(
                    f"{self._section}.max_calls={self.max_calls}: all made; raise it, and the same command resumes"
                )
            self._note(self.calls, spending)
            self.calls += 1
            self._reserved += most
            return self.calls - 1
