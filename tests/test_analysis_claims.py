"""Verdicts on runs whose answer is known, and what is said of a claims file that is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from analysis_runs import DIVERGED, UPDATES, ramp, table_rows, write_run

from pgsrm.analysis import intervals
from pgsrm.analysis.claims import PAPER, ClaimsError, read_claims
from pgsrm.analysis.comparison import comparisons
from pgsrm.analysis.findings import find
from pgsrm.analysis.results import COLUMNS
from pgsrm.analysis.runs import Run
from pgsrm.analysis.variants import Variant, load_variants
from pgsrm.analysis.verdicts import FAILS, HOLDS, NO_VERDICT, UNDECIDED, Check, check_all, check_names, claims_table


def claims_file(folder: Path, text: str) -> Path:
    path = folder / "claims.yaml"
    path.write_text(text)
    return path


RISES = """
- name: rises
  says: The reward rises.
  where: {reward: pgsrm}
  metric: reward/mean
  measure: change
  expect: {at_least: 0.1}
"""


def check(folder: Path, text: str = RISES) -> list[Check]:
    variants, _ = load_variants([folder / "runs"], COLUMNS)
    return check_all(read_claims(claims_file(folder, text)), variants)


@pytest.mark.parametrize(
    ("lasts", "verdict", "reason"),
    [
        ((0.5, 0.6, 0.7), HOLDS, "3 seeds"),
        ((0.12, 0.13, 0.14), FAILS, "3 seeds"),
        ((0.15, 0.25, 0.35), UNDECIDED, "3 seeds, the interval holds the bound 0.125"),
        ((0.6, 0.7), UNDECIDED, "2 of 3 finished seeds"),
        ((0.25, 0.25, 0.25), HOLDS, "3 seeds"),  # the bound itself, as at_least says
    ],
)
def test_verdicts_by_where_the_interval_lies(
    tmp_path: Path, lasts: tuple[float, ...], verdict: str, reason: str
) -> None:
    for seed, last in enumerate(lasts):
        write_run(tmp_path / "runs", seed=seed, rewards=[0.125] * 50 + [last] * 50)
    (found,) = check(tmp_path, RISES.replace("0.1", "0.125"))
    assert (found.verdict, found.reason) == (verdict, reason)


def rising(rises: np.ndarray) -> Variant:
    """Finished runs in memory, a seed each, whose reward rises by so much from the first tenth to the last."""
    updates = np.arange(1.0, 11.0)
    runs = []
    for seed, rise in enumerate(rises):
        metrics = {"update": updates, "episodes": 50 * updates, "reward/mean": np.linspace(0, rise, 10)}
        config = {"seed": seed, "choices": {"task": "color", "reward": "pgsrm"}}
        runs.append(Run(Path(f"run{seed}"), config, {"state": "finished", "updates": 10}, metrics))
    return Variant("color", "pgsrm", (), tuple(runs))


def test_a_true_claim_is_seldom_judged_false_and_with_enough_seeds_found_true(tmp_path: Path) -> None:
    """Over many sets of five seeds around a true rise: verdicts err in no more cases than the interval's level allows."""
    claims = read_claims(claims_file(tmp_path, RISES))
    rng = np.random.default_rng(0)

    def verdicts(true: float, sets: int) -> list[str]:
        return [found.verdict for found in check_all(claims, [rising(rng.normal(true, 0.05, 5)) for _ in range(sets)])]

    for true, wrong in ((0.1001, FAILS), (0.0999, HOLDS)):  # on either side of the bound
        assert 10 < verdicts(true, 1000).count(wrong) < 45  # 25 are expected: one side of 95%
    assert verdicts(0.3, 200).count(HOLDS) > 190
    assert verdicts(-0.1, 200).count(FAILS) > 190


def test_a_failed_seed_keeps_a_claim_from_holding_but_not_from_failing(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / "runs", "color", seed=seed, rewards=ramp(0.1, 0.6 + seed / 100))
        write_run(tmp_path / "runs", "antonym", seed=seed, rewards=[0.1 + seed / 1000] * UPDATES)
    for task in ("color", "antonym"):
        write_run(tmp_path / "runs", task, seed=3, rewards=[0.1] * 20, updates=UPDATES, state="failed")
    color, antonym = check(tmp_path)
    assert (color.verdict, color.reason) == (UNDECIDED, "3 seeds would hold, but 1 of 4 runs failed")
    assert (antonym.verdict, antonym.reason) == (FAILS, "3 seeds; 1 of 4 runs failed")


def test_running_seeds_are_waited_for_without_a_word(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / "runs", seed=seed, rewards=ramp(0.1, 0.6 + seed / 100))
    write_run(tmp_path / "runs", seed=3, rewards=[0.1] * 20, updates=UPDATES, state="running")
    assert check(tmp_path)[0].verdict == HOLDS


def test_a_finished_seed_without_a_value_keeps_a_claim_from_holding(tmp_path: Path) -> None:
    for seed in range(4):
        write_run(tmp_path / "runs", seed=seed, rewards=ramp(0.1, 0.6) if seed else [0.0] * UPDATES)
    (found,) = check(tmp_path, RISES.replace("change", "kept"))  # no ratio to nothing
    assert (found.verdict, found.reason) == (
        UNDECIDED,
        "3 seeds would hold, but less than 0.1 was gained in 1 finished run",
    )


def paper_checks(root: Path) -> dict[str, Check]:
    """The paper's claims, by name, of runs of one task."""
    variants, _ = load_variants([root], COLUMNS)
    return {c.claim.name: c for c in check_all(read_claims(PAPER), variants)}


@pytest.mark.parametrize(
    ("levels", "flat", "near"),
    [
        ((0.01, 0.01, 0.01), HOLDS, HOLDS),
        # Wrong version: a change of 0.033 [0.019, 0.048] is flat, since 0.06 is below 0.1.
        ((0.05, 0.06, 0.07), FAILS, HOLDS),
        ((0.02, 0.03, 0.05), UNDECIDED, HOLDS),
        ((0.5, 0.5, 0.5), FAILS, FAILS),
    ],
)
def test_flat_is_a_small_change_and_near_zero_a_low_level(
    tmp_path: Path, levels: tuple[float, ...], flat: str, near: str
) -> None:
    for seed, level in enumerate(levels):
        write_run(tmp_path, reward="binary", seed=seed, rewards=ramp(0.01, level))
    found = paper_checks(tmp_path)
    assert (found["binary stays flat"].verdict, found["binary near zero"].verdict) == (flat, near)


def test_a_high_level_that_does_not_change_is_flat_and_not_near_zero(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path, reward="binary", seed=seed, rewards=[0.5] * UPDATES)
    found = paper_checks(tmp_path)
    assert (found["binary stays flat"].verdict, found["binary near zero"].verdict) == (HOLDS, FAILS)


@pytest.mark.parametrize(
    ("course", "verdict"),
    [
        (ramp(0.1, 0.1), NO_VERDICT),  # wrong version: nothing gained is nothing lost, 0.1 / 0.1
        (ramp(0.1, 0.7), HOLDS),
        # Half of the gain is lost; wrong version: 0.6 / 0.7 is above 0.8.
        (ramp(0.5, 0.7)[:90] + [0.6] * 10, FAILS),
    ],
)
def test_what_was_gained_is_kept(tmp_path: Path, course: list[float], verdict: str) -> None:
    for seed in range(3):
        write_run(tmp_path, seed=seed, rewards=course)
    found = paper_checks(tmp_path)["PGSRM keeps"]
    assert found.verdict == verdict
    assert verdict != NO_VERDICT or found.reason == "less than 0.1 was gained in 3 finished runs"


@pytest.mark.parametrize(
    ("course", "verdict", "reason"),
    [
        (ramp(0.1, 0.75)[:40] + [0.75] * 60, HOLDS, "3 seeds"),
        (ramp(0.1, 0.68)[:40] + [0.68] * 60, HOLDS, "3 seeds"),  # around 0.7-0.8
        (ramp(0.1, 0.6)[:40] + [0.6] * 60, FAILS, "3 seeds"),
        # Wrong version: 0.75 at the end of a climb is a plateau.
        (ramp(0.1, 0.75), NO_VERDICT, "still rising, +0.284 from the sixth tenth to the last"),
        (ramp(1.0, 0.75), NO_VERDICT, "still falling, -0.109 from the sixth tenth to the last"),
    ],
)
def test_a_plateau_is_judged_once_the_curve_is_level(
    tmp_path: Path, course: list[float], verdict: str, reason: str
) -> None:
    for seed in range(3):
        write_run(tmp_path, "antonym", seed=seed, rewards=course)
    found = paper_checks(tmp_path)["antonym plateau"]
    assert (found.verdict, found.reason) == (verdict, reason)


@pytest.mark.parametrize(
    ("updates", "jump", "verdict"),
    [
        (2000, 300, HOLDS),  # 15,000 of 100,000 episodes
        (1000, 300, HOLDS),  # wrong version: a share of the run, 0.3 of 50,000 episodes
        (2000, 500, FAILS),
        (300, 100, NO_VERDICT),  # 15,000 episodes can't be more than 20,000
    ],
)
def test_quickly_is_counted_in_episodes(tmp_path: Path, updates: int, jump: int, verdict: str) -> None:
    for seed in range(3):
        write_run(tmp_path, "sentiment", seed=seed, rewards=[0.1] * jump + [0.4] * (updates - jump))
    found = paper_checks(tmp_path)["sentiment quickly"]
    assert found.verdict == verdict and found.episodes == f"{50 * updates:,}"


KL_CLAIMS = ("PGSRM KL bounded", "PGSRM KL stable")


@pytest.mark.parametrize(
    ("course", "bounded", "stable", "reason"),
    [
        ([2.0] * UPDATES, HOLDS, HOLDS, "3 seeds"),
        ([50.0] * UPDATES, FAILS, HOLDS, "3 seeds"),  # wrong version: what is constant is bounded, however high
        (list(np.linspace(0, 60, UPDATES)), FAILS, FAILS, "3 seeds"),
        # Wrong version: the highest late value over the highest early one, -60 / 1, is below 1.25.
        (list(np.linspace(1, -60, UPDATES)), NO_VERDICT, NO_VERDICT,
         "policy/kl goes below -0.1, so that it is no divergence, in 3 finished runs"),
        # A KL that noise alone takes below zero is still one.
        ([-0.02] * 50 + [1.0] * 50, HOLDS, HOLDS, "3 seeds"),
    ],
)  # fmt: skip
def test_kl_is_bounded_by_its_size_and_stable_by_its_growth(
    tmp_path: Path, course: list[float], bounded: str, stable: str, reason: str
) -> None:
    for seed in range(3):
        write_run(tmp_path, seed=seed, kl=course)
    found = paper_checks(tmp_path)
    assert [found[name].verdict for name in KL_CLAIMS] == [bounded, stable]
    assert {found[name].reason for name in KL_CLAIMS} == {reason}


def test_a_metric_that_no_run_recorded_is_named(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / "runs", seed=seed)
    (found,) = check(tmp_path, RISES.replace("reward/mean", "reward/other"))
    assert (found.verdict, found.reason) == (NO_VERDICT, "reward/other is not recorded in 3 finished runs")


COMPARES = """
- name: steadier
  says: KL oscillates less under PGSRM.
  where: {reward: pgsrm, task: [color, antonym]}
  minus: {reward: binary}
  metric: policy/kl
  measure: oscillation
  expect: {below: 0}
"""


def test_a_comparison_is_made_task_by_task_in_the_same_setup(tmp_path: Path) -> None:
    calm, wild = [1.0] * UPDATES, [1 + 0.5 * np.sin(i / 2) for i in range(UPDATES)]
    for seed in range(3):
        for task, pgsrm, binary in (("color", calm, wild), ("antonym", wild, calm), ("copy", calm, wild)):
            noise = np.random.default_rng(seed).normal(0, 0.01, UPDATES)
            write_run(tmp_path / "runs", task, "pgsrm", seed, kl=list(pgsrm + noise))
            write_run(tmp_path / "runs", task, "binary", seed, kl=list(binary + noise[::-1]))
        write_run(tmp_path / "runs", "color", "binary", seed, choices={"ppo": "paper"}, kl=calm)
    found = check(tmp_path, COMPARES)
    assert [(c.task, c.reward, c.verdict) for c in found] == [
        ("color", "PGSRM − Binary", HOLDS),
        ("antonym", "PGSRM − Binary", FAILS),
    ]


def test_who_asks_no_critic_is_compared_with_each_critic(tmp_path: Path) -> None:
    """reward=sparse is the arm of reward=critic whose critic is not asked: its runs have none. Wrong version: no run of both."""
    runs = {
        "sparse": [("sparse", "sparse", None)],
        "critics": [("sparse", "sparse", None), ("critic", "critic", "lexicon"), ("critic", "critic", "nano")],
        "arms": [("critic", "sparse", "nano"), ("critic", "critic", "nano"), ("critic", "critic", "lexicon")],
    }
    text = RISES.replace("where: {reward: pgsrm}", "where: {reward.arm: critic}\n  minus: {reward.arm: sparse}")
    compared = {}
    for name, made in runs.items():
        for reward, arm, critic in made:
            chosen = {} if critic is None else {"critic": critic}
            node = {"arm": arm, **({} if critic is None else {"critic": {"words": critic}})}
            for seed in range(3):
                levels = ramp(0.0, 0.5 if arm == "sparse" else 0.9)
                write_run(
                    tmp_path / name / "runs",
                    "sentiment_control",
                    reward,
                    seed,
                    rewards=levels,
                    choices=chosen,
                    config={"reward": node},
                )
        compared[name] = [
            (found.verdict, found.variants and [v.arm for v in found.variants])
            for found in check(tmp_path / name, text)
        ]
    assert compared == {
        "sparse": [(UNDECIDED, ())],
        "critics": [(HOLDS, ["critic", "sparse"])] * 2,
        "arms": [(HOLDS, ["critic", "sparse"])],  # another critic is another setup
    }


def test_a_critic_within_a_sum_tells_setups_apart(tmp_path: Path) -> None:
    """Wrong version: a sum of a critic's reward counts as one without a critic, and runs of two critics are pooled."""
    for critic, last in (("lexicon", 0.5), ("nano", 0.8)):
        node = {"words": critic}
        for reward, more in (("critic", {"critic": node}), ("sum", {"parts": {"relc": {"critic": node}}})):
            for seed in range(3):
                levels = ramp(0.0, last if reward == "critic" else 0.9)
                config = {"reward": more, "critic": node}
                write_run(tmp_path / "runs", "sentiment_control", reward, seed, rewards=levels, choices={"critic": critic},
                          config=config)  # fmt: skip
    found = check(tmp_path, RISES.replace("where: {reward: pgsrm}", "where: {reward: sum}\n  minus: {reward: critic}"))
    assert sorted(round(c.estimate.value, 2) for c in found) == [0.1, 0.4]
    variants, _ = load_variants([tmp_path / "runs"], COLUMNS)
    assert all(variant.holds("critic") and not variant.holds("embedder") for variant in variants)


def test_setups_of_one_reward_with_two_critics_have_two_labels(tmp_path: Path) -> None:
    for reward, critic in (("classifier", None), ("critic", "lexicon"), ("critic", "nano")):
        node = {} if critic is None else {"critic": {"words": critic}}
        for seed in range(3):
            write_run(tmp_path, "color", reward, seed, exact=(0.1, 0.5), config={"reward": node, **node},
                      choices={} if critic is None else {"critic": critic})  # fmt: skip
    (table,) = comparisons(load_variants([tmp_path], COLUMNS)[0])
    assert list(dict.fromkeys(row[0] for row in table.rows)) == ["critic=lexicon", "critic=nano"]


def test_equal_is_not_less(tmp_path: Path) -> None:
    for seed in range(3):
        for reward in ("pgsrm", "binary"):
            write_run(tmp_path / "runs", reward=reward, seed=seed, kl=[1.0] * UPDATES)
    (found,) = check(tmp_path, COMPARES)
    assert found.verdict == FAILS and found.estimate.value == 0


def test_conditions_take_choices_and_values(tmp_path: Path) -> None:
    for alpha in (1, 4):
        for seed in range(3):
            write_run(tmp_path / "runs", seed=seed, config={"reward": {"alpha": alpha}}, rewards=ramp(0.1, 0.5))
    (found,) = check(tmp_path, RISES.replace("pgsrm}", "pgsrm, reward.alpha: 4.0}"))
    assert found.settings == "reward.alpha=4"
    (found,) = check(tmp_path, RISES.replace("pgsrm}", "pgsrm, ppo: [paper, released]}"))
    assert (found.verdict, found.reason) == (UNDECIDED, "no run of reward=pgsrm, ppo=paper|released")


def test_episodes_to_a_level(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / "runs", seed=seed, rewards=[0.1] * (20 + seed) + [0.9] * (80 - seed))
    text = RISES.replace("change", "{episodes_to: 0.5}").replace("at_least: 0.1", "at_most: 1500")
    (found,) = check(tmp_path, text)
    assert found.verdict == HOLDS and found.estimate.value == pytest.approx(1100)
    assert found.claim.definition == "episodes to 0.5 of reward/mean ≤ 1500"


def test_a_rise_time_has_a_bound_that_runs_of_this_length_can_pass(tmp_path: Path) -> None:
    """Wrong version: a claim without an upper bound never has a verdict."""
    for seed in range(3):
        write_run(tmp_path / "runs", seed=seed, rewards=ramp(0.1, 0.5 + 0.01 * seed))
    text = RISES.replace("measure: change", "measure: rise_time")
    verdicts = [check(tmp_path, text.replace("at_least: 0.1", bound))[0].verdict
                for bound in ("at_least: 1000", "at_most: 4900", "at_most: 5000")]  # fmt: skip
    assert verdicts == [HOLDS, HOLDS, NO_VERDICT]


def test_quickly_is_not_said_of_runs_that_stopped_before_it_could_fail(tmp_path: Path) -> None:
    status = {"stopped_early": True, "update": 350}
    for seed in range(3):
        write_run(
            tmp_path / "runs", "sentiment", seed=seed, rewards=[0.1] * 35 + [0.4] * 315, updates=2000, status=status
        )
    quickly = [claim for claim in read_claims(PAPER) if claim.name == "sentiment quickly"]
    (found,) = check_all(quickly, load_variants([tmp_path / "runs"], COLUMNS)[0])
    assert (found.verdict, found.reason) == (NO_VERDICT, "runs of 17,500 episodes can't go beyond 20,000")


REACHES = """
- name: faster
  says: PGSRM reaches half of the reward in fewer episodes.
  where: {reward: pgsrm}
  minus: {reward: binary}
  metric: reward/mean
  measure: {episodes_to: 0.5}
  expect: {below: 0}
"""


def reaching(root: Path, reward: str, *updates: int | None) -> None:
    """A run for each: its reward steps from 0.1 to 0.9 after so many updates, or never."""
    for seed, update in enumerate(updates):
        at = UPDATES if update is None else update
        write_run(root / "runs", reward=reward, seed=seed, rewards=[0.1] * at + [0.9] * (UPDATES - at))


@pytest.mark.parametrize(
    ("pgsrm", "binary", "verdict", "reason"),
    [
        # Wrong version: the three that came through are compared, and lead.
        ((40, 41, 42, 43, 44), (10, 12, 14, None, None), UNDECIDED,
         "5 seeds, 2 of 10 never reach 0.5, the interval holds the bound 0"),
        ((10, 11, 12, 13, 14), (40, 42, 44, None, None), HOLDS, "5 seeds; 2 of 10 never reach 0.5"),
        ((None,) * 5, (10, 12, 14, 16, 18), FAILS, "5 seeds; 5 of 10 never reach 0.5"),  # and not "not enough runs"
        ((None,) * 5, (None,) * 5, NO_VERDICT, "5 seeds, none of which reaches 0.5"),
        # By ranks three against three come out so in one of ten cases.
        ((10, 11, 12), (None,) * 3, UNDECIDED, "3 seeds, 3 of 6 never reach 0.5, the interval holds the bound 0"),
    ],
)  # fmt: skip
def test_seeds_that_never_reach_a_level_count_as_the_slowest(
    tmp_path: Path, pgsrm: tuple[int | None, ...], binary: tuple[int | None, ...], verdict: str, reason: str
) -> None:
    reaching(tmp_path, "pgsrm", *pgsrm)
    reaching(tmp_path, "binary", *binary)
    (found,) = check(tmp_path, REACHES)
    assert (found.verdict, found.reason) == (verdict, reason)


@pytest.mark.parametrize(
    ("expect", "verdict"),
    [("at_most: 1500", FAILS), ("at_least: 1500", HOLDS), ("at_most: 4900", UNDECIDED), ("at_least: 9000", UNDECIDED)],
)
def test_what_is_never_reached_is_known_to_take_longer_than_the_run(tmp_path: Path, expect: str, verdict: str) -> None:
    reaching(tmp_path, "pgsrm", 60, 62, 64, None, None)
    text = RISES.replace("change", "{episodes_to: 0.5}").replace("at_least: 0.1", expect)
    (found,) = check(tmp_path, text)
    assert found.verdict == verdict and found.estimate.high == float("inf")
    assert found.estimate.value == pytest.approx(np.mean([3050, 3150, 3250, 5000, 5000]), abs=30)


STOPPED = {"updates": 10 * UPDATES, "status": {"stopped_early": True, "update": UPDATES}}


@pytest.mark.parametrize(
    ("expect", "verdict"), [("at_least: 4900", HOLDS), ("at_least: 40000", UNDECIDED), ("at_most: 40000", UNDECIDED)]
)
def test_a_run_that_stopped_early_is_known_to_its_own_end_alone(tmp_path: Path, expect: str, verdict: str) -> None:
    """Wrong version: it counts as the 50,000 episodes that were planned, of which it made 5,000."""
    for seed in range(4):
        write_run(tmp_path / "runs", seed=seed, rewards=[0.1] * UPDATES, **STOPPED)
    text = RISES.replace("change", "{episodes_to: 0.5}").replace("at_least: 0.1", expect)
    (found,) = check(tmp_path, text)
    assert (found.verdict, found.estimate.value, found.episodes) == (verdict, 5000, "5,000")


def test_who_stopped_early_is_not_slower_than_who_took_longer(tmp_path: Path) -> None:
    """Wrong version: binary, which stopped at 5,000 episodes, is slower than PGSRM, which took 45,000."""
    for seed in range(5):
        rewards = [0.1] * (9 * UPDATES + seed) + [0.9] * (UPDATES - seed)
        write_run(tmp_path / "runs", seed=seed, rewards=rewards)
        write_run(tmp_path / "runs", reward="binary", seed=seed, rewards=[0.1] * UPDATES, **STOPPED)
    (found,) = check(tmp_path, REACHES)
    assert (found.verdict, found.episodes) == (UNDECIDED, "5,000 to 50,000")


def test_what_adds_up_is_not_compared_between_runs_of_two_lengths(tmp_path: Path) -> None:
    """Wrong version: binary, which is as steady and goes on four times as long, oscillates more."""
    rng = np.random.default_rng(0)
    for seed in range(4):
        early = {"stopped_early": True, "update": UPDATES}
        for reward, n, status in (("pgsrm", UPDATES, early), ("binary", 4 * UPDATES, {})):
            noise = list(1 + 0.1 * rng.standard_normal(n))
            write_run(tmp_path / "runs", "color", reward, seed, rewards=[0.5] * n, entropy=noise, kl=noise, status=status,
                      updates=4 * UPDATES)  # fmt: skip
    variants, _ = load_variants([tmp_path / "runs"], COLUMNS)
    (found,) = check_all([claim for claim in read_claims(PAPER) if claim.name == "binary entropy oscillates"], variants)
    assert found.verdict == NO_VERDICT
    assert found.reason == "runs of 5,000 to 20,000 episodes, over which oscillation adds up"
    (table,) = comparisons(variants)
    assert {row["measure"] for row in table_rows(table.markdown())} == {"KL drawdown (less is better)"}
    for each in (table, *find(variants, [], []).results):
        assert any("4 runs stopped early: their numbers" in note for note in each.notes)


def test_a_difference_to_who_never_gets_there_is_known_to_the_end_of_the_run(tmp_path: Path) -> None:
    """Wrong version: infinitely much longer, where no more than 250 of 5,000 episodes are known."""
    reaching(tmp_path, "pgsrm", *(None,) * 5)
    reaching(tmp_path, "binary", 94, 95, 95, 96, 96)
    (small,) = check(tmp_path, REACHES.replace("below: 0", "above: 100"))
    (large,) = check(tmp_path, REACHES.replace("below: 0", "above: 1000"))
    assert (small.verdict, large.verdict) == (HOLDS, UNDECIDED)
    assert small.estimate.low == pytest.approx(200, abs=60) and small.estimate.high == float("inf")


def test_the_rank_interval_covers_the_shift_of_skewed_times() -> None:
    rng = np.random.default_rng(0)
    held = []
    for _ in range(1000):
        a, b = rng.exponential(1, 6) + 0.5, rng.exponential(1, 6)
        e = intervals.rank_difference_interval(a.tolist(), b.tolist(), [100.0] * 6, [100.0] * 6)
        held.append(e.low <= 0.5 <= e.high)
    assert 0.94 < np.mean(held) < 0.985
    e = intervals.rank_difference_interval(
        [1.0, 2.0, 3.0, 4.0], [11.0, 12.0, 13.0, float("inf")], [20.0] * 4, [20.0] * 4
    )
    assert (e.value, e.low, e.high) == (-10.0, -float("inf"), -7.0)


@pytest.mark.parametrize(
    ("reason", "verdict"),
    [(DIVERGED, FAILS), ({"reason": "disk full"}, NO_VERDICT)],  # a full disk refutes nothing
)
def test_a_rising_reward_is_not_what_runs_that_diverged_have(
    tmp_path: Path, reason: dict[str, str], verdict: str
) -> None:
    """Wrong version: "not enough runs", however many failed."""
    for seed in range(4):
        write_run(tmp_path, seed=seed, rewards=[0.1] * 20, updates=UPDATES, state="failed", status=reason)
    found = {name: (c.verdict, c.reason) for name, c in paper_checks(tmp_path).items()}
    assert found["PGSRM rises"] == (verdict, "4 of 4 runs failed")
    assert found["PGSRM entropy falls"] == (NO_VERDICT, "4 of 4 runs failed")


def test_runs_that_are_still_going_may_decide_what_failed_ones_leave_open(tmp_path: Path) -> None:
    """Wrong version: no verdict, although three more runs are on their way."""
    write_run(tmp_path / "runs", seed=0)
    for seed in range(1, 6):
        state = "failed" if seed < 3 else "running"
        write_run(tmp_path / "runs", seed=seed, rewards=[0.1] * 20, updates=UPDATES, state=state)
    (found,) = check(tmp_path)
    assert (found.verdict, found.reason) == (UNDECIDED, "1 of 3 finished seeds; 2 of 6 runs failed")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- [", "is no YAML in line"),
        ("name: x", "is no list of claims"),
        ("- just words", "claim 1: is no mapping"),
        (RISES.replace("metric: reward/mean", ""), "claim 1 (rises): metric is missing; set it"),
        (RISES + "  colour: red", "claim 1 (rises): colour is unknown; there are name, says,"),
        (RISES.replace("change", "chnage"), "measure=chnage is unknown; there are start, end,"),
        (RISES.replace("change", "episodes_to"), "only episodes_to takes a level"),
        (RISES.replace("change", "{change: 0.5}"), "only episodes_to takes a level"),
        (RISES.replace("at_least: 0.1", "over: 0.1"), "expect={'over': 0.1}: give at_least, at_most or both"),
        (RISES.replace("at_least: 0.1", "at_least: high"), "give at_least, at_most or both"),
        (RISES.replace("at_least: 0.1", "at_least: 0.9, at_most: 0.1"), "the lower bound is above the upper one"),
        (RISES.replace("{reward: pgsrm}", "pgsrm"), "where=pgsrm: is no mapping"),
        (RISES + "  min_seeds: 1", "min_seeds=1: must be a whole number of at least 3"),
        (RISES + "  must_finish: 1", "must_finish=1: must be true or false"),
        (RISES.replace("change", "[last]"), "measure=['last'] is unknown; there are start, end,"),
        (RISES.replace("at_least: 0.1", "above: .nan"), "with finite numbers"),
        (RISES.replace("at_least: 0.1", "at_most: .inf"), "with finite numbers"),
        (RISES.replace("change", "{episodes_to: .nan}"), "only episodes_to takes a level"),
        (RISES + "  metric: policy/kl", "metric is there twice, again in line 8; keep one"),
        (RISES.replace("reward: pgsrm", "reward: pgsrm, reward: binary"), "reward is there twice, again in line 4"),
        (
            RISES.replace("reward: pgsrm", "ppo: {kl_coef: 0.1}"),
            "where: ppo takes a value or a list of values; write ppo.kl",
        ),
        (RISES.replace("pgsrm", "[]"), "where: reward takes a value or a list of values"),
        (RISES + "  settled: -1", "settled=-1: must be a number above 0"),
        (RISES + RISES, "claim 2: name=rises is taken"),
    ],
)
def test_errors_in_a_claims_file_are_one_line(tmp_path: Path, text: str, expected: str) -> None:
    path = claims_file(tmp_path, text)
    with pytest.raises(ClaimsError) as caught:
        read_claims(path)
    message = str(caught.value)
    assert message.startswith(f"--claims={path}: ") and expected in message and "\n" not in message


def test_the_command_says_what_is_wrong_with_a_claims_file_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pgsrm.analysis import plot_figures

    write_run(tmp_path / "runs")
    out = tmp_path / "out"
    args = ["--runs", str(tmp_path / "runs"), "--out", str(out), "--claims"]
    assert plot_figures.main([*args, str(tmp_path / "none.yaml")]) == 1
    assert plot_figures.main([*args, str(claims_file(tmp_path, RISES.replace("change", "x")))]) == 1
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 2 and "can't be read (No such file" in err[0] and not out.exists()
    assert plot_figures.main([*args, str(claims_file(tmp_path, RISES)), "--formats", "png"]) == 0
    assert "| rises | color | PGSRM |" in (out / "claims.md").read_text()


ANTONYM = (
    "PGSRM rises", "PGSRM keeps", "binary stays flat", "binary near zero", "sharp jump", "antonym plateau",
    "PGSRM entropy falls", "PGSRM entropy settles", "binary entropy stays high", "PGSRM KL bounded", "PGSRM KL stable",
    "binary KL hesitant",
)  # fmt: skip


def test_a_name_of_the_papers_is_taken(tmp_path: Path) -> None:
    path = claims_file(tmp_path, RISES.replace("name: rises", "name: PGSRM rises"))
    with pytest.raises(ClaimsError, match=r"claim 1: name=PGSRM rises is taken; give each its own"):
        read_claims(PAPER, path)


@pytest.mark.parametrize(
    ("condition", "value"),
    [
        ("ppo.whiten_advantages: true", True),
        ("ppo.clip_range: null", None),
        ("ppo.kl_coef: 1e-2", 0.01),  # which YAML takes for a text
        ("ppo.kl_control: fixed", "fixed"),
        ("ppo.episodes: 1234567", 1234567),
    ],
)
def test_conditions_match_what_yaml_makes_of_a_runs_values(tmp_path: Path, condition: str, value: object) -> None:
    key = condition.partition(":")[0].removeprefix("ppo.")
    for seed in range(3):
        write_run(tmp_path / "runs", seed=seed, config={"ppo": {key: value}})
        write_run(tmp_path / "runs", seed=seed, config={"ppo": {key: 1234568}})
    (found,) = check(tmp_path, RISES.replace("reward: pgsrm", condition))
    assert found.verdict == HOLDS and len(found.variants[0].runs) == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (RISES.replace("reward/mean", "reward/maen"),
         "claim 1 (rises): metric=reward/maen is in no run; there are episodes, policy/entropy, policy/kl, reward/mean, time/"),
        (RISES.replace("reward: pgsrm", "rewrad: pgsrm"),
         "claim 1 (rises): rewrad is in no run's config; there are algorithm, experiment, model, ppo, ppo.lr, reward, "
         "reward.alpha, task"),
        (COMPARES.replace("{reward: binary}", "{ppo.rl: 1}"), "ppo.rl is in no run's config"),
    ],
)  # fmt: skip
def test_names_that_no_run_has_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, expected: str
) -> None:
    """Wrong version: "not enough runs"."""
    from pgsrm.analysis import plot_figures

    write_run(tmp_path / "runs")
    args = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--claims"]
    assert plot_figures.main([*args, str(claims_file(tmp_path, text))]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line and not (tmp_path / "out").exists()


def test_a_value_that_no_run_has_is_noted_with_those_they_have(tmp_path: Path) -> None:
    """It may be another file's, or misspelt: a claims file is read for runs of some tasks too."""
    write_run(tmp_path / "runs")
    write_run(tmp_path / "runs", reward="binary")
    claims = read_claims(claims_file(tmp_path, RISES.replace("pgsrm", "pgrsm")))
    variants, _ = load_variants([tmp_path / "runs"], COLUMNS)
    (note,) = check_names(claims, variants)
    assert note.endswith("claim 1 (rises): no run has reward=pgrsm; they have binary, pgsrm")
    assert check_names(read_claims(claims_file(tmp_path, RISES)), variants) == []


def papers_runs(root: Path, seeds: int) -> None:
    """Runs of the paper's word task antonym as its section 5.2 describes them."""
    rng = np.random.default_rng(0)
    n = 400
    for seed in range(seeds):
        noise = rng.normal(0, 0.01, n)
        jump = np.concatenate([np.full(180, 0.1), np.linspace(0.1, 0.73, 20), np.linspace(0.73, 0.75, 200)])
        fall = np.concatenate([np.linspace(5, 0.6, 60), np.linspace(0.6, 1.5, 40), np.full(300, 0.5)])
        settled = np.concatenate([np.linspace(0, 2, 100), np.full(300, 2.0)])
        write_run(root, "antonym", "pgsrm", seed, rewards=list(jump + noise), entropy=list(fall + noise),
                  kl=list(settled + noise))  # fmt: skip
        flat = np.abs(rng.normal(0, 0.01, n))
        write_run(root, "antonym", "binary", seed, rewards=list(flat), entropy=list(4.8 + 3 * noise),
                  kl=list(0.2 + noise))  # fmt: skip


def test_the_papers_claims_hold_on_the_papers_curves(tmp_path: Path) -> None:
    papers_runs(tmp_path, 4)
    variants, _ = load_variants([tmp_path], COLUMNS)
    found = {c.claim.name: c.verdict for c in check_all(read_claims(PAPER), variants) if c.task == "antonym"}
    for name in ANTONYM:
        assert found[name] == HOLDS, name


def test_the_papers_claims_do_not_hold_on_the_opposite(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for seed in range(4):
        noise = rng.normal(0, 0.01, 400)
        up, down = np.linspace(0.1, 0.9, 400), np.linspace(0.9, 0.1, 400)
        lost = np.concatenate([np.linspace(0.1, 0.9, 100), np.linspace(0.9, 0.1, 100), np.full(200, 0.1)])
        write_run(tmp_path, "antonym", "pgsrm", seed, rewards=list(lost + noise), entropy=list(1 + up + noise),
                  kl=list(15 * up + noise))  # fmt: skip
        write_run(tmp_path, "antonym", "binary", seed, rewards=list(up + noise), entropy=list(down + noise),
                  kl=list(30 * up + noise))  # fmt: skip
    variants, _ = load_variants([tmp_path], COLUMNS)
    found = {c.claim.name: c.verdict for c in check_all(read_claims(PAPER), variants) if c.task == "antonym"}
    for name in ANTONYM:
        assert found[name] == FAILS, name


def test_the_papers_claims_on_two_seeds_are_not_enough(tmp_path: Path) -> None:
    papers_runs(tmp_path, 2)
    variants, _ = load_variants([tmp_path], COLUMNS)
    assert {c.verdict for c in check_all(read_claims(PAPER), variants)} == {UNDECIDED}


def test_claims_table_names_definition_value_and_reason(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / "runs", seed=seed, rewards=ramp(0.1, 0.5 + seed / 10))
    (row,) = table_rows(claims_table({"": check(tmp_path)}).markdown())
    assert row["episodes"] == "5,000" and row["definition"] == "change of reward/mean ≥ 0.1" and row["verdict"] == HOLDS
    assert row["value"] == "0.500 [0.252, 0.748]"
