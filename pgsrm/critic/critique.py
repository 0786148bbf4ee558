"""What a critic says about a response, and what a critic is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, Self

from pgsrm.rollout import Span

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
