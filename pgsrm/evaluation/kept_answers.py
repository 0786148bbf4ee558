"""What models have answered, kept in a file: a command that is cut off asks only the other models when it is given again."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pgsrm.evaluation.downstream import Answered, Asked
from pgsrm.record.environment import versions
from pgsrm.util.digest import folder_digest
from pgsrm.util.errors import writing_to
from pgsrm.util.paths import PACKAGE


class KeptAnswers:
    """Answers in a file of JSON lines, or for None in memory alone.

    A line counts for the same questions, model, code and libraries. A half line, of a process that was killed, is none.

    Raises UserError for a file that can't be read and written.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        # now, since the files may change while models are asked
        self._made_by = [folder_digest(PACKAGE, PACKAGE.rglob("*.py")), versions()]
        self._known = dict[str, Answered]()
        for line in [] if file is None else _lines(file):
            try:
                kept = json.loads(line)
                self._known[kept["key"]] = Answered(kept["matches"], kept["measures"])
            except (ValueError, KeyError, TypeError):
                continue

    def key(self, model: Any, asked: Asked) -> str:
        """Of the answers to what is `asked`; `model` is what decides them besides, as JSON holds it."""
        return hashlib.sha256(json.dumps([self._made_by, asked.digest, model], sort_keys=True).encode()).hexdigest()

    def get(self, key: str) -> Answered | None:
        """What was answered, if it is known."""
        return self._known.get(key)

    def add(self, key: str, answered: Answered) -> Answered:
        """Keep what a model has answered, and return it. Raises UserError where the file can't be written."""
        self._known[key] = answered
        if self._file is not None:
            line = json.dumps({"key": key, **asdict(answered)})
            with writing_to("--out", self._file), self._file.open("a", encoding="utf-8") as file:
                file.write(f"\n{line}\n")  # behind a half line, should one be there
        return answered


def _lines(file: Path) -> list[bytes]:
    """The lines of a file that is made where there is none."""
    with writing_to("--out", file), file.open("a+b") as opened:
        opened.seek(0)
        return opened.read().splitlines()
