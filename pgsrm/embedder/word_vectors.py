"""Static word vectors: a text's embedding is the mean of its words' vectors, at unit length.

As in the released code (docs/fidelity.md, D16): lower case, letters (and marks on them) only, the mean over the words
that have a vector. A text without any such word has no direction and gets a row of zeros.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from pgsrm.embedder.vector_files import check_vectors, unit
from pgsrm.embedder.word_table import WordTable, load_table, source_digest
from pgsrm.util.paths import local_path
from pgsrm.util.text import words_of

if TYPE_CHECKING:
    import numpy as np

SHIPPED = Path(__file__).parent / "data" / "static.kv"  # made by pgsrm/embedder/distill.py

Language = Annotated[str, Meta(pattern="^[a-z]{2,3}(_[A-Za-z]+)?$", description="a code as en or zh_Hant")]


class WordVectors:
    """Embeds texts by word vectors; implements `pgsrm.embedder.Embedder`.

    `path` names a file that gensim saved (`.kv`, `.model`), or one in word2vec's text or binary format, such as ConceptNet
    Numberbatch's `numberbatch-en-19.08.txt.gz`; of a multilingual file the words of `language` are used, by ConceptNet's
    code (en, de, zh). None is the file that ships with the package, distilled from all-MiniLM-L6-v2.

    The constructor only looks whether the file can be what it should be; the vectors are read at the first
    use, and word2vec's formats are converted then into a file that loads at once (`pgsrm.embedder.word_table`). Raises
    UserError naming `embedder.path` for a file that is missing, damaged or of another format.
    """

    def __init__(self, path: str | None = None, language: Language = "en") -> None:
        self._path = SHIPPED if path is None else local_path(path, "embedder.path")
        self._language = language
        check_vectors(self._path)

    @property
    def digest(self) -> str:
        """Hash of the file (and the language): what a run's identity says of its embedder."""
        content = source_digest(self._path, self._language)
        if self._language == "en":
            return content
        return hashlib.sha256(f"{content} {self._language}".encode()).hexdigest()

    @property
    def dimension(self) -> int:
        """Length d of an embedding."""
        return self._table.vectors.shape[1]

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embed n texts; returns float32 (n, d), rows of length 1, or 0 for a text without a known word."""
        import numpy as np

        words = [words_of(text) for text in texts]
        owners = np.repeat(np.arange(len(texts)), [len(of_text) for of_text in words])
        rows = self._table.find([word for of_text in words for word in of_text])
        known = rows >= 0
        sums = np.zeros((len(texts), self.dimension), dtype=np.float32)
        np.add.at(sums, owners[known], unit(self._table.vectors[rows[known]].astype(np.float32)))
        return unit(sums)  # the mean's direction is the sum's

    @cached_property
    def _table(self) -> WordTable:
        return load_table(self._path, self._language)
