"""What is lost and invented between a perfect critic's spans and tokens, by each `reward.match`.

python -m benchmarks.span_matching --toxic FILE.csv --sentences FILE.txt ... --tokenizer NAME=FOLDER ... [--texts 1000]

The texts stand for responses, and their spans for a critic that is never wrong: those that people marked (a CSV with the columns
spans, a list of character numbers, and text), or the words of the shipped list in plain sentences (critic=lexicon). For each
tokenizer (nano's always) and each way of matching: the share of the tokens within spans that are marked (recall), the share of the
marked tokens that are within a span of that label (precision), and the share of the spans of which no token is marked (lost). What
is within a span is what wrote a character of it: that is `offset`, which has 1, 1 and 0 by definition and is not shown. A text that
a tokenizer does not give back letter by letter is left out, and counted.
"""

import argparse
import ast
import csv
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import get_args

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from pgsrm.critic.lexicon import LexiconCritic
from pgsrm.models.load import load_codec, load_model
from pgsrm.models.settings import ModelSettings
from pgsrm.models.text import Codec
from pgsrm.reward.spans import Match, marked_labels, tokens_of
from pgsrm.rollout import Span

Marked = tuple[str, tuple[Span, ...]]


def toxic(path: Path) -> Iterator[Marked]:
    """Texts with what people marked in them: runs of character numbers are spans."""
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            places, spans = sorted(ast.literal_eval(row["spans"])), list[tuple[int, int]]()
            for place in places:
                if spans and spans[-1][1] == place:
                    spans[-1] = spans[-1][0], place + 1
                else:
                    spans.append((place, place + 1))
            if spans:
                yield row["text"], tuple(Span(start, end, "negative") for start, end in spans)


def sentences(paths: Sequence[Path]) -> Iterator[Marked]:
    """Lines of text with the words of the shipped list in them, of the files by turns."""
    critic = LexiconCritic()
    for lines in zip(
        *(path.read_text(encoding="utf-8", errors="replace").splitlines() for path in paths), strict=False
    ):
        for line in lines:
            (critique,) = critic(prompts=[""], responses=[line], extrinsic=None)
            if critique.spans:
                yield line, critique.spans


def measure(codec: Codec, texts: Sequence[Marked], match: Match) -> dict[str, float]:
    """Recall and precision of marked (token, label) pairs, the share of spans without a marked token, and sizes."""
    right = inside = marked = lost = count = tokens = other = 0
    for text, spans in texts:
        (decoded,), (offsets,) = codec.decode([codec.encode_text(text)])
        if decoded != text:  # another form of a character: the spans' numbers are not this text's
            other += 1
            continue
        tokens += len(offsets)
        pairs = {
            (token, label)
            for token, labels in enumerate(marked_labels(spans, text, offsets, match))
            for label in labels
        }
        places = [{(token, span.label) for token in tokens_of(span, offsets)} for span in spans]
        truth = set[tuple[int, str]]().union(*places)
        right, inside, marked = right + len(pairs & truth), inside + len(truth), marked + len(pairs)
        lost, count = lost + sum(not pairs & place for place in places), count + len(spans)
    shares = {"recall": right / inside, "precision": right / max(1, marked), "lost": lost / count}
    return {**shares, "spans": count, "tokens": tokens / max(1, len(texts) - other), "left out": other}


def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """A folder's tokenizer; one of vocab.json and merges.txt alone is GPT-2's."""
    if (folder / "tokenizer.json").is_file() or (folder / "tokenizer_config.json").is_file():
        return AutoTokenizer.from_pretrained(folder)
    from transformers import GPT2Tokenizer

    return GPT2Tokenizer.from_pretrained(folder)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toxic", type=Path, metavar="CSV")
    parser.add_argument("--sentences", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--tokenizer", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--texts", type=int, default=1000, help="with spans, from the beginning of the files")
    options = parser.parse_args()
    sources = {}
    if options.toxic:
        sources["people's, toxic"] = list(islice(toxic(options.toxic), options.texts))
    if options.sentences:
        sources["word list, sentiment"] = list(islice(sentences(options.sentences), options.texts))
    if not sources:
        parser.error("nothing to measure on; give --toxic or --sentences")
    settings = ModelSettings()
    codecs = {"nano": load_codec(settings, load_model(settings, torch.device("cpu")))}
    for given in options.tokenizer:
        name, _, folder = given.partition("=")
        codecs[name] = Codec(tokenizer(Path(folder)))
    print(
        "| spans | tokenizer | `reward.match` | recall | precision | spans lost | spans | tokens per text | left out |"
    )
    print("|---|---|---|---:|---:|---:|---:|---:|---:|")
    for source, texts in sources.items():
        for name, codec in codecs.items():
            for match in get_args(Match)[1:]:
                row = measure(codec, texts, match)
                shares = " | ".join(f"{row[key]:.2f}" for key in ("recall", "precision", "lost"))
                print(
                    f"| {source} | {name} | `{match}` | {shares} | {row['spans']} | {row['tokens']:.0f} | {row['left out']} |"
                )


if __name__ == "__main__":
    main()
