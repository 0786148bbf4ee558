"""From a composed config to a run folder: checked, given an identity, and frozen before anything starts.

A run reads nothing but its folder's config.yaml, so that editing conf/ afterwards changes nothing for it. Its identity is
the hash of what decides its result; the same config therefore finds the same folder, whose run is skipped if it has
finished and resumed if it was cut off.
"""

import copy
import json
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from omegaconf import DictConfig, OmegaConf

from pgsrm.algorithm.settings import Algorithm, DistillAlgorithm, PPOAlgorithm, unread
from pgsrm.config.identity import identify
from pgsrm.config.known_keys import TAKEN_OVER
from pgsrm.config.naming import NAMED, Folders, chosen_besides, label, run_name
from pgsrm.config.schema import (
    CRITIC_PATHS,
    LAUNCH,
    REWARD_PATHS,
    Settings,
    read_config,
    read_settings,
)
from pgsrm.embedder import auto
from pgsrm.evaluation import Evaluated, build_object, other_reward, read_text
from pgsrm.models.download import PUBLISHED
from pgsrm.models.lengths import check_fit
from pgsrm.models.settings import NAMED_MODELS, ModelSettings, check_model, named_as
from pgsrm.models.vocabulary import check_same_vocabulary
from pgsrm.parent.files import find_references, parent_command
from pgsrm.parent.mistakes import taught_by, with_mistakes
from pgsrm.ppo.settings import PPOSettings
from pgsrm.record import RunFolder, checkpoint
from pgsrm.record.config_file import config_text
from pgsrm.record.config_file import read_config as config_on_file
from pgsrm.record.differences import nodes
from pgsrm.record.files import replace, writing
from pgsrm.record.mlflow_store import refuse_password, sqlite_file, sqlite_uri, tracking_uri
from pgsrm.record.model_name import model_name, reward_name
from pgsrm.record.run_folder import FORMAT
from pgsrm.record.shorter import Beginning, Beginnings
from pgsrm.record.trackers import check_trackers
from pgsrm.reward.calling import check_before
from pgsrm.task import Example, LacksReferencesError, Task, every_reference, load_task
from pgsrm.util.errors import ParameterError, UserError, under, unwritable
from pgsrm.util.objects import check_call, check_object, is_standardised, mask_object, standardise_object
from pgsrm.util.paths import conf_folder
from pgsrm.util.words import mask_of

HOTTEST = 1.5  # temperature of the equilibrium that needs no warning

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """One run to be: its folder (not yet made), its config with interpolations resolved, and its status fields."""

    folder: RunFolder
    settings: Settings
    config: dict[str, Any]
    updates: int
    identity: str
    variant: str
    course: str
    label: str
    parts: dict[str, str]  # of the identity, so that a resumed run can say what changed
    beginning: Beginning | None = None  # where a shorter run of the same course left off, for a run that is new
    config_dir: str | None = None  # the folder of choices of the user's own, for the command that the report prints

    def freeze(self, sweep: str | None = None) -> None:
        """Make the folder and write config.yaml, unless a process trains the run or has finished it.

        An earlier start's config gives way: with the same identity it can differ only in where and how the run is trained.
        """
        try:
            if self.folder.state() == "finished" or not self.folder.acquire():
                return
        except OSError as error:
            raise unwritable("paths.outputs", self.config["paths"]["outputs"], error) from error
        try:
            with writing(self.folder.path):
                replace(self.folder.config, config_text(self.config))
            status = self.folder.status()
            given = {} if self.config_dir is None else {"config_dir": self.config_dir}
            if status is None:
                begun = self.beginning if self.beginning is not None and self.beginning.copy_to(self.folder) else None
                update = 0 if begun is None else begun.update
                self.folder.write_status(
                    state="waiting",
                    format=FORMAT,
                    reason=None,
                    update=update,
                    updates=self.updates,
                    episodes=update * self.settings.ppo.batch_size,
                    **({} if begun is None else {"goes_on_from": begun.folder.name}),
                    identity=self.identity,
                    variant=self.variant,
                    course=self.course,
                    parts=self.parts,
                    sweep=sweep,
                    label=self.label,
                    **given,
                    seconds=0.0,
                )
            elif status | given != status:
                self.folder.write_status(**given)
        finally:
            self.folder.release()


class Shared:
    """What the plans of one sweep have in common, made once: tasks and rewards of equal config, and what was checked."""

    def __init__(self, checked: set[str] | None = None) -> None:
        """checked: the configured objects that `read_settings` has looked at before."""
        self.folders = Folders()
        self.beginnings = Beginnings()
        self.targets = set[str]() if checked is None else checked
        self._objects: dict[str, tuple[Any, Any]] = {}
        self._checked: set[str] = set()
        self._warned: set[float] = set()
        self._unread: set[str] = set()

    def objects(self, config: dict[str, Any]) -> tuple[Any, Any]:
        """As `build_objects`."""
        key = _key(config["task"], config["parent"], config["reward"])
        if key not in self._objects:
            self._objects[key] = build_objects(config)
        return self._objects[key]

    def check(self, config: dict[str, Any], settings: Settings, task: Any, reward: Any) -> None:
        """Have checker and rewards say what would keep them from working on the task's prompts and references."""
        key = _key(config["reward"], config["evaluation"], config["task"]["checker"], task.digest)
        if key in self._checked:
            return
        evaluated_with = build_evaluation(settings)
        examples = task.train + task.holdout
        if task.checker is not None:
            with under("task.checker"):
                check_call(task.checker, "response", "reference", "inputs", by_name=False)
            check_object(task.checker, examples)
        measures = {f"evaluation.measures.{name}": measure for name, measure in evaluated_with.measures.items()}
        references = [example.references for example in examples]
        for part, scoring in {"reward": reward, "evaluation": evaluated_with.other, **measures}.items():
            with under(part):
                check_before(scoring, references)
        self._checked.add(key)

    def check_prompts(self, settings: Settings, task: Task) -> None:
        """As `check_prompts`, once for each model and task."""
        key = _key(settings.model.path, settings.task.max_new_tokens, task.digest)
        if key not in self._checked:
            check_prompts(settings, task)
            self._checked.add(key)

    def warn_of_unread(self, algorithm: Algorithm, keys: Sequence[str]) -> None:
        """Say once that a key was set which this algorithm does not read."""
        for key in unread(algorithm, keys):
            line = f"{key}: algorithm={algorithm.name} does not read it; leave it out, or choose algorithm=ppo"
            if line not in self._unread:
                self._unread.add(line)
                logger.warning(line)

    def warn(self, ppo: PPOSettings) -> None:
        """Say once where the algorithm itself would flatten a policy: docs/equilibrium.md."""
        temperature = ppo.equilibrium_temperature
        if temperature is None and ppo.entropy_coef and ppo.kl_in == "loss" and ppo.kl_estimator == "k1":
            temperature = (
                math.inf
            )  # whatever k1 does to tokens that are not the policy's own draws, it knows no reference
        if temperature is None or temperature <= HOTTEST or temperature in self._warned:
            return
        self._warned.add(temperature)
        where = f"to the reference at temperature {temperature:g}; "
        where += f"ppo.entropy_coef={(HOTTEST - 1) * ppo.kl_coef:g} would be {HOTTEST:g}"
        if math.isinf(temperature):
            where = (
                "away from the reference, and nothing pulls it back; "
                "ppo.kl_estimator=exact against ppo.kl_reference=initial with ppo.kl_coef above 0 does"
            )
        logger.warning(
            "ppo.entropy_coef=%g, ppo.kl_coef=%g, ppo.kl_estimator=%s: where the reward says nothing, the policy drifts %s",
            ppo.entropy_coef,
            ppo.kl_coef,
            ppo.kl_estimator,
            where,
        )


def _key(*parts: Any) -> str:
    return json.dumps(parts, sort_keys=True)


def plan(
    config: DictConfig,
    choices: dict[str, str],
    shared: Shared | None = None,
    words: Sequence[str] = (),
    model: str | None = None,
    keys: Sequence[str] = (),
    config_dir: str | None = None,
) -> Plan:
    """Check a composed config down to its data, and name its run.

    Args:
        config: composed, without Hydra's node; its interpolations need not be resolved.
        choices: the choice of each config group, by the group's name.
        shared: one for the plans of a sweep.
        words: what was varied or set, for the run's name: `alpha=8` (`pgsrm.config.naming`).
        model: the name of the model where an override of `model.path` put another in the place of the chosen one.
        keys: what the user set, to be told of what the run does not read.
        config_dir: the folder that `--config-dir` named.

    Raises:
        UserError: for the first thing that would not work.
    """
    shared = shared or Shared()
    settings, plain = read_config(config, shared.targets)
    check_model(settings.model)
    if isinstance(settings.algorithm, DistillAlgorithm):
        check_teacher(settings.algorithm.model(settings.model), settings.model)
    choices = dict(choices)
    try:
        frozen = _complete(plain, choices)
        task, reward = shared.objects(frozen)
        # the paths of its measures and embedder as the run will read them: they are in the identity
        objects = {key: frozen["evaluation"].get(key) for key in ("measures", "embedder")}
        settings = msgspec.structs.replace(settings, evaluation=msgspec.structs.replace(settings.evaluation, **objects))
    except LacksReferencesError as error:
        raise UserError(f"{error}; `{parent_command(plain, choices)}` asks a parent for them") from error
    check_trackers(settings.trackers)
    if settings.algorithm.needs_references:
        check_references(settings, task.train, f"algorithm={settings.algorithm.name}")
    if frozen["tracking"] is not None:
        refuse_password(frozen["tracking"]["uri"])
        frozen["tracking"]["uri"] = tracking_uri(frozen["tracking"], frozen["paths"]["outputs"])
    with keys_as_written(frozen):
        identity = identify(settings, frozen, task, reward, build_evaluation(settings))
    # a group that is chosen a second time, as embedder@evaluation.embedder, is named by its place
    frozen["choices"] = {group.rpartition("@")[2]: choices[group] for group in sorted(choices)}
    named = choices | {"model": model or model_name(frozen), "reward": reward_name(frozen)}
    parts = [*(named.get(group, "custom") for group in NAMED), *chosen_besides(choices)]
    name = run_name(parts, words, settings.seed, identity.whole)
    runs = Path(settings.paths.outputs).absolute() / "runs"
    folder, beginning = shared.folders.find(runs, name, identity.whole), None
    is_new = folder.status() is None and not checkpoint.saved(folder)  # a run may have lost its status alone
    if is_new and not settings.stop.keep_best:  # the best model so far is in no checkpoint
        beginning = shared.beginnings.find(runs, identity.course, settings.ppo.updates)
    if folder.state() != "finished":  # what has finished needs no server any more
        shared.check_prompts(settings, task)
        with keys_as_written(frozen):
            shared.check(frozen, settings, task, reward)
        if isinstance(settings.algorithm, PPOAlgorithm):
            shared.warn(settings.ppo)
        shared.warn_of_unread(settings.algorithm, keys)
    for key in LAUNCH:
        frozen.pop(key, None)
    title = label(named, words, settings.seed)
    return Plan(
        folder,
        settings,
        frozen,
        settings.ppo.updates,
        identity.whole,
        identity.variant,
        identity.course,
        title,
        identity.parts,
        beginning,
        config_dir,
    )


def resolve(config: DictConfig, choices: dict[str, str]) -> dict[str, Any]:
    """A checked config as plain data: interpolations resolved, the parent's answers found, paths made absolute.

    What `embedder=auto` chooses is put into `choices` too. A critic that the reward does not ask is left out of both.

    Raises:
        UserError: where the parent has not answered yet.
    """
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return _complete({str(key): value for key, value in plain.items()}, choices)


def _complete(plain: dict[str, Any], choices: dict[str, str]) -> dict[str, Any]:
    """A copy of a config's plain data with what `resolve` adds."""
    resolved = copy.deepcopy(plain)  # settings share its lists and objects
    resolved["parent"]["references"] = find_references(resolved, choices)
    _choose_embedder(resolved, choices)
    critic = resolved.get("critic")
    if critic is None or critic not in nodes(resolved["reward"]):
        resolved.pop("critic", None)
        for group in [group for group in choices if group.partition("@")[0] == "critic"]:
            choices.pop(group)
    return _absolute_paths(resolved)


def _choose_embedder(config: dict[str, Any], choices: dict[str, str]) -> None:
    """Put the embedder that the references need in the place of `embedder=auto`, in the config and in its choices."""
    embedders = [(node, node.get("embedder")) for node in (config, config["reward"])]
    holders = [node for node, chosen in embedders if isinstance(chosen, dict) and chosen.get("_target_") == auto.AUTO]
    if not holders:
        return
    task = build_task(config)
    name = auto.choose(list(dict.fromkeys(every_reference(task.train + task.holdout))))
    choices["embedder"] = name
    for node in holders:
        node["embedder"] = OmegaConf.to_container(OmegaConf.load(conf_folder() / "embedder" / f"{name}.yaml"))


def build_task(config: dict[str, Any]) -> Task:
    """The task of a resolved config: prompts, references (with the parent's mistakes, made or its own), checker."""
    parent = config["parent"]
    task = load_task(config["task"], parent["references"])
    if parent["references"] and parent.get("right") == "data":
        task = taught_by(task, config["task"])
    return with_mistakes(task, parent.get("error_rate", 0.0), parent.get("error_seed", 0))


def check_prompts(settings: Settings, task: Task) -> None:
    """Raise UserError where a prompt of the task is too long for the model, as far as its files say so."""
    examples = task.train + task.holdout

    def shortened(row: int, words: int) -> str:
        return examples[row].shortened(settings.task.template, words)

    check_fit(settings.model, [example.prompt for example in examples], task.max_new_tokens, shortened)


def check_references(settings: Settings, examples: Sequence[Example], who: str) -> None:
    """Raise UserError where prompts have no reference, from which `who` learns."""
    lacking = sum(not example.taught for example in examples)
    if lacking:
        raise UserError(
            f"task.data={settings.task.data}: {lacking} of {len(examples)} prompts have no reference, from which {who} learns; "
            "give the data a column `reference`, or name its column by task.reference={column}"
        )


def check_teacher(teacher: ModelSettings, policy: ModelSettings) -> None:
    """Raise UserError for a teacher that is no model, or has another vocabulary, as far as the files say so."""
    with named_as("algorithm.teacher"):
        check_model(teacher)
    check_same_vocabulary(teacher, policy, "algorithm.teacher")


def build_objects(config: dict[str, Any]) -> tuple[Any, Any]:
    """The task (prompts, references, checker) and the reward of a resolved config; quick, models load at first use."""
    with keys_as_written(config):
        return build_task(config), build_reward(config)


def build_reward(config: dict[str, Any]) -> Any:
    """The reward of a resolved config, whose messages quote texts as samples show them."""
    reward = build_object(config["reward"], "reward")
    mask_object(reward, mask_of(config["task"].get("mask")))  # runs of earlier versions have no such key
    return reward


def standardise_outside_run(config: dict[str, Any], task: Task, reward: Any) -> None:
    """Have a reward that is counted from what the policy writes untrained see that, as a run of this config does at its start.

    The configured model is loaded where the reward asks for its samples alone. Raises UserError as a run does.
    """
    if not is_standardised(reward):
        return
    settings = read_settings(OmegaConf.create(config))

    @cache
    def samples() -> tuple[Sequence[str], Sequence[str]]:
        from pgsrm.evaluation.reference_samples import samples_of_model  # loads torch

        check_model(settings.model)
        ppo = settings.ppo
        return samples_of_model(settings.model, task, ppo.temperature, ppo.top_k, settings.seed)

    with under("reward"):
        standardise_object(reward, samples)


@contextmanager
def keys_as_written(config: dict[str, Any]) -> Iterator[None]:
    """Around what a run's objects do: an error names the key that one writes, not a place that takes over what stands there.

    `task.extrinsic` is what reward.extrinsic and, by way of task.measures, an evaluation's measure are made of.
    """
    try:
        yield
    except ParameterError as error:
        raise UserError(_as_written(str(error), config)) from error.__cause__


def _as_written(message: str, config: dict[str, Any]) -> str:
    """The message with its key as `keys_as_written` says."""
    for place, source in TAKEN_OVER.items():
        taken = OmegaConf.select(OmegaConf.create(config), place)
        if message.startswith(f"{place}.") and taken and taken == OmegaConf.select(OmegaConf.create(config), source):
            message = source + message.removeprefix(place)
    return message


def build_evaluation(settings: Settings) -> Evaluated:
    """What a run is evaluated with besides its reward; measures quote texts as samples show them."""
    evaluation = settings.evaluation
    text = None if evaluation.text is None else read_text(evaluation.text)
    measures = {
        name: build_object(node, f"evaluation.measures.{name}")
        for name, node in (evaluation.measures or {}).items()
        if node
    }
    masked = mask_of(settings.task.mask)
    for measure in measures.values():
        mask_object(measure, masked)
    return Evaluated(text, other_reward(evaluation.embedder), measures, evaluation.continuations, evaluation.prompts)


def load_settings(folder: RunFolder) -> tuple[Settings, dict[str, Any]]:
    """The settings and the plain config of a frozen run, its paths as they are now if its outputs were moved.

    Raises UserError where config.yaml does not hold the config of a run: a crash or an editor may have emptied or cut it.
    """
    held = config_on_file(folder.config)
    missing = [field.name for field in msgspec.structs.fields(Settings) if field.required and field.name not in held]
    if missing:
        raise UserError(
            f"{folder.config}: empty, cut off or broken (no {missing[0]} in it); an unfinished run's command writes it again; of a "
            "finished one, put the file back, or delete the folder to train it anew"
        )
    loaded = OmegaConf.to_container(OmegaConf.create(held), resolve=True)
    assert isinstance(loaded, dict)
    plain = _moved({str(key): value for key, value in loaded.items()}, folder)
    return read_settings(OmegaConf.create({key: value for key, value in plain.items() if key != "choices"})), plain


def _moved(config: dict[str, Any], folder: RunFolder) -> dict[str, Any]:
    """A frozen config with its paths as they are where its outputs lie now: neither `mv` nor `cp -r` changes a config.yaml.

    A file below the outputs is read in the new place, or in the old one where it was left behind. The database is the new
    place's in any case: the run that was copied and its copy would otherwise write to one run of MLflow's.
    """
    before, now = Path(config["paths"]["outputs"]), folder.path.absolute().parent.parent
    if before == now or folder.path.absolute().parent.name != "runs":
        return config

    def moved(path: Path) -> Path:
        return now / path.relative_to(before) if path.is_relative_to(before) else path

    config["paths"]["outputs"] = str(now)
    for node, key in _path_places(config):
        value = node[key]
        if isinstance(value, str) and (moved(Path(value)).exists() or not Path(value).exists()):
            node[key] = str(moved(Path(value)))
    if config["tracking"] is not None:
        database = sqlite_file(config["tracking"]["uri"])
        if database is not None:
            config["tracking"]["uri"] = sqlite_uri(moved(database))
    return config


def _absolute_paths(config: dict[str, Any]) -> dict[str, Any]:
    """Paths are made absolute, so that a run can be resumed from another working directory: those that exist as given.

    And those of files that a run makes. The names of shipped instructions stay, also where a file here is called so.
    """
    for node, key in _path_places(config):
        value = node[key]
        if not isinstance(value, str) or value in PUBLISHED or value in NAMED_MODELS:
            continue
        if key == "instruction" and "." not in value:
            continue
        if key == "ledger" or (Path(value).exists() and not (key == "model" and _is_shipped_classifier(value))):
            node[key] = str(Path(value).absolute())
    config["paths"]["outputs"] = str(Path(config["paths"]["outputs"]).absolute())
    return config


def _path_places(config: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Where a config names a file or folder that a run reads, as (node, key); of a list of them as (list, place)."""
    places: list[tuple[Any, Any]] = []
    for node, key in _path_keys(config):
        value = node.get(key)
        places += [(value, place) for place in range(len(value))] if isinstance(value, list) else []
        places += [(node, key)] if isinstance(value, str) else []
    return places


def _path_keys(config: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """The keys that name files and folders, as (node, key)."""
    places = [
        (config["task"], "data"),
        (config["task"], "mask"),
        (config["parent"], "references"),
        (config["model"], "path"),
        (config.get("algorithm") or {}, "teacher"),
    ]
    embedders = (config["embedder"], config["evaluation"].get("embedder"))
    places += [(node, "path") for node in embedders if isinstance(node, dict)]
    places += _critics_places(config.get("critic")) + _rewards_places(config["reward"])
    for measure in (config["evaluation"].get("measures") or {}).values():
        places += _rewards_places(measure)
    return [*places, (config["evaluation"], "text")]


def _is_shipped_classifier(name: str) -> bool:
    from pgsrm.models.classifier import NAMES  # NumPy, which a config error does without

    return name in NAMES


def _critics_places(node: Any) -> list[tuple[dict[str, Any], str]]:
    if not isinstance(node, dict):
        return []
    return [(node, key) for key in CRITIC_PATHS] + _critics_places(node.get("critic"))


def _rewards_places(node: Any) -> list[tuple[dict[str, Any], str]]:
    if not isinstance(node, dict):
        return []
    of_a_server = ("model", "path") if "base_url" in node else ()  # which are no files
    places = [(node, key) for key in REWARD_PATHS if key not in of_a_server]
    embedder, parts = node.get("embedder"), node.get("parts")
    places += [(embedder, "path")] if isinstance(embedder, dict) else []
    places += _critics_places(node.get("critic")) + _rewards_places(node.get("extrinsic"))
    for part in parts.values() if isinstance(parts, dict) else ():
        places += _rewards_places(part)
    return places


def check_unchanged(folder: RunFolder, settings: Settings, config: dict[str, Any], task: Any, reward: Any) -> None:
    """Raise UserError, with what changed, if the run would now be another than the one that was planned."""
    status = folder.status() or {}
    with keys_as_written(config):
        now = identify(settings, config, task, reward, build_evaluation(settings))
    if status.get("identity") != now.whole:
        named = {"vectors": "what the reward reads (vectors, a critic's or a model's files)"}
        what = ", ".join(named.get(part, part) for part in now.changed(status.get("parts") or {})) or "config"
        raise UserError(
            f"{folder.name}: changed since it was planned: {what}; the command that planned it makes a run of its own "
            "for what there is now"
        )
