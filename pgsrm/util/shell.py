"""Commands to copy: quoted for the shell, and for Hydra's grammar of overrides."""

import re
import shlex
import sys
from os.path import relpath

_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+-]+")


def override(key: str, value: object) -> str:
    """`key=value` as one word of a command line, whatever characters a text has: `"task.data='my data.csv'"`."""
    return quoted(f"{key}={for_hydra(value) if isinstance(value, str) else value}")


def quoted(word: str) -> str:
    """A word as `shlex.quote` makes it, but between double quotes where it has single ones that would look odd else."""
    readable = "'" in word and not re.search(r'["$`!]|\\(\\|$)', word)
    return f'"{word}"' if readable else shlex.quote(word)


def python() -> str:
    """This Python as a command to copy: from here where it lies below."""
    here = relpath(sys.executable)
    return shlex.quote(sys.executable if here.startswith("..") else here)


def for_hydra(text: str) -> str:
    """A text as Hydra reads it back, in quotes where it has to be: `a b`, `x=1`, `~/data`, `007`, `null`."""
    if _PLAIN.fullmatch(text) and not _is_other_type(text):
        return text
    # A backslash means itself except before a quote and at the end; `${` would be looked up.
    escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), text)
    return "'" + escaped.replace("${", "\\${") + "'"


def _is_other_type(text: str) -> bool:
    """Whether Hydra would read the text as a number, a truth value or null."""
    try:
        float(text)
    except ValueError:
        return text.lower() in ("null", "true", "false")
    return True
