"""Embedders: text in, unit vectors out.

An embedder is any object with `embed` and `dimension`, named by `_target_` in conf/embedder/. It is called
with all the texts of a batch at once, so that one that talks to a server or a GPU can do so in one request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from pgsrm.embedder.word_vectors import WordVectors

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Embedder", "WordVectors"]


class Embedder(Protocol):
    """The embedding function f of the paper (section 3.2), frozen during training."""

    @property
    def dimension(self) -> int:
        """Length d of an embedding."""
        ...

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embed n texts; returns float32 (n, d).

        Every row has length 1, except that a text for which there is no vector gets an all-zero row: what
        that means is the reward's decision, not the embedder's.
        """
        ...
