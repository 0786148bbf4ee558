"""What all that ask a server many questions share: some at a time, the name of the token limit, and what the calls will take."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from pgsrm.models.server import Server, ServerError
from pgsrm.util.numbers import counted, significant

Q = TypeVar("Q")
A = TypeVar("A")
TokenLimit = Literal["auto", "max_tokens", "max_completion_tokens"]
CHARACTERS = 4  # of a text are about a token


def answers_as_they_come(
    ask: Callable[[Q], A], questions: Sequence[Q], workers: int, stop: Callable[[], None] | None = None
) -> Generator[tuple[int, A], None, None]:
    """Answers to n questions, each with its question's number, in the order in which they come.

    ask: one call of a server, from any thread. workers: questions at a time. stop: called when a call has failed, so that those
    that wait for another try end too.

    Raises the first ServerError there is, after the answers that were under way: they are paid for.
    """
    if not questions:
        return
    yield 0, ask(questions[0])  # alone: a wrong key or model costs one call, and the server's limits are known
    pool = ThreadPoolExecutor(workers)
    numbers = {pool.submit(ask, question): number for number, question in enumerate(questions) if number}
    left = set(numbers)
    try:
        for future in as_completed(numbers):
            left.remove(future)
            yield numbers[future], future.result()
    except ServerError:
        if stop is not None:
            stop()
        pool.shutdown(wait=False, cancel_futures=True)
        for future in left:
            if not future.cancelled() and future.exception() is None:
                yield numbers[future], future.result()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def token_limit(name: TokenLimit, most: int, base_url: str | None) -> dict[str, Any]:
    """The option of a chat that limits its answer to so many tokens.

    OpenAI's newer models know the name max_completion_tokens alone, many other servers max_tokens.
    """
    usual = "max_completion_tokens" if base_url is None else "max_tokens"
    return {usual if name == "auto" else name: most}


@dataclass(frozen=True)
class Estimate:
    """What calls of a server will take: so many calls, tokens in and out, and their cost (None: prices are not known).

    of: whose calls. section: the config group with the prices, None where nothing has a price. Adding up and multiplying make
    the estimate of more calls of the same server.
    """

    of: str
    calls: float
    tokens_in: float = 0.0
    tokens_out: float = 0.0
    cost: float | None = None
    section: str | None = None

    @classmethod
    def of_chats(
        cls, model: str, server: Server, section: str, questions: Sequence[str], answer: int, fixed: int = 0
    ) -> Estimate:
        """Of chats, each a question, `fixed` characters more, and an answer of so many tokens."""
        tokens_in = sum(fixed + len(question) for question in questions) / CHARACTERS
        tokens_out = len(questions) * answer
        cost = server.budget.cost(tokens_in, tokens_out)
        return cls(f"{model} at {server.host}", len(questions), tokens_in, tokens_out, cost, section)

    def times(self, factor: float) -> Estimate:
        """So many times these calls."""
        cost = None if self.cost is None else factor * self.cost
        tokens_in, tokens_out = factor * self.tokens_in, factor * self.tokens_out
        return Estimate(self.of, factor * self.calls, tokens_in, tokens_out, cost, self.section)

    def __add__(self, other: Estimate) -> Estimate:
        cost = None if self.cost is None or other.cost is None else self.cost + other.cost
        tokens_in, tokens_out = self.tokens_in + other.tokens_in, self.tokens_out + other.tokens_out
        return replace(self, calls=self.calls + other.calls, tokens_in=tokens_in, tokens_out=tokens_out, cost=cost)

    def __str__(self) -> str:
        line = f"{counted(f'{self.calls:,.0f}', 'call')} of {self.of}"
        if self.section is None:
            return line
        price = f"unknown cost ({self.section}.input_price, {self.section}.output_price)"
        if self.cost is not None:
            price = f"cost {significant(self.cost, 2)}"
        return f"{line}: about {counted(f'{self.tokens_in:,.0f}', 'token')} in, {self.tokens_out:,.0f} out, {price}"


def estimates_of(target: Any, prompts: Sequence[str], responses: Sequence[str]) -> list[Estimate]:
    """What a reward or critic will ask of servers about n texts, if none was asked about before; [] for one that asks none."""
    estimate = getattr(target, "estimates", None)
    return list(estimate(prompts, responses)) if callable(estimate) else []
