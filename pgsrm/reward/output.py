"""What a reward returned, checked and in one form."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from pgsrm.util.errors import UserError

Rewards: TypeAlias = list[float] | list[list[float]]  # one a response, or one a token of each response
Metrics: TypeAlias = dict[str, float]


def normalise(output: Any, token_ids: Sequence[Sequence[int]], name: str = "reward") -> tuple[Rewards, Metrics]:
    """Bring a reward's output into one form: `(rewards, metrics)`, in plain floats.

    output: what a `Reward` returned for n responses; lists, NumPy arrays and tensors are all welcome.
    token_ids: the n responses' token ids, for their number and lengths.
    name: what an error calls the reward.

    Raises UserError if the number of rewards is not n, if a response's rewards are not one a token, if the
    two shapes are mixed, or if a reward or metric is not a finite number.
    """
    rewards, metrics = output if _is_pair(output) else (output, {})
    rewards = _as_list(rewards, f"reward={name}: it returned")
    if len(rewards) != len(token_ids):
        counts = f"{len(rewards)} rewards for {len(token_ids)} responses"
        raise UserError(f"reward={name}: it returned {counts}; return one each")
    per_token = [_is_sequence(reward) for reward in rewards]
    if any(per_token) and not all(per_token):
        raise UserError(f"reward={name}: it returned numbers and lists side by side; return one or the other")
    where = f"reward={name}: the reward of response"
    checked: Rewards
    if any(per_token):
        pairs = enumerate(zip(rewards, token_ids, strict=True))
        checked = [_token_rewards(row, ids, f"{where} {i}") for i, (row, ids) in pairs]
    else:
        checked = [_number(reward, f"{where} {i}") for i, reward in enumerate(rewards)]
    return checked, {str(key): _number(value, f"reward={name}: the metric {key}") for key, value in metrics.items()}


def _token_rewards(row: Any, token_ids: Sequence[int], where: str) -> list[float]:
    row = _as_list(row, where)
    if len(row) != len(token_ids):
        raise UserError(
            f"{where} has {len(row)} numbers for {len(token_ids)} tokens; return one a token, or one in all"
        )
    return [_number(reward, f"{where}, token {t},") for t, reward in enumerate(row)]


def _is_pair(output: Any) -> bool:
    return isinstance(output, tuple) and len(output) == 2 and isinstance(output[1], Mapping)


def _is_sequence(value: Any) -> bool:
    """A list, an array, a tensor; not a number, be it a NumPy scalar or a tensor without dimensions."""
    return isinstance(value, Iterable) and not isinstance(value, str) and getattr(value, "ndim", 1) > 0


def _as_list(value: Any, what: str) -> list[Any]:
    if not _is_sequence(value) or isinstance(value, Mapping):
        raise UserError(f"{what} {value!r}; return a list of numbers, or a pair of that and a dict of metrics")
    return value.tolist() if hasattr(value, "tolist") else list(value)


def _number(value: Any, what: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{what} is {value!r}; it must be a finite number")
    return number
