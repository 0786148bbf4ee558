"""What an object that a `_target_` names may have besides being called: `check` and `digest`, and what holds without them.

A reward, a checker, an embedder and whoever marks spans are such objects. None of them has to have either.
"""

from functools import partial
from typing import Any

from pgsrm.util.errors import UserError


def check_object(thing: Any, *arguments: Any) -> None:
    """Call its `check`, which raises UserError for what would keep it from working; without one nothing is checked."""
    check = getattr(thing, "check", None)
    if callable(check):
        check(*arguments)


def digest_of(thing: Any) -> str | None:
    """Hash of what decides its results besides its config and its source: files that it read, a model that it asks.

    That is its `digest`. Without one it is made of the digests of what it was built from: its attributes, or the keywords
    of a `functools.partial`, an embedder for example. None where none of them has one.
    """
    own = getattr(thing, "digest", None)
    if isinstance(own, str) or (own is None and hasattr(thing, "digest")):
        return own
    if own is not None:
        raise UserError(f"{type(thing).__name__}.digest: is {own!r}; make it a property that returns a string, or None")
    parts = thing.keywords if isinstance(thing, partial) else getattr(thing, "__dict__", {})
    digests = {name: getattr(part, "digest", None) for name, part in sorted(parts.items())}
    own_parts = [f"{name} {digest}" for name, digest in digests.items() if isinstance(digest, str)]
    return "; ".join(own_parts) or None
