"""The arms of experiment=relc_sentiment, side by side: a table, and with --figure a picture.

python -m benchmarks.relc_arms outputs [--kl NATS] [--threshold REWARD] [--half-widths] [--figure FILE.png]

For each arm and lambda the means over the seeds of: the area (mean extrinsic reward of sampled continuations over the run), then
at the last evaluation their extrinsic reward, the share that the gold classifier takes for positive, the KL (nats per response)
and distinct-2, and extrinsic reward and gold share at an equal KL, between two evaluations on a straight line. A run that never
gets to that KL has none. Updates are those until the extrinsic reward first passes the threshold; where not all seeds do, their
number stands beside the mean of those that do. With --half-widths each mean has the half-width of its 95 % interval by Student's t.

The figure has a line per arm, the mean over its seeds at each evaluation: extrinsic reward and gold share against KL, extrinsic
reward against updates, and distinct-2 against KL; a row for each lambda.
"""

import argparse
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import t

import pgsrm

ARMS = ("sparse", "critic", "uniform", "shuffled", "total_at_end", "critic_only", "decomposed", "shaped")
LAMBDAS = (1.0, 0.95)
COLUMNS = {
    "area": 2,
    "updates": 0,
    "extrinsic": 2,
    "gold": 2,
    "KL": 1,
    "distinct-2": 2,
    "extrinsic at KL": 2,
    "gold at KL": 2,
}
EXTRINSIC, GOLD, KL, DISTINCT = (f"eval/holdout_{name}" for name in ("extrinsic", "gold_share", "kl", "distinct_2"))
AXES = {
    EXTRINSIC: "extrinsic reward",
    GOLD: "gold share",
    KL: "KL, nats per response",
    DISTINCT: "distinct-2",
    "update": "updates",
}
PANELS = ((KL, EXTRINSIC), (KL, GOLD), ("update", EXTRINSIC), (KL, DISTINCT))


def measure(run: pd.DataFrame, kl: float, threshold: float) -> dict[str, float]:
    """One run's numbers, from its evaluations in the order of updates."""
    extrinsic, gold, distance = (run[name].to_numpy() for name in (EXTRINSIC, GOLD, KL))
    return {
        "updates": value_at(extrinsic, run["update"].to_numpy(), threshold),
        "area": float(np.trapezoid(extrinsic, run["update"]) / (run["update"].iloc[-1] - run["update"].iloc[0])),
        "extrinsic": extrinsic[-1],
        "gold": gold[-1],
        "KL": distance[-1],
        "distinct-2": run[DISTINCT].iloc[-1],
        "extrinsic at KL": value_at(distance, extrinsic, kl),
        "gold at KL": value_at(distance, gold, kl),
    }


def value_at(path: Sequence[float], values: Sequence[float], level: float) -> float:
    """Of a run the value where its path (its KL, its reward) first passes a level; NaN if it never does."""
    for place in range(len(path) - 1):
        before, after = path[place], path[place + 1]
        if before <= level <= after and before < after:
            share = (level - before) / (after - before)
            return values[place] + share * (values[place + 1] - values[place])
    return math.nan


def shown(values: Sequence[float], digits: int, half_width: bool) -> str:
    """Mean over the seeds that have the number."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "–"
    text = f"{np.mean(known):.{digits}f}"
    if half_width and len(known) > 1:
        text += f" ± {t.ppf(0.975, len(known) - 1) * np.std(known, ddof=1) / math.sqrt(len(known)):.{digits}f}"
    return text if len(known) == len(values) else f"{text} ({len(known)} of {len(values)})"


def finished_runs(evaluations: pd.DataFrame) -> dict[tuple[float, str], list[pd.DataFrame]]:
    """Lambda and arm -> its runs that made all updates, each in the order of updates; arms without one are left out."""
    last = evaluations["update"].max()
    runs = {}
    for gae_lambda in LAMBDAS:
        for arm in ARMS:
            rows = evaluations[(evaluations["reward.arm"] == arm) & (evaluations["ppo.gae_lambda"] == gae_lambda)]
            whole = [run.sort_values("update") for _, run in rows.groupby("seed") if run["update"].max() == last]
            if whole:
                runs[gae_lambda, arm] = whole
    return runs


def draw(runs: dict[tuple[float, str], list[pd.DataFrame]], file: str, kl: float) -> None:
    """Write the figure."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [gae_lambda for gae_lambda in LAMBDAS if any(place[0] == gae_lambda for place in runs)]
    size = 2.6 * len(PANELS), 2.2 * len(rows) + 0.5
    figure, axes = pyplot.subplots(len(rows), len(PANELS), figsize=size, squeeze=False, layout="constrained")
    for (gae_lambda, arm), seeds in runs.items():
        mean = pd.concat(seeds).groupby("update", as_index=False)[[EXTRINSIC, GOLD, KL, DISTINCT]].mean()
        look = {"color": f"C{ARMS.index(arm)}", "linestyle": "-" if arm in ("sparse", "critic") else "--"}
        for panel, (across, up) in zip(axes[rows.index(gae_lambda)], PANELS, strict=True):
            panel.plot(mean[across], mean[up], label=arm, marker=".", markersize=3, linewidth=1.2, **look)
    for gae_lambda, row in zip(rows, axes, strict=True):
        for panel, (across, up) in zip(row, PANELS, strict=True):
            panel.set(xlabel=AXES[across], ylabel=AXES[up], title=f"λ = {gae_lambda:g}")
            if across == KL:
                panel.axvline(kl, color="0.8", linewidth=0.8, zorder=0)
    handles = {label: handle for row in axes for handle, label in zip(*row[0].get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=len(ARMS), frameon=False, fontsize=8)
    figure.savefig(file, dpi=160)


def main() -> None:
    """Print the table, and write the figure where one is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", help="paths.outputs of the sweep")
    parser.add_argument("--kl", type=float, default=3.0, help="nats per response")
    parser.add_argument("--threshold", type=float, default=0.3, help="extrinsic reward of sampled continuations")
    parser.add_argument("--half-widths", action="store_true")
    parser.add_argument("--figure", metavar="FILE")
    options = parser.parse_args()
    runs = pgsrm.load_runs(options.outputs)
    finished = finished_runs(runs[runs[KL].notna()])
    print(f"| `reward.arm` | λ | seeds | {' | '.join(COLUMNS)} |")
    print(f"|---|---:|---:|{'---:|' * len(COLUMNS)}")
    for (gae_lambda, arm), seeds in finished.items():
        numbers = [measure(run, options.kl, options.threshold) for run in seeds]
        cells = [
            shown([number[name] for number in numbers], digits, options.half_widths) for name, digits in COLUMNS.items()
        ]
        print(f"| `{arm}` | {gae_lambda:g} | {len(seeds)} | {' | '.join(cells)} |")
    if options.figure:
        draw(finished, options.figure, options.kl)


if __name__ == "__main__":
    main()
