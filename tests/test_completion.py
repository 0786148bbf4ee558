"""Completion in a shell: what may come next, and bash itself with the script that `pgsrm completion` prints."""

import fcntl
import os
import pty
import select
import shutil
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from conftest import ROOT, environment

from pgsrm.__main__ import COMMANDS
from pgsrm.completion import SCRIPTS, complete


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


ZSHRC = "PS1='> '\nautoload -Uz compinit\ncompinit -u -d $ZDOTDIR/dump\n"
PGSRM = f"""#!/bin/sh
if [ "$1" = completion ]; then exec {sys.executable} -m pgsrm "$@"; fi
echo "GIVEN<$*>"
"""
STARTS = {  # how a shell starts without the user's own files: command, the file that it reads, what stands in it
    "bash": (["bash", "--noprofile", "--rcfile", "{here}/rc", "-i"], "rc", "PS1='> '\nbind 'set bell-style none'\n"),
    "zsh": (["zsh", "-d", "-i"], ".zshrc", ZSHRC),
    "zsh without compinit": (["zsh", "-d", "-i"], ".zshrc", "PS1='> '\nZSH_DISABLE_COMPFIX=true\n"),
    "fish": (["fish", "-i"], "config/fish/config.fish", "function fish_prompt; echo '> '; end\nset fish_greeting\n"),
}


@pytest.mark.parametrize("start", STARTS)
def test_a_shell_completes_at_a_tab(start: str, tmp_path: Path) -> None:
    """Typed into an interactive shell: a choice after `=`, a key, after which no blank comes, and a file."""
    shell = start.split()[0]
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell}")
    command, file, content = STARTS[start]
    (tmp_path / "pgsrm").write_text(PGSRM)
    (tmp_path / "pgsrm").chmod(0o755)
    (tmp_path / "words.csv").touch()
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(content + SCRIPTS[shell])
    own = {"HOME": tmp_path, "ZDOTDIR": tmp_path, "XDG_CONFIG_HOME": tmp_path / "config", "TERM": "dumb"}
    settings = {**environment(), "PATH": f"{tmp_path}:{os.environ['PATH']}", **{name: str(own[name]) for name in own}}
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [word.format(here=tmp_path) for word in command],
        stdin=theirs, stdout=theirs, stderr=theirs, env=settings, cwd=tmp_path,
        start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # fish asks for a terminal of its own
    )  # fmt: skip

    def until(text: str, seconds: float = 30) -> None:
        seen, ends = "", time.monotonic() + seconds
        while text not in seen and time.monotonic() < ends:
            if select.select([ours], [], [], 0.1)[0]:
                seen += os.read(ours, 4096).decode(errors="replace")
        assert text in seen, seen

    try:
        until("> ")
        os.write(ours, b"echo pgsrm run; pgsrm run task=anton\tppo.batch_s\t7 task.data=wor\t\n")
        until("GIVEN<run task=antonym ppo.batch_size=7 task.data=words.csv>")
        os.write(ours, b"pgsrm run -m task=color,anton\treward=p\tx\n")
        until("GIVEN<run -m task=color,antonym reward=pgsrm x>")
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)


def test_fish_lists_what_may_come(tmp_path: Path) -> None:
    """Asked without a terminal: only what `complete` says, and no files beside it."""
    if shutil.which("fish") is None:
        pytest.skip("no fish")
    (tmp_path / "pgsrm").write_text(PGSRM)
    (tmp_path / "pgsrm").chmod(0o755)
    settings = {**environment(), "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    for line in ("pgsrm run stop.mode=", "pgsrm rew", "pgsrm "):
        code = f"{SCRIPTS['fish']}\ncomplete -C '{line}'"
        done = subprocess.run(
            ["fish", "-c", code], env=settings, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert sorted(done.stdout.split()) == sorted(complete(line))


@pytest.mark.parametrize("words", [["tcsh"], ["bash", "zsh"]])
def test_a_shell_that_is_not_known(words: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pgsrm", "completion", *words]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2 and words[-1] in done.stderr.splitlines()[-1]
