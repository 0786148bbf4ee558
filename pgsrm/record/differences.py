"""The differences between some runs' configs, in the config's own words: `reward.alpha=1`, `task.data=words.csv`.

Tables, legends and claims take their words from here. A folder is named when its sweep is planned, from the words of the command
(`pgsrm.config.naming`), and MLflow shows that name.
"""

import json
import os
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from pgsrm.record.config_file import read_config
from pgsrm.record.model_name import DEFAULTS, shown_choices
from pgsrm.record.params import is_secret
from pgsrm.record.run_folder import RunFolder
from pgsrm.util.numbers import number_text
from pgsrm.util.secrets import MASK, without_user

# Where and how a run is trained and recorded: it decides no result.
NOT_SETTINGS = (
    "seed", "paths", "tracking", "trackers", "choices", "threads", "processes", "checkpoint", "hydra", "cluster", "resources",
    "dry_run", "sft", "reward_model",
)  # fmt: skip
# How a model or server is asked, what that may cost and where its answers are kept: another value gives the same answers.
HOW_ASKED = (
    "api_key_env", "backoff", "cache", "cache_megabytes", "concurrency", "input_price", "ledger", "max_calls", "max_cost",
    "max_total_tokens", "output_price", "retries", "timeout",
)  # fmt: skip
NOT_CHOICES = ("tracking", "experiment", "baseline", "hydra", "cluster", "resources", "seed")
# Named only where nothing else tells two runs apart: long, found by the program, or without a part in the result.
_LAST_RESORT = (
    "task.instruction", "task.parent_input", "parent.references", "model.device", "model.shard", "stop.keep_best",
)  # fmt: skip
_ORDER = ("task", "reward", "model", "ppo", "algorithm", "embedder", "parent")  # of groups and of the keys below them
_NO_CHOICE = "null"
_MOST_LOPSIDED = 3
_LONGEST = 40  # letters of a value in a label


def differing(configs: Sequence[Mapping[str, Any]], *, seed: bool = True) -> list[dict[str, str]]:
    """For each config the keys that are not the same in all of them, with its values, as {"task": "color", "reward.alpha": "8"}.

    Choices of config groups come first, then single values, then the seed. A value that its group's choice explains is
    left out: of `ppo=sound` and `ppo=textbook` it is the choice that was varied. A key that only some configs have is in
    their dicts alone. `seed=False` leaves the seed out.
    """
    chosen = [_choices(config) for config in configs]
    values = [settings(config) for config in configs]
    groups = sorted({group for row in chosen for group in row}, key=reading_order)
    varied = [group for group in groups if len({row.get(group, _NO_CHOICE) for row in chosen}) > 1]
    # A group below a key, as `critic.critic`, is there with the choice that brings it, and with no other.
    parts = [
        {group: row.get(group, _NO_CHOICE) for group in varied if group in row or "." not in group} for row in chosen
    ]
    keys = sorted(_varied_keys(chosen, values), key=reading_order)
    seeds = [str(config.get("seed")) for config in configs]
    for key in keys:
        shown = _shown(key, [row.get(key) for row in values])
        for part, text in zip(parts, shown, strict=True):
            if text is not None:
                part[key] = text
    _add_last_resorts(parts, values, seeds if seed else [""] * len(seeds))
    if seed and len(set(seeds)) > 1:
        for part, text in zip(parts, seeds, strict=True):
            part["seed"] = text
    return parts


def in_common(configs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The choices that all configs share, as {"model": "nano", "ppo": "sound"}, and the seed if they share one.

    PPO, which most runs learn by, goes without saying.
    """
    rows = [{**_choices(config), "seed": str(config.get("seed"))} for config in configs]
    first = rows[0] if rows else {}
    return {
        key: first[key]
        for key in sorted(first, key=reading_order)
        if all(row.get(key) == first[key] for row in rows) and first[key] != DEFAULTS.get(key)
    }


def words(parts: Mapping[str, str], separator: str = " ") -> str:
    """`task=color reward.alpha=8`; a value with a space in it stands in quotes."""
    return separator.join(f"{key}={json.dumps(value, ensure_ascii=False) if ' ' in value else value}"
                          for key, value in parts.items())  # fmt: skip


def labels(folders: Sequence[RunFolder], width: int | None = None) -> list[str]:
    """A name for each run among these: what differs, as `task=color reward.alpha=8 seed=1`.

    A single run, or one whose config can't be read, has its folder's name without the hash. Runs whose
    configs are equal have the folder's name besides. Names that would be longer than `width` letters lose the beginnings of
    their keys, `alpha=8`, and then the groups of their choices, `color alpha=8`.
    """
    configs = [read_config(folder.config) for folder in folders]
    parts = differing([config for config in configs if config])
    ways = (words, _with_short_keys, _with_bare_choices)
    written = ([way(part) for part in parts] for way in ways)
    texts = next((texts for texts in written if width is None or max(map(len, texts), default=0) <= width), None)
    remaining = iter(texts or [_with_bare_choices(part) for part in parts])
    names = short_names([folder.name for folder in folders])
    texts_or_names = [next(remaining) or name if config else name for config, name in zip(configs, names, strict=True)]
    return [
        text if texts_or_names.count(text) == 1 else f"{text} ({folder.name})"
        for text, folder in zip(texts_or_names, folders, strict=True)
    ]


def _with_short_keys(parts: Mapping[str, str]) -> str:
    return words({key.rpartition(".")[2]: value for key, value in parts.items()})


def _with_bare_choices(parts: Mapping[str, str]) -> str:
    bare = [value for key, value in parts.items() if key in _ORDER]
    return " ".join(
        [*bare, _with_short_keys({key: value for key, value in parts.items() if key not in _ORDER})]
    ).strip()


def short_names(names: Sequence[str]) -> list[str]:
    """Names of run folders without the hash at their end, where they differ without it."""
    short = [re.sub(r"-[0-9a-f]{8}$", "", name) for name in names]
    return short if len(set(short)) == len(names) else list(names)


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a config under dotted keys."""
    if isinstance(config, Mapping) and config:
        for key, below in config.items():
            yield from leaves(below, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, config


def nodes(config: Any) -> Iterator[Any]:
    """A config's node, and all that is below it."""
    yield config
    below = config.values() if isinstance(config, Mapping) else config if isinstance(config, list) else ()
    for inner in below:
        yield from nodes(inner)


def value_text(key: str, value: Any) -> str:
    """A config's value as YAML writes it, a secret masked; 4 and 4.0 are one value."""
    if is_secret(key, value):
        return MASK
    if isinstance(value, str):
        return without_user(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, float):
        return number_text(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def settings(config: Mapping[str, Any]) -> dict[str, str]:
    """Every value that may change a result, as dotted key -> text; the seed is not one.

    `algorithm.name`, which runs of earlier versions lack, is among the choices.
    """
    chosen = {key: _without_asking(key, value) for key, value in config.items() if key not in NOT_SETTINGS}
    return {key: value_text(key, value) for key, value in leaves(chosen) if key != "algorithm.name"}


def _without_asking(name: str, value: Any) -> Any:
    """A config's value without what only says how a model or server is asked."""
    if not isinstance(value, Mapping):
        return value
    target = value.get("_target_")
    return {key: _without_asking(key, below) for key, below in value.items() if not only_asks(key, name, target)}


def only_asks(key: str, holder: str, target: Any) -> bool:
    """Whether a key is one of `HOW_ASKED` below the parent or an object of this package's: of a user's own it may decide.

    holder: the name of the node that has the key; target: its `_target_`.
    """
    return key in HOW_ASKED and (holder == "parent" or str(target).startswith("pgsrm."))


def _choices(config: Mapping[str, Any]) -> dict[str, str]:
    chosen = shown_choices(config)
    return {group: choice for group, choice in chosen.items() if group.split("/")[0] not in NOT_CHOICES}


def _varied_keys(chosen: Sequence[Mapping[str, str]], texts: Sequence[Mapping[str, str]]) -> set[str]:
    """The keys that differ between configs with the same choice of every group that may set them."""
    keys = {key for row in texts for key in row if not key.startswith(_LAST_RESORT)}
    groups = {group for row in chosen for group in row}
    # A group that no key is below, as `ablation`, sets keys of others: any.
    anywhere = {group for group in groups if not any(key.startswith(f"{group.replace('/', '.')}.") for key in keys)}
    varied, lopsided = set(), set()
    for key in keys:
        setters = sorted(anywhere | {group for group in groups if _may_set(group.replace("/", "."), key)})
        classes: dict[Hashable, list[Mapping[str, str]]] = {}
        for choice, row in zip(chosen, texts, strict=True):
            classes.setdefault(tuple(choice.get(group) for group in setters), []).append(row)
        for rows in classes.values():
            values = {row[key] for row in rows if key in row}
            if len(values) > 1 and not _is_copy(key, rows):
                varied.add(key)
            elif values and any(key not in row for row in rows) and not _is_copy(key, rows):
                lopsided.add(key)
    # Many keys that some configs lack are what a later version brought, not what somebody set.
    return varied | (lopsided if len(lopsided) <= _MOST_LOPSIDED else set())


def _may_set(place: str, key: str) -> bool:
    """Whether a choice in the group at `place` may be what gave `key` its value.

    A model brings learning rates, an algorithm the number of responses per prompt.
    """
    if key == "task.holdout":  # how a run is evaluated: the same in every task's file
        return False
    return key.startswith(f"{place}.") or (place in ("model", "algorithm") and key.startswith("ppo."))


def _is_copy(key: str, rows: Iterable[Mapping[str, str]]) -> bool:
    """Whether another key, named by its own or explained by a choice, always has the same value.

    As `reward.embedder.path` of `embedder.path`, `reward.checker` of `task.checker`, `ppo.batch_size` of the task's.
    """
    rows = [row for row in rows if key in row]
    first, _, rest = key.partition(".")
    sources = [rest, f"task.{rest}"] if first == "reward" else []
    if first in ("ppo", "model"):
        sources += [source for source in rows[0] if source.startswith("task.paper.")]
    return any(all(row.get(source) == row[key] for row in rows) for source in sources)


def _add_last_resorts(parts: list[dict[str, str]], texts: Sequence[Mapping[str, str]], seeds: Sequence[str]) -> None:
    """Name what is named only in need, for those that are not told apart otherwise."""
    alike: dict[Hashable, list[int]] = {}
    for index, part in enumerate(parts):
        alike.setdefault((tuple(part.items()), seeds[index]), []).append(index)
    for members in alike.values():
        for key in sorted({key for index in members for key in texts[index] if key.startswith(_LAST_RESORT)}):
            values = [texts[index].get(key) for index in members]
            if len(set(values)) > 1:
                for index, text in zip(members, _shown(key, values), strict=True):
                    if text is not None:
                        parts[index][key] = text


def reading_order(key: str) -> tuple[bool, int, str]:
    """The order of choices and of keys; the seed is last."""
    first = re.split(r"[./]", key)[0]
    return key == "seed", _ORDER.index(first) if first in _ORDER else len(_ORDER), key


def _shown(key: str, values: Sequence[str | None]) -> list[str | None]:
    """The values as short as they can be while they differ: a file by its name, a long text by its beginning."""
    distinct = sorted({value for value in values if value is not None})
    short = {value: value for value in distinct}
    if any(PurePath(value).is_absolute() for value in distinct):
        short = _tails(distinct)
    listed = {value: _listed_by_names(value) or text for value, text in short.items()}
    if len(set(listed.values())) == len(distinct):
        short = listed
    short = {value: " ".join(text.split()) for value, text in short.items()}
    if any(len(text) > _LONGEST for text in short.values()):
        short = _around_the_difference(short)
    return [None if value is None else short[value] for value in values]


def _listed_by_names(value: str) -> str | None:
    """`[gold_0,gold_1]` of a list with absolute paths, as `value_text` writes one; None of anything else."""
    try:
        items = json.loads(value) if value.startswith("[") else []
    except ValueError:
        return None
    paths = [PurePath(item) for item in items if isinstance(item, str)]
    if not any(path.is_absolute() for path in paths) or len(paths) < len(items):
        return None
    return f"[{','.join(path.name if path.is_absolute() else str(path) for path in paths)}]"


def _tails(values: Sequence[str]) -> dict[str, str]:
    """Absolute paths by as many of their last parts as it takes to tell them apart."""
    depth = max(len(PurePath(value).parts) for value in values)
    for count in range(1, depth + 1):
        tails = {v: str(PurePath(*PurePath(v).parts[-count:])) if PurePath(v).is_absolute() else v for v in values}
        if len(set(tails.values())) == len(values):
            break
    return tails


def _around_the_difference(texts: Mapping[str, str]) -> dict[str, str]:
    """Long texts cut to `_LONGEST` letters, from where they begin to differ on."""
    shared = len(os.path.commonprefix(list(texts.values())))  # noqa: RUF071 (letters are meant)
    start = max(0, shared - 10) if shared > _LONGEST // 2 else 0
    cut = {}
    for value, text in texts.items():
        piece = text[start : start + _LONGEST]
        cut[value] = f"{'…' if start else ''}{piece}{'…' if start + _LONGEST < len(text) else ''}"
    return cut if len(set(cut.values())) == len(texts) else dict(texts)
