"""A reward function that was written for TRL, as a reward here. TRL's own need TRL; others need nothing."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pgsrm.util.errors import ParameterError

_OF_TRL = frozenset(("prompts", "completions", "completion_ids", "trainer_state", "log_metric", "log_extra"))


class TRLReward:
    """What a reward function of TRL's form returns: `f(prompts, completions, completion_ids, **columns) -> list[float | None]`.

    function: the function; a coroutine function is waited for.
    conversational: whether prompts and completions are given as lists of messages, which some of TRL's functions ask for.
    columns: other names under which the function finds what is known of a prompt: `{solution: reference}`. A value is a column
        of the task's data, or `reference`. All columns are also given under their own names.

    None and NaN, TRL's words for "not applicable", count 0, as in TRL's sum over functions. `trainer_state` is None here. What the
    function gives `log_metric` is logged as `reward/<name>`, its mean where it comes several times; `log_extra` is not kept.
    """

    def __init__(
        self, function: Callable[..., Any], conversational: bool = False, columns: dict[str, str] | None = None
    ) -> None:
        if not callable(function):
            raise ParameterError("function: not a function; name one as function._target_=package.module.name")
        self._function, self._conversational, self._columns = function, conversational, columns or {}

    def __call__(
        self,
        *,
        prompts: Sequence[str],
        references: Sequence[str],
        responses: Sequence[str],
        inputs: Sequence[Mapping[str, str]],
        token_ids: Sequence[Sequence[int]],
        **_: Any,
    ) -> tuple[list[float], dict[str, float]]:
        """One reward per response, and the metrics that the function logged."""
        logged: dict[str, list[float]] = defaultdict(list)
        arguments = dict[str, Any](
            prompts=[as_given("user", prompt, self._conversational) for prompt in prompts],
            completions=[as_given("assistant", response, self._conversational) for response in responses],
            completion_ids=[list(ids) for ids in token_ids],
            trainer_state=None,
            log_metric=lambda name, value: logged[name].append(float(value)),
            log_extra=lambda column, values: None,
            **self._found(references, inputs),
        )
        self._check_signature(arguments)
        output = waited_for(self._function(**arguments))
        rewards = [0.0 if reward is None or reward != reward else reward for reward in output]
        return rewards, {name: sum(values) / len(values) for name, values in logged.items()}

    def _check_signature(self, arguments: Mapping[str, Any]) -> None:
        try:
            inspect.signature(self._function).bind(**arguments)
        except TypeError as error:
            columns = ", ".join(name for name in arguments if name not in _OF_TRL)
            raise ParameterError(
                f"function: {error}; the columns are {columns}, and +reward.columns.NAME=reference gives one another name"
            ) from error

    def _found(self, references: Sequence[str], inputs: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
        """The dataset's columns as TRL would give them."""
        columns = {name: [row[name] for row in inputs] for name in (inputs[0] if inputs else ())}
        columns["reference"] = list(references)
        for name, source in self._columns.items():
            if source not in columns:
                raise ParameterError(f"columns.{name}={source}: no such column; there are {', '.join(columns)}")
            columns[name] = columns[source]
        return columns


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
