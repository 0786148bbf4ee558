"""From a composed config to a run folder: checked, given an identity, and frozen before anything starts.

A run reads nothing but its folder's config.yaml, so that editing conf/ afterwards changes nothing for it. Its identity is
the hash of what decides its result; the same config therefore finds the same folder, whose run is skipped if it has
finished and resumed if it was cut off.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from omegaconf import DictConfig, OmegaConf

from pgsrm.config.naming import NAMED, NAMED_IF_CHOSEN, Folders, label, run_name
from pgsrm.config.schema import EvaluationSettings, Settings, read_settings
from pgsrm.embedder import auto
from pgsrm.evaluation import other_reward, read_text
from pgsrm.models.settings import check_model, weights_digest
from pgsrm.parent import find_references, parent_command
from pgsrm.parent.mistakes import with_mistakes
from pgsrm.record import RunFolder
from pgsrm.record.files import replace, writing
from pgsrm.record.mlflow_store import tracking_uri
from pgsrm.task import LacksReferencesError, Task, load_task
from pgsrm.util.errors import UserError
from pgsrm.util.paths import conf_folder

LAUNCH = ("cluster", "resources", "dry_run")  # what a launch reads and a run does not


@dataclass(frozen=True)
class Plan:
    """One run to be: its folder (not yet made), its config with interpolations resolved, and its status fields."""

    folder: RunFolder
    settings: Settings
    config: dict[str, Any]
    updates: int
    identity: str
    variant: str
    label: str

    def freeze(self, sweep: str | None = None) -> None:
        """Make the folder and write config.yaml, unless a process trains the run or has finished it.

        An earlier start's config gives way: with the same identity it can differ only in where and how the run is trained.
        """
        try:
            if self.folder.state() == "finished" or not self.folder.acquire():
                return
        except OSError as error:
            outputs = self.config["paths"]["outputs"]
            problem = f"paths.outputs={outputs}: can't be written ({error.strerror})"
            raise UserError(f"{problem}; name a folder that you may write to") from error
        try:
            with writing(self.folder.path):
                replace(self.folder.config, OmegaConf.to_yaml(OmegaConf.create(self.config)).encode())
            if self.folder.status() is None:
                self.folder.write_status(
                    state="waiting",
                    reason=None,
                    update=0,
                    updates=self.updates,
                    episodes=0,
                    identity=self.identity,
                    variant=self.variant,
                    sweep=sweep,
                    label=self.label,
                    seconds=0.0,
                )
        finally:
            self.folder.release()


class Shared:
    """What the plans of one sweep have in common, made once: tasks and rewards of equal config, and what was checked."""

    def __init__(self) -> None:
        self.folders = Folders()
        self._objects: dict[str, tuple[Any, Any]] = {}
        self._checked: set[str] = set()

    def objects(self, config: dict[str, Any]) -> tuple[Any, Any]:
        """As `build_objects`."""
        key = _key(config["task"], config["parent"], config["reward"])
        if key not in self._objects:
            self._objects[key] = build_objects(config)
        return self._objects[key]

    def check(self, config: dict[str, Any], settings: Settings, task: Any, reward: Any) -> None:
        """Have the rewards see to it that they can score the task's references."""
        key = _key(config["reward"], config["evaluation"], task.digest)
        if key in self._checked:
            return
        _, other = build_evaluation(settings.evaluation)
        for each in (reward, other):
            if hasattr(each, "check"):
                each.check([example.reference for example in task.train + task.holdout])
        self._checked.add(key)


def _key(*parts: Any) -> str:
    return json.dumps(parts, sort_keys=True)


def plan(
    config: DictConfig,
    choices: dict[str, str],
    shared: Shared | None = None,
    words: Sequence[str] = (),
    model: str | None = None,
) -> Plan:
    """Check a composed config down to its data, and name its run.

    Args:
        shared: one for the plans of a sweep.
        words: what was varied or set, for the run's name: `alpha=8` (`pgsrm.config.naming`).
        model: the name of the model where `model.path` put another in the place of the chosen one.

    Raises:
        UserError: for the first thing that would not work.
    """
    shared = shared or Shared()
    settings = read_settings(config)
    check_model(settings.model)
    choices = dict(choices)
    try:
        frozen = resolve(config, choices)
        task, reward = shared.objects(frozen)
    except LacksReferencesError as error:
        plain: Any = OmegaConf.to_container(config, resolve=True)
        raise UserError(f"{error}; `{parent_command(plain, choices)}` asks a parent for them") from error
    if frozen["tracking"] is not None:
        frozen["tracking"]["uri"] = tracking_uri(frozen["tracking"], frozen["paths"]["outputs"])
    identity, variant = (_identity(settings, frozen, task, reward, seed) for seed in (True, False))
    # a group that is chosen a second time, as embedder@evaluation.embedder, is named by its place
    frozen["choices"] = {group.rpartition("@")[2]: choices[group] for group in sorted(choices)}
    named = choices | ({"model": model} if model else {})
    parts = [named.get(group, "custom") for group in NAMED]
    parts += [choices[group] for group in NAMED_IF_CHOSEN if group in choices]
    name = run_name(parts, words, settings.seed, identity)
    folder = shared.folders.find(Path(settings.paths.outputs).absolute() / "runs", name, identity)
    if folder.state() != "finished":  # what has finished needs no server any more
        shared.check(frozen, settings, task, reward)
    for key in LAUNCH:
        frozen.pop(key, None)
    title = label(named, words, settings.seed)
    return Plan(folder, settings, frozen, settings.ppo.updates, identity, variant, title)


def resolve(config: DictConfig, choices: dict[str, str]) -> dict[str, Any]:
    """A checked config as plain data: interpolations resolved, the parent's answers found, paths made absolute.

    What `embedder=auto` chooses is put into `choices` too.

    Raises:
        UserError: where the parent has not answered yet.
    """
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    resolved = {str(key): value for key, value in plain.items()}
    resolved["parent"]["references"] = find_references(resolved, choices)
    _choose_embedder(resolved, choices)
    return _absolute_paths(resolved)


def _choose_embedder(config: dict[str, Any], choices: dict[str, str]) -> None:
    """Put the embedder that the references need in the place of `embedder=auto`, in the config and in its choices."""
    embedders = [(node, node.get("embedder")) for node in (config, config["reward"])]
    holders = [node for node, chosen in embedders if isinstance(chosen, dict) and chosen.get("_target_") == auto.AUTO]
    if not holders:
        return
    task = build_task(config)
    name = auto.choose(list(dict.fromkeys(example.reference for example in task.train + task.holdout)))
    choices["embedder"] = name
    for node in holders:
        node["embedder"] = OmegaConf.to_container(OmegaConf.load(conf_folder() / "embedder" / f"{name}.yaml"))


def build_task(config: dict[str, Any]) -> Task:
    """The task of a resolved config: prompts, references (with the parent's mistakes, where it is to make some), checker."""
    parent = config["parent"]
    task = load_task(config["task"], parent["references"])
    return with_mistakes(task, parent.get("error_rate", 0.0), parent.get("error_seed", 0))


def build_objects(config: dict[str, Any]) -> tuple[Any, Any]:
    """The task (prompts, references, checker) and the reward of a resolved config; quick, models load at first use."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    task = build_task(config)
    try:
        reward = instantiate(config["reward"])
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(f"reward: {config['reward']['_target_']} can't be made ({reason})") from error
    return task, reward


def build_evaluation(settings: EvaluationSettings) -> tuple[str | None, Any]:
    """The plain text and the second reward that a run is evaluated with, each None where there is none."""
    return None if settings.text is None else read_text(settings.text), other_reward(settings.embedder)


def load_settings(folder: RunFolder) -> tuple[Settings, dict[str, Any]]:
    """The settings and the plain config of a frozen run."""
    config = OmegaConf.load(folder.config)
    assert isinstance(config, DictConfig)
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    config.pop("choices")
    return read_settings(config), {str(key): value for key, value in plain.items()}


def _absolute_paths(config: dict[str, Any]) -> dict[str, Any]:
    """Paths that exist as given are made absolute, so that a run can go on from another working directory."""
    places = [(config["task"], "data"), (config["parent"], "references"), (config["model"], "path")]
    embedders = (config["embedder"], config["reward"].get("embedder"), config["evaluation"].get("embedder"))
    places += [(node, "path") for node in embedders if isinstance(node, dict)]
    places.append((config["evaluation"], "text"))
    for node, key in places:
        value = node.get(key)
        if isinstance(value, str) and Path(value).exists():
            node[key] = str(Path(value).absolute())
    config["paths"]["outputs"] = str(Path(config["paths"]["outputs"]).absolute())
    return config


def check_unchanged(folder: RunFolder, settings: Settings, config: dict[str, Any], task: Any, reward: Any) -> None:
    """Raise UserError if data, weights or vectors are others than those that the run was planned with."""
    if (folder.status() or {}).get("identity") != _identity(settings, config, task, reward, with_seed=True):
        raise UserError(
            f"{folder.name}: its data, weights or vectors have changed since it was planned; the command that planned it "
            "makes a run of its own for the new ones"
        )


def _identity(settings: Settings, config: dict[str, Any], task: Any, reward: Any, with_seed: bool) -> str:
    """SHA-256 of what decides a run's numbers: prompts, references, weights and vectors by content, not by file name.

    Left out: where it runs and writes (paths, tracking, checkpoints, device, threads, processes), what the parent is asked,
    and values that are the schema's defaults: a setting that a later version adds leaves the runs without it their names.
    """
    weights, digest = weights_digest(settings.model), getattr(reward, "digest", None)
    model = _chosen(settings.model)
    if not settings.ppo.dropout:  # both policies then give the same numbers up to rounding; dropout's masks differ
        model.pop("policy", None)
    deciding = {
        "prompts": task.digest,
        "max_new_tokens": settings.task.max_new_tokens,
        "checker": settings.task.checker,
        "reward": config["reward"] if digest is None else _without_options(config["reward"]),
        "reward_content": digest,
        "model": weights or [settings.model.path, settings.model.revision],
        "compute": {key: value for key, value in model.items() if key not in ("path", "revision", "device", "shard")},
        "ppo": _chosen(settings.ppo),
        "evaluation": _evaluation(settings.evaluation),
        "seed": settings.seed if with_seed else None,
    }
    return hashlib.sha256(json.dumps(_floats(deciding), sort_keys=True).encode()).hexdigest()


def _chosen(settings: msgspec.Struct) -> dict[str, Any]:
    """The values that differ from the schema's defaults."""
    fields = msgspec.structs.fields(settings)
    return {f.name: msgspec.to_builtins(v) for f in fields if (v := getattr(settings, f.name)) != f.default}


def _evaluation(settings: EvaluationSettings) -> dict[str, Any]:
    """What an evaluation's numbers depend on: the text and the embedder by content."""
    chosen = _chosen(settings)
    text, other = build_evaluation(settings)
    if "text" in chosen and text is not None:
        chosen["text"] = hashlib.sha256(text.encode()).hexdigest()
    if other is not None and other.digest is not None:
        chosen = {**_without_options(chosen), "embedder_content": other.digest}
    return chosen


def _without_options(node: dict[str, Any]) -> dict[str, Any]:
    """A config node without its embedder's options: those that decide its vectors are in its digest."""
    embedder = node.get("embedder")
    if not isinstance(embedder, dict):
        return node
    return {**node, "embedder": {"_target_": embedder["_target_"]}}


def _floats(value: Any) -> Any:
    """Numbers as floats, so that 4 and 4.0 are one value."""
    if isinstance(value, dict):
        return {key: _floats(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_floats(each) for each in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
