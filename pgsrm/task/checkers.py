"""Checkers: is a response right? Called as checker(response, reference, inputs) -> bool.

Two attributes are used where a checker has them (`pgsrm.util.objects` has what holds without): `check(examples)`, called before
a run starts, raises UserError for what would keep it from working; `digest`, a string, is a hash of what decides its answers
besides its config and its source, which are part of what identifies a run anyway.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from pgsrm.task.lexicon import (
    FIRST_PERSON,
    NEGATIONS,
    NEGATIVE,
    NEGATIVE_PAIRS,
    NO_TOPIC,
    POSITIVE,
    POSITIVE_PAIRS,
)
from pgsrm.util.text import nfc, without_invisible, words_of

# White space, punctuation that opens or ends a sentence, straight and curly quotes, guillemets, brackets.
_SURROUNDING = " \t\n\r\f\v\u00a0" + ".,;:!?\u2026" + "\"'`\u201c\u201d\u201e\u2018\u2019\u00ab\u00bb" + "()[]{}"
_NEGATION_REACH = 3  # words: "not a very happy day"


def normalize(text: str) -> str:
    """The form in which two texts are compared.

    Case-folded, in Unicode's form NFC (an accented letter is one character), without invisible characters (soft hyphens,
    zero-width spaces); runs of white space become one space; white space, quotes, brackets and . , ; : ! ? … are
    stripped from both ends. Punctuation inside, hyphens and signs (-5, 5 %) stay. A text of punctuation alone
    is kept as it is.
    """
    text = " ".join(_folded(text).split())
    return text.strip(_SURROUNDING) or text


class NormalizedEquality:
    """Right when response and reference are equal after `normalize` and not empty.

    The paper's "String equality" for the word tasks, and what the released code checks sentiment by
    (docs/fidelity.md, D8).
    """

    def __call__(self, response: str, reference: str, inputs: Mapping[str, str]) -> bool:
        """Whether response and reference are equal after `normalize`; an empty response is never right."""
        return normalize(response) == normalize(reference) != ""


class SentimentInversion:
    """A rule-based template check for "rewrite this as sad" (the paper's "template checks", Table 2).

    Right when all four hold:
      1. Rewritten: the response is not the input (after `normalize`).
      2. First person kept: it has one of I, me, my, we, … (lexicon.FIRST_PERSON), if the input has.
      3. Topic kept: it shares a topic word, by stem, with the input or the reference. Topic words are those
         left without function words, general words (new, every, get, …) and words of feeling. Where neither
         sentence has one ("I feel great."), the response must not bring one in. Where the reference has none
         ("I feel like a stranger here."), the response needs none.
      4. Polarity turned: its polarity is negative and lower than the input's. Polarity is the number of
         positive minus that of negative words (lexicon.py); a negation (not, no, never, stop, …) up to three
         words before one turns it; a negation that turns none counts as one negative ("I have no friends"). A
         negative word with "of" behind it turns a positive one in the same reach ("starved of love").

    It reads words, not grammar: "I job sad" passes for "I love my job."

    column: the input that holds the sentence.
    """

    def __init__(self, column: str = "sentence") -> None:
        self.column = column

    def __call__(self, response: str, reference: str, inputs: Mapping[str, str]) -> bool:
        """Whether the response meets all four conditions; `inputs` must have the column with the sentence."""
        sentence = inputs[self.column]
        if normalize(response) == normalize(sentence):
            return False
        return (
            (is_first_person(response) or not is_first_person(sentence))
            and _keeps_topic(response, sentence, reference)
            and polarity(response) < min(0, polarity(sentence))
        )


def is_first_person(text: str) -> bool:
    """Whether the text has a pronoun of the first person."""
    return not FIRST_PERSON.isdisjoint(_words(text))


def topic_words(text: str) -> frozenset[str]:
    """Stems of the words that say what a text is about, not how one feels about it."""
    return frozenset(stem(word) for word in _words(text) if word not in NO_TOPIC and not _word_polarity(word))


def polarity(text: str) -> int:
    """Positive minus negative words, negations applied (rule 4 of SentimentInversion)."""
    words = _words(text)
    total = 0
    unused = {place for place, word in enumerate(words) if word in NEGATIONS}
    for place, word in enumerate(words):
        pair = (word, words[place + 1]) if place + 1 < len(words) else (word, "")
        if pair in POSITIVE_PAIRS:  # "I cannot wait" is an idiom: its negation is spent
            total += 1
            unused.discard(place)
            continue
        value = -1 if pair in NEGATIVE_PAIRS else _word_polarity(word)
        if value:
            before = range(max(0, place - _NEGATION_REACH), place)
            negations = [position for position in before if words[position] in NEGATIONS]
            turned = len(negations) + (value > 0 and any(_lacks(words, position) for position in before))
            total += value * (-1) ** turned
            unused.difference_update(negations)
    return total - len(unused)


@lru_cache(maxsize=4096)
def stem(word: str) -> str:
    """A word without -s, -es, -ed, -ing, a doubled last letter or a silent e.

    Light, to match forms of one word: stems need not be words (loved -> lov, running -> run).
    """
    if word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            word = word[: -len(ending)]
            break
    if len(word) > 3 and word[-1] == word[-2]:
        word = word[:-1]
    return word.removesuffix("e")


def _lacks(words: Sequence[str], place: int) -> bool:
    """Whether a word says that there is none of what follows: "starved of", "robbed of", "tired of"."""
    return _word_polarity(words[place]) < 0 and words[place + 1 : place + 2] == ["of"]


def _keeps_topic(response: str, sentence: str, reference: str) -> bool:
    topic, own = topic_words(sentence) | topic_words(reference), topic_words(response)
    needs_none = not topic or (reference != "" and not topic_words(reference))
    return bool(topic & own) or (needs_none and not own)


def _folded(text: str) -> str:
    return text.lower() if text.isascii() else nfc(without_invisible(nfc(text)).casefold())


def _words(text: str) -> list[str]:
    """Words, short forms written out: "I can't" is i, cannot."""
    text = _folded(text).replace("\u2019", "'").replace("\u02bc", "'")
    text = text.replace("can't", "cannot").replace("won't", "will not").replace("n't", " not")
    return words_of(re.sub(r"'(m|s|re|ve|ll|d)\b", " ", text).replace("'", " "))


@lru_cache(maxsize=4096)
def _word_polarity(word: str) -> int:
    """+1, -1 or 0: the word itself, else its stem, in the lexicon."""
    if word in POSITIVE or word in NEGATIVE:
        return (word in POSITIVE) - (word in NEGATIVE)
    return (stem(word) in _POSITIVE_STEMS) - (stem(word) in _NEGATIVE_STEMS)


_POSITIVE_STEMS = frozenset(stem(word) for word in POSITIVE)
_NEGATIVE_STEMS = frozenset(stem(word) for word in NEGATIVE)
