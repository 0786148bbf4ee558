"""What a parent is asked, and how its answer is read (PGSRM, arXiv:2512.06920, A.3)."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pgsrm.task import load_inputs, reference_problem, render
from pgsrm.util.errors import UserError

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


class BadAnswer(Exception):
    """An answer that is no reference; the message says why, to follow "the answer to 'red + blue =' ..."."""


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
        form = task.get("parent_input") or task["template"]  # FIDELITY D12: A.3's form, or the child's prompt
        self.asked = [render(form, row, "task.parent_input").strip() for row in self.rows]
        self._task = task
        self._inputs = dict(zip(self.asked, self.rows, strict=True))

    def messages(self, asked: str) -> list[dict[str, str]]:
        """The conversation: the instruction as the system's message, the input as the user's."""
        return [{"role": "system", "content": self.instruction}, {"role": "user", "content": asked}]

    def read(self, asked: str, text: str) -> str:
        """The reference in an answer's text.

        Raises:
            BadAnswer: if it isn't in the form that it must have, or no reference can be like that.
        """
        reference = _output(text, self.instruction).strip()
        problem = reference_problem(reference, self._inputs[asked], self._task)
        if problem is not None:
            raise BadAnswer(f"{problem}: {reference[:60]!r}")
        return reference


def _output(text: str, instruction: str) -> str:
    """The value of {"OUTPUT": "..."}, which is all of the text but for a code fence around it.

    Where the instruction asks for no such form (color mixing), text without it is an answer too.
    """
    fenced = re.fullmatch(r"\s*```(?:json)?\s*(.*?)\s*```\s*", text, re.DOTALL)
    try:
        value = json.loads(fenced[1] if fenced else text)
    except ValueError:
        if "OUTPUT" not in instruction:
            return text
        value = None
    if not isinstance(value, dict) or list(value) != ["OUTPUT"] or not isinstance(value["OUTPUT"], str):
        raise BadAnswer(f'is not {{"OUTPUT": "..."}}: {text[:60]!r}')
    return value["OUTPUT"]
