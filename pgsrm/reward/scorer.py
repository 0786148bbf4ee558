"""What responses are worth, and what there is to say of them: in training, and in an evaluation."""

import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import accumulate

import torch

from pgsrm.reward import Reward
from pgsrm.reward.output import normalise
from pgsrm.rollout import Annotation, Rollout, Scored
from pgsrm.task import Checker, Example, accepts, reference_columns
from pgsrm.util.distributed import ALONE, Processes
from pgsrm.util.errors import under
from pgsrm.util.numbers import mean
from pgsrm.util.objects import name_of


class Scorer:
    """A run's reward and checker, None where nothing is right or wrong. `eos` are the token ids that end a response.

    The reward compares with what the parent said (`Example.all_taught`), the checker with the right references, any of which will
    do: they differ where `parent.error_rate` put in an error. Of several processes the first alone calls the reward.
    """

    def __init__(
        self,
        reward: Reward,
        checker: Checker | None,
        eos: Collection[int],
        processes: Processes = ALONE,
        key: str = "reward",
        group_size: int | None = None,
    ) -> None:
        """key: where the reward stands in the config, for its errors. group_size: of responses that are compared with each other.

        None: all of a batch are.
        """
        self.reward, self.checker, self.eos, self.processes = reward, checker, eos, processes
        self._key, self._group_size = key, group_size

    def __call__(self, rollout: Rollout) -> Scored:
        """The rewards of the responses, and the metrics of both."""
        return self.processes.from_first(lambda: self._score(rollout))

    def _score(self, rollout: Rollout) -> Scored:
        started = time.perf_counter()
        scored = self.rewards(rollout)
        seconds = {"time/reward": time.perf_counter() - started}
        own = {name if "/" in name else f"reward/{name}": value for name, value in scored.metrics.items()}
        of_rewards = _of_rewards(scored, self._group_size or len(rollout))
        return replace(scored, metrics={**of_rewards, **own, **self._of_responses(rollout), **seconds})

    def rewards(self, rollout: Rollout) -> Scored:
        """What the reward itself says."""
        with under(self._key):
            output = self.reward(
                prompts=[example.prompt for example in rollout.examples],
                **reference_columns([example.all_taught for example in rollout.examples]),
                responses=rollout.texts,
                inputs=[example.inputs for example in rollout.examples],
                token_ids=rollout.response_ids,
                offsets=rollout.offsets,
            )
        return normalise(output, rollout.response_ids, name_of(self.reward), rollout.texts)

    def _of_responses(self, rollout: Rollout) -> dict[str, float]:
        counts = Counter(rollout.texts)
        correct = self.correct(rollout.examples, rollout.texts)
        return {
            **({"reward/exact_match": mean(correct)} if correct else {}),
            "response/length": mean([len(ids) for ids in rollout.response_ids]),
            "response/eos": mean([ids[-1] in self.eos for ids in rollout.response_ids]),
            "response/distinct": len(counts) / len(rollout),
            "response/top_share": counts.most_common(1)[0][1] / len(rollout),
        }

    def correct(self, examples: Sequence[Example], texts: Sequence[str]) -> list[bool]:
        """Whether the task's checker accepts each text as the answer to its example; empty without a checker."""
        check = self.checker
        if check is None:
            return []
        return [accepts(check, text, example) for example, text in zip(examples, texts, strict=True)]


def _of_rewards(scored: Scored, group_size: int) -> dict[str, float]:
    """Of the totals; of the tokens, where the reward is per token; of the annotations, where there are any."""
    totals = torch.tensor(scored.totals)
    metrics = {
        "reward/mean": totals.mean().item(),
        "reward/std": totals.std(unbiased=False).item(),
        "reward/no_signal": _no_signal(scored, group_size),
    }
    if scored.per_token:
        tokens = torch.tensor([reward for rewards in scored.token_rewards for reward in rewards], dtype=torch.float64)
        metrics["reward/token_mean"] = tokens.mean().item()
        metrics["reward/token_std"] = tokens.std(unbiased=False).item()
        metrics["reward/token_share"] = (tokens != 0).double().mean().item()
    return metrics | _of_annotations(scored.annotations)


def _no_signal(scored: Scored, group_size: int) -> float:
    """Share of the responses in whose group nothing earned more than anything else: every token has the same reward still to come.

    Groups are rows that follow one another.
    """
    to_come = [[total] for total in scored.totals]
    if scored.per_token:
        to_come = [list(accumulate(reversed(rewards))) for rewards in scored.token_rewards]
    groups = [to_come[start : start + group_size] for start in range(0, len(to_come), group_size)]
    # float32, as the update has them
    return mean([len(torch.tensor([each for rows in group for each in rows]).unique()) == 1 for group in groups])


def _of_annotations(annotations: Sequence[Annotation]) -> dict[str, float]:
    """The mean of each named component over the responses that have it, and marked spans per response."""
    metrics: dict[str, float] = {}
    if any(annotation.spans for annotation in annotations):
        metrics["reward/spans"] = mean([len(annotation.spans) for annotation in annotations])
    names = dict.fromkeys(name for annotation in annotations for name in annotation.components)
    for name in names:
        values = [annotation.components[name] for annotation in annotations if name in annotation.components]
        metrics[f"reward/component_{name}"] = mean(values)
    return metrics
