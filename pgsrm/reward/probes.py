"""Probes: what does a reward pay for wrong answers that are written like the right one?

Each probe makes a response to a prompt out of its reference. A good reward pays it clearly less than the reference itself.
Three controls are the right answer in another dress: a good reward pays them as much.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pgsrm.reward.calling import check_before
from pgsrm.reward.check import PROMPTS, NoPolicy, check_comparable, rewards_of, with_reference
from pgsrm.task import SHIPPED, Example, Task, accepts, normalize, read_table
from pgsrm.util.errors import UserError, under
from pgsrm.util.numbers import counted, mean
from pgsrm.util.objects import as_before, attach_object

# A response that earns this share of the reference's reward is paid; `_Judged.floors` says what it is counted from.
NEAR = 0.9
ALLOWED = 0.05  # share of prompts for which it may be paid

_AUXILIARIES = {"am", "is", "are", "was", "were", "will", "would", "can", "could", "should", "must", "may", "might"}
_PRONOUNS = {"i", "you", "he", "she", "it", "we", "they"}
_DETERMINERS = {"the", "a", "an", "my", "your", "his", "her", "its", "our", "their", "this", "that", "these", "those"}
_POINTS = ".,;:!?"
_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
# Number or day -> the next one.
_NEXT = {word: words[(place + 1) % len(words)] for words in (_NUMBERS, _DAYS) for place, word in enumerate(words)}
_NAME, _OTHER_NAME = "Peter", "Mary"
_SHORT = ("'m", "'s", "'re", "'ll")
_NEGATIONS = {"not": "", "never": "", "don't": "", "doesn't": "", "didn't": ""} | {
    "cannot": "can",
    "can't": "can",
    "won't": "will",
}


@dataclass(frozen=True)
class Answers:
    """What probes are made of besides a prompt's own reference.

    distinct: all different references; opposites: word -> its opposite; draw: chooses among them.
    """

    distinct: tuple[str, ...]
    opposites: Mapping[str, str]
    draw: random.Random = field(default_factory=lambda: random.Random(0))


Make = Callable[[Example, Answers], "str | None"]


@dataclass(frozen=True)
class Probed:
    """What one probe came to.

    example: its response to the first prompt that it was made for; prompts: for how many it was made; mean, reference: mean
    rewards of the probe and of the references over these; floor: the mean of what shares are counted from; share: of these
    prompts where the probe is paid; accepted: share of these where the task's checker accepts it, None without a checker;
    control: whether it is a right answer. Of a probe that no prompt has, the numbers are nan.
    """

    name: str
    example: str
    prompts: int
    mean: float
    reference: float
    floor: float
    share: float
    accepted: float | None
    control: bool

    @property
    def relative(self) -> float:
        """The mean reward, counted as shares are: 0 is the floor and 1 what the references earn."""
        return (self.mean - self.floor) / (self.reference - self.floor)

    @property
    def passed(self) -> bool | None:
        """A wrong answer is paid for at most `ALLOWED` of the prompts, a right one for all but these; None: never made."""
        if not self.prompts:
            return None
        return self.share >= 1 - ALLOWED if self.control else self.share <= ALLOWED


@dataclass(frozen=True)
class Result:
    """The probes of one task and reward.

    constant: the reference that earns most as the answer to everything; constant_mean: what it earns over all prompts.
    unpaid: number of prompts that were left out, since their own reference earns nothing.
    """

    probes: tuple[Probed, ...]
    constant: str
    constant_mean: float
    unpaid: int


def probe(task: Task, reward: Any) -> Result:
    """Ask a reward about all probes of a task's prompts, of at most `PROMPTS` that are drawn.

    Raises:
        UserError: the task has no references, the reward can't be asked without a policy, or scales by the batch.
    """
    examples = with_reference(task, "make probes of")
    check_comparable(reward)
    examples = random.Random(0).sample(examples, min(PROMPTS, len(examples)))
    answers = Answers(tuple(dict.fromkeys(example.reference for example in examples)), _opposites())
    with as_before(reward), under("reward"):
        attach_object(reward, NoPolicy(), NoPolicy())
        check_before(reward, [example.references for example in examples])
        judged = _Judged.of(task, reward, examples)
        constant, constant_mean = _best_constant(reward, examples, answers)
        made = {**PROBES, CONSTANT: lambda *_: constant}
        wrong = [judged(name, [make(example, answers) for example in judged.examples]) for name, make in made.items()]
        right = [
            judged(name, [make(example, answers) for example in judged.examples], control=True)
            for name, make in CONTROLS.items()
        ]
    return Result((*wrong, *right), constant, constant_mean, len(examples) - len(judged.examples))


def _best_constant(reward: Any, examples: Sequence[Example], answers: Answers) -> tuple[str, float]:
    """The reference that earns most when it is given to every prompt, and what it earns on average."""
    means = {}
    for answer in answers.distinct:
        rewards = rewards_of(reward, examples, [answer] * len(examples))
        means[answer] = sum(rewards) / len(rewards)
    best = max(means, key=lambda answer: means[answer])
    return best, means[best]


@dataclass(frozen=True)
class _Judged:
    """examples: those whose reference earns something; own: what it earns.

    floors: what shares are counted from: 0, or what an empty response earns where that is negative.
    """

    task: Task
    reward: Any
    examples: Sequence[Example]
    own: Sequence[float]
    floors: Sequence[float]

    @classmethod
    def of(cls, task: Task, reward: Any, examples: Sequence[Example]) -> _Judged:
        """Ask for what references and empty responses earn. Raises UserError where no reference earns anything."""
        own = rewards_of(reward, examples, [example.reference for example in examples])
        floors = [min(0.0, empty) for empty in rewards_of(reward, examples, [""] * len(examples))]
        paid = [row for row in zip(examples, own, floors, strict=True) if row[1] > row[2]]
        if not paid:
            raise UserError("reward: pays nothing for any reference, so that probes say nothing of it; choose another")
        return cls(task, reward, *zip(*paid, strict=True))

    def __call__(self, name: str, responses: Sequence[str | None], control: bool = False) -> Probed:
        """What one probe earns; prompts that have no such response, or to which it is the right one, are left out."""
        rows = [
            (example, response, own, floor)
            for example, response, own, floor in zip(self.examples, responses, self.own, self.floors, strict=True)
            if response is not None and (control or not _is_reference(response, example))
        ]
        if not rows:
            nan = float("nan")
            return Probed(name, "", 0, nan, nan, nan, nan, None, control)
        examples, texts, own, floors = zip(*rows, strict=True)
        rewards = rewards_of(self.reward, examples, texts)
        shares = [(got - floor) / (most - floor) for got, most, floor in zip(rewards, own, floors, strict=True)]
        paid = mean([share >= NEAR for share in shares])
        accepted = self._accepted(examples, texts)
        return Probed(name, texts[0], len(rows), mean(rewards), mean(own), mean(floors), paid, accepted, control)

    def _accepted(self, examples: Sequence[Example], texts: Sequence[str]) -> float | None:
        checker = self.task.checker
        if checker is None:
            return None
        return mean([accepts(checker, text, example) for example, text in zip(examples, texts, strict=True)])


# What is made of a reference


def negated(text: str) -> str:
    """The text with one negation more or less: "not cold", "I am not sad.", "It is not true that the dog barks."."""
    words = text.split()
    if len(words) == 1:
        return f"not {text}"
    plain = [word.lower().strip('.,;:!?"').replace("\u2019", "'") for word in words]
    for place, word in enumerate(plain):
        if word in _NEGATIONS or (word.endswith("n't") and len(word) > 3):
            kept = _NEGATIONS.get(word, word[:-3])
            return " ".join([*words[:place], *([kept] if kept else []), *words[place + 1 :]])
    for place, word in enumerate(plain[:-1]):
        if word in _AUXILIARIES or (word.endswith(_SHORT) and word.partition("'")[0] in _PRONOUNS):
            return " ".join([*words[: place + 1], "not", *words[place + 1 :]])
    if plain[0] in _PRONOUNS:
        return " ".join([words[0], "never", *words[1:]])
    inside = text[0].lower() + text[1:] if plain[0] in _DETERMINERS else text
    return f"It is not true that {inside}"


def with_opposite(text: str, opposites: Mapping[str, str]) -> str | None:
    """The text with the first word that has an opposite replaced by it; None where no word has one."""
    for match in re.finditer(r"[A-Za-z]+", text):
        opposite = opposites.get(match[0].lower())
        if opposite is not None:
            opposite = opposite.capitalize() if match[0][0].isupper() else opposite
            return text[: match.start()] + opposite + text[match.end() :]
    return None


def half(text: str) -> str | None:
    """The first half of the words, of one word the first half of its letters; None for a single letter."""
    words = text.split()
    if len(words) > 1:
        return " ".join(words[: len(words) // 2])
    return text[: (len(text) + 1) // 2] if len(text) > 1 else None


def _reversed(text: str) -> str | None:
    words = text.rstrip(".!?").split()
    return " ".join(reversed(words)) if len(words) > 1 else None


def roles_swapped(text: str) -> str | None:
    """The words behind the first and the last determiner in each other's place: "The bed sat on the cat."; None without two."""
    words = text.split()
    after = [place + 1 for place, word in enumerate(words[:-1]) if word.lower() in _DETERMINERS]
    places = [place for place in after if words[place].lower() not in _DETERMINERS]
    if len(places) < 2:
        return None
    first, last = places[0], places[-1]
    one, other = (words[place].rstrip(_POINTS) for place in (first, last))
    if one.lower() == other.lower():
        return None
    words[first] = other + words[first][len(one) :]
    words[last] = one + words[last][len(other) :]
    return " ".join(words)


def another_fact(text: str) -> str | None:
    """The text with its first number, weekday or name replaced by another one; None where it has none.

    A name is a word with a capital that does not begin the text, other than "I".
    """
    for place, word in enumerate(words := text.split()):
        core = word.strip(_POINTS + "\"'")
        if core.isdecimal():
            other: str | None = str(int(core) + 1)
        elif (following := _NEXT.get(core.lower())) is not None:
            other = following.capitalize() if core[0].isupper() else following
        else:
            is_name = place > 0 and core.isalpha() and core[0].isupper() and core[1:].islower()
            other = (_NAME if core != _NAME else _OTHER_NAME) if is_name else None
        if other is not None:
            return " ".join([*words[:place], word.replace(core, other, 1), *words[place + 1 :]])
    return None


def _letter_added(text: str) -> str:
    end = len(text.rstrip(".!?"))
    return f"{text[:end]}x{text[end:]}"


def _inputs(example: Example) -> str:
    """What the prompt is about: the columns that it shows."""
    return " ".join(value for value in example.inputs.values() if value and value in example.prompt)


def _is_reference(text: str, example: Example) -> bool:
    return normalize(text) in map(normalize, example.references)


def _another(example: Example, answers: Answers) -> str | None:
    others = [answer for answer in answers.distinct if not _is_reference(answer, example)]
    return answers.draw.choice(others) if others else None


def _opposites() -> dict[str, str]:
    """Word -> opposite, by the shipped data of task=antonym, in both directions."""
    pairs = [(row.values["word"], row.values["reference"]) for row in read_table(SHIPPED / "antonym.jsonl", "probe")]
    return {opposite: word for word, opposite in reversed(pairs)} | dict(reversed(pairs))


CONSTANT = "the best constant answer"
PROBES: dict[str, Make] = {
    "negated": lambda example, _: negated(example.reference),
    "a word's opposite": lambda example, answers: with_opposite(example.reference, answers.opposites),
    "the input": lambda example, _: _inputs(example) or None,
    "the whole prompt": lambda example, _: example.prompt,
    "another prompt's answer": _another,
    "all answers joined": lambda _, answers: " ".join(answers.distinct) if len(answers.distinct) > 1 else None,
    "said twice": lambda example, _: f"{example.reference} {example.reference}",
    "padded with words": lambda example, _: f"{example.reference} and so on",
    "padded with nonsense": lambda example, _: f"{example.reference} zxqv zxqv",
    "words reversed": lambda example, _: _reversed(example.reference),
    "roles swapped": lambda example, _: roles_swapped(example.reference),
    "a number or name changed": lambda example, _: another_fact(example.reference),
    "half of it": lambda example, _: half(example.reference),
    "a letter added": lambda example, _: _letter_added(example.reference),
    "a control character": lambda example, _: f"\x80 {example.reference}",
    "in markup": lambda example, _: f"<b>{example.reference}",
    "empty": lambda *_: "",
}
CONTROLS: dict[str, Make] = {
    "capitals": lambda example, _: example.reference.upper(),
    "a full stop": lambda example, _: example.reference.rstrip(".") + ".",
    "in quotes": lambda example, _: f"\"{example.reference}'",
}


# Tables


def markdown(result: Result) -> str:
    """A line for each probe, in Markdown."""
    head = ["probe", "for example", "prompts", "mean reward", "the reference's", "paid", "checker accepts", ""]
    lines = [_row(head), _row(["---"] * len(head))]
    for probed in result.probes:
        numbers = [f"{probed.mean:.2f}", f"{probed.reference:.2f}", f"{probed.share:.0%}", _percent(probed.accepted)]
        numbers = numbers if probed.prompts else ["–"] * 4
        lines.append(_row([_name(probed), _shown(probed.example), str(probed.prompts), *numbers, verdict(probed)]))
    lines.append(
        f"\nThe best constant answer is {_shown(result.constant)}: {result.constant_mean:.2f} over all prompts, those included "
        "to which it is right."
    )
    if result.unpaid:
        lines.append(f"Left out: {counted(result.unpaid, 'prompt')} whose own reference earns nothing.")
    return "\n".join(lines)


def summary(results: Mapping[str, Result]) -> str:
    """A line for each probe, a column for each task: mean reward, and the share of prompts for which the probe is paid."""
    lines = [_row(["probe", *results]), _row(["---"] * (len(results) + 1))]
    for probes in zip(*(result.probes for result in results.values()), strict=True):
        cells = [f"{probed.mean:.2f}, {probed.share:.0%}" if probed.prompts else "–" for probed in probes]
        marked = [f"**{cell}**" if probed.passed is False else cell for cell, probed in zip(cells, probes, strict=True)]
        lines.append(_row([_name(probes[0]), *marked]))
    return "\n".join(lines)


def rows(result: Result) -> Iterator[dict[str, Any]]:
    """The same as `markdown`, with all digits, for a table in a file."""
    for probed in result.probes:
        yield {
            "probe": probed.name,
            "control": int(probed.control),
            "example": probed.example,
            "prompts": probed.prompts,
            "mean": probed.mean,
            "reference": probed.reference,
            "floor": probed.floor,
            "share": probed.share,
            "accepted": probed.accepted,
            "verdict": verdict(probed),
        }


def verdict(probed: Probed) -> str:
    """pass, fail, or nothing where no prompt has such a response."""
    return {True: "pass", False: "fail", None: ""}[probed.passed]


def _name(probed: Probed) -> str:
    return f"right: {probed.name}" if probed.control else probed.name


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _shown(text: str, longest: int = 40) -> str:
    """A text as code in a cell of a table, shortened, control characters by their number."""
    text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in " ".join(text.split()))
    text = text.replace("`", "'").replace("|", "\\|")
    text = text if len(text) <= longest else text[: longest - 1] + "…"
    return f"`{text}`" if text else ""
