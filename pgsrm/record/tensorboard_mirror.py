"""TensorBoard as a mirror of the run folder: `tensorboard --logdir outputs/tensorboard`.

The event files are written anew from metrics.jsonl at every start of a run, and where a resume cut metrics.jsonl back: so
nothing has to be remembered, nothing is there twice, and a kill loses nothing.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgsrm.record.mirror import Mirror, Tail
from pgsrm.record.run_folder import RunFolder, parse_lines
from pgsrm.record.samples import samples_table

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter


class TensorboardMirror(Mirror):
    """Keeps one folder of event files in step with one run folder.

    Args:
        folder: the run.
        place: the folder of the event files, this run's alone.
        params: the run's config, flat, for the tab TEXT.
    """

    def __init__(self, folder: RunFolder, place: Path, params: Mapping[str, Any]) -> None:
        super().__init__(folder, folder.tensorboard)
        self._place, self._params = place, params
        self._writer: SummaryWriter | None = None
        self._started = 0.0  # when the run started
        self._seconds = 0.0  # its training time after the last row that was written

    def _problem(self, error: BaseException) -> str:
        if isinstance(error, OSError):
            return f"TensorBoard: {self._place}: can't be written ({error.strerror})"
        return f"TensorBoard: {type(error).__name__}: {error}"

    def _warn(self, error: BaseException) -> None:
        self._writer, self._tail = None, Tail(self._folder.metrics)  # the next try writes all of it anew
        super()._warn(error)

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
        self._memory.unlink(missing_ok=True)
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
        self._remember(state=state, update=update)


def _cell(value: Any) -> str:
    """A value in a table of Markdown's, which TensorBoard shows."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
