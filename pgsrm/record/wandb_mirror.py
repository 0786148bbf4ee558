"""Weights & Biases as a mirror of the run folder. What is W&B's own to say, it says: WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE ...

The W&B run's id and the last update that it was given are remembered in wandb.json, so that a resumed run, and
`python -m pgsrm.sync`, write to the same W&B run. With WANDB_MODE=offline each start of a run makes a folder of its own with
this id, which `wandb sync` sends in their order.
"""

import ast
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pgsrm.record.mirror import Mirror, Tail
from pgsrm.record.run_folder import RunFolder, parse_lines
from pgsrm.record.samples import samples_table


class WandbMirror(Mirror):
    """Keeps one W&B run in step with one run folder; W&B uploads what it was given when the run ends, at the latest.

    Args:
        folder: the run.
        place: where W&B puts its folder `wandb`.
        name: the W&B run's name; group: the sweep.
        params: the run's config, flat, without secrets.
    """

    patience = 60.0

    def __init__(self, folder: RunFolder, place: Path, name: str, group: str | None, params: Mapping[str, str]) -> None:
        super().__init__(folder, folder.wandb)
        self._place, self._name, self._group, self._params = place, name, group, params
        self._sent.setdefault("update", -1)
        self._run: Any = None

    def _problem(self, error: BaseException) -> str:
        return f"W&B: {(str(error).splitlines() or [type(error).__name__])[0]}"

    def _warn(self, error: BaseException) -> None:
        self._run, self._tail = None, Tail(self._folder.metrics)  # the next try connects again
        super()._warn(error)

    def _send_part(self) -> None:
        self._send()
        if self._run is not None:
            self._run.finish()

    def _send(self) -> None:
        content, _ = self._tail.read()
        rows = self._missing(content)
        if rows:
            run = self._run or self._connect()
            self._sent.pop("state", None)  # it goes on
            for row in self._missing(content):
                run.log({name: value for name, value in row.items() if name != "update"}, step=row["update"])
            self._remember(update=rows[-1]["update"])
        self._tail.taken(content)

    def _missing(self, content: bytes) -> list[dict[str, Any]]:
        return [row for _, row in parse_lines(content) if row["update"] > self._sent["update"]]

    def _connect(self) -> Any:
        import wandb

        if wandb.setup().settings.mode in (None, "online") and not wandb.api.api_key:
            raise RuntimeError("no API key; `wandb login`, or set WANDB_MODE=offline")
        self._sent.setdefault("id", uuid.uuid4().hex[:12])
        self._remember()  # before the first call: a kill in between makes no second run
        self._place.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "pgsrm"),
            id=self._sent["id"],
            name=self._name,
            group=self._group,
            config={key: _typed(value) for key, value in self._params.items()},
            dir=str(self._place),
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True, disable_git=True, save_code=False),
        )
        if self._run.resumed:  # what was queued when its process was killed is not there
            self._sent["update"] = min(self._sent["update"], self._run.step - 1)
        self._took()
        return self._run

    def _send_end(self) -> None:
        self._send()
        assert self._end is not None
        state, reason = self._end
        if self._run is None and self._sent.get("state") == state:
            return
        import wandb

        run = self._run or self._connect()
        table = samples_table(self._folder)
        if table is not None:
            run.log({"samples": wandb.Table(columns=table["columns"], data=table["data"])})
        run.summary.update({"state": state, "reason": reason})
        run.finish(exit_code=int(state == "failed"))
        self._run = None
        self._remember(state=state)


def _typed(text: str) -> Any:
    """A value that was written as text, so that W&B can sort and plot by numbers."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text
