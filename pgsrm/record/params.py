"""A composed config as the flat parameters of an experiment tracker, without its secrets."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pgsrm.record.model_name import algorithm_choice, reward_name, shown_choices
from pgsrm.util.numbers import number_text
from pgsrm.util.secrets import MASK, without_user

_CHOICES = ("task", "reward", "model", "ppo")
_SECRET = {"key", "apikey", "token", "secret", "password", "passwd", "credential", "auth", "authorization"}
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_LONGEST = 6000  # MLflow cuts longer values, with a warning each.


def run_params(config: Mapping[str, Any]) -> dict[str, str]:
    """The choices task, reward, model, ppo and the seed, then every leaf of `config` under its dotted key.

    Values under a key that names a secret, and user:password in an address, come out as ***. A number or a
    plural (`max_new_tokens: 2`) is no secret.
    """
    choices = shown_choices(config)
    params = {name: choices[name] for name in _CHOICES if name in choices}
    for key, value in _leaves("", config):
        if key.split(".")[0] != "choices":
            params[re.sub(r"[^\w\-. /:]", "_", key)[:250]] = _shown(key, value)[:_LONGEST]
    return params


def run_tags(config: Mapping[str, Any], status: Mapping[str, Any], folder: str) -> dict[str, str]:
    """A run's tags: the choices, the sweep, its folder, the commit of the code, and a description in words.

    status: the run's, with `label`, `commit` and `sweep`.
    """
    commit = str(status.get("commit") or "")
    tags = {"sweep": status.get("sweep") or "", **(config.get("choices") or {}), "folder": folder}
    if commit:
        tags["mlflow.source.git.commit"] = commit.removesuffix("-dirty")
        tags["uncommitted_changes"] = str(commit.endswith("-dirty")).lower()
    return {
        **{key: str(value) for key, value in tags.items()},
        "mlflow.source.name": "pgsrm",
        "mlflow.source.type": "LOCAL",
        "mlflow.note.content": _description(config, status, folder),
    }


def _description(config: Mapping[str, Any], status: Mapping[str, Any], folder: str) -> str:
    """What was compared, in words: task, reward, model, algorithm, and what else was varied or set."""
    choices = config.get("choices") or {}
    task, model = (choices.get(name, "custom") for name in ("task", "model"))
    group, choice = algorithm_choice(choices)
    algorithm = choice if group == "algorithm" else f"{group}={choice}"
    label = str(status.get("label") or "")
    words = [word for word in label.partition(",")[0].split() if "=" in word]
    varied = f" Varied or set: {', '.join(words)}." if words else ""
    return (
        f"Task **{task}**, rewarded by **{reward_name(config)}**; the policy is {model}, the algorithm {algorithm}, the seed "
        f"{config.get('seed')}.{varied}\n\nRun folder: `{folder}`"
    )


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, below in value.items():
            yield from _leaves(f"{key}.{name}" if key else str(name), below)
    else:
        yield key, value


def is_secret(key: str, value: Any) -> bool:
    """Whether the dotted `key` names a secret, so that `value` must not be shown."""
    if value is None or isinstance(value, bool):
        return False
    words = {word.lower() for word in _WORD.findall(key)}
    plurals = {word.removesuffix("s") for word in words}
    return bool(words & _SECRET or (plurals & _SECRET and not isinstance(value, int | float)))


def _shown(key: str, value: Any) -> str:
    if is_secret(key, value):
        return MASK
    if isinstance(value, float):
        return number_text(value)
    return str(value) if value is None or isinstance(value, bool) else without_user(str(value))
