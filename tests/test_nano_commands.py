"""Commands of pgsrm.nano: a mistake ends in one line that names the command."""

import sys
from pathlib import Path

import pytest

from pgsrm.nano import pretrain, recall


def error_of(
    command: object, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """What a command writes to standard error, after exit code 2."""
    monkeypatch.setattr(sys, "argv", ["command", *words])
    with pytest.raises(SystemExit) as ended:
        command()  # type: ignore[operator]
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_errors_name_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = error_of(recall.main, [f"{tmp_path}/no"], monkeypatch, capsys)
    assert (
        line == f"pgsrm.nano.recall: {tmp_path}/no: no finished run (no model/config.json); train it to its end first\n"
    )
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").touch()
    (tmp_path / "config.yaml").write_text("choices: {task: detox}\n")
    line = error_of(recall.main, [str(tmp_path)], monkeypatch, capsys)
    assert line.startswith(
        f"pgsrm.nano.recall: {tmp_path}: task=detox; only color, antonym, category have withheld facts"
    )
    line = error_of(pretrain.main, ["--corpus=/no/such"], monkeypatch, capsys)
    assert line == "pgsrm.nano.pretrain: --corpus=/no/such: no such file\n"
    corpus = tmp_path / "a.txt"
    corpus.touch()
    line = error_of(pretrain.main, [f"--corpus={corpus}", f"--start={tmp_path}/b"], monkeypatch, capsys)
    assert line == f"pgsrm.nano.pretrain: --start={tmp_path}/b: no model there (no config.json)\n"
