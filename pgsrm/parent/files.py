"""Where a parent's references lie, and the answers that were paid for.

Beside FILE.jsonl, the references, which is written when every prompt has one, there are
  FILE.answers.jsonl      every answer as it came, added and synced one by one: what a killed command goes on from
  FILE.provenance.json    who was asked what, when, and how many tokens it took
"""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from pgsrm.errors import UserError
from pgsrm.task import SHIPPED


def question_digest(task: Mapping[str, Any], parent: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of all that an answer depends on, but for the prompt: instruction, form of the input, who answers."""
    server = urlsplit(parent.get("base_url") or "").netloc
    temperature = parent.get("temperature")
    who = [parent["kind"], server, *(parent.get(key) for key in ("model", "revision", "dtype"))]
    who.append(temperature if temperature is None else float(temperature))  # 0 is 0.0
    what = [task.get("instruction"), task.get("parent_input") or task["template"]]
    return hashlib.sha256(json.dumps([who, what]).encode()).hexdigest()


def default_references(task: Mapping[str, Any], parent: Mapping[str, Any], outputs: str) -> Path:
    """Where references go that are given no `parent.references`: another parent or instruction has another file."""
    model = re.sub(r"[^A-Za-z0-9.]+", "-", Path(str(parent.get("model"))).name)
    digest = question_digest(task, parent)[:8]
    return Path(outputs) / "references" / f"{Path(task['data']).stem}-{model}-{digest}.jsonl"


def find_references(config: Mapping[str, Any], choices: Mapping[str, str]) -> str | None:
    """The file that a run reads its references from; None = the data's own.

    config: a resolved one; choices: of the config groups, for the command to tell. Raises UserError when the file is missing
    that `python -m pgsrm.parent` would make.
    """
    parent, task = config["parent"], config["task"]
    given, kind = parent.get("references"), parent.get("kind", "curated")
    if kind == "curated" and (given is None or Path(given).suffix != ".jsonl" or (SHIPPED / given).is_file()):
        return given
    path = Path(given or default_references(task, parent, config["paths"]["outputs"])).expanduser()
    if path.is_file():
        return str(path)
    option = "openai" if kind == "curated" else choices.get("parent", kind)
    command = f"python -m pgsrm.parent task={choices.get('task', '...')} parent={option}"
    command += f" parent.references={given}" if given else ""
    raise UserError(
        f"parent.references={path}: no such file; `{command}`, with this run's other task.* and parent.* settings, makes it"
    )


class Answers:
    """The answers of one question digest to be, as a context manager that keeps other processes out.

    `known` maps what was asked to its line: {"asked", "reference", "model", "prompt_tokens", "completion_tokens", "digest"}.
    """

    def __init__(self, references: Path, digest: str) -> None:
        self.path = references.with_suffix(".answers.jsonl")
        self.known: dict[str, dict[str, Any]] = {}
        self._digest = digest

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a+b")
        except OSError as error:
            raise UserError(
                f"parent.references={self.path.parent}: can't be written ({error.strerror}); name a folder of yours"
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise UserError(f"{self.path}: another process is asking; wait for its end") from error
        self._read()
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, asked: str, reference: str, **more: Any) -> None:
        """Keep an answer; it is on the disk when this returns."""
        line = {"asked": asked, "reference": reference, **more, "digest": self._digest}
        self._file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.known[asked] = line

    def _read(self) -> None:
        """Take up the answers of earlier starts; a last line that a kill cut off is dropped."""
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self._file.truncate(whole)
        for number, record in enumerate(content[:whole].split(b"\n")[:-1], start=1):
            try:
                line = json.loads(record)
                if line["digest"] == self._digest:
                    self.known[line["asked"]] = line
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{self.path}: line {number}: no answer of a parent; remove the line") from error
