"""One reward against another over all tasks: interquartile means, and the probability that a run does better."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from intervals import Estimate, interquartile_mean, probability_of_improvement
from measures import area, drawdown, end, last, oscillation, series
from results import ENTROPY, HELD_OUT, KL, MATCH, Measure
from tables import NONE, Cell, Table
from variants import REWARD_ORDER, REWARD_TITLES, Variant, rank, setup_labels

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
    """For each two rewards that ran in the same setup a table: a row a setup and number, tasks side by side."""
    rewards = sorted({variant.reward for variant in variants}, key=lambda reward: rank(reward, REWARD_ORDER))
    return [table for a, b in combinations(rewards, 2) if (table := _compare(a, b, variants))]


def _compare(a: str, b: str, variants: Sequence[Variant]) -> Table | None:
    setups = _pairs(a, b, variants)
    tasks = list(dict.fromkeys(variant.task for variant in variants))
    labels = setup_labels([pairs[0][0] for pairs in setups]) if setups else []
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
    head = [*names, "tasks", f"IQM {first}", f"IQM {second}", *(f"P, {task}" for task in ("all tasks", *tasks))]
    return Table(
        f"comparison_{a}_{b}" if (a, b) != REWARD_ORDER else "comparison",
        f"{first} against {second}",
        head,
        rows,
        len(names),
        {f"P, {task}": ".2f" for task in ("all tasks", *tasks)},
        (
            "IQM: mean of the middle half of all runs of all tasks. "
            f"P: probability that a run under {first} does better than one under {second}, ties half; 0.5 is no difference.",
            "In brackets the 95% bootstrap interval, seeds drawn within their task (none below three seeds a task).",
        ),
    )


def _pairs(a: str, b: str, variants: Sequence[Variant]) -> list[list[tuple[Variant, Variant]]]:
    """Pairs of variants with finished runs, which differ in the reward alone; those of one setup together."""
    setups: list[list[tuple[Variant, Variant]]] = []
    for one in (v for v in variants if v.reward == a and v.complete):
        for other in (v for v in variants if v.reward == b and v.complete):
            if one.task != other.task or not one.same_setup(other):
                continue
            group = next((pairs for pairs in setups if pairs[0][0].same_setup(one)), None)
            if group is None:
                setups.append([(one, other)])
            else:
                group.append((one, other))
    return setups


def _row(
    pairs: Sequence[tuple[Variant, Variant]], column: str, measure: Measure, more: bool, tasks: Sequence[str]
) -> list[Cell] | None:
    sign = 1 if more else -1
    scores: list[tuple[str, list[float], list[float]]] = []
    for pair in pairs:
        found = [[measure(series(run, column)) for run in variant.complete] for variant in pair]
        known = [[value for value in values if value == value] for values in found]
        if all(known):
            scores.append((pair[0].task, known[0], known[1]))
    if not scores:
        return None
    by_task: dict[str, Cell] = {
        # Without an interval: where all runs of one reward beat all of the other, the bootstrap sees no spread at all.
        task: Estimate(probability_of_improvement([[sign * x for x in a]], [[sign * x for x in b]]).value)
        for task, a, b in scores
    }
    left, right = [a for _, a, _ in scores], [b for _, _, b in scores]
    signed = [[[sign * x for x in values] for values in side] for side in (left, right)]
    overall = probability_of_improvement(signed[0], signed[1])
    cells: list[Cell] = [str(len(scores)), interquartile_mean(left), interquartile_mean(right), overall]
    return [*cells, *(by_task.get(task, NONE) for task in tasks)]
