"""The report, experiments and MLflow as a source, on synthetic runs."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml  # type: ignore[import-untyped]
from analysis_runs import UPDATES, ramp, table_rows, write_run
from matplotlib.text import Text

from pgsrm.analysis import plot_figures, report, style
from pgsrm.analysis.configs import differences
from pgsrm.analysis.experiments import difference_table, experiments, level_table, main_runs
from pgsrm.analysis.findings import find
from pgsrm.analysis.overview import overview
from pgsrm.analysis.results import COLUMNS
from pgsrm.analysis.samples import read_samples, shared_ends
from pgsrm.analysis.variants import group_runs, load_variants
from pgsrm.util.paths import conf_folder

VOID = {"meta", "img", "source", "line", "br"}


class Page(HTMLParser):
    """A page's elements and text; fails on tags that do not close."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open.pop() == tag, f"{tag} closes what it did not open"

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.text += data + " "

    def all(self, tag: str, name: str) -> list[str]:
        return [str(attrs[name]) for each, attrs in self.elements if each == tag and name in attrs]

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", self.text)


def make_report(root: Path, *extra: str) -> Page:
    out = root / "out"
    assert plot_figures.main(["--runs", str(root / "runs"), "--out", str(out), "--formats", "png", *extra]) == 0
    return Page(out / "report.html")


def sample(update: int, word: str, response: str, right: bool) -> dict[str, Any]:
    prompt = f"The opposite of '{word}' is "
    return {
        "update": update,
        "prompt": prompt,
        "reference": "cold",
        "response": response,
        "reward": 0.25,
        "exact_match": right,
    }


# --- the page -----------------------------------------------------------------------------------------------


def test_the_report_is_whole_and_needs_no_network(tmp_path: Path) -> None:
    rows = [sample(u, word, f"<b>{u}</b>", u > 50) for u in (10, 50, 100) for word in ("hot", "happy")]
    for reward in ("pgsrm", "binary"):
        for seed in range(3):
            level = 0.74 + seed / 100
            rewards = ramp(0.1, level)[:40] + [level] * 60
            write_run(tmp_path / "runs", "antonym", reward, seed, rewards=rewards, exact=(0.1, 0.8), samples=rows)
    page = make_report(tmp_path)
    sources = page.all("img", "src") + page.all("source", "srcset")
    assert len(sources) == 6 and all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert not page.all("script", "src") and not page.all("link", "href")
    light, dark = (
        base64.b64decode(page.all(*where)[0].partition(",")[2]) for where in (("img", "src"), ("source", "srcset"))
    )
    assert (
        light.startswith(b"<svg") and b"0072b2" in light and b"56b4e9" in dark
    )  # the same curve in either theme's blue
    assert page.all("source", "media") == ["(prefers-color-scheme: dark)"] * 3
    assert all(page.all("img", "alt")) and "PGSRM ends at 0.75" in page.all("img", "alt")[0]
    words = page.words
    assert "6 finished runs" in words and "PGSRM (3 seeds)" in words
    assert "<b>100</b>" in words  # an answer is text, never markup
    assert "Prompt: The opposite of '…' is" in words and "0.25 ✓" in words
    assert "100 happy cold <b>100</b> 0.25 ✓" in words and "10 hot cold <b>10</b> 0.25 ✗" in words
    assert (
        "The reward under PGSRM approaches a plateau around 0.7-0.8; here, 0.05 to either side is around. (5.2) ✓"
        in words
    )
    assert "a" * 16 in words  # the commit


def test_links_lead_to_the_run_folders(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / "runs", seed=seed) for seed in range(2)]
    page = make_report(tmp_path)
    links = [link for link in page.all("a", "href") if not link.startswith("#")]
    assert [(tmp_path / "out" / link).resolve() for link in links] == [folder.resolve() for folder in folders]
    anchors = {link[1:] for link in page.all("a", "href") if link.startswith("#")}
    assert anchors == set(page.all("h2", "id"))


def test_what_is_wrong_stands_in_the_report(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", seed=0, status={"commit": "1" * 40})
    write_run(tmp_path / "runs", seed=1, status={"commit": "2" * 40})
    cut = write_run(
        tmp_path / "runs", "copy", rewards=[0.1] * 40, updates=100, state="failed", status={"reason": "disk full"}
    )
    with (cut / "metrics.jsonl").open("a") as file:
        file.write('{"update": 41, "rew')
    for seed in range(3):
        (write_run(tmp_path / "runs", "category", seed=seed) / "metrics.jsonl").unlink()
    words = make_report(tmp_path).words
    assert "1 unfinished, 1 of them failed" in words and "3 left out" in words
    assert "line 41, the last one, is half-written" in words and "failed (disk full)" in words
    assert "left out, it has no metrics.jsonl: 3 runs," in words  # once, not three times
    assert "its seeds were run at different commits: 1111111111, 2222222222" in words
    assert "PGSRM (1 seed, failed: 40%)" in words


@pytest.mark.parametrize("name", ["fidelity", "ablation"])
def test_levels_are_compared_with_the_base_that_the_sweep_begins_with(tmp_path: Path, name: str) -> None:
    """Wrong version: the ablation's with d2_value, which is first by name."""
    sweep = yaml.safe_load((conf_folder() / f"experiment/{name}.yaml").read_text())["hydra"]["sweeper"]["params"]
    for level in sweep[name].split(","):
        choices = {"experiment": name, name: level}
        write_run(tmp_path, choices=choices, config={"ppo": {"x": level}})
    (experiment,) = experiments(load_variants([tmp_path], COLUMNS)[0])
    assert experiment.levels[0][0] == sweep[name].split(",")[0]


def test_what_differs_between_settings_is_listed(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", config={"ppo": {"lr": 1e-5, "same": 1}})
    write_run(tmp_path / "runs", config={"ppo": {"lr": 3e-5, "same": 1}})
    checker = {"checker": {"_target_": "pgsrm.task.NormalizedEquality"}}
    write_run(tmp_path / "runs", reward="binary", config={"ppo": {"lr": 1e-5, "same": 1}, "reward": checker})
    words = make_report(tmp_path).words
    assert "color ppo.lr 1e-5 ppo.lr=1e-5" in words and "color ppo.lr 3e-5 ppo.lr=3e-5" in words
    assert "ppo.same" not in words and "reward.checker" not in words  # which one reward has and the other has not


def test_the_claims_show_what_runs_that_failed_have_decided(tmp_path: Path) -> None:
    """Wrong version: a reward of which every run diverged is not among the claims at all."""
    status = {"reason": "ppo: the gradient is not finite (policy/kl_coef 1e+18)"}
    for seed in range(3):
        write_run(tmp_path / "runs", seed=seed, rewards=[0.1] * 20, updates=UPDATES, state="failed", status=status)
    words = make_report(tmp_path).words
    assert "PGSRM rises Under PGSRM the reward rises. (5.1-5.5) ✗" in words
    assert "✗ does not hold 3 of 3 runs failed" in words and "color, PGSRM, 5,000 episodes" in words
    assert "no verdict" in words


def test_who_has_a_setting_is_said_in_a_few_words(tmp_path: Path) -> None:
    """Wrong version: 22 labels in one cell."""
    for level in range(12):
        for reward in ("pgsrm", "binary"):
            write_run(tmp_path, "color", reward, config={"ppo": {"lr": level, "clip": int(level == 5)}})
    variants, _ = load_variants([tmp_path], COLUMNS)
    rows = differences(variants).rows
    assert [row[2:] for row in rows if row[1] == "ppo.clip"] == [["0", "all others"], ["1", "ppo.clip=1, ppo.lr=5"]]


def test_settings_of_a_report_are_those_of_the_tasks_figures(tmp_path: Path) -> None:
    """Wrong version: Table 1 has a column for each level of each sweep."""
    write_run(tmp_path / "runs", config={"ppo": {"batch_size": 50}})
    for size in (10, 20, 30):
        write_run(tmp_path / "runs", config={"ppo": {"batch_size": size}}, choices={"experiment": "sizes"})
    page = make_report(tmp_path)
    table = (tmp_path / "out" / "table1.md").read_text()
    (row,) = [row for row in table_rows(table) if row["Hyperparameter"] == "Batch size"]
    assert row["Value"] == "50"
    assert page.words.index("sizes 4 runs") < page.words.index("color ppo.batch_size 10 ppo.batch_size=10")
    assert page.words.count("Settings that differ within a task") == 1  # in the experiment's section


def test_an_experiment_without_levels_has_a_section_that_leads_to_its_figures(tmp_path: Path) -> None:
    """Wrong version: quickstart, paper and comparison are nowhere in the report."""
    for task in ("color", "antonym"):
        write_run(tmp_path / "runs", task, choices={"experiment": "quickstart"})
    page = make_report(tmp_path)
    assert (
        "quickstart 2 runs A first look in a minute or two: half as long as nano's own default, evaluated twice as often. "
        "python -m pgsrm.run -m experiment=quickstart task=color,antonym reward=pgsrm,binary Figures, claims and results of"
    ) in page.words
    assert "antonym generation are those of the tasks." in page.words
    assert {"#curves-color", "#curves-antonym"} <= set(page.all("a", "href"))
    assert {"curves-color", "curves-antonym"} <= set(page.all("h3", "id"))


def test_an_experiment_whose_file_is_elsewhere_has_its_command(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", choices={"experiment": "my_own"})
    assert "my_own 1 run python -m pgsrm.run -m experiment=my_own" in make_report(tmp_path).words


def test_variants_without_samples_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong version: the samples stop unsaid at as many as are shown."""
    monkeypatch.setattr(report, "SAMPLED", 3)
    for lr in range(5):
        write_run(tmp_path / "runs", config={"ppo": {"lr": lr}}, samples=[sample(1, "hot", "cold", True)])
    words = make_report(tmp_path).words
    assert "2 more settings have none here" in words


def test_the_checks_of_an_experiment_on_two_tasks_are_all_written(tmp_path: Path) -> None:
    """Wrong version: those of its last task alone."""
    for task in ("color", "antonym"):
        for lr in (1, 2):
            write_run(tmp_path / "runs", task, config={"ppo": {"lr": lr}}, choices={"experiment": "rates"})
    make_report(tmp_path)
    rows = table_rows((tmp_path / "out" / "claims.md").read_text())
    assert {row["task"] for row in rows if row["experiment"] == "rates"} == {"color", "antonym"}


def test_grouped_notes() -> None:
    notes = ["/a/b/run1: left out, x", "/a/b/run2: left out, x", "color, PGSRM: mixed"]
    assert report.grouped_notes(notes) == [("left out, x", ["run1", "run2"]), ("color, PGSRM: mixed", [])]


def test_compact_keeps_a_drawing_and_drops_its_preamble() -> None:
    text = b'<?xml version="1.0"?><!DOCTYPE svg>\n<svg>\n<metadata>\nx\n</metadata>\n  <path d="M 1.23456 -2.5 \nL 0.04 7"/></svg>'
    assert report.compact(text) == b'<svg>\n<path d="M 1.2 -2.5 L 0.0 7"/></svg>'


# --- samples ------------------------------------------------------------------------------------------------


def test_samples_are_taken_from_the_beginning_to_the_end(tmp_path: Path) -> None:
    rows = [sample(u, f"w{u}x{i}", "r", False) for u in range(100, 2001, 100) for i in range(10)]
    folder = write_run(tmp_path, "antonym", samples=rows)
    with (folder / "samples.jsonl").open("a") as file:
        file.write('{"update": 2100, "prom')  # half-written
    (variant,), _ = load_variants([tmp_path], COLUMNS)
    found = read_samples(variant.runs[0])
    assert found is not None
    assert [row["update"] for row in found.rows] == [u for u in (100, 600, 1100, 1500, 2000) for _ in range(3)]
    assert (found.template, found.rows[0]["prompt"]) == ("The opposite of '…' is ", "w100x0")


def test_shared_ends_never_tear_a_word() -> None:
    assert shared_ends(["Copy: 'the cat'", "Copy: 'the car'"]) == ("Copy: 'the ", "'")
    assert shared_ends(["say red and ", "say rose and "]) == ("say ", " and ")
    assert shared_ends(["one"]) == ("", "")
    assert shared_ends(["same", "same"]) == ("", "")


# --- experiments --------------------------------------------------------------------------------------------


def alpha_sweep(root: Path) -> None:
    """An experiment over reward.alpha; binary, which has none, beside it. alpha=4 ran before under no name."""
    for seed in range(3):
        for alpha in (1, 2, 16, 4):
            named: dict[str, str] = {} if alpha == 4 else {"experiment": "alpha"}
            write_run(root, "color", "pgsrm", seed, config={"reward": {"alpha": alpha}}, choices=named,
                      rewards=ramp(0.1, 0.5 + alpha / 100 + seed / 1000), exact=(0.0, 0.5))  # fmt: skip
        write_run(root, "color", "binary", seed, config={"reward": {"checker": "x"}}, choices={"experiment": "alpha"},
                  exact=(0.0, 0.25))  # fmt: skip


def test_levels_are_in_their_order_with_intervals_and_rewards_beside(tmp_path: Path) -> None:
    alpha_sweep(tmp_path)
    for folder in tmp_path.glob("*"):  # all under the experiment's name
        text = (folder / "config.yaml").read_text()
        if "experiment" not in text:
            (folder / "config.yaml").write_text(text.replace("choices:", "choices:\n  experiment: alpha"))
    variants, _ = load_variants([tmp_path], COLUMNS)
    (experiment,) = experiments(variants)
    assert experiment.title == "alpha: color mixing"
    rows = table_rows(level_table(experiment).markdown())
    assert [(row["reward.alpha"], row["reward"]) for row in rows] == [
        ("1", "PGSRM"), ("2", "PGSRM"), ("4", "PGSRM"), ("16", "PGSRM"), ("Binary", "Binary"),
    ]  # fmt: skip
    assert rows[3]["Reward, last tenth"] == "0.661 [0.659, 0.663]"
    assert rows[4]["Right greedy answers, trained"] == "0.250 [0.250, 0.250]"


def test_a_level_is_compared_with_the_first_seed_by_seed(tmp_path: Path) -> None:
    """Seeds far apart, levels close together; wrong version: the spread of the seeds hides what differs."""
    for lr, gain in ((1, 0.0), (2, 0.1)):
        for seed in range(4):
            end = 0.3 + 0.1 * seed + gain * (seed != 3) + 0.001 * seed * gain
            state = "failed" if (lr, seed) == (1, 3) else "finished"  # no partner for the last seed
            rewards = [end] * UPDATES if state == "finished" else [end] * 10
            write_run(tmp_path, seed=seed, rewards=rewards, updates=UPDATES, state=state,
                      config={"ppo": {"lr": lr}}, choices={"experiment": "rates"})  # fmt: skip
    variants, _ = load_variants([tmp_path], COLUMNS)
    (experiment,) = experiments(variants)
    table = difference_table(experiment)
    assert table.title == "Experiment rates: color mixing, difference from 1"
    (row,) = table_rows(table.markdown())
    assert (row["ppo.lr"], row["reward"], row["seeds"]) == ("2", "PGSRM", "3")
    assert row["Reward, last tenth"] == "+0.100 [0.100, 0.100]"


def test_every_table_says_which_runs_stopped_early(tmp_path: Path) -> None:
    """Wrong version: two of them do, and the first screen says 5,000 episodes per run."""
    for lr in (1, 2):
        early = {"status": {"stopped_early": True, "update": 50}, "updates": UPDATES} if lr == 2 else {}
        write_run(
            tmp_path / "runs", rewards=ramp(0.1, 0.7, 50 if early else UPDATES), config={"ppo": {"lr": lr}}, **early
        )
    variants, _ = load_variants([tmp_path / "runs"], COLUMNS)
    found, first = find(variants, [], []), overview(variants)
    told = "1 run stopped early: its numbers, tenths too, are of the updates that it made."
    assert all(told in table.notes for table in (*found.results, *found.levels, *found.differences, first.table))
    assert found.levels and first.setting.endswith("up to 5,000 episodes (sampled responses) per run")


def test_a_level_that_ran_before_belongs_only_if_nothing_else_differs(tmp_path: Path) -> None:
    for seed in range(2):
        for lr in (1, 2):
            write_run(tmp_path, seed=seed, config={"ppo": {"lr": lr, "clip": 0}}, choices={"experiment": "rates"},
                      variant=str(lr) * 64)  # fmt: skip
        write_run(
            tmp_path, seed=seed + 2, config={"ppo": {"lr": 2, "clip": 0}}, variant="2" * 64
        )  # the same, by itself
        write_run(tmp_path, seed=seed, config={"ppo": {"lr": 2, "clip": 9}})  # another
    variants, _ = load_variants([tmp_path], COLUMNS)
    named, *_ = experiments(variants)
    assert [(v.settings, len(v.runs)) for v in named.variants] == [("ppo.lr=1", 2), ("ppo.lr=2", 4)]


def test_both_rewards_of_a_choice_are_one_level_and_failures_are_counted(tmp_path: Path) -> None:
    for level in ("released", "d2_value", "sound"):
        for reward in ("pgsrm", "binary"):
            for seed in range(3):
                state = "failed" if (level, seed) == ("d2_value", 2) else "finished"
                rewards = ramp(0.1, 0.5) if state == "finished" else [0.1] * 10
                write_run(tmp_path / "runs", "antonym", reward, seed, rewards=rewards, updates=UPDATES, state=state,
                          choices={"experiment": "fidelity", "fidelity": level}, config={"ppo": {"x": level}})  # fmt: skip
    write_run(tmp_path / "runs", "antonym", "pgsrm")
    variants, _ = load_variants([tmp_path / "runs"], COLUMNS)
    found = experiments(variants)
    shown, _ = group_runs(main_runs(variants, found))
    assert [label for label, _ in found[0].levels] == ["released", "d2_value", "sound"]
    rows = table_rows(level_table(found[0]).markdown())
    assert [row["failed"] for row in rows] == ["-", "-", "1", "1", "-", "-"]
    assert [(v.reward, v.runs[0].experiment) for v in shown] == [("pgsrm", "")]
    page = make_report(tmp_path)
    assert "fidelity 18 runs Which of the released code's choices" in page.words
    assert "python -m pgsrm.run -m experiment=fidelity Antonym generation" in page.words
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {
        "experiment_fidelity_antonym.png",
        "experiment_fidelity_antonym_curves.png",
        "experiment_fidelity_antonym.csv",
    } <= names


ERRORS = {"parent": {"error_rate": 0.0}}


@pytest.mark.parametrize("first", ["comparison", "parent_sensitivity", ""])
def test_a_run_of_two_experiments_is_in_both_whichever_made_it(tmp_path: Path, first: str) -> None:
    """The task antonym without errors belongs to the comparison of tasks and is level 0 of parent_sensitivity.

    Wrong versions: the task is gone from the figures and claims; level 0 is gone from the experiment.
    """
    for seed in range(3):
        for task in ("color", "copy"):
            write_run(tmp_path, task, seed=seed, config=ERRORS, choices={"experiment": "comparison"})
        write_run(tmp_path, "antonym", seed=seed, config=ERRORS, choices={"experiment": first} if first else {})
        write_run(tmp_path, "antonym", seed=seed, config={"parent": {"error_rate": 0.2}},
                  choices={"experiment": "parent_sensitivity"})  # fmt: skip
    variants, _ = load_variants([tmp_path], COLUMNS)
    found = experiments(variants)
    shown, _ = group_runs(main_runs(variants, found))
    assert [(v.name, len(v.runs)) for v in shown] == [(f"{task}, PGSRM", 3) for task in ("color", "antonym", "copy")]
    levels = {e.name: [(label, len(vs[0].runs)) for label, vs in e.levels] for e in found if e.task == "antonym"}
    assert levels == {"comparison": [("PGSRM", 3)], "parent_sensitivity": [("0", 3), ("0.2", 3)]}


def test_a_task_of_experiments_alone_keeps_their_first_level(tmp_path: Path) -> None:
    for rate in (0.0, 0.4):
        choices = {"experiment": "parent_sensitivity"}
        write_run(tmp_path, "antonym", config={"parent": {"error_rate": rate}}, choices=choices)
    variants, _ = load_variants([tmp_path], COLUMNS)
    (shown,) = main_runs(variants, experiments(variants))
    assert shown.settings["parent.error_rate"] == "0"


def test_a_task_that_an_experiment_with_levels_never_had_stays_out_of_it(tmp_path: Path) -> None:
    """Wrong version: every task of the comparison becomes a level 0 of parent_sensitivity."""
    write_run(tmp_path, "color", config=ERRORS, choices={"experiment": "comparison"})
    for rate in (0.0, 0.4):
        choices = {"experiment": "parent_sensitivity"}
        write_run(tmp_path, "antonym", config={"parent": {"error_rate": rate}}, choices=choices)
    variants, _ = load_variants([tmp_path], COLUMNS)
    assert {e.task for e in experiments(variants) if e.name == "parent_sensitivity"} == {"antonym"}


def test_many_curves_of_one_task_become_rows_of_panels(tmp_path: Path) -> None:
    from pgsrm.analysis.findings import find

    for lr in range(5):
        for reward in ("pgsrm", "binary"):
            write_run(tmp_path, "color", reward, config={"ppo": {"lr": lr}})
    variants, notes = load_variants([tmp_path], COLUMNS)
    (stem, draw), *_ = find(variants, notes, []).figures("text")
    (figure,) = draw()
    assert stem == "color" and len(figure.axes) == 15
    assert [axes.texts[0].get_text() for axes in figure.axes[::3]] == [f"ppo.lr={lr} (1 seed)" for lr in range(5)]


@pytest.mark.parametrize("width", ["text", "column"])
def test_many_levels_become_pages_with_one_y_axis_a_metric(tmp_path: Path, width: str) -> None:
    """Wrong versions: a figure longer than a page; panels that look alike and have other scales."""
    from pgsrm.analysis.findings import find

    for rate in range(40):
        write_run(
            tmp_path, rewards=[rate / 40] * UPDATES, config={"ppo": {"lr": rate}}, choices={"experiment": "rates"}
        )
    variants, notes = load_variants([tmp_path], COLUMNS)
    drawn = dict(find(variants, notes, []).figures(width))
    curves, dots = drawn["experiment_rates_color_curves"](), drawn["experiment_rates_color"]()
    for figure in (*curves, *dots):
        assert figure.get_size_inches()[0] == style.WIDTHS[width] and figure.get_size_inches()[1] <= style.PAGE
    across = 3 if width == "text" else 1
    rewards = [axes for figure in curves for axes in figure.axes[::across] if axes.get_ylabel() == "reward"]
    assert len(rewards) == 40 and len({axes.get_ylim() for axes in rewards}) == 1
    assert {axes.get_ylabel() for figure in curves for axes in figure.axes} == {"reward", "entropy (nats)", "KL (nats)"}
    outcomes = [axes for figure in dots for axes in figure.axes]
    assert len(outcomes) == 2 and len({axes.get_xlim() for axes in outcomes}) == 1  # 22 levels a page


@pytest.mark.parametrize("width", ["text", "column"])
def test_dots_name_the_factor_and_say_which_level_has_fewer_seeds(tmp_path: Path, width: str) -> None:
    """Wrong version: bare numbers, and a level of three seeds that looks like one of five; one without any is gone."""
    from pgsrm.analysis.findings import find

    for rate, finished in ((0.0, 5), (0.2, 3), (0.4, 0)):
        for seed in range(5):
            write_run(tmp_path, seed=seed, rewards=[0.5 + seed / 100] * UPDATES, config={"parent": {"error_rate": rate}},
                      state="finished" if seed < finished else "failed",
                      choices={"experiment": "parent_sensitivity"})  # fmt: skip
    variants, notes = load_variants([tmp_path], COLUMNS)
    (figure,) = dict(find(variants, notes, []).figures(width))["experiment_parent_sensitivity_color"]()
    (axes,) = figure.axes
    assert axes.get_ylabel() == "parent.error_rate"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "0.2", "0.4"]
    assert [text.get_text() for text in axes.texts] == ["3 of 5", "0 of 5"]
    assert figure.get_suptitle().strip() == "parent_sensitivity: color mixing"
    note = figure.get_supxlabel()
    assert "finished seeds (5 unless said)" in note and "95% interval, Student's t" in note
    figure.draw_without_rendering()
    texts = [text for text in figure.findobj(Text) if text.get_text().strip()]
    assert all(text.get_fontsize() >= 7 for text in texts)
    ticks = set(axes.findobj(Text)) - set(axes.texts)  # those beyond the axis are not drawn
    assert all(text.get_window_extent().x1 <= figure.bbox.x1 for text in texts if text not in ticks)


# --- MLflow -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with runs as the package's own mirror writes them, one of them half done, and a stranger's run."""
    from pgsrm.record import RunFolder
    from pgsrm.record.mlflow_mirror import MlflowMirror
    from pgsrm.record.params import run_params

    root = tmp_path_factory.mktemp("tracked")
    uri = f"sqlite:///{root}/mlflow.db"
    for seed, count in ((0, 100), (1, 100), (2, 40)):
        folder = write_run(root / "runs", "color", "pgsrm", seed, rewards=ramp(0.1, 0.5 + seed / 10)[:count],
                           updates=100, exact=(0.0, 0.5))  # fmt: skip
        import yaml  # type: ignore[import-untyped]

        config = yaml.safe_load((folder / "config.yaml").read_text())
        config["ppo"] |= {"episodes": 5000, "batch_size": 50}
        mirror = MlflowMirror(RunFolder(folder), {"uri": uri, "experiment": "pgsrm"}, folder.name, run_params(config),
                              {"sweep": "x", **config["choices"]})  # fmt: skip
        mirror.start()
        mirror.finish("finished" if count == 100 else "failed", None if count == 100 else "disk full", patience=120)
    from mlflow.tracking import MlflowClient

    MlflowClient(tracking_uri=uri).create_run("1", run_name="stranger")
    return uri


def test_runs_of_mlflow_give_what_their_folders_give(tracked: str) -> None:
    from pgsrm.analysis.mlflow_runs import load_mlflow_variants

    (variant,), notes = load_mlflow_variants(tracked, COLUMNS)
    (expected,), _ = load_variants([Path(tracked.removeprefix("sqlite:///")).parent / "runs"], COLUMNS)
    assert [run.seed for run in variant.complete] == [0, 1] and variant.runs[2].failed
    for mine, folders in zip(variant.runs, expected.runs, strict=True):
        assert mine.folder.name == folders.folder.name
        assert set(mine.metrics) == set(folders.metrics)
        for name in mine.metrics:
            np.testing.assert_array_equal(mine.metrics[name], folders.metrics[name])
        expected_settings = {**folders.settings, "ppo.episodes": "5000", "ppo.batch_size": "50"}
        assert mine.choices == folders.choices and mine.settings == expected_settings
    assert any("stranger: left out, it has no tags task and reward" in note for note in notes)
    assert any("not finished, 40 of 100 updates, failed (disk full)" in note for note in notes)


def test_gaps_and_what_is_no_number_are_said_of_mlflow_too(tmp_path: Path) -> None:
    """Updates 1, 2, 9 and 10 of 10, one of them not a number. Wrong version: a finished run, without a note."""
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.tracking import MlflowClient

    from pgsrm.analysis.mlflow_runs import load_mlflow_variants

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(tracking_uri=uri)
    values = {"seed": "0", "ppo.episodes": "500", "ppo.batch_size": "50"}
    for name, updates in (("holes", (1, 2, 9, 10)), ("whole", range(1, 11)), ("no seed", range(1, 11))):
        run_id = client.create_run("0", run_name=name).info.run_id
        metrics = [Metric("episodes", 50.0 * u, 0, u) for u in updates]
        metrics += [Metric("reward/mean", float("nan") if u == 2 else 0.5, 0, u) for u in updates]
        params = [Param(key, value) for key, value in values.items() if name != "no seed" or key != "seed"]
        params.append(Param("task.name", name))
        tags = [RunTag("task", "color"), RunTag("reward", "pgsrm")]
        client.log_batch(run_id, metrics=metrics, params=params, tags=tags)
        client.set_terminated(run_id)
    variants, notes = load_mlflow_variants(uri, COLUMNS)
    assert sorted((v.runs[0].folder.name, len(v.complete)) for v in variants) == [("holes", 0), ("whole", 1)]
    assert set(notes) == {
        f"{uri}/holes: 6 of the updates up to 10 are missing; taken as unfinished",
        f"{uri}/holes: reward/mean is no finite number in 1 update, left out",
        f"{uri}/whole: reward/mean is no finite number in 1 update, left out",
        f"{uri}/no seed: reward/mean is no finite number in 1 update, left out",
        f"{uri}/no seed: left out, seed=null in its config is no whole number",
    }


def test_the_command_reads_mlflow(tracked: str, tmp_path: Path) -> None:
    assert plot_figures.main(["--tracking", tracked, "--out", str(tmp_path / "out"), "--formats", "png"]) == 0
    page = Page(tmp_path / "out" / "report.html")
    assert "2 finished runs" in page.words and 'id="samples"' not in (tmp_path / "out" / "report.html").read_text()


def test_a_wrong_address_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for uri in (f"sqlite:///{tmp_path}/none.db", "outputs/mlflow.db", "http://127.0.0.1:9"):
        assert plot_figures.main(["--tracking", uri, "--out", str(tmp_path / "out")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ", 2)[2][:20] for line in lines] == [
        "no such database; th",
        "is no address; give ",
        "can't be read (API r",
    ]
    assert not (tmp_path / "none.db").exists() and not (tmp_path / "out").exists()
