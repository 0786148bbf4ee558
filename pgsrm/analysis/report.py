"""One self-contained HTML page of all findings: light and dark, from a phone's width to a wide screen, without network.

Each picture is drawn by matplotlib and embedded as SVG in two sets of colours; the browser shows the one for the reader's
theme.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgsrm.analysis.arms import Arms, arm_panels
from pgsrm.analysis.best_of_n import BestOfN
from pgsrm.analysis.configs import differences, environments
from pgsrm.analysis.dot_plot import plot_dots
from pgsrm.analysis.experiment_files import read_experiment
from pgsrm.analysis.experiments import OUTCOMES, Experiment, dots
from pgsrm.analysis.figures import PANELS, RAW_CURVES, by_setting, legend_label, plot_panel
from pgsrm.analysis.findings import Findings
from pgsrm.analysis.frontier import best_line, frontier_panels, has_frontier
from pgsrm.analysis.frontier import note as frontier_note
from pgsrm.analysis.overview import Pair, before_and_after, overview
from pgsrm.analysis.results import MEASURED, REWARD, STREAMS, over_seeds
from pgsrm.analysis.samples import Samples, folder_link, read_samples, sample_rows
from pgsrm.analysis.style import DARK, LIGHT, MARKERS, STYLE, Look, looks
from pgsrm.analysis.tables import NONE, Table
from pgsrm.analysis.variants import Variant, task_title
from pgsrm.analysis.verdicts import FAILS, HOLDS, NO_TASK, NO_VERDICT, UNDECIDED, Check

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = Path(__file__).with_name("report.html.j2")
POINTS, LEVEL_POINTS = 240, 120  # a curve in a panel of 350 pixels; and where there is one for each level
SAMPLED = 24  # variants of which samples are shown
SYMBOLS = {HOLDS: "✓", FAILS: "✗", UNDECIDED: "?", NO_VERDICT: "–"}
GLYPHS = dict(zip(MARKERS, "●■◆▲▼✚✖", strict=True))
OPEN_GLYPHS = dict(zip(MARKERS, "○□◇△▽✛✕", strict=True))
CLASSES = {HOLDS: "holds", FAILS: "fails", UNDECIDED: "undecided", NO_VERDICT: "undecided"}


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
    configs = (differences(findings.shown), environments(findings.variants))
    decided = [check for check in findings.checks if check.verdict != UNDECIDED]
    told = {check.claim for check in decided}
    pairs, sampled = list(_pairs(findings.shown)), list(_samples(findings.shown))
    columns = {t: [v for v in findings.shown if v.task == t] for t in findings.tasks}
    return {
        "overview": overview(findings.shown) if findings.shown else None,
        "pairs": pairs,
        "pairs_referenced": any(pair.reference for _, _, rows in pairs for pair in rows),
        "waiting": len({check.claim for check in findings.checks} - told),
        "waiting_matrix": claims_matrix([c for c in findings.checks if c.claim not in told], columns),
        "runs": len(runs),
        "all_tasks": len({run.task for run in runs}),
        "finished": sum(run.complete for run in runs),
        "failed": sum(run.failed for run in runs),
        "left_out": sum(": left out," in note for note in findings.notes),
        "ended": max((str(run.status.get("ended") or "") for run in runs), default="")[:16].replace("T", " "),
        "notes": grouped_notes(findings.notes),
        "tasks": [
            _task(task, [v for v in findings.shown if v.task == task], findings.best_of(task))
            for task in findings.tasks
        ],
        "verdicts": [
            (verdict, CLASSES[verdict], sum(c.verdict == verdict for c in findings.checks)) for verdict in SYMBOLS
        ],
        "matrix": claims_matrix([check for check in findings.checks if check.claim in told], columns),
        "checks": findings.checks,
        "symbols": SYMBOLS,
        "classes": CLASSES,
        "experiments": _experiments(findings),
        "arms": [_arms(*pair) for pair in zip(findings.arms, findings.arm_tables, strict=True)],
        "results": [table for table in findings.results if table.rows],
        "comparisons": [table for table in findings.comparisons if _tells_apart(table)],
        "early_comparisons": [table for table in findings.comparisons if not _tells_apart(table)],
        "paper": findings.paper,
        "samples": sampled,
        "spanned": any(samples.has_spans for _, samples in sampled),
        "not_sampled": max(len(findings.shown) - SAMPLED, 0),
        "configs": [table for table in configs if table.rows],
        "by_seed": findings.by_seed,
        "links": [folder_link(run, path) for run in runs],
        "names": [run.folder.name for run in runs],
        "NONE": NONE,
        "NO_TASK": NO_TASK,
    }


# Pictures


def picture(draw: Callable[[], Figure], alt: str) -> Picture:
    """Draw a figure in the colours of a dark page, and exchange them for a light one's."""
    import matplotlib

    figure, out = draw(), io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    dark = compact(out.getvalue())
    light = re.sub("#[0-9a-f]{6}", lambda colour: LIGHT.get(colour[0], colour[0]), dark.decode()).encode()
    width, height = (round(72 * inches) for inches in figure.get_size_inches())
    return Picture(_data_uri(light), _data_uri(dark), width, height, alt)


def _data_uri(svg: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()


def compact(svg: bytes) -> bytes:
    """An SVG of matplotlib's without its preamble, and with one decimal of a point in its paths."""
    text = svg.decode()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"(?<= d=\")[^\"]+", lambda path: re.sub(r"(\.\d)\d+", r"\1", path[0].replace("\n", "")), text)
    return re.sub(r"\n\s*", "\n", text).encode()


def _panels(variants: Sequence[Variant], panels: Iterable[tuple[str, str, str]], points: int = POINTS) -> list[Picture]:
    pictures = []
    for column, title, unit in panels:

        def draw(column: str = column, title: str = title, unit: str = unit) -> Figure:
            return plot_panel(variants, column, title, unit, points)

        pictures.append(picture(draw, f"{title} over episodes. {_in_words(variants, column)}"))
    return pictures


def _in_words(variants: Sequence[Variant], column: str) -> str:
    """As "PGSRM ends at 0.89, Binary ends at 0.85."."""
    from pgsrm.analysis.measures import last

    ends = [(variant.title, over_seeds(variant, column, last).value) for variant in variants]
    known = [f"{title} ends at {value:.2f}" for title, value in ends if value == value]
    return ", ".join(known) + "." if known else ""


# Sections


def _task(task: str, variants: Sequence[Variant], best: Sequence[BestOfN]) -> dict[str, Any]:
    """The panels of a task: all curves in them while they can be told apart, else a setting at a time."""
    rows = [("", list(variants))] if len(variants) <= RAW_CURVES else by_setting(variants)
    recorded = {column for variant in variants for run in variant.runs for column in run.metrics}
    panels = [*PANELS, *(panel for panel in (*STREAMS, *MEASURED) if panel[0] in recorded)]
    blocks = [
        {
            "label": label,
            "legend": _legend(legend_label, members, looks(members)),
            "pictures": _panels(members, panels),
        }
        for label, members in rows
    ]
    if has_frontier(variants, best):
        pictures = [picture(draw, alt) for alt, draw in frontier_panels(variants, best)]
        legend = _legend(legend_label, variants, looks(variants)) + _best_legend(best)
        blocks.append({"label": "", "legend": legend, "pictures": pictures, "note": frontier_note(best)})
    return {"name": task, "title": task_title(task), "blocks": blocks}


def _arms(arms: Arms, tables: Sequence[Table]) -> dict[str, Any]:
    pictures = [picture(draw, alt) for alt, draw in arm_panels(arms)]
    legend = _legend(arms.legend_label, arms.variants, arms.looks)
    return {"title": arms.title, "legend": legend, "pictures": pictures, "tables": tables}


def _legend(
    label: Callable[[Variant], str], variants: Sequence[Variant], styles: Sequence[Look]
) -> list[dict[str, str]]:
    return [
        {
            "label": label(v),
            "light": look.colour,
            "dark": DARK[look.colour],
            "dashes": dash_array(look.dashes),
            "marker": GLYPHS.get(look.marker, ""),
        }
        for v, look in zip(variants, styles, strict=True)
    ]


def _best_legend(best: Sequence[BestOfN]) -> list[dict[str, str]]:
    entries = []
    for number, line in enumerate(best):
        light, dark = (best_line(number, on_dark) for on_dark in (False, True))
        marker, dashes = OPEN_GLYPHS.get(light["marker"], ""), dash_array(light["linestyle"])
        entries.append(
            {"label": line.label, "light": light["color"], "dark": dark["color"], "dashes": dashes, "marker": marker}
        )
    return entries


def dash_array(dashes: Any) -> str:
    """The dashes of matplotlib, which count line widths, as SVG's dashes of a line two pixels wide."""
    return "none" if isinstance(dashes, str) else " ".join(f"{2 * length:g}" for length in dashes[1])


def _experiments(findings: Findings) -> list[dict[str, Any]]:
    """A section for each experiment: its levels task by task, and links to the figures of tasks that it has no levels of."""
    tables = zip(findings.levels, findings.differences, strict=True)
    parts = zip(findings.experiments, tables, findings.experiment_checks, strict=True)
    sections: dict[str, dict[str, Any]] = {}
    for experiment in sorted([*findings.plain, *findings.experiments], key=lambda compared: not compared.name):
        file = read_experiment(experiment.name) if experiment.name else None
        new: dict[str, Any] = {
            "name": experiment.name or "Other settings",
            "file": file,
            "runs": 0,
            "tasks": [],
            "parts": [],
        }
        section = sections.setdefault(experiment.name, new)
        section["runs"] += sum(len(variant.runs) for variant in experiment.variants)
        if not experiment.has_levels:
            section["tasks"].append((experiment.task, task_title(experiment.task)))
    for experiment, level_tables, checks in parts:
        sections[experiment.name]["parts"].append(_levels(experiment, level_tables, checks))
    return list(sections.values())


def _levels(experiment: Experiment, tables: Sequence[Table], checks: Sequence[Check]) -> dict[str, Any]:
    pictures = []
    for title, column, measure in OUTCOMES:
        shown = dots(experiment, column, measure)
        if shown:

            def draw(title: str = title, shown: Any = shown) -> Figure:
                return plot_dots((title, shown), experiment.factor)

            words = ", ".join(f"{dot.level} {dot.reward} {dot.estimate.value:.2f}" for dot in shown if dot.values)
            pictures.append(picture(draw, f"{title}: {words}"))
    rewards = next(panel for panel in PANELS if panel[0] == REWARD)
    curves = [
        (label, _panels(variants, [(rewards[0], label, rewards[2])], LEVEL_POINTS)[0])
        for label, variants in experiment.levels
    ]
    matrix = claims_matrix(checks, dict(experiment.levels))
    return {
        "title": task_title(experiment.task),
        "pictures": pictures,
        "curves": curves,
        "tables": [table for table in tables if table.rows],
        "settings": differences(experiment.variants),
        "matrix": matrix,
        "checks": checks,
    }


def _samples(variants: Sequence[Variant]) -> Iterable[tuple[str, Samples]]:
    """Of each variant the samples of one run."""
    for variant in variants[:SAMPLED]:
        samples = read_samples((variant.complete or variant.runs)[0])
        if samples:
            yield f"{task_title(variant.task)}, {variant.title}", samples


def _pairs(variants: Sequence[Variant]) -> Iterable[tuple[str, str, list[Pair]]]:
    """Of each variant a name, what the prompts of one run share, and its answers before and after."""
    for variant in variants[:SAMPLED]:
        template, pairs = before_and_after(sample_rows((variant.complete or variant.runs)[0]))
        if pairs:
            yield f"{task_title(variant.task)}, {variant.title}", template, pairs


def _tells_apart(table: Table) -> bool:
    """Whether a comparison has enough seeds for a probability of improvement anywhere."""
    place = list(table.head).index("P, all tasks")
    return any(cell != NONE for row in table.rows for cell in row[place:])


def claims_matrix(checks: Sequence[Check], columns: Mapping[str, Sequence[Variant]]) -> dict[str, Any]:
    """Claims by columns of variants (a task's, a level's), with the checks of the column's variants in each cell.

    A check is in if it waits for no more runs, or has a finished one. Columns and claims without any are left out.
    """
    rows = []
    for claim in dict.fromkeys(check.claim for check in checks):
        of_claim = [c for c in checks if c.claim is claim and c.variants and (c.estimate.n or c.verdict != UNDECIDED)]
        cells = {name: [c for c in of_claim if c.variants[0] in variants] for name, variants in columns.items()}
        if any(cells.values()):
            rows.append((claim, cells))
    used = [name for name in columns if any(cells[name] for _, cells in rows)]
    return {"columns": used, "rows": [(claim, [_marks(cells[name]) for name in used]) for claim, cells in rows]}


def _marks(checks: Sequence[Check]) -> list[tuple[str, str, str]]:
    """(class, mark, explanation) of a cell: a mark a check, or how many of each where there are more than three."""
    if len(checks) <= 3:
        return [(CLASSES[c.verdict], SYMBOLS[c.verdict], _explained(c)) for c in checks]
    by_verdict = {verdict: [c for c in checks if c.verdict == verdict] for verdict in SYMBOLS}
    return [
        (CLASSES[verdict], f"{len(by_verdict[verdict])}{symbol}", "; ".join(map(_explained, by_verdict[verdict])))
        for verdict, symbol in SYMBOLS.items()
        if by_verdict[verdict]
    ]


def _explained(check: Check) -> str:
    return f"{', '.join(filter(None, (check.reward, check.settings)))}: {check.verdict}, {check.reason}"


def grouped_notes(notes: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Notes as (what, the runs it is about); what is said of several runs is said once."""
    runs: dict[str, list[str]] = {}
    for note in notes:
        place, separator, what = note.partition(": ")
        if separator and "/" in place:
            runs.setdefault(what, []).append(Path(place).name)
        else:
            runs.setdefault(note, [])
    return list(runs.items())
