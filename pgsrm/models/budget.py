"""What calls of a server may take and cost, counted over all threads and starts."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from pgsrm.models.ledger import Ledger, Spent
from pgsrm.models.server_errors import ServerError
from pgsrm.util.errors import UserError
from pgsrm.util.numbers import significant


class BudgetExceeded(ServerError):
    """One more call could have gone beyond `max_calls`, `max_total_tokens` or `max_cost`; it was not made."""


@dataclass
class Spending:
    """Tokens of one call: at first the most that it can take, then what the server says that it took."""

    input_tokens: int
    output_tokens: int


class Budget:
    """Counts calls and tokens over all threads, and stops before a limit would be passed.

    max_calls: HTTP requests, repeated ones included; max_total_tokens: read and written; max_cost: in the prices' currency;
    input_price, output_price: for a million tokens, None = unknown. section: the config group, for messages. A call whose
    answer was lost (time-out, connection reset, no token counts) counts with the most that it can have cost, since the server
    may have billed it. The limits hold over several starts, killed ones among them: by `resume` where one process asks at a
    time, by a `ledger` where many do.

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
        max_total_tokens: int | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        if max_cost is not None and (input_price is None or output_price is None):
            lacking = "input_price" if input_price is None else "output_price"
            raise UserError(
                f"{section}.max_cost={max_cost}: can't be kept, {section}.{lacking} is null; "
                "set it to the price of a million tokens (0 where they cost nothing)"
            )
        self.max_calls, self.max_total_tokens, self.max_cost = max_calls, max_total_tokens, max_cost
        self.input_price, self.output_price = input_price, output_price
        self.calls = self.input_tokens = self.output_tokens = 0
        self._section, self._ledger = section, ledger
        self._note: Callable[[int, Spending], None] = lambda number, spending: None
        self._under_way: dict[int, Spending] = {}  # a call's number -> the most that it can take
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
        spending = Spending(input_tokens, output_tokens)
        number = self._reserve(spending)
        try:
            yield spending
        finally:
            with self._changed:
                del self._under_way[number]
                self.input_tokens += spending.input_tokens
                self.output_tokens += spending.output_tokens
                self._changed.notify_all()
                self._note(number, spending)
                if self._ledger is not None:
                    self._ledger.write(self._own())

    def _reserve(self, spending: Spending) -> int:
        """Put aside what a call can take; returns its number."""
        with self._changed:
            while True:
                with self._ledger.exclusive() if self._ledger is not None else nullcontext(Spent(0, 0, 0)) as others:
                    problem = self._problem(others, spending)
                    if problem is None:
                        return self._count(spending)
                # Calls under way mostly take less than is put aside for them: what is left is known when they are back.
                if not self._under_way:
                    raise BudgetExceeded(f"{self._section}.{problem}; raise it, and the same command resumes")
                self._changed.wait()

    def _count(self, spending: Spending) -> int:
        number = self.calls
        self._note(number, spending)
        self.calls += 1
        self._under_way[number] = Spending(spending.input_tokens, spending.output_tokens)
        if self._ledger is not None:
            self._ledger.write(self._own())
        return number

    def _problem(self, others: Spent, asked: Spending) -> str | None:
        """Which limit one more call could pass, and why; None if it can be made."""
        own = self._own((asked,))
        tokens_in, tokens_out = others.input_tokens + own.input_tokens, others.output_tokens + own.output_tokens
        if self.max_calls is not None and others.calls + self.calls >= self.max_calls:
            return f"max_calls={self.max_calls}: all made"
        if self.max_total_tokens is not None and tokens_in + tokens_out > self.max_total_tokens:
            tokens = asked.input_tokens + asked.output_tokens
            taken = tokens_in + tokens_out - tokens
            return f"max_total_tokens={self.max_total_tokens}: {taken} taken, the next call could take {tokens}"
        cost = self.cost(tokens_in, tokens_out) or 0.0
        if self.max_cost is not None and cost > self.max_cost:
            most = self.cost(asked.input_tokens, asked.output_tokens) or 0.0
            spent = significant(cost - most, 4)
            return f"max_cost={self.max_cost:g}: {spent} spent, the next call could cost {significant(most, 2)}"
        return None

    def _own(self, more: Sequence[Spending] = ()) -> Spent:
        """What this process has spent, calls under way and `more` with the most that they can take."""
        open_calls = [*self._under_way.values(), *more]
        tokens_in = self.input_tokens + sum(call.input_tokens for call in open_calls)
        return Spent(self.calls, tokens_in, self.output_tokens + sum(call.output_tokens for call in open_calls))
