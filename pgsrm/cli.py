"""Hydra's and OmegaConf's errors in one line."""

import re
from difflib import get_close_matches

from pgsrm.errors import UserError


def one_line(error: BaseException) -> str | None:
    """What to tell the user, or None for an error that is ours and deserves its traceback."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    for cause in _chain(error):
        if isinstance(cause, UserError):
            return str(cause)
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    text = str(error)
    option = re.search(r"Could not find '([^']+)/([^'/]+)'", text)
    if option:
        group, name = option.groups()
        known = re.findall(r"^\t(\S+)$", text, re.MULTILINE)
        return f"{group}={name}: unknown {group}; there are {', '.join(known)}{_nearest(name, known)}"
    group = re.search(r"(?:Could not override|In .*: Could not find) '([^']+)'", text)
    key = re.search(r"Key '([^']+)' is not in struct\s+full_key: (\S+)", text)
    if key and "Could not override" in text:
        return f"{key[2]}: unknown key; `python -m pgsrm.run --cfg job` shows all keys (+{key[2]}=... adds one)"
    if group:
        return f"{group[1]}: {' '.join(text.split())}"
    return " ".join(text.split())


def _nearest(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
