"""The command that runs the same experiment with more seeds, rebuilt from the runs' configs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from pgsrm.analysis.intervals import MIN_SEEDS
from pgsrm.analysis.runs import Run
from pgsrm.analysis.variants import Variant
from pgsrm.record.differences import NOT_CHOICES, leaves, reading_order
from pgsrm.record.params import is_secret
from pgsrm.util.paths import conf_folder
from pgsrm.util.shell import for_hydra, quoted

MOST_COMMANDS = 4
# What a launch finds by itself, or a user would not want to type again.
_NOT_TYPED = (
    "seed",
    "choices",
    "tracking",
    "trackers",
    "hydra",
    "parent.references",
    "cluster",
    "resources",
    "dry_run",
)
_OF_THE_MACHINE = ("paths.", "threads", "processes", "tracking", "model.device", "checkpoint.")
_SHOWN_ALWAYS = ("task", "reward")


def more_seeds(variants: Sequence[Variant]) -> list[str]:
    """The commands that bring each of the variants to at least three seeds; runs that have finished are not made again.

    One command where the variants are all combinations of what differs between them, else one for each, at most
    `MOST_COMMANDS`. [] where all have their seeds.
    """
    lacking = [variant for variant in variants if len(variant.complete) < MIN_SEEDS]
    if not lacking:
        return []
    typed = [_overrides(variant.runs[0]) for variant in lacking]
    present = {run.seed for variant in lacking for run in variant.runs}
    seeds = sorted(present | set([n for n in range(MIN_SEEDS + len(present)) if n not in present][: _missing(lacking)]))
    values = {key: list(dict.fromkeys(row[key] for row in typed if key in row)) for row in typed for key in row}
    together = prod(map(len, values.values())) == len(typed) and all(row.keys() == values.keys() for row in typed)
    commands = [values] if together else [{key: [value] for key, value in row.items()} for row in typed]
    return [_command(command, seeds) for command in commands[:MOST_COMMANDS]]


def run_command(run: Run) -> str:
    """The command that makes this run, on any machine."""
    typed = {key: text for key, text in _overrides(run).items() if not key.startswith(_OF_THE_MACHINE)}
    texts = {**typed, "seed": str(run.seed)}
    return " ".join(["python -m pgsrm.run", *_words({key: [text] for key, text in texts.items()})])


def _missing(variants: Iterable[Variant]) -> int:
    return max(MIN_SEEDS - len(variant.runs) for variant in variants)


def _command(values: Mapping[str, Sequence[str]], seeds: Sequence[int]) -> str:
    return " ".join(["python -m pgsrm.run -m", *_words(values), f"seed={','.join(map(str, seeds))}"])


def _words(values: Mapping[str, Sequence[str]]) -> list[str]:
    keys = sorted(values, key=lambda key: reading_order(key.lstrip("+")))
    return [quoted(f"{key}={','.join(values[key])}") for key in keys]


def _overrides(run: Run) -> dict[str, str]:
    """What has to be typed for a run, as key -> value in Hydra's grammar: task, reward, and whatever is not the default.

    Of a choice of the user's own (`reward=mine`) the file is not at hand. Its numbers and truth values are all typed, since the run
    may have been given others than the file has; its texts are the file's.
    """
    chosen = {
        group: str(choice)
        for group, choice in (run.config.get("choices") or {}).items()
        if group.split("/")[0] not in NOT_CHOICES or group == "tracking"
    }
    defaults = _composed(())
    if defaults is None:
        return {group: for_hydra(choice) for group, choice in chosen.items()}
    usual = defaults["choices"]
    typed = {group: choice for group, choice in chosen.items() if group in _SHOWN_ALWAYS or usual.get(group) != choice}
    words = {_group(group): for_hydra(choice) for group, choice in typed.items()}
    own = [group for group, choice in typed.items() if not _is_shipped(group, choice)]
    composed = _composed(tuple(f"{_group(group)}={choice}" for group, choice in typed.items() if group not in own))
    if composed is None:
        return words
    own_nodes = {place: _at(run.config, place) for place in (group.rpartition("@")[2] for group in own)}
    for key, value in _changes(run.config, composed, own_nodes):
        if not key.startswith(_NOT_TYPED):
            words[key] = _hydra(value)
    for place, node in own_nodes.items():
        words |= {key: _hydra(value) for key, value in leaves(node, place) if isinstance(value, int | float)}
    return words


def _changes(
    config: Mapping[str, Any], usual: Mapping[str, Any], own: Mapping[str, Any], above: str = ""
) -> Iterator[tuple[str, Any]]:
    """The values that are not the usual ones, under dotted keys; a mapping where usually there is none is one value.

    A key that an object usually has not got (`_target_`) begins with ++. Left out are the user's `own` nodes, and what is taken
    over from them.
    """
    for name, value in config.items():
        key = f"{above}{name}"
        if key in own or _is_taken_over(key, value, own):
            continue
        if name not in usual:
            if "_target_" in usual and not is_secret(key, value):
                yield f"++{key}", value
        elif isinstance(value, Mapping) and value and isinstance(usual[name], Mapping) and usual[name]:
            yield from _changes(value, usual[name], own, f"{key}.")
        elif not _same(value, usual[name]) and not is_secret(key, value):
            yield key, value


def _is_taken_over(key: str, value: Any, own: Mapping[str, Any]) -> bool:
    """Whether a value is one of the user's own nodes, as `reward.embedder`, or of the own task, as `evaluation.measures`."""
    place, _, name = key.rpartition(".")
    if place not in ("reward", "evaluation"):
        return False
    task = own.get("task") or {}
    return (isinstance(value, Mapping) and value in own.values()) or (name in task and task[name] == value)


def _at(config: Any, place: str) -> Any:
    """What a config has under a dotted key; None where it has nothing."""
    for name in place.split("."):
        config = config.get(name) if isinstance(config, Mapping) else None
    return config


def _hydra(value: Any) -> str:
    """A value in Hydra's grammar, without the secrets in it."""
    if isinstance(value, Mapping):
        return (
            f"{{{', '.join(f'{name}: {_hydra(part)}' for name, part in value.items() if not is_secret(name, part))}}}"
        )
    if isinstance(value, list):
        return f"[{','.join(map(_hydra, value))}]"
    if isinstance(value, str):
        return for_hydra(value)
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _is_shipped(group: str, choice: str) -> bool:
    return (conf_folder() / _group(group).partition("@")[0] / f"{choice}.yaml").is_file()


def _group(group: str) -> str:
    """`embedder@evaluation.embedder` for a group that the config has a second time; it may be recorded by its place alone."""
    return f"{group.rpartition('.')[2]}@{group}" if "." in group and "@" not in group else group


def _same(value: Any, usual: Any) -> bool:
    if isinstance(value, list) and isinstance(usual, list):
        return len(value) == len(usual) and all(map(_same, value, usual))
    if isinstance(value, str) and isinstance(usual, str) and Path(value).is_absolute():
        return Path(usual).expanduser().absolute() == Path(value)
    return bool(value == usual)


def _composed(overrides: Sequence[str]) -> dict[str, Any] | None:
    """The config of these overrides, resolved, with its choices; None where it can't be composed (a group of one's own).

    By Hydra itself and not by pgsrm.config.compose, which imports what a run needs, torch among it.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf, open_dict

    theirs = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            config = compose("config", list(overrides), return_hydra_config=True)
        choices = {
            str(group): str(choice) for group, choice in config.hydra.runtime.choices.items() if choice is not None
        }
        with open_dict(config):
            config.pop("hydra")
        plain = OmegaConf.to_container(config, resolve=True)
    except Exception:  # Hydra's and OmegaConf's errors have no class in common
        return None
    finally:
        GlobalHydra.instance().hydra = theirs
    assert isinstance(plain, dict)
    return {**{str(key): value for key, value in plain.items()}, "choices": choices}
