"""What a run comes to, by the share of right answers that its model draws before training: a table and a figure.

python -m benchmarks.share RUNS [--draws 256] [--out FILE.png]

The model of each finished run is loaded as it was before training and answers the run's training prompts, `--draws` times each,
under the run's temperature and top-k. Runs of one model and one task, in one wording, share these draws. What a run comes to is the
share of right sampled answers in the last tenth of its updates.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pgsrm.algorithm.best_of_n import RIGHT
from pgsrm.algorithm.judged_samples import Sampler
from pgsrm.analysis.intervals import mean_interval
from pgsrm.analysis.measures import last, series
from pgsrm.analysis.results import MATCH
from pgsrm.analysis.runs import Run, find_run_folders, read_run
from pgsrm.analysis.style import MARKERS, REWARD_COLOURS
from pgsrm.analysis.tables import Cell, Table
from pgsrm.analysis.variants import REWARD_TITLES
from pgsrm.config.plan import build_task, load_settings
from pgsrm.models.load import load_codec, load_model, resolve_device
from pgsrm.policy.choose import build_policy
from pgsrm.policy.sampling import Sampling
from pgsrm.record import RunFolder
from pgsrm.record.model_name import deciding_model, model_name
from pgsrm.reward import BinaryReward
from pgsrm.reward.scorer import Scorer
from pgsrm.util.numbers import mean

LEARNED = 0.1  # share of right answers in the last tenth from which a run counts as one that learned


@dataclass(frozen=True)
class Start:
    """Where some runs start. right: of so many answers drawn before training."""

    model: str
    task: str
    wording: str
    right: int
    drawn: int

    @property
    def share(self) -> float:
        """The share of right answers before training."""
        return self.right / self.drawn


def starts_alike(run: Run) -> str:
    """A key of what decides the answers before training: equal for runs whose share is the same."""
    config = run.config
    how = [config["ppo"]["temperature"], config["ppo"]["top_k"]]
    return json.dumps([deciding_model(config), config["task"], *how], sort_keys=True)


def draw(run: Run, times: int) -> Start:
    """Answers of the run's model before training, `times` to each of its training prompts."""
    settings, config = load_settings(RunFolder(run.folder))
    task = build_task(config)
    model = load_model(settings.model, resolve_device(settings.model.device))
    codec = load_codec(settings.model, model)
    prompt_ids = {example.prompt: codec.encode(example.prompt) for example in task.train}
    policy = build_policy(model, None, codec.eos, list(prompt_ids.values()), task.max_new_tokens, settings.model)
    how = Sampling(task.max_new_tokens, settings.ppo.temperature, settings.ppo.top_k)
    scorer = Scorer(BinaryReward(task.checker), task.checker, codec.eos)
    sampler = Sampler(policy, codec, prompt_ids, how, task.min_new_tokens, scorer, {})
    judged = sampler(task.train, times, np.random.default_rng(0), lambda _: None)
    right = int(sum(sum(each.values[RIGHT]) for each in judged))
    return Start(model_name(config), run.task, str(config["task"]["template"]), right, times * len(task.train))


def table(runs: Mapping[Start, Sequence[Run]]) -> Table:
    """A row for each start and reward, those with the largest share first."""
    rows: list[Sequence[Cell]] = []
    for start in sorted(runs, key=lambda start: -start.share):
        for reward in sorted({run.reward for run in runs[start]}, reverse=True):  # pgsrm before binary
            ends = [comes_to(run) for run in runs[start] if run.reward == reward]
            before = f"{start.share:.2g} ({start.right:,} of {start.drawn:,})"
            learned = f"{sum(each >= LEARNED for each in ends)} of {len(ends)}"
            name = REWARD_TITLES.get(reward, reward)
            rows.append([start.model, start.task, start.wording, before, name, mean_interval(ends), learned])
    head = ["model", "task", "wording", "right before training", "reward", "right, last tenth", "learned"]
    return Table("share", "What training comes to", head, rows, left=3, formats={"right, last tenth": ".2f"})


def comes_to(run: Run) -> float:
    """The share of right sampled answers in the last tenth of a run's updates."""
    return last(series(run, MATCH))


def plot(runs: Mapping[Start, Sequence[Run]], out: Path) -> None:
    """A small mark for each run, a large one for the mean of a start's runs; a share of 0 stands at the left edge."""
    from matplotlib.figure import Figure

    least = min(0.5 / start.drawn for start in runs)  # half an answer
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.add_subplot()
    models = sorted({start.model for start in runs})
    rewards = sorted({run.reward for members in runs.values() for run in members}, reverse=True)
    for model, mark in zip(models, MARKERS, strict=False):
        starts = sorted((start for start in runs if start.model == model), key=lambda start: start.share)
        for place, reward in enumerate(rewards):
            ends = {start: [comes_to(run) for run in runs[start] if run.reward == reward] for start in starts}
            # the second reward's marks a little to the right: those of one start would hide each other
            x = {start: max(start.share, least) * 1.12**place for start in starts if ends[start]}
            colour = REWARD_COLOURS.get(reward, f"C{place + 2}")
            means = [mean(ends[start]) for start in x]
            axes.scatter(list(x.values()), means, s=70, marker=mark, facecolors="none", edgecolors=colour)
            points = [(x[start], y) for start in x for y in ends[start]]
            label = f"{REWARD_TITLES.get(reward, reward)}, {model}"
            style: dict[str, Any] = {"s": 16, "alpha": 0.6, "linewidths": 0}
            axes.scatter(*zip(*points, strict=True), marker=mark, color=colour, label=label, **style)
    axes.set(xscale="log", ylim=(-0.03, 1.03), ylabel="right sampled answers, last tenth")
    axes.set(xlabel=f"right answers drawn before training (left edge, {least:.0e}: none)")
    axes.legend(frameon=False, fontsize="small")
    figure.savefig(out, dpi=200)


def main() -> None:
    """Print the table, and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--draws", type=int, default=256, help="answers to each training prompt")
    parser.add_argument("--out", type=Path, help="file of the figure")
    options = parser.parse_args()
    torch.set_num_threads(1)
    read = (read_run(folder, [MATCH])[0] for root in options.runs for folder in find_run_folders(root))
    together: dict[str, list[Run]] = defaultdict(list)
    for run in read:
        if run is not None and run.complete and MATCH in run.metrics:
            together[starts_alike(run)].append(run)
    runs = {draw(members[0], options.draws): members for members in together.values()}
    print(table(runs).markdown(), end="")
    if options.out:
        plot(runs, options.out)


if __name__ == "__main__":
    main()
