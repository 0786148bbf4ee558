"""What the scripts that trained the shipped classifiers share: fitting classifiers of two classes, and how right they are."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, GPT2ForSequenceClassification

from pgsrm.models.classifier import BUCKETS, Classifier, features, save_hashed
from pgsrm.models.settings import SHIPPED
from pgsrm.nano.minimise import minimise

Labelled = list[tuple[str, bool]]  # texts, and whether each is of the second class
_LAYERS, _BATCH, _RATE = 2, 32, 1e-3


def train_hashed(
    texts: Labelled, labels: tuple[str, str], file: Path, penalty: float = 0.1, share: float | None = None
) -> None:
    """Fit the logistic regression (scikit-learn's, C = `penalty`) and write its file.

    share: the texts count as if this share of them were of the second class; None: as they are.
    """
    from scipy.sparse import csr_matrix
    from sklearn.linear_model import LogisticRegression

    rows = [sorted(features(text)) for text, _ in texts]
    ends = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    matrix = csr_matrix((np.ones(ends[-1]), np.concatenate(rows).astype(np.int32), ends), shape=(len(rows), BUCKETS))
    fitted = LogisticRegression(C=penalty, solver="liblinear").fit(
        matrix, wanted(texts), _weights(texts, share)[wanted(texts).astype(int)]
    )
    save_hashed(file, fitted.coef_[0], float(fitted.intercept_[0]), labels)


def train_gold(
    texts: Labelled,
    labels: tuple[str, str],
    folder: Path,
    shorten: Callable[[str, random.Random], str] = lambda text, _: text,
    share: float | None = None,
    epochs: int = 2,
    longest: int = 128,
    seed: int = 0,
) -> None:
    """Fine-tune the first two layers of nano with a new head, and save them in float16.

    shorten: what is read of a text. share: as of `train_hashed`. longest: tokens, of which a text's first ones are read.
    """
    torch.manual_seed(seed)
    draw = random.Random(seed)
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    tokenizer.pad_token, tokenizer.padding_side = tokenizer.eos_token, "right"
    model = GPT2ForSequenceClassification.from_pretrained(
        SHIPPED,
        n_layer=_LAYERS,
        num_labels=2,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
    )
    model.config.pad_token_id = tokenizer.pad_token_id
    weights = torch.tensor(_weights(texts, share), dtype=torch.float32)

    def loss() -> torch.Tensor:
        batch = draw.sample(texts, _BATCH)
        read = [shorten(text, draw) for text, _ in batch]
        inputs = tokenizer(read, return_tensors="pt", padding=True, truncation=True, max_length=longest)
        right = torch.tensor([int(second) for _, second in batch])
        losses = torch.nn.functional.cross_entropy(model(**inputs).logits, right, reduction="none")
        return (losses * weights[right]).mean()

    minimise(model, loss, epochs * len(texts) // _BATCH, _RATE)
    model.half().save_pretrained(folder)


def _weights(texts: Labelled, share: float | None) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """What a text of either class counts (2,)."""
    actual = float(wanted(texts).mean())
    return np.array([1.0, 1.0]) if share is None else np.array([(1 - share) / (1 - actual), share / actual])


def accuracy(classifier: Classifier, texts: Labelled) -> float:
    """Share of texts whose label a classifier says."""
    logits = classifier.logits([text for text, _ in texts])
    return float(((logits[:, 1] > logits[:, 0]) == wanted(texts)).mean())


def wanted(texts: Labelled) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    """The labels (n,) of n texts."""
    return np.array([second for _, second in texts])


def auc(classifier: Classifier, texts: Labelled) -> float:
    """The probability that a text of the second class has more of it than one of the first (ties count half)."""
    logits, right = classifier.logits([text for text, _ in texts]), wanted(texts)
    odds = logits[:, 1] - logits[:, 0]
    _, place, counts = np.unique(odds, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[place]  # equal values share the mean of their ranks
    first, second = int((~right).sum()), int(right.sum())
    return float((rank[right].sum() - second * (second + 1) / 2) / (first * second))


def calibration(
    classifier: Classifier, texts: Labelled, edges: Sequence[float], share: float | None = None
) -> list[tuple[int, float, float]]:
    """Of the texts whose probability of the second class lies between two edges: number, mean probability, true share.

    share: as of `train_hashed`.
    """
    logits, right = classifier.logits([text for text, _ in texts]), wanted(texts)
    probability = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    bins = np.digitize(probability, edges[1:-1])
    counts = _weights(texts, share)[right.astype(int)]
    rows = []
    for one in range(len(edges) - 1):
        inside = bins == one
        total = max(1e-9, float(counts[inside].sum()))
        said, true = (float((counts * values)[inside].sum() / total) for values in (probability, right))
        rows.append((int(inside.sum()), said, true))
    return rows
