"""Tables 1 and 2 of the paper, its hyperparameters, as these runs had them: read from their configs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pgsrm.analysis.tables import NONE, Table
from pgsrm.analysis.variants import Variant, setup_labels, task_title
from pgsrm.record.model_name import model_name

# The paper's tables by its tasks; tasks of one's own get a third.
TABLES = (
    ("table1", "Table 1", ("color", "antonym", "category")),
    ("table2", "Table 2", ("copy", "sentiment")),
)
MODELS = {
    "gpt2": "GPT-2 Small (124M)",
    "gpt2-large": "GPT-2 Large (774M)",
    "openai-community/gpt2": "GPT-2 Small (124M)",
    "openai-community/gpt2-large": "GPT-2 Large (774M)",
    "smollm2": "SmolLM2-135M-Instruct",
}


def paper_tables(variants: Sequence[Variant]) -> list[Table]:
    """One table for the word tasks, one for the sentences, one for other tasks; those without a run are left out."""
    known = [task for _, _, tasks in TABLES for task in tasks]
    others = tuple(dict.fromkeys(v.task for v in variants if v.task not in known))
    groups = (*TABLES, ("table_other", "Other tasks", others))
    tables = []
    for name, number, tasks in groups:
        chosen = [variant for variant in variants if variant.task in tasks]
        if chosen:
            tables.append(_table(name, number, chosen))
    return tables


def _table(name: str, number: str, variants: Sequence[Variant]) -> Table:
    """A column of values a setup (what is the same for both rewards); a cell names the tasks where they differ."""
    columns: list[list[Variant]] = []
    for variant in variants:
        column = next((setup for setup in columns if setup[0].same_setup(variant)), None)
        if column:
            column.append(variant)
        else:
            columns.append([variant])
    labels = setup_labels([column[0] for column in columns])
    rows: list[list[str]] = []
    for label, read in ROWS:
        cells = [_cell(column, read) for column in columns]
        if any(cell != NONE for cell in cells):
            note = NOTES.get(label)
            rows.append([label, *cells, _notes(variants, note) if note else ""])
    tasks = ", ".join(dict.fromkeys(task_title(v.task).lower() for v in variants))
    head = ["Hyperparameter", *(["Value"] if len(columns) == 1 else labels), "Notes"]
    return Table(name, f"{number}: hyperparameters of the runs for {tasks}", head, rows, left=len(head))


def _cell(variants: Sequence[Variant], read: Callable[[Mapping[str, Any]], str | None]) -> str:
    values: dict[str, list[str]] = {}
    for variant in variants:
        for run in variant.runs:
            value = read(run.config)
            if value is not None:
                values.setdefault(value, []).append(variant.task)
    if len(values) <= 1:
        return next(iter(values), NONE)
    tasks = {value: list(dict.fromkeys(names)) for value, names in values.items()}
    if len({tuple(names) for names in tasks.values()}) == len(tasks):
        return "; ".join(f"{value} ({', '.join(names)})" for value, names in tasks.items())
    return "; ".join(tasks)  # the rewards differ, not the tasks


def _notes(variants: Sequence[Variant], note: Callable[[Mapping[str, Any]], str | None]) -> str:
    return "; ".join(dict.fromkeys(n for v in variants for run in v.runs if (n := note(run.config))))


def _get(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def number_text(value: Any) -> str | None:
    """A number as a short text: 100,000, 0.01, 1e-5."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None if value is None else str(value)
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    if abs(value) >= 1e-3:
        return f"{value:g}"
    mantissa, exponent = f"{value:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _number(key: str) -> Callable[[Mapping[str, Any]], str | None]:
    return lambda config: number_text(_get(config, key))


def _model(config: Mapping[str, Any]) -> str | None:
    return MODELS.get(str(_get(config, "model.path")), model_name(config))


def _target_kl(config: Mapping[str, Any]) -> str | None:
    return None if _get(config, "ppo.kl_control") == "fixed" else number_text(_get(config, "ppo.kl_target"))


def _kl_note(config: Mapping[str, Any]) -> str | None:
    control = _get(config, "ppo.kl_control")
    if control is None:
        return None
    adapts = control != "fixed" and _get(config, "ppo.kl_target") is not None
    return f"Adaptive ({control})" if adapts else "Fixed (no adaptation)"


def _embedder(config: Mapping[str, Any]) -> str | None:
    if not isinstance(_get(config, "reward.embedder"), Mapping):
        return None
    named = _get(config, "reward.embedder.model")
    return str(named or _get(config, "choices.embedder"))


def _semantic(config: Mapping[str, Any]) -> str | None:
    if _get(config, "reward.embedder") is None:
        return None
    similarity = _get(config, "reward.similarity") or "cosine"
    forms = {"affine": f"(({similarity} + 1) / 2)^α", "clip": f"max(0, {similarity})^α"}
    transform = _get(config, "reward.transform")
    return forms.get(str(transform), f"{similarity}, {transform}")


def _baseline(config: Mapping[str, Any]) -> str | None:
    return "Binary {0, 1}" if _get(config, "choices.reward") == "binary" else None


def _checker(config: Mapping[str, Any]) -> str | None:
    if _get(config, "choices.reward") != "binary":
        return None
    target = _get(config, "reward.checker._target_") or _get(config, "task.checker._target_")
    return str(target).rpartition(".")[2] if target else None


def _compares(node: Any) -> bool:
    """Whether a reward, or one in it, compares with references."""
    if not isinstance(node, Mapping):
        return False
    name = str(node.get("_target_", "")).rpartition(".")[2]
    return name in ("RougeReward", "SemanticReward", "TextMetricReward") or any(map(_compares, node.values()))


def _reference(config: Mapping[str, Any]) -> str | None:
    task = _get(config, "task")
    if isinstance(task, Mapping) and task.get("checker", "") is None and not _compares(_get(config, "reward")):
        return None  # nothing is right or wrong, and the reward reads no reference
    named = _get(config, "choices.parent")
    return None if named is None else str(named)


ROWS: tuple[tuple[str, Callable[[Mapping[str, Any]], str | None]], ...] = (
    ("Model", _model),
    ("Episodes", _number("ppo.episodes")),
    ("Batch size", _number("ppo.batch_size")),
    ("Actor learning rate", _number("ppo.actor_lr")),
    ("Critic learning rate", _number("ppo.critic_lr")),
    ("Entropy coefficient", _number("ppo.entropy_coef")),
    ("Value loss coefficient", _number("ppo.value_coef")),
    ("Initial KL coefficient", _number("ppo.kl_coef")),
    ("Target KL", _target_kl),
    ("Gradient clipping", _number("ppo.max_grad_norm")),
    ("Embedding model", _embedder),
    ("Reward type (PGSRM)", _semantic),
    ("Exponent α", _number("reward.alpha")),
    ("Reward type (baseline)", _baseline),
    # What the paper's tables lack and its reader needs.
    ("PPO settings", _number("choices.ppo")),
    ("Ratio clipping", _number("ppo.clip_range")),
    ("KL estimator", _number("ppo.kl_estimator")),
    ("References", _reference),
    ("New tokens per response", _number("task.max_new_tokens")),
    ("Held-out share", _number("task.holdout")),
)
NOTES: dict[str, Callable[[Mapping[str, Any]], str | None]] = {
    "Episodes": lambda config: "Single-step bandit episodes",
    "Batch size": lambda config: "Episodes per PPO update",
    "Initial KL coefficient": _kl_note,
    "Gradient clipping": lambda config: "Max grad norm",
    "Embedding model": lambda config: None if _embedder(config) is None else "ℓ2-normalized",
    "Reward type (baseline)": _checker,
}
