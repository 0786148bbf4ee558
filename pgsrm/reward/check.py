"""Before any training: do right answers earn more than others, under the configured reward?"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgsrm.util.errors import UserError
from pgsrm.util.objects import is_scaled, name_of

if TYPE_CHECKING:
    import numpy as np

    from pgsrm.task import Example, Task

PROMPTS = 200  # of a longer task so many are drawn: every answer is compared with every prompt
TEXTS = 100  # of random words
EXACT, NEAREST, OTHERS = "the exact answer", "the best other answer", "other prompts' answers"
WORDS, EMPTY = "random words", "the empty string"


@dataclass(frozen=True)
class Check:
    """rewards: by group, of all prompts. ranks: (n,) of each prompt's right answer among `answers` distinct ones, 1 = first.

    Another answer that earns as much counts as one before it.
    """

    rewards: dict[str, np.ndarray]
    ranks: np.ndarray
    answers: int

    @property
    def first(self) -> float:
        """Share of prompts whose right answer earns more than every other."""
        return float((self.ranks == 1).mean())

    @property
    def mean_reciprocal_rank(self) -> float:
        """Mean over prompts of 1 / the right answer's rank: 1 if it always earns most."""
        return float((1 / self.ranks).mean())


def with_reference(task: Task, made: str) -> list[Example]:
    """The prompts of a task, held-out ones too, that have a reference.

    Raises UserError where none has one: `made` says what would be made of them.
    """
    examples = [example for example in task.train + task.holdout if example.reference]
    if not examples:
        raise UserError(f"task: has no references to {made}; choose one that has, as task=antonym")
    return examples


def check_comparable(reward: Any) -> None:
    """Raise UserError for a reward whose numbers from different calls can't be compared."""
    if is_scaled(reward):
        raise UserError(
            "reward: what it pays for a text depends on the others of its batch or on those before (reward.normalise, or its own "
            "`scaled`), so that rewards which are asked for apart can't be compared; leave reward.normalise out here, or take "
            "another reward"
        )


def check_reward(reward: Any, examples: Sequence[Example], seed: int = 0) -> Check:
    """Give every prompt its own answer, all other answers, random words (as many as an answer has) and nothing."""
    import numpy as np

    draw = random.Random(seed)
    examples = draw.sample(list(examples), min(PROMPTS, len(examples)))
    answers = list(dict.fromkeys(example.reference for example in examples))
    nonsense = _random_texts([example.reference for example in examples], draw)
    responses = [*answers, *nonsense, ""]
    groups: dict[str, list[float]] = {EXACT: [], NEAREST: [], OTHERS: [], WORDS: [], EMPTY: []}
    ranks = []
    for example in examples:
        earned = rewards_of(reward, [example] * len(responses), responses)
        right = answers.index(example.reference)
        pairs = zip(answers, earned[: len(answers)], strict=True)
        others = [reward for answer, reward in pairs if answer not in example.references]
        ranks.append(1 + sum(other >= earned[right] for other in others))
        groups[EXACT].append(earned[right])
        groups[NEAREST] += [max(others)] if others else []
        groups[OTHERS] += others
        groups[WORDS] += earned[len(answers) : -1]
        groups[EMPTY].append(earned[-1])
    return Check({name: np.array(rewards) for name, rewards in groups.items()}, np.array(ranks), len(answers))


class NoPolicy:
    """Stands where a reward is given the policy: whatever it wants of it is refused."""

    def __getattr__(self, name: str) -> Any:
        raise UserError(
            "reward: asks the policy itself, and there is none outside a run; take another reward, or set "
            "critic.weights=initial for critic=self"
        )

    def __call__(self, *_: Any, **__: Any) -> Any:
        """Refused."""
        return self.asked


def rewards_of(reward: Any, examples: Sequence[Example], responses: Sequence[str]) -> list[float]:
    """What n responses, one to each of n examples, earn: the totals of their rewards."""
    from pgsrm.reward.output import normalise
    from pgsrm.task import reference_columns

    one_token = [[0]] * len(responses)  # a reward that goes by tokens sees a response as one
    output = reward(
        prompts=[example.prompt for example in examples],
        **reference_columns([example.references for example in examples]),
        responses=list(responses),
        inputs=[example.inputs for example in examples],
        token_ids=one_token,
        offsets=[[(0, len(text))] for text in responses],
    )
    return normalise(output, one_token, name_of(reward)).totals


def _random_texts(answers: Sequence[str], draw: random.Random) -> list[str]:
    """Words of the shipped vectors' vocabulary, in the number of an answer's words; none is an answer itself."""
    from pgsrm.embedder.vector_files import read_vectors
    from pgsrm.embedder.word_vectors import SHIPPED
    from pgsrm.util.text import words_of

    used = {word for answer in answers for word in words_of(answer)}
    words = [word for word in read_vectors(SHIPPED)[0] if word not in used]
    lengths = [max(1, len(answer.split())) for answer in draw.choices(answers, k=TEXTS)]
    return [" ".join(draw.choices(words, k=length)) for length in lengths]


def table(check: Check) -> str:
    """The rewards' distribution, a line per group, and how well they rank."""
    import numpy as np

    lines = [f"{'reward of':24}{'mean':>8}{'5 %':>8}{'median':>8}{'95 %':>8}{'number':>10}"]
    for name, rewards in check.rewards.items():
        if rewards.size:
            numbers = [rewards.mean(), *np.quantile(rewards, [0.05, 0.5, 0.95])]
            lines.append(f"{name:24}" + "".join(f"{number:8.3f}" for number in numbers) + f"{rewards.size:10,}")
    lines.append(
        f"the right answer is first among {check.answers} for {check.first:.1%} of {len(check.ranks)} prompts, "
        f"mean reciprocal rank {check.mean_reciprocal_rank:.3f}"
    )
    return "\n".join(lines)


def plot(checks: Mapping[str, Check], stem: Path) -> list[Path]:
    """A panel for each check, under its title, with a box per group (quartiles, whiskers from 5 to 95 %): stem.png, stem.pdf."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 0.4 + 2.0 * len(checks)), layout="constrained")
    panels = figure.subplots(len(checks), sharex=True, squeeze=False)[:, 0]
    for axes, (title, check) in zip(panels, checks.items(), strict=True):
        groups = {name: rewards for name, rewards in check.rewards.items() if rewards.size}
        boxes = list(reversed(groups.values()))
        axes.boxplot(boxes, orientation="horizontal", whis=(5, 95), widths=0.6, sym=".", flierprops={"markersize": 2})
        axes.set_yticks(range(1, len(groups) + 1), list(reversed(groups)), fontsize=8)
        ranking = f"right answer first {check.first:.0%}, mean reciprocal rank {check.mean_reciprocal_rank:.2f}"
        axes.set_title(f"{title}\n{ranking}", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("reward")
    files = [stem.with_suffix(suffix) for suffix in (".png", ".pdf")]
    stem.parent.mkdir(parents=True, exist_ok=True)
    for file in files:
        figure.savefig(file, dpi=100)
    return files
