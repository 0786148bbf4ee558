"""A critic of one's own: it marks the words of a summary that the document does not have (docs/critic.md).

    PYTHONPATH=examples/own_critic python -m pgsrm.run --config-dir examples/own_critic task=summary reward=critic critic=grounded

No model, no server: a word that a summary makes up is often wrong, and a number nearly always.
"""

import re
from collections.abc import Sequence, Set
from itertools import takewhile
from typing import Any

from pgsrm.critic import Critique
from pgsrm.rollout import Span

# A number with its separators, or letters with what an apostrophe joins.
WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:['’][^\W\d_]+)*")
# The possessive ending, and what a function word may be shortened to: "does not", "we have", "it is".
ENDING = re.compile(r"(?:n't|'(?:d|ll|m|re|s|ve))$")
# Words that any summary may have, whatever it is about.
FUNCTION_WORDS = """
a about above across after against ain't all almost along also although always am amid among an and another any anybody
anyone anything anywhere are around as at be because been before behind being below beneath beside besides between
beyond both but by can can't cannot could despite did do does doing down during e each either else ever every everybody
everyone everything everywhere except few for from further g had has have having he her here hers herself him himself
his how however i if in instead into is it its itself just less lest let like many may me might mine more most much
must my myself near neither no nobody none nor not nothing nowhere of off often on once one oneself only onto or other
ought our ours ourselves out over own past per quite rather same several shall shan't she should since so some somebody
someone something somewhere such than that the their them themselves then there these they this those though through
throughout thus till to together too toward towards under unless unlike until up upon us use used uses using versus
very via was we well were what whatever when whenever where whereas whereby wherever whether which whichever while who
whoever whom whomever whose why will with within without won't would yet you your yours yourself yourselves
"""
_FUNCTION = frozenset(FUNCTION_WORDS.split())


class GroundedCritic:
    """Marks the content words of a response that its prompt does not have, each as a span of its own.

    A number counts as there if the prompt has the same number, a word if the prompt has one with the same stem (`same_stem`).
    Function words are never marked, contracted ones neither. The words of the task's template are in the prompt too, so they count
    as there.

    label: what a marked word is; `reward.values` says what that is worth.
    """

    def __init__(self, label: str = "unsupported") -> None:
        self._label = label

    def __call__(self, *, prompts: Sequence[str], responses: Sequence[str], **_: Any) -> list[Critique]:
        """One critique per response, in their order; a response without such a word is clean."""
        return [self._critique(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]

    def _critique(self, prompt: str, response: str) -> Critique:
        document = {_plain(match[0]) for match in WORD.finditer(prompt)} - _FUNCTION
        spans = [
            Span(match.start(), match.end(), self._label)
            for match in WORD.finditer(response)
            if not is_grounded(_plain(match[0]), document)
        ]
        return Critique.of_spans(spans, response)


def is_grounded(word: str, document: Set[str]) -> bool:
    """Whether a word is a function word, or among the document's content words: a number exactly, others by their stem."""
    if word in document or word in _FUNCTION:
        return True
    return not word[0].isdigit() and any(same_stem(word, other) for other in document)


def same_stem(one: str, two: str) -> bool:
    """Whether two words differ in their endings at most: `adapt` and `adaptation`, `optimize` and `optimization`.

    They begin alike, with three letters or more: two thirds of the shorter word, and half of the longer one.
    """
    if one[:3] != two[:3]:
        return False
    shorter, longer = sorted((len(one), len(two)))
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, two, strict=False)))
    return alike >= 3 and 3 * alike >= 2 * shorter and 2 * alike >= longer


def _plain(word: str) -> str:
    """The word in the form in which words are compared: lower case, no `'s` or contracted word, no commas in a number."""
    word = word.casefold().replace(",", "").replace("’", "'")
    return word if word in _FUNCTION else ENDING.sub("", word)  # "can't", "won't" and the like are no word without it
