"""A reward's probes as a figure: what each wrong answer earns, and what the best of n samples is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pgsrm.reward.best_of import Best
from pgsrm.reward.probes import NEAR, Result

_ROW = 0.19  # inches
_LINES = (("reward", "the reward", "-"), ("right", "right answers", "--"), ("other", "second embedder", ":"))


def plot(results: Mapping[str, Result], best: Mapping[str, Sequence[Best]], title: str, stem: Path) -> list[Path]:
    """STEM.png and STEM.pdf: a dot for each probe and task, filled where it fails; beside it a panel of best-of-n per task.

    best: may be empty, and then there are no such panels.
    """
    from matplotlib.figure import Figure

    probes = list(zip(*(result.probes for result in results.values()), strict=True))
    probes = [row for row in probes if any(probed.prompts for probed in row)]
    names = [f"right: {row[0].name}" if row[0].control else row[0].name for row in probes]
    figure = Figure(figsize=(8.0 if best else 5.2, 1.0 + _ROW * len(names)), layout="constrained")
    figure.suptitle(title, fontsize=8)
    grid = figure.add_gridspec(max(1, len(best)), 2 if best else 1, width_ratios=[3, 2] if best else [1])
    left = figure.add_subplot(grid[:, 0])
    colours = {task: f"C{place}" for place, task in enumerate(results)}
    for place, (task, colour) in enumerate(colours.items()):
        made = [(number, row[place]) for number, row in enumerate(probes) if row[place].prompts]
        x = [probed.relative for _, probed in made]
        filled = ["none" if probed.passed else colour for _, probed in made]
        left.scatter(x, [number for number, _ in made], s=22, edgecolors=colour, facecolors=filled, zorder=3)
        left.scatter([], [], s=22, color=colour, label=task)
    left.axvline(NEAR, color="0.6", linewidth=0.8, linestyle="--")
    left.set_yticks(range(len(names)), names, fontsize=7)
    left.invert_yaxis()
    left.grid(axis="y", color="0.92", linewidth=0.6)
    left.set_xlabel("mean reward, the reference's = 1; filled: fails", fontsize=8)
    left.legend(fontsize=7, loc="best")
    left.tick_params(axis="x", labelsize=7)
    for place, (task, rows) in enumerate(best.items()):
        axes = figure.add_subplot(grid[place, 1])
        for field, label, line in _LINES:
            points = [(row.n, value) for row in rows if (value := getattr(row, field)) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), line, color=colours[task], label=label, linewidth=1.3)
        axes.set_xscale("log")
        axes.set_xticks([row.n for row in rows], [f"{row.n:,}" for row in rows])
        axes.minorticks_off()
        axes.set_title(f"{task}: best of n samples", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.legend(fontsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    left.spines[["top", "right"]].set_visible(False)
    files = [stem.with_suffix(suffix) for suffix in (".png", ".pdf")]
    for file in files:
        figure.savefig(file, dpi=120)
    return files
