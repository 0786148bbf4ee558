"""The typed schema of a composed config: every key known, every value of its type and in its range, else one line says which.

Sections that the package reads itself are structs; what a `_target_` names is checked against the annotations of that
function's or class's parameters, so that a user's own reward is checked just as well.
"""

import inspect
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pgsrm.algorithm.settings import Algorithm, PPOAlgorithm, SFTSettings, check_algorithm
from pgsrm.config.cluster import ClusterSettings, ResourceSettings
from pgsrm.config.known_keys import algorithms_with
from pgsrm.evaluation import AUSTEN
from pgsrm.models.settings import ModelSettings
from pgsrm.parent.settings import ParentSettings
from pgsrm.ppo.settings import PPOSettings
from pgsrm.reward_model.settings import RewardModelSettings
from pgsrm.util.errors import UserError
from pgsrm.util.numbers import Count, Finite, NonNegative
from pgsrm.util.text import has_half_character

# What a run itself does not read.
LAUNCH = ("cluster", "resources", "dry_run", "objective", "sft", "reward_model")
CRITIC_PATHS = ("path", "instruction", "ledger", "cache")  # where a critic's config may name a file or folder
# And a reward's, beside those of its embedder, critic, extrinsic reward and parts.
REWARD_PATHS = ("model", "path", "ledger", "cache")


class TaskNanoCritic(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """What critic=nano is for this task."""

    # Its weights: what model.path takes; null = those for film reviews.
    path: Annotated[str, Meta(min_length=1)] | None = None
    # How it is asked.
    instruction: Annotated[str, Meta(min_length=1)] = "nano"


class TaskCritic(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The `task.critic` section: what the choices of the group `critic` and reward=critic read of a task."""

    # What a span of each label is worth; reward.values reads it.
    values: dict[str, Finite] | None = None
    # How critic=openai and critic=transformers are asked: a shipped instruction, or a YAML file.
    instruction: Annotated[str, Meta(min_length=1)] = "sentiment"
    # The same in fewer tokens, for critic=self.
    short: Annotated[str, Meta(min_length=1)] = "sentiment_short"
    # The shipped critic.
    nano: TaskNanoCritic = TaskNanoCritic()
    # The list of critic=lexicon: a file, or the name of a shipped one; null = that for film reviews.
    words: Annotated[str, Meta(min_length=1)] | None = None


class KeepSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Which rows of a task's data are prompts: those whose number in a column is on the right side."""

    # The column, a number in each row; a.b for b within an object a of a JSONL file. A row without a value is left out.
    column: Annotated[str, Meta(min_length=1)]
    # Kept: rows whose number is above this.
    above: Finite | None = None
    # Kept: rows whose number is below this.
    below: Finite | None = None


class TaskSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The `task` config group: what is asked, and how an answer is checked."""

    # A file (CSV, JSONL or Parquet), the name of a shipped one, or hf:ORG/NAME[:split[:config]], a data set of the hub.
    data: str
    # The policy's prompt, with the data's columns in braces.
    template: Annotated[str, Meta(min_length=1)]
    # The rows of the file that are prompts; null = all.
    keep: KeepSettings | None = None
    # Kinds of rows that are left out where they would be an error: empty = a column of the template has no text, repeated = the
    # same prompt as in a row before.
    skip: list[Literal["empty", "repeated"]] = []
    # What counts as right: binary reward and exact match; null = nothing is right or wrong, and references are not needed.
    checker: dict[str, Any] | None
    # Longest response, in tokens.
    max_new_tokens: Count
    # Words of each column in the template that are kept, from its beginning (long documents); null = all.
    max_input_words: Count | None = None
    # The length limit of each response is drawn, from this to the longest; null = it is the longest.
    min_new_tokens: Count | None = None
    # The task's own reward, one number per response, for rewards that build on it (reward=sparse, critic).
    extrinsic: dict[str, Any] | None = None
    # What critics of this task are asked, and what their spans are worth.
    critic: TaskCritic | None = None
    # Rewards that are never trained on, by name: what sampled answers to held-out prompts are measured by.
    measures: dict[str, dict[str, Any] | None] | None = None
    # Sampled answers to each held-out prompt for the measures: evaluation.continuations, unless that is set.
    continuations: Count = 4
    # Words that no sample shows in full: a file, or the name of a shipped list; null = samples are shown as they are.
    mask: Annotated[str, Meta(min_length=1)] | None = None
    # The metric that a search over this task makes as large as it can.
    objective: str | None = None
    # What the parent is told to do.
    instruction: str | None = None
    # What the parent is asked, with the data's columns in braces.
    parent_input: str | None = None
    # A template for tasks whose answer is in the input.
    reference: str | None = None
    # Shipped references for prompts that the data gives none for.
    curated: str | None = None
    # Share of prompts kept out of training.
    holdout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    # The paper's values for this task, which ppo=paper and experiment=paper read.
    paper: dict[str, Any] | None = None
    # Values for this task on nano, which model=nano reads: actor_lr, episodes.
    nano: dict[str, float] | None = None

    def check(self) -> None:
        """Raise UserError where fields contradict each other."""
        if self.min_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            raise UserError(
                f"task.min_new_tokens={self.min_new_tokens}: more than task.max_new_tokens={self.max_new_tokens}; lower it"
            )
        if self.keep is not None and self.keep.above is None and self.keep.below is None:
            raise UserError("task.keep: has neither above nor below; set one of them, or task.keep=null")


class TrackingSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The `tracking` config group: where MLflow mirrors the run folders."""

    # sqlite:///file.db, or a server's http://host:port; null = mlflow.db in paths.outputs.
    uri: str | None
    # MLflow's experiment that all runs go into.
    experiment: Annotated[str, Meta(min_length=1)]


class EvaluationSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Answers to trained and held-out prompts, what else is measured, and what is kept of it."""

    # Updates between two evaluations; there is one before the first update and one after the last.
    every: Count
    # Sampled responses written to samples.jsonl at each evaluation.
    samples: Annotated[int, Meta(ge=0)]
    # Plain text for the perplexity: a file, or the shipped austen.txt; null = none.
    text: Annotated[str, Meta(min_length=1)] | None = AUSTEN
    # An embedder that the run is not trained on, for a second reward of the greedy answers; null = none.
    embedder: dict[str, Any] | None = None
    # Rewards that the run is not trained on, by name, of sampled answers; null = none, and no answers for them.
    measures: dict[str, dict[str, Any] | None] | None = None
    # Sampled answers per prompt, where there are measures.
    continuations: Count = 4
    # At most so many prompts of each split are evaluated, the same ones in all runs; null = all.
    prompts: Count | None = None


class CheckpointSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """What a killed run resumes from."""

    # Minutes between two checkpoints; one more is written at SIGTERM, SIGINT and SIGUSR2.
    minutes: Annotated[float, Meta(gt=0)]
    # Updates between two checkpoints, besides; null = by time alone.
    updates: Count | None = None
    # Whether a finished run keeps a checkpoint, from which a run with more ppo.episodes goes on.
    keep: bool = False

    def due(self, update: int, updates: int) -> bool:
        """Whether one is written after `update` of a run of `updates`, whatever the time.

        The one that is kept is that before the last update, whose line and evaluation a longer run makes anew.
        """
        return (self.updates is not None and update % self.updates == 0) or (self.keep and update == updates - 1)


class StopSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Early stopping: a run ends when a metric has not improved for a while."""

    # The metric, as in metrics.jsonl; null = the run makes all its updates.
    metric: Annotated[str, Meta(min_length=1)] | None = None
    # Values without an improvement after which the run ends: evaluations, where the metric is in eval/, otherwise updates.
    patience: Count = 5
    # Whether more is better or less is.
    mode: Literal["max", "min"] = "max"
    # What a value must be better by than the best one so far, to be an improvement.
    min_delta: NonNegative = 0.0
    # Whether the model of the best evaluation is kept too, in the run's folder best/. It changes no number of the run.
    keep_best: bool = False

    def check(self) -> None:
        """Raise UserError for a best model of a metric that no evaluation has."""
        if self.keep_best and not (self.metric or "").startswith("eval/"):
            named = "is null" if self.metric is None else f"is {self.metric}, no metric of an evaluation"
            raise UserError(f"stop.keep_best=true: stop.metric {named}; set one, as stop.metric=eval/train_exact_match")


class PathSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Where a run writes."""

    # Folder of run folders, figures and the MLflow database.
    outputs: Annotated[str, Meta(min_length=1)]


class Settings(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A whole run. `embedder`, `reward` and `critic` are configured objects (`_target_`)."""

    task: TaskSettings
    parent: ParentSettings
    # What turns texts into vectors.
    embedder: dict[str, Any]
    # What turns responses into rewards.
    reward: dict[str, Any]
    # Who marks spans in responses, for a reward that asks for them; null in a run whose reward asks nobody.
    critic: dict[str, Any] | None = None
    model: ModelSettings
    ppo: PPOSettings
    # How the policy learns; what `ppo` says of batches, sampling and optimiser holds for every algorithm.
    algorithm: Algorithm = PPOAlgorithm()
    tracking: TrackingSettings | None
    # Further trackers that mirror the run's folder, beside MLflow or alone.
    trackers: list[Literal["tensorboard", "wandb"]] = []
    evaluation: EvaluationSettings
    checkpoint: CheckpointSettings
    # When a run ends before its last update.
    stop: StopSettings = StopSettings()
    paths: PathSettings
    # Decides the drawn prompts and the sampled tokens.
    seed: Annotated[int, Meta(ge=0, lt=2**32)]
    # CPU threads of a run; null = all there are, divided among the runs of a sweep.
    threads: Count | None = None
    # Processes of a run, each with its share of every batch, and one GPU each where there are GPUs.
    processes: Count = 1
    # Where jobs run, under hydra/launcher=slurm.
    cluster: ClusterSettings = ClusterSettings()
    # How much each of them gets.
    resources: ResourceSettings = ResourceSettings()
    # Supervised fine-tuning, which is a command of its own (python -m pgsrm.algorithm sft).
    sft: SFTSettings = SFTSettings()
    # Training a reward model, which is a command of its own too (python -m pgsrm.reward_model).
    reward_model: RewardModelSettings = RewardModelSettings()
    # true = show what would be started, and end.
    dry_run: bool = False
    # What a search (hydra/sweeper=search) is told of a run: a metric.
    objective: Annotated[str, Meta(min_length=1)] = "eval/train_exact_match"


def read_settings(config: DictConfig) -> Settings:
    """The checked settings of a composed config.

    Raises:
        UserError: as `read_config`.
    """
    return read_config(config, set())[0]


def read_config(config: DictConfig, checked: set[str]) -> tuple[Settings, dict[str, Any]]:
    """The checked settings of a composed config, and the config as plain data with its interpolations resolved.

    checked: one for the configs of a sweep. It gets the configured objects that are right, so that each is looked at once.

    Raises:
        UserError: naming the first key that is missing, unknown, of the wrong type or out of its range.
    """
    task = config._get_node("task")  # other sections read keys of it
    if isinstance(task, ListConfig):
        raise UserError(f"task={task}: expected `object`, got `array`; set task accordingly")
    try:
        plain = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException:  # a key may point to one that is missing
        _refuse_missing(config)
        raise
    assert isinstance(plain, dict)
    if _has_missing(plain):
        _refuse_missing(config)
    _refuse_half_characters(plain)
    try:
        settings = msgspec.convert(plain, Settings)
    except msgspec.ValidationError as error:
        raise UserError(_one_line(str(error), plain)) from error
    settings.task.check()
    settings.ppo.check()
    check_algorithm(settings.algorithm, settings.ppo, settings.processes)
    settings.cluster.check()
    settings.stop.check()
    if settings.stop.metric is not None:
        check_metric(settings, "stop.metric", settings.stop.metric)
    if settings.model.lora is not None and settings.ppo.kl_reference == "previous":
        raise UserError(
            "ppo.kl_reference=previous: with model.lora the reference is the model without its adapters; "
            "set ppo.kl_reference=initial or model.lora=null"
        )
    _check_processes(settings)
    measures = [f"evaluation.measures.{name}" for name in settings.evaluation.measures or ()]
    for key in ("embedder", "reward", "task.checker", "task.extrinsic", "critic", "evaluation.embedder", *measures):
        section, _, name = key.rpartition(".")
        this = f"{key}={_below(plain, section).get(name)!r}"
        if this in checked:
            continue
        node = OmegaConf.select(config, key)
        if key in ("embedder", "reward") or node is not None:
            _check_target(node, key)
        checked.add(this)
    return settings, {str(key): value for key, value in plain.items()}


def _below(plain: Mapping[Any, Any], key: str) -> Mapping[Any, Any]:
    """The section of a config's plain data with this dotted key; an empty one where it is not there."""
    for name in key.split(".") if key else ():
        plain = plain.get(name) or {}
    return plain


def check_metric(settings: Settings, key: str, metric: str) -> None:
    """Raise UserError where it is plain before a run that it will not have the metric that `key` names."""
    if metric.startswith("eval/holdout") and settings.task.holdout == 0:
        raise UserError(f"{key}={metric}: no prompts are held out; set task.holdout=0.2")
    if metric.endswith("_other_reward") and settings.evaluation.embedder is None:
        raise UserError(f"{key}={metric}: there is no second embedder; choose embedder@evaluation.embedder=...")


def _has_missing(node: Any) -> bool:
    """Whether a value somewhere in a config's plain data is OmegaConf's `???`."""
    below = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return node == "???" or any(map(_has_missing, below))


def _refuse_missing(config: DictConfig) -> None:
    """Raise UserError for the first key without a value; resolves the whole config once more."""
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise UserError(f"{missing[0]}=???: has no value; set {missing[0]}=...")


def _refuse_half_characters(node: Any, path: str = "") -> None:
    """Raise UserError for text that no file can hold: a lone surrogate, of an escape in YAML or of bytes not in UTF-8."""
    if isinstance(node, dict):
        for key, value in node.items():
            _refuse_half_characters(key, path)
            _refuse_half_characters(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for place, value in enumerate(node):
            _refuse_half_characters(value, f"{path}[{place}]")
    elif isinstance(node, str) and has_half_character(node):
        raise UserError(f"{path}={ascii(node)[:80]}: has half of a character; write the character itself, in UTF-8")


def _check_processes(settings: Settings) -> None:
    """Raise UserError for what can't be divided among processes."""
    count, ppo, model = settings.processes, settings.ppo, settings.model
    if model.shard:
        without = {
            "processes > 1": count > 1,
            "model.lora=null": model.lora is None,
            "model.dtype=float32": model.dtype == "float32",
            "ppo.kl_reference=initial": ppo.kl_reference == "initial",
        }
        needed = [name for name, given in without.items() if not given]
        if needed:
            raise UserError(f"model.shard=true: needs {', '.join(needed)}; set it so, or model.shard=false")
    if count == 1:
        return
    if ppo.dropout:
        raise UserError(
            f"processes={count}: ppo.dropout=true would draw other masks than one process; set one of them off"
        )
    if ppo.batch_size % (count * ppo.minibatches):
        raise UserError(
            f"processes={count}: ppo.batch_size={ppo.batch_size} in ppo.minibatches={ppo.minibatches} can't be divided into "
            "equal shares; choose a multiple"
        )


def _one_line(message: str, plain: Any) -> str:
    """An error of msgspec, "Expected `int` >= 1 - at `$.ppo.batch_size`" as "ppo.batch_size=0: expected `int` >= 1"."""
    problem, _, path = message.partition(" - at `$")
    path = path.rstrip("`").lstrip(".").partition("[")[0]  # of an item of a list, the list
    prefix = f"{path}." if path else ""
    if "unknown field" in problem:
        name = problem.split("`")[1]
        known = ", ".join(sorted(_fields(Settings, path, plain)))
        if having := algorithms_with(f"{prefix}{name}"):
            return f"{prefix}{name}: not a key of the chosen algorithm; algorithm={' or '.join(having)} has it"
        return f"{prefix}{name}: unknown key; there are {known}"
    if "missing required field" in problem:
        name = problem.split("`")[1]
        return f"{prefix}{name}: missing; set it"
    value = plain
    for part in path.split(".") if path else []:
        value = value.get(part) if isinstance(value, Mapping) else value
    return f"{path}={_shown(value)}: {_remedy(problem, annotation_at(Settings, path, plain), path, value)}"


def _shown(value: Any) -> str:
    """A value as YAML and the command line have it: null, true."""
    return {None: "null", True: "true", False: "false"}[value] if isinstance(value, bool | None) else str(value)


def _remedy(problem: str, annotation: Any, key: str, value: Any) -> str:
    options = options_of(annotation) if problem.startswith("Invalid enum value") else []
    if options:
        takes_list = any(get_origin(each) is list for each in get_args(annotation))
        return f"not an option; there are {', '.join(options)}" + (f", and lists: [{value}]" if takes_list else "")
    if problem.startswith("Expected `array") and isinstance(value, str):
        return f"expected a list; write {key}=[{value}]"
    if "matching regex" in problem and (described := next(descriptions_of(annotation), None)):
        return f"expected {described}; set {key} accordingly"
    struct = struct_of(annotation, None)
    keys = struct.__struct_fields__ if struct else ("key",)
    problem = problem.replace("`object", f"`{{{', '.join(f'{name}: ...' for name in keys)}}}")
    return f"{problem[0].lower()}{problem[1:]}; set {key} accordingly"


def options_of(annotation: Any) -> list[str]:
    """The values of a Literal, also within a union or Annotated, and null where the union takes it."""
    inner = get_args(annotation)
    if get_origin(annotation) is Literal:
        return [str(option) for option in inner]
    if annotation is type(None):
        return ["null"]
    return [option for part in inner for option in options_of(part)]


def descriptions_of(annotation: Any) -> Iterator[str]:
    """What the patterns of an annotation, also within a union, mean."""
    for meta in getattr(annotation, "__metadata__", ()):
        if isinstance(meta, msgspec.Meta) and meta.pattern and meta.description:
            yield meta.description
    for part in get_args(annotation):
        yield from descriptions_of(part)


def annotation_at(type_: Any, path: str, plain: Any) -> Any:
    """The annotation of the field at a dotted path below a struct, in a config; Any below what is no struct."""
    for part in path.split(".") if path else []:
        struct = struct_of(type_, plain)
        type_ = get_type_hints(struct, include_extras=True).get(part, Any) if struct else Any
        plain = plain.get(part) if isinstance(plain, Mapping) else None
    return type_


def struct_of(annotation: Any, plain: Any) -> Any:
    """The struct that an annotation is or has; of several, the one that the config names by its tag. None without one."""
    structs = [part for part in (annotation, *get_args(annotation)) if hasattr(part, "__struct_fields__")]
    named = plain if isinstance(plain, Mapping) else {}
    told = [each for each in structs if each.__struct_config__.tag == named.get(each.__struct_config__.tag_field)]
    return next(iter(told or structs), None)


def _fields(type_: Any, path: str, plain: Any) -> list[str]:
    annotation = annotation_at(type_, path, plain)
    for part in path.split(".") if path else []:
        plain = plain[part]
    return list(struct_of(annotation, plain).__struct_fields__)


def _check_target(node: DictConfig, key: str) -> None:
    """Check a configured object's keys and values against its parameters, and those nested in it."""
    from hydra.utils import get_object

    if "_target_" not in node:
        raise UserError(f"{key}._target_: missing; name a class or function, as package.module.name")
    target = node["_target_"]
    try:
        with _silent("hydra.utils"):  # which logs what the error says
            function = get_object(target)
    except Exception as error:  # whatever importing a user's module raises
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(
            f"{key}._target_={target}: can't be imported ({reason}); give package.module.name of a module on PYTHONPATH"
        ) from error
    partial = bool(node.get("_partial_", False))
    given: dict[str, Any] = {}
    for config_key, value in node.items():
        name = str(config_key)
        if name in ("_target_", "_partial_", "_recursive_", "_convert_", "_args_"):
            continue
        given[name] = msgspec.UNSET if _check_nested(value, f"{key}.{name}") else _plain(value)
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError) as error:  # a module, a built-in
        raise UserError(f"{key}._target_={target}: not a class or function of Python's that can be checked") from error
    swallows = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    hints = _hints(function)
    named = {name: p for name, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    for name, value in given.items():
        if name not in named:
            if swallows:
                continue
            raise UserError(f"{key}.{name}: unknown key; {target} takes {', '.join(sorted(named))}")
        if value is not msgspec.UNSET and name in hints:
            _check_value(value, hints[name], f"{key}.{name}")
    if not partial:
        lacking = [n for n, p in named.items() if p.default is p.empty and n not in given]
        if lacking:
            remedy = "set it" if inspect.isclass(function) else "set it, or _partial_: true for a function called later"
            raise UserError(f"{key}.{lacking[0]}: missing, {target} needs it; {remedy}")


@contextmanager
def _silent(name: str) -> Iterator[None]:
    """Without what this logger says."""
    log = logging.getLogger(name)
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def _check_nested(value: Any, key: str) -> bool:
    """Check the configured objects that a value is or holds, at any depth; whether there are any."""
    if isinstance(value, DictConfig) and "_target_" in value:
        _check_target(value, key)
        return True
    if isinstance(value, DictConfig) and not value._is_none():
        return any([_check_nested(inner, f"{key}.{name!s}") for name, inner in value.items()])
    if isinstance(value, ListConfig) and not value._is_none():
        return any([_check_nested(inner, f"{key}[{place}]") for place, inner in enumerate(value)])
    return False


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _hints(function: Any) -> dict[str, Any]:
    try:
        return get_type_hints(function.__init__ if inspect.isclass(function) else function, include_extras=True)
    except NameError:  # annotations that exist for type checkers alone
        return {}


def _check_value(value: Any, annotation: Any, key: str) -> None:
    try:
        msgspec.convert(value, annotation)
    except msgspec.ValidationError as error:
        problem = str(error).partition(" - at `$")[0]
        raise UserError(f"{key}={_shown(value)}: {_remedy(problem, annotation, key, value)}") from error
    except TypeError:  # a type that isn't plain data is the object's own business
        return
