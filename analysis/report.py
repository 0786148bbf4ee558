"""One self-contained HTML page of all findings: light and dark, from a phone's width to a wide screen, without network.

Each picture is drawn twice by matplotlib and embedded as SVG; the browser shows the one for the reader's theme.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from claims import FAILS, HOLDS, NO_TASK, UNDECIDED, Check
from configs import differences, environments
from dot_plot import plot_dots
from experiments import OUTCOMES, Experiment, dots
from figures import DARK, PANELS, RAW_CURVES, STYLE, by_setting, legend_label, looks, plot_panel
from findings import Findings
from results import REWARD, over_seeds
from samples import Samples, folder_link, read_samples
from tables import NONE, Table
from variants import Variant, task_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = Path(__file__).with_name("report.html.j2")
POINTS = 240  # a curve in a panel of 350 pixels
SAMPLED = 24  # variants of which samples are shown
SYMBOLS = {HOLDS: "✓", FAILS: "✗", UNDECIDED: "?"}
CLASSES = {HOLDS: "holds", FAILS: "fails", UNDECIDED: "undecided"}


@dataclass(frozen=True)
class Picture:
    """A picture as two data URIs, its width and height in points, and a text for those who can't see it."""

    light: str
    dark: str
    width: int
    height: int
    alt: str


def write_report(findings: Findings, path: Path) -> Path:
    """Write the page to `path`."""
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    path.write_text(template.render(_content(findings, path)), encoding="utf-8")
    return path


def _content(findings: Findings, path: Path) -> dict[str, Any]:
    runs = [run for variant in findings.variants for run in variant.runs]
    by_seed = next(table for table in findings.results if table.name == "results_by_seed")
    return {
        "runs": len(runs),
        "finished": sum(run.complete for run in runs),
        "failed": sum(run.failed for run in runs),
        "left_out": sum(": left out," in note for note in findings.notes),
        "ended": max((str(run.status.get("ended") or "") for run in runs), default="")[:16].replace("T", " "),
        "notes": grouped_notes(findings.notes),
        "tasks": [_task(task, [v for v in findings.shown if v.task == task]) for task in findings.tasks],
        "verdicts": [
            (verdict, CLASSES[verdict], sum(c.verdict == verdict for c in findings.checks)) for verdict in SYMBOLS
        ],
        "matrix": claims_matrix(findings.checks),
        "checks": findings.checks,
        "symbols": SYMBOLS,
        "classes": CLASSES,
        "experiments": [
            _experiment(experiment, table)
            for experiment, table in zip(findings.experiments, findings.levels, strict=True)
        ],
        "results": [table for table in findings.results if table is not by_seed and table.rows],
        "comparisons": findings.comparisons,
        "paper": findings.paper,
        "samples": list(_samples(findings.shown)),
        "configs": [table for table in (differences(findings.variants), environments(findings.variants)) if table.rows],
        "by_seed": by_seed,
        "links": [folder_link(run, path) for run in runs],
        "names": [run.folder.name for run in runs],
        "NONE": NONE,
        "NO_TASK": NO_TASK,
    }


# Pictures


def picture(draw: Callable[[bool], Figure], alt: str) -> Picture:
    """Draw a figure for a light and a dark page."""
    import matplotlib

    found = []
    for dark in (False, True):
        figure, out = draw(dark), io.BytesIO()
        with matplotlib.rc_context(STYLE):
            figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
        found.append("data:image/svg+xml;base64," + base64.b64encode(compact(out.getvalue())).decode())
    width, height = (round(72 * inches) for inches in figure.get_size_inches())
    return Picture(found[0], found[1], width, height, alt)


def compact(svg: bytes) -> bytes:
    """An SVG of matplotlib's without its preamble, and with one decimal of a point in its paths."""
    text = svg.decode()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"(?<= d=\")[^\"]+", lambda path: re.sub(r"(\.\d)\d+", r"\1", path[0].replace("\n", "")), text)
    return re.sub(r"\n\s*", "\n", text).encode()


def _panels(variants: Sequence[Variant], panels: Iterable[tuple[str, str, str]]) -> list[Picture]:
    found = []
    for column, title, unit in panels:

        def draw(dark: bool, column: str = column, title: str = title, unit: str = unit) -> Figure:
            return plot_panel(variants, column, title, unit, dark=dark, points=POINTS)

        found.append(picture(draw, f"{title} over episodes. {_in_words(variants, column)}"))
    return found


def _in_words(variants: Sequence[Variant], column: str) -> str:
    """As "PGSRM ends at 0.89, Binary ends at 0.85."."""
    from measures import last

    ends = [(variant.title, over_seeds(variant, column, last).value) for variant in variants]
    known = [f"{title} ends at {value:.2f}" for title, value in ends if value == value]
    return ", ".join(known) + "." if known else ""


# Sections


def _task(task: str, variants: Sequence[Variant]) -> dict[str, Any]:
    """The panels of a task: all curves in them while they can be told apart, else a setting at a time."""
    rows = [("", list(variants))] if len(variants) <= RAW_CURVES else by_setting(variants)
    blocks = [{"label": label, "legend": _legend(found), "pictures": _panels(found, PANELS)} for label, found in rows]
    return {"name": task, "title": task_title(task), "blocks": blocks}


def _legend(variants: Sequence[Variant]) -> list[dict[str, str]]:
    return [
        {"label": legend_label(v), "light": look.colour, "dark": DARK[look.colour], "dashes": dash_array(look.dashes)}
        for v, look in zip(variants, looks(variants), strict=True)
    ]


def dash_array(dashes: Any) -> str:
    """matplotlib's dashes, which count line widths, as SVG's of a line two pixels wide."""
    return "none" if isinstance(dashes, str) else " ".join(f"{2 * length:g}" for length in dashes[1])


def _experiment(experiment: Experiment, table: Table) -> dict[str, Any]:
    found = []
    for title, column, measure in OUTCOMES:
        shown = dots(experiment, column, measure)
        if shown:

            def draw(dark: bool, title: str = title, shown: Any = shown) -> Figure:
                return plot_dots([(title, shown)], dark=dark)

            words = ", ".join(f"{dot.level} {dot.reward} {dot.estimate.value:.2f}" for dot in shown)
            found.append(picture(draw, f"{title}: {words}"))
    rewards = next(panel for panel in PANELS if panel[0] == REWARD)
    curves = [(label, _panels(variants, [(rewards[0], label, rewards[2])])[0]) for label, variants in experiment.levels]
    return {"title": experiment.title, "stem": experiment.stem, "pictures": found, "curves": curves, "table": table}


def _samples(variants: Sequence[Variant]) -> Iterable[tuple[str, Samples]]:
    """Of each variant the samples of one run."""
    for variant in variants[:SAMPLED]:
        found = read_samples((variant.complete or variant.runs)[0])
        if found:
            yield f"{task_title(variant.task)}, {variant.title}", found


def claims_matrix(checks: Sequence[Check]) -> dict[str, Any]:
    """Claims by tasks: in each cell the verdicts of its settings, those with any finished run."""
    tasks = list(dict.fromkeys(check.task for check in checks if check.estimate.n))
    rows = []
    for claim in dict.fromkeys(check.claim for check in checks):
        cells = [[c for c in checks if c.claim is claim and c.task == task and c.estimate.n] for task in tasks]
        rows.append((claim, cells))
    return {"tasks": tasks, "rows": rows}


def grouped_notes(notes: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Notes as (what, the runs it is about); what is said of several runs is said once."""
    found: dict[str, list[str]] = {}
    for note in notes:
        place, separator, what = note.partition(": ")
        if separator and "/" in place:
            found.setdefault(what, []).append(Path(place).name)
        else:
            found.setdefault(note, [])
    return list(found.items())
