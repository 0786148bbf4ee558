"""Arms at the same KL, by hand; and runs of a task without right answers in figures, tables, report, status and summary."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from analysis_runs import UPDATES, ramp, table_rows, write_run
from test_analysis_report import Page, make_report

from pgsrm.analysis import report
from pgsrm.analysis.arm_differences import arm_differences
from pgsrm.analysis.arms import arms_table, find_arms, kl_levels, plot_arms, threshold
from pgsrm.analysis.claims import PAPER, ClaimsError, read_claims
from pgsrm.analysis.curves import curve
from pgsrm.analysis.distance import at_distance, mean_up_to, up_to_distance, value_at
from pgsrm.analysis.experiments import experiments
from pgsrm.analysis.intervals import Estimate
from pgsrm.analysis.results import COLUMNS, DISTANCE, EXTRINSIC
from pgsrm.analysis.style import PAGE, WIDTHS
from pgsrm.analysis.variants import load_variants
from pgsrm.analysis.verdicts import FAILS, NO_VERDICT, check_all
from pgsrm.record import RunFolder
from pgsrm.record.summary import _last_lines, answers, end_of_run_line, summarise

NAN = float("nan")


def path(
    kl: Sequence[float], extrinsic: Sequence[float], at: Sequence[int] = (0, 20, 100)
) -> dict[int, dict[str, float]]:
    """Evaluations at a few updates, uneven in time."""
    return {
        update: {
            "eval/holdout_kl": k,
            "eval/holdout_extrinsic": e,
            "eval/holdout_gold": 2 * e,
            "eval/holdout_gold_share": 0.5 + e / 4,
            "eval/holdout_distinct_2": 0.9 - k / 100,
            "time/evaluation": 1.0,
        }
        for update, k, e in zip(at, kl, extrinsic, strict=True)
    }


def write_arm(root: Path, arm: str, seed: int, evaluations: Any, **config: Any) -> Path:
    choices = {"experiment": "arms", "critic": "lexicon", "ppo": "per_token"}
    values = {"reward": {"arm": arm}, "ppo": {"gae_lambda": 1.0}, "task": {"template": "{opening}", "checker": None}}
    rewards = ramp(0.0, 1.0)
    settings = {key: {**values.get(key, {}), **config.get(key, {})} for key in {*values, *config}}
    return write_run(root, "sentiment_control", "critic", seed, rewards=rewards, choices=choices, config=settings,
                     evaluations=evaluations)  # fmt: skip


def arms_of(root: Path) -> Any:
    variants, _ = load_variants([root], COLUMNS)
    return find_arms([], experiments(variants))


def test_a_value_where_a_path_first_comes_to_a_level() -> None:
    assert value_at([0, 2, 4], [0, 1, 5], 3) == 3
    assert value_at([0, 2, 4], [0, 1, 5], 2) == 1 and value_at([0, 2], [0, 1], 0) == 0
    assert value_at([0, 4, 1, 4], [0, 8, 0, 100], 2) == 4  # the first time
    assert value_at([4, 1], [0, 8], 2) != value_at([4, 1], [0, 8], 2)  # NaN: from above
    assert value_at([0, 1], [0, 8], 2) != value_at([0, 1], [0, 8], 2)  # NaN: never


def test_the_table_of_arms_by_hand(tmp_path: Path) -> None:
    for seed in range(3):
        write_arm(tmp_path, "sparse", seed, path([0, 1, 4], [0, 0.2, 0.8]))
        write_arm(tmp_path, "critic", seed, path([0, 2, 8], [0, 0.4, 1.0 + seed / 10]))
        write_arm(tmp_path, "uniform", seed, path([0, 2, 2.5 if seed else 3.5], [0, 0.4, 0.6]))
    (arms,) = arms_of(tmp_path)
    assert [arms.label(v) for v in arms.variants] == [f"reward.arm={arm}" for arm in ("sparse", "critic", "uniform")]
    assert threshold(arms) == pytest.approx(0.8) and kl_levels(arms) == [1.5, 3]
    table = arms_table(arms)
    rows = {row[0]: dict(zip(table.head, row, strict=True)) for row in table.rows}
    critic, sparse, uniform = (rows[f"reward.arm={arm}"] for arm in ("critic", "sparse", "uniform"))
    # by trapezoids: 20 updates from 0 to 0.2, and 80 from there to 0.8
    assert sparse["extrinsic, area"].value == pytest.approx((20 * 0.1 + 80 * 0.5) / 100)
    # on straight lines over the square root of KL: from 1 to 4 for sparse, from 2 to 8 for critic
    assert sparse["extrinsic reward at KL 3"].value == pytest.approx(0.2 + 0.6 * (3**0.5 - 1))
    assert sparse["gold share at KL 3"].value == pytest.approx(0.55 + 0.15 * (3**0.5 - 1))
    assert critic["extrinsic reward at KL 3"].value == pytest.approx(0.4 + 0.7 * (1.5**0.5 - 1))
    assert critic["extrinsic reward at KL 3"].low < critic["extrinsic reward at KL 3"].value  # an interval over seeds
    assert critic["KL, end"].value == 8 and critic["distinct-2, end"].value == pytest.approx(0.82)
    # seeds end at 1.0, 1.1 and 1.2, and pass 0.8 on a straight line from 0.4 at update 20
    times = [20 + 80 * 0.4 / (0.6 + seed / 10) for seed in range(3)]
    assert critic["updates to 0.80"].value == pytest.approx(sum(times) / 3) and critic["reach 0.80"] == "3 of 3"
    assert (uniform["reach 0.80"], uniform["updates to 0.80"]) == ("0 of 3", "-")
    assert uniform["extrinsic reward at KL 3"] == "1 of 3"  # no mean of those alone that came so far
    assert table.csv() and table.latex() and table.markdown()


def test_the_mean_up_to_a_level_by_hand() -> None:
    assert mean_up_to([0, 2, 4], [0, 1, 5], 2) == 0.5  # the line from 0 to 1
    assert mean_up_to([0, 2, 4], [0, 1, 5], 4) == (2 * 0.5 + 2 * 3) / 4
    assert mean_up_to([0, 2, 4], [0, 1, 5], 3) == pytest.approx((2 * 0.5 + 1 * 2) / 3)
    # back to 1, and from 4 to 5 on the line from -9 to 1: -3 to -1
    assert mean_up_to([0, 4, 1, 6], [0, 8, -9, 1], 5) == pytest.approx((4 * 4 - 2) / 5)
    assert mean_up_to([1, 3], [2, 4], 3) == 3  # from where it begins
    assert mean_up_to([0, 1], [0, 8], 2) != mean_up_to([0, 1], [0, 8], 2)  # NaN: never there
    assert mean_up_to([2, 3], [0, 8], 2) != mean_up_to([2, 3], [0, 8], 2)  # NaN: there from the beginning


def test_arms_less_the_one_without_a_critic_by_hand(tmp_path: Path) -> None:
    """Seed 3 has no partner. Both end 1 higher; at equal KL one is equal, and the other behind by a third of its root."""
    for seed in range(3):
        write_arm(tmp_path, "sparse", seed, path([0, 1, 4], [0, 1 + seed, 2 + 2 * seed]))
        write_arm(tmp_path, "critic", seed, path([0, 4, (3 + seed) ** 2], [0, 2 + 2 * seed, 3 + 2 * seed]))
        write_arm(tmp_path, "uniform", seed, path([0, 9, 36], [0, 2 + 3 * seed, 3 + 2 * seed]))
    write_arm(tmp_path, "critic", 3, path([0, 0.1, 0.2], [0, 5, 9]))
    (arms,) = arms_of(tmp_path)
    table = arm_differences(arms)
    assert table is not None and table.name == f"{arms.stem}_differences"
    critic, uniform = (dict(zip(table.head, row, strict=True)) for row in table.rows)
    assert (critic["arm"], uniform["arm"]) == ("reward.arm=critic", "reward.arm=uniform")
    assert critic["seeds"] == uniform["seeds"] == "3" and critic["up to KL"] == uniform["up to KL"] == "4"
    for row in (critic, uniform):
        assert row["extrinsic, end"].value == pytest.approx(1) and row["extrinsic, end"].low == pytest.approx(1)
    assert critic["KL, end"].value == pytest.approx((9 + 16 + 25) / 3 - 4)
    # up to a KL of 4 sparse is (1 + seed) times the root, with mean 1 + seed, critic the same, uniform (2 + 3 * seed) / 3 times it
    assert critic["extrinsic reward at equal KL"].value == pytest.approx(0)
    assert uniform["extrinsic reward at equal KL"].value == pytest.approx(-1 / 3)
    assert uniform["gold share at equal KL"].value == pytest.approx(-1 / 12)
    assert "+1.00 [1.00, 1.00]" in table.markdown() and table.csv() and table.latex()
    run = next(run for run in arms.variants[1].complete if run.seed == 3)
    first, last = 0.1**0.5, 0.2**0.5
    assert up_to_distance(run, EXTRINSIC, 0.2) == pytest.approx((first * 2.5 + (last - first) * 7) / last)


def test_a_claim_at_equal_kl(tmp_path: Path) -> None:
    """More at the end, and less on the way there: up to a KL of 4 the arm is behind by a third of its root in every seed."""
    for seed in range(3):
        write_arm(tmp_path, "sparse", seed, path([0, 1, 4], [0, 1 + seed / 100, 2 + seed / 50]))
        write_arm(tmp_path, "critic", seed, path([0, 9, 36], [0, 2, 3]))
    variants, _ = load_variants([tmp_path], COLUMNS)
    checks = {check.claim.name: check for check in check_all(read_claims(PAPER), variants)}
    equal = checks["critic better at equal KL"]
    assert (
        equal.verdict == FAILS
        and equal.reason == "3 seeds, up to KL 4"
        and equal.estimate.value == pytest.approx(2 / 3 - 1.01)
    )
    assert checks["critic ends better"].verdict == "holds"
    (tmp_path / "mine.yaml").write_text(
        "- {name: a, says: b, where: {}, metric: c, measure: at_equal_kl, expect: {above: 0}}"
    )
    with pytest.raises(ClaimsError, match="compares two groups of runs; name the other one under minus"):
        read_claims(tmp_path / "mine.yaml")
    (tmp_path / "mine.yaml").write_text(
        "- {name: a, says: b, where: {}, minus: {}, metric: reward/mean, measure: at_equal_kl, expect: {above: 0}}"
    )
    with pytest.raises(ClaimsError, match="is of evaluations, where KL is measured; name a metric of eval/"):
        read_claims(tmp_path / "mine.yaml")


def test_runs_that_were_first_evaluated_on_their_way_are_not_compared_over_it(tmp_path: Path) -> None:
    """Wrong version: each run's mean is over another range, and equal runs differ."""
    for seed in range(3):
        write_arm(tmp_path, "sparse", seed, path([1, 4, 9], [1, 2, 3], at=(10, 20, 100)))
        write_arm(tmp_path, "critic", seed, path([4, 9, 16], [2, 3, 4], at=(10, 20, 100)))
    variants, _ = load_variants([tmp_path], COLUMNS)
    (check,) = (c for c in check_all(read_claims(PAPER), variants) if c.claim.name == "critic better at equal KL")
    assert (
        check.verdict == NO_VERDICT and "not recorded from the reference policy on in 6 finished runs" in check.reason
    )


def test_a_claim_at_equal_kl_needs_a_distance(tmp_path: Path) -> None:
    for seed in range(3):
        for arm in ("sparse", "critic"):
            write_arm(tmp_path, arm, seed, path([0, 0, 0], [0, 1, 2]))
    variants, _ = load_variants([tmp_path], COLUMNS)
    (check,) = (c for c in check_all(read_claims(PAPER), variants) if c.claim.name == "critic better at equal KL")
    assert check.verdict == NO_VERDICT and "no distance that all runs come to in 6 finished runs" in check.reason


def test_arms_without_one_that_asks_no_critic_have_no_differences(tmp_path: Path) -> None:
    for arm in ("critic", "uniform"):
        write_arm(tmp_path, arm, 0, path([0, 1, 2], [0, 1, 2]))
    (arms,) = arms_of(tmp_path)
    assert arms.base is None and arm_differences(arms) is None
    write_arm(tmp_path / "more", "sparse", 1, path([0, 1, 2], [0, 1, 2]))
    (arms,) = arms_of(tmp_path)
    assert arms.base is not None and arm_differences(arms) is None  # no seed of both


def test_a_seed_that_does_not_get_there_bounds_the_mean_from_below_alone(tmp_path: Path) -> None:
    for seed in range(3):
        write_arm(tmp_path, "sparse", seed, path([0, 1, 4], [0, 0.2, 0.5]))
        write_arm(tmp_path, "critic", seed, path([0, 1, 4], [0, 0.5, 0.5 if seed else 0.1] if seed else [0, 0.1, 0.2]))
    (arms,) = arms_of(tmp_path)
    table = arms_table(arms)
    row = dict(zip(table.head, table.rows[1], strict=True))
    updates = row["updates to 0.50"]
    assert row["reach 0.50"] == "2 of 3" and isinstance(updates, Estimate)
    assert updates.value == pytest.approx((100 + 20 + 20) / 3) and updates.high == float("inf")


def test_a_seed_that_stopped_early_counts_as_its_own_length(tmp_path: Path) -> None:
    for seed in range(3):
        write_arm(tmp_path, "sparse", seed, path([0, 1, 4], [0, 0.2, 0.5]))
    reached = [[0, 0.1, 0.2], [0, 0.5, 0.5], [0, 0.5, 0.5]]
    stopped, *_ = [write_arm(tmp_path, "critic", seed, path([0, 1, 4], reached[seed])) for seed in range(3)]
    lines = (stopped / "metrics.jsonl").read_text().splitlines(keepends=True)
    (stopped / "metrics.jsonl").write_text("".join(line for line in lines if json.loads(line)["update"] <= 20))
    status = json.loads((stopped / "status.json").read_text())
    (stopped / "status.json").write_text(json.dumps({**status, "stopped_early": True, "update": 20}))
    (arms,) = arms_of(tmp_path)
    table = arms_table(arms)
    row = dict(zip(table.head, table.rows[1], strict=True))
    assert row["reach 0.50"] == "2 of 3" and row["updates to 0.50"].value == pytest.approx(20)


def test_arms_are_compared_under_one_setting(tmp_path: Path) -> None:
    for arm in ("critic", "sparse"):
        for gae_lambda in (1.0, 0.95):
            write_arm(tmp_path, arm, 0, path([0, 1, 4], [0, 0.2, 0.5]), ppo={"gae_lambda": gae_lambda})
    found = arms_of(tmp_path)
    assert [arms.shared for arms in found] == ["ppo.gae_lambda=0.95", "ppo.gae_lambda=1"]
    assert [arms.stem for arms in found] == [
        "arms_arms_sentiment_control_gae_lambda_0.95",
        "arms_arms_sentiment_control_gae_lambda_1",
    ]
    assert all(len(arms.variants) == 2 for arms in found)


def test_arms_may_differ_in_a_list(tmp_path: Path) -> None:
    """Wrong version: what stands behind a comma in a value is a setting of its own, and the two are no arms."""
    for paths in (["one"], ["one", "other one"]):
        write_arm(tmp_path, "critic", 0, path([0, 1, 4], [0, 0.2, 0.5]), reward={"paths": paths})
    (arms,) = arms_of(tmp_path)
    assert len(arms.variants) == 2 and arms.shared == ""


def test_two_rewards_of_a_task_are_arms_and_named_as_they_are_chosen(tmp_path: Path) -> None:
    for reward in ("critic", "sparse"):
        evaluated = path([0, 1, 4], [0, 0.2, 0.5])
        write_run(tmp_path, "sentiment_control", reward, evaluations=evaluated, config={"reward": {"arm": reward}})
    variants, _ = load_variants([tmp_path], COLUMNS)
    (arms,) = find_arms(variants, [])
    assert [arms.label(variant) for variant in arms.variants] == ["reward=sparse", "reward=critic"]
    assert len({(look.colour, look.dashes) for look in arms.looks}) == 2


def test_runs_without_such_evaluations_are_no_arms(tmp_path: Path) -> None:
    for reward in ("pgsrm", "binary"):
        write_run(tmp_path, "color", reward, exact=(0.1, 0.5))
    variants, _ = load_variants([tmp_path], COLUMNS)
    assert find_arms(variants, experiments(variants)) == []


def test_a_run_that_stays_where_it_is_has_no_level_of_kl(tmp_path: Path) -> None:
    for arm in ("sparse", "critic"):
        write_arm(tmp_path, arm, 0, path([0, 0, 0], [0.1, 0.1, 0.1]))
    (arms,) = arms_of(tmp_path)
    assert kl_levels(arms) == [] and threshold(arms) != threshold(arms)
    assert len(arms_table(arms).rows) == 2
    assert at_distance(arms.variants[0].runs[0], EXTRINSIC, 1.0) != 0


def test_a_curve_of_evaluations_has_those_that_all_seeds_have(tmp_path: Path) -> None:
    write_arm(tmp_path, "critic", 0, path([0, 1, 4], [0, 0.2, 0.5]))
    write_arm(tmp_path, "critic", 1, path([0, 3, 6], [0.2, 0.4, 0.7], at=(0, 50, 100)))
    (variant,), _ = load_variants([tmp_path], COLUMNS)
    drawn = curve(variant, DISTANCE)
    assert drawn is not None and drawn.episodes.tolist() == [0, 5000] and drawn.mean.tolist() == [0, 5]
    assert curve(variant, "eval/holdout_exact_match") is None


# --- a task without right answers, all through -----------------------------------------------------------------


def open_sample(update: int, response: str, **more: Any) -> dict[str, Any]:
    return {
        "update": update,
        "prompt": f"Opening {update % 2} of a",
        "reference": "",
        "response": response,
        "reward": 1.5,
        **more,
    }


SPANNED = {
    "token_rewards": [0.0, 0.5, 1.0],
    "offsets": [[0, 2], [2, 8], [8, 8]],
    "annotations": {"spans": [[3, 8, "positive", 0.5]], "components": {"extrinsic": 1.0}},
}


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Page:
    """Without its pictures, only what they say: test_open_task.py draws them."""
    monkeypatch.setattr(report, "picture", lambda draw, alt: report.Picture("", "", 1, 1, alt))
    samples = [open_sample(update, " a <good", **SPANNED) for update in (10, 50, 100)]
    streams = {"reward/extrinsic": 0.1, "critic/positive": 0.5, "critic/coverage": 0.1}
    for arm in ("sparse", "critic"):
        for seed in range(2):
            evaluations: Mapping[int, Any] = path([0, 1, 4], [0, 0.2, 0.5 + seed])
            folder = write_arm(tmp_path / "runs", arm, seed, {**evaluations, 7: streams, 8: streams})
            (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    return make_report(tmp_path)


def test_the_report_shows_arms_streams_and_spans_and_nothing_of_right_answers(page: Page, tmp_path: Path) -> None:
    told = " ".join(page.all("img", "alt"))
    for panel in (
        "Extrinsic reward over",
        "The critic gives over",
        "Tokens that the critic marks over",
        "Distinct-2, held out",
    ):
        assert panel in told, panel
    assert "The critic takes" not in told  # none of the runs has it
    assert "Gold share against KL. reward.arm=sparse ends at 0.75, reward.arm=critic ends at 0.75." in told
    assert "At the same KL" in page.words and "extrinsic reward at KL 3" in page.words
    anchors = {link[1:] for link in page.all("a", "href") if link.startswith("#")}
    assert anchors == set(page.all("h2", "id"))
    spans = [attrs for tag, attrs in page.elements if tag == "span" and " span " in f" {attrs.get('class')} "]
    assert {str(attrs["class"]) for attrs in spans} == {"token plus span good"}
    assert {attrs["title"] for attrs in spans} == {"reward +0.5; positive +0.5"}
    assert "<good +0.5 positive" in page.words  # text, never markup, and told without colour
    assert not {"right", "reference"} & heads(tmp_path) and "✗" not in page.words
    assert "smoothed reward/exact_match" not in page.words and "References" not in page.words
    assert page.words.count("reward.arm=sparse (2 seeds)") == 1  # the legend says what the heading does not
    assert (tmp_path / "out" / "arms_arms_sentiment_control.png").is_file()
    (sparse, critic) = table_rows((tmp_path / "out" / "arms_arms_sentiment_control.md").read_text())
    assert (sparse["arm"], critic["KL, end"]) == ("reward.arm=sparse", "4.0")
    levels = table_rows((tmp_path / "out" / "experiment_arms_sentiment_control.md").read_text())
    assert [row["Gold share, held out"] for row in levels] == ["0.750", "0.750"]
    assert not any("match" in name or "Right" in name for name in levels[0])


def heads(root: Path) -> set[str]:
    """The heads of the tables in the report."""
    text = (root / "out" / "report.html").read_text(encoding="utf-8")
    return {part.partition("</th>")[0].rpartition(">")[2] for part in text.split("<th")[1:]}


@pytest.mark.parametrize("width", ["text", "column"])
def test_title_and_legend_of_the_figure_stand_apart_and_fit(tmp_path: Path, width: str) -> None:
    for arm in ("sparse", "critic", "a_word_list_of_my_own"):
        write_arm(tmp_path, arm, 0, path([0, 1, 4], [0, 0.2, 0.5]))
    (arms,) = arms_of(tmp_path)
    figure = plot_arms(arms, width)
    figure.draw_without_rendering()
    assert figure.get_size_inches()[0] == WIDTHS[width] and figure.get_size_inches()[1] <= PAGE
    (legend,) = figure.legends
    box, whole = legend.get_window_extent(), figure.bbox
    title = figure._suptitle.get_window_extent()  # type: ignore[attr-defined]
    first_line = title.y1 - title.height / (len(figure._suptitle.get_text().splitlines()))  # type: ignore[attr-defined]
    assert box.y1 <= first_line + 1 and box.x1 <= whole.x1
    assert all(box.y0 >= axes.title.get_window_extent().y1 - 1 for axes in figure.axes)
    assert len(figure.axes) == 6


def test_summaries_of_a_task_without_right_answers(tmp_path: Path) -> None:
    folder = RunFolder(write_arm(tmp_path, "critic", 0, path([0, 1, 4], [0, 0.2, 0.5])))
    run = summarise(folder)
    assert (run.extrinsic, run.gold) == (0.5, 0.625) and run.match != run.match
    assert end_of_run_line(run).endswith("held out: extrinsic reward 0.50, gold measure 62 %")
    assert [column[:2] for column in answers([run])] == [("extrinsic", "held out"), ("gold measure", "held out")]
    closed = summarise(RunFolder(write_run(tmp_path, exact=(0.1, 0.8))))
    assert [column[:2] for column in answers([closed])] == [("right", "trained"), ("", "held out")]
    both = answers([run, closed])
    assert [column[0] for column in both] == ["right", "", "extrinsic", "gold measure"] and both[0][2] == ["-", "80 %"]
    begun = summarise(RunFolder(write_run(tmp_path, "copy", rewards=[0.1] * 3, updates=UPDATES)))
    assert [column[:2] for column in answers([begun])] == [("right", "trained")]  # nothing was evaluated yet


def test_a_long_run_without_right_answers_is_not_read_whole(tmp_path: Path) -> None:
    """Wrong version: the search for the last evaluation looks for right answers, and reads the file to its beginning."""
    file = tmp_path / "metrics.jsonl"
    lines = [
        {"update": n, "reward/mean": 0.5, **({"time/evaluation": 1.0} if n % 100 == 0 else {})} for n in range(9001)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert 100 < len(_last_lines(file, after=8990)) < 5000
