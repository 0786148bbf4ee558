"""The arms of experiment=relc_sentiment, side by side: `python -m benchmarks.relc_arms outputs [--kl NATS] [--half-widths]`.

For each arm and lambda the means over the seeds of: the area (mean extrinsic reward of sampled continuations over the run), then
at the last evaluation their extrinsic reward, the share that the gold classifier takes for positive, the KL (nats per response)
and distinct-2, and extrinsic reward and gold share at an equal KL, between two evaluations on a straight line. A run that never
gets to that KL has none. With --half-widths each mean has the half-width of its 95 % interval by Student's t.
"""

import argparse
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import t

import pgsrm

ARMS = ("sparse", "critic", "uniform", "shuffled", "total_at_end", "critic_only", "decomposed", "shaped")
COLUMNS = {"area": 2, "extrinsic": 2, "gold": 2, "KL": 1, "distinct-2": 2, "extrinsic at KL": 2, "gold at KL": 2}


def measure(run: pd.DataFrame, kl: float) -> dict[str, float]:
    """One run's numbers, from its evaluations in the order of updates."""
    extrinsic, gold = (run[f"eval/holdout_{name}"].to_numpy() for name in ("extrinsic", "gold_share"))
    distance = run["eval/holdout_kl"].to_numpy()
    return {
        "area": float(np.trapezoid(extrinsic, run["update"]) / (run["update"].iloc[-1] - run["update"].iloc[0])),
        "extrinsic": extrinsic[-1],
        "gold": gold[-1],
        "KL": distance[-1],
        "distinct-2": run["eval/holdout_distinct_2"].iloc[-1],
        "extrinsic at KL": value_at(distance, extrinsic, kl),
        "gold at KL": value_at(distance, gold, kl),
    }


def value_at(distance: Sequence[float], values: Sequence[float], kl: float) -> float:
    """Of a run the value where its KL first passes `kl`; NaN if it never does."""
    for place in range(len(distance) - 1):
        before, after = distance[place], distance[place + 1]
        if before <= kl <= after and before < after:
            share = (kl - before) / (after - before)
            return values[place] + share * (values[place + 1] - values[place])
    return math.nan


def shown(values: Sequence[float], digits: int, half_width: bool) -> str:
    """Mean over the seeds that have the number."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "–"
    text = f"{np.mean(known):.{digits}f}"
    if not half_width or len(known) < 2:
        return text
    return f"{text} ± {t.ppf(0.975, len(known) - 1) * np.std(known, ddof=1) / math.sqrt(len(known)):.{digits}f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", help="paths.outputs of the sweep")
    parser.add_argument("--kl", type=float, default=3.0, help="nats per response")
    parser.add_argument("--half-widths", action="store_true")
    options = parser.parse_args()
    runs = pgsrm.load_runs(options.outputs)
    evaluations = runs[runs["eval/holdout_kl"].notna()]
    print(f"| `reward.arm` | λ | seeds | {' | '.join(COLUMNS)} |")
    print(f"|---|---:|---:|{'---:|' * len(COLUMNS)}")
    for gae_lambda in (1.0, 0.95):
        for arm in ARMS:
            rows = evaluations[(evaluations["reward.arm"] == arm) & (evaluations["ppo.gae_lambda"] == gae_lambda)]
            finished = [
                run for _, run in rows.groupby("seed") if len(run) > 1 and run["update"].max() == rows["update"].max()
            ]
            numbers = [measure(run.sort_values("update"), options.kl) for run in finished]
            cells = [
                shown([number[name] for number in numbers], digits, options.half_widths)
                for name, digits in COLUMNS.items()
            ]
            if numbers:
                print(f"| `{arm}` | {gae_lambda:g} | {len(numbers)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
