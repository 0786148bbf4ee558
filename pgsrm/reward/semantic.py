"""PGSRM's reward: how near a response's embedding is to the reference's (paper, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from pgsrm.embedder import Embedder
from pgsrm.reward.references import check_references, compared
from pgsrm.util.errors import ParameterError, UserError
from pgsrm.util.numbers import counted
from pgsrm.util.objects import check_object, digest_of, name_of

if TYPE_CHECKING:
    import numpy as np

_UNIT = 1e-2  # how far from 1 a row's length may be: float16 and bfloat16 round it


class SemanticReward:
    """R = transform(similarity(response, reference)) ** alpha, a number in [0, 1] for each response.

    Of several references to a prompt the one with the largest R counts.

    similarity, in [-1, 1], of the embeddings e of length 1 (for a zero row either one is 0):
        cosine: e_response · e_reference
        euclidean: 1 - |e_response - e_reference|
    transform, to [0, 1]:
        affine: (similarity + 1) / 2, clamped to [0, 1], as in the released code (the paper's figures fit this
        one) clip: max(0, similarity), as in the paper's equation in section 3.2
    alpha: the exponent, at least 1; 4 in all of the paper's runs.
    without_vector, of a response whose embedding is a zero row:
        zero_reward: the reward is 0
        zero_vector: the similarity is 0, as in the released code; under affine and alpha 4 it then earns 1/16
    length_penalty, of a response with more words than its reference, which averaged word vectors can't see ("cold cold"):
        None: nothing, as in the paper
        ratio: its reward is multiplied by the reference's number of words divided by its own

    Raises UserError when a reference has no vector: every response to it would be worth the same.
    """

    def __init__(
        self,
        embedder: Embedder,
        similarity: Literal["cosine", "euclidean"] = "cosine",
        transform: Literal["affine", "clip"] = "affine",
        alpha: Annotated[float, Meta(ge=1)] = 4.0,
        without_vector: Literal["zero_reward", "zero_vector"] = "zero_reward",
        length_penalty: Literal["ratio"] | None = None,
    ) -> None:
        if isinstance(embedder, str | int | float | None):  # a word in the place of an object: reward.embedder=static
            raise ParameterError(
                f"embedder={embedder!r}: is no embedder; choose one by embedder=..., and leave this key out"
            )
        if not callable(getattr(embedder, "embed", None)):
            raise UserError(
                f"embedder._target_={name_of(embedder)}: is no embedder; name a class that has a method embed(texts)"
            )
        self._embedder = embedder
        self._dimension: int | None = None  # of the first vectors; there is no other in a reward's life
        self._similarity = SIMILARITIES[similarity]
        self._transform = TRANSFORMS[transform]
        self._alpha = alpha
        self._zero_reward = without_vector == "zero_reward"
        self._by_length = length_penalty == "ratio"
        self._references: dict[str, np.ndarray] = {}  # a run's references are a finite set

    def __call__(
        self,
        *,
        references: Sequence[str],
        responses: Sequence[str],
        all_references: Sequence[Sequence[str]] | None = None,
        **_: Any,
    ) -> tuple[list[float], dict[str, float]]:
        """One reward per response, and two metrics.

        `similarity`: mean over the responses, 0 for one without a vector; `without_vector`: the share of
        those.
        """
        import numpy as np

        embedded = self._embed(responses)  # (B, d)
        missing = np.asarray(~embedded.any(axis=1))  # (B,)
        several = compared(references, all_references)
        counts = [len(texts) for texts in several]
        row, start = np.arange(len(several)).repeat(counts), np.cumsum([0, *counts[:-1]])
        theirs = [text for texts in several for text in texts]  # the R references of all responses
        similarities = self._similarity(embedded[row], self._embed_references(theirs))  # (R,)
        similarities = np.where(missing[row], 0.0, similarities)
        rewards = self._transform(similarities) ** self._alpha
        if self._zero_reward:
            rewards[missing[row]] = 0.0
        if self._by_length:
            rewards *= _length_ratios([responses[place] for place in row.tolist()], theirs)
        return np.maximum.reduceat(rewards, start).tolist(), {
            "similarity": float(np.maximum.reduceat(similarities, start).mean()),
            "without_vector": float(missing.mean()),
        }

    @property
    def digest(self) -> str | None:
        """Hash of what the embedder embeds with, where it has one."""
        return digest_of(self._embedder)

    def check(self, references: Sequence[str]) -> None:
        """Embed all references of a run before it starts.

        Raises UserError for one without a vector, and for what keeps the embedder from working (a wrong key).
        """
        check_references(references, "reward=pgsrm")
        check_object(self._embedder)
        self._embed_references(references)

    def _embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit or zero rows (n, d), float32, of n texts.

        Raises UserError for anything else, which an embedder of a user's own may give: it would be a wrong reward.
        """
        import numpy as np

        who = f"embedder={name_of(self._embedder)}: embed gave"
        vectors = self._embedder.embed(texts)
        try:
            rows = np.asarray(vectors, dtype=np.float32)
        except (TypeError, ValueError) as error:  # rows of several lengths, words
            raise UserError(f"{who} no table of numbers ({error}); return a NumPy array (texts, dimension)") from error
        if rows.ndim != 2 or len(rows) != len(texts):
            raise UserError(f"{who} the shape {rows.shape} for {counted(len(texts), 'text')}; return a row for each")
        self._dimension = self._dimension or rows.shape[1]
        if rows.shape[1] != self._dimension:
            raise UserError(
                f"{who} rows of {counted(rows.shape[1], 'number')} after rows of {self._dimension}; give all one length"
            )
        lengths = np.linalg.norm(rows, axis=1)  # (n,)
        good = np.isclose(lengths, 1, atol=_UNIT) | (lengths == 0)
        if not good.all():
            place = int(np.argmin(good))
            raise UserError(
                f"{who} a row of length {lengths[place]:.4g} for {texts[place]!r}; divide each row by its length, "
                "and give zeros for a text without a vector"
            )
        return rows

    def _embed_references(self, references: Sequence[str]) -> np.ndarray:
        """Embeddings (R, d) of the references, each text embedded once in the reward's life."""
        import numpy as np

        new = [text for text in dict.fromkeys(references) if text not in self._references]
        if new:
            for text, embedding in zip(new, self._embed(new), strict=True):
                if not embedding.any():
                    remedy = "change it, or choose an embedder that knows any text: embedder=sentence_transformer"
                    raise UserError(f"embedder: the reference {text!r} has no vector; {remedy}")
                self._references[text] = embedding
        return np.stack([self._references[text] for text in references])


def _length_ratios(responses: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Words of each reference for a word of its response, at most 1 (B,); words are what blanks divide."""
    import numpy as np

    pairs = zip(responses, references, strict=True)
    return np.array([min(1.0, len(theirs.split()) / max(1, len(ours.split()))) for ours, theirs in pairs])


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Row by row, of unit rows (n, d): (n,)."""
    return (a * b).sum(axis=1)


def _euclidean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """1 - distance, row by row, of unit rows (n, d), whose distance is 0 to 2: (n,)."""
    return 1 - ((a - b) ** 2).sum(axis=1) ** 0.5


def _affine(similarities: np.ndarray) -> np.ndarray:
    return ((similarities + 1) / 2).clip(0, 1)


def _clip(similarities: np.ndarray) -> np.ndarray:
    return similarities.clip(0, 1)


SIMILARITIES = {"cosine": _cosine, "euclidean": _euclidean}
TRANSFORMS = {"affine": _affine, "clip": _clip}
