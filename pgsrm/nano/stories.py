"""Little stories with their summaries for `task=summary`, and summaries with errors whose places are known.

A story has a hero, a thing, a place and a deed that its summary tells, and one or two sentences that it does not tell.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

LABELS = ("irrelevant", "incoherent", "unsupported")
HEROES = (
    *((name, "she") for name in ("Anna", "Maria", "Lucy", "Emma", "Sarah", "Jane", "Rose", "Helen", "Clara", "Ruth")),
    *((name, "he") for name in ("Peter", "John", "Paul", "Henry", "Tom", "George", "David", "Adam", "Jack", "Simon")),
)
THINGS = (
    "bicycle",
    "lamp",
    "clock",
    "chair",
    "guitar",
    "basket",
    "kite",
    "coat",
    "book",
    "drum",
    "mirror",
    "boat",
    "table",
    "hat",
)
KINDS = ("red", "old", "blue", "small", "heavy", "green", "broken", "new", "wooden", "white")
PLACES = (
    "market",
    "school",
    "river",
    "station",
    "museum",
    "church",
    "beach",
    "farm",
    "library",
    "park",
    "bridge",
    "castle",
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
CARRIED = ("took", "brought", "carried", "moved")
DEEDS = (
    ("sold it to a {person}", "sold it to a {person}"),
    ("gave it to a {person}", "gave it to a {person}"),
    ("showed it to a {person}", "showed it to a {person}"),
    ("lost it there", "lost it"),
    ("forgot it there", "forgot it"),
    ("painted it there", "painted it"),
    ("met a {person} there", "met a {person}"),
    ("had lunch with a {person}", "had lunch with a {person}"),
)
PERSONS = ("farmer", "doctor", "sailor", "teacher", "baker", "painter", "nurse", "soldier", "singer", "tailor")
ASIDES = (
    "It was raining all day.",
    "The sun was shining.",
    "A dog was barking in the street.",
    "The shops were closed.",
    "It was very cold that morning.",
    "There was snow on the roofs.",
    "The children were still asleep.",
    "The wind was strong.",
    "Many birds were singing.",
    "The streets were full of cars.",
)


@dataclass(frozen=True)
class Story:
    """document: three to five sentences; reference: its summary; aside: a sentence of it that a summary has no place for."""

    document: str
    reference: str
    aside: str


@dataclass(frozen=True)
class Marked:
    """A summary, and (quote, label) for each of its errors, in its order."""

    text: str
    errors: tuple[tuple[str, str], ...]


def story(draw: random.Random) -> Story:
    """A story."""
    name, pronoun = draw.choice(HEROES)
    thing, kind, place, day = (draw.choice(words) for words in (THINGS, KINDS, PLACES, DAYS))
    person, carried = draw.choice(PERSONS), draw.choice(CARRIED)
    deed, told = (form.format(person=person) for form in draw.choice(DEEDS))
    he = pronoun.capitalize()
    asides = draw.sample(ASIDES, draw.randint(1, 2))
    sentences = [
        f"{name} had {_a(kind)} {thing}.",
        f"On {day} {pronoun} {carried} it to the {place}.",
        f"{he} {deed}.",
    ]
    for aside in asides:
        sentences.insert(draw.randint(1, len(sentences)), aside)
    return Story(" ".join(sentences), f"{name} {carried} {_a(kind)} {thing} to the {place} and {told}.", asides[0])


def stories(count: int, seed: int) -> list[Story]:
    """Different stories, the same ones for a seed."""
    draw, known = random.Random(seed), dict[str, Story]()
    while len(known) < count:
        made = story(draw)
        known.setdefault(made.document, made)
    return list(known.values())


def with_errors(made: Story, draw: random.Random, rate: float) -> Marked:
    """The story's summary, into which each of three kinds of error comes with the probability `rate`.

    unsupported: another name, thing, place or person than the story's. irrelevant: an aside. incoherent: words that are
    repeated, quoted with what they repeat.
    """
    words, errors = made.reference.rstrip(".").split(), list[tuple[int, str, str]]()
    if draw.random() < rate:
        place, word = draw.choice(list(_replaceable(words)))
        words[place] = draw.choice([other for other in word if other not in made.document])
        errors.append((place, words[place], "unsupported"))
    if draw.random() < rate:
        place = draw.randint(1, len(words) - 1)
        count = min(draw.randint(1, 2), len(words) - place)
        repeated = words[place : place + count]
        words[place + count : place + count] = repeated
        errors = [(at + count if at >= place + count else at, word, label) for at, word, label in errors]
        errors.append((place, " ".join(repeated * 2), "incoherent"))
    text = " ".join(words)
    if draw.random() < rate:
        aside = made.aside.rstrip(".")
        aside = aside[0].lower() + aside[1:]
        text += f" and {aside}"
        errors.append((len(words) + 1, aside, "irrelevant"))
    return Marked(f"{text}.", tuple((quote, label) for _, quote, label in sorted(errors)))


def _replaceable(words: list[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    kinds = (tuple(name for name, _ in HEROES), THINGS, PLACES, PERSONS, KINDS)
    for place, word in enumerate(words):
        for kind in kinds:
            if word in kind:
                yield place, kind


def _a(word: str) -> str:
    return f"an {word}" if word[0] in "aeio" else f"a {word}"
