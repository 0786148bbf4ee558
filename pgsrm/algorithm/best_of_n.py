"""Best-of-n without training: what the samples to a prompt are worth, and what the best of n of them is. Needs no torch."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from pgsrm.algorithm.selection import best_of_n_kl_with_ties, chances_of_best

REWARD, RIGHT = "mean reward", "right answers"  # what the two are called in tables; a measure is "measure NAME"


@dataclass
class Judged:
    """What the samples to one prompt are worth, in the order in which they were drawn.

    rewards: by the reward that chooses. values: by name, what judges them besides: the checker (`RIGHT`, 1 or 0), measures.
    """

    rewards: list[float] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)

    def best_of(self, n: int) -> dict[str, float]:
        """The expected reward (`REWARD`) and the other values of the best of n by the reward (`chances_of_best`)."""
        chances = chances_of_best(self.rewards, n)
        judged = {REWARD: self.rewards, **self.values}
        return {name: sum(c * v for c, v in zip(chances, values, strict=True)) for name, values in judged.items()}

    def kl(self, n: int) -> float:
        """KL of the best of n from the policy that sampled, in nats per response (`best_of_n_kl_with_ties`)."""
        return best_of_n_kl_with_ties(self.rewards, n)


def sizes(samples: int) -> Iterator[int]:
    """1, 2, 4, ... and `samples` itself."""
    n = 1
    while n < samples:
        yield n
        n *= 2
    yield samples
