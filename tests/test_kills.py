"""Show that a run can be killed at any moment: PGSRM_KILLS=50 python -m pytest tests/test_kills.py (default 5).

Kills come at random moments of the process, and at chosen ones: within the writing of a checkpoint, of a metrics line, of
what MLflow has taken. The run then resumes, and its record is that of a run that nobody disturbed.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from conftest import environment
from mlflow.tracking import MlflowClient
from test_run import INTERRUPTED, weights

from pgsrm.config.compose import plan_words
from pgsrm.record import RunFolder
from pgsrm.record.measured import is_measured

KILLS = int(os.environ.get("PGSRM_KILLS", "5"))

# Runs a folder as python -m pgsrm.train does, and kills itself before or in the middle of the KILL_AT-th call of a function
# that writes, or KILL_AFTER seconds after the first update.
KILLER = """
import os, signal, sys, threading, time
import pgsrm.record.checkpoint as checkpoint
import pgsrm.record.files as files
import pgsrm.record.mirror as mirror
import pgsrm.record.run_folder as run_folder

place, count = os.environ["KILL_AT"].split(":")
calls = 0

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def due():
    global calls
    calls += 1
    return calls == int(count)

def before(module, name):
    function = getattr(module, name)
    def wrapped(*args, **options):
        if due():
            die()
        return function(*args, **options)
    setattr(module, name, wrapped)

def half_a_line(folder, descriptor, content):
    if due():
        os.write(descriptor, content[: len(content) // 2])
        die()
    return append(folder, descriptor, content)

if place == "line":
    append, run_folder._append = run_folder._append, half_a_line
elif place == "tensors":  # a checkpoint's files are written, and it has not got its name yet
    before(files, "sync")
elif place == "named":
    before(checkpoint, "saved")
elif place == "sent":  # MLflow has taken the lines, and that is not noted yet
    before(mirror, "replace")
elif place == "seconds":
    threading.Timer(int(count) / 1000, die).start()
sys.argv = ["pgsrm.train", sys.argv[1], "--quiet"]
from pgsrm.train import main
main()
"""


def deterministic(folder: RunFolder) -> list[bytes]:
    """The lines of metrics.jsonl, byte by byte, but for their times."""
    rows = [json.loads(line) for line in folder.metrics.read_bytes().splitlines()]
    return [json.dumps({k: v for k, v in row.items() if not is_measured(k)}).encode() for row in rows]


@pytest.mark.slow
def test_kills_at_any_moment_leave_no_trace(
    tiny: Path, small: Sequence[str], tmp_path: Path, resume: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "interrupted.py").write_text(INTERRUPTED)
    (tmp_path / "killer.py").write_text(KILLER)
    monkeypatch.syspath_prepend(tmp_path)
    overrides = [each for each in small if not each.startswith(("tracking", "paths", "ppo.episodes"))]
    overrides += ["~reward", "+reward={_target_:interrupted.reward,_partial_:true}", "ppo.actor_lr=1e-3"]
    overrides += ["ppo.episodes=160", "checkpoint.updates=7"]
    uri = f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"
    made = plan_words(*overrides, f"paths.outputs={tmp_path}/killed", uri)
    undisturbed = plan_words(*overrides, f"paths.outputs={tmp_path}/undisturbed", "tracking=none")
    undisturbed.freeze()
    resume(undisturbed.folder)

    made.freeze()
    folder, drawn, killed = made.folder, random.Random(7), list[str]()
    places = ("line", "tensors", "named", "sent", "seconds")
    for kill in range(KILLS):
        place = places[kill % len(places)]
        at = {"line": (2, 15), "tensors": (1, 6), "named": (1, 4), "sent": (2, 4), "seconds": (500, 9000)}[place]
        environ = {**environment(tmp_path), "KILL_AT": f"{place}:{drawn.randint(*at)}"}
        done = subprocess.run([sys.executable, "killer.py", str(folder.path)], cwd=tmp_path, env=environ, timeout=120)
        assert done.returncode in (-signal.SIGKILL, 0)
        killed += [place] * (done.returncode != 0)
        if done.returncode == 0:  # it got through before its kill was due: once more from the start
            assert folder.state() == "finished" and deterministic(folder) == deterministic(undisturbed.folder)
            kept = folder.path.rename(folder.path.with_name(f"finished-{kill}"))
            made.freeze()
            shutil.rmtree(kept)
    if folder.state() != "finished":
        resume(folder)
    assert len(killed) >= KILLS * 2 // 3 and len(set(killed)) >= 4
    assert deterministic(folder) == deterministic(undisturbed.folder)
    assert folder.samples.read_bytes() == undisturbed.folder.samples.read_bytes()
    assert weights(folder).equal(weights(undisturbed.folder))

    sent = json.loads(folder.mlflow.read_text())
    points = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").get_metric_history(sent["run_id"], "policy/entropy")
    expected = {row["update"]: row["policy/entropy"] for row in map(json.loads, folder.metrics.open()) if row["update"]}
    assert sorted(point.step for point in points) == sorted(expected)
    assert {point.step: point.value for point in points} == expected
