"""A lock that holds between machines: a file that only one process can create, on every shared file system.

flock is better where it works, since the kernel takes it from a dead process. Some network file systems have none, or
one for each machine.
"""

import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from pgsrm.record.environment import slurm_job


def create(path: Path) -> bool:
    """Take the lock by creating its file, or return False. The lock of a dead process of this machine is taken over."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        held = holder(path)
        if held is None or held["host"] != socket.gethostname() or alive(held["pid"]):
            return False
        remove(path, held)
        return False if path.exists() else create(path)
    with os.fdopen(descriptor, "w") as file:
        json.dump({"host": socket.gethostname(), "pid": os.getpid(), "job": slurm_job()}, file)
    return True


def holder(path: Path) -> dict[str, Any] | None:
    """Who holds the lock: host, pid and Slurm job (or null); None for nobody, or while the file is written."""
    try:
        held = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return held if isinstance(held, dict) else None


def remove(path: Path, held: dict[str, Any]) -> None:
    """Take a dead holder's lock away, unless another process has done so and holds it now."""
    aside = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}")
    with suppress(FileNotFoundError):
        os.rename(path, aside)
        if holder(aside) != held:
            with suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink()


def alive(pid: object) -> bool:
    """Whether a process of this machine has that number."""
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
