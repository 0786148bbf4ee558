"""Synthetic run folders whose answers are known, as a training leaves them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ANALYSIS = Path(__file__).resolve().parents[1] / "analysis"

UPDATES, BATCH = 100, 50


# A status as runs have it that failed for their settings' sake
DIVERGED = {"reason": "ppo: the gradient is not finite (policy/kl_coef 1e+18, loss/actor 3e+18)"}


def ramp(first: float, last: float, updates: int = UPDATES) -> list[float]:
    """A curve that holds `first` over the first tenth, `last` over the last, and a line between them."""
    tenth = updates // 10
    return [first] * tenth + list(np.linspace(first, last, updates - 2 * tenth)) + [last] * tenth


def write_run(
    root: Path,
    task: str = "color",
    reward: str = "pgsrm",
    seed: int = 0,
    *,
    rewards: Sequence[float] | None = None,
    updates: int | None = None,
    state: str = "finished",
    variant: str | None = None,
    config: dict[str, Any] | None = None,
    choices: dict[str, str] | None = None,
    status: dict[str, Any] | None = None,
    entropy: Sequence[float] | None = None,
    kl: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    exact: tuple[float, float] | None = None,
    samples: Sequence[dict[str, Any]] = (),
    evaluations: Mapping[int, Mapping[str, float]] | None = None,
) -> Path:
    """A run folder as a training leaves it; `rewards` are the updates on file, `updates` those planned.

    evaluations: update (0, or one of those on file) -> what stands in its line besides.
    """
    import yaml  # type: ignore[import-untyped]

    rewards = ramp(0.1, 0.7) if rewards is None else rewards
    chosen = {"task": task, "reward": reward, "model": "nano", "ppo": "sound", **(choices or {})}
    name = "-".join(chosen[group] for group in ("task", "reward", "model", "ppo"))
    folder = root / f"{name}-s{seed}-{zlib.crc32(repr((config, variant)).encode()):08x}"
    folder.mkdir(parents=True)
    values = {"task": {"template": "{c1}"}, "reward": {"alpha": 4}, "ppo": {"lr": 1e-5}, **(config or {})}
    (folder / "config.yaml").write_text(yaml.safe_dump({**values, "seed": seed, "choices": chosen}))
    rows: list[dict[str, Any]] = []
    if exact:
        rows.append({"update": 0, "eval/train_exact_match": exact[0], "eval/holdout_exact_match": exact[0] / 2})
    for i, value in enumerate(rewards):
        bits = 2.0 if entropy is None else entropy[i]
        divergence = -0.1 + 0.01 * i if kl is None else kl[i]
        rows.append({"update": i + 1, "episodes": (i + 1) * BATCH, "reward/mean": value})
        if std is not None:
            rows[-1]["reward/std"] = std[i]
        rows[-1] |= {"policy/entropy": bits, "policy/kl": divergence, "time/update": 0.1}
    if exact:
        rows[-1] |= {"eval/train_exact_match": exact[1], "eval/holdout_exact_match": exact[1] / 2}
    for update, values_then in (evaluations or {}).items():
        row = next((row for row in rows if row["update"] == update), None)
        if row is None:
            row = {"update": update, "episodes": update * BATCH}
            rows.insert(0, row)
        row |= values_then
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if samples:
        (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    known = {
        "state": state,
        "reason": None,
        "update": len(rewards),
        "updates": updates or len(rewards),
        "variant": variant or f"{zlib.crc32(repr((chosen, values)).encode()):064x}",
        "seconds": 120.0,
        "commit": "a" * 40,
    }
    (folder / "status.json").write_text(json.dumps({**known, **(status or {})}))
    return folder


def table_rows(text: str) -> list[dict[str, str]]:
    """Every row of the Markdown tables in `text`, by column name."""
    rows, head = [], None
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if not line.startswith("|"):
            head = None
        elif head is None:
            head = cells
        elif not cells[0].startswith("---"):
            rows.append(dict(zip(head, cells, strict=True)))
    return rows
