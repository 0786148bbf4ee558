"""The report's beginning: what was compared and the result, in words and one table, and what the words mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pgsrm.analysis.commands import missing, more_seeds
from pgsrm.analysis.intervals import MIN_SEEDS, difference_interval
from pgsrm.analysis.measures import end, first, last, series, start
from pgsrm.analysis.results import HELD_OUT, REWARD, TRAINED, Measure, over_seeds, seeds, stopped_early
from pgsrm.analysis.runs import Run
from pgsrm.analysis.samples import as_text, sample_rows, shared_ends
from pgsrm.analysis.tables import NONE, Table
from pgsrm.analysis.variants import Variant, task_title
from pgsrm.record.differences import in_common, words
from pgsrm.util.numbers import counted

PGSRM = (
    "PGSRM, the parent-guided semantic reward model, trains a small language model, the policy, by reinforcement learning. "
    "A stronger model, the parent, has answered every prompt once: its answers are the references. A response of the policy "
    "is rewarded by how near its meaning is to the reference."
)
CHECKERS = "the task's checker accepts it"


@dataclass(frozen=True)
class Overview:
    """The first screen of the report."""

    title: str
    setting: str  # what all runs share
    sentences: Sequence[str]  # what came out, task by task
    table: Table
    glossary: Sequence[tuple[str, str]]
    lacking: int  # variants with fewer than three finished seeds
    commands: Sequence[str]  # which give them their seeds
    missing: Sequence[str]  # what these lack


def overview(variants: Sequence[Variant]) -> Overview:
    """The overview of the variants that the tasks' own figures show."""
    tasks = list(dict.fromkeys(variant.task for variant in variants))
    rewards = list(dict.fromkeys(variant.reward_title for variant in variants))
    shared = in_common([run.config for variant in variants for run in variant.runs])
    setting = words({key: shared[key] for key in ("model", "ppo", "embedder") if key in shared}, ", ")
    lengths = sorted({round(variant.runs[0].episodes) for variant in variants})
    most = "up to " if stopped_early(variants) else ""
    episodes = " to ".join(f"{length:,}" for length in (lengths if len(lengths) < 3 else (lengths[0], lengths[-1])))
    return Overview(
        title=f"{_listed(rewards)} on {_listed([task_title(task).lower() for task in tasks])}",
        setting=f"{setting}{', ' if setting else ''}{most}{counted(episodes, 'episode')} (sampled responses) per run",
        sentences=[_sentence(task, [v for v in variants if v.task == task]) for task in tasks],
        table=_table(variants),
        glossary=_glossary(variants),
        lacking=sum(len(variant.complete) < MIN_SEEDS for variant in variants),
        commands=more_seeds(variants),
        missing=[text for text in dict.fromkeys(missing(variant.runs[0]) for variant in variants) if text],
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _table(variants: Sequence[Variant]) -> Table:
    """A row a variant: how far reward and right answers went."""
    rows = [
        [
            task_title(variant.task),
            variant.title,
            _arrow(variant, REWARD, first, last, ".2f"),
            _arrow(variant, TRAINED, start, end, ".0%"),
            _arrow(variant, HELD_OUT, start, end, ".0%"),
            seeds(variant),
        ]
        for variant in variants
    ]
    head = [
        "task",
        "reward",
        "reward, first → last tenth",
        "right answers, before → after",
        "the same on held-out prompts",
        "finished seeds",
    ]
    return Table("overview", "What came out", head, rows, left=2, notes=stopped_early(variants))


def _arrow(variant: Variant, column: str, before: Measure, after: Measure, spec: str) -> str:
    values = [over_seeds(variant, column, measure).value for measure in (before, after)]
    return NONE if values[1] != values[1] else " → ".join(NONE if x != x else format(x, spec) for x in values)


def _sentence(task: str, variants: Sequence[Variant]) -> str:
    """As "Color mixing: right answers on held-out prompts went from 0% to 6% under Binary, ...": with what can be said."""
    column, where = HELD_OUT, "held-out prompts, which training never sees,"
    if not any(over_seeds(variant, HELD_OUT, end).n for variant in variants):
        column, where = TRAINED, "the trained prompts"
    told = [
        f"{_arrow(variant, column, start, end, '.0%').replace(' → ', ' to ')} under {variant.title}"
        for variant in variants
        if _arrow(variant, column, start, end, ".0%") != NONE
    ]
    if told:
        text = f"{task_title(task)}: right answers on {where} went from {_listed(told[:6])}"
    else:
        told = [
            f"{_arrow(variant, REWARD, first, last, '.2f').replace(' → ', ' to ')} under {variant.title}"
            for variant in variants
            if _arrow(variant, REWARD, first, last, ".2f") != NONE
        ]
        text = f"{task_title(task)}: the reward went from {_listed(told[:6])}" if told else ""
        if not text:
            return f"{task_title(task)}: no run has finished yet."
        column = ""
    more = f"; {len(told) - 6} more are in the table" if len(told) > 6 else ""
    return f"{text}{more}.{_difference(variants, column)}"


def _difference(variants: Sequence[Variant], column: str) -> str:
    """Whether the two variants of a task differ, where there are two and enough seeds."""
    if len(variants) != 2 or not column:
        return ""
    one, other = variants
    values = [[v for run in variant.complete if (v := end(series(run, column))) == v] for variant in variants]
    difference = difference_interval(*values)
    if difference.low != difference.low:
        return ""
    apart = (
        "The seeds do not tell which is better"
        if difference.low <= 0 <= difference.high
        else "The difference is beyond chance"
    )
    interval = f"95% interval {100 * difference.low:+.0f} to {100 * difference.high:+.0f}"
    return f" {apart}: {one.title} minus {other.title} is {100 * difference.value:+.0f} percentage points ({interval})."


def _glossary(variants: Sequence[Variant]) -> list[tuple[str, str]]:
    """PGSRM, each reward and each task, as the configs of the runs have them."""
    entries = [("PGSRM", PGSRM)] if any(variant.reward == "pgsrm" for variant in variants) else []
    for reward in dict.fromkeys(variant.reward for variant in variants):
        entries.append((f"reward={reward}", _reward_text([v.runs[0] for v in variants if v.reward == reward])))
    for task in dict.fromkeys(variant.task for variant in variants):
        entries.append((f"task={task}", _task_text(task, [v for v in variants if v.task == task])))
    return [(name, text) for name, text in entries if text]


def _reward_text(runs: Sequence[Run]) -> str:
    """What a reward pays for, from one run of each variant that has it."""
    run = runs[0]
    config = run.config.get("reward")
    node: Mapping[str, Any] = config if isinstance(config, dict) else {}
    kind = str(node.get("_target_", "")).rpartition(".")[2]
    if run.reward == "pgsrm" or kind == "SemanticReward":
        embedder = node.get("embedder")
        target = embedder.get("_target_", "") if isinstance(embedder, dict) else ""
        vectors = f" ({target.rpartition('.')[2]})" if target else ""
        alphas = {other.settings.get("reward.alpha", "4"): None for other in runs}
        power = f" α = {next(iter(alphas))}" if len(alphas) == 1 else f"s α = {', '.join(alphas)}"
        return (
            f"How near a response is to the reference: the {node.get('similarity', 'cosine')} similarity of their "
            f"embeddings{vectors}, brought to 0…1 and raised to the power{power}. "
            "1 is the same meaning; what is near earns a part."
        )
    if run.reward == "binary" or kind == "BinaryReward":
        return "1 where the task's checker accepts the response as right, else 0. What is nearly right earns nothing."
    if kind == "ClassifierReward":
        model, label = node.get("model", "sentiment"), node.get("label", "positive")
        return f"What the classifier {model} says of the response, for its label {label}."
    if kind == "LearnedReward":
        return (
            "What a reward model says of prompt and response, in standard deviations of the reference policy's samples: "
            "0 is as good as those are on average."
        )
    if kind == "RougeReward":
        return f"How many words of the reference a response has: ROUGE ({node.get('kind', 'rouge1')}, {node.get('measure', 'f1')})."
    if kind == "TextMetricReward":
        return (
            f"How like the reference a response is written: {node.get('metric', 'chrf')}, 1 where the texts are equal."
        )
    if kind == "CriticReward":
        arm = ", ".join(dict.fromkeys(other.settings.get("reward.arm", "critic") for other in runs))
        return (
            "The task's own reward at the last token and, from the spans that a critic marks, rewards on their tokens; "
            f"reward.arm={arm} (docs/relc.md)."
        )
    return f"A reward of your own: {node['_target_']}." if node.get("_target_") else ""


def _task_text(task: str, variants: Sequence[Variant]) -> str:
    """The task's first prompt and reference that are on file; its template where none is."""
    for variant in variants:
        rows = sample_rows(variant.runs[0])
        if rows:
            return f"The policy reads “{rows[0]['prompt'].strip()}”; {_references_text(rows[0]['reference'])}."
    section = variants[0].runs[0].config.get("task")
    template = section.get("template") if isinstance(section, dict) else None
    return f"The policy reads “{str(template).strip()}”." if template else ""


def _references_text(reference: str | list[str]) -> str:
    if isinstance(reference, list):
        return f"the references are {' and '.join(f'“{text}”' for text in reference)}"
    return f"the reference is “{reference}”" if reference else "no answer is right or wrong"


@dataclass(frozen=True)
class Pair:
    """A prompt with the first and the last answer to it that are on file."""

    prompt: str
    reference: str
    first: Mapping[str, Any]
    last: Mapping[str, Any]


def before_and_after(rows: Sequence[Mapping[str, Any]], most: int = 3) -> tuple[str, list[Pair]]:
    """What the prompts share, and up to `most` prompts that were answered early and late, those furthest apart first."""
    by_prompt: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["update"]):
        by_prompt.setdefault(str(row["prompt"]), []).append(row)
    pairs = [
        (answers[0], answers[-1]) for answers in by_prompt.values() if answers[-1]["update"] > answers[0]["update"]
    ]
    pairs.sort(key=lambda pair: pair[0]["update"] - pair[1]["update"])
    before, after = shared_ends(list(by_prompt))
    return f"{before}…{after}", [
        Pair(str(a["prompt"])[len(before) : len(str(a["prompt"])) - len(after)], as_text(a["reference"]), a, b)
        for a, b in pairs[:most]
    ]
