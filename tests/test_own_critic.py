"""examples/own_critic, a critic of one's own, as docs/critic.md shows it."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

EXAMPLE = ROOT / "examples" / "own_critic"


@pytest.fixture
def grounded(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The example's module."""
    monkeypatch.syspath_prepend(EXAMPLE)
    import grounded  # type: ignore[import-not-found,unused-ignore]

    return grounded


@pytest.mark.parametrize(
    ("document", "summary", "marked"),
    [
        ("We train deep networks.", " Deep networks are trained.", []),
        ("We train deep networks.", " We train shallow networks.", ["shallow"]),
        ("The network's error", " networks err", []),
        ("It adapts by optimization.", " Adaptation, to optimize it", []),
        ("Through theory", " throughput of therapy", ["throughput", "therapy"]),  # no stem of a function word
        ("", " It is what they do with this, and as such we may", []),
        ("We get 93.1% on 1,000 images.", " 93.1% on 1000 images", []),
        ("We get 93.1% on 1,000 images.", " 93.2% on 100 images", ["93.2", "100"]),  # a number has no stem
        ("We don’t know", " don't", []),
        ("", " It doesn't, can't, won’t, shan't; they've, it'll, I'm, and cannot be themselves or anything else's", []),
        ("We isolate it", " isn't, Isolation's", []),
        ("", " the network's, Network'll", ["network's", "Network'll"]),
        ("Ein Café", " CAFÉ, Straße", ["Straße"]),
        ("a cat", "", []),
    ],
)
def test_marks_what_the_document_does_not_have(
    grounded: Any, document: str, summary: str, marked: Sequence[str]
) -> None:
    (critique,) = grounded.GroundedCritic()(prompts=[f"Text: {document}\nShort:"], responses=[summary], extrinsic=None)
    assert [summary[span.start : span.end] for span in critique.spans] == marked
    assert {span.label for span in critique.spans} <= {"unsupported"}
    assert (critique.outcome, critique.lost) == ("parsed" if marked else "clean", 0)


def test_trains(run_cli: Callable[..., Any], small: Sequence[str], tmp_path: Path) -> None:
    """A sweep's own process finds the file as well, and each mark costs what the task says."""
    words = [word for word in small if not word.startswith("reward=")]
    result = run_cli(
        "-m",
        f"--config-dir={EXAMPLE}",
        *words,
        "task=summary",
        "reward=critic",
        "critic=grounded",
        "ppo.episodes=8",
        "task.max_input_words=12",
        "evaluation.prompts=2",
        "evaluation.text=null",
        pythonpath=EXAMPLE,
    )
    assert result.code == 0, result.err
    (run,) = (tmp_path / "outputs" / "runs").iterdir()
    assert "grounded" in run.name
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    spans = [span for sample in samples for span in sample["annotations"]["spans"]]
    assert spans and {tuple(span[2:]) for span in spans} == {("unsupported", -0.5)}


def test_the_page_shows_the_example_as_it_is() -> None:
    """Wrong version: code on the page that was changed in the file."""
    page = (ROOT / "docs" / "critic.md").read_text(encoding="utf-8")
    section = page.partition("## A critic of your own\n")[2].partition("\n## ")[0]
    shown = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)[0]
    source = (EXAMPLE / "grounded.py").read_text(encoding="utf-8")
    assert shown.strip() in source
    (yaml,) = re.findall(r"^```yaml\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert yaml.strip() in (EXAMPLE / "critic" / "grounded.yaml").read_text(encoding="utf-8")
