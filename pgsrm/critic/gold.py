"""A critic of known quality: spans of people or of another critic, some of them made wrong at a known rate."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pgsrm.critic.critique import Critic, Critique, critiques_of
from pgsrm.critic.lexicon import LexiconCritic
from pgsrm.critic.marked import Marked, read_marked
from pgsrm.models.asking import Estimate, estimates_of
from pgsrm.rollout import Span
from pgsrm.util.digest import content_digest
from pgsrm.util.errors import UserError
from pgsrm.util.numbers import Fraction
from pgsrm.util.objects import attach_object, check_object, digest_of
from pgsrm.util.paths import local_path

WORD = re.compile(r"\w+(?:['’]\w+)*")
OPPOSITE = {"positive": "negative", "negative": "positive"}


class GoldCritic:
    """Marks what a file or another critic marks, but for a known share of the spans.

    critic: whose spans they are (None: the shipped word list's), unless there is a path. path: a file of marked texts
    (`pgsrm.critic.marked`); it answers about these texts alone.

    dropped, shifted, flipped: the rates at which a span is left out, marks another place, or has another label; at most one
    of them happens to a span. A shifted span covers as many words of the same response where none is marked. A flipped one is
    negative instead of positive or the reverse; of other labels it gets another one that occurs, in the file or in the same
    critique. A span that has no other place or label is left out.
    seed: what the errors are drawn from, with prompt and response: the same response gets the same errors, also in a resumed
    run.

    Raises UserError for rates that are none, for a file that is not one of marked texts, and, when it is asked, for a
    response that the file does not have.
    """

    def __init__(
        self,
        critic: Any = None,
        path: str | None = None,
        dropped: Fraction = 0.0,
        shifted: Fraction = 0.0,
        flipped: Fraction = 0.0,
        seed: int = 0,
    ) -> None:
        self._rates = {"dropped": dropped, "shifted": shifted, "flipped": flipped}
        _check_rates(self._rates)
        self._seed = seed
        self._file = None if path is None else local_path(path, "critic.path")
        self._critic: Critic | None = None if self._file else critic or LexiconCritic()
        self._marked = {} if self._file is None else _by_text(read_marked(self._file, "critic.path"), self._file)
        spans = [span for critique in self._marked.values() for span in critique.spans]
        self._labels = sorted({span.label for span in spans})
        if flipped and len(self._labels) == 1 and self._labels[0] not in OPPOSITE:
            raise UserError(
                f"critic.flipped={flipped}: critic.path={path} has no label but {self._labels[0]!r}, and none to change it "
                "into; set flipped=0"
            )

    @property
    def digest(self) -> str | None:
        """Hash of the file, or the other critic's own."""
        return digest_of(self._critic) if self._file is None else content_digest([self._file])

    @property
    def counts(self) -> Mapping[str, float]:
        """What the other critic has counted."""
        return getattr(self._critic, "counts", {})

    @property
    def budget(self) -> Any:
        """What the other critic's calls may cost and have cost, None where it has no such limits."""
        return getattr(self._critic, "budget", None)

    def estimates(self, prompts: Sequence[str], responses: Sequence[str]) -> list[Estimate]:
        """What asking the other critic about n texts takes."""
        return estimates_of(self._critic, prompts, responses)

    def check(self) -> None:
        """Have the other critic say what would keep it from working."""
        check_object(self._critic)

    def attach(self, policy: Any, codec: Any) -> None:
        """Hand policy and tokenizer to a critic that is the policy itself."""
        attach_object(self._critic, policy, codec)

    def __call__(
        self, *, prompts: Sequence[str], responses: Sequence[str], extrinsic: Sequence[float] | None
    ) -> list[Critique]:
        """One critique per response: the true one, with its errors."""
        if self._critic is None:
            true = [self._of_file(prompt, text) for prompt, text in zip(prompts, responses, strict=True)]
        else:
            true = critiques_of(self._critic, prompts, responses, extrinsic)
        return [
            self._with_errors(critique, prompt, text)
            for critique, prompt, text in zip(true, prompts, responses, strict=True)
        ]

    def _of_file(self, prompt: str, text: str) -> Critique:
        known = self._marked.get((prompt, text), self._marked.get((None, text)))
        if known is None:
            raise UserError(
                f"critic.path={self._file}: has no line with the response {text[:60]!r}"
                f"{f' to {prompt[:40]!r}' if prompt else ''}; a file answers about its own texts alone: ask about those, or "
                "set critic.path=null"
            )
        return known

    def _with_errors(self, critique: Critique, prompt: str, text: str) -> Critique:
        if not any(self._rates.values()) or not critique.spans:
            return critique
        draw = random.Random(_seed(self._seed, prompt, text))
        spans = self._corrupt(critique.spans, text, draw)
        made = Critique.of_spans(sorted(spans, key=lambda span: (span.start, span.end, span.label)), text)
        outcome = "parsed" if critique.lost else made.outcome
        return Critique(made.spans, outcome, made.reply, made.quotes + critique.lost, critique.lost)

    def _corrupt(self, spans: Sequence[Span], text: str, draw: random.Random) -> list[Span]:
        labels = self._labels or sorted({span.label for span in spans})
        taken = list(spans)
        corrupted: dict[Span, None] = {}
        for span in spans:
            wrong: Span | None = span
            error = self._error(draw.random())
            if error == "dropped":
                wrong = None
            elif error == "shifted":
                wrong = _elsewhere(span, text, taken, draw)
            elif error == "flipped":
                others = [OPPOSITE[span.label]] if span.label in OPPOSITE else [x for x in labels if x != span.label]
                wrong = Span(span.start, span.end, draw.choice(others)) if others else None
            if wrong is not None:
                corrupted[wrong] = None
                taken.append(wrong)
        return list(corrupted)

    def _error(self, drawn: float) -> str | None:
        """What happens to a span for which a number in [0, 1) was drawn."""
        for name, rate in self._rates.items():
            if drawn < rate:
                return name
            drawn -= rate
        return None


def _check_rates(rates: Mapping[str, float]) -> None:
    for name, rate in rates.items():
        if not 0 <= rate <= 1:
            raise UserError(f"critic.{name}={rate}: is no rate; give a number from 0 to 1")
    if sum(rates.values()) > 1 + 1e-9:
        given = " + ".join(f"critic.{name}={rate:g}" for name, rate in rates.items() if rate)
        raise UserError(f"{given}: more than 1 together, and a span has one error at most; lower them")


def _by_text(texts: Sequence[Marked], file: Any) -> dict[tuple[str | None, str], Critique]:
    """Prompt (None: any) and response -> what is marked; raises UserError where two lines say different things of one text."""
    first: dict[tuple[str | None, str], Marked] = {}
    for text in texts:
        before = first.setdefault((text.prompt, text.response), text)
        if before.critique != text.critique:
            raise UserError(
                f"critic.path={file}: lines {before.line} and {text.line} mark one text differently; remove one of them"
            )
    return {key: text.critique for key, text in first.items() if text.critique is not None}


def _elsewhere(span: Span, text: str, taken: Sequence[Span], draw: random.Random) -> Span | None:
    """The span on another place of the text, as long in words, that overlaps none taken; None where there is none."""
    words = [match.span() for match in WORD.finditer(text)]
    length = max(1, sum(start < span.end and end > span.start for start, end in words))
    places = [
        (start, words[first + length - 1][1]) for first, (start, _) in enumerate(words[: len(words) - length + 1])
    ]
    free = [(start, end) for start, end in places if not any(start < t.end and end > t.start for t in taken)]
    return Span(*draw.choice(free), span.label) if free else None


def _seed(seed: int, prompt: str, text: str) -> int:
    content = hashlib.sha256(json.dumps([seed, prompt, text]).encode())
    return int.from_bytes(content.digest()[:8], "big")
