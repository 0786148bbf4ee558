"""Many runs on this machine: N slots, one process a run."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from omegaconf import DictConfig, open_dict

from pgsrm.errors import UserError
from pgsrm.plan import Plan, load_settings, plan
from pgsrm.record import RunFolder
from pgsrm.train import OTHERS, start_mirror

POLL_SECONDS = 0.5


class SweepFailed(UserError):
    """Some runs of a sweep did not finish."""


def compose(config_loader: Any, config: DictConfig, overrides: list[str]) -> Plan:
    """The plan of one run of a sweep, from Hydra's config loader and the run's overrides."""
    return plan_run(config_loader.load_sweep_config(config, overrides))


def plan_run(config: DictConfig) -> Plan:
    """The plan of a composed config that still has its `hydra` node, from which the groups' choices are read."""
    choices = {
        str(group): str(option)
        for group, option in config.hydra.runtime.choices.items()
        if "hydra" not in str(group) and option is not None
    }
    config = config.copy()
    with open_dict(config):
        config.pop("hydra")
    return plan(config, choices)


def run_sweep(plans: Sequence[Plan], slots: int | None) -> None:
    """Freeze all runs, train those that have not finished, and print the sweep's table.

    Raises:
        SweepFailed: when a run failed or was stopped; the same command runs what is missing.
    """
    from pgsrm.record.progress import SweepTable
    from pgsrm.record.summary import end_of_sweep_table, summarise

    plans = list({p.identity: p for p in plans}.values())
    folders = [p.folder for p in plans]
    sweep = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
    for p in plans:
        p.freeze(sweep)
    waiting = [p for p in plans if p.folder.state() != "finished"]
    print(f"{len(plans)} runs: {len(plans) - len(waiting)} finished before, {len(waiting)} to train", flush=True)
    tracking = plans[0].config["tracking"]
    experiment = prepare_tracking(tracking)
    if experiment is not None:
        _send_the_rest(folders)
    slots = max(1, min(slots or _default_slots(plans), len(waiting) or 1))
    with SweepTable(folders) as table:
        _train(waiting, slots, table)
    print(end_of_sweep_table([summarise(folder) for folder in folders]), flush=True)
    print_where(plans[0].config, experiment)
    unfinished = [folder for folder in folders if folder.state() != "finished"]
    if unfinished:
        raise SweepFailed(
            f"{len(unfinished)} of {len(folders)} runs did not finish ({unfinished[0].name}: "
            f"{(unfinished[0].status() or {}).get('reason')}); the same command goes on with them"
        )


def print_where(config: dict[str, Any], experiment: str | None) -> None:
    """Where everything is."""
    line = f"runs: {config['paths']['outputs']}/runs"
    if config["tracking"] is not None:
        from pgsrm.record.mlflow_store import ui_hint

        line += "\n" + ui_hint(config["tracking"], experiment)
    print(line, flush=True)


def prepare_tracking(tracking: dict[str, Any] | None) -> str | None:
    """Make database and experiment once: several processes that open a fresh SQLite file break each other."""
    if tracking is None:
        return None
    from pgsrm.record.mlflow_store import prepare

    return prepare(tracking)


def _send_the_rest(folders: Sequence[RunFolder]) -> None:
    """Send MLflow what it has not got of runs that finished earlier, while its server was away."""
    from pgsrm.record.mlflow_mirror import is_complete

    for folder in folders:
        if folder.state() == "finished" and not is_complete(folder):
            mirror = start_mirror(folder, load_settings(folder)[1])
            if mirror is not None:
                mirror.finish("finished")


def _cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _default_slots(plans: Sequence[Plan]) -> int:
    """A slot a core, or for every `threads` of them; a GPU takes one run at a time."""
    on_cpu = all(p.config["model"]["device"] == "cpu" for p in plans) or not os.path.exists("/dev/nvidia0")
    return _cores() // max(p.config["threads"] or 1 for p in plans) if on_cpu else 1


def _train(plans: Sequence[Plan], slots: int, table: Any) -> None:
    """Keep `slots` runs going. Whatever ends this (a signal, an error) passes SIGTERM on and waits for checkpoints."""
    queue = list(plans)
    running: list[subprocess.Popen[bytes]] = []
    threads = max(1, _cores() // slots)
    stopping = False

    def stop(number: int, frame: object) -> None:
        nonlocal stopping
        stopping = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        while (queue or running) and not stopping:
            for process in [process for process in running if process.poll() is not None]:
                running.remove(process)
                _note_crash(process)
            while queue and len(running) < slots:
                running.append(_start(queue.pop(0).folder, threads))
            table.refresh()
            time.sleep(POLL_SECONDS)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
            _note_crash(process)
        table.refresh()
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(folder: RunFolder, threads: int) -> "subprocess.Popen[bytes]":
    """A run's own process, in a session of its own so that the terminal's Ctrl-C reaches it through us alone."""
    environment = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), **os.environ}
    with open(folder.path / "log.txt", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "pgsrm.train", str(folder.path), "--quiet"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )


def _note_crash(process: "subprocess.Popen[bytes]") -> None:
    """A process that was killed, or failed before it could say so, left no end in its status: write it."""
    assert isinstance(process.args, list)
    folder = RunFolder(str(process.args[3]))
    if process.returncode in (0, OTHERS) or folder.state() not in ("running", "cut off", "waiting"):
        return
    if folder.acquire():
        killed = process.returncode < 0
        by = f"killed by {signal.Signals(-process.returncode).name}" if killed else f"exit code {process.returncode}"
        folder.write_status(state="failed", reason=f"{by}; see {folder.path / 'log.txt'}")
        folder.release()
