"""Asks a critic about many texts, apart from a run, and keeps what it says line by line."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pgsrm.critic.critique import OUTCOMES, Critic, Critique, critiques_of
from pgsrm.critic.marked import Marked, as_line, text_of_line
from pgsrm.models.asking import estimates_of
from pgsrm.record.lines import Lines
from pgsrm.record.progress import CountProgress
from pgsrm.util.errors import UserError
from pgsrm.util.numbers import counted

BATCH = 64  # texts that a critic is given at a time


@dataclass(frozen=True)
class Batch:
    """Some texts, what the critic says of each, and the seconds that it took."""

    texts: list[Marked]
    critiques: list[Critique]
    seconds: float


def in_batches(critic: Critic, texts: Sequence[Marked], size: int = BATCH) -> Iterator[Batch]:
    """The critiques of n texts, `size` texts at a time; a text without a prompt is asked about with an empty one."""
    for start in range(0, len(texts), size):
        some = list(texts[start : start + size])
        started = time.perf_counter()
        prompts, responses = [text.prompt or "" for text in some], [text.response for text in some]
        critiques = critiques_of(critic, prompts, responses, None)
        yield Batch(some, critiques, time.perf_counter() - started)


def ask(critic: Critic, texts: Sequence[Marked], out: Path, identity: str, size: int = BATCH) -> list[Marked]:
    """What the critic says of each text, in their order; `out` (JSONL) keeps it, and what it has is not asked again.

    identity: hash of what decides the critic's replies, kept in each line. Raises UserError where `out` has another critic's
    replies, and for what the critic itself raises; everything before that is kept.
    """
    with Lines(out, "out", durable=False) as lines:
        known = _known(lines, out, identity)
        wanted = {_key(text): text for text in texts}
        missing = [text for key, text in wanted.items() if key not in known]
        if missing:
            print(_announce(critic, missing, len(wanted)), flush=True)
        with CountProgress("critiques", len(wanted), len(wanted) - len(missing)) as progress:
            for batch in in_batches(critic, missing, size):
                made = [replace(text, critique=one) for text, one in zip(batch.texts, batch.critiques, strict=True)]
                lines.add(*({**as_line(text), "critic": identity} for text in made))
                known |= {_key(text): text for text in made}
                progress.show(sum(key in known for key in wanted))
    return [replace(text, critique=known[_key(text)].critique) for text in texts]


def summary(texts: Sequence[Marked]) -> str:
    """One line on how the critic answered."""
    critiques = [text.critique for text in texts if text.critique is not None]
    outcomes = Counter(critique.outcome for critique in critiques)
    quotes, lost = (sum(getattr(critique, name) for critique in critiques) for name in ("quotes", "lost"))
    spans = sum(len(critique.spans) for critique in critiques) / max(1, len(critiques))
    counts = ", ".join(f"{outcomes[outcome]} {outcome}" for outcome in OUTCOMES)
    lost_of = f"{lost} of {counted(quotes, 'quote')} not in their text"
    return f"{counted(len(critiques), 'text')}: {counts}; {lost_of}; {spans:.2f} spans a text"


def _key(text: Marked) -> tuple[str, str]:
    return text.prompt or "", text.response


def _known(lines: Lines, out: Path, identity: str) -> dict[tuple[str, str], Marked]:
    known = {}
    for number, line in enumerate(lines.read("response", "spans", "critic"), 1):
        if line["critic"] != identity:
            problem = f"line {number} is of another critic, or of this one with other settings"
            raise UserError(f"out={out}: {problem}; name another file, or remove this one")
        text = text_of_line(line, out, "out", number)
        known[_key(text)] = text
    return known


def _announce(critic: Critic, missing: Sequence[Marked], total: int) -> str:
    """What is about to be asked, with the critic's own estimate where it makes one."""
    so_far = (
        f"{total - len(missing)} of {counted(total, 'text')} were asked about before; " if len(missing) < total else ""
    )
    estimates = estimates_of(critic, [text.prompt or "" for text in missing], [text.response for text in missing])
    return so_far + ("; ".join(map(str, estimates)) or f"{len(missing)} to ask about")
