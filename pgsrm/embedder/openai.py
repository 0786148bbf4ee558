"""Embeddings by a server that speaks the OpenAI protocol: OpenAI itself, vLLM, Ollama, llama.cpp, TEI."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from pgsrm.embedder.cache import VectorCache
from pgsrm.embedder.cached import CachedEmbedder
from pgsrm.models.server import OPENAI, TEXTS_A_REQUEST, Server
from pgsrm.util.errors import UserError

if TYPE_CHECKING:
    import numpy as np

PROBE = "check"
SAME_WEIGHTS = 0.999  # cosine; a server's own answers differ in the last digits


class OpenAIEmbeddings(CachedEmbedder):
    """Embeds texts by the endpoint /embeddings; implements `pgsrm.embedder.Embedder`.

    model: text-embedding-3-large, text-embedding-3-small, or what the server calls its own. dimensions: of the
    vectors, where the model can shorten them; None = all. base_url: with its /v1; None = api.openai.com. revision:
    any name for the weights, which then stands for them in the address's place.
    api_key_env: the environment variable with the key. timeout: seconds without an answer; retries: further
    tries after a failed one. batch_size: the most texts of a request. encoding_format: how vectors are sent, float or
    base64; None = left to the server. cache, cache_megabytes: see `VectorCache`.

    The texts of a batch that are in no cache are sent in one request, or in as many as the server's own limit makes.
    An answer that is wrong in any way is asked for again; raises ServerError when the tries are used up.
    """

    def __init__(
        self,
        model: Annotated[str, Meta(min_length=1)] = "text-embedding-3-large",
        dimensions: Annotated[int, Meta(ge=1)] | None = None,
        base_url: str | None = None,
        revision: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        timeout: Annotated[float, Meta(gt=0)] = 60.0,
        retries: Annotated[int, Meta(ge=0)] = 6,
        batch_size: Annotated[int, Meta(ge=1)] = TEXTS_A_REQUEST,
        encoding_format: Literal["float", "base64"] | None = "float",
        cache: str | None = None,
        cache_megabytes: Annotated[int, Meta(ge=0)] = 1000,
    ) -> None:
        super().__init__(VectorCache(cache, cache_megabytes))
        self._model, self._dimensions, self._base_url = model, dimensions, (base_url or OPENAI).rstrip("/")
        self._revision, self._batch_size, self._encoding_format = revision, batch_size, encoding_format
        self._server = Server(base_url, api_key_env, timeout, retries, section="embedder")

    @property
    def digest(self) -> str:
        """Hash of what stands for the weights, model and dimensions: what a run's identity says of its embedder.

        A model's name is not enough: TEI and llama.cpp answer to any, and two servers may serve two models as "default".
        """
        weights = self._base_url if self._revision is None else ["revision", self._revision]
        deciding = ["openai", weights, self._model, self._dimensions]
        return hashlib.sha256(json.dumps(deciding).encode()).hexdigest()

    def check(self) -> None:
        """Embed one word. Raises UserError for a missing or wrong key, an unknown model, a server that isn't there.

        Also for one whose vector is not the cache's: it has other weights, and a run would mix the two.
        """
        self._server.check()
        fresh, key = self._checked([PROBE], self._embed_unseen([PROBE]))[0], self._key(PROBE)
        kept = self._cache.put({key: fresh})[key]
        if kept.shape != fresh.shape or kept @ fresh < SAME_WEIGHTS:
            raise UserError(
                f"embedder.base_url={self._base_url}: its vectors for embedder.model={self._model} are not those that it gave "
                "before; name the new weights by embedder.revision"
            )

    def _embed_unseen(self, texts: list[str]) -> np.ndarray:
        import numpy as np

        model, dimensions, encoding, most = self._model, self._dimensions, self._encoding_format, self._batch_size
        return np.array(self._server.embeddings(texts, model, dimensions, encoding, most))
