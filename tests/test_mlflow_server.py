"""A real MLflow server that is killed and started again while a run logs to it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import environment
from mlflow.tracking import MlflowClient

from pgsrm.record import RunFolder
from pgsrm.record.mlflow_mirror import MlflowMirror


class Server:
    """`mlflow server` on a port of its own; SIGKILL takes all of its processes."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        environ = {**environment(), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=environ, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                return
            except OSError:
                assert time.monotonic() < end and self.process.poll() is None
                time.sleep(0.2)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path)
    yield running
    running.kill()


def test_a_server_that_is_killed_and_comes_back_has_every_point(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgsrm.record.mirror._PERIOD", 0.1)
    monkeypatch.setattr("pgsrm.record.mirror._LONGEST_PAUSE", 0.5)
    folder = RunFolder(tmp_path / "run")
    assert folder.acquire()
    mirror = MlflowMirror(folder, {"uri": server.uri, "experiment": "pgsrm"}, "run", {"seed": "1"}, {})
    mirror.start()

    def log(updates: range) -> None:
        for update in updates:
            folder.append_metrics({"update": update, "reward/mean": update / 8, "time/update": 0.5})
            time.sleep(0.002)

    log(range(200))
    end = time.monotonic() + 60
    while not folder.mlflow.exists() or json.loads(folder.mlflow.read_text())["update"] < 100:
        assert time.monotonic() < end
        time.sleep(0.05)
    server.kill()
    log(range(200, 700))  # training continues
    assert json.loads(folder.mlflow.read_text())["update"] < 699
    server.start()
    log(range(700, 800))
    mirror.finish("finished", patience=60)
    folder.release()

    client = MlflowClient(server.uri)
    (run,) = client.search_runs(["1"])
    points = sorted((each.step, each.value) for each in client.get_metric_history(run.info.run_id, "reward/mean"))
    assert points == [(update, update / 8) for update in range(800)]
    assert run.info.status == "FINISHED" and run.data.params == {"seed": "1"}
