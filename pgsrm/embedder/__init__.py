"""Embedders: text in, unit vectors out.

An embedder is any object with `embed` and `dimension`, named by `_target_` in conf/embedder/. It is called
with all the texts of a batch at once, so that one that talks to a server or a GPU can do so in one request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from pgsrm.embedder.openai import OpenAIEmbeddings
from pgsrm.embedder.sentence_transformer import SentenceTransformerEmbedder
from pgsrm.embedder.word_vectors import WordVectors

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Embedder", "OpenAIEmbeddings", "SentenceTransformerEmbedder", "WordVectors"]


class Embedder(Protocol):
    """The embedding function f of the paper (section 3.2), frozen during training.

    Two more attributes are used where there are any: `digest`, a hash of all that decides its vectors, is what a
    run's identity then says of the embedder, instead of its config; `check()` is called before a run starts, to
    raise UserError for what would keep it from embedding.
    """

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
