"""`python -m pgsrm.status [FOLDER ...] [--unfinished]`: how far the runs of a sweep are, from their folders and squeue.

No accounting (sacct) is needed, and no torch: a thousand runs take about two seconds.
"""

import argparse
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from pgsrm.launch.slurm.queue import Queue
from pgsrm.record import RunFolder
from pgsrm.record.differences import labels
from pgsrm.record.links import run_path
from pgsrm.record.summary import Summary, answers, clock, how_far, in_columns, number, shared_line, summarise
from pgsrm.util.errors import UserError
from pgsrm.util.numbers import counted
from pgsrm.util.paths import local_path

# What needs a look stands last, where a terminal shows it.
ORDER = ("finished", "waiting", "queued", "running", "stopped", "cut off", "failed")


def outputs_folder(word: str) -> Path:
    """The folder that a word of the command line names, `paths.outputs=FOLDER` too: that is what a run was told."""
    return local_path(word.removeprefix("paths.outputs="), "FOLDER")


def find_runs(places: Iterable[Path]) -> list[RunFolder]:
    """The run folders at or below each place: a run folder, a folder of them, or an outputs folder with runs/.

    A run that a symbolic link leads to from elsewhere has its real path: trackers write beside it, not beside the link.

    Raises:
        UserError: a place is no folder.
    """
    folders: dict[Path, RunFolder] = {}
    for place in places:
        if not place.is_dir():
            raise UserError(
                f"{place}: no such folder; name a run's folder, or the one that paths.outputs of a run says"
            )
        if (place / "config.yaml").exists():
            below = [place]
        else:
            runs = place / "runs"
            below = sorted((runs if runs.is_dir() else place).iterdir())
        folders |= {path.resolve(): RunFolder(run_path(path)) for path in below if (path / "config.yaml").exists()}
    return list(folders.values())


def table(folders: Sequence[RunFolder], unfinished: bool = False) -> str:
    """One line per run, the reasons of those that wait, stopped or failed, and how many are in which state."""
    note = ""
    try:
        queue = Queue.ask(folders)
    except UserError as error:  # what is in the folders is still worth showing
        queue, note = Queue(None, frozenset()), f"\n{error}"
    names = labels(folders)
    runs = [summarise(folder, queue.state(folder)) for folder in folders]
    shown = sorted(range(len(runs)), key=lambda i: (ORDER.index(runs[i].state), names[i]))
    if unfinished:
        shown = [i for i in shown if runs[i].state != "finished"]
    columns = [
        ("run", "", names),
        ("state", "", [run.state for run in runs]),
        ("updates", "", [how_far(run) for run in runs]),
        ("reward", "first", [number(run.reward_first, 3) for run in runs]),
        ("", "last", [number(run.reward_last, 3) for run in runs]),
        ("", "now", [number(run.reward_now, 3) for run in runs]),
        ("entropy", "now", [number(run.entropy, 2) for run in runs]),
        ("KL", "now", [number(run.kl, 3) for run in runs]),
        *answers(runs),
        ("time", "", [clock(run.seconds) for run in runs]),
        *([("left", "", [clock(run.left) for run in runs])] if any(run.state == "running" for run in runs) else []),
    ]
    lines = [*shared_line(folders), *in_columns(columns, shown)] if shown else []
    # A folder's name, since that is where a reason is looked into.
    reasons = [(folders[i].name, queue.reason(folders[i], runs[i].state)) for i in shown]
    counts = Counter(run.state for run in runs)
    summary = ", ".join(f"{counts[state]} {state}" for state in reversed(ORDER) if counts[state])
    total = f"{counted(len(folders), 'run')}: {summary}"
    return "\n".join([*lines, *_grouped(reasons), *_cost(runs), total]) + note


def _cost(runs: Sequence[Summary]) -> list[str]:
    """What the running runs make and need, as a list of one line; empty where none says it."""
    running = [run for run in runs if run.state == "running" and not math.isnan(run.tokens_per_second)]
    if not running:
        return []
    speed = sum(run.tokens_per_second for run in running)
    most = max((run.memory for run in running if not math.isnan(run.memory)), default=math.nan)
    together, each = (" together", " each") if len(running) > 1 else ("", "")
    return [f"running: {speed:.0f} tokens/s{together}, at most {number(most, 1)} GiB{each}"]


def _grouped(reasons: Iterable[tuple[str, str | None]]) -> list[str]:
    """A line a reason: `NAME: reason`, or `NAME and 36 more: reason`."""
    names_of: dict[str, list[str]] = {}
    for name, reason in reasons:
        if reason:
            names_of.setdefault(reason, []).append(name)
    return [f"{names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}: {why}" for why, names in names_of.items()]


def main() -> None:
    """The command line."""
    from pgsrm.config.messages import ending_with_line

    parser = argparse.ArgumentParser(prog="python -m pgsrm.status", description="How far the runs of a sweep are.")
    parser.add_argument(
        "folders", nargs="*", default=["outputs"], metavar="FOLDER", help="outputs, or run folders (default: outputs)"
    )
    parser.epilog = (
        "reward first, last: means over the first and last tenth of the planned updates; now: the last update; right: "
        "answers of the last evaluation; extrinsic, gold measure: of its sampled answers, held out. left: of a running run, as at "
        "its last update. running: generated tokens per second in the last update, and the peak memory of "
        "a run. docs/metrics.md defines states and numbers."
    )
    parser.add_argument("--unfinished", action="store_true", help="leave out the runs that have finished")
    options = parser.parse_args()
    with ending_with_line("pgsrm", "interrupted"):
        folders = find_runs(map(outputs_folder, options.folders))
        print(table(folders, options.unfinished) if folders else "no runs")
