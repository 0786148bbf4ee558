"""The notebooks: their cells run, in a short version, and what is stored in them is what they print."""

import ast
import io
import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib
import pytest
from conftest import ROOT

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def text_of(lines: str | list[str]) -> str:
    return lines if isinstance(lines, str) else "".join(lines)


def printed(cell: dict[str, Any]) -> str:
    return "".join(text_of(output["text"]) for output in cell["outputs"] if output["output_type"] == "stream")


@pytest.fixture
def execute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], str]:
    """`execute(code)`: what a cell prints, and the text of its last expression; all cells share one module, as in a notebook."""
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    module = ModuleType("cells_of_a_notebook")  # where a run finds a reward that a cell defines
    monkeypatch.setitem(sys.modules, module.__name__, module)
    (tmp_path / f"{module.__name__}.py").write_text("")
    module.__file__ = str(tmp_path / f"{module.__name__}.py")

    def run(code: str) -> str:
        Path(str(module.__file__)).write_text(Path(str(module.__file__)).read_text() + code + "\n")
        tree = ast.parse(code)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        with redirect_stdout(io.StringIO()) as out:
            exec(compile(tree, "cell", "exec"), module.__dict__)
            if isinstance(last, ast.Expr):
                value = eval(compile(ast.Expression(last.value), "cell", "eval"), module.__dict__)
                print("" if value is None else repr(value))
        return out.getvalue()

    return run


def test_there_are_two() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["first_rewards", "own_task_and_reward"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, execute: Callable[[str], str]) -> None:
    parameters = 0
    for cell in code_cells(path):
        code, tags = text_of(cell["source"]), cell["metadata"].get("tags", [])
        if "parameters" in tags:
            code, parameters = "EPISODES = 300", parameters + code.startswith("EPISODES = ")
        shown = execute(code)
        if "same" in tags:  # no training before it
            assert shown.rstrip("\n") == printed(cell).rstrip("\n")
    assert parameters == 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_stored_is_whole_and_small(path: Path) -> None:
    assert path.stat().st_size < 150_000
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output["output_type"] == "error" or output.get("name") == "stderr" for output in outputs)
    assert not any(place in json.dumps(outputs) for place in ("/tmp", "/home", "/root"))
