"""Damaged data and vectors: a small part of `python -m benchmarks.fuzz_inputs`, which says what must hold."""

from pathlib import Path

import pytest

from benchmarks import fuzz_inputs
from pgsrm.util.errors import UserError


@pytest.mark.parametrize("kind", ["data", "vectors", "garbage vectors"])
def test_damaged_files_are_refused_in_a_line_or_make_sense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(fuzz_inputs, "FILES", {kind: fuzz_inputs.FILES[kind]})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    broken: list[str] = []
    outcomes = fuzz_inputs.fuzz_files(1, 60, tmp_path / "files", broken.append)
    assert broken == []
    assert outcomes[kind, "refused"] >= 20
    assert (outcomes[kind, "accepted"] > 0) == (kind != "garbage vectors")


def test_what_breaks_a_rule_is_seen(tmp_path: Path) -> None:
    """The rules themselves: garbage that earns something, a foreign exception, a message of two lines."""

    def fail(error: Exception) -> None:
        raise error

    assert fuzz_inputs.outcome(lambda: None) == ("accepted", "")
    assert fuzz_inputs.outcome(lambda: fail(ZeroDivisionError()))[0] == "BROKEN"
    assert fuzz_inputs.outcome(lambda: fail(UserError("a line")))[0] == "refused"
    assert fuzz_inputs.outcome(lambda: fail(UserError("two\nlines")))[0] == "BROKEN"
    (tmp_path / "good.txt").write_text("cold 1 0\nhot 0 1\n")
    assert fuzz_inputs.outcome(lambda: fuzz_inputs.try_vectors(tmp_path / "good.txt"))[0] == "accepted"
    assert fuzz_inputs.outcome(lambda: fuzz_inputs.try_garbage(tmp_path / "good.txt"))[0] == "BROKEN"
