"""A parent that errs at a known rate: some training prompts get another prompt's reference.

What a policy learns from a wrong parent can only be told against the right answers: evaluations and exact match keep to
them, and only the reward in training sees the errors (`pgsrm.reward.scorer.Scorer`).
"""

from dataclasses import replace
from random import Random

from pgsrm.task import Example, Task, task_digest
from pgsrm.util.errors import UserError


def with_mistakes(task: Task, rate: float, seed: int) -> Task:
    """`task` with errors in a share `rate` (0 to 1, rounded to whole prompts) of its training prompts.

    Every prompt has its place in a random order, and the wrong reference that it would get, by `seed` and its own text
    alone: the errors at one rate are among those at a higher one, and a run's own seed moves none. The wrong one is that of
    another training prompt, drawn among those that the checker refuses as an answer here.

    Raises UserError for a prompt whose answer is right for every other.
    """
    count = round(rate * len(task.train))
    if count == 0:
        return task
    draws = [Random(f"{seed} {example.prompt}").random() for example in task.train]
    chosen = set(sorted(range(len(draws)), key=draws.__getitem__)[:count])
    if task.checker is None:
        raise UserError("parent.error_rate: the task has no checker, so that nothing is an error; set it to 0")
    train = [
        replace(example, error=_wrong(example, task, seed)) if number in chosen else example
        for number, example in enumerate(task.train)
    ]
    return replace(task, train=train, digest=task_digest(train, task.holdout))


def _wrong(example: Example, task: Task, seed: int) -> str:
    check = task.checker
    assert check is not None  # there are errors to make
    wrong = [
        other.reference
        for other in task.train
        if not check(other.reference, example.reference, example.inputs) and other.reference != example.reference
    ]
    if not wrong:
        raise UserError(
            f"parent.error_rate: every reference of task.data is right for {example.prompt!r}; set it to 0, or give other data"
        )
    return wrong[int(Random(f"{seed} wrong {example.prompt}").random() * len(wrong))]
