"""What a policy answered in the course of a run: a few of samples.jsonl, from the first to the last."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from pgsrm.analysis.runs import Run

MOMENTS = 5
EACH = 3
KEYS = ("update", "prompt", "reference", "response", "reward")
SEPARATORS = (" ", "'", '"')


@dataclass(frozen=True)
class Samples:
    """`rows` of update, prompt, reference, response, reward, exact_match and `pieces`; the prompts without what all share."""

    run: Run
    template: str
    rows: Sequence[dict[str, Any]]

    @property
    def has_references(self) -> bool:
        """Whether any of the prompts has a reference."""
        return any(row["reference"] for row in self.rows)

    @property
    def has_marks(self) -> bool:
        """Whether any of the responses is known to be right or wrong."""
        return any(row["exact_match"] is not None for row in self.rows)

    @property
    def has_spans(self) -> bool:
        """Whether anything is marked in the responses."""
        return any(piece.span for row in self.rows for piece in row["pieces"])


def sample_rows(run: Run) -> list[dict[str, Any]]:
    """The lines of samples.jsonl that can be read; none where the run has no such file."""
    import msgspec

    try:
        lines = (run.folder / "samples.jsonl").read_bytes().splitlines()
    except OSError:
        return []
    rows = []
    for line in lines:
        try:
            row = msgspec.json.decode(line)
            known = {key: row[key] for key in KEYS}
            match = row.get("exact_match")  # None where nothing is right or wrong
            rows.append({**known, "update": int(row["update"]), "exact_match": match, "pieces": pieces(row)})
        except (msgspec.DecodeError, KeyError, TypeError, ValueError):
            continue  # half-written, or another schema's
    return rows


def as_text(reference: Any) -> str:
    """A sample's reference, or its several references, in one line."""
    return " | ".join(map(str, reference)) if isinstance(reference, list) else str(reference)


def read_samples(run: Run) -> Samples | None:
    """Up to `EACH` samples at each of `MOMENTS` updates, evenly spaced in time; None where the run has none."""
    by_update: dict[int, list[dict[str, Any]]] = {}
    for row in sample_rows(run):
        by_update.setdefault(row["update"], []).append(row)
    if not by_update:
        return None
    updates = sorted(by_update)
    moments = sorted({updates[round(i * (len(updates) - 1) / (MOMENTS - 1))] for i in range(MOMENTS)})
    prompts = [str(row["prompt"]) for update in updates for row in by_update[update]]
    before, after = shared_ends(prompts)
    rows = []
    for update in moments:
        for row in by_update[update][:EACH]:
            prompt = str(row["prompt"])
            cut = {"prompt": prompt[len(before) : len(prompt) - len(after)], "reference": as_text(row["reference"])}
            rows.append({**row, **cut})
    return Samples(run, f"{before}…{after}", rows)


@dataclass(frozen=True)
class Piece:
    """A part of a response that lies within one token and has the same spans throughout, with its token's reward.

    `reward` is None where the reward is for the whole response. `strength` is its size as a share of the response's largest,
    in tenths. `last` says whether its token ends with it. `marks` are the spans that hold it, as "positive +0.5"; `span` says
    whether the first of them is worth more than 0 (`good`), less (`bad`) or neither (`plain`), "" for no span; `ended` are the
    labels of those that end with it.
    """

    text: str
    reward: float | None = None
    strength: int = 0
    marks: str = ""
    last: bool = True
    span: str = ""
    ended: str = ""

    @property
    def title(self) -> str:
        """What the report shows over the piece: its reward, and the labels of its spans."""
        told = "" if self.reward is None else f"reward {self.reward:+.3g}"
        return "; ".join(part for part in (told, self.marks) if part)


def pieces(row: Mapping[str, Any]) -> list[Piece]:
    """The response of a sample cut where its tokens and its spans begin and end; [] where it has neither.

    A token that ends the response has no characters, and is shown as ⏎. A token that wrote only later bytes of a character
    has none either, and an empty text.
    """
    rewards, offsets, response = row.get("token_rewards") or [], row.get("offsets"), str(row["response"])
    spans = _spans(row, len(response))
    if not rewards or not isinstance(offsets, list) or len(rewards) != len(offsets):
        rewards, offsets = [], []
    if not rewards and not spans:
        return []
    largest = max((abs(reward or 0.0) for reward in rewards), default=0.0)
    parts, at = [], 0
    for reward, (start, end) in zip(rewards, offsets, strict=True):
        parts += _cut(response, at, start, spans)
        strength = round(10 * abs(reward or 0.0) / largest) if largest else 0
        own = _cut(response, max(start, at), end, spans) or [Piece("⏎" if end >= len(response) else "")]
        parts += [replace(p, reward=reward, strength=strength, last=p is own[-1]) for p in own]
        at = max(at, end)
    return [*parts, *_cut(response, at, len(response), spans)]


Marked = tuple[int, int, str, float | None]


def _spans(row: Mapping[str, Any], length: int) -> list[Marked]:
    """The spans of a sample's annotations that mark something of the response."""
    spans = [
        (int(s), int(e), str(label), value) for s, e, label, value in (row.get("annotations") or {}).get("spans", [])
    ]
    return [(start, min(end, length), label, value) for start, end, label, value in spans if start < min(end, length)]


def _cut(response: str, start: int, end: int, spans: Sequence[Marked]) -> list[Piece]:
    """The characters [start, end) of a response, cut where a span begins or ends."""
    borders = sorted({start, end, *(place for s, e, _, _ in spans for place in (s, e) if start < place < end)})
    return [_piece(response, a, b, spans) for a, b in pairwise(borders)] if start < end else []


def _piece(response: str, start: int, end: int, spans: Sequence[Marked]) -> Piece:
    holding = [span for span in spans if span[0] < end and span[1] > start]
    marks = ", ".join(label if value is None else f"{label} {value:+.3g}" for _, _, label, value in holding)
    kind = ""
    if holding:
        value = holding[0][3] or 0.0
        kind = "good" if value > 0 else "bad" if value < 0 else "plain"
    ended = ", ".join(dict.fromkeys(label for _, e, label, _ in holding if e == end))
    return Piece(response[start:end], marks=marks, span=kind, ended=ended)


def shared_ends(texts: Sequence[str]) -> tuple[str, str]:
    """What all texts begin with and end with, cut at spaces and quotes so that no word is torn; "" for a single text."""
    if len(set(texts)) < 2:
        return "", ""
    before = os.path.commonprefix(list(texts))  # noqa: RUF071 (letters are meant)
    rest = [text[len(before) :] for text in texts]
    after = os.path.commonprefix([text[::-1] for text in rest])[::-1]  # noqa: RUF071
    start = max(before.rfind(letter) for letter in SEPARATORS) + 1
    ends = [at for letter in SEPARATORS if (at := after.find(letter)) >= 0]
    return before[:start], after[min(ends) :] if ends else ""


def folder_link(run: Run, page: Path) -> str:
    """The run's folder as seen from the page, or where else a browser finds it; "" if nowhere."""
    if run.link or not run.folder.is_dir():
        return run.link
    return Path(os.path.relpath(run.folder.resolve(), page.resolve().parent)).as_posix()
