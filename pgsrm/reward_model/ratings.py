"""People's ratings as preference pairs: the files of Hutto and Gilbert (2014), which vaderSentiment's source archive has.

Two files belong together. `NAME_GroundTruth.txt` has a text on each line: its id, the mean rating, the text. In
`NAME_anonDataRatings.txt` a line has the id, the mean, the standard deviation and the list of all ratings. Tabs are between them.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from pgsrm.reward_model.pairs import Preference
from pgsrm.task import read_lines
from pgsrm.util.errors import UserError
from pgsrm.util.numbers import counted
from pgsrm.util.text import nfc

TEXTS, RATINGS = "_GroundTruth.txt", "_anonDataRatings.txt"
SPLITS = 20  # of a text's people into two halves, at random
_NEAR = 0.01  # as far the mean of the ratings may lie from the one that is beside the text: what rounding explains


class Rated(NamedTuple):
    """A text and what each of the people who rated it said."""

    text: str
    ratings: list[float]


def read_ratings(path: Path, key: str) -> tuple[list[list[Rated]], int]:
    """The rated texts of a file, or of each such file in a folder; and how many were left out.

    Left out are texts whose ratings do not have the mean that is beside the text: 196 of the 4,200 tweets have another one's.

    Raises UserError, naming `key`, for a folder without such files and for a malformed line.
    """
    files = sorted(path.glob(f"*{TEXTS}")) if path.is_dir() else [path]
    wrong = [file for file in files if not file.name.endswith(TEXTS)]
    if wrong or not files:
        problem = "has no rated texts" if path.is_dir() else "is no file of rated texts"
        raise UserError(
            f"{key}={path}: {problem}; name NAME{TEXTS}, which has NAME{RATINGS} beside it, or their folder"
        )
    read = [_read(file, file.with_name(file.name.removesuffix(TEXTS) + RATINGS), key) for file in files]
    return [texts for texts, _ in read], sum(left_out for _, left_out in read)


def _read(texts: Path, ratings: Path, key: str) -> tuple[list[Rated], int]:
    given: dict[str, list[float]] = {}
    for number, line in read_lines(ratings, key):
        name, _, _, listed = _columns(line, 4, f"{key}={ratings}: line {number}")
        try:
            given[name] = [float(rating) for rating in json.loads(listed)]
        except (TypeError, ValueError) as error:
            raise UserError(f"{key}={ratings}: line {number}: {listed[:40]!r} is no list of ratings") from error
    rated, left_out = [], 0
    for number, line in read_lines(texts, key):
        name, mean, text = _columns(line, 3, f"{key}={texts}: line {number}")
        own = given.get(name, [])
        try:
            agrees = len(own) > 1 and abs(fmean(own) - float(mean)) < _NEAR
        except ValueError as error:
            raise UserError(f"{key}={texts}: line {number}: {mean[:40]!r} is no mean rating") from error
        if agrees:
            rated.append(Rated(nfc(text.strip()), own))
        left_out += not agrees
    return rated, left_out


def _columns(line: str, count: int, where: str) -> list[str]:
    columns = line.split("\t", count - 1)
    if len(columns) != count:
        raise UserError(
            f"{where}: {counted(len(columns), 'column')} with tabs between them, not {count}; name the archive's own files"
        )
    return columns


def pairs_of(files: Sequence[Sequence[Rated]], seed: int) -> list[Preference]:
    """Two rated texts of one file at random, each text in one pair: the higher mean first, the difference as margin.

    Ties are dropped. The pairs have no prompt. agreement: `split_half_agreement`.
    """
    draw, pairs = random.Random(seed), []
    for texts in files:
        order = draw.sample(list(texts), len(texts))
        for one, two in zip(order[::2], order[1::2], strict=False):
            difference = fmean(one.ratings) - fmean(two.ratings)
            if difference and one.text != two.text:
                better, worse = (one, two) if difference > 0 else (two, one)
                agreement = split_half_agreement(better.ratings, worse.ratings, draw)
                pairs.append(Preference("", better.text, worse.text, round(abs(difference), 6), agreement))
    return pairs


def split_half_agreement(one: Sequence[float], two: Sequence[float], draw: random.Random) -> float:
    """How often two halves of the people order two texts alike, from 0 to 1, over `SPLITS` random halvings.

    one, two: the ratings of the texts, by people of their own. A half that finds them equal agrees half.
    """
    total = 0.0
    for _ in range(SPLITS):
        first, second = (_halves(ratings, draw) for ratings in (one, two))
        orders = [(a > b) - (a < b) for a, b in zip(first, second, strict=True)]
        total += (1 + orders[0] * orders[1]) / 2
    return total / SPLITS


def _halves(ratings: Sequence[float], draw: random.Random) -> tuple[float, float]:
    """The means of two halves at random."""
    mixed = draw.sample(list(ratings), len(ratings))
    middle = len(mixed) // 2
    return fmean(mixed[:middle]), fmean(mixed[middle:])
