"""What a parent's answers are like as a whole: each may pass as a reference, and all of them say that nobody answered.

A weak parent repeats what it was asked about, or gives one answer to everything. Both are right for some tasks (copy repeats all,
color has many a brown), so where the data has references of its own, theirs are what a parent is held against.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pgsrm.task import normalize
from pgsrm.util.numbers import counted

# Shares of all prompts, beyond those that the data's own references have (0 where it has none).
MOST_REPEATED = 0.2  # answers that are an input
MOST_EQUAL = 0.3  # answers that are the commonest one
LEAST_DISTINCT = 0.5  # distinct answers, as a share of how many the data's own references have
_FEW = 5  # prompts below which shares say nothing
_SHOWN = 3  # commonest answers


@dataclass(frozen=True)
class Summary:
    """Answers to so many prompts, compared as `normalize` does: how many differ, are an input, and the commonest with counts."""

    prompts: int
    distinct: int
    repeated: int
    commonest: tuple[tuple[str, int], ...]

    @property
    def line(self) -> str:
        """The numbers in one line."""
        common = ", ".join(f"{answer!r} {count}" for answer, count in self.commonest)
        return (
            f"answers: {self.prompts}, distinct {self.distinct} ({self.distinct / self.prompts:.0%}), "
            f"equal to an input {self.repeated} ({self.repeated / self.prompts:.0%}), commonest {common}"
        )


def summarise(answers: Iterable[tuple[str, Iterable[str]]]) -> Summary:
    """The summary of references and their prompts' inputs."""
    pairs = [(normalize(reference), {normalize(value) for value in inputs}) for reference, inputs in answers]
    counts = Counter(reference for reference, _ in pairs)
    repeated = sum(reference in inputs for reference, inputs in pairs)
    return Summary(len(pairs), len(counts), repeated, tuple(counts.most_common(_SHOWN)))


def doubts(made: Summary, own: Summary | None) -> Sequence[str]:
    """What looks as if the parent were none, a line each. own: the summary of the data's own references, None without any."""
    if made.prompts < _FEW and made.distinct > 1:
        return []
    if made.prompts == 1:
        return []
    answer, count = made.commonest[0]
    repeated = made.repeated / made.prompts
    usual_repeated = own.repeated / own.prompts if own else 0.0
    usual_equal = own.commonest[0][1] / own.prompts if own else 0.0
    lines = []
    if repeated > usual_repeated + MOST_REPEATED:
        lines.append(f"{repeated:.0%} of the answers repeat their input{_usual(usual_repeated, own)}")
    if made.distinct == 1 < made.prompts:
        lines.append(f"all {made.prompts} answers are {answer!r}")
    elif count / made.prompts > usual_equal + MOST_EQUAL:
        lines.append(f"{count / made.prompts:.0%} of the answers are {answer!r}{_usual(usual_equal, own)}")
    elif own is not None and made.distinct / made.prompts < LEAST_DISTINCT * own.distinct / own.prompts:
        lines.append(
            f"{counted(made.distinct, 'distinct answer')} to {counted(made.prompts, 'prompt')}, the data's own references "
            f"have {own.distinct}"
        )
    return [f"{line}: look at them before a run is rewarded for that" for line in lines]


def _usual(share: float, own: Summary | None) -> str:
    return f", {share:.0%} in the data's own references" if own else ""
