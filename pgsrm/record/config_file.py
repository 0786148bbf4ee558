"""Reading the frozen config of a run folder quickly: a sweep's folders share most of their text."""

import functools
import re
from pathlib import Path
from typing import Any

_KEY = re.compile(rb"^(?=[A-Za-z_][\w.]*:)", re.MULTILINE)
_ONLY_BLOCKS = re.compile(rb"(?:[A-Za-z_][\w.]*:.*\n(?:(?:[ -].*)?\n)*)+")


def read_config(path: Path) -> dict[str, Any]:
    """The YAML of `path` as plain values; {} where it can't be read or is no mapping.

    The values are shared between calls: change none of them.
    """
    try:
        content = path.read_bytes()
    except OSError:
        return {}
    config = _parsed_by_block(content) if _ONLY_BLOCKS.fullmatch(content) else None
    return config or _parsed(content) or {}


def _parsed_by_block(content: bytes) -> dict[str, Any] | None:
    """As `_parsed`, one top-level key after the other, so that a block that another run has too is parsed once."""
    config: dict[str, Any] = {}
    for block in filter(None, _KEY.split(content)):
        parsed = _parsed(block)
        if parsed is None:  # not one of its own: it has an alias, or is part of a text over several lines
            return None
        config |= parsed
    return config


@functools.lru_cache(maxsize=4096)
def _parsed(content: bytes) -> dict[str, Any] | None:
    import yaml  # type: ignore[import-untyped]

    try:
        config = yaml.load(content, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError):  # ValueError: a date that is none
        return None
    return config if isinstance(config, dict) else None
