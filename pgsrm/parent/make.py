"""Asks a parent for all references of a task that are missing, and writes the file that runs read."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pgsrm.models.server import Budget
from pgsrm.parent.clean import BadAnswer
from pgsrm.parent.files import Answers, default_references, question_digest
from pgsrm.parent.local import LocalParent
from pgsrm.parent.question import Questions
from pgsrm.parent.remote import RemoteParent
from pgsrm.parent.settings import ParentSettings
from pgsrm.parent.summary import doubts, summarise
from pgsrm.record.files import replace
from pgsrm.record.progress import CountProgress
from pgsrm.task import Task, accepts, load_task
from pgsrm.util.errors import UserError
from pgsrm.util.numbers import counted, significant
from pgsrm.util.paths import local_path


def make_references(config: Mapping[str, Any], settings: ParentSettings) -> Path:
    """Ask for what is missing, answer by answer kept as it comes; returns the complete references' file.

    config: a whole resolved one. Raises UserError (ServerError, BudgetExceeded) when not all could be had; the same call goes
    on from there.
    """
    if settings.kind == "curated":
        raise UserError("parent=curated: nobody to ask; choose parent=openai or parent=transformers")
    path = _references_path(config)
    task = config["task"]
    questions = Questions(task)
    parent = (RemoteParent if settings.kind == "openai" else LocalParent)(settings, questions)
    with Answers(path, question_digest(task, config["parent"])) as answers:
        _keep_out_of_others_files(path)
        wanted = list(dict.fromkeys(questions.asked))
        missing = [asked for asked in wanted if not _is_kept(asked, answers, questions)]
        if missing:
            parent.budget.resume(answers.calls.values(), answers.note)
            print(
                _so_far(parent.budget, len(wanted) - len(missing), len(wanted)) + parent.estimate(missing), flush=True
            )
            _ask(parent, missing, answers, len(wanted))
        _write(path, questions, answers, parent.host, config)
        _tell(questions, answers, task)
    return path


def _tell(questions: Questions, answers: Answers, task: Mapping[str, Any]) -> None:
    """Print what the answers are like, and what speaks against a parent that gives such."""
    references = [answers.known[asked]["reference"] for asked in questions.asked]
    made = summarise(zip(references, (row.values() for row in questions.rows), strict=True))
    try:
        own = load_task({**task, "holdout": 0})
    except UserError:  # the data has no references of its own
        print("\n".join([made.line, *doubts(made, None)]), flush=True)
        return
    usual = summarise((example.reference, example.inputs.values()) for example in own.train)
    print("\n".join([made.line, *_accuracy(references, own), *doubts(made, usual)]), flush=True)


def _accuracy(references: Sequence[str], own: Task) -> list[str]:
    """How many of the answers are right by the task's checker and the data's own references; nothing without a checker."""
    check = own.checker
    if check is None:
        return []
    pairs = zip(references, own.train, strict=True)
    right = sum(accepts(check, reference, example) for reference, example in pairs)
    return [f"right by the data's own references: {right} of {len(references)} ({right / len(references):.0%})"]


def _is_kept(asked: str, answers: Answers, questions: Questions) -> bool:
    """Whether there is an answer that is one by today's rules too: it may have been kept under others."""
    if asked not in answers.known:
        return False
    reference = answers.known[asked]["reference"]
    try:
        return questions.read(asked, json.dumps({"OUTPUT": reference})) == reference
    except BadAnswer:
        return False


def _references_path(config: Mapping[str, Any]) -> Path:
    given = config["parent"].get("references")
    if given is None:
        return default_references(config["task"], config["parent"], config["paths"]["outputs"])
    path = local_path(given, "parent.references")
    if path.suffix != ".jsonl":
        raise UserError(f"parent.references={given}: the name must end in .jsonl, as what is written; rename it")
    return path


def _so_far(budget: Budget, answered: int, total: int) -> str:
    """What earlier starts came to, if there were any."""
    if not budget.calls:
        return ""
    calls = counted(budget.calls, "call")
    cost = "" if budget.spent is None else f", cost {significant(budget.spent, 2)}"
    return f"{answered} of {total} answered before ({calls}{cost}); "


def _keep_out_of_others_files(path: Path) -> None:
    if path.exists() and not path.with_suffix(".provenance.json").exists():
        raise UserError(f"parent.references={path}: is there, and not by this command; name another file, or remove it")


def _ask(parent: RemoteParent | LocalParent, missing: list[str], answers: Answers, total: int) -> None:
    bad, done = [], total - len(missing)
    with CountProgress("references", total, done) as progress:
        for answer in parent.answers(missing):
            if answer.reference is None:
                bad.append(answer)
                continue
            answers.add(
                answer.asked,
                answer.reference,
                model=answer.model,
                prompt_tokens=answer.prompt_tokens,
                completion_tokens=answer.completion_tokens,
            )
            done += 1
            progress.show(done)
    if bad:
        more = f" ({len(bad)} such prompts)" if len(bad) > 1 else ""
        raise UserError(
            f"{bad[0].asked!r}: the answer {bad[0].problem}{more}; the others are kept: ask again, "
            "with another parent.model or task.instruction, or without the prompt in task.data"
        )


def _write(path: Path, questions: Questions, answers: Answers, host: str | None, config: Mapping[str, Any]) -> None:
    """The references, in the data's order, and where they are from."""
    lines = []
    for row, asked in zip(questions.rows, questions.asked, strict=True):
        answer = answers.known[asked]
        lines.append(
            {**row, "reference": answer["reference"], **({} if "source" in row else {"source": answer["model"]})}
        )
    content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    used = [answers.known[asked] for asked in dict.fromkeys(questions.asked)]
    parent = config["parent"]
    provenance = {
        "references": path.name,
        "references_sha256": hashlib.sha256(content).hexdigest(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "kind": parent["kind"],
        "model": parent["model"],
        "answered_by": sorted({answer["model"] for answer in used}),
        "revision": parent.get("revision"),
        "server": host,
        "temperature": parent.get("temperature", 0.0),
        "instruction": questions.instruction,
        "instruction_sha256": hashlib.sha256(questions.instruction.encode()).hexdigest(),
        "parent_input": config["task"].get("parent_input"),
        "prompts": len(lines),
        "prompt_tokens": sum(answer["prompt_tokens"] for answer in used),
        "completion_tokens": sum(answer["completion_tokens"] for answer in used),
    }
    side = path.with_suffix(".provenance.json")
    if path.exists() and path.read_bytes() == content:
        before = json.loads(side.read_bytes())
        if {**before, "date": None} == {**provenance, "date": None}:
            return  # nothing new: the date stays
    # The side file first: a references' file without one is taken for somebody else's.
    replace(side, json.dumps(provenance, ensure_ascii=False, indent=1).encode() + b"\n")
    replace(path, content)
