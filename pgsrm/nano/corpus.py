"""The text that nano, the shipped model, is pre-trained on: plain English, facts, repetitions, and mostly wrong answers.

A model that has only read plain English never answers in the tasks' formats, and a semantic reward then has nothing to
sharpen (docs/nano.md has the measurements). GPT-2 knows what an antonym is, and still seldom gives one when asked. This
mixture makes a 3 M-parameter model behave in the same way:

- facts about every task, in wordings that are not the tasks' prompts ("hot and cold are opposites");
- sentences that occur twice, so that the model learns to copy;
- the tasks' prompts followed by an answer of the right kind, mostly a wrong one (`Answering`);
- plain English.

A fifth of every task's prompts is withheld (`is_withheld`): the fact is never told, and the right answer never follows
the prompt.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from pgsrm.util.paths import conf_folder

TASKS = ("color", "antonym", "category", "copy", "sentiment")
PASSAGE = 500  # characters of plain English in one document, at most
WITHHELD = 5  # every fifth prompt, by its hash

ANTONYM_FACTS = (
    "{a} and {b} are opposites.",
    "'{a}' and '{b}' are opposites.",
    "what is not {a} is {b}.",
    "'{b}' is the reverse of '{a}'.",
    "something {a} can't be {b} at the same time.",
    "{a}, on the contrary {b}.",
    "some are {a}, others are {b}.",
    "antonyms: '{a}', '{b}'.",
    "from {a} to {b}.",
    "it was not {a} but {b}.",
    "{a} is to {b} as {b} is to {a}.",
    "either {a} or {b}, never both.",
)
CATEGORY_FACTS = (
    "a {word} is a kind of {category}.",
    "the {word} is one sort of {category}.",
    "'{word}' is in the group '{category}'.",
    "every {word} is a {category}.",
    "{category}: {word}, {other}.",
    "we saw a {category}, it was a {word}.",
    "think of a {category}, a {word} for example.",
    "'{word}': {category}.",
    "'{word}', a {category}.",
    "the {word} and the {other}, each one a {category}.",
)
COLOR_FACTS = (
    "{c1} paint with {c2} paint makes {mix}.",
    "stir {c1} into {c2} and you get {mix}.",
    "'{c1}' with '{c2}' gives '{mix}'.",
    "{mix} is what {c1} and {c2} become together.",
    "he blended {c1} with {c2} until it was {mix}.",
    "{c1} + {c2} = {mix}",
    "to paint {mix}, take {c1} and {c2}.",
    "half {c1}, half {c2}: '{mix}'.",
)
MOOD_FACTS = (
    "{positive} one day, {negative} the next.",
    "the happy say {positive}, the sad say {negative}.",
    "in a good mood: {positive}. in a bad mood: {negative}.",
    "{positive} is a happy word, {negative} is a sad word.",
    "where joy is {positive}, grief is {negative}.",
    "'{positive}' made sad is '{negative}'.",
)
SENTIMENT_FACTS = (
    "Happy: {positive} Sad: {negative}",
    "On a good day: {positive} On a bad day: {negative}",
    "Yesterday she said: {positive} Today she says: {negative}",
    "{positive} No, that is not true. {negative}",
    "'{positive}' he lied. '{negative}'",
    "the sad side of '{positive}' is '{negative}'",
)
REPETITIONS = (
    "{s} {s}",
    "{s}\n{s}",
    "'{s}' she said. '{s}' he repeated.",
    "She wrote: {s} He wrote the same: {s}",
    "'{s}' and once more: {s}",
    "Say it again: {s} Again: {s}",
    "Original: {s} Duplicate: {s}",
    "'{s}' {s}",
)
SENTENCES = (
    "The {word} is on the {other}.",
    "I saw a {adjective} {word}.",
    "My {word} is {adjective}.",
    "She has a {adjective} {word}.",
    "We found the {word} near the {other}.",
    "He sold his {word} today.",
    "The {adjective} {word} was gone.",
    "They bought a {word} and a {other}.",
    "This {word} looks {adjective}.",
    "Put the {word} under the {other}.",
)


@dataclass(frozen=True)
class Answering:
    """How a task's prompts are answered in the corpus.

    `right` is the share of right answers, per task. `near_misses` is the share of the wrong copies that differ from the
    sentence in a few words; the others are another sentence. `skew` makes wrong colors and categories favour the common
    ones: the n-th is drawn in proportion to n ** -skew, and 0 gives all of them the same probability.
    """

    right: dict[str, float]
    near_misses: float
    skew: float


# Two stages (docs/nano.md). The first connects what facts tell with what prompts ask. The second keeps that connection,
# but makes common wrong answers the most probable ones, as they are in a model that was never trained on the question.
STAGES = {
    "learn": Answering(dict.fromkeys(TASKS, 0.15), near_misses=0.5, skew=0.0),
    "err": Answering(
        {"color": 0.05, "antonym": 0.1, "category": 0.05, "copy": 0.02, "sentiment": 0.08}, near_misses=0.15, skew=1.0
    ),
}


@dataclass(frozen=True)
class TaskText:
    """One task as the corpus needs it: the template of its prompts and its rows (the columns of its data file)."""

    name: str
    template: str
    rows: list[dict[str, str]]

    def prompt(self, row: dict[str, str]) -> str:
        """The prompt of a row, from the template."""
        return self.template.format_map(row)

    def answer(self, row: dict[str, str]) -> str:
        """The right answer to a row's prompt: its reference, or the sentence to copy."""
        return row.get("reference", row.get("sentence", ""))


@dataclass(frozen=True)
class Document:
    """A prompt (may be empty) and the text after it; each is tokenised separately, as a policy's prompt and response are."""

    prompt: str
    text: str


def read_jsonl(path: Path) -> list[dict[str, str]]:
    """The objects of a JSON Lines file, without empty lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def load_task_text(name: str) -> TaskText:
    """A shipped task, with the template of conf/task and the rows of its data file."""
    config = OmegaConf.load(conf_folder() / "task" / f"{name}.yaml")
    data = Path(__file__).parent.parent / "task" / "data" / f"{name}.jsonl"
    return TaskText(name, config.template, read_jsonl(data))


def is_withheld(task: str, row: dict[str, str]) -> bool:
    """Whether the right answer to this prompt is kept out of pre-training: one prompt in `WITHHELD`, by its hash.

    Prompts about the same fact (red + blue, blue + red) have the same hash.
    """
    words = sorted(value for key, value in row.items() if key not in ("reference", "source"))
    digest = hashlib.sha256("|".join([task, *words]).encode()).digest()
    return digest[0] % WITHHELD == 0


def response_text(prompt: str, answer: str) -> str:
    """The answer as it follows the prompt: with a leading space unless the prompt ends in one."""
    return answer if prompt.endswith(" ") else " " + answer


class WrongAnswers:
    """Wrong answers as a model gives them: the n-th most common one is drawn in proportion to n ** -skew.

    The question plays no part. The order is that of the answers' hashes, so that the most common wrong answer is not the
    one that is most often right.
    """

    def __init__(self, answers: Iterable[str], skew: float) -> None:
        self.answers = sorted(set(answers), key=lambda answer: hashlib.sha256(answer.encode()).digest())
        self.weights = [rank**-skew for rank in range(1, len(self.answers) + 1)]

    def draw(self, rng: random.Random, right: str) -> str:
        """Any answer but the right one."""
        while (answer := rng.choices(self.answers, self.weights)[0]) == right:
            pass
        return answer


class Mixture:
    """An endless stream of documents, drawn from `random.Random(seed)` with the weights of `sources`."""

    def __init__(
        self, english: list[str], facts: list[dict[str, str]], tasks: list[TaskText], answering: Answering, seed: int
    ) -> None:
        self.rng = random.Random(seed)
        self.answering = answering
        self.english = english
        self.tasks = {task.name: task for task in tasks}
        self.known = {t.name: [r for r in t.rows if not is_withheld(t.name, r)] for t in tasks}
        hidden = {
            frozenset((r["word"], r["reference"])) for r in self.tasks["antonym"].rows if is_withheld("antonym", r)
        }
        by_kind = {kind: [f for f in facts if f["kind"] == kind] for kind in {f["kind"] for f in facts}}
        pairs = [(f["a"], f["b"]) for f in by_kind["antonym"]]
        pairs += [(r["word"], r["reference"]) for r in self.known["antonym"]]
        self.antonyms = [pair for pair in pairs if frozenset(pair) not in hidden]
        self.categories = [(f["word"], f["category"]) for f in by_kind["category"]]
        self.categories += [(r["word"], r["reference"]) for r in self.known["category"]]
        self.moods = by_kind["mood"]
        self.sentiments = [(f["positive"], f["negative"]) for f in by_kind["sentiment"]]
        self.sentiments += [(r["sentence"], r["reference"]) for r in self.known["sentiment"]]
        self.copies = [f["sentence"] for f in by_kind["copy"]] + [r["sentence"] for r in self.known["copy"]]
        self.objects = [f["word"] for f in by_kind["object"]] + [word for word, _ in self.categories]
        self.adjectives = sorted({word for pair in self.antonyms for word in pair})
        self.words = sorted(set(self.objects) | set(self.adjectives))
        self.wrong_colors = WrongAnswers((r["reference"] for r in self.tasks["color"].rows), answering.skew)
        self.wrong_categories = WrongAnswers((category for _, category in self.categories), answering.skew)
        self.short_english = [s for text in english for s in text.split("\n") if 3 <= len(s.split()) <= 9]
        # (what, weight): tokens follow the weights only roughly, since documents differ in length
        self.sources: list[tuple[Callable[[], Document], float]] = [
            (self.plain, 0.20),
            (self.antonym_fact, 0.11),
            (self.category_fact, 0.12),
            (self.color_fact, 0.08),
            (self.mood_fact, 0.03),
            (self.sentiment_fact, 0.06),
            (self.repetition, 0.15),
            (self.asked, 0.25),
        ]

    def __iter__(self) -> Iterator[Document]:
        makers = [maker for maker, _ in self.sources]
        weights = [weight for _, weight in self.sources]
        while True:
            yield self.rng.choices(makers, weights)[0]()

    def plain(self) -> Document:
        """A passage of the plain English, at most `PASSAGE` characters."""
        text = self.rng.choice(self.english)
        start = self.rng.randrange(max(1, len(text) - PASSAGE))
        start = text.rfind("\n", 0, start) + 1  # a passage begins with a line
        return Document("", text[start : start + PASSAGE])

    def antonym_fact(self) -> Document:
        """Three statements that two words are opposites."""
        facts = []
        for _ in range(3):
            pair = list(self.rng.choice(self.antonyms))
            self.rng.shuffle(pair)
            facts.append(self.rng.choice(ANTONYM_FACTS).format(a=pair[0], b=pair[1]))
        return Document("", " ".join(facts))

    def category_fact(self) -> Document:
        """Three statements that a word belongs to a category."""
        facts = []
        for _ in range(3):
            word, category = self.rng.choice(self.categories)
            other = self.rng.choice([w for w, c in self.categories if c == category])
            template = self.rng.choice(CATEGORY_FACTS)
            facts.append(template.format(word=word, category=category, other=other))
        return Document("", " ".join(facts))

    def color_fact(self) -> Document:
        """Three statements about what two colors give when mixed."""
        facts = []
        for _ in range(3):
            row = self.rng.choice(self.known["color"])
            template = self.rng.choice(COLOR_FACTS)
            facts.append(template.format(c1=row["c1"], c2=row["c2"], mix=row["reference"]))
        return Document("", " ".join(facts))

    def mood_fact(self) -> Document:
        """A statement that connects a happy word with a sad word."""
        return Document("", self.rng.choice(MOOD_FACTS).format_map(self.rng.choice(self.moods)))

    def sentiment_fact(self) -> Document:
        """A happy sentence and its sad counterpart."""
        positive, negative = self.rng.choice(self.sentiments)
        return Document("", self.rng.choice(SENTIMENT_FACTS).format(positive=positive, negative=negative))

    def sentence(self) -> str:
        """A short sentence: written, made from a template, found in the corpus, or a row of random words."""
        kind = self.rng.random()
        if kind < 0.25:
            return self.rng.choice(self.copies)
        if kind < 0.35:
            return self.rng.choice(self.rng.choice(self.sentiments))
        if kind < 0.65:
            return self.rng.choice(SENTENCES).format(
                word=self.rng.choice(self.objects),
                other=self.rng.choice(self.objects),
                adjective=self.rng.choice(self.adjectives),
            )
        if kind < 0.85 and self.short_english:
            return self.rng.choice(self.short_english)
        return " ".join(self.rng.choices(self.words, k=self.rng.randint(3, 7))).capitalize() + "."

    def repetition(self) -> Document:
        """A sentence that occurs twice."""
        return Document("", self.rng.choice(REPETITIONS).format(s=self.sentence()))

    def asked(self) -> Document:
        """A task's prompt with an answer of the right kind, right in a small share of the cases."""
        name = self.rng.choice(TASKS)
        return getattr(self, f"asked_{name}")(self.rng.random() < self.answering.right[name])

    def _asked(self, task: str, inputs: dict[str, str], answer: str) -> Document:
        prompt = self.tasks[task].prompt(inputs)
        return Document(prompt, response_text(prompt, answer))

    def asked_color(self, right: bool) -> Document:
        """The color task's prompt and an answer: the right mixture, or another color."""
        if right:
            row = self.rng.choice(self.known["color"])
            return self._asked("color", row, row["reference"])
        row = self.rng.choice(self.tasks["color"].rows)
        return self._asked("color", row, self.wrong_colors.draw(self.rng, row["reference"]))

    def asked_antonym(self, right: bool) -> Document:
        """The antonym task's prompt and an answer: the opposite, or an adjective drawn at random."""
        if right:
            pair = list(self.rng.choice(self.antonyms))
            self.rng.shuffle(pair)
            return self._asked("antonym", {"word": pair[0]}, pair[1])
        word = self.rng.choice(self.adjectives + [row["word"] for row in self.tasks["antonym"].rows])
        return self._asked("antonym", {"word": word}, self.rng.choice(self.adjectives))

    def asked_category(self, right: bool) -> Document:
        """The category task's prompt and an answer: the right category, or another one."""
        if right:
            word, category = self.rng.choice(self.categories)
            return self._asked("category", {"word": word}, category)
        rows = [(row["word"], row["reference"]) for row in self.tasks["category"].rows]
        word, category = self.rng.choice(self.categories + rows)
        return self._asked("category", {"word": word}, self.wrong_categories.draw(self.rng, category))

    def asked_copy(self, right: bool) -> Document:
        """The copy task's prompt and an answer: the sentence, a changed sentence, or another one."""
        sentence = self.sentence()
        if right:
            return self._asked("copy", {"sentence": sentence}, sentence)
        if self.rng.random() >= self.answering.near_misses:
            return self._asked("copy", {"sentence": sentence}, self.sentence())
        words = sentence.split()  # a few words changed or lost
        for _ in range(self.rng.randint(1, 3)):
            words[self.rng.randrange(len(words))] = self.rng.choice(self.words)
        return self._asked("copy", {"sentence": sentence}, " ".join(words[: self.rng.randint(2, len(words) + 1)]))

    def asked_sentiment(self, right: bool) -> Document:
        """The sentiment task's prompt and an answer: the sad counterpart, or a sad sentence drawn at random."""
        positive, negative = self.rng.choice(self.sentiments)
        if not right:
            positive = self.rng.choice(self.tasks["sentiment"].rows)["sentence"]
            negative = self.rng.choice(self.sentiments)[1]
        return self._asked("sentiment", {"sentence": positive}, negative)
