"""Hydra's overrides -> plans of runs."""

import itertools
import pickle
import re
import shlex
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import omegaconf.base
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from pgsrm.config.command_line import config_dir_of, plain_run, refuse_sweep, search_path
from pgsrm.config.known_keys import NAMED_BY_USERS, TAKEN_OVER
from pgsrm.config.libyaml import reading_by_libyaml
from pgsrm.config.messages import one_line
from pgsrm.config.naming import model_of, without_asking, words_of
from pgsrm.config.own_data import own_data
from pgsrm.config.own_reward import own_reward
from pgsrm.config.schema import CRITIC_PATHS, LAUNCH, REWARD_PATHS, read_config, read_settings
from pgsrm.record.differences import HOW_ASKED
from pgsrm.util.errors import UserError
from pgsrm.util.paths import conf_folder, local_path

if TYPE_CHECKING:
    from pgsrm.config.plan import Plan

_ONE_AT_A_TIME = threading.RLock()  # Hydra's state belongs to the process, not to a thread


@contextmanager
def hydra_of_our_own() -> Iterator[None]:
    """Hydra over this package's conf/ for `hydra.compose`; the state it had before is put back at the end.

    Hydra keeps one configuration for the whole process. A program that itself uses Hydra has its own there, and Hydra
    refuses a second one.
    """
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.version import VersionBase

    with _ONE_AT_A_TIME:
        theirs, their_version = GlobalHydra.instance().hydra, VersionBase.instance().version_base
        GlobalHydra.instance().clear()
        try:
            with reading_by_libyaml(), initialize_config_dir(str(conf_folder()), version_base="1.3"):
                yield
        finally:
            GlobalHydra.instance().hydra = theirs
            VersionBase.instance().version_base = their_version


def compose_words(words: Sequence[str], command: str) -> tuple[DictConfig, dict[str, str]]:
    """The config of one run from a command's words, without Hydra's node, and the choice of each group.

    Raises:
        UserError: for Hydra's own options, which `command` does not take.
    """
    from hydra import compose

    overrides, folder = plain_run(words)
    if overrides is None:
        flag = next(word for word in words if word.startswith(("-", "hydra")))
        raise UserError(f"{flag}: {command} takes group=choice, key=value and --config-dir alone")
    with hydra_of_our_own():
        composed = compose("config", overrides + search_path(folder), return_hydra_config=True)
    return _read_paths(*_without_hydra(composed))


def compose_tasks(words: Sequence[str], command: str) -> list[tuple[dict[str, Any], dict[str, str]]]:
    """For each task of `task=a,b` among a command's words: the checked and resolved config, and the choice of each group.

    Raises:
        UserError: for whatever is wrong with the words, in one line.
    """
    tasks = ",".join(word.partition("=")[2] for word in words if word.startswith("task=")).split(",")
    others = [word for word in words if not word.startswith("task=")]
    composed = [compose_words([*others, f"task={task}"] if task else others, command) for task in tasks]
    for config, _ in composed:
        read_settings(config)
    # Here, so that a wrong value is told before tasks, rewards and embedders are imported.
    from pgsrm.config.plan import resolve

    return [(resolve(config, choices), choices) for config, choices in composed]


def compose_run(
    words: Sequence[str | DictConfig], reward: Callable[..., Any] | None = None, data: Any = None
) -> tuple[DictConfig, dict[str, str]]:
    """The checked config of one run and the choice of each group, for callers in Python.

    Args:
        words: the command line's (`task=antonym`, `seed=3`, `--config-dir=mine`); or one config that is composed already,
            with the choices in its key `choices`, as `pgsrm.compose` returns it.
        reward: a reward of the caller's own instead of the one that the words choose.
        data: the task's data as a data frame, which is written to a file below `paths.outputs`.

    Raises:
        UserError: for whatever is wrong with the words, in one line.
    """
    config, choices = _given(words)
    if reward is not None:
        if any(isinstance(word, str) and word.startswith(("reward=", "reward.")) for word in words):
            raise UserError("reward: given twice, as an argument and as an override; leave one out")
        choices["reward"], node = own_reward(reward)
        with open_dict(config):
            config["reward"] = node
    if data is not None:
        if any(isinstance(word, str) and word.startswith("task.data=") for word in words):
            raise UserError("data: given twice, as an argument and as an override; leave one out")
        config["task"]["data"] = str(own_data(data, local_path(config["paths"]["outputs"], "paths.outputs")))
    read_settings(config)
    return _read_paths(config, choices)


def _given(words: Sequence[str | DictConfig]) -> tuple[DictConfig, dict[str, str]]:
    overrides = [word for word in words if isinstance(word, str)]
    if len(overrides) < len(words):
        if len(words) > 1 or not isinstance(words[0], DictConfig):
            kinds = ", ".join(type(word).__name__ for word in words)
            raise UserError(f"{kinds}: expected overrides such as 'seed=3', or one config that pgsrm.compose returned")
        config = words[0].copy()
        with open_dict(config):
            chosen = config.pop("choices", {})
        return config, {str(group): str(choice) for group, choice in chosen.items()}
    from hydra import compose

    try:
        values, folder = plain_run(overrides)
        if values is None:
            option = next(word for word in overrides if word.startswith(("-", "hydra")))
            raise UserError(
                f"{option}: is the command line's; one run takes group=choice, key=value and --config-dir=DIR"
            )
        _refuse_several(values)
        with hydra_of_our_own():
            config = compose("config", values + search_path(folder), return_hydra_config=True)
        refuse_sweep(config, "give each one value")
    except Exception as error:
        line = one_line(error, overrides)
        if line is None:
            raise
        raise UserError(line) from None
    return _without_hydra(config)


def _refuse_several(overrides: Sequence[str]) -> None:
    """Raise UserError for `seed=0,1,2`, which the command line's -m would make three runs of."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    for text, override in zip(overrides, OverridesParser.create().parse_overrides(list(overrides)), strict=True):
        if override.is_sweep_override():
            key = override.key_or_group
            remedy = f'[pgsrm.train(..., f"{key}={{value}}") for value in (...)]'
            raise UserError(f"{text}: several values are several runs, and this is one; write a loop: {remedy}")


def plan_words(*words: str | DictConfig, reward: Callable[..., Any] | None = None, data: Any = None) -> "Plan":
    """The plan of the run that these words choose, as `compose_run` reads them."""
    composed = compose_run(words, reward, data)
    from pgsrm.config.plan import plan  # as in `compose_tasks`

    keys = [word.lstrip("+").partition("=")[0] for word in words if isinstance(word, str)]
    _, folder = plain_run([word for word in words if isinstance(word, str)])
    config_dir = None if folder is None else str(folder.absolute())
    return plan(*composed, model=_model_in(words), keys=keys, config_dir=config_dir)


def _model_in(words: Sequence[str | DictConfig]) -> str | None:
    """The name of the model that an override among the words puts in the place of the chosen one."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    given = [word for word in words if isinstance(word, str) and word.startswith("model.path=")]
    return model_of(OverridesParser.create().parse_overrides(given)) if given else None


def plan_run(config: DictConfig) -> "Plan":
    """The plan of a composed config that still has its `hydra` node, from which the groups' choices are read."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    overrides = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
    folder = config_dir_of(config.hydra)
    with _interpolations_parsed_once():
        composed = _read_paths(*_without_hydra(config))
        read_settings(composed[0])
        (words,) = words_of([without_asking(overrides, lambda: composed[0])])
        from pgsrm.config.plan import plan  # as in `compose_tasks`

        keys = _keys(overrides)
        return plan(*composed, words=words, model=model_of(overrides), keys=keys, config_dir=folder)


def _keys(overrides: Sequence[Any]) -> list[str]:
    return [override.key_or_group for override in overrides]


class Composer:
    """The plans of a sweep's runs.

    Hydra takes tens of milliseconds to compose a config, most of it for the choices of the groups. Each combination of
    choices is composed once, and what merely sets a value (seed=3) is set on a copy, as Hydra does itself in the end.
    """

    def __init__(self, config_loader: Any, config: DictConfig) -> None:
        """Hydra's config loader, and the sweep's own config."""
        from hydra.core.override_parser.overrides_parser import OverridesParser

        self._loader, self._config = config_loader, config
        self._parser = OverridesParser.create(config_loader=config_loader)
        self._parsed: dict[str, Any] = {}
        self._composed: dict[tuple[tuple[str, ...], tuple[str, ...]], bytes] = {}
        self._groups: dict[str, bool] = {}
        self._objects: dict[tuple[str, ...], DictConfig] = {}

    def plans(self, runs: Sequence[Sequence[str]], named: Collection[str] | None = None) -> "list[Plan]":
        """The plans of the runs with these overrides.

        named: the keys whose values make the runs' names; those that differ between the runs by default.

        Each value is looked at once before the first plan is made, which takes ten times as long: a wrong one is told at
        once. Raises UserError, and what Hydra raises for a wrong override.
        """
        with _interpolations_parsed_once():
            return self._plans(runs, named)

    def _plans(self, runs: Sequence[Sequence[str]], named: Collection[str] | None) -> "list[Plan]":
        seen, checked = set[str](), set[str]()
        in_all = set(runs[0]).intersection(*runs[1:])
        for overrides in runs:
            if not seen.issuperset(overrides):
                read_config(self.compose(overrides, in_all)[0], checked)
                seen.update(overrides)
        from pgsrm.config.plan import Shared, plan  # as in `compose_tasks`

        shared = Shared(checked)
        parsed = [self._parse(overrides) for overrides in runs]
        deciding = [without_asking(run, partial(self._objects_of, run)) for run in parsed]
        if named is None:
            words = words_of(deciding)
        else:
            words = [words_of([[one for one in run if one.key_or_group in named]])[0] for run in deciding]
        folder = config_dir_of(self._config.hydra)
        return [
            plan(*self.compose(overrides, in_all), shared, own_words, model_of(run), _keys(run), folder)
            for overrides, run, own_words in zip(runs, parsed, words, strict=True)
        ]

    def _objects_of(self, parsed: Sequence[Any]) -> DictConfig:
        """A config with the objects of the run with these overrides, composed once for all runs that have the same objects.

        A number chooses no object, nor does a key that may say how one is asked: such values are left out.
        """
        choosing = tuple(override.input_line for override in parsed if self._may_choose_object(override))
        if choosing not in self._objects:
            self._objects[choosing] = self.compose(choosing)[0]
        return self._objects[choosing]

    def _may_choose_object(self, override: Any) -> bool:
        if not self._is_value(override):
            return True
        return not (isinstance(override.value(), int | float) or override.key_or_group.rpartition(".")[2] in HOW_ASKED)

    def compose(self, overrides: Sequence[str], in_all: Collection[str] = ()) -> tuple[DictConfig, dict[str, str]]:
        """The config of the run with these overrides, without Hydra's node, and the choice of each group.

        in_all: those that all runs of the sweep have. They are set once for each combination of choices.
        """
        parsed = self._parse(overrides)
        values = [override for override in parsed if self._is_value(override)]
        choices = tuple(override.input_line for override in parsed if override not in values)
        keys = [override.key_or_group for override in values]
        # Where no value is set twice, or within another, their order means nothing.
        apart = not any(f"{one}.".startswith(f"{other}.") for one, other in itertools.permutations(keys, 2))
        first = [override for override in values if apart and override.input_line in in_all]
        key = (choices, tuple(override.input_line for override in first))
        try:
            if key not in self._composed:
                config, chosen = _without_hydra(self._loader.load_sweep_config(self._config, list(choices)))
                _set(config, first)
                self._composed[key] = pickle.dumps(_read_paths(config, chosen), pickle.HIGHEST_PROTOCOL)
            # A copy, in a fifth of the time that copy.deepcopy takes.
            config, chosen = pickle.loads(self._composed[key])
            own = [override for override in values if override not in first]
            _set(config, own)
        except Exception:  # said better, and as for a single run, by Hydra
            return _read_paths(*_without_hydra(self._loader.load_sweep_config(self._config, list(overrides))))
        if any(override.key_or_group.partition(".")[0] in _WITH_PATHS for override in own):
            _read_paths(config, chosen)
        return config, chosen

    def _parse(self, overrides: Sequence[str]) -> list[Any]:
        """Hydra's parsed overrides; most of a sweep's runs have the same, and each is parsed once."""
        for text in overrides:
            if text not in self._parsed:
                (self._parsed[text],) = self._parser.parse_overrides([text])
        return [self._parsed[text] for text in overrides]

    def _is_value(self, override: Any) -> bool:
        """Whether an override sets a key's value, and neither chooses from a group, nor adds or deletes a key."""
        key = override.key_or_group
        if override.is_add() or override.is_force_add() or override.is_delete() or override.package is not None:
            return False
        if key not in self._groups:
            self._groups[key] = key.startswith("hydra") or bool(self._loader.get_group_options(key))
        return not self._groups[key]


def _set(config: DictConfig, values: Sequence[Any]) -> None:
    for override in values:
        OmegaConf.update(config, override.key_or_group, override.value(), merge=True)


@contextmanager
def _interpolations_parsed_once() -> Iterator[None]:
    """Within it, OmegaConf keeps what it made of an interpolation's text; it parses that again at every look otherwise.

    The function is none of OmegaConf's public ones: a version without it is as slow as it is.
    """
    parse = getattr(omegaconf.base, "parse", None)
    if parse is None:
        yield
        return
    omegaconf.base.parse = cache(parse)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        omegaconf.base.parse = parse  # type: ignore[attr-defined]


# Every key that names a file or a folder of the user's. tracking.uri, which may hold one, is read by the mirror's own parser.
PATHS = (
    "paths.outputs",
    "task.data",
    "task.curated",
    *(f"task.critic.{key}" for key in ("words", "instruction", "short", "nano.path", "nano.instruction")),
    "task.mask",
    "parent.references",
    "model.path",
    "algorithm.teacher",
    "embedder.path",
    "embedder.cache",
    "reward.embedder.path",
    "reward.embedder.cache",
    *(
        f"{node}{inner}.{key}"
        for node in ("critic", "reward.critic")
        for inner in ("", ".critic")
        for key in CRITIC_PATHS
    ),
    *(f"{node}.{key}" for node in ("reward", "reward.extrinsic", "task.extrinsic") for key in REWARD_PATHS),
    "evaluation.text",
    "evaluation.embedder.path",
    "evaluation.embedder.cache",
)

_WITH_PATHS = {key.partition(".")[0] for key in PATHS}  # sections; those of `_named_by_users` are among them


def _named_by_users(config: DictConfig) -> Iterator[str]:
    """The keys that name files below names that users choose: of the parts of a sum, and of measures."""
    for holder in ("reward.parts", "task.extrinsic.parts", "task.measures", "evaluation.measures"):
        named = OmegaConf.select(config, holder, throw_on_missing=False, throw_on_resolution_failure=False)
        for name in named if isinstance(named, DictConfig) and not named._is_none() else ():
            for key in PATHS:
                if key.startswith("reward."):
                    yield f"{holder}.{name!s}.{key.removeprefix('reward.')}"


# Mappings whose names users choose and which a choice takes from elsewhere, as ${oc.select:task.critic.values,null}; a reward may
# be within another one.
_TAKEN_NAMES = {holder: source for holder, source in TAKEN_OVER.items() if holder in NAMED_BY_USERS}
_HOLDERS = "|".join(r"{}\.(?:[^=]+\.)?{}".format(*holder.split(".")) for holder in _TAKEN_NAMES)
_ADDED_NAME = re.compile(rf"\+\+?(?P<holder>{_HOLDERS})\.(?P<rest>[^=]+)=")


def _refuse_lost_names(config: DictConfig) -> None:
    """Raise UserError for `+reward.values.x=1` where the task has values: what Hydra makes of it has x alone.

    An object that loses its other keys so lacks its `_target_`, and that is told of anyway.
    """
    added = [match for word in config.hydra.overrides.task if (match := _ADDED_NAME.match(word))]
    for match in added:
        holder, rest = match["holder"], match["rest"]
        source = _TAKEN_NAMES[f"{holder.partition('.')[0]}.{holder.rpartition('.')[2]}"]
        now, theirs = (OmegaConf.select(config, key, throw_on_resolution_failure=False) for key in (holder, source))
        if not isinstance(now, DictConfig) or not isinstance(theirs, DictConfig):
            continue
        names = {other["rest"].partition(".")[0] for other in added if other["holder"] == holder}
        lost = [str(name) for name in theirs if name not in now]
        if lost and names.issuperset(map(str, now)):  # a choice or a word that has names itself keeps them
            word = f"{source}.{rest}" if rest.partition(".")[0] in theirs else f"+{source}.{rest}"
            raise UserError(
                f"{match.string}: {holder} would have no {', '.join(lost)}, which the task has; set {word}, or {holder} as a whole"
            )


_ADDED_OBJECT = re.compile(r"\+\+?(?P<group>\w+)=\{.*\b_target_\b")


def _refuse_mixed_objects(config: DictConfig) -> None:
    """Raise UserError for `+reward={_target_: mine}` without `~reward`: Hydra merges it into the choice, whose other keys stay.

    A function that takes whatever it is given, as **_, would not say so.
    """
    words = list(config.hydra.overrides.task)
    for match in filter(None, map(_ADDED_OBJECT.match, words)):
        group = match["group"]
        choice = config.hydra.runtime.choices.get(group)
        removed = any(word.partition("=")[0] == f"~{group}" for word in words)
        if choice is not None and not removed:
            raise UserError(
                f"{match.string}: {group}={choice} would keep its other keys beside these; "
                f"~{group} {shlex.quote(match.string)} puts the object in its place"
            )


def _without_hydra(config: DictConfig) -> tuple[DictConfig, dict[str, str]]:
    choices = {
        str(group): str(option)
        for group, option in config.hydra.runtime.choices.items()
        if "hydra" not in str(group) and str(group) not in LAUNCH and option is not None
    }
    _refuse_lost_names(config)
    _refuse_mixed_objects(config)
    config = config.copy()
    with open_dict(config):
        config.pop("hydra")
    return config, choices


def _read_paths(config: DictConfig, choices: dict[str, str]) -> tuple[DictConfig, dict[str, str]]:
    """Put what `local_path` makes of them in the place of the keys that name files and folders."""
    sections: dict[str, Any] = {}
    for key in (*PATHS, *_named_by_users(config)):
        section, _, name = key.rpartition(".")
        if section not in sections:
            sections[section] = OmegaConf.select(
                config, section, throw_on_missing=False, throw_on_resolution_failure=False
            )
        node = sections[section]
        # An interpolation (reward.embedder=${embedder}) is read where it points.
        if not isinstance(node, DictConfig) or name not in node or OmegaConf.is_missing(node, name):
            continue
        if OmegaConf.is_interpolation(node, name):
            continue
        if isinstance(node[name], str):
            node[name] = str(local_path(node[name], key))
        elif isinstance(node[name], ListConfig):
            node[name] = [str(local_path(one, key)) if isinstance(one, str) else one for one in node[name]]
    return config, choices
