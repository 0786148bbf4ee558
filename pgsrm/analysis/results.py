"""Tables of results: what each variant and each seed came to, how fast and how steadily."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from pgsrm.analysis import measures
from pgsrm.analysis.intervals import Estimate, mean_interval
from pgsrm.analysis.measures import Series, episodes_to, series
from pgsrm.analysis.runs import Run
from pgsrm.analysis.tables import NONE, Cell, Table
from pgsrm.analysis.variants import Variant, shortfall
from pgsrm.util.numbers import counted

REWARD, MATCH, ENTROPY, KL = "reward/mean", "reward/exact_match", "policy/entropy", "policy/kl"
THRESHOLD = 0.5
EVALUATIONS = {
    "exact match, trained": "eval/train_exact_match",
    "exact match, held out": "eval/holdout_exact_match",
    "sampled match, trained": "eval/train_sampled_exact_match",
    "sampled match, held out": "eval/holdout_sampled_exact_match",
    "reward, trained": "eval/train_reward",
    "reward, held out": "eval/holdout_reward",
    "other embedder's reward, trained": "eval/train_other_reward",
    "other embedder's reward, held out": "eval/holdout_other_reward",
    "distinct, held out": "eval/holdout_distinct",
    "top share, trained": "eval/train_top_share",
    "top share, held out": "eval/holdout_top_share",
    "perplexity": "eval/perplexity",
    # Of sampled continuations of held-out prompts.
    "extrinsic reward": "eval/holdout_extrinsic",
    "gold measure": "eval/holdout_gold",
    "gold share": "eval/holdout_gold_share",
    "KL per response": "eval/holdout_kl",
    "distinct-2": "eval/holdout_distinct_2",
    "repetition": "eval/holdout_repetition",
    "response length": "eval/holdout_length",
}
TRAINED, HELD_OUT = EVALUATIONS["exact match, trained"], EVALUATIONS["exact match, held out"]
EXTRINSIC, GOLD, GOLD_SHARE = (EVALUATIONS[name] for name in ("extrinsic reward", "gold measure", "gold share"))
DISTANCE, DISTINCT = EVALUATIONS["KL per response"], EVALUATIONS["distinct-2"]
# What a reward's parts come to, where it has parts: a column, a title, a unit.
STREAMS = (
    ("reward/extrinsic", "Extrinsic reward", "reward"),
    ("critic/positive", "The critic gives", "reward per response"),
    ("critic/negative", "The critic takes", "reward per response"),
    ("critic/coverage", "Tokens that the critic marks", "share"),
)
# What asking a critic took, in each update.
CALLS, CRITIC_SECONDS = "critic/calls", "time/critic"
LENGTH, ENDED = "response/length", "response/eos"
# What sampled continuations of held-out prompts are, where they are measured.
MEASURED = (
    (EXTRINSIC, "Extrinsic reward, held out", "reward"),
    (GOLD, "Gold measure, held out", "mean"),
    (DISTINCT, "Distinct-2, held out", "share"),
    (DISTANCE, "KL, held out", "nats per response"),
)
COLUMNS = (
    *(REWARD, MATCH, ENTROPY, KL, *EVALUATIONS.values(), *measures.SPREAD.values()),
    *(column for column, _, _ in STREAMS),
    *(CALLS, CRITIC_SECONDS, LENGTH, ENDED),
)
INTERVAL = "Means over the finished seeds, in brackets Student's t 95% interval over seeds (none below three)."

Measure = Callable[[Series], float]
LEARNING: tuple[Measure, ...] = (measures.first, measures.last, measures.change, measures.kept, measures.area)
EACH_RUN: tuple[Measure, ...] = (measures.first, measures.last, measures.change, measures.best, measures.kept)
STABILITY: tuple[Measure, ...] = (measures.drawdown, measures.oscillation, measures.spikes)


def over_seeds(variant: Variant, column: str, measure: Measure) -> Estimate:
    """A measure's mean over the finished seeds that have it."""
    values = [measure(series(run, column)) for run in variant.complete]
    return mean_interval([value for value in values if value == value])


def result_tables(variants: Sequence[Variant]) -> list[Table]:
    """Learning, evaluation and stability, one row per variant."""
    return [learning(variants), evaluation(variants), stability(variants)]


def learning(variants: Sequence[Variant]) -> Table:
    """How far and how fast the reward of sampled answers rose."""
    head = ["first tenth", "last tenth", "change", "gain kept", "mean over training"]
    matched = [f"match {THRESHOLD:g} reached", f"episodes to match {THRESHOLD:g}"]
    rows: list[list[Cell]] = []
    for variant in variants:
        cells: list[Cell] = [over_seeds(variant, REWARD, measure) for measure in LEARNING]
        rows.append([*_names(variants, variant), seeds(variant), *cells, *_reached(variant), _minutes(variant)])
    matches: tuple[str, ...] = ()
    if _recorded(variants, MATCH):
        told = f"Episodes until the smoothed `reward/exact_match` is first at {THRESHOLD:g}: mean of the seeds that reach it."
        matches = (told,)
    return Table(
        "results",
        "Reward of sampled answers",
        [*_name_head(variants), "seeds", *head, *matched, "minutes per run"],
        rows,
        len(_name_head(variants)),
        {"change": "+z.3f", "gain kept": ".2f", matched[1]: ",.0f", "minutes per run": ".1f"},
        (
            "Tenth: mean of `reward/mean` over that tenth of the updates.",
            *_kept_by_some(variants),
            *stopped_early(variants),
            *matches,
            INTERVAL,
        ),
    )


def _kept_by_some(variants: Iterable[Variant]) -> list[str]:
    """Of how many seeds a mean of the gain kept is, where that is less than all, as a list of one line."""
    told = []
    for variant in variants:
        known = over_seeds(variant, REWARD, measures.kept).n
        if 0 < known < len(variant.complete):
            told.append(f"{known} of {len(variant.complete)} seeds of {variant.name}")
    return [f"Gain kept: of the seeds that gained {measures.GAINED:g} or more: {'; '.join(told)}."] if told else []


def evaluation(variants: Sequence[Variant]) -> Table:
    """Start → end of each evaluation that any run has; those of older runs may be missing."""
    rows: list[list[Cell]] = []
    for variant in variants:
        cells: list[Cell] = []
        for column in EVALUATIONS.values():
            cells += [_start(variant, column), over_seeds(variant, column, measures.end)]
        rows.append([*_names(variants, variant), seeds(variant), *cells])
    head = [text for name in EVALUATIONS for text in (f"{name}: start", f"{name}: end")]
    formats = dict.fromkeys(("perplexity: start", "perplexity: end"), ".1f")
    measured = _recorded(variants, EXTRINSIC)
    sampled = "; from the extrinsic reward on, sampled ones to held-out prompts" if measured else ""
    return Table(
        "evaluation",
        "Evaluations before training and at the end",
        [*_name_head(variants), "seeds", *head],
        rows,
        len(_name_head(variants)),
        formats,
        (f"Greedy answers on all prompts, unless sampled is said{sampled}.", *stopped_early(variants), INTERVAL),
    )


def stopped_early(variants: Iterable[Variant]) -> list[str]:
    """What the numbers of runs that stopped early are, as a list of one line; empty where there are none."""
    runs = [run for variant in variants for run in variant.complete if run.stopped_early]
    if not runs:
        return []
    whose, who = ("its", "it") if len(runs) == 1 else ("their", "they")
    return [
        f"{counted(len(runs), 'run')} stopped early: {whose} numbers, tenths too, are of the updates that {who} made."
    ]


def _recorded(variants: Sequence[Variant], column: str) -> bool:
    return any(column in run.metrics for variant in variants for run in variant.runs)


def stability(variants: Sequence[Variant]) -> Table:
    """Drawdown, oscillation and spikes of reward, entropy and KL."""
    metrics = {"reward": REWARD, "entropy": ENTROPY, "KL": KL}
    rows: list[list[Cell]] = []
    for variant in variants:
        cells: list[Cell] = [over_seeds(variant, c, measure) for c in metrics.values() for measure in STABILITY]
        rows.append([*_names(variants, variant), seeds(variant), *cells])
    head = [f"{metric}: {measure.__name__}" for metric in metrics for measure in STABILITY]
    return Table(
        "stability",
        "Stability",
        [*_name_head(variants), "seeds", *head],
        rows,
        len(_name_head(variants)),
        dict.fromkeys((f"{metric}: spikes" for metric in metrics), ".1f"),
        (
            "Less is steadier. Drawdown and oscillation are of a whole run, and mostly larger in a longer one: compare runs of one "
            "length. Spikes: per 1,000 updates. The measures are defined in docs/analysis.md.",
            *stopped_early(variants),
            INTERVAL,
        ),
    )


def by_seed(variants: Sequence[Variant]) -> Table:
    """One row per run, the unfinished too."""
    rows: list[list[Cell]] = []
    for variant in variants:
        for run in variant.runs:
            reward = series(run, REWARD)
            cells: list[Cell] = [Estimate(measure(reward)) for measure in EACH_RUN]
            matches = [_arrow(run, TRAINED), _arrow(run, HELD_OUT)]
            minutes = Estimate(run_minutes(run))
            rows.append([*_names(variants, variant), str(run.seed), *cells, *matches, minutes, state(run)])
    head = ["first tenth", "last tenth", "change", "best tenth", "gain kept"]
    return Table(
        "results_by_seed",
        "Each run",
        [*_name_head(variants), "seed", *head, *list(EVALUATIONS)[:2], "minutes", "state"],
        rows,
        len(_name_head(variants)),
        {"change": "+z.3f", "gain kept": ".2f", "minutes": ".1f"},
    )


def seeds(variant: Variant) -> str:
    """The number of finished seeds, and of the others."""
    return f"{len(variant.complete)}" + (f" (+{shortfall(variant.unfinished)})" if variant.unfinished else "")


def state(run: Run) -> str:
    """The state of a run as a table shows it: "finished", "failed, 41% of the updates"."""
    if run.complete and run.stopped_early:
        return f"stopped early, {run.last_update / run.planned:.0%} of the updates"
    return "finished" if run.complete else f"{run.state}, {run.progress:.0%} of the updates"


def run_minutes(run: Run) -> float:
    """Minutes that the run took, over all its starts; NaN where its status does not say."""
    return float(run.status.get("seconds") or float("nan")) / 60


def _name_head(variants: Sequence[Variant]) -> list[str]:
    return ["task", "reward", *(["settings"] if any(variant.settings for variant in variants) else [])]


def _names(variants: Sequence[Variant], variant: Variant) -> list[str]:
    settings = [variant.settings] if any(other.settings for other in variants) else []
    return [variant.task, variant.reward_title, *settings]


def _reached(variant: Variant) -> list[Cell]:
    runs = [run for run in variant.complete if MATCH in run.metrics]
    if not runs:
        return [NONE, NONE]
    times = [episodes_to(series(run, MATCH), THRESHOLD) for run in runs]
    reached = [value for value in times if math.isfinite(value)]
    return [f"{len(reached)} of {len(runs)}", mean_interval(reached)]


def _minutes(variant: Variant) -> Estimate:
    known = [minutes for run in variant.complete if (minutes := run_minutes(run)) == minutes]
    return _alone(mean_interval(known))


def _start(variant: Variant, column: str) -> Estimate:
    """The evaluation before training: greedy answers are the same in every seed and need no interval, sampled ones differ."""
    estimate = over_seeds(variant, column, measures.start)
    return estimate if estimate.high - estimate.low > measures.ROUNDING else _alone(estimate)


def _alone(estimate: Estimate) -> Estimate:
    """Without its interval: what every seed has in common, or nobody compares."""
    return Estimate(estimate.value)


def _arrow(run: Run, column: str) -> str:
    before, after = (measure(series(run, column)) for measure in (measures.start, measures.end))
    if before != before and after != after:
        return NONE
    return " → ".join(NONE if x != x else f"{x:.3f}" for x in (before, after))
