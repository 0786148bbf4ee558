"""Measures, intervals and comparisons on curves and seeds whose answer is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from analysis_runs import BATCH, DIVERGED, UPDATES, ramp, table_rows, write_run

from pgsrm.analysis import intervals, measures
from pgsrm.analysis.claims import PAPER, read_claims
from pgsrm.analysis.comparison import comparisons
from pgsrm.analysis.measures import MEASURES, Series
from pgsrm.analysis.results import COLUMNS, learning
from pgsrm.analysis.variants import load_variants
from pgsrm.analysis.verdicts import HOLDS, NO_VERDICT, UNDECIDED, check_all

# --- measures -----------------------------------------------------------------------------------------------


def curve(values: Sequence[float] | np.ndarray, planned: int | None = None) -> Series:
    updates = np.arange(1.0, len(values) + 1)
    return Series(updates, 50 * updates, np.asarray(values, dtype=float), planned or len(values))


def test_tenths_by_hand() -> None:
    updates = np.arange(1.0, 101.0)
    assert measures.tenth_means(updates, updates, 100) == [5.5 + 10 * k for k in range(10)]
    cut = measures.tenth_means(updates[:35], updates[:35], 100)
    assert cut[:3] == [5.5, 15.5, 25.5] and np.isnan(cut[3:]).all()
    assert measures.tenth_means(np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.2, 0.3]), 3) == [0.1, 0.2, 0.3]


def test_levels_and_progress_of_a_ramp() -> None:
    s = curve(ramp(0.2, 0.8, 1000))
    assert (measures.first(s), measures.last(s), measures.start(s)) == pytest.approx((0.2, 0.8, 0.2))
    assert (measures.rise(s), measures.change(s), measures.kept(s)) == pytest.approx((0.6, 0.6, 1.0))
    assert measures.area(s) == pytest.approx(0.5)
    assert measures.late_change(s) == pytest.approx(0.8 - np.mean(ramp(0.2, 0.8, 1000)[500:600]))
    assert measures.rise_time(s) == pytest.approx((0.1 + 0.9 * 0.8) * 50000, abs=500)
    assert measures.episodes_to(s, 0.5) == pytest.approx(25000, abs=200)
    assert measures.episodes_to(s, 0.9) == float("inf")
    assert np.isnan(measures.episodes_to(curve([0.1] * 60, planned=100), 0.9))
    assert measures.remains(s) == pytest.approx(4.0)


def test_start_is_the_evaluation_before_training_where_there_is_one() -> None:
    s = Series(np.array([0.0, 50, 100]), np.array([0.0, 2500, 5000]), np.array([0.1, 0.5, 0.7]), 100)
    assert (measures.start(s), measures.end(s), measures.gain(s)) == pytest.approx((0.1, 0.7, 0.6))


def test_the_area_under_evaluations_is_by_trapezoids() -> None:
    # 25 updates from 0 to 0.2, 25 to 0.4, 10 to 0.9: not the mean of the three
    s = Series(np.array([0.0, 25, 50, 60]), np.zeros(4), np.array([0.0, 0.2, 0.4, 0.9]), 60)
    assert measures.area(s) == pytest.approx((25 * 0.1 + 25 * 0.3 + 10 * 0.65) / 60)


def test_evaluations_many_updates_apart_are_not_smoothed() -> None:
    updates = np.array([0.0, 100, 200, 300, 400])
    s = Series(updates, 50 * updates, np.array([0.0, 0.9, 0.4, 0.8, 0.6]), 400)
    assert (measures.highest(s), measures.lowest(s)) == (0.9, 0.4)
    assert measures.episodes_to(s, 0.85) == 5000 and measures.drawdown(s) == pytest.approx(0.5)


def evaluated(values: np.ndarray, every: int) -> Series:
    """A metric of the evaluations, the first before training and the last after it."""
    updates = np.arange(0.0, len(values) * every, every)
    return Series(updates, 50 * updates, values, int(updates[-1]))


def test_measures_of_evaluations_go_by_updates_and_not_by_their_number() -> None:
    """Wrong version: the windows of 400 updates hold as many evaluations, and 0.5 of a straight line is a jump."""
    line = evaluated(np.linspace(0, 1, 41), 10)
    assert measures.jump(line) <= 0.05
    step = evaluated(np.repeat([0.1, 0.7], [21, 20]), 10)
    assert measures.jump(step) == pytest.approx(1.0)
    assert measures.oscillation(line) == pytest.approx(0.0, abs=1e-9)
    # Up and down twice between 50 evaluations: as far as the curve of every update goes.
    x = np.linspace(0, 1, 501)
    whole = curve(np.sin(8 * np.pi * x)[1:])
    assert measures.oscillation(evaluated(np.sin(8 * np.pi * x)[::5], 5)) == pytest.approx(
        measures.oscillation(whole), rel=0.12
    )


def test_spikes_of_evaluations_are_per_thousand_updates() -> None:
    """Wrong version: one spike in 200 evaluations is five per thousand of these, whatever lies between them."""
    values = np.zeros(201)
    values[100] = 1.0
    assert measures.spikes(evaluated(values, 10)) == pytest.approx(0.5)


def test_too_few_values_are_no_curve() -> None:
    """Wrong version: 0, as of the steadiest curve, since each value is its own trend and its own median."""
    zigzag = evaluated(np.array([0.0, 0.9, 0.4, 0.8, 0.6]), 100)
    assert np.isnan(measures.oscillation(zigzag)) and np.isnan(measures.spikes(zigzag))
    assert np.isnan(measures.spikes(curve([0.0] * 39 + [1.0])))


def test_a_level_that_was_there_before_training_takes_no_episode() -> None:
    """Wrong version: as many as the first evaluation afterwards is away."""
    assert measures.episodes_to(evaluated(np.array([0.6, 0.7, 0.8]), 100), 0.5) == 0
    assert measures.episodes_to(evaluated(np.array([0.4, 0.7, 0.8]), 100), 0.5) == 5000


def test_a_level_that_is_reached_to_the_digit_is_reached() -> None:
    # Shares of 50 answers; nine of them in a window come to 0.5 exactly, once, and 0.5 is not exact in a running sum.
    values = np.array([0.04] * 90 + [0.46, 0.54, 0.48, 0.52, 0.5, 0.44, 0.56, 0.42, 0.58] + [0.04] * 301)
    s = curve(values)
    assert s.smooth.max() < 0.5
    assert measures.episodes_to(s, 0.5) == 95 * 50


def test_a_run_that_did_not_get_there_has_no_value() -> None:
    s = curve([0.5] * 60, planned=100)
    absent = curve([])
    for name in ("end", "last", "rise", "gain", "change", "area", "kept", "jump", "oscillation", "band", "growth"):
        assert np.isnan(MEASURES[name](s)), name
        assert np.isnan(MEASURES[name](Series(absent.updates, absent.updates, absent.values, 100))), name
    assert measures.highest(s) == 0.5


def test_jump_is_the_share_of_the_range_within_a_twentieth_of_training() -> None:
    assert measures.jump(curve(np.linspace(0, 1, 1000))) == pytest.approx(0.05, abs=0.003)
    assert measures.jump(curve(np.repeat([0.1, 0.7], 500))) == pytest.approx(1.0)
    assert measures.jump(curve(np.repeat([0.7, 0.1], 500))) == pytest.approx(0.0, abs=1e-9)  # a fall is no jump
    assert measures.jump(curve([0.25] * 1000)) == 0.0
    noise = np.random.default_rng(0).normal(0, 0.02, (20, 300))
    assert not any(measures.jump(curve(0.1 + each)) for each in noise)  # a third of a range that is noise is no jump
    assert not any(measures.jump(curve(np.linspace(0.1, 0.14, 300) + each)) for each in noise)  # nor is a slow climb
    assert all(measures.jump(curve(np.repeat([0.1, 0.4], 150) + each)) > 0.8 for each in noise)


def test_drawdown_is_the_furthest_fall_from_the_highest_point_so_far() -> None:
    s = curve(np.concatenate([np.linspace(0, 0.8, 400), np.linspace(0.8, 0.3, 300), np.linspace(0.3, 0.9, 300)]))
    assert measures.drawdown(s) == pytest.approx(0.5, abs=0.02)  # smoothing rounds the peaks
    assert measures.drawdown(curve(np.linspace(0, 1, 1000))) == pytest.approx(0.0, abs=1e-9)


def test_oscillation_counts_what_goes_up_and_down_besides_the_trend() -> None:
    x = np.arange(1000)
    waves = 0.1 * np.sin(2 * np.pi * x / 200)  # five, each 0.4 up and down, of which smoothing leaves nine tenths
    assert measures.oscillation(curve(x / 1000)) == pytest.approx(0.0, abs=0.02)
    level = measures.oscillation(curve(0.5 + waves))
    assert level == pytest.approx(2.0, rel=0.12)
    # On a slope the waves cover its way by themselves, which is not counted twice.
    assert measures.oscillation(curve(0.3 * x / 1000 + waves)) == pytest.approx(level - 0.3, abs=0.1)
    assert measures.oscillation(curve(0.5 + 2 * waves)) == pytest.approx(2 * level)


def drawn(p: np.ndarray, batch: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each batch of a reward of 0 or 1, which is 1 with probability p."""
    mean = np.random.default_rng(seed).binomial(batch, p) / batch
    return mean, np.sqrt(mean * (1 - mean))


def test_unsteadiness_is_what_oscillates_beyond_a_batchs_noise() -> None:
    updates = np.arange(1.0, 1001)
    learning = np.linspace(0.05, 0.85, 1000)
    waves = 0.1 * np.sin(2 * np.pi * updates / 200)
    noisy, wavy, calm = [], [], []
    for seed in range(10):
        mean, std = drawn(learning, 50, seed)
        s = Series(updates, 50 * updates, mean, 1000, std / 49**0.5)
        assert measures.oscillation(s) > 0.2
        noisy.append(measures.unsteadiness(s))
        mean, std = drawn(learning * 0.5 + 0.3 + waves, 50, seed)
        wavy.append(measures.unsteadiness(Series(updates, 50 * updates, mean, 1000, std / 49**0.5)))
        calm.append(measures.oscillation(curve(learning * 0.5 + 0.3 + waves)))
    assert abs(np.mean(noisy)) < 0.06  # wrong version: 0.3, the noise of a reward of 0 or 1
    assert 0.5 * np.mean(calm) < np.mean(wavy) < np.mean(calm)  # what the curve itself does is left, in part
    silent = Series(updates, 50 * updates, waves, 1000, np.zeros(1000))
    assert measures.unsteadiness(silent) == measures.oscillation(silent) > 1
    assert np.isnan(measures.unsteadiness(curve(waves)))  # no spread on file


def test_a_binary_reward_is_not_rougher_for_being_binary(tmp_path: Path) -> None:
    """Wrong version: the same learning curve is smoother where it is drawn with a tenth of the variance."""
    for seed in range(5):
        p = np.array(ramp(0.1, 0.8, 400))
        mean, std = drawn(p, BATCH, seed)
        write_run(tmp_path, "color", "binary", seed, rewards=list(mean), std=list(std))
        graded = p + (drawn(p, BATCH, 100 + seed)[0] - p) / 10**0.5
        write_run(tmp_path, "color", "pgsrm", seed, rewards=list(graded), std=list(np.sqrt(p * (1 - p) / 10)))
    variants, _ = load_variants([tmp_path], COLUMNS)
    claims = [claim for claim in read_claims(PAPER) if claim.name == "smoother reward"]
    (found,) = check_all(claims, variants)
    assert found.verdict == UNDECIDED
    (by_oscillation,) = check_all([dataclasses.replace(claims[0], measure="oscillation")], variants)
    assert by_oscillation.verdict == HOLDS


def test_the_noise_of_responses_to_one_prompt_is_not_known(tmp_path: Path) -> None:
    """Wrong version: they count as independent, and binary, whose groups are all right or all wrong, is the rougher one."""
    rng, rewards = np.random.default_rng(0), np.array(ramp(0.1, 0.8, 400))
    for seed in range(5):
        for reward, scale in (("binary", 1.0), ("pgsrm", 0.4)):
            right = rng.binomial(10, rewards) / 10  # ten prompts, to each of which all five responses are alike
            mean, std = 0.5 + scale * (right - 0.5), scale * np.sqrt(right * (1 - right))
            config = {"ppo": {"group_size": 5}}
            write_run(tmp_path, "color", reward, seed, rewards=list(mean), std=list(std), config=config)
    claims = [claim for claim in read_claims(PAPER) if claim.name == "smoother reward"]
    (found,) = check_all(claims, load_variants([tmp_path], COLUMNS)[0])
    assert found.verdict == NO_VERDICT and "several responses per prompt" in found.reason


def test_spikes_are_counted_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    noise = 1 + rng.normal(0, 0.1, 2000)
    assert measures.spikes(curve(noise)) == 0
    spiked = noise.copy()
    spiked[[300, 301, 900, 1500]] += 5  # two next to each other are one spike
    assert measures.spikes(curve(spiked)) == pytest.approx(1.5)
    assert measures.spikes(curve([0.0] * 999 + [1.0])) == pytest.approx(1.0)  # also where there is no noise at all
    assert measures.spikes(curve(np.linspace(0, 3, 2000))) == 0


def test_band_and_growth_tell_settled_from_drifting() -> None:
    settled = curve(np.concatenate([np.linspace(4, 1, 400), np.full(600, 1.0)]))
    assert measures.band(settled) == pytest.approx(0.0, abs=1e-6)
    assert measures.band(curve(np.linspace(4, 1, 999))) == pytest.approx(1 / 3, abs=0.01)
    assert measures.growth(curve(np.linspace(0, 3, 999))) == pytest.approx(1.5, abs=0.02)
    assert measures.growth(curve(np.concatenate([np.linspace(0, 2, 300), np.full(699, 2.0)]))) == pytest.approx(1.0)
    assert measures.growth(curve(np.linspace(0, -3, 999))) == pytest.approx(1.5, abs=0.02)  # by size, either way


def test_a_mean_of_the_gain_kept_says_of_how_many_seeds_it_is(tmp_path: Path) -> None:
    """Wrong version: three seeds stand beside a mean of the two that gained anything."""
    for seed, end in enumerate((0.7, 0.6, 0.12)):
        write_run(tmp_path, seed=seed, rewards=ramp(0.1, end))
    variants, _ = load_variants([tmp_path], COLUMNS)
    (note,) = (line for line in learning(variants).notes if line.startswith("Gain kept"))
    assert note == "Gain kept: of the seeds that gained 0.1 or more: 2 of 3 seeds of color, PGSRM."


# --- intervals ----------------------------------------------------------------------------------------------


def test_mean_interval_is_students_t() -> None:
    e = intervals.mean_interval([1.0, 2.0, 3.0])
    assert (e.value, e.low, e.high, e.n) == pytest.approx(
        (2.0, 2 - 4.302652729911275 / 3**0.5, 2 + 4.302652729911275 / 3**0.5, 3)
    )
    assert np.isnan(intervals.mean_interval([1.0, 2.0]).low) and intervals.mean_interval([1.0, 2.0]).value == 1.5
    assert np.isnan(intervals.mean_interval([]).value)
    same = intervals.mean_interval([0.5] * 4)
    assert (same.low, same.high) == (0.5, 0.5)


def test_difference_interval_is_welchs() -> None:
    from scipy.stats import ttest_ind

    a, b = [0.5, 0.6, 0.8, 0.7], [0.1, 0.4, 0.2]
    e = intervals.difference_interval(a, b)
    expected = ttest_ind(a, b, equal_var=False).confidence_interval()
    assert (e.low, e.high) == pytest.approx((expected.low, expected.high))
    assert e.value == pytest.approx(0.65 - 0.7 / 3)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_the_interval_of_a_mean_holds_the_true_one_in_95_of_100_cases(seeds: int) -> None:
    values = np.random.default_rng(seeds).normal(0.6, 0.05, (2000, seeds))
    held = [e.low <= 0.6 <= e.high for e in map(intervals.mean_interval, values.tolist())]
    assert 0.935 < np.mean(held) < 0.965


def test_the_bootstrap_band_covers_with_many_seeds_and_is_the_range_of_three() -> None:
    values = np.random.default_rng(0).normal(0.6, 0.05, (30, 2000))  # each column a case
    low, high = intervals.bootstrap_band(values)
    assert 0.92 < np.mean((low <= 0.6) & (high >= 0.6)) < 0.965
    low, high = intervals.bootstrap_band(values[:3])
    np.testing.assert_allclose(low, values[:3].min(0))
    np.testing.assert_allclose(high, values[:3].max(0))


def test_the_interquartile_mean_drops_odd_runs_and_its_interval_covers() -> None:
    assert intervals.interquartile_mean([[0.1, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 9.0]]).value == 0.5
    # Of five the middle one and three quarters of its neighbours; of three the middle one and a quarter of the others.
    assert intervals.interquartile_mean([[9.0, 0.4, 0.5, 0.7, -9.0]]).value == pytest.approx(
        0.3 * 0.4 + 0.2 + 0.3 * 0.7
    )
    assert intervals.interquartile_mean([[0.0, 0.5, 0.6]]).value == pytest.approx((0.25 * 0.0 + 0.5 + 0.25 * 0.6) / 1.5)
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(60):  # two tasks about 0.5: the middle half's true mean is 0.5
        e = intervals.interquartile_mean(rng.normal(0.5, 0.1, (2, 10)).tolist())
        held += e.low <= 0.5 <= e.high
    assert held >= 51


def test_the_interquartile_mean_leaves_no_task_out() -> None:
    """Wrong version: of tasks that differ in scale the middle half of all scores is that of one task alone, 5."""
    scores = [[1.0, 1.1, 1.2], [5.0, 5.0, 5.0], [30.0, 31.0, 32.0]]
    assert intervals.interquartile_mean(scores).value == pytest.approx((1.1 + 5 + 31) / 3)


def test_probability_of_improvement() -> None:
    e = intervals.probability_of_improvement([[0.9, 0.8, 0.7], [0.5] * 3], [[0.1, 0.2, 0.3], [0.5] * 3])
    assert e.value == pytest.approx(0.75)  # 1 on the first task, ties on the second
    a, b = [0.1, 0.4, 0.6, 0.9], [0.2, 0.3, 0.5, 0.7, 0.8]
    from scipy.stats import mannwhitneyu

    e = intervals.probability_of_improvement([a], [b])
    assert e.value == pytest.approx(mannwhitneyu(a, b).statistic / 20)
    assert e.low < 0.5 < e.high
    assert np.isnan(intervals.probability_of_improvement([a[:2]], [b]).low)  # two seeds: no interval


def test_rewards_are_compared_in_the_same_setup_over_tasks(tmp_path: Path) -> None:
    for task in ("color", "antonym"):
        for seed in range(3):
            write_run(tmp_path, task, "pgsrm", seed, kl=[1.0] * UPDATES, exact=(0.0, 0.8 + seed / 100))
            write_run(tmp_path, task, "binary", seed, kl=[1.0, 2.0] * 50, exact=(0.0, 0.5 + seed / 100))
    write_run(tmp_path, "antonym", "pgsrm", 0, choices={"ppo": "paper"})  # no binary to compare with
    variants, _ = load_variants([tmp_path], COLUMNS)
    (table,) = comparisons(variants)
    rows = {row["measure"]: row for row in table_rows(table.markdown())}
    held_out = rows["right greedy answers, held out"]
    assert held_out["IQM PGSRM"].startswith("0.405 [") and held_out["IQM Binary"].startswith("0.255 [")
    assert held_out["P, all tasks"] == "1.00 [1.00, 1.00]" and held_out["P, antonym"] == "1.00"
    assert held_out["runs PGSRM"] == held_out["runs Binary"] == "6"
    assert held_out["tasks"] == "2" and "ppo=paper" not in table.markdown()
    assert "right answers, last tenth" not in rows  # reward/exact_match is not recorded


def test_runs_that_diverged_are_counted_as_the_worst_and_leave_no_mean(tmp_path: Path) -> None:
    """Wrong version: the two survivors under PGSRM win, and nothing says that three diverged."""
    for seed in range(5):
        write_run(tmp_path, "color", "binary", seed, exact=(0.0, 0.5))
        if seed < 2:
            write_run(tmp_path, "color", "pgsrm", seed, exact=(0.0, 0.8))
        else:
            failed = {"rewards": [0.1] * 20, "updates": UPDATES, "state": "failed", "status": DIVERGED}
            write_run(tmp_path, "color", "pgsrm", seed, **failed)
    variants, _ = load_variants([tmp_path], COLUMNS)
    (table,) = comparisons(variants)
    row = next(row for row in table_rows(table.markdown()) if row["measure"] == "right greedy answers, held out")
    assert (row["runs PGSRM"], row["runs Binary"], row["P, color"]) == ("2 (+3 diverged)", "5", "0.40")
    assert "IQM PGSRM" not in row and row["IQM Binary"].startswith("0.250")
    assert row["P, all tasks"].startswith("0.40 [")


def test_a_machine_that_failed_says_nothing_of_a_reward(tmp_path: Path) -> None:
    """Wrong version: three full disks under binary are its defeat."""
    for seed in range(6):
        ended = {"exact": (0.0, 0.9)} if seed < 3 else {"state": "failed", "rewards": [0.1] * 20, "updates": UPDATES}
        write_run(tmp_path, "color", "pgsrm", seed, exact=(0.0, 0.8))
        write_run(tmp_path, "color", "binary", seed, status={"reason": "the disk is full"}, **ended)
    (table,) = comparisons(load_variants([tmp_path], COLUMNS)[0])
    row = next(row for row in table_rows(table.markdown()) if row["measure"] == "right greedy answers, held out")
    assert (row["runs PGSRM"], row["runs Binary"], row["P, color"]) == ("6", "3", "0.00")
    assert row["IQM Binary"].startswith("0.450")


def test_runs_of_several_commits_are_compared_together(tmp_path: Path) -> None:
    """Wrong version: the last pair of variants stands for all."""
    for seed in range(3):
        for commit, right in (("a", 0.9), ("b", 0.3)):
            write_run(tmp_path / commit, "color", "pgsrm", seed, exact=(0.0, right), status={"commit": commit * 40},
                      variant=commit)  # fmt: skip
        write_run(tmp_path, "color", "binary", seed, exact=(0.0, 0.5))
    (table,) = comparisons(load_variants([tmp_path], COLUMNS)[0])
    row = next(row for row in table_rows(table.markdown()) if row["measure"] == "right greedy answers, held out")
    assert (row["runs PGSRM"], row["runs Binary"], row["P, color"]) == ("6", "3", "0.50")


def test_two_exponents_are_two_rewards_to_compare_with(tmp_path: Path) -> None:
    """Wrong version: six runs under PGSRM, as good as binary on average."""
    for seed in range(3):
        for task, alphas in (("color", {2: 0.9, 8: 0.1}), ("antonym", {2: 0.7})):
            for alpha, right in alphas.items():
                write_run(tmp_path, task, "pgsrm", seed, exact=(0.0, right), config={"reward": {"alpha": alpha}})
            write_run(tmp_path, task, "binary", seed, exact=(0.0, 0.5), config={"reward": {}})
    (table,) = comparisons(load_variants([tmp_path], COLUMNS)[0])
    rows = [row for row in table_rows(table.markdown()) if row["measure"] == "right greedy answers, held out"]
    found = [(row["setup"], row["tasks"], row["runs PGSRM"], row["P, color"], row["P, antonym"]) for row in rows]
    assert found == [("reward.alpha=2", "2", "6", "1.00", "1.00"), ("reward.alpha=8", "1", "3", "0.00", "-")]


def test_two_embedders_of_a_reward_are_not_taken_together(tmp_path: Path) -> None:
    """Also where it is the second one of a comparison: binary is the same whichever embedder was chosen."""
    for seed in range(3):
        write_run(tmp_path, "color", "binary", seed, exact=(0.0, 0.5), config={"reward": {}}, choices={"embedder": "a"})
        for embedder, right in (("a", 0.9), ("b", 0.1)):
            config = {"reward": {"embedder": {"path": embedder}}}
            write_run(
                tmp_path, "color", "near", seed, exact=(0.0, right), config=config, choices={"embedder": embedder}
            )
    (table,) = comparisons(load_variants([tmp_path], COLUMNS)[0])
    rows = [row for row in table_rows(table.markdown()) if row["measure"] == "right greedy answers, held out"]
    assert [(row["setup"], row["runs near"], row["P, color"]) for row in rows] == [
        ("embedder=a", "3", "0.00"),
        ("embedder=b", "3", "1.00"),
    ]


def test_a_reward_of_which_every_run_diverged_is_compared_too(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path, "color", "pgsrm", seed, exact=(0.0, 0.8))
        failed = {"rewards": [0.1] * 20, "updates": UPDATES, "state": "failed", "status": DIVERGED}
        write_run(tmp_path, "color", "binary", seed, **failed)
    variants, _ = load_variants([tmp_path], COLUMNS)
    (table,) = comparisons(variants)
    assert {row["runs Binary"] for row in table_rows(table.markdown())} == {"0 (+3 diverged)"}
    assert {row["P, all tasks"] for row in table_rows(table.markdown())} == {"1.00 [1.00, 1.00]"}
