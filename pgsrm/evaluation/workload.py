"""What a run will ask of servers, in its updates and in its evaluations: told before the first call."""

from collections.abc import Sequence
from typing import Any

from pgsrm.evaluation.evaluation import Evaluation
from pgsrm.models.asking import CHARACTERS, Estimate, estimates_of
from pgsrm.ppo.settings import PPOSettings
from pgsrm.task import Example, Task
from pgsrm.util.numbers import counted


def expected_calls(
    task: Task, reward: Any, evaluation: Evaluation, settings: PPOSettings, every: int, update: int
) -> list[str]:
    """A line for each server that reward or measures ask: what the updates after `update` and their evaluations take at most.

    every: updates between two evaluations. Responses are taken to be as long as they may be. Empty where nobody is asked.
    """
    updates = settings.updates - update
    evaluations = sum(step % every == 0 or step == settings.updates for step in range(update + 1, settings.updates + 1))
    evaluations += update == 0
    trained = [
        estimate.times(updates * settings.batch_size / len(task.train)) for estimate in _of(reward, task.train, task)
    ]
    greedy, sampled = evaluation.greedy_examples, evaluation.sampled_examples
    asked = _of(reward, greedy, task)
    for measure in evaluation.measures.values():
        asked += _of(measure, sampled, task)
    evaluated = [estimate.times(evaluations) for estimate in asked]
    texts = counted(len(greedy), "greedy answer")
    if evaluation.measures:
        texts = f"{len(greedy)} greedy and {counted(len(sampled), 'sampled answer')}"
    what = (
        f"updates of {counted(settings.batch_size, 'response')} ({updates}) and evaluations of {texts} ({evaluations})"
    )
    lines = []
    for of in dict.fromkeys(estimate.of for estimate in trained + evaluated):
        own = [estimate for estimate in trained + evaluated if estimate.of == of]
        total = sum(own[1:], own[0])
        share = sum(estimate.calls for estimate in evaluated if estimate.of == of)
        lines.append(
            f"at most, for {what}: {total}; {share:,.0f} of the calls are the evaluations' (evaluation.every, "
            "evaluation.prompts); what was asked before is not asked again"
        )
    return lines


def _of(target: Any, examples: Sequence[Example], task: Task) -> list[Estimate]:
    return estimates_of(
        target, [example.prompt for example in examples], ["x" * CHARACTERS * task.max_new_tokens] * len(examples)
    )
