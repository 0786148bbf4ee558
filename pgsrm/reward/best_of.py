"""What a reward likes best among a policy's own samples, and whether others like it: over-optimisation without any training.

Gao et al. 2023 (arXiv:2210.10760) ask so with best-of-n: where the reward of the best of n goes on rising and right answers fall,
the reward pays for something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pgsrm.reward.check import rewards_of
from pgsrm.task import Checker, Example, accepts, reference_columns
from pgsrm.util.numbers import mean

SHOWN = 5  # favourites that are not right
BLOCKS = 16  # to each prompt, of each size, at most: a second embedder is asked about their best ones


@dataclass(frozen=True)
class Best:
    """Means over prompts, and over blocks of n samples, of what the block's best by the reward is worth.

    reward: by the reward itself; right: share that the checker accepts; other: by the second reward. None where there is no such.
    """

    n: int
    reward: float
    right: float | None
    other: float | None


@dataclass(frozen=True)
class Favourite:
    """The response of all to a prompt that earns most. own: what the prompt's reference earns; right: None without a checker."""

    example: Example
    response: str
    reward: float
    own: float
    right: bool | None


Other = Callable[..., tuple[Sequence[float], Any]]


def best_of(
    reward: Any,
    checker: Checker | None,
    other: Other | None,
    examples: Sequence[Example],
    samples: Sequence[Sequence[str]],
) -> tuple[list[Best], list[Favourite]]:
    """The best of n samples for n = 1, 4, 16 ... and all of them, and each prompt's favourite among all.

    samples: of each example equally many responses, in the order in which they were drawn. Of equal rewards the first drawn
    counts. A block is n samples in a row; the first `BLOCKS` of a prompt are taken. other: a second reward.
    """
    earned = [_earned(reward, example, texts) for example, texts in zip(examples, samples, strict=True)]
    results = []
    for n in _sizes(len(samples[0])):
        best = [
            (example, text, rewards[text])
            for example, texts, rewards in zip(examples, samples, earned, strict=True)
            for block in _blocks(texts, n)
            for text in [max(block, key=rewards.__getitem__)]
        ]
        asked, chosen, got = zip(*best, strict=True)
        results.append(Best(n, mean(got), _right(checker, asked, chosen), _by_other(other, asked, chosen)))
    favourites = []
    for example, texts, rewards in zip(examples, samples, earned, strict=True):
        text = max(texts, key=rewards.__getitem__)
        (own,) = rewards_of(reward, [example], [example.reference])
        right = None if checker is None else accepts(checker, text, example)
        favourites.append(Favourite(example, text, rewards[text], own, right))
    return results, favourites


def _earned(reward: Any, example: Example, texts: Sequence[str]) -> dict[str, float]:
    """What each different response to a prompt earns."""
    distinct = list(dict.fromkeys(texts))
    return dict(zip(distinct, rewards_of(reward, [example] * len(distinct), distinct), strict=True))


def _sizes(count: int) -> Iterator[int]:
    n = 1
    while n < count:
        yield n
        n *= 4
    yield count


def _blocks(texts: Sequence[str], n: int) -> list[Sequence[str]]:
    return [texts[start : start + n] for start in range(0, len(texts) - n + 1, n)][:BLOCKS]


def _right(checker: Checker | None, examples: Sequence[Example], texts: Sequence[str]) -> float | None:
    if checker is None:
        return None
    return mean([accepts(checker, text, example) for example, text in zip(examples, texts, strict=True)])


def _by_other(other: Other | None, examples: Sequence[Example], texts: Sequence[str]) -> float | None:
    if other is None:
        return None
    rewards, _ = other(**reference_columns([example.references for example in examples]), responses=list(texts))
    return mean(rewards)


def table(results: Sequence[Best], favourites: Sequence[Favourite]) -> str:
    """A line for each n, in Markdown, and what the reward likes best and the checker does not accept."""
    lines = ["| best of | mean reward | right answers | second embedder |", "| ---: | ---: | ---: | ---: |"]
    for best in results:
        right = "–" if best.right is None else f"{best.right:.0%}"
        lines.append(
            f"| {best.n:,} | {best.reward:.2f} | {right} | {'–' if best.other is None else f'{best.other:.2f}'} |"
        )
    wrong = sorted((f for f in favourites if f.right is False), key=lambda f: f.own - f.reward)
    if wrong:
        lines.append(f"\nNot right are the best of all to {len(wrong)} of {len(favourites)} prompts, among them:\n")
        lines += [
            f"- {f.response!r} earns {f.reward:.2f}, where {f.example.reference!r} earns {f.own:.2f}"
            for f in wrong[:SHOWN]
        ]
    return "\n".join(lines)
