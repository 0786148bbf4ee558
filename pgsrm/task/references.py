"""What no reference can be, whoever wrote it: checked when a parent answers, and when a run reads `parent.references`."""

import re
from collections.abc import Mapping
from typing import Any

from pgsrm.task.template import render
from pgsrm.util.text import nfc

_LEFT_OVER = re.compile(r"""```|[\{\[]\s*["']|["']?OUTPUT["']?\s*:|^\s*\{.*\}\s*$""", re.DOTALL)
# Special tokens as chat templates write them: no answer to a prompt that doesn't hold them itself.
TEMPLATE_TOKEN = re.compile(
    r"<\|[^<>|\n]{1,40}\|>|<｜[^<>｜\n]{1,40}｜>|</?(?:s|eos|bos|pad|unk|sep|cls|mask)>|</?[a-z]+_of_[a-z]+>"
    r"|<0x[0-9a-f]{2}>|\[/?INST\]|<</?SYS>>|\[(?:EOS|BOS|PAD|SEP|CLS|UNK|MASK)\]",
    re.IGNORECASE,
)
_THINKING = "think|thinking|thought|thoughts|reasoning|reflection|seed:think"
THOUGHT_BEGINS = re.compile(rf"<(?:{_THINKING})>|\[THINK\]|◁think▷|<\|begin_of_thought\|>", re.IGNORECASE)
THOUGHT_ENDS = re.compile(rf"</(?:{_THINKING})>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>", re.IGNORECASE)
_NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd]")
_PHRASE = 4  # words from which on a phrase of the instruction is no coincidence


def reference_problem(reference: str, inputs: Mapping[str, str], task: Mapping[str, Any]) -> str | None:
    """Why a text can't be the reference for a prompt's inputs under a `task` group, None if it can.

    Refused: nothing; JSON left-overs (code fences, {"OUTPUT"); special tokens and thoughts of a chat model, and control or
    undecodable characters, which the inputs don't have; more words than the inputs have and 2 max_new_tokens besides,
    which the policy can't come near; the question, text of its template, or a line of the instruction given back. The
    instruction's own examples (in quotes) are answers like others.
    """
    if not reference.strip(" \t\r\n\"'"):
        return "is empty"
    if _LEFT_OVER.search(reference):
        return "has left-overs of JSON in it"
    if left := _left_over_of_template(reference, " ".join(inputs.values())):
        return f"has {left} in it"
    most = sum(len(value.split()) for value in inputs.values()) + 2 * task["max_new_tokens"]
    if _echoes(reference, inputs, task):
        return "repeats what was asked"
    if len(reference.split()) > most:
        return f"is too long ({len(reference.split())} words, at most {most})"
    return None


def _left_over_of_template(reference: str, inputs: str) -> str | None:
    for pattern in (TEMPLATE_TOKEN, THOUGHT_BEGINS, THOUGHT_ENDS):
        for token in pattern.finditer(reference):
            if token[0] not in inputs:
                return token[0]
    for character in _NO_TEXT.findall(reference):
        if character not in inputs:
            return f"the character U+{ord(character):04X}"
    return None


def _echoes(reference: str, inputs: Mapping[str, str], task: Mapping[str, Any]) -> bool:
    answer = _plain(reference)
    for template in (task["template"], task.get("parent_input") or ""):
        fixed = [_plain(text) for text in re.split(r"\{\w+\}", template)]
        if any(len(text.split()) >= _PHRASE - 1 and text in answer for text in fixed):
            return True
        if any(fixed) and _plain(render(template, inputs)) in answer:  # "red + blue ="
            return True
    lines = re.sub(r'"[^"\n]*"', '"', task.get("instruction") or "").splitlines()
    return any(_overlap(answer, _plain(line)) for line in lines)


def _overlap(answer: str, line: str) -> bool:
    """Whether one has the other in it, and that is a phrase."""
    return (len(line.split()) >= _PHRASE and line in answer) or (len(answer.split()) >= _PHRASE and answer in line)


def _plain(text: str) -> str:
    return " ".join(nfc(text).casefold().split()).strip(" -.:'\"")
