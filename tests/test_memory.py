"""How much memory a process has needed at most."""

import subprocess
import sys
import textwrap

import pytest
from conftest import environment

from pgsrm.util import memory

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
