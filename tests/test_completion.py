"""Completion in a shell: what may come next, and bash itself with the script that `pgsrm completion` prints."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, environment

from pgsrm.__main__ import COMMANDS
from pgsrm.completion import BASH, complete


@pytest.mark.parametrize(
    ("line", "may_be"),
    [
        ("pgsrm rew", ["reward", "reward_model"]),
        ("pgsrm run ta", ["task.", "task="]),
        ("pgsrm run task=an", ["task=antonym"]),
        ("pgsrm run -m task=color,an", ["task=color,antonym"]),
        ("pgsrm run -m reward=pgsrm hydra/swe", ["hydra/sweeper="]),
        ("pgsrm run hydra/sweeper=search hydra.sweeper.pr", ["hydra.sweeper.prune=", "hydra.sweeper.prune_after="]),
        ("pgsrm run ppo.bat", ["ppo.batch_size="]),
        ("pgsrm run stop.mode=", ["stop.mode=max", "stop.mode=min"]),
        ("pgsrm run ppo.whiten_advantages=t", ["ppo.whiten_advantages=true"]),
        ("pgsrm run reward=pgsrm reward.al", ["reward.alpha="]),
        ("pgsrm run algorithm=dpo algorithm.be", ["algorithm.beta="]),
        ("pgsrm run embedder@evaluation.embedder=sta", ["embedder@evaluation.embedder=static"]),
        ("pgsrm run --co", ["--config-dir"]),
        ("pgsrm parent task=cat", ["task=category"]),
        ("pgsrm status outputs/r", []),
        ("pgsrm run task.data=w", []),
        ("pgsrm run nothing.", []),
    ],
)
def test_what_a_word_may_be(line: str, may_be: list[str]) -> None:
    assert complete(line) == may_be


def test_every_command_and_choice_is_offered() -> None:
    assert complete("pgsrm ") == list(COMMANDS)
    tasks = [file.stem for file in (ROOT / "conf/task").glob("*.yaml")]
    assert complete("pgsrm run task=") == sorted(f"task={name}" for name in tasks)


def test_choices_of_ones_own() -> None:
    assert complete(f"pgsrm run -m --config-dir {ROOT / 'examples/own_task'} task=ki") == ["task=kind"]


def test_a_tab_waits_for_nothing_slow() -> None:
    code = (
        "import sys; from pgsrm.completion import complete; complete('pgsrm run ppo.ba'); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_at_a_tab(tmp_path: Path) -> None:
    """Typed into an interactive bash: a choice after `=`, which splits words there, and a key, after which no blank comes."""
    (tmp_path / "pgsrm").write_text(f'#!/bin/sh\nexec {sys.executable} -m pgsrm "$@"\n')
    (tmp_path / "pgsrm").chmod(0o755)
    (tmp_path / "rc").write_text(f"PS1='> '\nbind 'set bell-style none'\n{BASH}")
    settings = {**environment(), "PATH": f"{tmp_path}:{os.environ['PATH']}", "TERM": "dumb"}
    ours, theirs = pty.openpty()
    shell = subprocess.Popen(
        ["bash", "--noprofile", "--rcfile", str(tmp_path / "rc"), "-i"],
        stdin=theirs, stdout=theirs, stderr=theirs, env=settings, cwd=tmp_path, start_new_session=True,
    )  # fmt: skip

    def until(text: str, seconds: float = 30) -> str:
        seen, ends = "", time.monotonic() + seconds
        while text not in seen and time.monotonic() < ends:
            if select.select([ours], [], [], 0.1)[0]:
                seen += os.read(ours, 4096).decode()
        assert text in seen, seen
        return seen

    try:
        until("> ")
        os.write(ours, b"echo pgsrm run; pgsrm run task=anton\t")
        until("task=antonym ")
        os.write(ours, b"ppo.batch_s\t7\x01#\n")  # to the line's beginning: a comment
        until("task=antonym ppo.batch_size=7")
    finally:
        shell.kill()
        shell.wait()
        os.close(ours)
        os.close(theirs)
