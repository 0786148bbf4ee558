"""Rewards of this package in TRL's trainers (docs/trl.md). TRL itself is not imported, so that any version will do.

trainer = GRPOTrainer(
    model=...,
    reward_funcs=pgsrm.trl.reward_function("reward=pgsrm", "embedder=static"),
    train_dataset=Dataset.from_list(pgsrm.trl.dataset_rows("task=antonym")),
)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pgsrm.api import load_task
from pgsrm.text_reward import TextReward
from pgsrm.util.errors import UserError

# What TRL gives a reward function beside the dataset's columns.
_OF_TRL = frozenset(("trainer_state", "log_extra", "log_metric", "environments"))


def reward_function(
    *overrides: str,
    reference: str | None = "reference",
    tokenizer: Any | None = None,
    reward: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """A reward of this package as an entry of TRL's `reward_funcs`, for its GRPOTrainer and RLOOTrainer.

    Prompts and completions may be texts or messages; of messages the last one's text counts. The
    reward's metrics go to TRL's log. A reward per token gives TRL its total: TRL has one number per completion.
    Where the reward asks a server the function is a coroutine function, which TRL runs beside the others.

    Args:
        overrides: the words of the command line: `reward=pgsrm`, `embedder=static`, `reward.alpha=2`; `task=` for what a
            reward takes from a task, such as binary's checker.
        reference: the dataset's column with the reference answer, or a list of several; None for a reward that compares with
            none. A row without one gets no reward (None), as in data sets of several tasks. All texts of a row are its `inputs`.
        tokenizer: the policy's; reward=critic needs it.
        reward: a reward of your own, as in `pgsrm.train`.

    Raises:
        UserError: for a word that is wrong; when called, for a dataset without the references that the reward needs.
    """
    score = TextReward(*overrides, tokenizer=tokenizer, reward=reward)

    def call(
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        rows = {name: column for name, column in columns.items() if name not in _OF_TRL}
        references = _references(rows, reference, len(prompts))
        known = [row for row, given in enumerate(references) if given is not None]
        if not known:
            return [None] * len(references)
        inputs = _inputs(rows, len(prompts))
        scored = score(
            [_text(prompts[row]) for row in known],
            [_text(completions[row]) for row in known],
            [given for given in references if given is not None],
            [inputs[row] for row in known],
            None if completion_ids is None else [completion_ids[row] for row in known],
        )
        if log_metric is not None:
            for name, value in scored.metrics.items():
                log_metric(name if "/" in name else f"{score.name}/{name}", value)
        totals = dict(zip(known, scored.totals, strict=True))
        return [totals.get(row) for row in range(len(references))]

    async def call_beside(*args: Any, **kwargs: Any) -> list[float | None]:
        return await asyncio.to_thread(call, *args, **kwargs)

    function = call_beside if score.asks_server else call
    function.__name__ = function.__qualname__ = score.name  # TRL's name for it, in its log
    return function


def dataset_rows(*overrides: str, split: str = "train") -> list[dict[str, Any]]:
    """A task's prompts as rows for `datasets.Dataset.from_list`: prompt, reference, and the columns of the task's data.

    Where any prompt of the task has several references, each row's `reference` is a list: a column has one type.

    Args:
        overrides: the words of the command line: `task=antonym`, `task.holdout=0.2`.
        split: train or holdout.

    Raises:
        UserError: for a word that is wrong, or another split.
    """
    if split not in ("train", "holdout"):
        raise UserError(f"split={split}: no such split; take train or holdout")
    task = load_task(*overrides)
    examples = task.train if split == "train" else task.holdout
    several = any(len(example.all_taught) > 1 for example in task.train + task.holdout)
    return [
        {
            **example.inputs,
            "prompt": example.prompt,
            "reference": list(example.all_taught) if several else example.taught,
        }
        for example in examples
    ]


def _text(given: Any) -> str:
    """A prompt or completion: the text, or the last message's of a conversation."""
    if isinstance(given, str):
        return given
    content = given[-1].get("content") if given else None
    if isinstance(content, str) or content is None:  # none: a message that only calls a tool
        return content or ""
    return "".join(part.get("text", "") for part in content)


def _references(columns: Mapping[str, Any], name: str | None, count: int) -> list[str | list[str] | None]:
    if name is None:
        return [""] * count
    if name not in columns:
        shown = ", ".join(columns) or "none"
        raise UserError(
            f"reference={name}: the dataset has no such column (it has: {shown}); name the column of the reference answers, or "
            "give reference=None with a reward that compares with none"
        )
    for given in columns[name]:
        if isinstance(given, dict) or (isinstance(given, list) and not (given and all(map(_is_text, given)))):
            shown = str(given)[:60]
            raise UserError(
                f"reference={name}: the column has {shown}; give each row one text, a list of texts, or None"
            )
    return [given if given is None or isinstance(given, list) else str(given) for given in columns[name]]


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _inputs(columns: Mapping[str, Any], count: int) -> list[dict[str, str]]:
    """The texts of each row by their columns; a row lacks what is no text in it."""
    of_rows = {
        name: column for name, column in columns.items() if isinstance(column, Sequence) and len(column) == count
    }
    return [
        {name: column[row] for name, column in of_rows.items() if isinstance(column[row], str)} for row in range(count)
    ]
