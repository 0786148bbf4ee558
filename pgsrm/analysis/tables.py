"""A table of texts and estimates, written as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pgsrm.analysis.intervals import Estimate

NONE = "-"
Cell = str | Estimate

# What LaTeX takes for a command, and letters that its text fonts lack.
LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {letter: f"\\{letter}" for letter in "&%$#_{}"}
LATEX |= {
    "→": r"$\to$",
    "α": r"$\alpha$",
    "×": r"$\times$",
    "≥": r"$\ge$",
    "≤": r"$\le$",
    "−": r"$-$",
    "λ": r"$\lambda$",
}
LATEX |= {"⁴": r"$^4$", "–": "--", "ℓ": r"$\ell$", "<": r"$<$", ">": r"$>$", "|": r"\textbar{}"}


@dataclass(frozen=True)
class Table:
    """A table: `name` is its file's stem, `formats` the number format of the columns that hold estimates.

    The first `left` columns are names, the others are aligned right. A column in which every cell is `NONE` is left
    out, unless it is a name.
    """

    name: str
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    left: int = 1
    formats: dict[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def used(self) -> list[int]:
        """The numbers of the columns that are written: names, and columns in which a cell is not `NONE`."""
        return [i for i in range(len(self.head)) if i < self.left or any(not _is_none(row[i]) for row in self.rows)]

    def texts(self) -> list[list[str]]:
        """The head and the rows as text, of the columns in use."""
        rows = [[self.text(row[i], self.head[i]) for i in self.used] for row in self.rows]
        return [[self.head[i] for i in self.used], *rows]

    def text(self, cell: Cell, column: str) -> str:
        """An estimate as "0.60 [0.50, 0.70]", or "-" for none."""
        if isinstance(cell, str):
            return cell
        spec = self.formats.get(column, ".3f")
        if cell.value != cell.value:
            return NONE
        if cell.low != cell.low:
            return format(cell.value, spec)
        bounds = spec.removeprefix("+").removeprefix("z")
        return f"{cell.value:{spec}} [{cell.low:z{bounds}}, {cell.high:z{bounds}}]"

    def markdown(self) -> str:
        """A pipe table with its alignment row; a `|` within a cell is escaped."""
        head, *rows = self.texts()
        rule = ["---" if i < self.left else "---:" for i in range(len(head))]
        lines = [[cell.replace("|", "\\|") for cell in row] for row in (head, rule, *rows)]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"

    def latex(self) -> str:
        r"""A tabular with booktabs' rules, to be put into a table environment with \input."""
        head, *rows = self.texts()
        lines = [" & ".join(latex_text(cell) for cell in row) + r" \\" for row in (head, *rows)]
        columns = "l" * self.left + "r" * (len(head) - self.left)
        body = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
        comments = [f"% {self.title}", *(f"% {note}" for note in self.notes)]
        return "\n".join([*comments, *body, r"\end{tabular}"]) + "\n"

    def csv(self) -> str:
        """Numbers in full: a column of estimates becomes the columns value, low and high."""
        estimates = {i for i in self.used if any(isinstance(row[i], Estimate) for row in self.rows)}
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        head = [
            [self.head[i], f"{self.head[i]} low", f"{self.head[i]} high"][: 3 if i in estimates else 1]
            for i in self.used
        ]
        writer.writerow([name for names in head for name in names])
        for row in self.rows:
            cells: list[str] = []
            for i in self.used:
                cell = row[i]
                if isinstance(cell, Estimate):
                    cells += ["" if x != x else repr(x) for x in (cell.value, cell.low, cell.high)]
                else:
                    cells += ["" if cell == NONE else cell, *(["", ""] if i in estimates else [])]
            writer.writerow(cells)
        return out.getvalue()


def write(table: Table, folder: Path) -> list[Path]:
    """NAME.md, NAME.tex and NAME.csv below `folder`."""
    title = f"**{table.title}**\n\n"
    notes = "".join(f"{note}\n" for note in table.notes)
    texts = {"md": title + table.markdown() + ("\n" + notes if notes else ""), "tex": table.latex(), "csv": table.csv()}
    paths = [folder / f"{table.name}.{kind}" for kind in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        path.write_text(text, encoding="utf-8")
    return paths


def latex_text(text: str) -> str:
    """The text with the characters escaped that LaTeX reads as commands."""
    return "".join(LATEX.get(letter, letter) for letter in text)


def _is_none(cell: Cell) -> bool:
    return cell == NONE if isinstance(cell, str) else cell.value != cell.value
