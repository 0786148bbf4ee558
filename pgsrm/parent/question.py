"""What a parent is asked, and how its answer is read (PGSRM, arXiv:2512.06920, A.3)."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pgsrm.parent.clean import BadAnswer, without_marks, without_template
from pgsrm.task import load_inputs, reference_problem, render
from pgsrm.util.errors import UserError

_LINES = 64  # tokens of a response from which on an answer may have several lines though its prompt has one

# What makes a server's answer {"OUTPUT": "..."} and nothing else.
RESPONSE_FORMAT = {
    "type": "json_schema",
    "json_schema": {
        "name": "output",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"OUTPUT": {"type": "string"}},
            "required": ["OUTPUT"],
            "additionalProperties": False,
        },
    },
}


@dataclass(frozen=True)
class Answer:
    """What came back for a question: the reference, or why there is none; tokens over all tries."""

    asked: str
    reference: str | None
    problem: str | None
    model: str
    prompt_tokens: int
    completion_tokens: int


class Questions:
    """A task's prompts as a parent gets them. `rows` are the prompts' inputs; `asked`, parallel to it, what is asked.

    Raises:
        UserError: if the task has no instruction, or its data is wrong.
    """

    def __init__(self, task: Mapping[str, Any]) -> None:
        if not task.get("instruction"):
            raise UserError("task.instruction=null: the parent must be told what to do; set it")
        self.instruction: str = task["instruction"].strip()
        self.rows = load_inputs(task)
        form = (
            task.get("parent_input") or task["template"]
        )  # the form of the paper's Appendix A.3, or the policy's prompt
        self.asked = [render(form, row, "task.parent_input").strip() for row in self.rows]
        self._task = task
        self._one_line = task["max_new_tokens"] < _LINES  # a longer answer may be a poem
        self._inputs = dict(zip(self.asked, self.rows, strict=True))

    def messages(self, asked: str) -> list[dict[str, str]]:
        """The conversation: the instruction as the system's message, the input as the user's."""
        return [{"role": "system", "content": self.instruction}, {"role": "user", "content": asked}]

    def read(self, asked: str, text: str) -> str:
        """The reference in an answer's text.

        Raises:
            BadAnswer: if it isn't in the form that it must have, or no reference can be like that.
        """
        inputs = " ".join(self._inputs[asked].values())
        value = _output(text, self.instruction)
        reference = without_marks(without_template(value), inputs)
        problem = reference_problem(reference, self._inputs[asked], self._task)
        if problem is not None:
            raise BadAnswer(f"{problem}: {reference[:60]!r}")
        if self._one_line and "\n" in reference and "\n" not in inputs:
            raise BadAnswer(f"has several lines: {reference[:60]!r}")
        return reference


def _output(text: str, instruction: str) -> str:
    """The value of {"OUTPUT": "..."}, which is all of the text but for what a chat's template or a code fence puts around it.

    Where the instruction asks for no such form (color mixing), anything but an object is an answer as it stands: `7`,
    `"purple"` and `true` are JSON by chance.
    """
    named = _object(text)
    if named is None:  # a thought may be in front of the object, or within it
        text = without_template(text)
        named = _object(text)
    if named is not None and [name for name, _ in named] == ["OUTPUT"] and isinstance(named[0][1], str):
        return named[0][1]
    if named is not None or "OUTPUT" in instruction:
        raise BadAnswer(f'is not {{"OUTPUT": "..."}}: {text[:60]!r}')
    return text


def _object(text: str) -> "_Pairs | None":
    """The names and values of a text that is a JSON object, None for any other."""
    fenced = re.fullmatch(r"\s*```(?:json)?\s*(.*?)\s*```\s*", text, re.DOTALL)
    try:
        value = json.loads(fenced[1] if fenced else text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, _Pairs) else None


class _Pairs(list[tuple[str, Any]]):
    """A JSON object, names that come twice included."""
