"""What nano_both learned from: comments and stories whose errors are known, and what a task brings for its critics."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pgsrm.critic.instruction import Instruction
from pgsrm.nano import both
from pgsrm.nano.comments import RUDE, continuation, openings, rude_words
from pgsrm.nano.stories import LABELS, stories, story, with_errors
from pgsrm.task.table import SHIPPED


def test_the_shipped_prompts_are_what_the_script_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(both, "DATA", tmp_path)
    both.write_data()
    for name in ("detox.jsonl", "summary.jsonl"):
        assert (tmp_path / name).read_bytes() == (SHIPPED / name).read_bytes()
        assert (
            len((SHIPPED / name).read_text().splitlines()) == len(set((SHIPPED / name).read_text().splitlines())) == 320
        )


def test_every_error_of_a_summary_is_a_quote_that_is_found_where_it_was_made() -> None:
    draw, instruction = random.Random(0), Instruction("summary_nano")
    seen = dict.fromkeys(LABELS, 0)
    for _ in range(300):
        made = story(draw)
        summary = with_errors(made, draw, 0.5)
        read = instruction.read(both.annotation_reply(instruction, summary.errors), both.PROMPT, f" {summary.text}")
        assert read.lost == 0 and len(read.spans) == len(summary.errors)
        for quote, label in summary.errors:
            seen[label] += 1
            assert quote in summary.text
            if label == "unsupported":
                assert quote not in made.document
            elif label == "irrelevant":
                assert quote.capitalize() in made.document and quote not in made.reference
            else:
                half = quote[: len(quote) // 2]
                assert quote == f"{half} {half}" and quote not in made.reference
    assert min(seen.values()) > 100


def test_a_summary_without_errors_is_the_reference() -> None:
    draw = random.Random(0)
    for made in stories(50, 1):
        assert with_errors(made, draw, 0.0).text == made.reference


def test_a_comment_is_as_rude_as_it_was_asked_to_be() -> None:
    draw = random.Random(0)
    assert not any(rude_words(continuation(opening, draw, 0.0)) for opening in openings())
    assert all(rude_words(continuation(opening, draw, 1.0)) for opening in openings())
    assert rude_words(f"a {RUDE[0]}, {RUDE[-1]}. Not {RUDE[0]}ly") == [
        RUDE[0],
        RUDE[-1],
    ]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["task.critic.values={positive: much}"], "task.critic.values"),
        (["+task.critic.valeus={positive: 1}"], "task.critic.valeus: unknown key"),
        (["task.critic.instruction=nothing"], "critic.instruction=nothing: can't be read"),
    ],
)
def test_a_tasks_critic_is_checked(words: list[str], says: str, call_cli: Callable[..., Any], tmp_path: Path) -> None:
    common = [
        "task=sentiment_control",
        "reward=critic",
        "critic=transformers",
        "tracking=none",
        f"paths.outputs={tmp_path}",
    ]
    result = call_cli(*common, *words)
    assert result.code != 0 and says in result.err and "Traceback" not in result.err
    assert not (tmp_path / "runs").exists()
