"""The example that is the whole of training in one file."""

import subprocess
import sys

from conftest import ROOT, environment

EXAMPLE = ROOT / "examples" / "minimal_loop.py"


def test_the_minimal_loop_trains() -> None:
    """A few small updates; the whole of it learns antonym from 21 % to 81 % right answers."""
    assert len(EXAMPLE.read_text().splitlines()) <= 150
    command = [sys.executable, str(EXAMPLE), "--updates", "3", "--batch", "8", "--kl-target", "1"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    before, update, after = done.stdout.splitlines()
    assert before.startswith("antonym: 2") and before.endswith("% right before training")
    assert update.split()[:2] == ["update", "3"] and 0 < float(update.split()[3]) < 1
    assert after.endswith("right after 24 answers")
