"""A critic without a model: words of a list are good or bad. A control for other critics, and an oracle for tests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pgsrm.critic.critique import Critique
from pgsrm.rollout import Span
from pgsrm.util.digest import content_digest
from pgsrm.util.errors import UserError
from pgsrm.util.paths import local_path

LEXICON = Path(__file__).parent / "lexicon.txt"
WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")


class LexiconCritic:
    """Marks the words of a list, whole words in any case.

    path: a text file with a label and a word per line, as `positive lovely`; null: the shipped list of words that tell good
    film reviews from bad ones (docs/sentiment.md says how it was made). It reads the response alone.

    Raises UserError for a file that is no such list.
    """

    def __init__(self, path: str | None = None) -> None:
        self._file = LEXICON if path is None else local_path(path, "critic.path")
        self.labels = read_lexicon(self._file)

    @property
    def digest(self) -> str:
        """Hash of the list."""
        return content_digest([self._file])

    def __call__(
        self, *, prompts: Sequence[str], responses: Sequence[str], extrinsic: Sequence[float] | None
    ) -> list[Critique]:
        """One critique per response; a response without a listed word is clean."""
        return [self._critique(text) for text in responses]

    def _critique(self, text: str) -> Critique:
        spans = tuple(
            Span(match.start(), match.end(), label)
            for match in WORD.finditer(text)
            if (label := self.labels.get(match[0].lower())) is not None
        )
        return Critique.of_spans(spans, text)


def read_lexicon(file: Path) -> dict[str, str]:
    """Word in lower case -> label."""
    remedy = "give a text file with a label and a word per line, as `positive lovely`"
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"critic.path={file}: can't be read ({error}); {remedy}") from error
    labels: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        label, _, word = line.strip().partition(" ")
        if not line.strip():
            continue
        if WORD.fullmatch(word) is None:
            raise UserError(f"critic.path={file}: line {number}: {line[:40]!r} is no label and word; {remedy}")
        labels[word.lower()] = label
    if not labels:
        raise UserError(f"critic.path={file}: is empty; {remedy}")
    return labels
