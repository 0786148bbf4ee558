"""A parent that errs: at a known rate, by another prompt's reference, or by what it really answered.

What a policy learns from a wrong parent can only be told against the right answers: evaluations and exact match keep to
them, and only the reward in training sees the errors (`pgsrm.reward.scorer.Scorer`).
"""

from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any

from pgsrm.task import Example, LacksReferencesError, Task, accepts, load_task, task_digest
from pgsrm.util.errors import UserError


def taught_by(parent: Task, config: Mapping[str, Any]) -> Task:
    """The task of a `task` group with the data's own references, where training is given those of `parent`.

    parent: the same prompts and split with the parent's references. Held-out prompts keep to what is right alone.

    Raises UserError where a prompt has no reference of its own, or several of the parent's.
    """
    try:
        own = load_task(config)
    except LacksReferencesError:
        own = None
    if own is None or not all(example.reference for example in own.train + own.holdout):
        raise UserError(
            f"parent.right=data: not every row of task.data={config['data']} has a reference of its own; "
            "add a column `reference`, or leave parent.right=parent"
        )
    several = next((example.prompt for example in parent.train if example.further), None)
    if several is not None:
        raise UserError(
            f"parent.right=data: parent.references has several references for {several!r}; give the parent's one answer there, "
            "or leave parent.right=parent"
        )
    train = [
        right if answered.references == right.references else replace(right, error=answered.reference)
        for right, answered in zip(own.train, parent.train, strict=True)
    ]
    return replace(own, train=train, digest=task_digest(train, own.holdout))


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
        if not accepts(check, other.reference, example) and other.reference not in example.references
    ]
    if not wrong:
        raise UserError(
            f"parent.error_rate: every reference of task.data is right for {example.prompt!r}; set it to 0, or give other data"
        )
    return wrong[int(Random(f"{seed} wrong {example.prompt}").random() * len(wrong))]
