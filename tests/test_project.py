"""Files that no other test reads: continuous integration, pre-commit, Dockerfile, changelog, issue forms."""

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml
from conftest import ROOT

from pgsrm import __version__

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def read_yaml(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def test_every_extra_is_pinned_in_one_of_the_two_files() -> None:
    """Where a version is named by nobody, the same command installs another one tomorrow."""

    def name_of(requirement: str) -> str:
        found = re.match(r"[A-Za-z0-9._-]+", requirement)
        assert found
        return re.sub(r"[-_.]+", "-", found[0]).lower()

    def pinned_in(file: str) -> set[str]:
        lines = [line for line in (ROOT / file).read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
        assert all(re.fullmatch(r"[^=\s]+==[^=\s]+", line) for line in lines)
        return {name_of(line) for line in lines}

    installed, further = pinned_in("requirements.lock"), pinned_in("requirements-extras.lock")
    assert not installed & further
    extras = PROJECT["project"]["optional-dependencies"]
    left_out = {extra for extra, needs in extras.items() if not {name_of(need) for need in needs} <= installed}
    assert left_out == {"datasets", "docs", "real", "wandb"}
    assert {name_of(need) for extra in left_out for need in extras[extra]} <= installed | further
    assert {name_of(need) for need in PROJECT["project"]["dependencies"]} <= installed
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert makefile.count("-c requirements.lock -c requirements-extras.lock") == makefile.count("-e '.[") == 2


def test_pre_commit_has_the_ruff_that_is_pinned() -> None:
    pinned = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line.startswith("ruff==")]
    hooks = [hook for repo in read_yaml(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert [hook["id"] for hook in hooks] == ["ruff-check", "ruff-format"]
    assert len(pinned) == 1 and all(hook["additional_dependencies"] == pinned for hook in hooks)


def test_continuous_integration_runs_what_a_checkout_runs() -> None:
    job = read_yaml(".github/workflows/ci.yml")["jobs"]["checks"]
    versions = job["strategy"]["matrix"]["python"]
    assert versions == ["3.11", "3.12", "3.13"] and PROJECT["project"]["requires-python"] == f">={versions[0]}"
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert (ROOT / ".ci/run").stat().st_mode & 0o111


def test_the_image_has_what_the_wheel_is_built_from() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = {name for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE) for name in line.split()}
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    needed = {Path(name).parts[0] for name in wheel} | {PROJECT["project"]["readme"], "pyproject.toml"}
    needed |= set(PROJECT["project"]["license-files"])
    assert copied == needed | {"requirements.lock"}
    assert all((ROOT / name).exists() for name in copied)
    assert 'ENTRYPOINT ["pgsrm"]' in text and "pgsrm" in PROJECT["project"]["scripts"]


def test_the_changelog_has_this_version_and_the_changes_since() -> None:
    titles = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert titles[:2] in (["Unreleased", __version__], [__version__, titles[1]])


def test_issue_forms_are_complete() -> None:
    forms = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
    assert [form.stem for form in forms] == ["bug", "question"]
    for form in forms:
        content = yaml.safe_load(form.read_text(encoding="utf-8"))
        assert content["name"] and content["description"]
        fields = [part for part in content["body"] if part["type"] != "markdown"]
        assert len({field["id"] for field in fields}) == len(fields)
        assert all(field["attributes"]["label"] for field in fields)
