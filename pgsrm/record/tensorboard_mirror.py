"""TensorBoard as a mirror of the run folder: `tensorboard --logdir outputs/tensorboard`.

The event files are written anew from metrics.jsonl at every start of a run, and where a resume cut metrics.jsonl back: so
nothing has to be remembered, nothing is there twice, and a kill loses nothing.
"""

import json
import logging
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgsrm.record.files import replace
from pgsrm.record.mirror import Mirror, Tail
from pgsrm.record.run_folder import RunFolder, parse_lines
from pgsrm.record.samples import samples_table
from pgsrm.util.errors import UserError

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

logger = logging.getLogger(__name__)


class TensorboardMirror(Mirror):
    """Keeps one folder of event files in step with one run folder.

    Args:
        folder: the run.
        place: the folder of the event files, this run's alone.
        params: the run's config, flat, for the tab TEXT.
    """

    def __init__(self, folder: RunFolder, place: Path, params: Mapping[str, Any]) -> None:
        super().__init__(folder)
        self._place, self._params = place, params
        self._tail = Tail(folder.metrics)
        self._writer: SummaryWriter | None = None
        self._started = 0.0  # when the run started
        self._seconds = 0.0  # its training time after the last row that was written
        self._warned = False

    def send_now(self, end: tuple[str, str | None] | None = None) -> None:
        """As `Mirror.send_now`; raises UserError where the files can't be written."""
        self._end = end
        try:
            self._send() if end is None else self._send_end()
        except OSError as error:
            raise UserError(f"{self._place}: can't be written ({error.strerror}); free some space") from error

    # Everything below runs in the thread, or in `send_now`.

    def _warn(self, error: BaseException) -> None:
        self._writer, self._tail = None, Tail(self._folder.metrics)  # the next try writes all of it anew
        if not self._warned:
            logger.warning("TensorBoard: %s: %s; training continues", type(error).__name__, error)
        self._warned = True

    def _send(self) -> None:
        content, is_first = self._tail.read()
        if is_first and content:
            self._begin()
        for _, row in parse_lines(content):
            self._write(row)
        if content and self._writer is not None:
            self._writer.flush()
        self._tail.taken(content)
        self._took()

    def _begin(self) -> None:
        """An empty folder of event files."""
        from torch.utils.tensorboard.writer import SummaryWriter

        if self._writer is not None:
            self._writer.close()
        for file in self._place.glob("events.out.tfevents.*"):
            file.unlink()
        self._folder.tensorboard.unlink(missing_ok=True)
        self._seconds, self._started = 0.0, self._start()
        self._writer = SummaryWriter(str(self._place))
        rows = "".join(f"| {_cell(key)} | {_cell(value)} |\n" for key, value in self._params.items())
        self._writer.add_text("config", f"| key | value |\n|---|---|\n{rows}", 0)

    def _write(self, row: Mapping[str, Any]) -> None:
        """One update; its time is the run's start and its training time, so that the pauses between starts do not show."""
        assert self._writer is not None
        self._seconds += row.get("time/update") or 0.0
        at = self._started + self._seconds
        for name, value in row.items():
            if name != "update" and isinstance(value, int | float):
                self._writer.add_scalar(name, float(value), row["update"], walltime=at)

    def _start(self) -> float:
        started = (self._folder.status() or {}).get("started")
        return datetime.fromisoformat(started).timestamp() if started else 0.0

    def _send_end(self) -> None:
        self._send()
        if self._writer is None or self._end is None:
            return
        state, reason = self._end
        update = int((self._folder.last_metrics() or {}).get("update", 0))
        self._writer.add_text("state", f"{state}: {reason}" if reason else state, update)
        table = samples_table(self._folder)
        if table is not None:
            lines = [table["columns"], ["---"] * len(table["columns"]), *table["data"]]
            text = "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)
            self._writer.add_text("samples", text, update)
        self._writer.close()
        replace(self._folder.tensorboard, json.dumps({"state": state, "update": update}).encode(), durable=False)


def _cell(value: Any) -> str:
    """A value in a table of Markdown's, which TensorBoard shows."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
