"""A policy's samples to each prompt of a task, their rewards, and what else judges them."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from pgsrm.algorithm.best_of_n import RIGHT, Judged
from pgsrm.models.text import Codec
from pgsrm.policy.protocol import Policy
from pgsrm.policy.sampling import Sampling, shortened
from pgsrm.reward import Reward
from pgsrm.reward.scorer import Scorer
from pgsrm.rollout import Rollout
from pgsrm.task import Example

PROMPTS_AT_ONCE = 256
DRAWS_AT_ONCE = 8  # to each of them; the prompts are read once for all


class Sampler:
    """Draws and judges. prompt_ids: of each prompt. scorer: of the reward that chooses, and of the task's checker.

    measures: by their names.
    """

    def __init__(
        self,
        policy: Policy,
        codec: Codec,
        prompt_ids: Mapping[str, list[int]],
        how: Sampling,
        min_new_tokens: int | None,
        scorer: Scorer,
        measures: Mapping[str, Reward],
    ) -> None:
        self._policy, self._codec, self._prompt_ids = policy, codec, prompt_ids
        self._how, self._shortest, self._scorer = how, min_new_tokens, scorer
        self._measures = {
            f"measure {name}": Scorer(measure, None, (), key=f"evaluation.measures.{name}")
            for name, measure in measures.items()
        }

    def __call__(
        self, examples: Sequence[Example], samples: int, draws: np.random.Generator, tell: Callable[[int], None]
    ) -> list[Judged]:
        """`samples` responses to each example, judged. tell: is called with the number of responses that each step adds."""
        judged = [Judged() for _ in examples]
        for start in range(0, len(examples), PROMPTS_AT_ONCE):
            rows = slice(start, start + PROMPTS_AT_ONCE)
            for first in range(0, samples, DRAWS_AT_ONCE):
                times = min(DRAWS_AT_ONCE, samples - first)
                tell(self._judge(examples[rows], judged[rows], times, draws))
        return judged

    def _judge(
        self, examples: Sequence[Example], judged: Sequence[Judged], times: int, draws: np.random.Generator
    ) -> int:
        rollout = self._sample(examples, times, draws)
        columns = {name: scorer.rewards(rollout).totals for name, scorer in self._measures.items()}
        if right := self._scorer.correct(rollout.examples, rollout.texts):
            columns = {RIGHT: [float(each) for each in right], **columns}
        for row, reward in enumerate(self._scorer.rewards(rollout).totals):
            of_prompt = judged[row % len(examples)]
            of_prompt.rewards.append(reward)
            for name, column in columns.items():
                of_prompt.values.setdefault(name, []).append(column[row])
        return len(rollout)

    def _sample(self, examples: Sequence[Example], times: int, draws: np.random.Generator) -> Rollout:
        """`times` rounds of one response to each example."""
        prompts, longest = [self._prompt_ids[example.prompt] for example in examples], self._how.max_new_tokens
        uniforms = torch.from_numpy(draws.random((times, len(examples), longest)))
        rounds = self._policy.answers(prompts, [(each, self._how) for each in uniforms])
        ids = shortened([row for answered in rounds for row in answered], self._shortest, longest, draws)
        return Rollout([*examples] * times, prompts * times, ids, *self._codec.decode(ids))
