"""What a run's folder is called. The name is for people; a run is found by its identity (`identity`), whatever its name."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pgsrm.record import RunFolder
from pgsrm.record.differences import HOW_ASKED, only_asks
from pgsrm.record.model_name import DEFAULTS, path_name
from pgsrm.record.params import is_secret
from pgsrm.util.numbers import number_text

NAMED = ("task", "reward", "model", "ppo")  # the config groups in every name
NAMED_IF_CHOSEN = ("algorithm", "fidelity", "ablation")
# What a name has anyway, and what decides no result.
_UNNAMED = (
    *NAMED, *NAMED_IF_CHOSEN, "baseline", "experiment", "objective", "seed", "evaluation", "paths", "tracking", "trackers",
    "checkpoint", "threads", "processes", "cluster", "resources", "dry_run", "hydra",
)  # fmt: skip
_LONGEST_VALUE = 24
_LONGEST = 80  # of all values in a name; a file system takes 255 bytes


def words_of(runs: Sequence[Sequence[Any]]) -> list[list[str]]:
    """For each run the words of its overrides that tell it from the others, as `alpha=8`; of a single run, all of them.

    runs: Hydra's parsed overrides of each run.
    """
    # A secret is in no name: names are in folders, tables and trackers.
    named = [[o for o in run if _is_named(o.key_or_group) and not is_secret(o.key_or_group, o.value())] for run in runs]
    given = [{o.key_or_group: _value(o) for o in run} for run in named]
    keys = list(dict.fromkeys(key for run in given for key in run))
    if len(runs) > 1:
        keys = [key for key in keys if len({run.get(key) for run in given}) > 1]
    last = [key.rpartition(".")[2] for key in keys]
    short = {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}
    cut = {key: _cut({run[key] for run in given if key in run}) for key in keys}
    return [[f"{short[key]}={cut[key][run[key]]}" for key in keys if key in run] for run in given]


def _cut(values: Collection[str]) -> dict[str, str]:
    """Each value in few letters; where that makes two the same, from shortly before the first letter that differs."""
    cut = {value: value[:_LONGEST_VALUE] for value in values}
    if len(set(cut.values())) < len(cut):
        # What the first and the last in their order have in common, all have.
        alike = takewhile(lambda pair: pair[0] == pair[1], zip(min(cut), max(cut), strict=False))
        start = max(0, sum(1 for _ in alike) - _LONGEST_VALUE // 3)
        cut = {value: value[start : start + _LONGEST_VALUE] for value in values}
    return cut


def without_asking(overrides: Sequence[Any], config: Callable[[], Any]) -> list[Any]:
    """Hydra's parsed overrides of a run without those that only say how a model or server is asked.

    config: gives the run's composed config. It is called where an override may be such a one.
    """
    asking = [o for o in overrides if o.key_or_group.rpartition(".")[2] in HOW_ASKED]
    if not asking:
        return list(overrides)
    composed = config()
    return [o for o in overrides if o not in asking or not _only_asks(o.key_or_group, composed)]


def _only_asks(key: str, config: Any) -> bool:
    place, _, last = key.rpartition(".")
    target = OmegaConf.select(config, f"{place}._target_") if place else None
    return only_asks(last, place.rpartition(".")[2], target)


def model_of(overrides: Sequence[Any]) -> str | None:
    """The name of a model that `model.path` puts in the place of the chosen one; None where there is none."""
    paths = [_text(override) for override in overrides if override.key_or_group == "model.path"]
    return path_name(paths[-1]) if paths and paths[-1] != "null" else None


def run_name(parts: Sequence[str], words: Sequence[str], seed: int, identity: str) -> str:
    """`antonym-pgsrm-nano-sound-alpha=8-s0-1a2b3c4d`: safe in a shell, and of bounded length."""
    shown: list[str] = []
    for word in words:
        if len("-".join([*shown, word])) <= _LONGEST:
            shown.append(word)
    return "-".join([*map(_safe, parts), *shown, f"s{seed}", identity[:8]])


def chosen_besides(choices: Mapping[str, str]) -> list[str]:
    """What a name says of `NAMED_IF_CHOSEN`: PPO, which most runs learn by, goes without saying."""
    return [
        choices[group] for group in NAMED_IF_CHOSEN if choices.get(group, DEFAULTS.get(group)) != DEFAULTS.get(group)
    ]


def label(choices: Mapping[str, str], words: Sequence[str], seed: int) -> str:
    """The same for a narrow column, what differs first: `alpha=8 antonym pgsrm s0, nano sound`."""
    task, reward, model, ppo = (choices.get(group, "custom") for group in NAMED)
    return f"{' '.join([*words, *chosen_besides(choices), task, reward, f's{seed}'])}, {model} {ppo}"


class Folders:
    """The run folders below some outputs, by what their names end in; each place is listed once."""

    def __init__(self) -> None:
        self._known: dict[Path, dict[str, Path]] = {}

    def find(self, runs: Path, name: str, identity: str) -> RunFolder:
        """The folder of the run with this identity, whatever it is called; a new one is called `name`."""
        if runs not in self._known:
            there = sorted(runs.iterdir()) if runs.is_dir() else []
            self._known[runs] = {path.name.rpartition("-")[2]: path for path in there}
        path = self._known[runs].get(identity[:8])
        if path is not None and path.name != name:
            folder = RunFolder(path)
            if (folder.status() or {}).get("identity", identity) == identity:
                return folder
        return RunFolder(runs / name)


def _is_named(key: str) -> bool:
    """Whether a name has room for an override's key: one below task, reward, model, ppo, algorithm; their choices it has anyway.

    `stop.keep_best` decides nothing of a run.
    """
    group, _, below = key.partition(".")
    has_name = (*NAMED, *NAMED_IF_CHOSEN)
    return key not in ("model.path", "algorithm.name", "stop.keep_best") and (
        group not in _UNNAMED or (group in has_name and below != "")
    )


def _value(override: Any) -> str:
    """The user's own words, as the name of a file can have them.

    A server stands there by its host, a path by its last part, those of a list as well, and an object by its function or class.
    """
    text = _text(override).rstrip("/")
    if server := re.match(r"https?://(?:[^/?#]*@)?([^/?#]+)", text):
        text = server[1]
    elif text.startswith("["):
        text = re.sub(r"[^\[\],\s'\"]*/(?=[^/\],])", "", text)
    elif text.startswith("{"):
        text = re.sub(r",\s*_partial_:\s*true\b", "", re.sub(r"_target_:\s*(?:\w+\.)*(\w+)", r"\1", text)).strip("{}")
    elif "/" in text and not text.startswith("$"):
        text = path_name(text)
    # Hydra writes the values of a sweep as Python does.
    return _safe(number_text(text) if isinstance(override.value(), float) else text)


def _text(override: Any) -> str:
    return str(override.input_line).partition("=")[2].strip().strip("'\"")


def _safe(text: str) -> str:
    return re.sub(r"[^\w.+=-]+", "_", text) or "_"
