"""The policy between two updates: its answers to all prompts, greedy and sampled, and its loss on a plain text.

It moves none of the training's generators, leaves the weights as they are and lets rewards forget it, so that a run's numbers
do not depend on how often it is evaluated (but for a reward of a user's own that draws, or remembers without a `state`).
"""

import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from pgsrm.evaluation.distance import distance
from pgsrm.evaluation.inputs import Evaluated
from pgsrm.evaluation.variety import variety
from pgsrm.models.text import Codec
from pgsrm.policy.base import greedily
from pgsrm.policy.protocol import Policy
from pgsrm.policy.sampling import Sampling, shortened
from pgsrm.reward import Reward
from pgsrm.reward.scorer import Scorer
from pgsrm.rollout import Rollout
from pgsrm.task import Example, Task, accepts, reference_columns
from pgsrm.util.numbers import mean
from pgsrm.util.objects import as_before

WINDOW = 128  # tokens of a text that are read at once: what nano was pre-trained on


class Evaluation:
    """Called with the number of updates made, returns the metrics `eval/*`.

    prompt_ids: the token ids of every prompt; evaluated are those that `chosen` takes of each split. evaluated_with: what it is
    measured by besides its reward. The references are the right ones, whatever errors training is given (`parent.error_rate`).
    """

    def __init__(
        self,
        task: Task,
        policy: Policy,
        codec: Codec,
        prompt_ids: Mapping[str, list[int]],
        scorer: Scorer,
        sampling: Sampling,
        seed: int,
        evaluated_with: Evaluated = Evaluated(),  # noqa: B008  (frozen)
    ) -> None:
        self._splits = {
            name: chosen(examples, evaluated_with.prompts)
            for name, examples in (("train", task.train), ("holdout", task.holdout))
            if examples
        }
        self._prompt_ids = {name: [prompt_ids[e.prompt] for e in examples] for name, examples in self._splits.items()}
        self._policy, self._codec, self._score = policy, codec, scorer
        self._sampling, self._seed, self._shortest = sampling, seed, task.min_new_tokens
        self._with, text = evaluated_with, evaluated_with.text
        self.windows = None if text is None else text_windows(codec, text, policy.positions)

    @property
    def measures(self) -> Mapping[str, Reward]:
        """What sampled answers are measured by."""
        return self._with.measures

    @property
    def greedy_examples(self) -> list[Example]:
        """The examples whose greedy answers an evaluation gives to the reward."""
        return [example for examples in self._splits.values() for example in examples]

    @property
    def sampled_examples(self) -> list[Example]:
        """The examples, once for each sampled answer, that the measures are asked about: held-out ones, else trained ones."""
        examples = self._splits[self._sampled_split]
        return [example for example in examples for _ in range(self._with.continuations)]

    @property
    def _sampled_split(self) -> str:
        return "holdout" if "holdout" in self._splits else "train"

    def __call__(self, update: int) -> dict[str, float]:
        """The metrics `eval/*` after `update` updates; `time/evaluation` is in seconds."""
        with as_before(self._score.reward, *self._with.measures.values()):
            return self._evaluate(update)

    def _evaluate(self, update: int) -> dict[str, float]:
        started, metrics = time.perf_counter(), dict[str, float]()
        draws = np.random.default_rng([self._seed, update])  # its own: the same after a resume, none of the training's
        for split, examples in self._splits.items():
            values = self._answers(examples, self._prompt_ids[split], draws)
            metrics |= {f"eval/{split}_{name}": value for name, value in values.items()}
        if self._with.measures:
            metrics |= self._continuations(draws)
        if self.windows is not None:
            metrics["eval/perplexity"] = perplexity(self._policy, self.windows)
        metrics["time/evaluation"] = time.perf_counter() - started
        return metrics

    def _answers(
        self, examples: Sequence[Example], prompt_ids: list[list[int]], draws: np.random.Generator
    ) -> dict[str, float]:
        """The metrics of one split."""
        length = self._sampling.max_new_tokens
        greedy_way = greedily(len(examples), length)
        sampled_way = torch.from_numpy(draws.random((len(examples), length))), self._sampling
        ways = [greedy_way, sampled_way] if self._score.checker is not None else [greedy_way]
        ids, *sampled_ids = self._policy.answers(prompt_ids, ways)
        rightly = [replace(example, error=None) for example in examples]
        greedy = Rollout(rightly, prompt_ids, ids, *self._codec.decode(ids))
        metrics = self._score(greedy).metrics
        values: dict[str, float] = {}
        if sampled_ids:
            sampled, _ = self._codec.decode(sampled_ids[0])
            values = {
                "exact_match": metrics["reward/exact_match"],
                "sampled_exact_match": mean(self._score.correct(examples, sampled)),
            }
        values |= {
            "reward": metrics["reward/mean"],
            "distinct": metrics["response/distinct"],
            "top_share": metrics["response/top_share"],
        }
        other = self._with.other
        if other is not None:
            asked = {**reference_columns([example.references for example in examples]), "responses": greedy.texts}
            rewards, _ = self._score.processes.from_first(lambda: other(**asked))
            values["other_reward"] = mean(rewards)
        return values | self._misled(examples, greedy.texts)

    def _continuations(self, draws: np.random.Generator) -> dict[str, float]:
        """What sampled answers to held-out prompts (without any, trained ones) are worth by the measures, and their variety.

        RELC (arXiv:2401.07382) judges its policies so: by measures that are not trained on, and distinct n-grams.
        """
        split, examples = self._sampled_split, self.sampled_examples
        prompt_ids = [ids for ids in self._prompt_ids[split] for _ in range(self._with.continuations)]
        longest = self._sampling.max_new_tokens
        uniforms = torch.from_numpy(draws.random((len(examples), longest)))
        ids = shortened(self._policy.answer(prompt_ids, uniforms, self._sampling), self._shortest, longest, draws)
        rollout = Rollout(examples, prompt_ids, ids, *self._codec.decode(ids))
        values = {
            **self._score.processes.from_first(lambda: self._measured(rollout)),
            **variety(rollout.texts),
            **distance(self._policy, prompt_ids, ids),
            "length": mean([len(row) for row in ids]),
        }
        return {f"eval/{split}_{name}": value for name, value in values.items()}

    def _measured(self, rollout: Rollout) -> dict[str, float]:
        """Of each measure the mean, and the mean over the prompts of the largest; where it has a threshold, shares above it."""
        values: dict[str, float] = {}
        for name, measure in self._with.measures.items():
            totals = Scorer(measure, None, (), key=f"evaluation.measures.{name}").rewards(rollout).totals
            values |= {f"{name}{ending}": value for ending, value in worth(measure, totals, self._with.continuations)}
        return values

    def _misled(self, examples: Sequence[Example], texts: Sequence[str]) -> dict[str, float]:
        """Of the prompts that training gives a wrong reference: right answers, and answers that are the wrong one."""
        pairs = zip(texts, examples, strict=True)
        misled = [(text, e, e.error) for text, e in pairs if e.error is not None and e.error not in e.references]
        if not misled:
            return {}
        check = self._score.checker
        assert check is not None  # there are errors
        return {
            "misled_exact_match": mean([accepts(check, text, e) for text, e, _ in misled]),
            "misled_error_match": mean([check(text, error, e.inputs) for text, e, error in misled]),
        }


def chosen(examples: Sequence[Example], most: int | None) -> list[Example]:
    """At most so many of the examples, in their order (None: all): those whose prompts' hashes come first.

    So they are the same ones for every run, seed and machine, and a row added to the data changes one of them at most.
    """
    if most is None or most >= len(examples):
        return list(examples)
    order = sorted(range(len(examples)), key=lambda i: hashlib.sha256(examples[i].prompt.encode()).digest())
    return [examples[i] for i in sorted(order[:most])]


def worth(measure: Any, totals: Sequence[float], continuations: int) -> Iterator[tuple[str, float]]:
    """What a measure says of answers, `continuations` to each prompt in turn, by the ending of the metric's name.

    As RealToxicityPrompts (Gehman et al. 2020, 4.1) judges: the expected maximum, and how many prompts have any answer above
    the threshold.
    """
    largest = [max(totals[start : start + continuations]) for start in range(0, len(totals), continuations)]
    yield "", mean(totals)
    yield "_max", mean(largest)
    if (threshold := getattr(measure, "threshold", None)) is not None:
        yield "_share", mean([total > threshold for total in totals])
        yield "_any", mean([most > threshold for most in largest])


def text_windows(codec: Codec, text: str, positions: int | None) -> torch.Tensor:
    """The token ids of a text in windows (W, L) of L = 128 tokens, or what the model or the text allows; a rest is left out."""
    ids = codec.encode_text(text)
    length = min(WINDOW, len(ids), positions or WINDOW)
    count = len(ids) // length
    return torch.tensor(ids[: count * length]).view(count, length)


def perplexity(policy: Policy, windows: torch.Tensor) -> float:
    """Perplexity of token ids `windows` (W, L): exp of the mean -log p of the tokens, each window's first left out."""
    try:
        return math.exp(-policy.text_logprob(windows))
    except OverflowError:  # a policy that has diverged
        return math.inf
