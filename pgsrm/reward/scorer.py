"""What responses are worth, and what there is to say of them: in training, and in an evaluation."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pgsrm.reward import Reward, Rewards
from pgsrm.reward.output import normalise
from pgsrm.task import Checker, Example
from pgsrm.util.distributed import ALONE, Processes

if TYPE_CHECKING:
    from pgsrm.policy.fast.forward import Prefill


@dataclass(frozen=True)
class Responses:
    """B sampled responses: token ids (EOS kept where sampled), their text, and each token's characters in it."""

    ids: list[list[int]]
    texts: list[str]
    offsets: list[list[tuple[int, int]]]
    read: "Prefill | None" = None  # the policy's pass over the prompts, for the update


class Scorer:
    """A run's reward and checker. `eos` is the token id that ends a response.

    The reward compares with what the parent said (`Example.taught`), the checker with the right reference: they differ where
    `parent.error_rate` put in an error. Of several processes the first alone calls the reward.
    """

    def __init__(self, reward: Reward, checker: Checker, eos: int, processes: Processes = ALONE) -> None:
        self.reward, self.checker, self.eos, self.processes = reward, checker, eos, processes

    def __call__(self, examples: Sequence[Example], responses: Responses) -> tuple[Rewards, dict[str, float]]:
        """The reward of each response (or token), and the metrics of the reward and the responses."""
        return self.processes.from_first(lambda: self._score(examples, responses))

    def _score(self, examples: Sequence[Example], responses: Responses) -> tuple[Rewards, dict[str, float]]:
        output = self.reward(
            prompts=[example.prompt for example in examples],
            references=[example.taught for example in examples],
            responses=responses.texts,
            inputs=[example.inputs for example in examples],
            token_ids=responses.ids,
            offsets=responses.offsets,
        )
        rewards, extra = normalise(output, responses.ids, type(self.reward).__name__)
        totals = torch.tensor([sum(r) if isinstance(r, list) else r for r in rewards])
        counts = Counter(responses.texts)
        return rewards, {
            "reward/mean": totals.mean().item(),
            "reward/std": totals.std(unbiased=False).item(),
            "reward/no_signal": float(bool((totals == totals[0]).all())),
            "reward/exact_match": mean(self.correct(examples, responses.texts)),
            **{f"reward/{name}": value for name, value in extra.items()},
            "response/length": mean([len(ids) for ids in responses.ids]),
            "response/eos": mean([ids[-1] == self.eos for ids in responses.ids]),
            "response/distinct": len(counts) / len(responses.texts),
            "response/top_share": counts.most_common(1)[0][1] / len(responses.texts),
        }

    def correct(self, examples: Sequence[Example], texts: Sequence[str]) -> list[bool]:
        """Whether the task's checker accepts each text as the answer to its example."""
        return [
            self.checker(text, example.reference, example.inputs) for example, text in zip(examples, texts, strict=True)
        ]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
