"""Optional attributes of an object that a `_target_` names: `check`, `attach` and `digest`, with their defaults.

Rewards, checkers, embedders and critics are such objects.
"""

from functools import partial
from typing import Any

from pgsrm.util.errors import UserError


def check_object(target: Any, *arguments: Any) -> None:
    """Call the object's `check`, which raises UserError if the object can't work; without one nothing is checked."""
    check = getattr(target, "check", None)
    if callable(check):
        check(*arguments)


def attach_object(target: Any, policy: Any, codec: Any) -> None:
    """Call the object's `attach`, for one that asks the policy itself; without one nothing happens."""
    attach = getattr(target, "attach", None)
    if callable(attach):
        attach(policy, codec)


def digest_of(target: Any) -> str | None:
    """Hash of what decides an object's results besides its config and source: the files it read, the model it asks.

    This is the object's `digest`. Without one, the digests of its parts are joined, for example its embedder's. The
    parts are its attributes, or the keywords of a `functools.partial`. None if no part has a digest.

    Raises:
        UserError: `digest` is neither a string nor None.
    """
    own = getattr(target, "digest", None)
    if isinstance(own, str) or (own is None and hasattr(target, "digest")):
        return own
    if own is not None:
        kind = type(target).__name__
        raise UserError(f"{kind}.digest: is {own!r}; make it a property that returns a string, or None")
    parts = target.keywords if isinstance(target, partial) else getattr(target, "__dict__", {})
    digests = {name: getattr(part, "digest", None) for name, part in sorted(parts.items())}
    own_parts = [f"{name} {digest}" for name, digest in digests.items() if isinstance(digest, str)]
    return "; ".join(own_parts) or None
