"""Arms less the one without a critic, seed by seed: over training, and over all distances that both come to."""

from __future__ import annotations

from functools import partial

from pgsrm.analysis.arms import Arms
from pgsrm.analysis.distance import common, up_to_distance
from pgsrm.analysis.experiments import difference_by_seed, of_run, shared_seeds
from pgsrm.analysis.measures import area, end
from pgsrm.analysis.results import DISTANCE, DISTINCT, EXTRINSIC, stopped_early
from pgsrm.analysis.tables import Cell, Table
from pgsrm.util.numbers import significant

NOTES = (
    "Each arm less the arm without a critic, runs of one seed: mean of the differences, in brackets Student's t 95% interval (none "
    "below three seeds). An interval with 0 in it shows no difference.",
    "At equal KL: mean over all distances, square roots of KL, from where the runs begin to what all runs of both arms come to "
    "(up to KL, in nats per response).",
)


def arm_differences(arms: Arms) -> Table | None:
    """A row for each arm but that without a critic; None where there is no such arm, or no other one with a seed of it."""
    base, (judged, judge, _) = arms.base, arms.outcomes[1]
    if base is None:
        return None
    ends = {"extrinsic": EXTRINSIC, judge.lower(): judged, "KL": DISTANCE, "distinct-2": DISTINCT}
    measured = [("extrinsic, area", EXTRINSIC, area), *((f"{name}, end", column, end) for name, column in ends.items())]
    at = {f"{title.lower()} at equal KL": column for column, title, _ in arms.outcomes[:2]}
    rows: list[list[Cell]] = []
    for variant in arms.variants:
        pairs = shared_seeds(variant, base)
        if variant is base or not pairs:
            continue
        level = common(run for pair in pairs for run in pair)
        over = [difference_by_seed(variant, base, of_run(column, measure)) for _, column, measure in measured]
        equal = [
            difference_by_seed(variant, base, partial(up_to_distance, column=column, kl=level))
            for column in at.values()
        ]
        rows.append([arms.label(variant), str(len(pairs)), *over, significant(level, 2), *equal])
    head = ["arm", "seeds", *(name for name, _, _ in measured), "up to KL", *at]
    title = f"Arms, {arms.title}, difference from {arms.label(base)}"
    formats = {**dict.fromkeys(head[2:], "+.2f"), "KL, end": "+.1f"}
    notes = [*NOTES, *stopped_early(arms.variants)]
    return Table(f"{arms.stem}_differences", title, head, rows, 1, formats, notes) if rows else None
