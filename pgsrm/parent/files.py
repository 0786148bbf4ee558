"""Where a parent's references lie, and the answers that were paid for.

Beside FILE.jsonl, the references, which is written when every prompt has one, there are
  FILE.answers.jsonl      every answer as it came, added and synced one by one: what a killed command resumes from
  FILE.spending.jsonl     every call, before it is made and when it is back: what budgets count, over all starts
  FILE.provenance.json    who was asked what, when, and how many tokens it took
"""

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from pgsrm.models.server import Spending
from pgsrm.record.lines import Lines
from pgsrm.task import SHIPPED
from pgsrm.task.table import shipped_names
from pgsrm.util.errors import UserError
from pgsrm.util.paths import local_path
from pgsrm.util.shell import override


def question_digest(task: Mapping[str, Any], parent: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of all that an answer depends on, but for the prompt: instruction, form of the input, who answers."""
    server = urlsplit(parent.get("base_url") or "").netloc
    temperature = parent.get("temperature")
    who = [parent["kind"], server, *(parent.get(key) for key in ("model", "revision", "dtype"))]
    who.append(temperature if temperature is None else float(temperature))  # 0 is 0.0
    if parent.get("chat_template", "auto") != "auto":
        who.append(f"chat_template={parent['chat_template']}")
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
    path = local_path(given or default_references(task, parent, config["paths"]["outputs"]), "parent.references")
    if path.is_file():
        return str(path)
    raise UserError(
        f"parent.references={path}: no such file; `{parent_command(config, choices)}`, with this run's other task.* and "
        "parent.* settings, makes it"
    )


def parent_command(config: Mapping[str, Any], choices: Mapping[str, str]) -> str:
    """The command that makes a run's references, to be pasted into a shell. config, choices: as `find_references` has them."""
    parent = config["parent"]
    kind = parent.get("kind", "curated")
    words = [f"task={choices.get('task', '...')}"]
    if config["task"]["data"] not in shipped_names():
        words.append(override("task.data", config["task"]["data"]))
    words.append(f"parent={'openai' if kind == 'curated' else choices.get('parent', kind)}")
    if parent.get("references"):
        words.append(override("parent.references", parent["references"]))
    return " ".join(["python -m pgsrm.parent", *words])


class Answers:
    """The answers of one question digest to be, as a context manager that keeps other processes out.

    `known` maps what was asked to its line: {"asked", "reference", "model", "prompt_tokens", "completion_tokens", "digest"}.
    `calls` maps the number of each call that was made for them, right answers or not, to the tokens that it took.
    """

    def __init__(self, references: Path, digest: str) -> None:
        self.path = references.with_suffix(".answers.jsonl")
        self.known: dict[str, dict[str, Any]] = {}
        self.calls: dict[int, Spending] = {}
        self._answers = Lines(self.path, "parent.references")
        self._spending = Lines(references.with_suffix(".spending.jsonl"), "parent.references")
        self._digest = digest

    def __enter__(self) -> Self:
        with ExitStack() as files:
            files.enter_context(self._answers)
            files.enter_context(self._spending)
            for line in self._answers.read("digest", "asked", "reference"):
                if line["digest"] == self._digest:
                    self.known[line["asked"]] = line
            for line in self._spending.read("digest", "call", "input_tokens", "output_tokens"):
                if line["digest"] == self._digest:
                    self.calls[line["call"]] = Spending(line["input_tokens"], line["output_tokens"])
            self._files = files.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def add(self, asked: str, reference: str, **more: Any) -> None:
        """Keep an answer; it is on the disk when this returns."""
        line = {"asked": asked, "reference": reference, **more, "digest": self._digest}
        self._answers.add(line)
        self.known[asked] = line

    def note(self, call: int, spending: Spending) -> None:
        """Keep what a call takes; the last note of a call counts."""
        self._spending.add({"call": call, **asdict(spending), "digest": self._digest})
