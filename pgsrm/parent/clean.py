"""A parent's answer without what models and servers put around it: thoughts, special tokens, markdown, invisible characters.

What is stripped leaves the answer whole; what can't be stripped without a guess is refused. A mark that the prompt's inputs
hold themselves is the prompt's, and stays.
"""

import json
import re

from pgsrm.task.references import TEMPLATE_TOKEN, THOUGHT_BEGINS, THOUGHT_ENDS
from pgsrm.util.text import has_half_character, nfc

_INVISIBLE = re.compile("[\u00ad\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")
# Joiners belong to a word of other scripts ("می‌خواهم") and to emoji, never to ASCII letters or to an end.
_LOOSE_JOINER = re.compile("(?:(?<![^\x00-\x7f])[\u200c\u200d]+)|(?:[\u200c\u200d]+(?![^\x00-\x7f]))")
_THOUGHT = re.compile(rf"(?:{THOUGHT_BEGINS.pattern}).*?(?:{THOUGHT_ENDS.pattern})", re.DOTALL | re.IGNORECASE)
_NO_THOUGHT = re.compile(r"<think\s*/>", re.IGNORECASE)
# Which answer of several channels (gpt-oss) is the last one; the others are thoughts.
_CHANNEL = re.compile(r"(?:<\|start\|>\w+)?<\|channel\|>(?:analysis|commentary)\b.*?<\|end\|>", re.DOTALL)
_TOKEN_IN_FRONT = re.compile(rf"\s*({TEMPLATE_TOKEN.pattern})", re.IGNORECASE)
_ROLE = re.compile(r"\s*(?:assistant|model|final)\b:?", re.IGNORECASE)
_ROLE_LINE = re.compile(r"\s*(?:assistant|model)\s*\n+(?=\s*\S)", re.IGNORECASE)
_TOKENS_BEHIND = re.compile(rf"(?:\s*(?:{TEMPLATE_TOKEN.pattern}))+\s*\Z", re.IGNORECASE)
_FENCE = re.compile(r"(```+|~~~+)(?:[ \t]*[\w+-]*[ \t]*\n)?(.*?)\s*\1", re.DOTALL)
_HEADING = re.compile(r"(?:#{1,6}|[*•])[ \t]+(?=\S)")
_AROUND = (
    ("**", "**"),
    ("*", "*"),
    ("``", "``"),
    ("`", "`"),
    ('"', '"'),
    ("'", "'"),
    ("“", "”"),
    ("„", "“"),
    ("”", "”"),
    ("‘", "’"),
    ("«", "»"),
    ("\\boxed{", "}"),
    ("\\text{", "}"),
    ("$", "$"),
)
_TAGS = "b|i|em|strong|code|p|span|div|answer|output"
_TAGGED = re.compile(rf"<({_TAGS})>(.*)</\1>", re.DOTALL | re.IGNORECASE)
# What no answer begins or ends with, or is: a pattern and what it is called, unless the inputs hold it too.
_LEFT_OVER = [
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), name)
    for pattern, name in (
        (r"\A(?:\*\*|`|~~|\*(?=\S)|_+(?=\w.*_\Z))|(?:\*\*|`|~~|(?<=\S)\*)(?=[.!?,;:]?\Z)", "markdown"),
        (rf"</?(?:{_TAGS}|br)\b[^<>]*>", "a tag"),
        (r'\A["“„«](?=[^"“”»]*\Z)', "half a pair of quotes"),
        (r"\A(?:[-+>•]|\d+[.)])\s+(?=\S)", "a list's mark"),
        (r"\\[nrt]\Z|\\u[0-9a-f]{4}", "an escaped character"),
        (r"\A(?:assistant|user|human|ai|bot|system|model)\s*:|\n\s*(?:assistant|user|human|system)\b", "a role"),
        (r"\A(?:[.…?–—-]+|n/a)\Z", "no word"),
    )
]
# Words of an assistant in front of its answer, or instead of one.
_TALK = re.compile(
    r"(?:(?:the|my|final|correct)\s+)*(?:answer|output|result|response)\s*(?:is\b|:)|(?:sure|certainly|of course|okay)\s*[!,:]"
    r"|here(?:'s|’s|\s+is)\s+(?:the|your|my)\s+(?:answer|output|result|response)|as an ai\b"
    r"|(?:i(?:'m|’m|\s+am)\s+sorry,?\s+(?:but\s+)?)?i\s+(?:can(?:no|'|’)t|can not|am unable to)"
    r"\s+(?:help|assist|answer|provide|comply)",
    re.IGNORECASE,
)
_MOST_LAYERS = 8  # of marks around each other


class BadAnswer(Exception):
    """An answer that is no reference; the message says why, to follow "the answer to 'red + blue =' ..."."""


def without_template(text: str) -> str:
    """An answer's text without closed thoughts, special tokens around it and invisible characters, in NFC.

    Raises:
        BadAnswer: for a thought that doesn't end, and for half of a character.
    """
    if has_half_character(text):
        raise BadAnswer(f"has half of a character in it: {nfc(text)[:60]!r}")
    text = _LOOSE_JOINER.sub("", _INVISIBLE.sub("", text))
    text = _THOUGHT.sub("", _CHANNEL.sub("", _NO_THOUGHT.sub("", text)))
    # Servers that put the beginning of a thought into the prompt answer without it.
    closed = list(THOUGHT_ENDS.finditer(text))
    text = text[closed[-1].end() :] if closed else text
    if THOUGHT_BEGINS.search(text):
        raise BadAnswer(f"is a thought that does not end: {text.strip()[:60]!r}")
    return nfc(_without_tokens(text)).strip()


def without_marks(text: str, inputs: str) -> str:
    """A value without the markdown, quotes or code fences around it; inputs: the prompt's, whose own marks stay.

    Raises:
        BadAnswer: for marks that are not around the whole of it, and for an assistant's words in front of the answer.
    """
    text = text.strip()
    for _ in range(_MOST_LAYERS):
        inner = _one_layer_less(text, inputs)
        if inner == text:
            break
        text = inner
    for pattern, name in _LEFT_OVER:
        left = pattern.search(text)
        if left and left[0].strip() not in inputs:
            raise BadAnswer(f"has {name} in it: {text[:60]!r}")
    talk = _TALK.match(text)
    if talk and talk[0].casefold() not in inputs.casefold():
        raise BadAnswer(f"has words around it: {text[:60]!r}")
    return text


def _without_tokens(text: str) -> str:
    text = _TOKENS_BEHIND.sub("", text)
    while token := _TOKEN_IN_FRONT.match(text):
        text = text[token.end() :]
        # "<|im_start|>assistant": the role belongs to the token.
        if (role := _ROLE.match(text)) and re.search("start|channel|header", token[1], re.IGNORECASE):
            text = text[role.end() :]
    return _ROLE_LINE.sub("", text, count=1) if _ROLE_LINE.match(text) else text


def _one_layer_less(text: str, inputs: str) -> str:
    if fenced := _FENCE.fullmatch(text):
        return fenced[2].strip()
    if "<" not in inputs and (tagged := _TAGGED.fullmatch(text)):
        return tagged[2].strip()
    if '"' not in inputs and text.startswith('"'):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, str) and not has_half_character(value):
            return value.strip()
    if "#" not in inputs and "*" not in inputs and (heading := _HEADING.match(text)):
        return text[heading.end() :]
    for end in ("", *".!?,;:"):
        for first, last in _AROUND:
            core = text.removesuffix(end)
            inner = core[len(first) : len(core) - len(last)]
            around = text.endswith(end) and core.startswith(first) and core.endswith(last) and inner.strip()
            if around and first not in inputs and last not in inputs and not _again(first, last, inner):
                return inner.strip() + end
    return text


def _again(first: str, last: str, inner: str) -> bool:
    """Whether a mark comes again inside: it is then not one pair around the whole. Apostrophes within words are none."""
    if last in ("'", "’"):
        inner = re.sub(r"(?<=\w)['’](?=\w)", "", inner)
    return first in inner or last in inner
