"""Static word vectors: a text's embedding is the mean of its words' vectors, at unit length.

As in the released code (docs/fidelity.md, D16): lower case, letters only, the mean over the words that have a
vector. A text without any such word has no direction and gets a row of zeros.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pgsrm.digest import content_digest
from pgsrm.embedder.vector_files import check_vectors, read_vectors

if TYPE_CHECKING:
    import numpy as np

SHIPPED = Path(__file__).parent / "data" / "static.kv"  # made by pgsrm/embedder/distill.py


def words_of(text: str) -> list[str]:
    """The words of a text: lower case, letters only. An apostrophe joins ("don't" is the word "dont")."""
    return re.findall(r"[^\W\d_]+", _plain(text))


class WordVectors:
    """Embeds texts by word vectors; implements `pgsrm.embedder.Embedder`.

    `path` names a file in gensim's native format (`.kv`) or in word2vec's text format (any other name; `.gz`
    is unpacked on the way), such as ConceptNet Numberbatch's `numberbatch-en-19.08.txt.gz`; of a multilingual
    file the English words are used. None is the file that ships with the package, distilled from
    all-MiniLM-L6-v2.

    The constructor only looks whether the file can be what it should be; the vectors are read at the first
    use. Raises UserError naming `embedder.path` for a file that is missing, damaged or of another format.
    """

    def __init__(self, path: str | None = None) -> None:
        self._path = SHIPPED if path is None else Path(path).expanduser()
        check_vectors(self._path)

    @property
    def digest(self) -> str:
        """Hash of the file: what a run's identity says of its embedder."""
        return content_digest([self._path])

    @property
    def dimension(self) -> int:
        """Length d of an embedding."""
        return self._table[1].shape[1]

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embed n texts; returns float32 (n, d), rows of length 1, or 0 for a text without a known word."""
        import numpy as np

        rows, vectors = self._table
        known = [[rows[word] for word in words_of(text) if word in rows] for text in texts]
        owners = np.repeat(np.arange(len(texts)), [len(of_text) for of_text in known])
        chosen = np.array([row for of_text in known for row in of_text], dtype=np.intp)
        sums = np.zeros((len(texts), self.dimension), dtype=np.float32)
        np.add.at(sums, owners, _unit(vectors[chosen].astype(np.float32)))
        return _unit(sums)  # the mean's direction is the sum's

    @cached_property
    def _table(self) -> tuple[dict[str, int], np.ndarray]:
        """Each word's row, and the rows (n, d). Keys that no text can contain (phrases, "##") are out."""
        keys, vectors = read_vectors(self._path)
        rows: dict[str, int] = {}
        for row, key in enumerate(keys):
            word = _plain(key)
            if word.isalpha():
                rows.setdefault(word, row)  # of "May" and "may" the first, as a rule the more frequent one
        return rows, vectors


def _plain(text: str) -> str:
    return text.lower().replace("'", "").replace("\u2019", "")


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows (n, d) at length 1; a row of zeros stays."""
    import numpy as np

    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)
