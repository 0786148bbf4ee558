"""`pgsrm COMMAND`: the same as `python -m`, help and mistakes at once."""

import importlib
import importlib.util
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, environment

from pgsrm import __version__
from pgsrm.__main__ import COMMANDS, main, unknown, usage

SLOW = ("torch", "transformers", "hydra", "omegaconf", "mlflow", "numpy", "msgspec")


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["pgsrm", *words])
    monkeypatch.setattr(sys, "path", list(sys.path))
    return main()


def test_the_console_script_is_declared() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"pgsrm": f"{main.__module__}:{main.__name__}"}


def test_help_and_version_import_nothing_slow() -> None:
    script = f"""
import sys
from pgsrm.__main__ import main
for words in ([], ["--help"], ["--version"], ["rnu"]):
    sys.argv[1:] = words
    main()
print([name for name in {SLOW} if name in sys.modules])
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[-2:] == [f"pgsrm {__version__}", "[]"]
    assert lines[:-2] == usage().splitlines() * 2
    assert done.stderr == "pgsrm: rnu: not a command; did you mean `pgsrm run`? `pgsrm --help` lists all\n"


def test_every_command_is_a_module_that_can_be_started() -> None:
    for name, (module, does) in COMMANDS.items():
        spec = importlib.util.find_spec(module)
        assert spec is not None, module
        if spec.submodule_search_locations is not None:
            assert importlib.util.find_spec(f"{module}.__main__") is not None, module
        assert f"  {name} " in usage() and does in usage()


@pytest.mark.parametrize("name", COMMANDS)
def test_words_reach_the_module_as_they_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def record(module: str, run_name: str, alter_sys: bool) -> None:
        seen.append((module, run_name, alter_sys, sys.argv[1:]))

    monkeypatch.setattr(runpy, "run_module", record)
    words = ["-m", "task=a,b", "--cfg", "job", "--help", "--version", "x='y z'", "run"]
    assert call(monkeypatch, name, *words) == 0
    assert seen == [(COMMANDS[name][0], "__main__", True, words)]


def test_the_command_ends_with_the_modules_line_and_code(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as status:
        call(monkeypatch, "status", "nowhere")
    assert status.value.code == 2
    assert capfd.readouterr().err.startswith("pgsrm: nowhere: no such folder;")
    with pytest.raises(SystemExit) as report:
        call(monkeypatch, "report", "--runs", "nowhere")
    assert report.value.code == 1
    assert capfd.readouterr().err.startswith("pgsrm.analysis: --runs=nowhere")


def test_modules_beside_where_one_is_are_found_as_by_python_m(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A reward of the user's own; a console script has its own folder first on the path."""
    (tmp_path / "my_command_test.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runpy, "run_module", lambda *args, **options: None)
    assert importlib.util.find_spec("my_command_test") is None
    call(monkeypatch, "run", "reward=mine")
    assert sys.path[0] == str(tmp_path)
    assert importlib.util.find_spec("my_command_test") is not None
    before = list(sys.path)
    call(monkeypatch, "run", "reward=mine")
    assert sys.path == before


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("rnu", "pgsrm run"),
        ("Status", "pgsrm status"),
        ("eval", "pgsrm evaluation"),
        ("analysis", "pgsrm report"),
        ("pgsrm.embedder", "pgsrm embedder"),
        ("task=color", "pgsrm run task=color"),
        ("-m", "pgsrm run -m"),
    ],
)
def test_an_unknown_word_names_the_nearest(word: str, meant: str) -> None:
    assert unknown(word) == f"{word}: not a command; did you mean `{meant}`? `pgsrm --help` lists all"


def test_a_word_near_to_none_names_no_command() -> None:
    assert unknown("xyzzy") == "xyzzy: not a command; `pgsrm --help` lists all"


def test_windows_gets_a_line_that_says_so() -> None:
    program = "import sys; sys.platform = 'win32'; import pgsrm"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.stderr.strip().splitlines()[-1].endswith("on Windows use it within WSL2")


@pytest.mark.parametrize(
    "words",
    [
        ["--config-dir", "examples/own_task", "task=kind"],
        ["task=kind", "--config-dir", "examples/own_task"],
        ["--config-dir=examples/own_task", "task=kind"],
        ["seed=1", "-cd", "examples/own_task", "task=kind"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("command", ["embedder check", "reward probe", "critic check"])
def test_a_folder_of_ones_own_stands_anywhere_in_a_command(
    command: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong version: argparse takes the folder for a word of the run, and the next word for the folder."""
    from pgsrm.config.compose import compose_words

    module, name = command.split()
    inner = importlib.import_module(f"pgsrm.{module}.__main__")
    given: list[list[str]] = []
    monkeypatch.setattr(inner, f"{name}_command", lambda words, *_: given.append(words))
    monkeypatch.setattr(sys, "argv", ["x", name, *words])
    monkeypatch.chdir(ROOT)
    inner.main()
    config, choices = compose_words(given[0], command)
    assert (choices["task"], config.task.data) == ("kind", "examples/own_task/kind.csv")
