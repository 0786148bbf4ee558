"""How the shipped classifiers and word lists of `task=detox` were made: `python -m pgsrm.nano.toxicity FILE ...`.

The files are RealToxicityPrompts' (.jsonl) and those of SemEval-2021 task 5 (.csv); `pgsrm.nano.toxicity_data` reads them. All
but the last two come from half A:

- the word list of `critic=lexicon` for this task: words that people mark as toxic;
- `toxicity`, which a run is trained on: a logistic regression over hashed words and pairs of words;
- `toxicity_gold`, which only measures, from half B: the lower half of nano with a new head;
- the longer list of words that are not shown (`task.mask`), from both halves: it measures nothing.

The lists hold hashes of words, so that no file of the package has an offensive word in clear.
"""

import argparse
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from pgsrm.models.classifier import NAMES, Classifier, load_classifier
from pgsrm.nano.classifiers import Labelled, accuracy, auc, calibration, train_gold, train_hashed
from pgsrm.nano.toxicity_data import Comment, Texts, pieces, read_files
from pgsrm.util.words import SHIPPED, WORD, hashed

LABELS = ("civil", "toxic")
LONGEST = 40  # characters
SHARE = 0.1  # most of what is written is civil, and a classifier that learned from texts of which half are not expects as much
EDGES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


def toxic_words(comments: Iterable[Comment], least: int = 3, share: float = 0.4) -> set[str]:
    """Words, in lower case, of which at least `least` occur and at least `share` of them lie within marked places.

    Places of more than 40 characters are left out: who marks a whole sentence says nothing about its words.
    """
    every: Counter[str] = Counter()
    inside: Counter[str] = Counter()
    for comment in comments:
        short = [(start, end) for start, end in comment.spans if end - start <= LONGEST]
        for match in WORD.finditer(comment.text):
            word = match[0].lower()
            every[word] += 1
            inside[word] += any(start <= match.start() and match.end() <= end for start, end in short)
    return {word for word, count in every.items() if count >= least and inside[word] >= share * count}


def profane_words(texts: Labelled, share: float = 0.8) -> set[str]:
    """Words, in lower case: of the texts that have one, and of one civil text more, at least `share` are profane."""
    counts: tuple[Counter[str], Counter[str]] = Counter(), Counter()
    for text, profane in texts:
        counts[profane].update({word.lower() for word in WORD.findall(text)})
    return {word for word, count in counts[True].items() if count >= share * (count + counts[False][word] + 1)}


def hidden_words(first: Texts, second: Texts) -> set[str]:
    """The words that `task.mask` hides: those of the first half's list, and more, by both halves."""
    marked = toxic_words([*first.comments, *second.comments], least=2, share=0.6)
    return toxic_words(first.comments) | marked | profane_words(first.profane + second.profane)


def write_list(words: Iterable[str], file: Path) -> None:
    """Write a word list of hashes."""
    file.write_text("".join(sorted(f"toxic {hashed(word)}\n" for word in words)), encoding="utf-8")


def train(halves: dict[str, Texts]) -> None:
    """Train both classifiers and write both lists."""
    first, second = halves["A"], halves["B"]
    write_list(toxic_words(first.comments), SHIPPED / "toxic.txt")
    write_list(hidden_words(first, second), SHIPPED / "offensive.txt")
    train_hashed(first.sentences + pieces(first.comments), LABELS, NAMES["toxicity"], 1.0, SHARE)
    train_gold(
        second.sentences + pieces(second.comments), LABELS, NAMES["toxicity_gold"], share=SHARE, epochs=1, longest=48
    )


def report(halves: dict[str, Texts]) -> None:
    """Print how right both classifiers are on the half that neither was trained on."""
    print("| classifier | texts | toxic | accuracy | AUC | mean probability |")
    print("|---|---|---:|---:|---:|---:|")
    unseen = [("toxicity", halves["B"]), ("toxicity_gold", halves["A"])]
    for name, texts in unseen:
        for kind, some in (("sentences", texts.sentences), ("pieces of comments", pieces(texts.comments))):
            print(f"| `{name}` | {kind} | {_row(load_classifier(name), some)} |")
    print(f"\nCalibration, as if a share of {SHARE:g} were toxic:\n")
    print("| classifier | probability | sentences | mean probability | share of toxic |")
    print("|---|---|---:|---:|---:|")
    for name, texts in unseen:
        rows = calibration(load_classifier(name), texts.sentences, EDGES, SHARE)
        for low, high, (count, said, true) in zip(EDGES, EDGES[1:], rows, strict=False):
            print(f"| `{name}` | {low:g} to {high:g} | {count} | {said:.3f} | {true:.3f} |")


def _row(classifier: Classifier, texts: Labelled) -> str:
    (_, said, true), *_ = calibration(classifier, texts, (0.0, 1.0))
    return f"{true:.3f} | {accuracy(classifier, texts):.3f} | {auc(classifier, texts):.3f} | {said:.3f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the classifiers and learn the word lists, or with --report say how good the classifiers are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="RealToxicityPrompts' .jsonl, SemEval's .csv"
    )
    parser.add_argument("--report", action="store_true", help="train nothing")
    options = parser.parse_args(arguments)
    halves = read_files(options.files)
    if not options.report:
        train(halves)
    report(halves)


if __name__ == "__main__":
    main()
