"""A rubric that was written for verifiers, as a reward here. The rubric itself may need verifiers; this file does not."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pgsrm.reward.references import compared
from pgsrm.reward.trl import References, as_asked, as_given, waited_for
from pgsrm.util.errors import ParameterError
from pgsrm.util.numbers import counted


class RubricReward:
    """The weighted sum of a rubric's reward functions, each `f(prompt, completion, answer, state, task, info, ...) -> float`.

    rubric: a `verifiers.Rubric`, a group of them, or what else has `funcs` (or `reward_funcs`) and `weights` (or
        `reward_weights`).
    conversational: whether prompt and completion are given as lists of messages, which is verifiers' usual form, or as texts.
    answer: what a function gets as `answer`: a column of the task's data, or `reference`.
    references, of prompts with several:
        each: `reference` is one text. A response is judged once by each of them, and the largest sum counts
        list: `reference` is a list of texts, for every prompt, and a response is judged once

    A function gets those arguments that it names, and all of them if it takes `**kwargs`: also each column of the task's data, by
    its name, and what the rubric gives its functions (`parser`, `judge`). `info` has the columns, `state` the other arguments,
    `task` is "default". A coroutine function is waited for. What each function returns is logged as `reward/<its name>`, the
    mean over the batch; of several with one name the second has `_2` behind it, and so on in the rubric's order. Where
    verifiers takes an error of a function for 0, it ends the run here. Functions that judge a group of responses together
    (`prompts`, `completions`) are refused.
    """

    def __init__(
        self,
        rubric: Any,
        conversational: bool = True,
        answer: str = "reference",
        references: References = "each",
    ) -> None:
        self._functions = list(_functions_of(rubric))
        if not self._functions:
            raise ParameterError(
                f"rubric: {type(rubric).__name__} has no functions; give a verifiers.Rubric with funcs=[...]"
            )
        for function in self._functions:
            if {"prompts", "completions"} & set(function.parameters):
                raise ParameterError(
                    f"rubric: {function.name} judges a group of responses together; give functions of one response"
                )
        self._names = _distinct([function.name for function in self._functions])
        self._conversational, self._answer, self._references = conversational, answer, references

    def __call__(
        self,
        *,
        prompts: Sequence[str],
        references: Sequence[str],
        responses: Sequence[str],
        inputs: Sequence[Mapping[str, str]],
        all_references: Sequence[Sequence[str]] | None = None,
        **_: Any,
    ) -> tuple[list[float], dict[str, float]]:
        """One reward per response, and the mean of what each function returned, by the reference that gives the reward."""
        totals: list[float] = []
        sums = dict.fromkeys(self._names, 0.0)
        several = compared(references, all_references)
        for prompt, texts, response, columns in zip(prompts, several, responses, inputs, strict=True):
            judged = [
                self._judged(self._arguments(prompt, response, {**columns, "reference": reference}))
                for reference in as_asked(texts, self._references)
            ]
            # NaN is the largest, so that it is told whichever reference it is of
            values = max(judged, key=lambda each: (math.isnan(self._total(each)), self._total(each)))
            totals.append(self._total(values))
            for name, value in zip(self._names, values, strict=True):
                sums[name] += value
        return totals, {name: total / len(responses) for name, total in sums.items()}

    def _judged(self, given: dict[str, Any]) -> list[float]:
        """What each function returns."""
        return [float(waited_for(each.call(**each.taken({**given, **each.own})))) for each in self._functions]

    def _total(self, values: Sequence[float]) -> float:
        return sum(each.weight * value for each, value in zip(self._functions, values, strict=True))

    def _arguments(self, prompt: str, response: str, columns: dict[str, Any]) -> dict[str, Any]:
        if self._answer not in columns:
            raise ParameterError(f"answer={self._answer}: no such column; there are {', '.join(columns)}")
        given = {
            "prompt": as_given("user", prompt, self._conversational),
            "completion": as_given("assistant", response, self._conversational),
            "answer": columns[self._answer],
            "task": "default",
            "info": dict(columns),
        }
        return {**columns, **given, "state": {**given, "timing": {}}}


@dataclass(frozen=True)
class _Function:
    """One of a rubric's functions, with its weight and the objects that its rubric gives it."""

    call: Callable[..., Any]
    weight: float
    own: dict[str, Any]

    @property
    def name(self) -> str:
        return getattr(self.call, "__name__", type(self.call).__name__)

    @cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.call).parameters

    def taken(self, given: dict[str, Any]) -> dict[str, Any]:
        """Of the arguments those that the function takes."""
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in self.parameters.values()):
            return given
        lacking = [
            name
            for name, each in self.parameters.items()
            if name not in given and each.default is each.empty and each.kind is not each.VAR_POSITIONAL
        ]
        if lacking:
            raise ParameterError(f"rubric: {self.name} asks for {', '.join(lacking)}; there are {', '.join(given)}")
        return {name: value for name, value in given.items() if name in self.parameters}


def _functions_of(rubric: Any) -> Iterator[_Function]:
    """The functions of a rubric, or of each in a group of them."""
    for part in getattr(rubric, "rubrics", None) or [rubric]:
        functions = getattr(part, "funcs", None) or getattr(part, "reward_funcs", None) or []
        weights = getattr(part, "weights", None) or getattr(part, "reward_weights", None) or [1.0] * len(functions)
        if len(weights) != len(functions):
            raise ParameterError(
                f"rubric: {counted(len(functions), 'function')} with {counted(len(weights), 'weight')}; give each one"
            )
        own = dict(getattr(part, "class_objects", None) or {})
        for function, weight in zip(functions, weights, strict=True):
            yield _Function(function, float(weight), own)


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, with _2, _3 ... behind those that came before; never one that a later function has of its own."""
    made: list[str] = []
    for name in names:
        further = (f"{name}_{count}" for count in itertools.count(2))
        free = (each for each in further if each not in made and each not in names)
        made.append(next(free) if name in made else name)
    return made
