"""What README and docs/ point to is there: links, headings, files named in the text, modules and options in commands."""

import ast
import importlib
import importlib.util
import re
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

from pgsrm.__main__ import COMMANDS

PAGES = [ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING", "SECURITY")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
# Working papers that the project was planned with; whoever reads the project does not have them.
ELSEWHERE = re.compile(
    r"\b(PITFALLS|FIELD|FIDELITY|DESIGN|CRITIC|STYLE)\b[ :]*\d|\b(PITFALLS|FIDELITY)\b|\bSWEEPS: \d|\.\./shared"
)


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def headings(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).lower() for title in titles]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?://|mailto:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in headings(file)):
            dead.append(target)
    assert dead == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_named_in_the_text_are_there(page: Path) -> None:
    """`pgsrm/...`, `conf/...`, `docs/...` and the like, in backticks; names with placeholders are left out."""
    rooms = "pgsrm|conf|docs|tests|benchmarks|examples|launchers|analysis"
    named = re.findall(rf"`((?:{rooms})/[\w./-]+)`", page.read_text(encoding="utf-8"))
    missing = [
        name for name in named if not (ROOT / name).exists() and not (page.name == "rewards.md" and "brevity" in name)
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_in_commands_are_there(page: Path) -> None:
    modules = set(re.findall(r"python -m ((?:pgsrm|benchmarks)[\w.]*\w)", page.read_text(encoding="utf-8")))
    missing = []
    for module in modules:
        path = ROOT / module.replace(".", "/")
        if not path.with_suffix(".py").is_file() and not (path / "__main__.py").is_file():
            missing.append(module)
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_the_console_script_are_there(page: Path) -> None:
    named = re.findall(r"(?:^|`)pgsrm ([\w-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(named) <= {*COMMANDS, "--help", "--version"}


def test_every_page_is_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(((?:docs/)?[\w-]+\.md)", readme))
    assert {page.relative_to(ROOT).as_posix() for page in PAGES} - {"README.md"} <= linked


def test_nothing_points_to_documents_that_are_not_here() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    suffixes = (".py", ".md", ".yaml", ".toml", ".j2")
    texts = [ROOT / name for name in listed if name.endswith(suffixes) and name != "tests/test_docs.py"]
    assert texts or not (ROOT / ".git").exists()
    pointing = [path.name for path in texts if path.exists() and ELSEWHERE.search(path.read_text(encoding="utf-8"))]
    assert pointing == []


def test_every_page_is_in_the_sites_menu() -> None:
    """Wrong version: a new page that `make docs` warns about, which ends it with an error."""
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    named = re.findall(r"(\S+\.md)$", menu, re.MULTILINE)
    reference = {f"api/{name}.md" for name in reference_pages()}
    notebooks = {f"notebooks/{path.stem}.md" for path in (ROOT / "examples").glob("*.ipynb")}
    pages = {page.name for page in (ROOT / "docs").glob("*.md")}
    assert sorted(named) == sorted(pages | reference | notebooks | {"index.md"})


def test_what_the_sites_reference_shows_is_there() -> None:
    for _, objects in reference_pages().values():
        for target in objects:
            module, _, name = target.rpartition(".")
            assert importlib.util.find_spec(target if is_module(target) else module), target
            assert is_module(target) or hasattr(importlib.import_module(module), name), target


def reference_pages() -> dict[str, tuple[str, list[str]]]:
    """`REFERENCE` of docs/mkdocs_hook.py, which itself needs mkdocs."""
    tree = ast.parse((ROOT / "docs/mkdocs_hook.py").read_text(encoding="utf-8"))
    values = [
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "REFERENCE"
    ]
    pages: dict[str, tuple[str, list[str]]] = ast.literal_eval(values[0])
    return pages


def is_module(target: str) -> bool:
    path = ROOT / target.replace(".", "/")
    return path.with_suffix(".py").is_file() or path.is_dir()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_of_prose_are_not_too_long(page: Path) -> None:
    """At most 132 characters, as CONTRIBUTING.md says; not so tables, and commands: in blocks or indented."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    lines = [line for line in text.splitlines() if not line.startswith(("|", "    "))]
    assert [line for line in lines if len(line) > 132] == []
