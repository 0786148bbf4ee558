"""What no reference can be, whoever wrote it: checked when a parent answers, and when a run reads `parent.references`."""

import re
from collections.abc import Mapping
from typing import Any

from pgsrm.task.template import render

_LEFT_OVER = re.compile(r"""```|\{\s*["']|["']?OUTPUT["']?\s*:|^\s*\{.*\}\s*$""", re.DOTALL)
_PHRASE = 4  # words from which on a phrase of the instruction is no coincidence


def reference_problem(reference: str, inputs: Mapping[str, str], task: Mapping[str, Any]) -> str | None:
    """Why a text can't be the reference for a prompt's inputs under a `task` group, None if it can.

    Refused: nothing; JSON left-overs (code fences, {"OUTPUT"); more words than the inputs have and 2 max_new_tokens besides,
    which the child can't come near; the question, text of its template, or a line of the instruction given back. The
    instruction's own examples (in quotes) are answers like others.
    """
    if not reference.strip(" \t\r\n\"'"):
        return "is empty"
    if _LEFT_OVER.search(reference):
        return "has left-overs of JSON in it"
    most = sum(len(value.split()) for value in inputs.values()) + 2 * task["max_new_tokens"]
    if _echoes(reference, inputs, task):
        return "repeats what was asked"
    if len(reference.split()) > most:
        return f"is too long ({len(reference.split())} words, at most {most})"
    return None


def _echoes(reference: str, inputs: Mapping[str, str], task: Mapping[str, Any]) -> bool:
    said = _plain(reference)
    for template in (task["template"], task.get("parent_input") or ""):
        fixed = [_plain(text) for text in re.split(r"\{\w+\}", template)]
        if any(len(text.split()) >= _PHRASE - 1 and text in said for text in fixed):
            return True
        if any(fixed) and _plain(render(template, inputs)) in said:  # "red + blue ="
            return True
    lines = re.sub(r'"[^"\n]*"', '"', task.get("instruction") or "").splitlines()
    return any(_overlap(said, _plain(line)) for line in lines)


def _overlap(said: str, line: str) -> bool:
    """Whether one has the other in it, and that is a phrase."""
    return (len(line.split()) >= _PHRASE and line in said) or (len(said.split()) >= _PHRASE and said in line)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" -.:'\"")
