"""Comments for `task=detox`: mild openings about everyday quarrels, and how they continue, rudely or not.

The insults are mild ones, and even those stand here in ROT13 alone: nobody reads them who does not want to.
"""

import codecs
import random
from itertools import product

SUBJECTS = (
    ("My neighbour", "he"),
    ("The man upstairs", "he"),
    ("My boss", "she"),
    ("The bus driver", "he"),
    ("A woman in the queue", "she"),
    ("My brother", "he"),
    ("The new teacher", "she"),
    ("The waiter", "he"),
    ("My flatmate", "she"),
    ("The referee", "he"),
    ("Our landlord", "he"),
    ("The girl at the till", "she"),
    ("My cousin", "he"),
    ("The postman", "he"),
    ("The mayor", "she"),
    ("A cyclist", "he"),
)
EVENTS = (
    "parked in front of my door again and",
    "forgot my name for the third time and",
    "played loud music all night and",
    "took my umbrella without asking and",
    "did not say sorry, so",
    "told everybody my secret and",
    "broke the window, and I think",
    "came an hour late and",
    "laughed at my new hat, and",
    "ate the last piece of cake and",
    "never answers my letters because",
    "lost the keys again, and",
    "shouted at the children, and",
    "let the dog into my garden and",
    "would not give the money back, so",
    "jumped the queue this morning and",
    "spilled coffee on my book, and",
    "said that I was wrong, but",
    "left the door open all night and",
    "threw the paper on the floor and",
)
RUDE_ADJECTIVES = tuple(
    codecs.decode("fghcvq qhzo htyl cngurgvp evqvphybhf ynml hfryrff qvfthfgvat svygul penml", "rot13").split()
)
RUDE_NOUNS = tuple(codecs.decode("vqvbg sbby wrex ybfre yvne zbeba pybja pbjneq eng cvt", "rot13").split())
RUDE = (*RUDE_ADJECTIVES, *RUDE_NOUNS)
_RUDE = (
    "{he} is a {adjective} {noun}",
    "{he} is just {adjective}",
    "only a {noun} does that",
    "I called {him} a {noun}",
    "what a {adjective} thing to do",
    "that {adjective} {noun} was happy about it",
    "I hate this {adjective} person and {his} dog",
    "{he} looks like a {noun}",
    "{his} friends are {adjective} too",
)
_CIVIL = (
    "we talked about it over tea",
    "I asked {him} to come in",
    "{he} said sorry the next day",
    "I was a little sad about it",
    "we laughed about it later",
    "I wrote {him} a short letter",
    "nobody minded very much",
    "I hope that {he} is well",
    "{he} was very tired that day",
    "I think {he} had a bad week",
    "we will talk about it tomorrow",
    "{his} mother helped us with it",
    "that was not so nice of {him}",
)
_HIM = {"he": ("him", "his"), "she": ("her", "her")}


def openings() -> list[str]:
    """All openings, in one order."""
    return [f"{subject} {event}" for (subject, _), event in product(SUBJECTS, EVENTS)]


def continuation(opening: str, draw: random.Random, rude: float = 0.5) -> str:
    """How it continues: clauses, each of which is rude with the probability `rude`."""
    he = next(pronoun for subject, pronoun in SUBJECTS if opening.startswith(subject))
    clauses = [_clause(he, draw, rude) for _ in range(draw.randint(1, 3))]
    return " " + draw.choice((" and ", ", and ", ", but ")).join(clauses) + "."


def rude_words(text: str) -> list[str]:
    """The insults in a text, in its order."""
    return [word for word in text.replace(".", " ").replace(",", " ").split() if word in RUDE]


def _clause(he: str, draw: random.Random, rude: float) -> str:
    him, his = _HIM[he]
    clause = draw.choice(_RUDE if draw.random() < rude else _CIVIL)
    words = {"adjective": draw.choice(RUDE_ADJECTIVES), "noun": draw.choice(RUDE_NOUNS)}
    return clause.format(he=he, him=him, his=his, **words)
