"""The figure of over-optimisation: what policies earn and get right, by how far they have moved."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from analysis_runs import UPDATES, ramp, write_run

from pgsrm.analysis.curves import curve
from pgsrm.analysis.findings import find
from pgsrm.analysis.frontier import frontier_panels, has_frontier, plot_frontier, way
from pgsrm.analysis.results import COLUMNS
from pgsrm.analysis.variants import Variant, load_variants

KL = 2.0  # nats per token
LENGTH = 2.0  # tokens


def add(folder: Path, **columns: float) -> None:
    """Columns that every update of a run has besides."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [
        row | ({name.replace("__", "/"): value for name, value in columns.items()} if row["update"] else {})
        for row in rows
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def variants(tmp_path: Path) -> list[Variant]:
    for reward in ("pgsrm", "binary"):
        folder = write_run(tmp_path / "runs", reward=reward, kl=[KL] * UPDATES)
        add(folder, response__length=LENGTH, reward__exact_match=0.25)
    return load_variants([tmp_path / "runs"], list(COLUMNS))[0]


def test_the_distance_is_the_root_of_the_kl_per_response(variants: list[Variant]) -> None:
    for variant in variants:
        gone = way(variant)
        assert gone is not None
        np.testing.assert_allclose(gone.distance, np.sqrt(KL * LENGTH))
        np.testing.assert_allclose(gone.values["reward/exact_match"], 0.25)


def test_a_sampled_kl_below_zero_is_no_distance(tmp_path: Path) -> None:
    add(write_run(tmp_path, kl=[-0.1] * UPDATES), response__length=LENGTH, reward__exact_match=0.25)
    (variant,) = load_variants([tmp_path], list(COLUMNS))[0]
    gone = way(variant)
    assert gone is not None and (gone.distance == 0).all()


def test_it_is_drawn_where_answers_are_right_or_wrong(variants: list[Variant], tmp_path: Path) -> None:
    drawn: dict[str, Any] = dict(find(variants, [], []).figures("text"))
    (figure,) = drawn["color_frontier"]()
    own, right = figure.axes
    assert [len(axes.lines) for axes in (own, right)] == [4, 4]  # a way and its end for each variant
    assert own.lines[0].get_ydata()[-1] == pytest.approx(1)  # in parts of its end
    assert right.lines[1].get_xydata()[0] == pytest.approx([2.0, 0.25])
    assert not has_frontier(variants[:1])
    open_task = tmp_path / "open"
    for reward in ("sparse", "critic"):
        add(write_run(open_task, task="detox", reward=reward), response__length=LENGTH)
    others = load_variants([open_task], list(COLUMNS))[0]
    assert "detox_frontier" not in dict(find(others, [], []).figures("text"))


def test_a_way_is_that_of_the_seeds_which_have_all_that_is_drawn(tmp_path: Path) -> None:
    """Wrong version: the KL of both seeds up to the end of the one without lengths, and no report, as those go on longer."""
    early = {"stopped_early": True, "update": 50}
    write_run(tmp_path, seed=0, rewards=[0.1] * 50, kl=[9.0] * 50, updates=UPDATES, status=early)
    add(write_run(tmp_path, seed=1, kl=[KL] * UPDATES), response__length=LENGTH, reward__exact_match=0.25)
    (variant,) = load_variants([tmp_path], list(COLUMNS))[0]
    gone = way(variant)
    assert gone is not None and gone.distance == pytest.approx(np.full(60, np.sqrt(KL * LENGTH)))
    assert {len(values) for values in gone.values.values()} == {60}


def test_a_reward_below_zero_rises_where_it_rises(tmp_path: Path) -> None:
    """Wrong version: divided by its end of -1 the way from -2 to -1 leads down from 2 to 1."""
    for reward in ("near", "far"):
        folder = write_run(tmp_path / "runs", reward=reward, kl=[KL] * UPDATES, rewards=ramp(-2.0, -1.0))
        add(folder, response__length=LENGTH, reward__exact_match=0.25)
    figure = plot_frontier(load_variants([tmp_path / "runs"], list(COLUMNS))[0])
    values = figure.axes[0].lines[0].get_ydata()
    assert values[0] == pytest.approx(-2, abs=0.05) and values[-1] == pytest.approx(-1, abs=0.05)


@pytest.mark.parametrize("width", ["text", "column"])
def test_both_widths(variants: list[Variant], width: str) -> None:
    assert len(plot_frontier(variants, width).axes) == 2


def test_the_report_has_it(variants: list[Variant], tmp_path: Path) -> None:
    """Two pictures behind the task's own, each with both variants in the report's dark colours."""
    from pgsrm.analysis.report import write_report

    page = write_report(find(variants, [], []), tmp_path / "report.html").read_text()
    assert page.count("by the square root of KL.") == 2
    assert "A dot is the end of training." in page
    (_, own), (_, right) = frontier_panels(variants)
    assert [len(draw().axes[0].lines) for draw in (own, right)] == [4, 4]


def test_each_way_is_computed_once(variants: list[Variant], monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong version: the distance of each variant is computed again for each panel."""
    from pgsrm.analysis import frontier

    asked: list[str] = []

    def counted(variant: Variant, column: str, points: int) -> Any:
        asked.append(column)
        return curve(variant, column, points)

    monkeypatch.setattr(frontier, "curve", counted)
    plot_frontier(variants)
    assert asked.count("policy/kl") == asked.count("response/length") == len(variants)
