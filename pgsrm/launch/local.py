"""Runs on this machine: N slots, one process per run, one GPU per slot where there are GPUs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgsrm.launch.search import Judge, check_search
from pgsrm.launch.sweep import (
    Survey,
    freeze,
    launching,
    outputs_of,
    prepare_tracking,
    report,
    send_the_rest,
    survey,
)
from pgsrm.record import RunFolder
from pgsrm.record.files import DiskFull
from pgsrm.train import OTHERS, STOPPED
from pgsrm.util.errors import UserError
from pgsrm.util.numbers import counted

if TYPE_CHECKING:  # a wrong value is told before what a plan needs is imported
    from pgsrm.config.plan import Plan

POLL_SECONDS = 0.5
PRUNE_SECONDS = 2.0  # between two looks at what the runs of a search have come to


@dataclass(frozen=True)
class Slot:
    """A place for one run at a time: the CPU threads of each of its processes, and the GPUs that it sees, as in "0,1".

    No GPUs (None): whatever the machine shows.
    """

    threads: int
    gpus: str | None = None

    def environment(self) -> dict[str, str]:
        """This process's environment, with the slot's threads (unless they are set) and GPUs."""
        threads = {"OMP_NUM_THREADS": str(self.threads), "MKL_NUM_THREADS": str(self.threads)}
        gpus = {} if self.gpus is None else {"CUDA_VISIBLE_DEVICES": self.gpus}
        return {**threads, **os.environ, **gpus}


def run_sweep(plans: Sequence[Plan], slots: int | None, runs_per_gpu: int = 1, retry_failed: bool = True) -> None:
    """Freeze all runs, train those that have not finished, and print the sweep's table.

    Raises:
        SweepFailed: when a run failed or was stopped; the same command runs what is missing.
    """
    if plans[0].settings.dry_run:
        print(survey(plans, retry_failed).lines(), flush=True)
        return
    with launching(outputs_of(plans)):
        surveyed = survey(plans, retry_failed)
        places = make_slots(surveyed.to_start or surveyed.plans, slots, visible_gpus(), runs_per_gpu)
        freeze(surveyed.to_start)
    print(surveyed.line(), flush=True)
    if set(surveyed.needs) <= {"queued", "running"}:
        return
    experiment = _train_and_send(surveyed, places)
    elsewhere = ("queued", "running")  # whoever started them answers for them
    report([p for p, need in zip(surveyed.plans, surveyed.needs, strict=True) if need not in elsewhere], experiment)


def run_batch(
    plans: Sequence[Plan],
    slots: int | None,
    runs_per_gpu: int = 1,
    retry_failed: bool = True,
    prune: Judge | None = None,
) -> str | None:
    """The runs that a search tries next: freeze them and train those that have not finished; MLflow's experiment.

    prune: says of a run that it is to be given up; it is stopped then, with a checkpoint.

    Raises:
        UserError: for what would leave the search without their results.
    """
    check_search(plans)
    with launching(outputs_of(plans)):
        surveyed = survey(plans, retry_failed)
        places = make_slots(surveyed.to_start or surveyed.plans, slots, visible_gpus(), runs_per_gpu)
        freeze(surveyed.to_start)
    return _train_and_send(surveyed, places, prune)


def _train_and_send(surveyed: Survey, places: Sequence[Slot], prune: Judge | None = None) -> str | None:
    """Train what is to start, send MLflow what it has not got, and return its experiment."""
    from pgsrm.record.progress import SweepTable

    tracking = surveyed.plans[0].config["tracking"]
    experiment = prepare_tracking(tracking)
    folders = [plan.folder for plan in surveyed.plans]
    wanted = [plan for plan in surveyed.to_start if prune is None or not prune(plan.folder)]
    if wanted:
        with SweepTable(folders) as table:
            _train(wanted, places, table, prune)
    if tracking is not None or surveyed.plans[0].config["trackers"]:
        send_the_rest(folders)
    return experiment


def make_slots(plans: Sequence[Plan], count: int | None, gpus: Sequence[str], runs_per_gpu: int) -> list[Slot]:
    """`count` slots (null: one per core, or one per `threads` cores; with GPUs `runs_per_gpu` for each of them).

    A run of several processes has a GPU for each.

    Raises:
        UserError: more slots or processes than the GPUs have room for.
    """
    cores, processes = _cores(), max(plan.settings.processes for plan in plans)
    on_gpu = bool(gpus) and any(plan.config["model"]["device"] in ("auto", "cuda") for plan in plans)
    groups = [",".join(gpus[first : first + processes]) for first in range(0, len(gpus) - processes + 1, processes)]
    if on_gpu and not groups:
        there = f"there {'is' if len(gpus) == 1 else 'are'} {counted(len(gpus), 'GPU')}"
        raise UserError(f"processes={processes}: {there}; choose fewer, or set model.device=cpu")
    if on_gpu and count is not None and count > len(groups) * runs_per_gpu:
        take = f"{counted(len(gpus), 'GPU')} {'takes' if len(gpus) == 1 else 'take'}"
        raise UserError(
            f"hydra.launcher.slots={count}: {take} {counted(len(groups) * runs_per_gpu, 'run')}; "
            "raise hydra.launcher.runs_per_gpu, or set model.device=cpu"
        )
    if count is None:
        threads = max(plan.config["threads"] or 1 for plan in plans)
        count = len(groups) * runs_per_gpu if on_gpu else cores // (threads * processes)
    count = max(1, min(count, len(plans)))
    threads = max(1, cores // (count * processes))
    return [Slot(threads, groups[place % len(groups)] if on_gpu else None) for place in range(count)]


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; found without importing torch."""
    devices = [path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")]
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not devices or allowed is None:
        return sorted(devices, key=int)
    return [name for listed in allowed.split(",") if (name := listed.strip())]


def _cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _train(plans: Sequence[Plan], slots: Sequence[Slot], table: Any, prune: Judge | None = None) -> None:
    """Keep all slots busy. Whatever ends this (a signal, an error) passes SIGTERM on and waits for checkpoints.

    A second Ctrl-C is passed on too, and ends the runs at once.
    """
    queue, free = list(plans), list(slots)
    running: list[tuple[subprocess.Popen[bytes], Slot]] = []
    stopping, looked = False, time.monotonic()
    given_up: dict[int, str] = {}  # process -> why it was stopped

    def stop(number: int, frame: object) -> None:
        nonlocal stopping
        if stopping and number == signal.SIGINT:
            for process, _ in running:
                process.send_signal(signal.SIGINT)
        stopping = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        while (queue or running) and not stopping:
            for process, slot in [pair for pair in running if pair[0].poll() is not None]:
                running.remove((process, slot))
                free.append(slot)
                _note_end(process, given_up)
            if prune is not None and time.monotonic() - looked > PRUNE_SECONDS:
                looked = time.monotonic()
                _give_up([process for process, _ in running], prune, given_up)
            while queue and free:
                slot = free.pop(0)
                running.append((_start(queue.pop(0).folder, slot), slot))
            table.refresh()
            time.sleep(POLL_SECONDS)
    finally:
        if stopping and running:
            told = "stopping: each run ends its update and writes a checkpoint; Ctrl-C again ends them at once"
            print(told, file=sys.stderr, flush=True)
        for process, _ in running:
            process.terminate()
        for process, _ in running:
            process.wait()
            _note_end(process, given_up)
        table.refresh()
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(folder: RunFolder, slot: Slot) -> "subprocess.Popen[bytes]":
    """A run's own process, in a session of its own so that the terminal's Ctrl-C reaches it through us alone."""
    with open(folder.path / "log.txt", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "pgsrm.train", str(folder.path), "--quiet"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=slot.environment(),
            start_new_session=True,
        )


def _folder_of(process: "subprocess.Popen[bytes]") -> RunFolder:
    assert isinstance(process.args, list)
    return RunFolder(str(process.args[3]))


def _give_up(processes: Sequence["subprocess.Popen[bytes]"], prune: Judge, given_up: dict[int, str]) -> None:
    """Ask those of the processes to stop whose runs are to be given up, and note why."""
    for process in processes:
        if process.pid not in given_up and (reason := prune(_folder_of(process))):
            given_up[process.pid] = reason
            process.terminate()


def _note_end(process: "subprocess.Popen[bytes]", given_up: dict[int, str]) -> None:
    """Write what a process that has ended could not say: that its run was given up, or how it crashed."""
    folder = _folder_of(process)
    if process.pid in given_up and folder.state() == "stopped" and folder.acquire():
        folder.write_status(reason=given_up[process.pid])
        folder.release()
        return
    _note_crash(process, folder)


def _note_crash(process: "subprocess.Popen[bytes]", folder: RunFolder) -> None:
    """A process that was killed, or failed before it could say so, left no end in its status: write it."""
    if process.returncode in (0, OTHERS) or folder.state() not in ("running", "cut off", "waiting"):
        return
    if not folder.config.is_file():
        told = f"{folder.path}: was deleted while its run trained; the same command begins it anew"
        print(told, file=sys.stderr, flush=True)
        return
    asked = process.returncode in (-signal.SIGTERM, -signal.SIGINT)  # before it could answer as a run does
    state, reason = ("stopped", STOPPED) if asked else ("failed", _why(process.returncode, folder))
    if folder.acquire():
        try:
            folder.write_status(state=state, reason=reason)
        except DiskFull:
            print(f"{folder.name}: {reason}", file=sys.stderr, flush=True)
        folder.release()


def _why(code: int, folder: RunFolder) -> str:
    """Why a run's process ended, as far as it shows from outside."""
    by = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    # What a full memory looks like from outside: the kernel ends its largest process.
    full = code == -signal.SIGKILL
    hint = "; if memory ran out: a smaller hydra.launcher.slots or ppo.micro_batch" if full else ""
    return f"{by}{hint}; see {folder.path / 'log.txt'}"
