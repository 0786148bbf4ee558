"""What a critic says about a response, and what a critic is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

from pgsrm.rollout import Span
from pgsrm.util.errors import UserError
from pgsrm.util.numbers import counted
from pgsrm.util.objects import name_of

Outcome = Literal["parsed", "clean", "unparsed"]
OUTCOMES: tuple[Outcome, ...] = ("parsed", "clean", "unparsed")


@dataclass(frozen=True)
class Critique:
    """One reply of a critic, read.

    spans: what it marked, as characters [start, end) of the response as sampled, each with a label (`positive`,
    `negative`, or what the critic's instruction asks for). outcome: `parsed`, the reply has the right form and marks
    something; `clean`, it has the right form and says that there is nothing to mark; `unparsed`, it has not the right form,
    and nothing is taken from it. reply: the text as the critic wrote it. quotes: how many quotes the reply has. lost: how
    many of them are not in the response, or not as often as the reply says.
    """

    spans: tuple[Span, ...]
    outcome: Outcome
    reply: str = ""
    quotes: int = 0
    lost: int = 0

    @classmethod
    def of_spans(cls, spans: Sequence[Span], response: str) -> Self:
        """The critique of one who marks spans and writes nothing: its reply is what they quote, each after its label."""
        reply = "; ".join(f"{span.label}: {response[span.start : span.end]}" for span in spans)
        return cls(tuple(spans), "parsed" if spans else "clean", reply, quotes=len(spans))


class Critic(Protocol):
    """A critic is called once for each batch of n responses, with keyword arguments alone.

    Three attributes are used where a critic has them; `check` and `digest` are those of `pgsrm.util.objects`.

    - `check()` is called before a run starts. It raises UserError for what would keep the critic from working.
    - `digest`, a string, is a hash of what decides its replies besides its config and source.
    - `attach(policy, codec)` is called once before the first update. A critic that is the policy itself needs it.

    A critic that can't be asked (a server that stays away) raises `pgsrm.models.server.ServerError`: a failed critic is
    never a text without spans.
    """

    def __call__(
        self, *, prompts: Sequence[str], responses: Sequence[str], extrinsic: Sequence[float] | None
    ) -> list[Critique]:
        """Critiques of n responses to n prompts, in their order.

        `extrinsic` are the n rewards of the task itself, for a critic whose instruction shows them.
        """
        ...


def critiques_of(
    critic: Critic, prompts: Sequence[str], responses: Sequence[str], extrinsic: Sequence[float] | None
) -> list[Critique]:
    """What a critic says of n responses to n prompts, with one critique for each that fits its response.

    Raises UserError where a critic, which may be anybody's code, returns something else.
    """
    given: Any = critic(prompts=prompts, responses=responses, extrinsic=extrinsic)
    name = name_of(critic)
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise UserError(f"critic={name}: returned {type(given).__name__}; return a list with one Critique per response")
    if len(given) != len(responses):
        raise UserError(
            f"critic={name}: {counted(len(given), 'critique')} for {counted(len(responses), 'response')}; "
            "return one for each"
        )
    for row, (critique, response) in enumerate(zip(given, responses, strict=True)):
        if problem := _problem(critique, len(response)):
            raise UserError(f"critic={name}: for response {row} it returned {problem}")
    return list(given)


def _problem(critique: Any, length: int) -> str:
    """Why this is no critique of a response of `length` characters, with the remedy; empty if it is one."""
    if not isinstance(critique, Critique):
        return (
            f"{type(critique).__name__}; return a pgsrm.critic.Critique, as Critique.of_spans(spans, response) makes it"
        )
    if critique.outcome not in OUTCOMES:
        return f"the outcome {critique.outcome!r}; choose one of {', '.join(OUTCOMES)}"
    if critique.spans and critique.outcome != "parsed":
        return f"spans with the outcome {critique.outcome!r}, which marks nothing; say 'parsed'"
    for span in critique.spans:
        if not isinstance(span, Span) or not isinstance(span.label, str):
            return f"{span!r} among its spans; return pgsrm.rollout.Span(start, end, label), the label a text"
        places = (span.start, span.end)
        if not all(isinstance(place, int) for place in places) or not 0 <= span.start <= span.end <= length:
            return f"a span from {span.start} to {span.end}, of {length} characters; count whole characters of the response"
    return ""
