"""A critic without a model: words of a list are good or bad. A control for other critics, and an oracle for tests."""

from __future__ import annotations

from collections.abc import Sequence

from pgsrm.critic.critique import Critique
from pgsrm.rollout import Span
from pgsrm.util.words import WORD, WordList

LEXICON = "lexicon.txt"


class LexiconCritic:
    """Marks the words of a list, whole words in any case.

    path: a text file with a label and a word per line, as `positive lovely`, or `toxic #` and the word's hash
    (`pgsrm.util.words`); or a shipped list: `lexicon.txt`, words that tell good film reviews from bad ones
    (docs/sentiment_control.md), `toxic.txt`, words that people mark as offensive (docs/detox.md); null: the first of these. It
    reads the response alone.

    Raises UserError for a file that is no such list.
    """

    def __init__(self, path: str | None = None) -> None:
        self._words = WordList(LEXICON if path is None else path, "critic.path")
        self.labels = self._words.labels

    @property
    def digest(self) -> str:
        """Hash of the list."""
        return self._words.digest

    def __call__(
        self, *, prompts: Sequence[str], responses: Sequence[str], extrinsic: Sequence[float] | None
    ) -> list[Critique]:
        """One critique per response; a response without a listed word is clean."""
        return [self._critique(text) for text in responses]

    def _critique(self, text: str) -> Critique:
        spans = tuple(
            Span(match.start(), match.end(), label)
            for match in WORD.finditer(text)
            if (label := self._words.label(match[0])) is not None
        )
        return Critique.of_spans(spans, text)
