"""The figure of over-optimisation: what policies earn and get right, by how far they have moved."""

import json
from pathlib import Path
from typing import Any

import matplotlib.colors
import numpy as np
import pytest
from analysis_runs import UPDATES, ramp, write_run

from pgsrm.algorithm.best_of_n import Judged
from pgsrm.analysis import plot_figures
from pgsrm.analysis.best_of_n import BestOfN, not_shown, read_best_of_n, table, with_columns
from pgsrm.analysis.curves import curve
from pgsrm.analysis.findings import find
from pgsrm.analysis.frontier import frontier_panels, has_frontier, plot_frontier, way
from pgsrm.analysis.results import COLUMNS
from pgsrm.analysis.style import COLOURS, DARK
from pgsrm.analysis.variants import Variant, load_variants
from pgsrm.util.errors import UserError

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


def test_the_kl_per_response_is_that_of_the_tokens_in_the_loss(tmp_path: Path) -> None:
    """Wrong version: a mean over the tokens before the EOS times a length with the EOS."""
    folder = write_run(tmp_path, kl=[KL] * UPDATES, config={"ppo": {"train_eos": False}})
    add(folder, response__length=LENGTH, response__eos=0.75, reward__exact_match=0.25)
    (variant,) = load_variants([tmp_path], list(COLUMNS))[0]
    gone = way(variant)
    assert gone is not None and gone.distance == pytest.approx(np.full(60, np.sqrt(KL * (LENGTH - 0.75))))


def test_the_kl_from_the_policy_before_is_no_distance_from_the_initial_model(tmp_path: Path) -> None:
    """Wrong version: ways that stay at 0, since each update moves the reference along."""
    for reward in ("pgsrm", "binary"):
        folder = write_run(tmp_path, reward=reward, kl=[0.01] * UPDATES, config={"ppo": {"kl_reference": "previous"}})
        add(folder, response__length=LENGTH, reward__exact_match=0.25)
    variants = load_variants([tmp_path], list(COLUMNS))[0]
    assert way(variants[0]) is None and not has_frontier(variants)


def test_the_kl_per_response_is_a_mean_over_seeds_of_that_of_each(tmp_path: Path) -> None:
    """Wrong version: the mean KL per token times the mean length, (2 + 4) / 2 x (1 + 3) / 2 = 6 instead of 7."""
    for seed, (kl, length) in enumerate(((2.0, 1.0), (4.0, 3.0))):
        add(write_run(tmp_path, seed=seed, kl=[kl] * UPDATES), response__length=length, reward__exact_match=0.25)
    (variant,) = load_variants([tmp_path], list(COLUMNS))[0]
    gone = way(variant)
    assert gone is not None and gone.distance == pytest.approx(np.full(60, np.sqrt((2 * 1 + 4 * 3) / 2)))


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
    assert asked.count("KL per response") == len(variants)


def best_of_n_file(path: Path, reward: str = "binary", task: str = "color", checker: bool = True) -> Path:
    """Four samples to each of two trained prompts and one held out: one in four is right, and the best; and none of four."""
    right = {"right answers": [0.0, 1.0, 0.0, 0.0]} if checker else {}
    none = {"right answers": [0.0] * 4} if checker else {}
    one, other = Judged([0.1, 0.9, 0.2, 0.3], right), Judged([0.4, 0.3, 0.2, 0.1], none)
    about = {"task": task, "reward": reward, "model": "nano", "samples": "4", "seed": "0"}
    path.write_text(with_columns(about, table({"trained": [one, other], "held out": [one]}, 4)).csv())
    return path


# Each prompt's four rewards are equally probable and all different: of n draws the i-th is the best with (i^n - (i - 1)^n) / 4^n.
WON = [[(i**n - (i - 1) ** n) / 4**n for i in range(1, 5)] for n in (1, 2, 4)]
ROOTS = [sum(w * np.log(4 * w) for w in won) ** 0.5 for won in WON]
RIGHT = [0.125, 0.25, 0.5]  # of two prompts one, whose best of two is right in three pairs of six


def test_a_file_of_the_best_of_n_is_a_line_of_the_trained_prompts(tmp_path: Path) -> None:
    line = read_best_of_n(best_of_n_file(tmp_path / "a.csv", reward="pgsrm, alpha=8"))
    assert line.label == "best of n by PGSRM, alpha=8" and (line.task, line.model) == ("color", "nano")
    assert line.distance == pytest.approx(ROOTS, abs=1e-4) and line.right == pytest.approx(RIGHT)


def test_its_line_is_drawn_on_the_right_alone(variants: list[Variant], tmp_path: Path) -> None:
    """In its task's figure, told apart from all variants by a grey of its own and from another file by its mark."""
    best = [read_best_of_n(best_of_n_file(tmp_path / f"{name}.csv", name)) for name in ("binary", "text_metric")]
    other = read_best_of_n(best_of_n_file(tmp_path / "other.csv", task="antonym"))
    drawn: dict[str, Any] = dict(find(variants, [], [], [*best, other]).figures("text"))
    (figure,) = drawn["color_frontier"]()
    own, right = figure.axes
    assert [len(axes.lines) for axes in (own, right)] == [4, 6]
    for line in right.lines[4:]:
        np.testing.assert_allclose(line.get_xydata(), np.transpose([ROOTS, RIGHT]), atol=1e-4)
    assert len({line.get_marker() for line in right.lines[4:]}) == 2
    names = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert names[2:] == ["best of n by Binary", "best of n by text_metric"]
    assert "without any training" in " ".join(figure.texts[-1].get_text().split())
    greys = {line.get_color() for line in right.lines[4:]}
    (_, _), (_, dark) = frontier_panels(variants, best)
    greys |= {line.get_color() for line in dark().axes[0].lines[4:]}
    assert (
        len(greys) == 2 and not greys & {*COLOURS, *DARK.values()} and all(map(matplotlib.colors.is_color_like, greys))
    )


def test_without_a_file_the_figure_is_as_it_was(variants: list[Variant], tmp_path: Path) -> None:
    line = read_best_of_n(best_of_n_file(tmp_path / "a.csv"))
    texts = [plot_frontier(variants, best=best).texts[-1].get_text() for best in ([], [line])]
    assert "best of" not in texts[0] and "best of" in texts[1]
    assert not has_frontier(variants[:1]) and has_frontier(variants[:1], [line]) and not has_frontier([], [line])


def test_the_command_and_the_report_have_it(
    variants: list[Variant], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The option takes several files, and may be given again."""
    files = [best_of_n_file(tmp_path / f"{name}.csv", name, task) for name, task in (("one", "color"), ("two", "copy"))]
    more = best_of_n_file(tmp_path / "more.csv", "three")
    words = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--formats", "svg"]
    assert plot_figures.main([*words, "--best-of-n", *map(str, files), "--best-of-n", str(more)]) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("best of n by one") == page.count("best of n by three") == 1 and "best of n by two" not in page
    (note,) = (line for line in capsys.readouterr().err.splitlines() if "two.csv" in line)
    assert note.endswith("two.csv: is of task=copy, of which there are no runs; no figure shows it")


def test_a_file_of_another_model_is_said(variants: list[Variant]) -> None:
    line = BestOfN(Path("a.csv"), "color", "binary", "gpt2", [0.0], [0.1])
    assert not_shown([line], variants) == ["a.csv: is of the model gpt2, the runs of task=color are of nano"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "can't be read (No such file or directory); python -m pgsrm.algorithm best_of_n writes such a file"),
        (b"", "is no table of the best of n samples"),
        (b"task,reward\ncolor,binary\n", "is no table of the best of n samples"),
        (
            b"task,reward,model,split,n,KL,right answers\ncolor,b,nano,trained,1,x,0\n",
            "is no table of the best of n samples",
        ),
        (
            b"task,reward,model,split,n,KL,right answers\ncolor,b,nano,trained,1\n",
            "is no table of the best of n samples",
        ),
        (b"task,reward,model,split,n,KL,right answers\ncolor,b,nano,held out,1,0,0\n", "is no table of the best"),
        (b"\xff\xfe\x00\n1", "is no table of the best of n samples"),
    ],
)
def test_a_file_of_something_else_is_one_line(
    content: bytes | None, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.csv"
    if content is not None:
        path.write_bytes(content)
    assert plot_figures.main(["--runs", str(tmp_path), "--best-of-n", str(path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"pgsrm.analysis: --best-of-n={path}: {problem}")


def test_a_file_without_right_answers_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no right answers, which the figure shows; leave it out"):
        read_best_of_n(best_of_n_file(tmp_path / "a.csv", checker=False))
