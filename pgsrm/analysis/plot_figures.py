"""From runs to findings: figures, tables, statistics, claims and one HTML report.

    python analysis/plot_figures.py [--runs DIR ...] [--tracking URI] [--out DIR] [--formats pdf,png]
                                    [--width text|column] [--claims FILE.yaml] [--best-of-n FILE.csv]
                                    [--only-finished]

`python -m pgsrm.analysis ...` does the same, also where the package was installed without this repository. Reads run
folders, or the runs of an MLflow server or database. docs/analysis.md says what is made and what it means.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pgsrm.analysis.runs import DEFAULT_RUNS, NoRunsError, print_notes
from pgsrm.analysis.variants import Variant, load_variants
from pgsrm.util.errors import UserError

if TYPE_CHECKING:
    from pgsrm.analysis.best_of_n import BestOfN
    from pgsrm.analysis.claims import Claim

FORMATS = ("pdf", "png", "svg")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code, 1 where there are no runs or a claims file is wrong."""
    args = _parser().parse_args(argv)
    from pgsrm.analysis.best_of_n import not_shown, read_best_of_n
    from pgsrm.analysis.claims import PAPER, ClaimsError, read_claims
    from pgsrm.analysis.results import COLUMNS
    from pgsrm.analysis.verdicts import check_names

    try:
        paper = read_claims(PAPER)
        claims = read_claims(PAPER, *args.claims)  # in one go: no two may share a name
        best = [read_best_of_n(path) for path in args.best_of_n]
        variants, notes = _load(args, list(dict.fromkeys([*COLUMNS, *(claim.metric for claim in claims)])))
        notes += [*check_names(claims[len(paper) :], variants), *not_shown(best, variants)]
        print_notes(notes)
        if args.only_finished:
            variants = [variant for variant in variants if variant.complete]
        if not variants:
            raise NoRunsError("--only-finished: no run has finished; leave it out to see how far they are")
        args.out.mkdir(parents=True, exist_ok=True)
        for path in _write_all(variants, notes, claims, best, args):
            _say(path)
    except (UserError, ClaimsError) as error:
        print(f"pgsrm.analysis: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"pgsrm.analysis: --out={args.out}: cannot write there: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("pgsrm.analysis: interrupted; the same command makes all files", file=sys.stderr)
        return 130
    return 0


def _say(path: Path) -> None:
    """Name a file on standard output; without a word once nobody reads it (`| head`), since the files are what counts."""
    try:
        print(path, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pgsrm.analysis",
        description="Figures, tables, statistics, claims and an HTML report, from run folders or from MLflow. "
        "In a checkout, python analysis/plot_figures.py does the same.",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--runs", type=Path, nargs="+", metavar="DIR", default=[DEFAULT_RUNS],
                        help="run folders, or folders above them (default: outputs/runs)")  # fmt: skip
    source.add_argument("--tracking", metavar="URI",
                        help="MLflow instead of folders: sqlite:///outputs/mlflow.db or http://host:5000")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", default=Path("outputs/figures"),
                        help="where everything goes (default: outputs/figures)")  # fmt: skip
    parser.add_argument("--formats", type=_formats, default=("pdf", "png"), metavar="pdf,png",
                        help="of the figures: pdf, png, svg; separated by commas (default: pdf,png)")  # fmt: skip
    parser.add_argument("--width", choices=("text", "column"), default="text",
                        help="of the figures: 7 inches for both columns of a page, or 3.25 for one (default: text)")  # fmt: skip
    parser.add_argument("--claims", type=Path, nargs="+", metavar="FILE", default=[],
                        help="YAML files of claims to check besides the paper's")  # fmt: skip
    parser.add_argument("--best-of-n", type=Path, nargs="+", action="extend", metavar="FILE", default=[],
                        help="tables of python -m pgsrm.algorithm best_of_n: lines of the figures TASK_frontier")  # fmt: skip
    parser.add_argument("--only-finished", action="store_true",
                        help="leave out a curve of which no seed has finished")  # fmt: skip
    return parser


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",")))
    unknown = [name for name in names if name not in FORMATS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is unknown; choose of {', '.join(FORMATS)}")
    return names


def _load(args: argparse.Namespace, columns: Sequence[str]) -> tuple[list[Variant], list[str]]:
    if args.tracking:
        from pgsrm.analysis.mlflow_runs import load_mlflow_variants

        return load_mlflow_variants(args.tracking, columns)
    return load_variants(args.runs, columns)


def _write_all(
    variants: Sequence[Variant],
    notes: Sequence[str],
    claims: Sequence[Claim],
    best: Sequence[BestOfN],
    args: argparse.Namespace,
) -> Iterator[Path]:
    """Write everything, and name each file once it is there; the report comes last."""
    from pgsrm.analysis.findings import find
    from pgsrm.analysis.report import write_report
    from pgsrm.analysis.style import save
    from pgsrm.analysis.tables import write

    findings = find(variants, notes, claims, best)
    for stem, draw in findings.figures(args.width):
        for page, figure in enumerate(draw(), start=1):
            yield from save(figure, args.out / (stem if page == 1 else f"{stem}_{page}"), args.formats)
    for table in findings.tables:
        yield from write(table, args.out)
    yield write_report(findings, args.out / "report.html")
