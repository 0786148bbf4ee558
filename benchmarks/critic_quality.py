"""How good the critics of some runs were, and what the runs gained: a table and a figure.

python -m benchmarks.critic_quality RUNS [--against lexicon] [--out FILE.png]

A critic's quality is the F1 of its marks against those of a critic whose marks are taken for right (`--against`, a choice of the
config group `critic`), on what the run's own policy wrote (samples.jsonl): a mark counts with its place and its label. The gain
is extrinsic reward on held-out prompts, at the end and as area under its curve, minus that of the run with the same seed that asked
no critic; its interval is over these differences. A run without such a partner is in the table and not in the figure.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from pgsrm.analysis.intervals import mean_interval
from pgsrm.analysis.measures import area, end, series
from pgsrm.analysis.results import DISTANCE, EXTRINSIC, GOLD_SHARE
from pgsrm.analysis.runs import Run, find_run_folders, read_run
from pgsrm.evaluation import build_object
from pgsrm.nano.critic import agreement
from pgsrm.util.paths import conf_folder

MEASURES = {
    "extrinsic, area": (EXTRINSIC, area),
    "extrinsic, end": (EXTRINSIC, end),
    "gold share, end": (GOLD_SHARE, end),
    "KL, end": (DISTANCE, end),
}
GAINS = ("extrinsic, area", "extrinsic, end")
RATES = ("dropped", "shifted", "flipped")
SPARSE = "no critic"


def f1(critic: Any, right: Any, texts: Sequence[tuple[str, str]]) -> float:
    """F1 of a critic's marks in (prompt, response) pairs, all together: a mark counts with its place and label."""
    prompts, responses = (list(column) for column in zip(*texts, strict=True))
    given, wanted = (asked(prompts=prompts, responses=responses, extrinsic=None) for asked in (critic, right))
    return agreement(given, wanted)[2]


def name(run: Run) -> str:
    """What a run's critic is called: its choice, and the rates of its errors."""
    node = run.config["reward"].get("critic")
    if run.reward == "sparse" or run.config["reward"].get("arm") == "sparse" or not node:
        return SPARSE
    rates = [f"{rate}={float(node[rate]):g}" for rate in RATES if node.get(rate)]
    return " ".join([run.choices.get("critic", node["_target_"]), *rates])


def written(run: Run) -> list[tuple[str, str]]:
    """Prompts and responses of a run's samples."""
    lines = (run.folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    return [(sample["prompt"], sample["response"]) for sample in map(json.loads, lines)]


def gain(measure: str) -> str:
    """The column of a measure's gain."""
    return f"gain in {measure}"


def quality(run: Run, right: Any) -> float:
    """F1 of a run's critic against `right`, on what the run's policy wrote."""
    return f1(build_object(run.config["reward"]["critic"], "critic"), right, written(run))


def plot(rows: dict[str, dict[str, Any]], out: Path) -> None:
    """Gain against F1, with intervals over seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    for axes, measure in zip(figure.subplots(1, 2), GAINS, strict=True):
        axes.axhline(0, color="0.6", linewidth=0.8)
        for critic, row in rows.items():
            at = row[gain(measure)]
            bar = [[max(0.0, at.value - at.low)], [max(0.0, at.high - at.value)]]
            axes.errorbar(row["F1"].value, at.value, yerr=bar, fmt="o", markersize=4, linewidth=1, label=critic)
        axes.set(xlabel="F1 of the critic's marks", ylabel=f"gain in {measure.replace(',', ' reward,')}")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=7)
    figure.savefig(out, dpi=200)


def main() -> None:
    """Print the table, and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--against", default="lexicon", help="choice of `critic` whose marks are taken for right")
    parser.add_argument("--out", type=Path, help="file of the figure")
    options = parser.parse_args()
    node: Any = OmegaConf.to_container(OmegaConf.load(conf_folder() / "critic" / f"{options.against}.yaml"))
    right = build_object({key: None if str(value).startswith("${") else value for key, value in node.items()}, "critic")
    needed = list(dict.fromkeys(column for column, _ in MEASURES.values()))
    runs = [run for folder in find_run_folders(options.runs) if (run := read_run(folder, needed)[0]) is not None]
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if run.state == "finished":
            groups[name(run)].append(run)
    base = {run.seed: run for run in groups[SPARSE]}
    columns = ["F1", *MEASURES, *map(gain, GAINS)]
    print("| " + " | ".join(["critic", "seeds", *columns]) + " |")
    print("|---" * (2 + len(columns)) + "|")
    rows = {}
    for critic, members in sorted(groups.items(), key=lambda group: (group[0] != SPARSE, group[0])):
        row = {key: mean_interval([measure(run, key) for run in members]) for key in MEASURES}
        if critic != SPARSE:
            pairs = [(run, base[run.seed]) for run in members if run.seed in base]
            row["F1"] = mean_interval([quality(run, right) for run in members])
            for key in GAINS:
                row[gain(key)] = mean_interval([measure(run, key) - measure(partner, key) for run, partner in pairs])
            rows[critic] = row
        cells = [text(row[column]) if column in row else "-" for column in columns]
        print(f"| {critic} | {len(members)} | " + " | ".join(cells) + " |", flush=True)
    if options.out:
        plot(rows, options.out)


def measure(run: Run, key: str) -> float:
    """One of MEASURES of a run."""
    column, of = MEASURES[key]
    return float(of(series(run, column)))


def text(estimate: Any) -> str:
    """As 0.29 [0.22, 0.36]."""
    if not np.isfinite(estimate.value):
        return "-"
    if not np.isfinite(estimate.low):
        return f"{estimate.value:.2f}"
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


if __name__ == "__main__":
    main()
