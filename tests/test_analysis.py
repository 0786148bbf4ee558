"""Analysis on synthetic run folders: reading, grouping, curves, figures, tables, the command."""

from __future__ import annotations

import csv
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from analysis_runs import ANALYSIS, BATCH, UPDATES, ramp, table_rows, write_run

from pgsrm.analysis import curves, figures, measures, plot_figures, results
from pgsrm.analysis.paper_tables import paper_tables
from pgsrm.analysis.runs import NoRunsError, find_run_folders, read_metrics, read_run
from pgsrm.analysis.style import PAGE, looks_of_rewards
from pgsrm.analysis.variants import load_variants
from pgsrm.record import RunFolder
from pgsrm.record.summary import summarise

COLUMNS = ["reward/mean", "policy/entropy", "policy/kl"]


# --- finding and reading ------------------------------------------------------------------------------------


def test_runs_are_found_at_and_below_a_folder_but_not_inside_one(tmp_path: Path) -> None:
    run = write_run(tmp_path / "deep" / "sweep")
    write_run(run / "checkpoints")
    write_run(tmp_path / ".hidden")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text("seed: 0\n")
    assert find_run_folders(tmp_path) == [run]
    assert find_run_folders(run) == [run]


def test_a_run_named_twice_counts_once(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    variants, notes = load_variants([tmp_path, run], COLUMNS)
    assert [len(variant.runs) for variant in variants] == [1]
    assert notes == []


def test_half_written_last_line_is_left_out_and_said(tmp_path: Path) -> None:
    run = write_run(tmp_path, rewards=[0.1, 0.2, 0.3], state="running", updates=10)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"update": 4, "reward/mean": 0.')
    metrics, notes = read_metrics(run / "metrics.jsonl", COLUMNS)
    assert metrics["reward/mean"].tolist() == [0.1, 0.2, 0.3]
    assert notes == ["metrics.jsonl: line 4, the last one, is half-written; left out"]


def test_broken_repeated_and_non_finite_lines_are_said(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"update": 1, "episodes": 5, "reward/mean": 0.1}\n\x00\x00\n'
        '{"update": 2, "episodes": 10, "reward/mean": 0.2}\n[3]\n'
        '{"update": 2, "episodes": 10, "reward/mean": 0.5}\n'
        '{"update": 3, "episodes": 15, "reward/mean": NaN}\n'
    )
    metrics, notes = read_metrics(path, ["reward/mean"])
    np.testing.assert_equal(metrics["reward/mean"], [0.1, 0.5, np.nan])
    assert metrics["episodes"].tolist() == [5, 10, 15]
    assert notes == [
        "metrics.jsonl: 2 broken lines left out, the first is line 2",
        "metrics.jsonl: 1 update written twice, the later line counts",
        "metrics.jsonl: reward/mean is no finite number in 1 line, left out",
    ]


@pytest.mark.parametrize(
    ("state", "on_file", "expected"),
    [
        ("running", 40, "not finished, 40 of 100 updates, running"),
        ("failed", 40, "not finished, 40 of 100 updates, failed (disk full)"),
        ("finished", 99, "not finished, 99 of 100 updates, finished"),  # says so, but has lost an update
    ],
)
def test_unfinished_runs_are_said(tmp_path: Path, state: str, on_file: int, expected: str) -> None:
    reason = {"reason": "disk full"} if state == "failed" else {}
    folder = write_run(tmp_path, rewards=[0.1] * on_file, updates=100, state=state, status=reason)
    run, notes = read_run(folder, COLUMNS)
    assert run is not None and not run.complete
    assert notes == [f"{folder}: {expected}"]


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("metrics.jsonl", None, "it has no metrics.jsonl"),
        ("metrics.jsonl", "", "it has no update yet"),
        ("metrics.jsonl", '{"update": 0}\n', "it has no update yet"),
        ("config.yaml", None, "config.yaml is missing or has no choices of task and reward"),
        ("config.yaml", "a: [", "config.yaml is missing or has no choices of task and reward"),
        ("config.yaml", "seed: 1", "config.yaml is missing or has no choices of task and reward"),
    ],
)
def test_runs_without_what_is_needed_are_left_out(tmp_path: Path, file: str, text: str | None, expected: str) -> None:
    folder = write_run(tmp_path)
    if text is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(text)
    assert read_run(folder, COLUMNS) == (None, [f"{folder}: left out, {expected}"])


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("config.yaml", "seed: 0", "seed: null", "seed=null in its config is no whole number"),
        ("config.yaml", "seed: 0", "seed: first", 'seed="first" in its config is no whole number'),
        ("config.yaml", "task: color", "task: null", "config.yaml is missing or has no choices of task and reward"),
        ("status.json", '"updates": 100', '"updates": "many"', 'updates="many" in its status is no whole number'),
        ("status.json", '"updates": 100', '"updates": 0', "updates=0 in its status is no whole number of at least 1"),
        ("status.json", '"seconds": 120.0', '"seconds": "x"', 'seconds="x" in its status is no number'),
        ("status.json", '"variant": "', '"variant": 7, "v": "', "variant=7 in its status is no text"),
        ("metrics.jsonl", '"episodes": 5000', '"episodes": null', "1 of its updates have no number of episodes"),
        ("metrics.jsonl", '"episodes": 5000, ', "", "1 of its updates have no number of episodes"),
        ("metrics.jsonl", '"episodes": 5000', '"episodes": "x"', "1 of its updates have no number of episodes"),
    ],
)
def test_runs_with_a_wrong_value_are_left_out(tmp_path: Path, file: str, old: str, new: str, expected: str) -> None:
    """Wrong versions: a traceback; an x axis that ends at zero."""
    folder = write_run(tmp_path)
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    run, notes = read_run(folder, COLUMNS)
    assert run is None and notes[-1].startswith(f"{folder}: left out, {expected}")


def test_a_folder_of_links_to_runs(tmp_path: Path) -> None:
    """Each run counts once, whatever leads to it; links in a circle, or to nothing, end nothing."""
    from analysis_runs import ramp, write_run

    from pgsrm.analysis.frames import load_runs
    from pgsrm.analysis.variants import load_variants
    from pgsrm.launch.status import find_runs

    runs = [write_run(tmp_path / "elsewhere/runs", seed=seed, rewards=ramp(0.1, 0.7)) for seed in range(3)]
    chosen = tmp_path / "chosen"
    (chosen / "below").mkdir(parents=True)
    for run in runs[:2]:
        (chosen / run.name).symlink_to(run)
    (chosen / "again").symlink_to(runs[0])
    (chosen / "gone").symlink_to(tmp_path / "nowhere")
    (chosen / "round").symlink_to(chosen)
    (chosen / "below/up").symlink_to(tmp_path / "chosen/below")
    (chosen / "below/deep").symlink_to(tmp_path / "elsewhere/runs")
    found = find_run_folders(chosen)
    assert len(found) == len({folder.resolve() for folder in found}) == 3
    assert sorted(found) == sorted(runs)  # wrong version: one of them is called `again`
    (variant,), _ = load_variants([chosen], ["reward/mean"])
    assert sorted(run.seed for run in variant.runs) == [0, 1, 2]
    assert load_runs(chosen)["seed"].nunique() == 3
    link = tmp_path / "link"
    link.symlink_to(chosen)
    assert len(find_run_folders(link)) == 3
    assert sorted(folder.path for folder in find_runs([chosen])) == sorted(runs[:2])
    assert find_run_folders(chosen / "again") == [folder.path for folder in find_runs([chosen / "again"])] == runs[:1]


def test_a_link_to_the_outputs_or_to_their_runs_is_no_other_place(tmp_path: Path) -> None:
    """On a cluster they often lie on another disk. Wrong version: trackers write there beside them, and not where they did."""
    from pgsrm.record.links import run_path

    made = {"paths": {"outputs": str(tmp_path / "outputs")}}
    disk = write_run(tmp_path / "disk/all", config=made)
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs/runs").symlink_to(disk.parent)
    (tmp_path / "link").symlink_to(tmp_path / "outputs")
    (tmp_path / "runs").symlink_to(disk.parent)
    for outputs in ("outputs", "link"):
        kept = tmp_path / outputs / "runs" / disk.name
        assert run_path(kept) == kept and find_run_folders(tmp_path / outputs) == [kept]
    assert run_path(tmp_path / "runs" / disk.name) == disk == run_path(disk)  # another place that leads there
    (tmp_path / "moved").symlink_to(disk.parents[1])
    assert run_path(tmp_path / "moved/all" / disk.name) == tmp_path / "moved/all" / disk.name


def test_without_a_status_a_run_is_not_taken_for_finished(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    (folder / "status.json").unlink()
    run, notes = read_run(folder, COLUMNS)
    assert run is not None and not run.complete and len(run.variant) == 64
    assert "not finished, 100 of 100 updates, unknown" in notes[0]


def test_no_runs_is_one_line_and_an_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plot_figures.main(["--runs", str(tmp_path)]) == 1
    assert plot_figures.main(["--runs", str(tmp_path / "absent")]) == 1
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 2
    assert "no run folder in it" in err and "no such folder" in err


# --- grouping -----------------------------------------------------------------------------------------------


def test_seeds_are_grouped_and_tasks_and_rewards_stand_in_the_papers_order(tmp_path: Path) -> None:
    for task, reward in (("my_task", "pgsrm"), ("antonym", "pgsrm"), ("color", "binary"), ("color", "pgsrm")):
        for seed in (2, 0, 10):
            write_run(tmp_path, task, reward, seed)
    variants, notes = load_variants([tmp_path], COLUMNS)
    assert [(v.task, v.title) for v in variants] == [
        ("color", "PGSRM"),
        ("color", "Binary"),
        ("antonym", "PGSRM"),
        ("my_task", "PGSRM"),
    ]
    assert all([run.seed for run in v.runs] == [0, 2, 10] for v in variants)
    assert notes == []


def test_variants_are_named_by_choices_and_by_values_where_the_choices_agree(tmp_path: Path) -> None:
    write_run(tmp_path, choices={"ppo": "paper"}, config={"ppo": {"lr": 3e-5, "clip": None}})
    write_run(tmp_path, config={"ppo": {"lr": 1e-5}})
    write_run(tmp_path, config={"ppo": {"lr": 2e-5}})
    write_run(tmp_path, reward="binary", config={"ppo": {"lr": 1e-5}, "reward": {"checker": "equality"}})
    variants, _ = load_variants([tmp_path], COLUMNS)
    assert [v.title for v in variants] == [
        "PGSRM, ppo=paper, ppo.lr=3e-5",
        "PGSRM, ppo=sound, ppo.lr=1e-5",
        "PGSRM, ppo=sound, ppo.lr=2e-5",
        "Binary, ppo=sound, ppo.lr=1e-5",
    ]


def test_a_value_that_differs_between_the_rewards_is_named_in_both(tmp_path: Path) -> None:
    write_run(tmp_path, reward="pgsrm", config={"ppo": {"entropy": 0.02}, "reward": {"alpha": 4}})
    write_run(tmp_path, reward="binary", config={"ppo": {"entropy": 0.01}, "reward": {"checker": "equality"}})
    variants, _ = load_variants([tmp_path], COLUMNS)
    assert [v.title for v in variants] == ["PGSRM, ppo.entropy=0.02", "Binary, ppo.entropy=0.01"]


def test_a_mixed_folder_says_alpha_and_no_hash(tmp_path: Path) -> None:
    """The wrong version kept three words of a label and put a hash in the place of the others."""
    for alpha in (1, 8):
        for model, ppo, embedder in (("nano", "sound", "static"), ("gpt2_small", "textbook", "openai")):
            write_run(tmp_path, config={"reward": {"alpha": alpha}, "embedder": {"path": None}},
                      choices={"model": model, "ppo": ppo, "embedder": embedder})  # fmt: skip
    variants, _ = load_variants([tmp_path], COLUMNS)
    assert [v.settings for v in variants] == [
        "model=gpt2_small, ppo=textbook, embedder=openai, reward.alpha=1",
        "model=gpt2_small, ppo=textbook, embedder=openai, reward.alpha=8",
        "model=nano, ppo=sound, embedder=static, reward.alpha=1",
        "model=nano, ppo=sound, embedder=static, reward.alpha=8",
    ]


def test_an_embedder_is_named_once(tmp_path: Path) -> None:
    for path in ("a.bin", "b.bin"):
        embedder = {"path": path}
        write_run(tmp_path, config={"embedder": embedder, "reward": {"alpha": 4, "embedder": embedder}})
    variants, _ = load_variants([tmp_path], COLUMNS)
    assert [v.settings for v in variants] == ["embedder.path=a.bin", "embedder.path=b.bin"]


def test_variants_that_the_config_does_not_tell_apart_carry_their_hash(tmp_path: Path) -> None:
    for digit in "12":
        write_run(tmp_path, variant=digit * 64)
    variants, _ = load_variants([tmp_path], COLUMNS)
    assert [v.settings for v in variants] == ["variant 111111", "variant 222222"]


def test_the_same_run_in_two_places_counts_once_the_finished_one(tmp_path: Path) -> None:
    write_run(tmp_path / "b", rewards=[0.1] * 50, updates=100, state="stopped")
    whole = write_run(tmp_path / "c")
    write_run(tmp_path / "d", rewards=[0.1] * 60, updates=100, state="running")
    (variant,), notes = load_variants([tmp_path], COLUMNS)
    assert [run.folder for run in variant.runs] == [whole]
    assert sum("left out, the same run as" in note for note in notes) == 2


def test_seeds_of_different_commits_are_said(tmp_path: Path) -> None:
    write_run(tmp_path, seed=0, status={"commit": "1" * 40})
    write_run(tmp_path, seed=1, status={"commit": "2" * 40})
    _, notes = load_variants([tmp_path], COLUMNS)
    assert notes == ["color, PGSRM: its seeds were run at different commits: 1111111111, 2222222222"]


# --- curves -------------------------------------------------------------------------------------------------


def test_window_is_two_percent_and_odd() -> None:
    assert [curves.window(n) for n in (1, 49, 50, 100, 2000, 10000)] == [1, 1, 1, 3, 41, 201]


def test_rolling_mean_is_centred_cut_at_the_ends_and_leaves_nan_out() -> None:
    values = np.array([1.0, 2.0, 6.0, np.nan, 8.0])
    np.testing.assert_allclose(curves.rolling_mean(values, 3), [1.5, 3, 4, 7, 8])
    np.testing.assert_allclose(curves.rolling_mean(values[:2], 9), [1.5, 1.5])
    assert np.isnan(curves.rolling_mean(np.array([np.nan, 1.0]), 1)[0])


def test_curve_of_several_seeds_is_their_mean_with_its_bootstrap_interval(tmp_path: Path) -> None:
    for seed, level in enumerate((0.2, 0.3, 0.7)):
        write_run(tmp_path, seed=seed, rewards=[level] * UPDATES, exact=(0.0, 1.0))
    (variant,), _ = load_variants([tmp_path], COLUMNS)
    drawn = curves.curve(variant, "reward/mean")
    assert drawn is not None
    assert drawn.episodes.tolist() == [BATCH * (i + 1) for i in range(UPDATES)]  # no update 0
    np.testing.assert_allclose(drawn.mean, 0.4)
    np.testing.assert_allclose(drawn.runs, np.repeat([[0.2], [0.3], [0.7]], UPDATES, axis=1))
    # Of 27 resamples one has the lowest seed thrice (3.7%): the interval of three seeds is their range.
    np.testing.assert_allclose(drawn.low, 0.2)
    np.testing.assert_allclose(drawn.high, 0.7)


def test_a_long_curve_keeps_its_ends_and_a_thousand_points(tmp_path: Path) -> None:
    write_run(tmp_path, rewards=list(np.linspace(0, 1, 5000)))
    (variant,), _ = load_variants([tmp_path], COLUMNS)
    drawn = curves.curve(variant, "reward/mean")
    assert drawn is not None and len(drawn.mean) == curves.POINTS
    assert drawn.episodes[[0, -1]].tolist() == [BATCH, 5000 * BATCH]
    assert curves.curve(variant, "no/such") is None


def test_unfinished_seeds_stay_out_of_a_curve_with_finished_ones(tmp_path: Path) -> None:
    write_run(tmp_path, seed=0, rewards=[0.5] * UPDATES)
    write_run(tmp_path, seed=1, rewards=[0.1] * 40, updates=UPDATES, state="running")
    (variant,), _ = load_variants([tmp_path], COLUMNS)
    drawn = curves.curve(variant, "reward/mean")
    assert drawn is not None and len(drawn.mean) == UPDATES
    np.testing.assert_allclose(drawn.mean, 0.5)
    assert figures.legend_label(variant) == "PGSRM (1 seed, 1 unfinished left out)"


def test_a_curve_of_unfinished_seeds_ends_where_the_first_of_them_does_and_is_marked(tmp_path: Path) -> None:
    write_run(tmp_path, seed=0, rewards=[0.5] * 41, updates=UPDATES, state="failed")
    write_run(tmp_path, seed=1, rewards=[0.1] * 60, updates=UPDATES, state="running")
    (variant,), _ = load_variants([tmp_path], COLUMNS)
    drawn = curves.curve(variant, "reward/mean")
    assert drawn is not None and len(drawn.mean) == 41
    assert figures.legend_label(variant) == "PGSRM (2 seeds, 1 failed, 1 unfinished: 41%)"


def test_spikes_do_not_flatten_a_panel_but_noise_stays_inside() -> None:
    rng = np.random.default_rng(0)
    calm = np.ones(1000)
    noise = calm + rng.normal(0, 0.1, 1000)
    spiked = noise.copy()
    spiked[::200] = 50.0
    low, high, cut = figures.frame([curves.Curve(calm, calm, calm, calm, noise[None])], faint=True)
    assert low < 0 and high > noise.max() and not cut
    low, high, cut = figures.frame([curves.Curve(calm, calm, calm, calm, spiked[None])], faint=True)
    assert high < 3 and cut


# --- figures ------------------------------------------------------------------------------------------------


def png_size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


def test_a_figure_a_task_in_both_formats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for reward in ("pgsrm", "binary"):
        write_run(tmp_path / "runs", "color", reward, 0)  # one seed
        for seed in range(3):
            write_run(tmp_path / "runs", "antonym", reward, seed, rewards=ramp(0.1, 0.6 + seed / 10))
    out = tmp_path / "made" / "figures"
    assert plot_figures.main(["--runs", str(tmp_path / "runs"), "--out", str(out)]) == 0
    paths = [out / name for name in ("color.pdf", "color.png", "antonym.pdf", "antonym.png")]
    printed = list(map(Path, capsys.readouterr().out.splitlines()))
    assert printed[:4] == paths and printed[-1] == out / "report.html"
    assert sorted(printed) == sorted(out.iterdir())  # all that is written is named
    for path in paths:
        if path.suffix == ".png":
            width, height = png_size(path)
            assert width == 7 * 220 and 2.0 < height / 220 < 2.5
        else:
            text = path.read_bytes()
            assert text.startswith(b"%PDF-") and b"/FontFile2" in text and b"/Type3" not in text


def test_the_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    write_run(tmp_path / "runs")
    for name in "ab":
        args = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / name), "--formats", "png,pdf,svg"]
        assert plot_figures.main(args) == 0
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert {"color.png", "color.pdf", "color.svg", "results.csv", "claims.tex", "report.html"} <= names
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_what_is_drawn_in_the_panels(tmp_path: Path) -> None:
    for reward, level in (("pgsrm", 0.5), ("binary", 0.0), ("rouge_l", 0.3)):
        rewards, entropy = [level] * UPDATES, [9.0] * UPDATES
        for seed in range(2):
            write_run(tmp_path, "color", reward, seed, rewards=rewards, entropy=entropy)
    variants, _ = load_variants([tmp_path], COLUMNS)
    figure = figures.plot_task(variants)
    assert [axes.get_title() for axes in figure.axes] == [title for _, title, _ in figures.PANELS]
    reward_panel, entropy_panel, kl_panel = figure.axes
    thick = [line for line in reward_panel.lines if line.get_linewidth() > 1]
    assert [np.asarray(line.get_ydata())[-1] for line in thick] == pytest.approx([0.5, 0.0, 0.3])
    assert len({line.get_color() for line in thick}) == 3  # by colour
    assert len({str(line._dash_pattern) for line in thick}) == 3  # type: ignore[attr-defined]  # and in grey
    assert entropy_panel.get_ylim()[1] > 9
    assert kl_panel.get_ylim()[0] < -0.1
    assert reward_panel.get_xlim() == (0, UPDATES * BATCH)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "PGSRM (2 seeds)",
        "Binary (2 seeds)",
        "rouge_l (2 seeds)",
    ]
    note = figure.texts[-1].get_text()
    assert "rolling mean, 2% of the updates (3)" in note and "band: 95% bootstrap of the mean" in note


def test_settings_of_one_reward_can_be_told_apart_in_grey(tmp_path: Path) -> None:
    """Wrong version: two settings of a reward are two solid lines."""
    for lr in range(3):
        for reward in ("pgsrm", "binary"):
            write_run(tmp_path, "color", reward, config={"ppo": {"lr": lr}})
    variants, _ = load_variants([tmp_path], COLUMNS)
    figure = figures.plot_task(variants)
    lines = [line for line in figure.axes[0].lines if line.get_linewidth() > 1]
    assert len({(str(line._dash_pattern), line.get_marker()) for line in lines}) == 6  # type: ignore[attr-defined]
    handles = figure.legends[0].get_lines()
    assert [handle.get_marker() for handle in handles] == [line.get_marker() for line in lines]


def test_a_figure_for_a_column_has_its_panels_below_each_other(tmp_path: Path) -> None:
    """Wrong version: 7 inches wide, whose letters shrink to 3.7 points in a column."""
    for reward in ("pgsrm", "binary"):
        write_run(tmp_path / "runs", "sentiment", reward, choices={"ppo": "paper"})
        write_run(tmp_path / "runs", "sentiment", reward)
    args = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--formats", "png"]
    assert plot_figures.main([*args, "--width", "column"]) == 0
    assert png_size(tmp_path / "out" / "sentiment.png")[0] == int(3.25 * 220)
    variants, _ = load_variants([tmp_path / "runs"], COLUMNS)
    figure = figures.plot_task(variants, "column")
    figure.draw_without_rendering()
    boxes = [axes.get_position() for axes in figure.axes]
    assert len({box.x0 for box in boxes}) == 1 and boxes[0].y0 > boxes[1].y1 > boxes[2].y1
    title, *_, note = figure.texts
    legend = figure.legends[0].get_window_extent()
    assert legend.x0 >= 0 and legend.y1 < title.get_window_extent().y0
    panels = [box for axes in figure.axes if (box := axes.get_tightbbox())]
    assert legend.y0 > panels[0].y1 and note.get_window_extent().y1 < panels[-1].y0
    assert note.get_window_extent().x1 < figure.bbox.width


def test_head_and_note_fit_the_width_also_with_long_labels(tmp_path: Path) -> None:
    for lr in range(9):
        values = {"lr": lr, "entropy_coefficient_of_the_policy": lr, "value_loss_coefficient": lr, "x": lr}
        write_run(tmp_path, "sentiment", config={"ppo": values})
    variants, _ = load_variants([tmp_path], COLUMNS)
    figure = figures.plot_task(variants)
    figure.draw_without_rendering()
    title, *_, note = figure.texts
    legend = figure.legends[0].get_window_extent()
    assert legend.x0 > title.get_window_extent().x1 and legend.x1 <= figure.bbox.width
    panels = [box for axes in figure.axes if (box := axes.get_tightbbox())]
    assert legend.y0 > max(box.y1 for box in panels)
    assert note.get_window_extent().y1 < min(box.y0 for box in panels)
    # Nothing that differs is left out of a label: the fourth value may be the one that tells two curves apart.
    assert "ppo.x=0 (1 seed)" in figure.legends[0].get_texts()[0].get_text().replace("\n", " ")


def test_the_longest_note_fits_the_width(tmp_path: Path) -> None:
    for seed in range(2):
        rewards = [0.5] * 10000
        rewards[5000] = 90.0
        write_run(tmp_path, seed=seed, rewards=rewards)
    variants, _ = load_variants([tmp_path], COLUMNS)
    figure = figures.plot_task(variants)
    note = figure.texts[-1]
    assert note.get_text().endswith("spikes cut off.")
    assert note.get_window_extent().x1 < figure.bbox.width


def test_all_panels_of_a_grid_reach_as_far_as_the_longest_run(tmp_path: Path) -> None:
    """The rows share their x axis: it was the last row's, and longer curves above it were cut off."""
    for x, episodes in enumerate((4000, 1000)):
        updates = episodes // BATCH
        write_run(tmp_path, config={"ppo": {"x": x, "episodes": episodes}}, rewards=ramp(0.1, 0.5, updates))
    variants, _ = load_variants([tmp_path], COLUMNS)
    for width, pages in (("text", 1), ("column", 3)):
        drawn = figures.plot_grid(figures.by_setting(variants), "lengths", width)
        assert len(drawn) == pages
        assert {axes.get_xlim() for page in drawn for axes in page.axes} == {(0, 4000)}


def test_a_reward_looks_alike_in_all_rows_of_a_grid_and_as_its_legend_says(tmp_path: Path) -> None:
    """Each row had looks of its own, so that two rewards could have one look, and the legend that of another row."""
    for x, rewards in enumerate((["chrf", "rouge", "pgsrm"], ["rouge"], ["edits"])):
        for reward in rewards:
            write_run(tmp_path, reward=reward, config={"ppo": {"x": x}})
    variants, _ = load_variants([tmp_path], COLUMNS)
    rows = figures.by_setting(variants)
    (page,) = figures.plot_grid(rows, "looks")

    def look(line: Any) -> tuple[object, ...]:
        return line.get_color(), str(line._dash_pattern), line.get_marker()

    (legend,) = page.legends
    said = {text.get_text(): look(line) for text, line in zip(legend.get_texts(), legend.get_lines(), strict=True)}
    assert set(said) == {"chrf", "rouge", "PGSRM", "edits"} and len(set(said.values())) == 4
    for (_, members), axes in zip(rows, page.axes[::3], strict=True):
        thick = [line for line in axes.lines if line.get_linewidth() > 1]
        assert [look(line) for line in thick] == [said[member.reward_title] for member in members]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("width", ["text", "column"])
def test_long_labels_and_many_rewards_leave_a_grid_its_layout(tmp_path: Path, width: str) -> None:
    """A long label moved the layout aside, so that there was none: panels and their labels lay upon each other."""
    for x in range(7):
        for reward in [f"my_reward_of_mine_{i}" for i in range(7)] if not x else ["pgsrm"]:
            text = f"Say the opposite of {{word}} in one word, {x}. " * 3
            write_run(tmp_path, reward=reward, config={"task": {"template": text}, "ppo": {"x": x}})
    variants, _ = load_variants([tmp_path], COLUMNS)
    pages = figures.plot_grid(figures.by_setting(variants), "labels", width)
    for page in pages:
        page.draw_without_rendering()
        assert page.get_size_inches()[1] <= PAGE
        inner = [text for axes in page.axes for text in axes.texts]
        assert all(text.get_window_extent().x1 <= page.bbox.width for text in inner)
        across = 3 if width == "text" else 1
        for row in range(0, len(page.axes), across):
            top = max(box.y1 for axes in page.axes[row : row + across] if (box := axes.get_tightbbox()))
            above = page.axes[row - across].get_window_extent().y0 if row else page.legends[0].get_window_extent().y0
            assert top <= above
        (legend,) = page.legends
        assert legend.get_window_extent().x0 >= 0


def test_long_labels_have_room_in_a_plot_of_dots(tmp_path: Path) -> None:
    from pgsrm.analysis.dot_plot import Dot, plot_dot_pages
    from pgsrm.analysis.intervals import mean_interval

    look = looks_of_rewards(load_variants([write_run(tmp_path)], COLUMNS)[0])["pgsrm"]
    levels = [f"task.template=Say the opposite of {{word}} in one word, and no other, {x}" for x in range(12)]
    dots = [Dot(level, "PGSRM", look, mean_interval([0.5]), [0.5]) for level in levels]
    pages = plot_dot_pages([("Reward", dots)], "labels", "template")
    for page in pages:
        page.draw_without_rendering()
        assert page.get_size_inches()[1] <= PAGE
        boxes = [label.get_window_extent() for label in page.axes[0].get_yticklabels()]
        assert all(above.y0 >= below.y1 for above, below in itertools.pairwise(boxes))


def test_a_metric_that_is_nowhere_is_said_in_its_panel(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    text = (folder / "metrics.jsonl").read_text().replace("policy/kl", "policy/other")
    (folder / "metrics.jsonl").write_text(text)
    variants, _ = load_variants([tmp_path], COLUMNS)
    panel = figures.plot_task(variants).axes[2]
    assert [text.get_text() for text in panel.texts] == ["policy/kl\nis not recorded"]


def test_only_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "runs", "color")
    write_run(tmp_path / "runs", "antonym", rewards=[0.1] * 5, updates=10, state="running")
    args = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--formats", "png"]
    assert plot_figures.main([*args, "--only-finished"]) == 0
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["color.png"]
    assert "not finished, 5 of 10 updates" in capsys.readouterr().err
    assert plot_figures.main(args) == 0
    assert (tmp_path / "out" / "antonym.png").exists()


def test_wrong_arguments_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "runs")
    with pytest.raises(SystemExit):
        plot_figures.main(["--formats", "pdf,jpeg"])
    assert "'jpeg' is unknown; choose of pdf, png, svg" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert plot_figures.main(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "file")]) == 1
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1 and "cannot write there" in err[0]


def test_the_command_works_from_any_folder_and_loads_neither_torch_nor_mlflow(tmp_path: Path) -> None:
    write_run(tmp_path / "outputs" / "runs")
    command = [sys.executable, "-X", "importtime", str(ANALYSIS / "plot_figures.py"), "--formats", "png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("outputs/figures/color.png\n")
    assert (tmp_path / "outputs" / "figures" / "color.png").exists()
    loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "matplotlib" in loaded and not loaded & {"torch", "mlflow", "transformers"}


def test_a_reader_that_goes_away_does_not_stop_the_work(tmp_path: Path) -> None:
    """Wrong version: `| head -1` ends it after two files, with "cannot write there: Broken pipe"."""
    write_run(tmp_path / "outputs" / "runs")
    command = f"{sys.executable} {ANALYSIS / 'plot_figures.py'} --formats png | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "outputs/figures/color.png\n0\n" and done.stderr == ""
    assert (tmp_path / "outputs" / "figures" / "report.html").exists()


def test_help_loads_nothing_heavy() -> None:
    command = [sys.executable, "-X", "importtime", str(ANALYSIS / "plot_figures.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert not loaded & {"numpy", "scipy", "pandas", "matplotlib", "yaml", "jinja2", "torch"}
    assert "--runs" in done.stdout


# --- tables of results --------------------------------------------------------------------------------------


def load_and_tabulate(root: Path) -> dict[str, list[dict[str, str]]]:
    variants, _ = load_variants([root], results.COLUMNS)
    tables = [*results.result_tables(variants), results.by_seed(variants)]
    return {table.name: table_rows(table.markdown()) for table in tables}


def test_results_by_hand(tmp_path: Path) -> None:
    for seed, level in enumerate((0.5, 0.6, 0.7)):
        write_run(tmp_path, seed=seed, rewards=ramp(0.1, level), exact=(0.02, level), status={"seconds": 90.0})
    write_run(tmp_path, reward="binary", rewards=[0.0] * UPDATES, exact=(0.02, 0.0))
    found = load_and_tabulate(tmp_path)
    pgsrm, binary = found["results"]
    # Student's t with two degrees of freedom: 4.303 standard errors of 0.1 / sqrt(3).
    assert pgsrm["last tenth"] == "0.600 [0.352, 0.848]"
    assert pgsrm["change"] == "+0.500 [0.252, 0.748]" and pgsrm["gain kept"] == "1.00 [1.00, 1.00]"
    assert (pgsrm["first tenth"], pgsrm["minutes per run"], pgsrm["seeds"]) == ("0.100 [0.100, 0.100]", "1.5", "3")
    assert (binary["change"], binary["gain kept"], binary["seeds"]) == ("+0.000", "-", "1")
    evaluated, _ = found["evaluation"]
    assert evaluated["exact match, trained: start"] == "0.020"
    assert evaluated["exact match, trained: end"] == "0.600 [0.352, 0.848]"
    assert evaluated["exact match, held out: end"] == "0.300 [0.176, 0.424]"
    assert "perplexity: end" not in evaluated  # not recorded anywhere: no column
    assert [row["exact match, trained"] for row in found["results_by_seed"]] == [
        "0.020 → 0.500", "0.020 → 0.600", "0.020 → 0.700", "0.020 → 0.000",
    ]  # fmt: skip


def test_values_before_training_have_an_interval_where_seeds_differ(tmp_path: Path) -> None:
    for seed, sampled in enumerate((0.0, 0.1, 0.2)):
        first = {"eval/train_exact_match": 0.2, "eval/train_sampled_exact_match": sampled}
        last = {"eval/train_exact_match": 0.5, "eval/train_sampled_exact_match": 0.4}
        write_run(tmp_path, seed=seed, evaluations={0: first, UPDATES: last})
    (row,) = load_and_tabulate(tmp_path)["evaluation"]
    assert row["exact match, trained: start"] == "0.200"  # greedy answers of one model
    assert row["sampled match, trained: start"] == "0.100 [-0.148, 0.348]"


def test_unfinished_seeds_are_named_and_stay_out_of_the_means(tmp_path: Path) -> None:
    write_run(tmp_path, seed=0, rewards=ramp(0.1, 0.5))
    write_run(tmp_path, seed=1, rewards=[0.9] * 35, updates=UPDATES, state="failed")
    found = load_and_tabulate(tmp_path)
    (whole,) = found["results"]
    assert whole["seeds"] == "1 (+1 failed)" and whole["last tenth"] == "0.500"
    cut = found["results_by_seed"][1]
    assert (cut["first tenth"], cut["last tenth"], cut["change"]) == ("0.900", "-", "-")
    assert cut["state"] == "failed, 35% of the updates"


def test_new_evaluation_columns_are_shown_where_there_are_any(tmp_path: Path) -> None:
    folder = write_run(tmp_path, rewards=[0.5] * 2)
    lines = [
        '{"update": 0, "eval/perplexity": 40.0, "eval/holdout_other_reward": 0.1}',
        '{"update": 1, "episodes": 50, "reward/mean": 0.5}',
        '{"update": 2, "episodes": 100, "reward/mean": 0.5, "eval/perplexity": 44.0, "eval/holdout_other_reward": 0.3}',
    ]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (row,) = load_and_tabulate(tmp_path)["evaluation"]
    assert (row["perplexity: start"], row["perplexity: end"]) == ("40.0", "44.0")
    assert row["other embedder's reward, held out: end"] == "0.300"
    assert "top share, held out: end" not in row


def test_csv_has_the_numbers_in_full_and_latex_no_bare_specials(tmp_path: Path) -> None:
    for seed, level in enumerate((0.5, 0.6, 0.7)):
        write_run(tmp_path / "runs", "my_task", seed=seed, rewards=[level] * UPDATES)
    out = tmp_path / "out"
    assert plot_figures.main(["--runs", str(tmp_path / "runs"), "--out", str(out), "--formats", "png"]) == 0
    with (out / "results.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["last tenth"]) == pytest.approx(0.6, abs=1e-12)
    assert float(row["last tenth low"]) == pytest.approx(0.6 - 4.302652729911275 * 0.1 / 3**0.5)
    text = (out / "results.tex").read_text()
    assert r"my\_task" in text and text.count(r"\\") == 2 and r"\toprule" in text


# --- tables 1 and 2 -----------------------------------------------------------------------------------------


PAPER = {
    "ppo": {
        "episodes": 100000, "batch_size": 50, "actor_lr": 1e-5, "critic_lr": 1e-4, "entropy_coef": 0.01, "value_coef": 0.5,
        "kl_coef": 5e-5, "kl_control": "paper", "kl_target": 0.8, "max_grad_norm": 1.0, "clip_range": None,
    },
    "model": {"path": "gpt2"},
}  # fmt: skip
PGSRM = {"transform": "clip", "alpha": 4, "similarity": "cosine", "embedder": {"path": "numberbatch.kv"}}


def tables_of(root: Path) -> dict[str, dict[str, dict[str, str]]]:
    variants, _ = load_variants([root], COLUMNS)
    tables = paper_tables(variants)
    return {table.name: {row["Hyperparameter"]: row for row in table_rows(table.markdown())} for table in tables}


def test_tables_1_and_2_as_in_the_paper(tmp_path: Path) -> None:
    large = {"ppo": {**PAPER["ppo"], "batch_size": 10, "kl_target": None}, "model": {"path": "gpt2-large"}}
    for task, config in (("color", PAPER), ("antonym", PAPER), ("copy", large)):
        embedder = {"embedder": "numberbatch"}
        write_run(tmp_path, task, "pgsrm", config={**config, "reward": PGSRM}, choices=embedder)
        checker = {"checker": {"_target_": "pgsrm.task.NormalizedEquality"}}
        write_run(tmp_path, task, "binary", config={**config, "reward": checker}, choices=embedder)
    found = tables_of(tmp_path)
    assert list(found) == ["table1", "table2"]
    first, second = ({name: row["Value"] for name, row in table.items()} for table in found.values())
    assert first.items() >= {
        "Model": "GPT-2 Small (124M)", "Episodes": "100,000", "Batch size": "50", "Actor learning rate": "1e-5",
        "Critic learning rate": "1e-4", "Entropy coefficient": "0.01", "Value loss coefficient": "0.5",
        "Initial KL coefficient": "5e-5", "Target KL": "0.8", "Gradient clipping": "1", "Embedding model": "numberbatch",
        "Reward type (PGSRM)": "max(0, cosine)^α", "Exponent α": "4", "Reward type (baseline)": "Binary {0, 1}",
    }.items()  # fmt: skip
    assert (second["Model"], second["Batch size"]) == ("GPT-2 Large (774M)", "10")
    assert "Target KL" not in second and "Ratio clipping" not in second
    assert found["table1"]["Initial KL coefficient"]["Notes"] == "Adaptive (paper)"
    assert found["table2"]["Initial KL coefficient"]["Notes"] == "Fixed (no adaptation)"
    assert found["table1"]["Reward type (baseline)"]["Notes"] == "NormalizedEquality"


def test_a_table_says_where_tasks_and_settings_differ(tmp_path: Path) -> None:
    write_run(tmp_path, "color", config={"ppo": {"batch_size": 50}})
    write_run(tmp_path, "antonym", config={"ppo": {"batch_size": 20}})
    assert tables_of(tmp_path)["table1"]["Batch size"]["Value"] == "50 (color); 20 (antonym)"
    write_run(tmp_path, "antonym", config={"ppo": {"batch_size": 20}}, choices={"ppo": "paper"})
    row = tables_of(tmp_path)["table1"]["Batch size"]
    assert (row["ppo=sound"], row["ppo=paper"]) == ("50 (color); 20 (antonym)", "20")
    write_run(tmp_path, "my_task", config={"ppo": {"batch_size": 7}})
    assert tables_of(tmp_path)["table_other"]["Batch size"]["Value"] == "7"


# --- what is mixed or wrong ---------------------------------------------------------------------------------


def test_runs_of_one_identity_that_differ_are_told_apart_and_said(tmp_path: Path) -> None:
    for seed, lr in enumerate((1e-5, 1e-5, 3e-5)):
        write_run(tmp_path, seed=seed, variant="1" * 64, config={"ppo": {"lr": lr}})
    variants, notes = load_variants([tmp_path], COLUMNS)
    assert [(v.settings, len(v.runs)) for v in variants] == [("ppo.lr=1e-5", 2), ("ppo.lr=3e-5", 1)]
    assert notes == ["color, pgsrm: 3 runs carry one identity but differ in ppo.lr; told apart"]


REWARD_MODEL = {"_target_": "pgsrm.reward.LearnedReward", "path": "/here/model", "device": "cpu", "reads": "both"}
CRITIC = {"_target_": "pgsrm.critic.LocalCritic", "path": "/here/critic", "batch_size": 64}
SEMANTIC = {
    "_target_": "pgsrm.reward.SemanticReward",
    "embedder": {"_target_": "a.B", "path": "/here/words"},
    "alpha": 4,
}


@pytest.mark.parametrize(
    ("reward", "other"),
    [
        (REWARD_MODEL, {**REWARD_MODEL, "path": "/there/model", "device": "cuda"}),
        (
            {"arm": "critic", "critic": CRITIC},
            {"arm": "critic", "critic": {**CRITIC, "path": "/there", "batch_size": 8}},
        ),
        (
            {"parts": {"near": SEMANTIC}},
            {"parts": {"near": {**SEMANTIC, "embedder": {"_target_": "a.B", "path": "/there"}}}},
        ),
    ],
    ids=["reward model", "critic", "embedder of a part"],
)
def test_seeds_of_two_machines_are_one_variant(tmp_path: Path, reward: dict[str, Any], other: dict[str, Any]) -> None:
    """Wrong version: the same files in another place, which the identity holds by content, are another variant."""
    for seed in range(4):
        config = {"reward": reward if seed < 2 else other}
        write_run(tmp_path, reward="learned", seed=seed, variant="1" * 64, config=config)
    variants, notes = load_variants([tmp_path], COLUMNS)
    assert [len(v.runs) for v in variants] == [4] and notes == []


def test_a_value_of_a_reward_under_one_identity_tells_runs_apart(tmp_path: Path) -> None:
    for seed, alpha in enumerate((4, 4, 2)):
        write_run(tmp_path, seed=seed, variant="1" * 64, config={"reward": {**SEMANTIC, "alpha": alpha}})
    variants, _ = load_variants([tmp_path], COLUMNS)
    assert [(v.settings, len(v.runs)) for v in variants] == [("reward.alpha=2", 1), ("reward.alpha=4", 2)]


def test_runs_of_one_identity_with_other_lengths_are_told_apart_and_said(tmp_path: Path) -> None:
    write_run(tmp_path, seed=0, variant="1" * 64)
    write_run(tmp_path, seed=1, variant="1" * 64, rewards=[0.5] * 50)
    variants, notes = load_variants([tmp_path], COLUMNS)
    assert [(v.settings, len(v.runs)) for v in variants] == [("50 updates", 1), ("100 updates", 1)]
    assert notes == ["color, pgsrm: 2 runs carry one identity but differ in the number of updates; told apart"]


def test_seeds_of_different_versions_are_said(tmp_path: Path) -> None:
    for seed, torch in enumerate(("2.12.0", "2.13.0")):
        write_run(tmp_path, seed=seed, status={"versions": {"torch": torch, "numpy": "2.4.6"}})
    _, notes = load_variants([tmp_path], COLUMNS)
    assert notes == ["color, PGSRM: its seeds were run with different versions: torch 2.12.0 / 2.13.0"]


def test_updates_that_are_missing_in_the_middle_are_said(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:40] + lines[60:]))
    _, notes = load_variants([tmp_path], COLUMNS)
    assert notes == [f"{folder}: 20 of the updates up to 100 are missing; taken as unfinished"]


def test_a_run_with_a_hole_is_no_finished_seed(tmp_path: Path) -> None:
    """Wrong version: the other seeds' curves lose the updates that one lacks, and the tables take it as finished."""
    for seed in range(3):
        folder = write_run(tmp_path, seed=seed, rewards=[0.2 if seed else 0.9] * UPDATES)
        if seed == 0:
            lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
            (folder / "metrics.jsonl").write_text("".join(lines[:20] + lines[70:]))
    (variant,), _ = load_variants([tmp_path], COLUMNS)
    assert [run.seed for run in variant.complete] == [1, 2] and variant.runs[0].progress == 0.5
    drawn = curves.curve(variant, "reward/mean")
    assert drawn is not None and len(drawn.mean) == UPDATES
    np.testing.assert_allclose(drawn.mean, 0.2)
    assert figures.legend_label(variant) == "PGSRM (2 seeds, 1 unfinished left out)"


def test_a_curve_has_a_gap_where_its_only_run_has_one(tmp_path: Path) -> None:
    """Wrong version: the updates before and after the hole are smoothed into each other."""
    folder = write_run(tmp_path, rewards=[0.0] * 50 + [1.0] * 50)
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:40] + lines[60:]))
    (variant,), _ = load_variants([tmp_path], COLUMNS)
    drawn = curves.curve(variant, "reward/mean")
    assert drawn is not None
    assert set(drawn.mean[:41]) == {0.0} and set(drawn.mean[59:]) == {1.0} and np.isnan(drawn.mean[41:59]).all()
    assert drawn.episodes[59] == 60 * BATCH


def test_a_seed_without_a_metric_leaves_the_others_their_curve(tmp_path: Path) -> None:
    """Wrong version: the panel says that the metric is not recorded, and the legend that all seeds are drawn."""
    for seed in range(3):
        folder = write_run(tmp_path, seed=seed, kl=[0.5] * UPDATES)
    text = (folder / "metrics.jsonl").read_text().replace("policy/kl", "policy/other")
    (folder / "metrics.jsonl").write_text(text)
    (variant,), notes = load_variants([tmp_path], COLUMNS)
    drawn = curves.curve(variant, "policy/kl")
    assert drawn is not None and drawn.seeds == 2
    np.testing.assert_allclose(drawn.mean, 0.5)
    panel = figures.plot_task([variant]).axes[2]
    assert [text.get_text() for text in panel.texts] == ["PGSRM: recorded in 2 of 3 seeds"]
    assert notes == ["color, PGSRM: not all of its finished seeds have policy/kl"]


def test_runs_of_another_schema_are_named_by_their_commit(tmp_path: Path) -> None:
    new = {f"new_{i}": i for i in range(5)}
    write_run(tmp_path, status={"commit": "1" * 40})
    write_run(tmp_path, config={"ppo": {"lr": 1e-5, **new}}, status={"commit": "2" * 40})
    variants, _ = load_variants([tmp_path], COLUMNS)
    assert [v.settings for v in variants] == ["commit 1111111", "commit 2222222"]


def test_load_raises_for_folders_without_a_readable_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path)
    (folder / "metrics.jsonl").write_text("")
    with pytest.raises(NoRunsError, match=r"no run in it can be read \(1 run folder looked at\)"):
        load_variants([tmp_path], COLUMNS)
    assert "it has no update yet" in capsys.readouterr().err


def test_terminal_and_report_have_one_first_and_last_tenth(tmp_path: Path) -> None:
    """Finished or not, whatever the number of updates: the wrong version divided by the updates made in the one place."""
    for updates, made in ((97, 97), (100, 60), (7, 7), (1000, 3)):
        folder = write_run(tmp_path / f"{updates}", rewards=[u**0.5 for u in range(made)], updates=updates,
                           state="finished" if made == updates else "stopped")  # fmt: skip
        (variant,), _ = load_variants([folder], COLUMNS)
        reward = measures.series(variant.runs[0], "reward/mean")
        shown = summarise(RunFolder(folder))
        np.testing.assert_allclose(
            [shown.reward_first, shown.reward_last], [measures.first(reward), measures.last(reward)]
        )


def test_a_run_whose_process_has_gone_is_cut_off_as_in_the_status(tmp_path: Path) -> None:
    import socket

    folder = write_run(tmp_path, rewards=[0.1] * 10, updates=100, state="running",
                       status={"pid": 2**22 + 1, "host": socket.gethostname()})  # fmt: skip
    (variant,), notes = load_variants([tmp_path], COLUMNS)
    assert variant.runs[0].state == RunFolder(folder).state() == "cut off"
    assert notes == [f"{folder}: not finished, 10 of 100 updates, cut off"]
