"""How much memory a process has needed at most."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from conftest import environment

import pgsrm
from pgsrm.trainer import Trainer
from pgsrm.util import memory
from pgsrm.util.errors import UserError

LARGE = 400 << 20


def printed(code: str) -> list[float]:
    """The numbers that a process of its own prints."""
    code = "from pgsrm.util.memory import _resident_peak\n" + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def test_it_is_a_peak() -> None:
    before, during, after = printed(f"""
        print(_resident_peak())
        large = b"1" * {LARGE}
        print(_resident_peak())
        del large
        print(_resident_peak())
        """)
    assert before < LARGE / 2 and LARGE < during - before < 1.2 * LARGE
    assert after == pytest.approx(during, rel=0.02)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="by /proc")
def test_it_is_that_of_the_process_and_not_of_the_one_that_started_it() -> None:
    (peak,) = printed(f"""
        import subprocess, sys
        large = b"1" * {LARGE}
        code = "from pgsrm.util.memory import _resident_peak; print(_resident_peak())"
        print(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        """)
    assert 0 < peak < LARGE / 2


def test_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    with_proc = memory._resident_peak()

    def none(*_: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(memory, "open", none, raising=False)
    assert memory._resident_peak() >= 0.98 * with_proc > 10 << 20


@pytest.mark.parametrize(
    ("micro_batch", "line"),
    [
        (
            None,
            r"^ppo\.micro_batch=null: 50 rows at once are too many for the memory \(.*allocat.*\); set it to 25, or model\.",
        ),
        (
            8,
            r"^ppo\.micro_batch=8: 8 rows .*; set it to 4, or model\.gradient_checkpointing=true or model\.lora=\{rank: 8\}, ",
        ),
        (1, r"^ppo\.micro_batch=1: 1 row at once is .*; set model\.gradient_checkpointing=true or "),
        (80, r"^ppo\.micro_batch=80: 50 rows at once "),
    ],
)
def test_a_lack_of_memory_names_what_takes_less(micro_batch: int | None, line: str) -> None:
    """The error that torch raises on this machine, for more memory than there can be."""
    with pytest.raises(UserError, match=line), memory.says_what_takes_less(micro_batch, 50):
        torch.empty(1 << 50)


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")]
)
def test_python_and_a_gpu_lack_memory_too(error: Exception) -> None:
    with pytest.raises(UserError, match="rows at once are too many for the memory"), memory.says_what_takes_less(8, 50):
        raise error


def test_another_error_remains_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="size of tensor"), memory.says_what_takes_less(8, 50):
        torch.ones(2) + torch.ones(3)


def test_a_run_without_memory_ends_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong version: a traceback of torch's, and no word of what to do."""

    def greedy(*_: object) -> None:
        torch.empty(1 << 50)

    monkeypatch.setattr(Trainer, "learn", greedy)
    words = [
        "task=antonym",
        "reward=binary",
        "model=nano_1x64",
        "ppo.episodes=8",
        "ppo.batch_size=4",
        "evaluation.prompts=2",
    ]
    with pytest.raises(UserError, match=r"ppo\.micro_batch=null: 4 rows at once .*; set it to 2, or"):
        pgsrm.train(*words, "tracking=none", f"paths.outputs={tmp_path}", progress=False)
