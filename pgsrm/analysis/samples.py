"""What a child answered in the course of a run: a few of samples.jsonl, from the first to the last."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgsrm.analysis.runs import Run

MOMENTS = 5
EACH = 3
SEPARATORS = (" ", "'", '"')


@dataclass(frozen=True)
class Samples:
    """`rows` of update, prompt, reference, response, reward and exact_match; the prompts without what all share."""

    run: Run
    template: str
    rows: Sequence[dict[str, Any]]


def read_samples(run: Run) -> Samples | None:
    """Up to `EACH` samples at each of `MOMENTS` updates, evenly spaced in time; None where the run has none."""
    import msgspec

    path = run.folder / "samples.jsonl"
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return None
    by_update: dict[int, list[dict[str, Any]]] = {}
    for line in lines:
        try:
            row = msgspec.json.decode(line)
            by_update.setdefault(int(row["update"]), []).append(
                {key: row[key] for key in ("update", "prompt", "reference", "response", "reward", "exact_match")}
            )
        except (msgspec.DecodeError, KeyError, TypeError, ValueError):
            continue  # half-written, or another schema's
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
