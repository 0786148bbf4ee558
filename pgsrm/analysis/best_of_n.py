"""The best of n samples of a model that is not trained: the table of `python -m pgsrm.algorithm best_of_n`, and its file read."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pgsrm.algorithm.best_of_n import RIGHT, Judged, sizes
from pgsrm.algorithm.selection import best_of_n_kl
from pgsrm.analysis.intervals import mean_interval
from pgsrm.analysis.tables import Cell, Table
from pgsrm.analysis.variants import REWARD_TITLES, Variant
from pgsrm.record.model_name import model_name
from pgsrm.util.errors import UserError
from pgsrm.util.numbers import mean
from pgsrm.util.paths import local_path

TRAINED, HELD_OUT = "trained", "held out"
_NEEDED = ("task", "reward", "model", "split", "n", "KL")


def table(judged: Mapping[str, Sequence[Judged]], samples: int) -> Table:
    """A row for each split and n = 1, 2, 4, ... `samples`: KL in nats per response, means over prompts with their intervals.

    KL is what the samples say (`best_of_n_kl_with_ties`), and at most `best_of_n_kl`. judged: by the split's name, all `samples` of
    each of its prompts. An interval is Student's over the prompts: it holds for other prompts of the kind, and other samples.
    """
    names = list(next(iter(judged.values()))[0].best_of(1))
    rows: list[list[Cell]] = []
    for split, prompts in judged.items():
        for n in sizes(samples):
            best = [prompt.best_of(n) for prompt in prompts]
            means = [mean_interval([values[name] for values in best]) for name in names]
            kl = mean([prompt.kl(n) for prompt in prompts])
            rows.append([split, str(len(prompts)), str(n), f"{kl:.4f}", f"{best_of_n_kl(n):.4f}", *means])
    return Table("best_of_n", "The best of n samples", ["split", "prompts", "n", "KL", "KL at most", *names], rows)


def with_columns(about: Mapping[str, str], result: Table) -> Table:
    """The table with columns before its own that say in every row what it is of."""
    rows: list[list[Cell]] = [[*about.values(), *row] for row in result.rows]
    return replace(result, head=[*about, *result.head], rows=rows, left=len(about) + result.left)


@dataclass(frozen=True)
class BestOfN:
    """A file as a line of a figure: sqrt(KL per response) and the share of right answers, of m sizes n each, on trained prompts."""

    path: Path
    task: str
    reward: str
    model: str
    distance: Sequence[float]
    right: Sequence[float]

    @property
    def label(self) -> str:
        """What the legend calls it."""
        choice, comma, rest = self.reward.partition(",")
        return f"best of n by {REWARD_TITLES.get(choice, choice)}{comma}{rest}"


def read_best_of_n(path: Path) -> BestOfN:
    """A file that the command wrote.

    Raises:
        UserError: for a file that is not there, is of something else, or has no right answers.
    """
    key = "--best-of-n"
    path = local_path(path, key)
    makes = "python -m pgsrm.algorithm best_of_n writes such a file"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        first = rows[0]
        if RIGHT not in first and all(name in first for name in _NEEDED):
            raise UserError(f"{key}={path}: has no right answers, which the figure shows; leave it out")
        trained = [(float(row["KL"]), float(row[RIGHT])) for row in rows if row["split"] == TRAINED]
        of = {name: first[name] for name in ("task", "reward", "model")}
    except OSError as error:
        raise UserError(f"{key}={path}: can't be read ({error.strerror}); {makes}") from error
    except (LookupError, ValueError, TypeError, csv.Error) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{key}={path}: is no table of the best of n samples; {makes}") from error
    if not trained or any(not math.isfinite(value) or value < 0 for point in trained for value in point):
        raise UserError(f"{key}={path}: is no table of the best of n samples; {makes}")
    return BestOfN(path, **of, distance=[math.sqrt(kl) for kl, _ in trained], right=[right for _, right in trained])


def not_shown(best: Sequence[BestOfN], variants: Sequence[Variant]) -> list[str]:
    """Notes of files that no variant can be compared with: of another task, or of another model."""
    notes = []
    for line in best:
        runs = [variant.runs[0] for variant in variants if variant.task == line.task]
        models = sorted({model_name(run.config) for run in runs})
        if not runs:
            notes.append(f"{line.path}: is of task={line.task}, of which there are no runs; no figure shows it")
        elif line.model not in models:
            notes.append(
                f"{line.path}: is of the model {line.model}, the runs of task={line.task} are of {', '.join(models)}"
            )
    return notes
