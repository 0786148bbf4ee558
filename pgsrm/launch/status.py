"""`python -m pgsrm.status [FOLDER ...] [--unfinished]`: how far the runs of a sweep are, from their folders and squeue.

No accounting (sacct) is needed, and no torch: a thousand runs take about a second.
"""

import argparse
from collections import Counter
from collections.abc import Iterable, Sequence
from math import inf, nan
from pathlib import Path

from pgsrm.launch.slurm.queue import Queue
from pgsrm.record import RunFolder
from pgsrm.record.differences import short_names
from pgsrm.record.summary import aligned, clock, number, percent
from pgsrm.util.errors import UserError

# What needs a look stands last, where a terminal shows it.
ORDER = ("finished", "waiting", "queued", "running", "stopped", "cut off", "failed")


def find_runs(places: Iterable[Path]) -> list[RunFolder]:
    """The run folders at or below each place: a run folder, a folder of them, or an outputs folder with runs/.

    Raises:
        UserError: a place is no folder.
    """
    found: dict[Path, RunFolder] = {}
    for place in places:
        if not place.is_dir():
            raise UserError(f"{place}: no such folder; name a run's folder or paths.outputs of a sweep")
        if (place / "config.yaml").exists():
            below = [place]
        else:
            runs = place / "runs"
            below = sorted((runs if runs.is_dir() else place).iterdir())
        found |= {path.resolve(): RunFolder(path) for path in below if (path / "config.yaml").exists()}
    return list(found.values())


def table(folders: Sequence[RunFolder], unfinished: bool = False) -> str:
    """A line a run, the reasons of those that wait, stopped or failed, and how many are in which state."""
    note = ""
    try:
        queue = Queue.ask(folders)
    except UserError as error:  # what is in the folders is still worth showing
        queue, note = Queue(None, frozenset()), f"\n{error}"
    names = short_names([folder.name for folder in folders])
    states = [queue.state(folder) for folder in folders]
    shown = sorted(range(len(folders)), key=lambda i: (ORDER.index(states[i]), names[i]))
    if unfinished:
        shown = [i for i in shown if states[i] != "finished"]
    head = ["run", "state", "updates", "reward", "entropy", "KL", "match", "time"]
    lines = aligned([head, *([names[i], states[i], *_numbers(folders[i])] for i in shown)], left=2) if shown else []
    reasons = [(names[i], queue.reason(folders[i], states[i])) for i in shown]
    counts = Counter(states)
    summary = ", ".join(f"{counts[state]} {state}" for state in reversed(ORDER) if counts[state])
    return "\n".join([*lines, *_grouped(reasons), f"{len(folders)} runs: {summary}"]) + note


def _numbers(folder: RunFolder) -> list[str]:
    """Updates made of all, the last line's reward, entropy, KL and exact match, and the time of training."""
    status, last = folder.status() or {}, folder.last_metrics() or {}
    return [
        f"{int(last.get('update', 0))}/{status.get('updates', '?')}",
        number(last.get("reward/mean", nan), 3),
        number(last.get("policy/entropy", nan), 2),
        number(last.get("policy/kl", nan), 3),
        percent(last.get("reward/exact_match", nan)),
        clock(status.get("seconds") or inf),
    ]


def _grouped(reasons: Iterable[tuple[str, str | None]]) -> list[str]:
    """A line a reason: `NAME: reason`, or `NAME and 36 more: reason`."""
    names: dict[str, list[str]] = {}
    for name, reason in reasons:
        if reason:
            names.setdefault(reason, []).append(name)
    return [f"{each[0]}{f' and {len(each) - 1} more' if each[1:] else ''}: {why}" for why, each in names.items()]


def main() -> None:
    """The command line."""
    from pgsrm.config.messages import exit_with_line

    parser = argparse.ArgumentParser(prog="python -m pgsrm.status", description="How far the runs of a sweep are.")
    parser.add_argument(
        "folders", nargs="*", type=Path, metavar="FOLDER", help="outputs, or run folders (default: outputs)"
    )
    parser.add_argument("--unfinished", action="store_true", help="leave out the runs that have finished")
    options = parser.parse_args()
    try:
        folders = find_runs(options.folders or [Path("outputs")])
        print(table(folders, options.unfinished) if folders else "no runs")
    except Exception as error:
        exit_with_line(error, "pgsrm")
