"""Optional attributes of an object that a `_target_` names, with defaults.

They are `check`, `attach`, `mask_messages`, `standardise`, `digest` and `state` with `restore`.
Rewards, checkers, embedders and critics are such objects.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from pgsrm.util.errors import ParameterError, UserError, under

_DEPTH = 3  # of rewards within rewards whose parts are looked at


def each_reward(target: Any, call: Callable[[Any], None]) -> None:
    """Call `call` with each reward within the object, at every depth, and then with the object itself.

    The rewards within are `inner_rewards`, as of `pgsrm.reward.Reward`; errors about one have its key.
    """
    for key, inner in _inner_rewards(target).items():
        with under(key):
            each_reward(inner, call)
    call(target)


def _inner_rewards(target: Any) -> Mapping[str, Any]:
    inner: Mapping[str, Any] = getattr(target, "inner_rewards", {})
    return inner


def _call_of_each(target: Any, name: str, *arguments: Any) -> None:
    """Call the method `name` of those rewards and of the object that have it."""

    def call(each: Any) -> None:
        method = getattr(each, name, None)
        if callable(method):
            method(*arguments)

    each_reward(target, call)


def check_object(target: Any, *arguments: Any) -> None:
    """Call `check` of the object and of the rewards within it, which raises UserError for what can't work."""
    _call_of_each(target, "check", *arguments)


def name_of(target: Any) -> str:
    """What an error calls the object: its class, or the function that it is or calls later (`_partial_: true`)."""
    called = target.func if isinstance(target, partial) else target
    return str(getattr(called, "__name__", type(called).__name__))


def check_call(target: Any, *names: str, by_name: bool) -> None:
    """Raise ParameterError for an object that can't be called with arguments of these names.

    by_name: whether they are given by keyword, or else in this order.
    """
    try:
        # What is called is a decorator's wrapper, which may well be called otherwise than what it wraps.
        signature = inspect.signature(target, follow_wrapped=False)
    except (TypeError, ValueError):  # a callable without a signature, one of C's for instance: calling it will tell
        return
    try:
        signature.bind(*(() if by_name else names), **(dict.fromkeys(names) if by_name else {}))
    except TypeError as error:
        needed = "name those that it needs, and take the others as **_" if by_name else "take these, in this order"
        raise ParameterError(
            f"_target_={name_of(target)}: can't be called with {', '.join(names)} ({error}); {needed}"
        ) from error


def attach_object(target: Any, policy: Any, codec: Any) -> None:
    """Call `attach` of the object and of the rewards within it, for those that ask the policy itself."""
    _call_of_each(target, "attach", policy, codec)


def mask_object(target: Any, masked: Callable[[str], str]) -> None:
    """Call `mask_messages` of the object and of the rewards within it with what masks a text (`task.mask`).

    It is for those whose messages quote texts.
    """
    _call_of_each(target, "mask_messages", masked)


def is_standardised(target: Any) -> bool:
    """Whether the object, or a reward within it, has a `standardise`."""
    own = callable(getattr(target, "standardise", None))
    return own or any(map(is_standardised, _inner_rewards(target).values()))


def is_scaled(target: Any) -> bool:
    """Whether a reward of some texts depends on which others they are given with: its own `scaled`, or that of one within it."""
    return bool(getattr(target, "scaled", False)) or any(map(is_scaled, _inner_rewards(target).values()))


def standardise_object(target: Any, samples: Callable[[], tuple[Sequence[str], Sequence[str]]]) -> None:
    """Call `standardise` of the object and of the rewards within it with what draws the reference policy's samples."""
    _call_of_each(target, "standardise", samples)


def state_of(target: Any) -> Any:
    """What the object remembers of earlier calls, as JSON holds it; None for one without `state` and `restore`."""
    state, restore = getattr(target, "state", None), getattr(target, "restore", None)
    return state() if callable(state) and callable(restore) else None


def restore_object(target: Any, state: Any) -> None:
    """Make the object remember what `state_of` returned; None is what one without a memory has."""
    if state is not None:
        target.restore(state)


def remembered_by(reward: Any, measures: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's reward and its measures, by their names, remember, as JSON holds it."""
    return {"reward": state_of(reward), "measures": {name: state_of(measure) for name, measure in measures.items()}}


def remember(reward: Any, measures: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Make them remember what `remembered_by` returned; what it lacks, as of an earlier version, leaves them as they are."""
    restore_object(reward, state.get("reward"))
    for name, own in state.get("measures", {}).items():
        restore_object(measures[name], own)


@contextmanager
def as_before(*targets: Any) -> Iterator[None]:
    """Around calls that the objects are not to remember."""
    states = [state_of(target) for target in targets]
    try:
        yield
    finally:
        for target, state in zip(targets, states, strict=True):
            restore_object(target, state)


def digest_of(target: Any) -> str | None:
    """Hash of what decides an object's results besides its config and source: the files it read, the model it asks.

    This is the object's `digest`. Without one, the digests of its parts are joined, for example its embedder's. The
    parts are its attributes, or the keywords of a `functools.partial`; those of a reward within it count too. None if no part
    has a digest.

    Raises:
        UserError: `digest` is neither a string nor None.
    """
    own = getattr(target, "digest", None)
    if isinstance(own, str) or (own is None and hasattr(target, "digest")):
        return own
    if own is not None:
        raise UserError(f"{name_of(target)}.digest: is {own!r}; make it a property that returns a string, or None")
    return _digest_of_parts(target, _DEPTH)


def _digest_of_parts(target: Any, depth: int) -> str | None:
    parts = target.keywords if isinstance(target, partial) else getattr(target, "__dict__", {})
    digests = {}
    for name, part in sorted(parts.items()):
        with under(name.lstrip("_")):
            digests[name] = _digest_of_part(part, depth)
    return "; ".join(f"{name} {digest}" for name, digest in digests.items() if digest is not None) or None


def _digest_of_part(part: Any, depth: int) -> str | None:
    """A part's digest; of a part without one, a reward or checker that another one holds, that of its own parts."""
    own = getattr(part, "digest", None)
    if own is None and depth and callable(part) and not isinstance(part, type) and not hasattr(part, "digest"):
        return _digest_of_parts(part, depth - 1)
    return own if isinstance(own, str) else None
