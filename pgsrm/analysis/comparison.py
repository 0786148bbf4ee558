"""One reward against another over all tasks: interquartile means, and the probability that a run does better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

from pgsrm.analysis.intervals import MIN_SEEDS, Estimate, interquartile_mean, probability_of_improvement
from pgsrm.analysis.measures import ADDS_UP, area, drawdown, end, last, oscillation, series
from pgsrm.analysis.results import ENTROPY, HELD_OUT, KL, MATCH, Measure, stopped_early
from pgsrm.analysis.tables import NONE, Cell, Table
from pgsrm.analysis.variants import REWARD_ORDER, REWARD_TITLES, Variant, differ_in_length, rank, setup_labels

# What can be compared between rewards of different scale: right answers, and the course of entropy and KL.
COMPARED: tuple[tuple[str, str, Measure, bool], ...] = (
    ("right answers, last tenth", MATCH, last, True),
    ("right answers, over training", MATCH, area, True),
    ("right greedy answers, held out", HELD_OUT, end, True),
    ("entropy oscillation", ENTROPY, oscillation, False),
    ("KL oscillation", KL, oscillation, False),
    ("KL drawdown", KL, drawdown, False),
)


def comparisons(variants: Sequence[Variant]) -> list[Table]:
    """For each two rewards that ran in the same setup a table: one row per setup and number, tasks side by side."""
    rewards = sorted({variant.reward for variant in variants}, key=lambda reward: rank(reward, REWARD_ORDER))
    return [table for a, b in combinations(rewards, 2) if (table := _compare(a, b, variants))]


def _compare(a: str, b: str, variants: Sequence[Variant]) -> Table | None:
    setups = _pairs(a, b, variants)
    tasks = list(dict.fromkeys(variant.task for variant in variants))
    labels = _labels(setups) if setups else []
    first, second = (REWARD_TITLES.get(reward, reward) for reward in (a, b))
    rows: list[list[Cell]] = []
    for label, pairs in zip(labels, setups, strict=True):
        for name, column, measure, more in COMPARED:
            row = _row(pairs, column, measure, more, tasks)
            if row:
                text = name if more else f"{name} (less is better)"
                rows.append([*([label] if len(setups) > 1 else []), text, *row])
    if not rows:
        return None
    names = [*(["setup"] if len(setups) > 1 else []), "measure"]
    sides = [f"{what} {reward}" for what in ("runs", "IQM") for reward in (first, second)]
    head = [*names, "tasks", *sides, *(f"P, {task}" for task in ("all tasks", *tasks))]
    return Table(
        f"comparison_{a}_{b}" if (a, b) != REWARD_ORDER else "comparison",
        f"{first} against {second}",
        head,
        rows,
        len(names),
        {f"P, {task}": ".2f" for task in ("all tasks", *tasks)},
        (
            "IQM: mean of the middle half of a task's runs, mean over tasks; none where runs diverged. "
            f"P: probability that a run under {first} does better than one under {second}, ties half, mean over tasks; "
            "0.5 is no difference, and a run that diverged is the worst.",
            "In brackets the 95% bootstrap interval, seeds drawn within their task (none below three seeds a task).",
            *_early(setups),
        ),
    )


Pair = tuple[Variant, Variant]


def _early(setups: Sequence[Sequence[Pair]]) -> list[str]:
    told = stopped_early(_distinct([variant for pairs in setups for pair in pairs for variant in pair]))
    return [*told, "Oscillation adds up over a run: of tasks whose runs are of one length alone."] if told else []


def _pairs(a: str, b: str, variants: Sequence[Variant]) -> list[list[Pair]]:
    """Pairs of variants with runs that ended, which differ in the reward alone.

    Those of one setup stand together, if either reward has the same values in all of them: two exponents are two rewards.
    """
    setups: list[list[Pair]] = []
    values = {reward: _own_values([v for v in variants if v.reward == reward]) for reward in (a, b)}

    def alike(one: Variant, other: Variant) -> bool:
        return one.same_setup(other) and values[one.reward](one) == values[one.reward](other)

    ended = [variant for variant in variants if any(run.complete or run.diverged for run in variant.runs)]
    for one in (v for v in ended if v.reward == a):
        for other in (v for v in ended if v.reward == b):
            if one.task != other.task or not one.same_setup(other):
                continue
            group = next((g for g in setups if alike(g[0][0], one) and alike(g[0][1], other)), None)
            if group is None:
                setups.append([(one, other)])
            else:
                group.append((one, other))
    return setups


def _own_values(variants: Sequence[Variant]) -> Callable[[Variant], tuple[tuple[str, str], ...]]:
    """The values of a reward's own settings, of those that tell any two of its variants apart."""
    keys = sorted({part.partition("=")[0] for v in variants for part in v.parts if part.startswith("reward.")})
    return lambda variant: tuple((key, variant.runs[0].settings.get(key, "")) for key in keys)


def _labels(setups: Sequence[Sequence[Pair]]) -> list[str]:
    """What tells the setups apart: by the settings that both rewards share, and by those of either reward."""
    pairs = [group[0] for group in setups]
    shared = setup_labels([max(pair, key=_parts_held) for pair in pairs])
    own = [[part for v in pair for part in v.parts if part.startswith("reward.")] for pair in pairs]
    labels = []
    for text, parts in zip(shared, own, strict=True):
        telling = [part for part in dict.fromkeys(parts) if not all(part in others for others in own)]
        labels.append(", ".join([*([text] if text != "all" or not telling else []), *telling]))
    return labels


def _parts_held(variant: Variant) -> int:
    """How many of the choices that not every reward has are its reward's: those of the one with more tell two setups apart."""
    return sum(map(variant.holds, ("embedder", "critic")))


WORST = -float("inf")


def _row(
    pairs: Sequence[tuple[Variant, Variant]], column: str, measure: Measure, more: bool, tasks: Sequence[str]
) -> list[Cell] | None:
    """Numbers of one measure over the tasks that have it on both sides, or did not get there since a run failed."""
    scored: dict[str, list[list[float]]] = {}
    for task in {one.task: None for one, _ in pairs}:
        of_task = [pair for pair in pairs if pair[0].task == task]  # several where commits differ: their runs together
        sides = [
            [score for variant in _distinct(side) for score in _scores(variant, column, measure, more)]
            for side in zip(*of_task, strict=True)
        ]
        if all(sides) and not (measure in ADDS_UP and differ_in_length([v for pair in of_task for v in pair])):
            scored[task] = sides
    both = list(zip(*scored.values(), strict=True))
    if not any(score > WORST for side in both for scores in side for score in scores):
        return None
    by_task: dict[str, Cell] = {
        # Without an interval: where all runs of one reward beat all of the other, the bootstrap sees no spread at all.
        task: Estimate(probability_of_improvement([a], [b]).value)
        for task, (a, b) in scored.items()
        if min(len(a), len(b)) >= MIN_SEEDS  # of one run each it is 0 or 1, whatever the rewards are
    }
    cells: list[Cell] = [str(len(scored)), *map(_runs, both), *(_iqm(side, more) for side in both)]
    enough = min(len(scores) for side in both for scores in side) >= MIN_SEEDS
    overall: Cell = probability_of_improvement(*both) if enough else NONE
    return [*cells, overall, *(by_task.get(task, NONE) for task in tasks)]


def _distinct(variants: Sequence[Variant]) -> list[Variant]:
    return [variant for place, variant in enumerate(variants) if variant not in variants[:place]]


def _scores(variant: Variant, column: str, measure: Measure, more: bool) -> list[float]:
    """One number per run, more is better: those of the finished runs that have one, and `WORST` for each that diverged."""
    values = [measure(series(run, column)) for run in variant.complete]
    scores = [value if more else -value for value in values if value == value]
    if variant.complete and not scores:  # not measured
        return []
    return scores + [WORST] * sum(run.diverged for run in variant.runs)


def _runs(side: Sequence[Sequence[float]]) -> str:
    scores = [score for task in side for score in task]
    failed = scores.count(WORST)
    return f"{len(scores) - failed}" + (f" (+{failed} diverged)" if failed else "")


def _iqm(side: Sequence[Sequence[float]], more: bool) -> Estimate:
    """In the measure's own sign. A mean of those that came through would flatter."""
    if any(WORST in scores for scores in side):
        return Estimate(float("nan"))
    return interquartile_mean([[score if more else -score for score in scores] for scores in side])
