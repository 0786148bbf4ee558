"""Analysis on synthetic run folders whose answers are known."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ANALYSIS = Path(__file__).resolve().parents[1] / "analysis"
sys.path.insert(0, str(ANALYSIS))

import plot_figures  # noqa: E402
import results_table  # noqa: E402
from runs import NoRunsError, find_run_folders, read_metrics, read_run  # noqa: E402
from variants import load_variants  # noqa: E402

COLUMNS = ["reward/mean", "policy/entropy", "policy/kl"]
UPDATES, BATCH = 100, 50


def ramp(first: float, last: float, updates: int = UPDATES) -> list[float]:
    """A curve that holds `first` over the first tenth, `last` over the last, and a line between them."""
    tenth = updates // 10
    return [first] * tenth + list(np.linspace(first, last, updates - 2 * tenth)) + [last] * tenth


def write_run(
    root: Path,
    task: str = "color",
    reward: str = "pgsrm",
    seed: int = 0,
    *,
    rewards: Sequence[float] | None = None,
    updates: int | None = None,
    state: str = "finished",
    variant: str | None = None,
    config: dict[str, Any] | None = None,
    choices: dict[str, str] | None = None,
    status: dict[str, Any] | None = None,
    entropy: Sequence[float] | None = None,
    exact: tuple[float, float] | None = None,
) -> Path:
    """A run folder as a training leaves it; `rewards` are the updates on file, `updates` those planned."""
    import yaml  # type: ignore[import-untyped]

    rewards = ramp(0.1, 0.7) if rewards is None else rewards
    chosen = {"task": task, "reward": reward, "model": "nano", "ppo": "sound", **(choices or {})}
    name = "-".join(chosen[group] for group in ("task", "reward", "model", "ppo"))
    folder = root / f"{name}-s{seed}-{zlib.crc32(repr((config, variant)).encode()):08x}"
    folder.mkdir(parents=True)
    values = {"task": {"template": "{c1}"}, "reward": {"alpha": 4}, "ppo": {"lr": 1e-5}, **(config or {})}
    (folder / "config.yaml").write_text(yaml.safe_dump({**values, "seed": seed, "choices": chosen}))
    rows: list[dict[str, Any]] = []
    if exact:
        rows.append({"update": 0, "eval/train_exact_match": exact[0], "eval/holdout_exact_match": exact[0] / 2})
    for i, value in enumerate(rewards):
        bits = 2.0 if entropy is None else entropy[i]
        kl = -0.1 + 0.01 * i
        rows.append({"update": i + 1, "episodes": (i + 1) * BATCH, "reward/mean": value})
        rows[-1] |= {"policy/entropy": bits, "policy/kl": kl, "time/update": 0.1}
    if exact:
        rows[-1] |= {"eval/train_exact_match": exact[1], "eval/holdout_exact_match": exact[1] / 2}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    known = {
        "state": state,
        "reason": None,
        "update": len(rewards),
        "updates": updates or len(rewards),
        "variant": variant or f"{zlib.crc32(repr((chosen, values)).encode()):064x}",
        "seconds": 120.0,
        "commit": "a" * 40,
    }
    (folder / "status.json").write_text(json.dumps({**known, **(status or {})}))
    return folder


def table_rows(text: str) -> list[dict[str, str]]:
    """Every row of the Markdown tables in `text`, by column name."""
    rows, head = [], None
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if not line.startswith("|"):
            head = None
        elif head is None:
            head = cells
        elif not cells[0].startswith("---"):
            rows.append(dict(zip(head, cells, strict=True)))
    return rows


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
        "metrics.jsonl: 2 broken line(s) left out, the first is line 2",
        "metrics.jsonl: 1 update(s) written twice, the later line counts",
        "metrics.jsonl: reward/mean is no finite number in 1 line(s), left out",
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
        ("metrics.jsonl", "", "metrics.jsonl has no update yet"),
        ("metrics.jsonl", '{"update": 0}\n', "metrics.jsonl has no update yet"),
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


def test_without_a_status_a_run_is_not_taken_for_finished(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    (folder / "status.json").unlink()
    run, notes = read_run(folder, COLUMNS)
    assert run is not None and not run.complete and len(run.variant) == 64
    assert "not finished, 100 of 100 updates, unknown" in notes[0]


def test_no_runs_is_one_line_and_an_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for main in (plot_figures.main, results_table.main):
        assert main(["--runs", str(tmp_path)]) == 1
        assert main(["--runs", str(tmp_path / "absent")]) == 1
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 4
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
        "PGSRM, ppo=paper",
        "PGSRM, ppo=sound, ppo.lr=1e-05",
        "PGSRM, ppo=sound, ppo.lr=2e-05",
        "Binary, ppo=sound, ppo.lr=1e-05",
    ]


def test_a_value_that_differs_between_the_rewards_is_named_in_both(tmp_path: Path) -> None:
    write_run(tmp_path, reward="pgsrm", config={"ppo": {"entropy": 0.02}, "reward": {"alpha": 4}})
    write_run(tmp_path, reward="binary", config={"ppo": {"entropy": 0.01}, "reward": {"checker": "equality"}})
    variants, _ = load_variants([tmp_path], COLUMNS)
    assert [v.title for v in variants] == ["PGSRM, ppo.entropy=0.02", "Binary, ppo.entropy=0.01"]


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
    assert [plot_figures.window(n) for n in (1, 49, 50, 100, 2000, 10000)] == [1, 1, 1, 3, 41, 201]


def test_rolling_mean_is_centred_cut_at_the_ends_and_leaves_nan_out() -> None:
    values = np.array([1.0, 2.0, 6.0, np.nan, 8.0])
    np.testing.assert_allclose(plot_figures.rolling_mean(values, 3), [1.5, 3, 4, 7, 8])
    np.testing.assert_allclose(plot_figures.rolling_mean(values[:2], 9), [1.5, 1.5])
    assert np.isnan(plot_figures.rolling_mean(np.array([np.nan, 1.0]), 1)[0])


def test_curve_of_several_seeds_is_their_mean_with_their_range(tmp_path: Path) -> None:
    for seed, level in enumerate((0.2, 0.3, 0.7)):
        write_run(tmp_path, seed=seed, rewards=[level] * UPDATES, exact=(0.0, 1.0))
    (variant,), _ = load_variants([tmp_path], COLUMNS)
    drawn = plot_figures.curve(variant, "reward/mean")
    assert drawn.episodes.tolist() == [BATCH * (i + 1) for i in range(UPDATES)]  # no update 0
    np.testing.assert_allclose(drawn.raw, 0.4)
    np.testing.assert_allclose(drawn.smooth, 0.4)
    np.testing.assert_allclose(drawn.low, 0.2)
    np.testing.assert_allclose(drawn.high, 0.7)


def test_unfinished_seeds_stay_out_of_a_curve_with_finished_ones(tmp_path: Path) -> None:
    write_run(tmp_path, seed=0, rewards=[0.5] * UPDATES)
    write_run(tmp_path, seed=1, rewards=[0.1] * 40, updates=UPDATES, state="running")
    (variant,), _ = load_variants([tmp_path], COLUMNS)
    drawn = plot_figures.curve(variant, "reward/mean")
    assert len(drawn.raw) == UPDATES and np.all(drawn.raw == 0.5)
    assert plot_figures.legend_label(variant) == "PGSRM (1 seed, 1 unfinished left out)"


def test_a_curve_of_unfinished_seeds_ends_where_the_first_of_them_does_and_is_marked(tmp_path: Path) -> None:
    write_run(tmp_path, seed=0, rewards=[0.5] * 41, updates=UPDATES, state="failed")
    write_run(tmp_path, seed=1, rewards=[0.1] * 60, updates=UPDATES, state="running")
    (variant,), _ = load_variants([tmp_path], COLUMNS)
    drawn = plot_figures.curve(variant, "reward/mean")
    assert len(drawn.raw) == 41
    assert plot_figures.legend_label(variant) == "PGSRM (2 seeds, unfinished: 41%)"


def test_spikes_do_not_flatten_a_panel_but_noise_stays_inside() -> None:
    rng = np.random.default_rng(0)
    calm = np.ones(1000)
    noise = calm + rng.normal(0, 0.1, 1000)
    spiked = noise.copy()
    spiked[::200] = 50.0
    low, high, cut = plot_figures._frame([plot_figures.Curve(calm, noise, calm, calm, calm)], faint=True)
    assert low < 0 and high > noise.max() and not cut
    low, high, cut = plot_figures._frame([plot_figures.Curve(calm, spiked, calm, calm, calm)], faint=True)
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
    assert capsys.readouterr().out.splitlines() == list(map(str, paths))
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
    for kind in ("png", "pdf", "svg"):
        assert (tmp_path / "a" / f"color.{kind}").read_bytes() == (tmp_path / "b" / f"color.{kind}").read_bytes()


def test_what_is_drawn_in_the_panels(tmp_path: Path) -> None:
    for reward, level in (("pgsrm", 0.5), ("binary", 0.0), ("rouge_l", 0.3)):
        rewards, entropy = [level] * UPDATES, [9.0] * UPDATES
        for seed in range(2):
            write_run(tmp_path, "color", reward, seed, rewards=rewards, entropy=entropy)
    variants, _ = load_variants([tmp_path], COLUMNS)
    figure = plot_figures.plot_task(variants)
    assert [axes.get_title() for axes in figure.axes] == [title for _, title, _ in plot_figures.PANELS]
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
    assert "rolling mean, 2% of the updates (3)" in note and "band: min to max" in note


def test_head_and_note_fit_the_width_also_with_long_labels(tmp_path: Path) -> None:
    for lr in range(9):
        values = {"lr": lr, "entropy_coefficient_of_the_policy": lr, "value_loss_coefficient": lr, "x": lr}
        write_run(tmp_path, "sentiment", config={"ppo": values})
    variants, _ = load_variants([tmp_path], COLUMNS)
    figure = plot_figures.plot_task(variants)
    figure.draw_without_rendering()
    title, *_, note = figure.texts
    legend = figure.legends[0].get_window_extent()
    assert legend.x0 > title.get_window_extent().x1 and legend.x1 <= figure.bbox.width
    panels = [box for axes in figure.axes if (box := axes.get_tightbbox())]
    assert legend.y0 > max(box.y1 for box in panels)
    assert note.get_window_extent().y1 < min(box.y0 for box in panels)
    assert ", +1 more" in figure.legends[0].get_texts()[0].get_text().replace("\n", " ")


def test_the_longest_note_fits_the_width(tmp_path: Path) -> None:
    for seed in range(2):
        rewards = [0.5] * 10000
        rewards[5000] = 90.0
        write_run(tmp_path, seed=seed, rewards=rewards)
    variants, _ = load_variants([tmp_path], COLUMNS)
    figure = plot_figures.plot_task(variants)
    note = figure.texts[-1]
    assert note.get_text().endswith("spikes cut off.")
    assert note.get_window_extent().x1 < figure.bbox.width


def test_a_metric_that_is_nowhere_is_said_in_its_panel(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    text = (folder / "metrics.jsonl").read_text().replace("policy/kl", "policy/other")
    (folder / "metrics.jsonl").write_text(text)
    variants, _ = load_variants([tmp_path], COLUMNS)
    panel = plot_figures.plot_task(variants).axes[2]
    assert [text.get_text() for text in panel.texts] == ["policy/kl\nis not recorded"]


def test_only_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "runs", "color")
    write_run(tmp_path / "runs", "antonym", rewards=[0.1] * 5, updates=10, state="running")
    args = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--formats", "png"]
    assert plot_figures.main([*args, "--only-finished"]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["color.png"]
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
    assert results_table.main(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "file" / "x.md")]) == 1
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 2 and all("cannot write there" in line for line in err)


def test_the_command_works_from_any_folder_and_loads_neither_torch_nor_mlflow(tmp_path: Path) -> None:
    write_run(tmp_path / "outputs" / "runs")
    command = [sys.executable, "-X", "importtime", str(ANALYSIS / "plot_figures.py"), "--formats", "png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "outputs/figures/color.png\n"
    assert (tmp_path / "outputs" / "figures" / "color.png").exists()
    loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "matplotlib" in loaded and not loaded & {"torch", "mlflow", "hydra", "transformers"}


@pytest.mark.parametrize("script", ["plot_figures.py", "results_table.py"])
def test_help_loads_nothing_heavy(script: str) -> None:
    command = [sys.executable, "-X", "importtime", str(ANALYSIS / script), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert not loaded & {"numpy", "pandas", "matplotlib", "yaml"}
    assert "--runs" in done.stdout


# --- results ------------------------------------------------------------------------------------------------


def test_tenths_by_hand() -> None:
    updates = np.arange(1.0, 101.0)
    means = results_table.tenth_means(updates, updates, 100)
    assert means == [5.5 + 10 * k for k in range(10)]
    cut = results_table.tenth_means(updates[:35], updates[:35], 100)
    assert cut[:3] == [5.5, 15.5, 25.5] and np.isnan(cut[3:]).all()
    assert results_table.tenth_means(np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.2, 0.3]), 3) == [
        0.1,
        0.2,
        0.3,
    ]


def test_table_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, last in enumerate((0.5, 0.7)):
        write_run(tmp_path, seed=seed, rewards=ramp(0.1, last), exact=(0.02, last), status={"seconds": 90.0})
    write_run(tmp_path, reward="binary", rewards=[0.0] * UPDATES, exact=(0.02, 0.0))
    assert results_table.main(["--runs", str(tmp_path)]) == 0
    rows = table_rows(capsys.readouterr().out)
    pgsrm, binary, seed_0, seed_1, binary_0 = rows
    assert pgsrm == {
        "task": "color",
        "reward": "PGSRM",
        "seeds": "2",
        "first tenth": "0.100",
        "last tenth": "0.600",
        "change": "+0.500 (+0.400 .. +0.600)",
        "best tenth": "0.600",
        "last / best": "1.00 (1.00 .. 1.00)",
        "exact match, trained": "0.020 → 0.600",
        "exact match, held out": "0.010 → 0.300",
        "minutes a run": "1.5",
    }
    assert (binary["change"], binary["last / best"]) == ("+0.000", "-")
    assert (seed_0["change"], seed_1["change"]) == ("+0.400", "+0.600")
    assert seed_1["exact match, trained"] == "0.020 → 0.700" and seed_1["state"] == "finished"
    assert binary_0["minutes"] == "2.0"


def test_unfinished_seeds_are_named_and_stay_out_of_the_means(tmp_path: Path) -> None:
    write_run(tmp_path, seed=0, rewards=ramp(0.1, 0.5))
    write_run(tmp_path, seed=1, rewards=[0.9] * 35, updates=UPDATES, state="failed")
    variants, _ = load_variants([tmp_path], ["reward/mean", results_table.TRAINED, results_table.HELD_OUT])
    text = results_table.report(variants)
    whole, _, cut = table_rows(text)
    assert whole["seeds"] == "1 (+1 unfinished)" and whole["last tenth"] == "0.500"
    assert (cut["first tenth"], cut["last tenth"], cut["change"]) == ("0.900", "-", "-")
    assert cut["state"] == "failed, 35% of the updates"
    assert "exact match, trained" not in whole  # not recorded anywhere: no column
    assert text.count("**undecided**, unfinished: seed 1; the 1 finished seed(s) hold") == 2


def test_settings_column_appears_with_several_variants(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for ppo in ("paper", "sound"):
        write_run(tmp_path / "runs", choices={"ppo": ppo})
    out = tmp_path / "docs" / "results.md"
    assert results_table.main(["--runs", str(tmp_path / "runs"), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    text = out.read_text(encoding="utf-8")
    assert [row["settings"] for row in table_rows(text)] == ["ppo=paper", "ppo=sound"] * 2
    assert "- color, PGSRM, ppo=paper: rises by at least 0.1 in every seed: **holds** in the one seed" in text


def test_verdicts_name_the_seeds_that_fail(tmp_path: Path) -> None:
    peak = [0.1] * 10 + [0.8] * 80 + [0.4] * 10
    write_run(tmp_path, seed=0, rewards=ramp(0.1, 0.7))
    write_run(tmp_path, seed=1, rewards=[0.1] * 90 + [0.15] * 10)
    write_run(tmp_path, seed=2, rewards=peak)
    write_run(tmp_path, reward="binary")  # no claim is made for it
    variants, _ = load_variants([tmp_path], ["reward/mean", results_table.TRAINED, results_table.HELD_OUT])
    verdicts = [line for line in results_table.report(variants).splitlines() if line.startswith("- ")]
    assert verdicts == [
        "- color, PGSRM: rises by at least 0.1 in every seed: **fails** in 1 of 3 finished seeds: seed 1 (+0.050)",
        "- color, PGSRM: last tenth at least 80% of the best tenth: **fails** in 1 of 3 finished seeds: seed 2 (50%)",
    ]


def test_verdict_bounds_are_inclusive_and_nothing_is_not_a_success(tmp_path: Path) -> None:
    claim = results_table.Claim("c", lambda r: r.change, 0.5, "{:.2f}".format)
    write_run(tmp_path, seed=0, rewards=[0.0] * 50 + [0.5] * 50)
    (variant,), _ = load_variants([tmp_path], ["reward/mean", results_table.TRAINED, results_table.HELD_OUT])
    assert results_table.verdict(claim, [results_table.result(variant.runs[0])]).startswith("**holds**")
    write_run(tmp_path / "flat", seed=0, rewards=[0.0] * 50)
    (flat,), _ = load_variants([tmp_path / "flat"], ["reward/mean", results_table.TRAINED, results_table.HELD_OUT])
    kept = results_table.CLAIMS[1]
    assert results_table.verdict(kept, [results_table.result(flat.runs[0])]).endswith("seed 0 (-)")


def test_no_pgsrm_run_leaves_nothing_to_judge(tmp_path: Path) -> None:
    write_run(tmp_path, reward="binary")
    variants, _ = load_variants([tmp_path], ["reward/mean", results_table.TRAINED, results_table.HELD_OUT])
    assert "No run with `reward=pgsrm`" in results_table.report(variants)


def test_load_raises_for_folders_without_a_readable_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path)
    (folder / "metrics.jsonl").write_text("")
    with pytest.raises(NoRunsError, match=r"none of the 1 run folder\(s\)"):
        load_variants([tmp_path], COLUMNS)
    assert "metrics.jsonl has no update yet" in capsys.readouterr().err
