"""Every `python -m pgsrm.run` in README and docs/ composes: its groups, choices, keys and types are there."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from pgsrm.config.command_line import WITH_VALUE
from pgsrm.config.compose import compose_words
from pgsrm.config.known_keys import _known_keys, instead, meant
from pgsrm.config.messages import one_line
from pgsrm.config.schema import read_settings
from pgsrm.util.errors import UserError

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# What a reader fills in or writes first: no command as it stands.
PLACEHOLDER = re.compile(r"\.\.\.|…|[$<]\w|\{\w+\}|\bKEY\b|\btask=a\b|my_\w+\.|--config-dir[ =]mine|myconf")


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command behind `python -m pgsrm.run`, in blocks and within the text."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
    inline = re.findall(
        r"`(python -m pgsrm\.run [^`]*)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    )
    for line in [*lines, *(re.sub(r"\s+", " ", each) for each in inline)]:
        _, found, rest = line.partition("python -m pgsrm.run ")
        if found and not PLACEHOLDER.search(rest.replace("${task", "")):
            words = shlex.split(rest, comments=True)
            yield words[: words.index("&")] if "&" in words else words


def one_run(words: list[str], which: int) -> list[str]:
    """The words of one run of a sweep: of each key's values the first (0) or the last (-1)."""
    rest, chosen = iter(words), []
    for word in rest:
        if word in ("--config-dir", "-cd"):
            chosen.append(f"--config-dir={next(rest)}")
        elif word in WITH_VALUE:
            next(rest)
        elif word.startswith("--config-dir="):
            chosen.append(word)
        elif not word.startswith(("-", "hydra")):
            chosen.extend(value_of(OverridesParser.create().parse_override(word), word, which))
    return chosen


def value_of(override: Override, word: str, which: int) -> list[str]:
    """A word with one of its values; nothing for an interval, from which a search draws."""
    if not override.is_sweep_override():
        return [word]
    if not (override.is_choice_sweep() or override.is_range_sweep()):
        return []
    return [f"{word.partition('=')[0]}={list(override.sweep_string_iterator())[which]}"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_compose(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong versions: a key that was renamed, one that a choice of the sweep does not have, a folder behind a wrong option."""
    monkeypatch.chdir(ROOT)
    problems = []
    for words in commands(page):
        for run in {tuple(one_run(words, which)) for which in (0, -1)}:
            try:
                config, _ = compose_words(run, "a run")
                read_settings(config)
            except UserError as error:
                problems.append(f"{' '.join(run)}: {error}")
    assert problems == []


def test_the_commands_are_found() -> None:
    found = [words for page in PAGES for words in commands(page)]
    assert len(found) > 100
    assert ["-m", "task=color,antonym", "reward=pgsrm,binary"] in found
    assert one_run(["-m", "task=color,antonym", "seed=0,1", "--config-dir", "x"], -1) == [
        "task=antonym", "seed=1", "--config-dir=x",
    ]  # fmt: skip


def test_a_checker_with_keys_of_its_own_is_written_with_a_plus() -> None:
    """As docs/tasks.md says; without it, the error does."""
    (words,) = (
        words for words in commands(ROOT / "docs/tasks.md") if any(word.startswith("+task.checker=") for word in words)
    )
    config, _ = compose_words(words, "a run")
    read_settings(config)
    assert config.task.checker == {"_target_": "pgsrm.task.SentimentInversion", "column": "sentence"}
    bare = [word.removeprefix("+") for word in words]
    with pytest.raises(Exception, match=r"append to your config use \+task.checker") as refused:
        compose_words(bare, "a run")
    assert "not among the keys of the chosen config; +task.checker={" in (one_line(refused.value, bare) or "")


def rows(section: str) -> list[list[list[str]]]:
    """Of each row of a table in docs/coming-from.md the code in each of its cells."""
    page = (
        (ROOT / "docs/coming-from.md").read_text(encoding="utf-8").partition(f"## {section}\n")[2].partition("\n## ")[0]
    )
    lines = [line for line in page.splitlines() if line.startswith("| ")][1:]
    return [[re.findall(r"`([^`]+)`", cell) for cell in line.strip("| ").split(" | ")] for line in lines]


def test_what_other_tools_call_it_is_answered_with_our_key() -> None:
    """Each key of the page, when it is typed here; and those that have no counterpart are said to have none."""
    table = rows("Keys")
    assert len(table) > 20
    wrong = {theirs: meant(theirs) for given, _, ours in table for theirs in given if meant(theirs) not in ours}
    assert wrong == {} and {key for _, _, ours in table for key in ours} <= set(_known_keys())
    assert all(
        instead(key)
        for key in ("ckpt_path", "resume_from_checkpoint", "resume_mode", "run_name", "push_to_hub", "top_p")
    )


def test_what_is_named_for_users_of_other_tools_is_here() -> None:
    """Choices and keys compose, and metrics have a row on their page."""
    spans = [span for _, _, ours in rows("What is where") for span in ours]
    words = [span for span in spans if re.fullmatch(r"[a-z_.]+=[a-z0-9_\[\],]+", span)]
    assert {"ppo=grpo", "ppo.baseline=token_values", "trackers=[wandb,tensorboard]"} <= set(words)
    for word in words:
        compose_words(["task=antonym", word] if not word.startswith("hydra") else [], "a run")
    keys = [span for span in spans if re.fullmatch(r"(stop|ppo|task|model|hydra)\.[a-z_.]+", span)]
    assert keys and {key for key in keys if not key.startswith("hydra")} <= set(_known_keys())
    metrics = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in metrics for _, _, ours in rows("Metrics") for name in ours)
