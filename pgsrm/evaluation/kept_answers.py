"""What models have answered, kept in a file: a command that is cut off asks only the other models when it is given again."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pgsrm.evaluation.downstream import Answered, Asked
from pgsrm.util.digest import folder_digest
from pgsrm.util.errors import writing_to


class KeptAnswers:
    """Answers in a file of JSON lines, or for None in memory alone. A line counts for the same questions, model and code.

    A half line, of a process that was killed, is none.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._known = dict[str, Answered]()
        for line in file.read_bytes().splitlines() if file is not None and file.exists() else []:
            try:
                kept = json.loads(line)
                self._known[kept["key"]] = Answered(kept["matches"], kept["measures"])
            except (ValueError, KeyError, TypeError):
                continue

    def get(self, model: Any, asked: Asked) -> Answered | None:
        """What a model has answered; `model` is what decides its answers, as JSON holds it."""
        return self._known.get(_key(model, asked))

    def add(self, model: Any, asked: Asked, answered: Answered) -> Answered:
        """Keep what a model has answered, and return it. Raises UserError where the file can't be written."""
        key = _key(model, asked)
        self._known[key] = answered
        if self._file is not None:
            line = json.dumps({"key": key, **asdict(answered)})
            with writing_to("--out", self._file), self._file.open("a", encoding="utf-8") as file:
                file.write(f"\n{line}\n")  # behind a half line, should one be there
        return answered


def _key(model: Any, asked: Asked) -> str:
    package = Path(__file__).parent.parent
    code = folder_digest(package, package.rglob("*.py"))
    return hashlib.sha256(json.dumps([code, asked.digest, model], sort_keys=True).encode()).hexdigest()
