"""The frozen config of a run folder, written and read quickly: a sweep has thousands, which share most of their text."""

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_KEY = re.compile(rb"^(?=[A-Za-z_][\w.]*:)", re.MULTILINE)
_ONLY_BLOCKS = re.compile(rb"(?:[A-Za-z_][\w.]*:.*\n(?:(?:[ -].*)?\n)*)+")

# a number for OmegaConf, as YAML 1.2 has it, and a text for PyYAML, which would write it without quotes
_FLOAT = re.compile(r"[-+]?(?:\d[\d_]*\.?[\d_]*|\.[\d_]+)[eE][-+]?\d+$")


def config_text(config: Mapping[str, Any]) -> bytes:
    """The YAML of plain values, by libyaml where PyYAML has it. OmegaConf and `read_config` read the same values from it."""
    import yaml  # type: ignore[import-untyped]

    style = {"default_flow_style": False, "allow_unicode": True, "sort_keys": False}
    in_c, in_python = _dumpers()
    try:
        return yaml.dump(config, Dumper=in_c, **style).encode()
    # half of a character, as in a path whose bytes are not UTF-8: libyaml does not escape it
    except UnicodeEncodeError:
        return yaml.dump(config, Dumper=in_python, **style).encode()


@functools.cache
def _dumpers() -> tuple[Any, Any]:
    import yaml

    return _dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)), _dumper(yaml.SafeDumper)


def _dumper(base: Any) -> Any:
    class Dumper(base):  # type: ignore[misc]
        def ignore_aliases(self, data: Any) -> bool:
            """A value that stands at two places is written twice."""
            return True

    Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
    return Dumper


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
    import yaml

    try:
        config = yaml.load(content, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError):  # ValueError: a date that is none
        return None
    return config if isinstance(config, dict) else None
