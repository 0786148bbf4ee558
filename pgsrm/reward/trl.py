"""A reward function that was written for TRL, as a reward here. TRL's own need TRL; others need nothing."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from pgsrm.reward.references import compared
from pgsrm.util.errors import ParameterError
from pgsrm.util.numbers import counted

References = Literal["each", "list"]  # what a function of another trainer gets of a prompt with several
_OF_TRL = frozenset(("prompts", "completions", "completion_ids", "trainer_state", "log_metric", "log_extra"))


class TRLReward:
    """What a reward function of TRL's form returns: `f(prompts, completions, completion_ids, **columns) -> list[float | None]`.

    function: the function; a coroutine function is waited for.
    conversational: whether prompts and completions are given as lists of messages, which some of TRL's functions ask for.
    columns: other names under which the function finds what is known of a prompt: `{solution: reference}`. A value is a column
        of the task's data, or `reference`. All columns are also given under their own names.
    references, of prompts with several:
        each: `reference` is one text. A response is in the batch once with each of them, and the largest reward counts
        list: `reference` is a list of texts, for every prompt, and a response is in the batch once

    None and NaN, TRL's words for "not applicable", count 0, as in TRL's sum over functions. `trainer_state` is None here. What the
    function gives `log_metric` is logged as `reward/<name>`, its mean where it comes several times; `log_extra` is not kept.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        conversational: bool = False,
        columns: dict[str, str] | None = None,
        references: References = "each",
    ) -> None:
        if not callable(function):
            raise ParameterError("function: not a function; name one as function._target_=package.module.name")
        self._function, self._conversational, self._columns = function, conversational, columns or {}
        self._references = references

    def __call__(
        self,
        *,
        prompts: Sequence[str],
        references: Sequence[str],
        responses: Sequence[str],
        inputs: Sequence[Mapping[str, str]],
        token_ids: Sequence[Sequence[int]],
        all_references: Sequence[Sequence[str]] | None = None,
        **_: Any,
    ) -> tuple[list[float], dict[str, float]]:
        """One reward per response, and the metrics that the function logged."""
        given = [as_asked(texts, self._references) for texts in compared(references, all_references)]
        rows = [row for row, asked in enumerate(given) for _ in asked]  # of the batch that the function gets
        logged: dict[str, list[float]] = defaultdict(list)
        arguments = dict[str, Any](
            prompts=[as_given("user", prompts[row], self._conversational) for row in rows],
            completions=[as_given("assistant", responses[row], self._conversational) for row in rows],
            completion_ids=[list(token_ids[row]) for row in rows],
            trainer_state=None,
            log_metric=lambda name, value: logged[name].append(float(value)),
            log_extra=lambda column, values: None,
            **self._found([reference for asked in given for reference in asked], [inputs[row] for row in rows]),
        )
        self._check_signature(arguments)
        output = waited_for(self._function(**arguments))
        metrics = {name: sum(values) / len(values) for name, values in logged.items()}
        return _largest(output, rows, len(responses)), metrics

    def _check_signature(self, arguments: Mapping[str, Any]) -> None:
        try:
            inspect.signature(self._function).bind(**arguments)
        except TypeError as error:
            columns = ", ".join(name for name in arguments if name not in _OF_TRL)
            raise ParameterError(
                f"function: {error}; the columns are {columns}, and +reward.columns.NAME=reference gives one another name"
            ) from error

    def _found(self, references: Sequence[Any], inputs: Sequence[Mapping[str, str]]) -> dict[str, list[Any]]:
        """The dataset's columns as TRL would give them."""
        columns: dict[str, list[Any]] = {name: [row[name] for row in inputs] for name in (inputs[0] if inputs else ())}
        columns["reference"] = list(references)
        for name, source in self._columns.items():
            if source not in columns:
                raise ParameterError(f"columns.{name}={source}: no such column; there are {', '.join(columns)}")
            columns[name] = columns[source]
        return columns


def _largest(output: Any, rows: Sequence[int], count: int) -> list[Any]:
    """For each of `count` responses the largest of the rewards of its `rows` in the batch; 0 where none is applicable."""
    if not isinstance(output, Iterable):
        raise ParameterError(f"function: it returned {output!r}; return a list with a number for each completion")
    output = list(output)
    if len(output) != len(rows):
        counts = f"{counted(len(output), 'reward')} for {counted(len(rows), 'completion')}"
        raise ParameterError(f"function: it returned {counts}; return one for each")
    applicable: list[list[Any]] = [[] for _ in range(count)]
    for row, reward in zip(rows, output, strict=True):
        if reward is not None and reward == reward:
            applicable[row].append(reward)
    return [max(rewards, default=0.0) for rewards in applicable]


def as_asked(texts: Sequence[str], references: References) -> list[Any]:
    """What a function of others is asked with, in turn, about a response whose prompt has these references."""
    return [list(texts)] if references == "list" else list(texts)


def as_given(role: str, text: str, conversational: bool) -> str | list[dict[str, str]]:
    """A prompt or a response as other trainers' functions get it: a text, or a conversation of one message."""
    return [{"role": role, "content": text}] if conversational else text


def waited_for(output: Any) -> Any:
    """What a function of others returned, waited for if it is awaitable."""
    if not inspect.isawaitable(output):
        return output
    with ThreadPoolExecutor(1) as beside:  # a notebook has a loop of its own in this thread
        import asyncio  # a tenth of what a config needs to be checked, for a few rewards

        return beside.submit(asyncio.run, _waited(output)).result()


async def _waited(awaitable: Any) -> Any:
    return await awaitable
