"""Templates: text with {column} placeholders, also {a.b} for a column of that name, `{{` and `}}` for literal braces."""

import string
from collections.abc import Iterable, Mapping

from pgsrm.util.errors import UserError
from pgsrm.util.text import has_half_character


def placeholders(template: str, key: str) -> list[str]:
    """The columns a template asks for, in order of appearance, each once.

    Raises UserError, naming `key`, for unbalanced braces and for placeholders that are no plain name.
    """
    if has_half_character(template):
        raise UserError(f"{key}={template!r}: has half of a character; write the character itself, in UTF-8")
    remedy = "write placeholders as {column}, literal braces as {{ and }}"
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UserError(f"{key}={template!r}: {error}; {remedy}") from error
    names = []
    for _, name, spec, conversion in parts:
        if name is None:
            continue
        if not all(part.isidentifier() for part in name.split(".")) or spec or conversion:
            raise UserError(f"{key}={template!r}: `{{{name}}}` is not a column name; {remedy}")
        names.append(name)
    return list(dict.fromkeys(names))


def find_column(name: str, columns: Iterable[str]) -> str | None:
    """The column that fills {name}: `name` itself, else its plural (`words` for {word}), else None."""
    return next((column for column in (name, f"{name}s") if column in columns), None)


def render(template: str, inputs: Mapping[str, str], key: str = "template") -> str:
    """Fill a template with one prompt's inputs. Raises UserError, naming `key`, for a column it lacks."""
    for name in placeholders(template, key):
        if name not in inputs:
            raise UserError(f"{key}={template!r}: no column `{name}`; there are {', '.join(inputs)}")
    # not format_map(), for which {a.b} is an attribute of a
    parts = string.Formatter().parse(template)
    return "".join(text + ("" if name is None else inputs[name]) for text, name, _, _ in parts)
