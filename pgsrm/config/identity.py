"""Whether two configs are the same run: a hash of what decides a run's numbers."""

import hashlib
import json
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import msgspec

from pgsrm.algorithm.settings import SHARED, DistillAlgorithm, PPOAlgorithm
from pgsrm.config.schema import EvaluationSettings, Settings, StopSettings, TaskSettings
from pgsrm.critic import GoldCritic, LexiconCritic, is_asked
from pgsrm.embedder import OpenAIEmbeddings, SentenceTransformerEmbedder, WordVectors
from pgsrm.evaluation import Evaluated
from pgsrm.models.settings import identify_model
from pgsrm.record.differences import HOW_ASKED
from pgsrm.reward import ClassifierReward, LearnedReward, ModerationReward, SemanticReward, SumReward
from pgsrm.task import Task
from pgsrm.util.errors import under
from pgsrm.util.objects import digest_of
from pgsrm.util.source import source_digests
from pgsrm.util.words import WordList

# Rewards whose digests say all that decides.
IN_THEIR_DIGESTS = [f"pgsrm.reward.{kind.__name__}" for kind in (LearnedReward, ModerationReward)]
# Objects whose digests have by content what these keys name, where that is a file or folder. They may stand at any depth.
NAMED_BY: dict[str, tuple[type, str | None]] = {
    "pgsrm.critic.GoldCritic": (GoldCritic, "path"),
    "pgsrm.critic.LexiconCritic": (LexiconCritic, "path"),
    "pgsrm.embedder.OpenAIEmbeddings": (OpenAIEmbeddings, None),
    "pgsrm.embedder.SentenceTransformerEmbedder": (SentenceTransformerEmbedder, "path"),
    "pgsrm.embedder.WordVectors": (WordVectors, "path"),
    "pgsrm.reward.ClassifierReward": (ClassifierReward, "model"),
}
ON_MACHINE = (*HOW_ASKED, "device")


@dataclass(frozen=True)
class Identity:
    """whole: hash (hex) of everything; variant: all but the seed; course: all but ppo.episodes; parts: each thing that decides."""

    whole: str
    variant: str
    course: str
    parts: dict[str, str]

    def changed(self, parts: dict[str, str]) -> list[str]:
        """The names of the parts that differ from those that were recorded."""
        return [name for name in self.parts if parts.get(name) != self.parts[name]]


def identify(
    settings: Settings, config: dict[str, Any], task: Task, reward: Any, evaluated_with: Evaluated
) -> Identity:
    """The identity of the run of a resolved `config`, whose objects `task`, `reward` and `evaluated_with` are.

    Prompts, references, models, vectors and a user's own code count by content, not by name or place. Left out are where a
    run computes and writes (paths, tracking, checkpoints, device, threads, processes), what the parent is asked, and values
    that are the schema's defaults: a setting that a later version adds leaves the runs without it their names.

    Raises UserError for a user's own code that has changed since this process imported it.
    """
    with under("reward"):
        content = digest_of(reward)
    model = _chosen(settings.model)
    if not settings.ppo.dropout:  # both policies then give the same numbers up to rounding; dropout's masks differ
        model.pop("policy", None)
    deciding = {
        "prompts or references": task.digest,
        "response length": _lengths(settings.task),
        "checker": [settings.task.checker, digest_of(task.checker)],
        "checker's code": source_digests(settings.task.checker),
        "reward": _of_reward(config["reward"], reward),
        "vectors": content,
        "reward's code": source_digests(config["reward"]),
        "model or tokenizer": identify_model(settings.model),
        "model settings": {
            key: value for key, value in model.items() if key not in ("path", "revision", "device", "shard")
        },
        **_of_algorithm(settings),
        "evaluation": _evaluation(settings.evaluation, evaluated_with),
        **({"masked words": WordList(mask, "task.mask").digest} if (mask := settings.task.mask) else {}),
        **({"early stopping": _of_stopping(settings.stop)} if settings.stop.metric is not None else {}),
        "evaluation's code": source_digests(settings.evaluation.embedder),
        **({"measures' code": source_digests(measures)} if (measures := settings.evaluation.measures) else {}),
    }
    seed = {"seed": settings.seed}
    parts = {name: _hash(value)[:16] for name, value in {**deciding, **seed}.items()}
    ppo = {key: value for key, value in deciding["ppo settings"].items() if key != "episodes"}
    course = _hash({**deciding, **seed, "ppo settings": ppo})
    return Identity(_hash({**deciding, **seed}), _hash(deciding), course, parts)


def _of_algorithm(settings: Settings) -> dict[str, Any]:
    """How the run learns: PPO's settings, or another algorithm's and what of PPO's it reads; its teacher by content."""
    algorithm, ppo = settings.algorithm, _chosen(settings.ppo)
    if isinstance(algorithm, PPOAlgorithm):
        return {"ppo settings": ppo}
    own = {"name": algorithm.name, **_chosen(algorithm)}
    if isinstance(algorithm, DistillAlgorithm):
        own["teacher"] = identify_model(algorithm.model(settings.model))
    return {"ppo settings": {key: value for key, value in ppo.items() if key in SHARED}, "algorithm": own}


def _of_stopping(stop: StopSettings) -> dict[str, Any]:
    """When the run ends; not what else it keeps."""
    return {key: value for key, value in _chosen(stop).items() if key != "keep_best"}


def _lengths(task: TaskSettings) -> int | list[int]:
    return task.max_new_tokens if task.min_new_tokens is None else [task.min_new_tokens, task.max_new_tokens]


def _evaluation(settings: EvaluationSettings, evaluated_with: Evaluated) -> dict[str, Any]:
    """What an evaluation's numbers depend on: the text, the embedder and the measures by content."""
    chosen, other = _chosen(settings), evaluated_with.other
    if "text" in chosen and evaluated_with.text is not None:
        chosen["text"] = hashlib.sha256(evaluated_with.text.encode()).hexdigest()
    if other is not None and other.digest is not None:
        chosen = {**_without_options(chosen), "embedder_content": other.digest}
    if evaluated_with.measures:
        contents = {}
        for name, measure in evaluated_with.measures.items():
            with under(f"evaluation.measures.{name}"):
                contents[name] = digest_of(measure)
        chosen["measures_content"] = contents
        chosen["measures"] = of_any_machine(without_critics_options(chosen["measures"]))
    return chosen


def _chosen(settings: msgspec.Struct) -> dict[str, Any]:
    """The values that differ from the schema's defaults."""
    fields = msgspec.structs.fields(settings)
    return {f.name: msgspec.to_builtins(v) for f in fields if (v := getattr(settings, f.name)) != f.default}


def _of_reward(node: dict[str, Any], reward: Any) -> dict[str, Any]:
    """A reward's config node without what its digest says by content."""
    if isinstance(reward, SumReward):
        parts = {name: _of_reward(node["parts"][name], part) for name, part in reward.parts.items()}
        return {**node, "parts": parts}
    if isinstance(reward, SemanticReward) and digest_of(reward):
        return _without_options(node)
    return of_any_machine(without_critics_options(node))


def _without_options(node: dict[str, Any]) -> dict[str, Any]:
    """A config node without its embedder's options: those that decide its vectors are in its digest."""
    embedder = node.get("embedder")
    if not isinstance(embedder, dict):
        return node
    return {**node, "embedder": {"_target_": embedder.get("_target_")}}


def without_critics_options(node: Any) -> Any:
    """A config node without the options of critics and rewards that ask a model: those that decide are in their digests."""
    if isinstance(node, list):
        return [without_critics_options(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    if is_asked(node.get("_target_")) or node.get("_target_") in IN_THEIR_DIGESTS:
        return {"_target_": node["_target_"]}
    return {key: without_critics_options(inner) for key, inner in node.items()}


def of_any_machine(node: Any) -> Any:
    """A config node without where this machine has files that digests have by content, and how this one asks and computes.

    Such values become the usual ones, so that a node that has the usual ones stays what it is. What stands below an object of the
    user's own stays: whether its digest has these is not known.
    """
    if isinstance(node, list):
        return [of_any_machine(inner) for inner in node]
    if not isinstance(node, dict) or not str(node.get("_target_", "pgsrm.")).startswith("pgsrm."):
        return node
    return {key: of_any_machine(inner) for key, inner in {**node, **_usual(node)}.items()}


def _usual(node: dict[str, Any]) -> dict[str, Any]:
    """Of the keys of an object's node that only say where and how on this machine: what they usually are."""
    known = NAMED_BY.get(str(node.get("_target_")))
    if known is None:
        return {}
    kind, named = known
    parameters = signature(kind).parameters
    usual = {key: parameters[key].default for key in ON_MACHINE if key in node and key in parameters}
    if named is not None and Path(str(node.get(named))).is_absolute():
        usual[named] = None
    return usual


def decides_by_value(node: Any) -> Any:
    """A reward's config node, as a run's folder has it, without the options that its digest may hold by content."""
    if isinstance(node, dict):
        node = _without_options(without_critics_options(node))
        return {key: decides_by_value(inner) for key, inner in node.items() if key not in _usual(node)}
    return [decides_by_value(inner) for inner in node] if isinstance(node, list) else node


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(_floats(value), sort_keys=True).encode()).hexdigest()


def _floats(value: Any) -> Any:
    """Numbers as floats, so that 4 and 4.0 are one value."""
    if isinstance(value, dict):
        return {key: _floats(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_floats(inner) for inner in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
