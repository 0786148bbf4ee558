"""Vectors that cost something, kept on disk for all runs and processes of a user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pgsrm.util.store import Store

if TYPE_CHECKING:
    import numpy as np

FILE = "vectors.sqlite"


class VectorCache:
    """key -> float32 vector, in a `Store`; folder and megabytes are the store's."""

    def __init__(self, folder: str | None = None, megabytes: int = 1000) -> None:
        self._store = Store(FILE, folder, megabytes)

    def get(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """The vectors of those keys that are there."""
        return _vectors(self._store.get(keys))

    def put(self, vectors: Mapping[bytes, np.ndarray]) -> dict[bytes, np.ndarray]:
        """Keep `vectors`; returns what is kept under their keys, which another process may have put there first."""
        return _vectors(self._store.put({key: vector.astype("float32").tobytes() for key, vector in vectors.items()}))


def _vectors(results: Mapping[bytes, bytes]) -> dict[bytes, np.ndarray]:
    import numpy as np

    return {key: np.frombuffer(result, dtype=np.float32) for key, result in results.items()}
