"""Embedders that cost something: a text is embedded once, whoever asks for it again gets it from the cache."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pgsrm.embedder.cache import VectorCache
from pgsrm.embedder.vector_files import unit
from pgsrm.util.errors import UserError
from pgsrm.util.numbers import counted
from pgsrm.util.text import nfc, without_invisible

if TYPE_CHECKING:
    import numpy as np


class CachedEmbedder(ABC):
    """Implements `pgsrm.embedder.Embedder` on top of `digest` and `_embed_unseen`.

    White space around a text is not part of it: whether a policy's answers begin with a space depends on its tokenizer.
    Texts are embedded in Unicode's form NFC. An empty text, or one of invisible characters alone, gets a row of zeros, and
    nobody is asked for it.
    """

    def __init__(self, cache: VectorCache) -> None:
        self._cache = cache
        self._dimension: int | None = None  # of the first vector; there is no other in an embedder's life

    @property
    @abstractmethod
    def digest(self) -> str:
        """Hash of what decides the vectors: model, revision, options. The cache's keys begin with it."""

    @abstractmethod
    def _embed_unseen(self, texts: list[str]) -> np.ndarray:
        """Vectors (n, d) of n distinct texts, none of them empty; of any length but 0. Raises UserError if it can't."""

    @property
    def dimension(self) -> int:
        """Length d of an embedding."""
        return self._dimension or len(self._vectors(["a"])["a"])

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embed n texts; returns float32 (n, d), rows of length 1, or 0 for an empty text.

        Raises UserError if the embedder fails; there is never a row that stands for a failure.
        """
        import numpy as np

        stripped = [nfc(text).strip() for text in texts]
        stripped = [text if without_invisible(text).strip() else "" for text in stripped]
        vectors = self._vectors(list(dict.fromkeys(filter(None, stripped))))
        rows = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in enumerate(stripped):
            if text:
                rows[row] = vectors[text]
        return rows

    def _vectors(self, texts: list[str]) -> Mapping[str, np.ndarray]:
        """Unit vectors (d,) of distinct texts, the unseen ones embedded at once."""
        keys = {text: self._key(text) for text in texts}
        known = self._cache.get(list(keys.values()))
        unseen = [text for text, key in keys.items() if key not in known]
        if unseen:
            new = self._checked(unseen, self._embed_unseen(unseen))
            known |= self._cache.put({keys[text]: vector for text, vector in zip(unseen, new, strict=True)})
        for vector in known.values():
            self._dimension = self._dimension or len(vector)
            if len(vector) != self._dimension:
                lengths = f"{len(vector)} and of {counted(self._dimension, 'number')}"
                raise UserError(f"embedder: one model gave vectors of {lengths}; set embedder.cache to a new folder")
        return {text: known[key] for text, key in keys.items()}

    def _key(self, text: str) -> bytes:
        return hashlib.sha256(f"{self.digest}\0{text}".encode()).digest()

    def _checked(self, texts: Sequence[str], vectors: np.ndarray) -> np.ndarray:
        """The vectors at unit length, float32; UserError where one has no direction."""
        import numpy as np

        good = np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)
        if not good.all():
            text = texts[int(np.argmin(good))]
            raise UserError(f"embedder: {type(self).__name__} gave no direction for {text!r}; choose another model")
        return unit(vectors.astype(np.float64)).astype(np.float32)
