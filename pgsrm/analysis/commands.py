"""The command that runs the same experiment with more seeds, rebuilt from the runs' configs."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from pgsrm.analysis.intervals import MIN_SEEDS
from pgsrm.analysis.runs import Run
from pgsrm.analysis.variants import Variant
from pgsrm.config.command_line import search_path
from pgsrm.config.known_keys import NAMED_BY_USERS
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
_DIR = "--config-dir"
# ${embedder}, ${oc.select:task.extrinsic,null}
_ANOTHER_PLACE = re.compile(r"\$\{(?:oc\.select:)?([\w.]+)(?:,null)?\}")


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
    together = together and len(values.get(_DIR, ())) < 2
    commands = [values] if together else [{key: [value] for key, value in row.items()} for row in typed]
    return [_command(command, seeds) for command in commands[:MOST_COMMANDS]]


def run_command(run: Run) -> str:
    """The command that makes this run, on any machine: files and folders are named from here, or by their names alone."""
    overrides = _overrides(without_tracking(run), _of_no_machine)
    typed = {key: text for key, text in overrides.items() if not key.startswith(_OF_THE_MACHINE)}
    texts = {**typed, "seed": str(run.seed)}
    return " ".join(["python -m pgsrm.run", *_words({key: [text] for key, text in texts.items()})])


def without_tracking(run: Run) -> Run:
    """The run without the choice of its tracking, which is the machine's."""
    choices = {group: choice for group, choice in (run.config.get("choices") or {}).items() if group != "tracking"}
    return replace(run, config={**run.config, "choices": choices})


def own_choices(run: Run) -> list[str]:
    """The choices of the run that are none of the package's, `reward=mine`: of a file of the user's, or a reward from Python."""
    return [f"{_name(place, choice)}={choice}" for place, choice in _own(run, None)]


def missing(run: Run) -> str:
    """What the commands lack of a run whose own choices can't be read here; "" where they lack nothing."""
    if not _own(run, None):
        return ""  # without composing anything, which takes a tenth of a second
    lost = [f"{_name(place, choice)}={choice}" for place, choice in _base(run).lost.items()]
    if not lost:
        return ""
    return (
        f"{' and '.join(lost)}: not at hand, or not readable. The command has the numbers of such a choice, and lacks "
        f"{_DIR}=FOLDER and texts that the run was given otherwise than the file has them; a reward that was given in Python "
        "has no command."
    )


def _missing(variants: Iterable[Variant]) -> int:
    return max(MIN_SEEDS - len(variant.runs) for variant in variants)


def _command(values: Mapping[str, Sequence[str]], seeds: Sequence[int]) -> str:
    return " ".join(["python -m pgsrm.run -m", *_words(values), f"seed={','.join(map(str, seeds))}"])


def _words(values: Mapping[str, Sequence[str]]) -> list[str]:
    keys = sorted(values, key=lambda key: (key != _DIR, reading_order(key.lstrip("+"))))
    return [quoted(f"{key}={','.join(values[key])}") for key in keys]


def _overrides(run: Run, shown: Callable[[str], str] = str) -> dict[str, str]:
    """What has to be typed for a run, as key -> value in Hydra's grammar: task, reward, and whatever is not the default.

    Choices of the user's own (`reward=mine`) are read from the folder that `--config-dir` named. Where the file is not there any
    more, was never told, or can't be composed here, the numbers and truth values of the choice are all typed, since the run may
    have been given others than the file has; its texts are taken for the file's (`missing` says so). shown: what is typed for a
    text.
    """
    base = _base(run)
    words = dict(base.words)
    if base.folder and len(base.lost) < len(_own(run, None)):
        words[_DIR] = shown(str(base.folder))
    if base.config is None:
        return words
    own_nodes = {place: _at(run.config, place) for place in base.lost}
    for key, value in _changes(run.config, base.config, own_nodes, base.taken_over):
        if not key.startswith(_NOT_TYPED):
            words[key] = _hydra(value, shown)
    for place, node in own_nodes.items():
        words |= {key: _hydra(value) for key, value in leaves(node, place) if isinstance(value, int | float)}
    return words


@dataclass(frozen=True)
class _Base:
    """What the choices of a run alone make, which its other settings differ from."""

    words: Mapping[str, str]  # the choices as they are typed, in Hydra's grammar
    config: Mapping[str, Any] | None  # as composed of all but the lost ones; None where even that can't be
    taken_over: Mapping[str, str]  # places of it that are what another place is, as `reward.embedder`, and that place
    folder: Path | None  # of the user's own choices, if any is read from there
    lost: Mapping[str, str]  # the user's own choices without a file here that can be read, by their places


def _base(run: Run) -> _Base:
    """From the files in the folder of the user's own choices; without it where they can't be composed any more."""
    folder = _config_dir(run)
    base = _composed_from(run, folder)
    return base if base.config is not None or folder is None else _composed_from(run, None)


def _composed_from(run: Run, folder: Path | None) -> _Base:
    chosen, lost = _chosen(run), dict(_own(run, folder))
    defaults = _defaults()
    if defaults is None:
        return _Base({place: for_hydra(choice) for place, choice in chosen.items()}, None, {}, folder, lost)
    typed = {
        place: choice
        for place, choice in chosen.items()
        if place in _SHOWN_ALWAYS or defaults.choices.get(place) != choice
    }
    at_hand = {place: choice for place, choice in typed.items() if place not in lost}
    composed = _composed({place: choice for place, choice in at_hand.items() if "." not in place}, folder)
    known = (composed or defaults).choices  # what else there is has to be added with a +
    if composed is not None and any("." in place for place in at_hand):
        composed = _composed({_word(place, choice, known): choice for place, choice in at_hand.items()}, folder)
    words = {_word(place, choice, known): for_hydra(choice) for place, choice in typed.items()}
    if composed is None:
        return _Base(words, None, {}, folder, lost)
    return _Base(words, composed.config, composed.taken_over, folder, lost)


def _changes(
    config: Mapping[str, Any], usual: Mapping[str, Any], own: Mapping[str, Any], taken_over: Mapping[str, str]
) -> Iterator[tuple[str, Any]]:
    """The values that are not the usual ones, under dotted keys; a mapping where usually there is none is one value.

    So is one that is usually taken over from another place of the config and now is not what stands there. A key that an object
    usually has not got (`_target_`) begins with ++, as a name that users choose. Left out are the user's `own` nodes, and what is
    taken over.
    """
    follows = {place for place, source in taken_over.items() if _at(config, place) == _at(config, source)}

    def below(now: Mapping[str, Any], usual: Mapping[str, Any], above: str) -> Iterator[tuple[str, Any]]:
        for name, value in now.items():
            key = f"{above}{name}"
            if key in own or key in follows:
                continue
            if name not in usual:
                if ("_target_" in usual or above.removesuffix(".") in NAMED_BY_USERS) and not is_secret(key, value):
                    yield f"++{key}", value
            elif _has_keys(value) and _has_keys(usual[name]) and key not in taken_over:
                yield from below(value, usual[name], f"{key}.")
            elif not _same(value, usual[name]) and not is_secret(key, value):
                yield key, value

    return below(config, usual, "")


def _has_keys(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value)


def _at(config: Any, place: str) -> Any:
    """What a config has under a dotted key; None where it has nothing."""
    for name in place.split("."):
        config = config.get(name) if isinstance(config, Mapping) else None
    return config


def _of_no_machine(text: str) -> str:
    """A path as `./PATH` from the working directory where it is below that, else as `./NAME`; what is no path as it is.

    Without the ./ a model's folder could be the name of one of the hub's. What is not here is taken for a path where a name and a
    second / stand at its beginning: `/think` and `/` may be words of a prompt.
    """
    is_path = re.fullmatch(r"/[^\s{}/]+/[^{}\n]+", text) or (re.match("/+[^/]", text) and os.path.exists(text))
    if not is_path:
        return text
    path = Path(text)
    return f"./{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path.name}"


def _hydra(value: Any, shown: Callable[[str], str] = str) -> str:
    """A value in Hydra's grammar, without the secrets in it."""
    if isinstance(value, Mapping):
        parts = (f"{name}: {_hydra(part, shown)}" for name, part in value.items() if not is_secret(name, part))
        return f"{{{', '.join(parts)}}}"
    if isinstance(value, list):
        return f"[{','.join(_hydra(part, shown) for part in value)}]"
    if isinstance(value, str):
        return for_hydra(shown(value))
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _chosen(run: Run) -> dict[str, str]:
    """The choice of each group that decides the run, and of its tracking, by the place in the config."""
    return {
        str(group).rpartition("@")[2]: str(choice)
        for group, choice in (run.config.get("choices") or {}).items()
        if group.split("/")[0] not in NOT_CHOICES or group == "tracking"
    }


def _config_dir(run: Run) -> Path | None:
    """The folder of choices of the user's own, where it is still there."""
    folder = run.status.get("config_dir")
    return Path(folder) if isinstance(folder, str) and Path(folder).is_dir() else None


def _own(run: Run, folder: Path | None) -> list[tuple[str, str]]:
    """The places with choices that neither the package has nor `folder`."""
    having = [conf_folder(), *([folder] if folder else [])]
    return [
        (place, choice)
        for place, choice in _chosen(run).items()
        if not any((one / _group(place, choice) / f"{choice}.yaml").is_file() for one in having)
    ]


def _word(place: str, choice: str, known: Collection[str]) -> str:
    return ("" if place in known else "+") + _name(place, choice)


def _name(place: str, choice: str) -> str:
    """`embedder@evaluation.embedder` for a choice at a place of the config that is not its group's own."""
    group = _group(place, choice)
    return place if place == group else f"{group}@{place}"


def _group(place: str, choice: str) -> str:
    """The group of a choice, of which a run's config has the place: `evaluation.embedder`, or `reward.parts.NAME`."""
    ends = place.rpartition(".")[2], place.partition(".")[0]
    return next((group for group in ends if (conf_folder() / group / f"{choice}.yaml").is_file()), None) or next(
        (group for group in ends if (conf_folder() / group).is_dir()), place
    )


def _same(value: Any, usual: Any) -> bool:
    if isinstance(value, list) and isinstance(usual, list):
        return len(value) == len(usual) and all(map(_same, value, usual))
    if isinstance(value, str) and isinstance(usual, str) and Path(value).is_absolute():
        return Path(usual).expanduser().absolute() == Path(value)
    return bool(value == usual)


class _Composed(NamedTuple):
    """A config, resolved; the choice at each place; the places that are what another place is, and that place."""

    config: dict[str, Any]
    choices: dict[str, str | None]
    taken_over: dict[str, str]


@cache
def _defaults() -> _Composed | None:
    """The config of no words at all, the same for every run."""
    return _composed({})


def _composed(words: Mapping[str, str], folder: Path | None = None) -> _Composed | None:
    """The config of these words; None where it can't be composed. folder: of choices of the user's own.

    By Hydra itself and not by pgsrm.config.compose, which imports what a run needs, torch among it.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf, open_dict

    theirs = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            overrides = [f"{key}={value}" for key, value in words.items()]
            config = compose("config", [*overrides, *search_path(folder)], return_hydra_config=True)
        choices = {
            str(group).rpartition("@")[2]: None if choice is None else str(choice)
            for group, choice in config.hydra.runtime.choices.items()
        }
        with open_dict(config):
            config.pop("hydra")
        plain, written = (OmegaConf.to_container(config, resolve=resolve) for resolve in (True, False))
    except Exception:  # Hydra's and OmegaConf's errors have no class in common
        return None
    finally:
        GlobalHydra.instance().hydra = theirs
    assert isinstance(plain, dict)
    sources = ((place, _ANOTHER_PLACE.fullmatch(str(text))) for place, text in leaves(written))
    taken_over = {place: source[1] for place, source in sources if source}
    return _Composed({str(key): value for key, value in plain.items()}, choices, taken_over)
