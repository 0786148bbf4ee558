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
    ) -> None:
        """key: where the reward stands in the config, for its errors."""
        self.reward, self.checker, self.eos, self.processes = reward, checker, eos, processes
        self._key = key

    def __call__(self, rollout: Rollout) -> Scored:
        """The rewards of the responses, and the metrics of both."""
        return self.processes.from_first(lambda: self._score(rollout))

    def _score(self, rollout: Rollout) -> Scored:
        started = time.perf_counter()
        scored = self.rewards(rollout)
        seconds = {"time/reward": time.perf_counter() - started}
        own = {name if "/" in name else f"reward/{name}": value for name, value in scored.metrics.items()}
        return replace(scored, metrics={**_of_rewards(scored), **own, **self._of_responses(rollout), **seconds})

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


def _of_rewards(scored: Scored) -> dict[str, float]:
    """Of the totals; of the tokens, where the reward is per token; of the annotations, where there are any."""
    totals = torch.tensor(scored.totals)
    metrics = {
        "reward/mean": totals.mean().item(),
        "reward/std": totals.std(unbiased=False).item(),
        "reward/no_signal": float(_no_signal(scored)),
    }
    if scored.per_token:
        tokens = torch.tensor([reward for rewards in scored.token_rewards for reward in rewards], dtype=torch.float64)
        metrics["reward/token_mean"] = tokens.mean().item()
        metrics["reward/token_std"] = tokens.std(unbiased=False).item()
        metrics["reward/token_share"] = (tokens != 0).double().mean().item()
    return metrics | _of_annotations(scored.annotations)


def _no_signal(scored: Scored) -> bool:
    """Whether nothing in the batch earned more than anything else: every token has the same reward still to come."""
    to_come = scored.totals
    if scored.per_token:
        to_come = [reward for rewards in scored.token_rewards for reward in accumulate(reversed(rewards))]
    return len(torch.tensor(to_come).unique()) == 1  # float32, as the update has them


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
