"""The command that runs the same experiment with more seeds, rebuilt from the runs' configs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from pgsrm.analysis.intervals import MIN_SEEDS
from pgsrm.analysis.runs import Run
from pgsrm.analysis.variants import Variant
from pgsrm.record.differences import NOT_CHOICES, leaves, reading_order
from pgsrm.util.paths import conf_folder
from pgsrm.util.shell import for_hydra, override, quoted

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
    typed = {key: value for key, value in _overrides(run).items() if not key.startswith(_OF_THE_MACHINE)}
    values = {**typed, "seed": run.seed}
    words = [_word(key, [values[key]]) for key in sorted(values, key=reading_order)]
    return " ".join(["python -m pgsrm.run", *words])


def _missing(variants: Iterable[Variant]) -> int:
    return max(MIN_SEEDS - len(variant.runs) for variant in variants)


def _command(values: Mapping[str, Sequence[Any]], seeds: Sequence[int]) -> str:
    words = [_word(key, values[key]) for key in sorted(values, key=reading_order)]
    return " ".join(["python -m pgsrm.run -m", *words, f"seed={','.join(map(str, seeds))}"])


def _word(key: str, values: Sequence[Any]) -> str:
    texts = ["null" if v is None else str(v).lower() if isinstance(v, bool) else v for v in values]
    plain = all(v is None or isinstance(v, bool) for v in values)
    if len(texts) == 1 and not plain:
        return override(key, texts[0])
    readable = [
        for_hydra(v) if isinstance(v, str) and not plain else str(text) for v, text in zip(values, texts, strict=True)
    ]
    return quoted(f"{key}={','.join(readable)}")


def _overrides(run: Run) -> dict[str, Any]:
    """What has to be typed for a run, as key -> value: task, reward, and whatever is not the default."""
    chosen = {
        group: str(choice)
        for group, choice in (run.config.get("choices") or {}).items()
        if group.split("/")[0] not in NOT_CHOICES or group == "tracking"
    }
    defaults = _composed(())
    if defaults is None:
        return chosen
    usual = defaults["choices"]
    typed = {group: choice for group, choice in chosen.items() if group in _SHOWN_ALWAYS or usual.get(group) != choice}
    words: dict[str, Any] = {_group(group): choice for group, choice in typed.items()}
    composed = _composed(tuple(f"{group}={choice}" for group, choice in words.items()))
    if composed is None:
        return words
    usual_values = dict(leaves(composed))
    for key, value in leaves(run.config):
        if (
            not key.startswith(_NOT_TYPED)
            and key in usual_values
            and not _same(value, usual_values[key])
            and not isinstance(value, list | dict)
        ):
            words[key] = value
    return words


def _group(group: str) -> str:
    """`embedder@evaluation.embedder` for a group that the config has a second time, by whose place it is recorded."""
    return f"{group.rpartition('.')[2]}@{group}" if "." in group else group


def _same(value: Any, usual: Any) -> bool:
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
