"""What a policy answered in the course of a run: a few of samples.jsonl, from the first to the last."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
            rows.append({**row, "prompt": prompt[len(before) : len(prompt) - len(after)]})
    return Samples(run, f"{before}…{after}", rows)


@dataclass(frozen=True)
class Piece:
    """A part of a response with its reward, None where it has none of its own.

    `strength` is the size of the reward as a share of the response's largest, in tenths; `marks` are the labels of the
    spans that hold it.
    """

    text: str
    reward: float | None = None
    strength: int = 0
    marks: str = ""

    @property
    def title(self) -> str:
        """What the report shows over the piece: its reward, and the labels of its spans."""
        told = "" if self.reward is None else f"reward {self.reward:+.3g}"
        return "; ".join(part for part in (told, self.marks) if part)


def pieces(row: Mapping[str, Any]) -> list[Piece]:
    """The response of a sample cut into its tokens, each with its reward; [] where the reward is for the whole response.

    A token that ends the response has no characters, and is shown as ⏎.
    """
    rewards, offsets, response = row.get("token_rewards"), row.get("offsets"), str(row["response"])
    if not rewards or not isinstance(offsets, list) or len(rewards) != len(offsets):
        return []
    largest = max(abs(reward or 0.0) for reward in rewards)
    marked = (row.get("annotations") or {}).get("spans", [])
    parts, at = [], 0
    for reward, (start, end) in zip(rewards, offsets, strict=True):
        if start > at:
            parts.append(Piece(response[at:start]))
        marks = ", ".join(
            f"{label} {value:+.3g}" for s, e, label, value in marked if s < max(end, start + 1) and e > start
        )
        strength = round(10 * abs(reward or 0.0) / largest) if largest else 0
        parts.append(Piece(response[max(start, at) : end] or "⏎", reward, strength, marks))
        at = max(at, end)
    return [*parts, Piece(response[at:])] if at < len(response) else parts


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
