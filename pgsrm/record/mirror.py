"""A tracker as a mirror of a run's folder, which stays the truth: what all of them have in common.

A thread looks every two seconds for new whole lines of metrics.jsonl and sends them. All of a tracker's code, its import too, runs
in that thread: training neither waits for it nor ends with it.
"""

import json
import logging
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pgsrm.record.files import replace
from pgsrm.record.run_folder import RunFolder
from pgsrm.util.errors import UserError
from pgsrm.util.shell import python, quoted

logger = logging.getLogger(__name__)

_PERIOD = 2.0  # seconds between two sends
_LONGEST_PAUSE = 60.0  # seconds between two tries while the tracker does not answer


def remembered(path: Path) -> dict[str, Any]:
    """What a mirror's file in the run's folder says that the tracker has; empty where there is none, or half of one."""
    try:
        sent = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return sent if isinstance(sent, dict) else {}


def has_all(folder: RunFolder, sent: dict[str, Any]) -> bool:
    """Whether a tracker that has what `sent` says has all of a run that has ended: its end, and its last update."""
    state, last = (folder.status() or {}).get("state"), folder.last_metrics() or {}
    return state is not None and sent.get("state") == state and sent.get("update", -1) >= last.get("update", -1)


class Tail:
    """The whole lines of a file that were not taken yet: all of them again once another file stands in its place."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0  # of the first line that was not taken
        self._inode = -1  # of the file that the offset is in

    def read(self) -> tuple[bytes, bool]:
        """The lines, and whether they are the file's first; `taken` moves on behind them."""
        if not self._path.exists():
            return b"", False
        with open(self._path, "rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            if inode != self._inode:  # `truncate_after` puts a new file in the old one's place
                self._inode, self._offset = inode, 0
            file.seek(self._offset)
            content = file.read()
        return content[: content.rfind(b"\n") + 1], self._offset == 0

    def taken(self, content: bytes) -> None:
        """These lines, which `read` returned, need not be read again."""
        self._offset += len(content)


class Mirror(ABC):
    """Keeps one run of a tracker in step with one run folder. memory: the file in it of what the tracker has."""

    patience = 10.0  # seconds without a sign of the tracker until `finish` gives up

    def __init__(self, folder: RunFolder, memory: Path) -> None:
        self._folder, self._memory, self._sent = folder, memory, remembered(memory)
        self._tail = Tail(folder.metrics)
        self._warned = False
        self._end: tuple[str, str | None] | None = None  # state and reason of a run that has ended
        self._whole = False  # whether the tracker has all of a run that has ended
        self._stop = threading.Event()
        self._progress = 0.0  # when the tracker last took something
        self._thread = threading.Thread(target=self._work, name=type(self).__name__, daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def finish(self, state: str, reason: str | None = None, patience: float | None = None) -> None:
        """Sends the rest and ends the tracker's run as finished, failed or stopped, with the reason.

        Returns when that is done, or once the tracker has taken nothing for `patience` seconds (None: the class's own; 0: at
        once, without a word).
        """
        patience = self.patience if patience is None else patience
        self._end = (state, reason)
        self._stop.set()
        begin = time.monotonic()
        while self._thread.is_alive() and time.monotonic() < max(begin, self._progress) + patience:
            self._thread.join(0.1)
        if patience and not self._whole:
            if self._thread.is_alive():
                self._warn(TimeoutError(f"no answer in {patience:g} s"))
            logger.warning(
                "%s: not all of it was sent; the same command sends the rest, or %s", self._folder.name, self._sync()
            )

    def send_now(self, end: tuple[str, str | None] | None = None) -> None:
        """Instead of `start` and `finish`: sends what is missing, and with `end` the state and reason, before it returns.

        Raises:
            UserError: the tracker does not take it.
        """
        self._end = end
        try:
            self._send_part() if end is None else self._send_end()
        except UserError:
            raise
        except Exception as error:  # trackers' errors share no base class
            raise UserError(f"{self._problem(error)}; {self._sync()} sends what is missing") from error

    def _sync(self) -> str:
        return f"`{python()} -m pgsrm.sync {quoted(str(self._folder.path.parent))}`"

    # Everything below runs in the thread, or in `send_now`.

    @abstractmethod
    def _send(self) -> None:
        """Send every whole line that the tracker does not have yet."""

    def _send_part(self) -> None:
        """Send what there is of a run that goes on elsewhere."""
        self._send()

    @abstractmethod
    def _send_end(self) -> None:
        """Send the rest, and that the run has ended."""

    @abstractmethod
    def _problem(self, error: BaseException) -> str:
        """What an error says of the tracker: the beginning of one line."""

    def _warn(self, error: BaseException) -> None:
        """Say once what the tracker does not do; training continues."""
        if not self._warned:
            logger.warning("%s; training continues, what is missing is sent later", self._problem(error))
        self._warned = True

    def _remember(self, **fields: Any) -> None:
        """The tracker has taken something just now, and has what the fields say."""
        self._sent.update(fields)
        replace(self._memory, (json.dumps(self._sent, indent=1) + "\n").encode(), durable=False)
        self._took()

    def _took(self) -> None:
        """The tracker has taken something just now."""
        self._progress = time.monotonic()

    def _work(self) -> None:
        pause = 0.0
        while not self._stop.wait(pause):
            pause = _PERIOD if self._tries(self._send) else min(max(2 * pause, _PERIOD), _LONGEST_PAUSE)
        self._whole = self._tries(self._send_end)

    def _tries(self, action: Callable[[], None]) -> bool:
        try:
            action()
        except Exception as error:  # whatever it is, training continues
            self._warn(error)
            return False
        return True
