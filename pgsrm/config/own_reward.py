"""A reward given as a Python object, as the config node that names it: a run reads nothing but its config."""

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

from pgsrm.util.errors import UserError


def own_reward(reward: Callable[..., Any]) -> tuple[str, dict[str, Any]]:
    """The name and the config node of a reward: a function, a class that takes no arguments, or a `functools.partial` of either.

    The keywords of a partial are the node's other keys, and so a part of what identifies the run.

    Raises:
        UserError: for what no name leads to (a lambda, a function within a function, an object).
    """
    function, keywords = reward, dict[str, Any]()
    if isinstance(reward, functools.partial):
        if reward.args:
            raise UserError("reward: a partial with positional arguments; give them by keyword")
        function, keywords = reward.func, dict(reward.keywords)
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if module is None or name is None or _named(module, name) is not function:
        raise UserError(
            f"reward={reward!r}: a run finds its reward again by module and name, which this one lacks; "
            "give a function or class that stands at the top of a module or notebook, or functools.partial of it"
        )
    node = {"_target_": f"{module}.{name}", **keywords}
    if not inspect.isclass(function):
        node["_partial_"] = True  # called with a batch, not while the config is read
    return name, node


def _named(module: str, name: str) -> Any:
    value: Any = sys.modules.get(module)
    for part in name.split("."):
        value = getattr(value, part, None)
    return value
