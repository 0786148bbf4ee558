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
# Words that any summary may have, whatever it is about.
FUNCTION_WORDS = """
a about above across after against all almost along also although always among an and another any are around as at be
because been before being below between both but by can could did do does doing down during e each either else ever
every few for from further g had has have having he her here hers him his how however i if in instead into is it its
itself just less like many may me might more most much must my neither no nor not of off often on once one only onto
or other our ours out over own per quite rather same several shall she should since so some such than that the their
them then there these they this those through thus to together too toward towards under until up upon us use used uses
using very via was we well were what when where whether which while who whom whose why will with within without would
yet you your
"""
_FUNCTION = frozenset(FUNCTION_WORDS.split())


class GroundedCritic:
    """Marks the content words of a response that its prompt does not have, each as a span of its own.

    A number counts as there if the prompt has the same number, a word if the prompt has one with the same stem (`same_stem`).
    Function words are never marked. The words of the task's template are in the prompt too, so they count as there.

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
    """The word in the form in which words are compared: lower case, no possessive ending, no commas in a number."""
    return word.casefold().replace(",", "").replace("’", "'").removesuffix("'s")
