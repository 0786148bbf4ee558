"""From a task's config to prompts with references, split into train and holdout.

Where a prompt's reference comes from, the first that has one:
  1. `parent.references=FILE`, when given: then every prompt must have its reference there;
  2. the data file's own `reference` column;
  3. the `task.reference` template (copy: the sentence itself);
  4. the shipped references of the file that `task.curated` names, for the same prompt.
A task without a checker (`task.checker=null`) needs none, and may have some. A JSON list of texts is several references of one
prompt (`Example.references`). A list in the prompt is one text.

How the holdout is chosen (`task.holdout`, a share of the prompts): by a hash of each prompt's inputs, so
the split is the same for every seed, machine and order of the file, and a row added later moves few others.
Prompts with the same inputs in another order (red and blue, blue and red) stay on one side: their answer
is the same, and training on one would give the other away.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pgsrm.task.checkers import NormalizedEquality
from pgsrm.task.references import reference_problem
from pgsrm.task.table import Row, find_data, read_data, read_table, shown
from pgsrm.task.template import find_column, placeholders, render
from pgsrm.util.errors import UserError
from pgsrm.util.numbers import counted
from pgsrm.util.text import nfc


class LacksReferencesError(UserError):
    """A prompt has no reference, in the data or elsewhere: a parent can be asked for it."""


Checker = Callable[[str, str, Mapping[str, str]], bool]


@dataclass(frozen=True)
class Example:
    """One prompt and what the parent answers to it.

    prompt: the policy's text; reference: the parent's, empty where a task without a checker has none; inputs: the data row's
    columns other than `reference` and `source`, under the names that the template uses; source: who wrote the reference; error:
    another reference that training is given in its place (`parent.error_rate`, `parent.right=data`), None for most; further:
    what is as right as `reference`, where the data has a list.
    """

    prompt: str
    reference: str
    inputs: dict[str, str]
    source: str
    error: str | None = None
    further: tuple[str, ...] = ()

    @property
    def references(self) -> tuple[str, ...]:
        """All that is right, the first reference first; ("",) for an example without any."""
        return (self.reference, *self.further)

    def shortened(self, template: str, words: int) -> str:
        """The prompt with the first `words` words of each column in the task's template (`task.max_input_words`)."""
        asked = set(placeholders(template, "task.template"))
        inputs = {name: _beginning(value, words) if name in asked else value for name, value in self.inputs.items()}
        return nfc(render(template, inputs, "task.template"))

    @property
    def taught(self) -> str:
        """The reference that training writes or prefers, where it takes one: the first."""
        return self.all_taught[0]

    @property
    def all_taught(self) -> tuple[str, ...]:
        """The references that a reward in training compares with."""
        return self.references if self.error is None else (self.error,)


@dataclass(frozen=True)
class Task:
    """A task ready to train on.

    train, holdout: disjoint, in the file's order; checker: (response, reference, inputs) -> right or not, None where
    nothing is right or wrong; max_new_tokens: the policy's longest response; digest: sha256 (hex) of prompts, references and
    split; min_new_tokens: given where the length limit of each response is drawn, from there to the longest.
    """

    train: list[Example]
    holdout: list[Example]
    checker: Checker | None
    max_new_tokens: int
    digest: str
    min_new_tokens: int | None = None


def load_task(config: Mapping[str, Any], references: str | None = None, split_by: str | None = None) -> Task:
    """Read a task's prompts and references.

    config: the `task` group, a dict or DictConfig. references: `parent.references`, a JSONL or CSV file
    with the prompt's columns and `reference`. split_by: the template whose columns decide the split, where the prompts are another
    wording of a task that was split by it. Raises UserError for whatever is wrong with the files.
    """
    prompts = _kept_prompts(config, split_by)
    examples = _with_references(prompts, config, references)
    keys = [_split_key(prompt) for prompt in prompts]
    held_out = _choose_holdout(keys, config.get("holdout") or 0.0, config["data"])
    train = [example for example, key in zip(examples, keys, strict=True) if key not in held_out]
    holdout = [example for example, key in zip(examples, keys, strict=True) if key in held_out]
    digest, shortest = task_digest(train, holdout), config.get("min_new_tokens")
    return Task(train, holdout, _make_checker(config), config["max_new_tokens"], digest, shortest)


def load_inputs(config: Mapping[str, Any]) -> list[dict[str, str]]:
    """The inputs of every prompt of a task, in the file's order, whether or not they have references.

    For making references: `render(config["parent_input"], inputs)` is what the parent is asked.
    """
    return [prompt.inputs for prompt in _kept_prompts(config)]


@dataclass(frozen=True)
class _Prompt:
    """A data row as a prompt; used: the inputs that the template asks for by which the task is split.

    references: those of the row itself, () for none. lists: its columns that are lists, but for those that the template asks for.
    problem: why its references can't be used, None where they can.
    """

    line: int
    text: str
    inputs: dict[str, str]
    used: tuple[str, ...]
    references: tuple[str, ...]
    source: str
    lists: dict[str, list[str] | None]
    problem: str | None


def _kept_prompts(config: Mapping[str, Any], split_by: str | None = None) -> list[_Prompt]:
    """The prompts of `task.data`, without the rows that `task.keep` and `task.skip` leave out."""
    return _read_prompts(config, config["data"], "task.data", config.get("keep"), config.get("skip") or (), split_by)


def _read_prompts(
    config: Mapping[str, Any],
    data: str,
    key: str,
    keep: Mapping[str, Any] | None = None,
    skip: Sequence[str] = (),
    split_by: str | None = None,
) -> list[_Prompt]:
    template = config["template"]
    names = placeholders(template, "task.template")
    if not names:
        raise UserError(f"task.template={template!r}: asks the same for every row; put a {{column}} in it")
    split_names = names if split_by is None else placeholders(split_by, "task.template")
    asked = {*names, *split_names, *placeholders(config.get("reference") or "", "task.reference")}
    longest = config.get("max_input_words")
    rows, path = read_data(data, key)
    if keep:
        rows = keep_rows(rows, keep, f"{key}={path}")
    prompts = [_as_prompt(row, template, names, split_names, asked, longest, f"{key}={path}") for row in rows]
    if "empty" in skip:
        prompts = [prompt for prompt in prompts if all(prompt.inputs[name] for name in names)]
    _refuse_empty(prompts, names, f"{key}={path}", key)
    if "repeated" in skip:
        first: dict[str, _Prompt] = {}
        for prompt in prompts:
            first.setdefault(prompt.text, prompt)
        prompts = list(first.values())
    _refuse_duplicates(prompts, f"{key}={path}", key)
    if not prompts:
        raise UserError(
            f"{key}={path}: no row of {len(rows)} is left: in each `{names[0]}` is empty; change task.template"
        )
    return prompts


def keep_rows(rows: Sequence[Row], keep: Mapping[str, Any], where: str) -> list[Row]:
    """The rows whose number in the column `keep["column"]` is above `keep["above"]` and below `keep["below"]`, where given.

    A row without a value is left out. Raises UserError, naming task.keep, for a column that no row has, for what is no number
    and where nothing is left.
    """
    column, above, below = keep["column"], keep.get("above"), keep.get("below")
    if all(column not in row.values for row in rows):
        near = find_column(column, rows[0].values) or ", ".join(get_close_matches(column, rows[0].values, 1))
        meant = f"; did you mean {near}?" if near else ""
        raise UserError(f"task.keep.column={column}: {where} has no such column, it has {shown(rows[0].values)}{meant}")
    kept = []
    for row in rows:
        if text := row.values.get(column):
            try:
                number = float(text)
            except ValueError:
                problem = f"line {row.line}: {text[:40]!r} is no number"
                raise UserError(f"task.keep.column={column}: {where}: {problem}; name a column of numbers") from None
            if (above is None or number > above) and (below is None or number < below):
                kept.append(row)
    if not kept:
        raise UserError(f"task.keep={dict(keep)}: keeps none of the {counted(len(rows), 'row')} of {where}; change it")
    return kept


def _as_prompt(
    row: Row,
    template: str,
    names: list[str],
    split_names: list[str],
    asked: Collection[str],
    longest: int | None,
    where: str,
) -> _Prompt:
    """asked: the columns that any template asks for. longest: words that are kept of the prompt's columns and of `split_names`."""
    inputs = dict(row.values)
    own = find_column("reference", inputs) or ""
    reference = inputs.pop(own, "")
    references: tuple[str, ...] = (reference,) if reference else ()
    problem = None
    if own in row.lists:
        references = _texts_of(row.lists[own])
        problem = None if references else f"line {row.line}: `{own}` {_list_problem(row.lists[own])}"
    # A translation task may well ask for {source}: then the column is an input, not the provenance.
    source = "" if "source" in asked else inputs.pop("source", "")
    read = {name: inputs.get(find_column(name, inputs) or "", "") for name in split_names}
    for name in names:
        column = find_column(name, inputs)
        if column is None:
            raise UserError(
                f"{where}: line {row.line}: no column `{name}` (or `{name}s`), it has "
                f"{shown(row.values)}; rename a column or change task.template"
            )
        value = inputs.pop(column)
        if row.lists.get(column, []) is None and value.startswith("[{"):
            raise UserError(
                f"{where}: line {row.line}: `{column}` is a list of objects, as a chat's messages are, and a prompt is a text; "
                "put the user's message into a column of its own (model.chat_template=true makes a chat of it, and "
                "model.system_prompt is the system's message)"
            )
        inputs[name] = value if longest is None else _beginning(value, longest)
    used = tuple(value if longest is None else _beginning(value, longest) for value in read.values())
    text = nfc(render(template, inputs, "task.template"))
    lists = {name: texts for name, texts in row.lists.items() if name not in names}
    return _Prompt(row.line, text, inputs, used, references, source or "user", lists, problem)


def _texts_of(texts: Sequence[str] | None) -> tuple[str, ...]:
    """The texts of a column that is a list, each once, without blank ones; () where there are none, or not texts alone."""
    return tuple(dict.fromkeys(filter(None, texts or ())))


def _list_problem(texts: Sequence[str] | None) -> str:
    """What is wrong with a list that `_texts_of` finds nothing in, and the remedy."""
    if texts is None:
        return "is a list that does not have texts alone; write one text, or a list of texts"
    return "is a list without a text; write one text, a list of texts, or null where there is no reference"


def _beginning(text: str, words: int) -> str:
    """The first `words` words of a text, with the white space between them as it is."""
    start = re.match(rf"(?:\s*\S+){{0,{words}}}", text)
    return start[0] if start else text


def _from_template(prompt: _Prompt, template: str, where: str) -> tuple[str, ...]:
    """The references that `task.reference` makes of a prompt's inputs: as many as the list in one of its columns has."""
    lists = {name: prompt.lists[name] for name in placeholders(template, "task.reference") if name in prompt.lists}
    texts = {name: _texts_of(given) for name, given in lists.items()}
    for name, given in lists.items():
        if not texts[name]:
            raise UserError(f"{where}: line {prompt.line}: `{name}` {_list_problem(given)}")
    several = [name for name in texts if len(texts[name]) > 1]
    if len(several) > 1:
        columns = " and ".join(several)
        raise UserError(
            f"task.reference={template!r}: in line {prompt.line} of {where} the columns {columns} are lists of several texts; "
            "take one such column, or make each of the others one text"
        )
    values = prompt.inputs | {name: one[0] for name, one in texts.items()}
    choices = texts[several[0]] if several else [None]
    made = [values if text is None else {**values, several[0]: text} for text in choices]
    return tuple(filter(None, (nfc(render(template, inputs, "task.reference")) for inputs in made)))


def _refuse_empty(prompts: list[_Prompt], names: list[str], where: str, key: str) -> None:
    for name in names:
        lines = [prompt.line for prompt in prompts if not prompt.inputs[name]]
        if lines:
            raise UserError(
                f"{where}: line {lines[0]}: `{name}` is empty{_how_many(lines)}; fill it in or remove the row"
                f"{_or_skip('empty', key)}"
            )


def _refuse_duplicates(prompts: list[_Prompt], where: str, key: str) -> None:
    first: dict[str, int] = {}
    repeats = []
    for prompt in prompts:
        if prompt.text in first:
            repeats.append((prompt.line, first[prompt.text]))
        first.setdefault(prompt.text, prompt.line)
    if repeats:
        line, original = repeats[0]
        problem = f"line {line}: the prompt of line {original} again{_how_many(repeats)}"
        raise UserError(f"{where}: {problem}; remove one{_or_skip('repeated', key)}")


def _or_skip(kind: str, key: str) -> str:
    """The other remedy, which the task's own file has."""
    return f", or leave such rows out by task.skip=[{kind}]" if key == "task.data" else ""


def _how_many(lines: list[Any]) -> str:
    return f" ({len(lines)} such rows)" if len(lines) > 1 else ""


def _with_references(prompts: list[_Prompt], config: Mapping[str, Any], references: str | None) -> list[Example]:
    parent = _parent_answers(config, references) if references else None
    template = config.get("reference")
    where = f"task.data={config['data']}"
    if parent is None:
        _refuse_bad_lists(prompts, where)
    needs_curated = not (parent is not None or template or all(prompt.references for prompt in prompts))
    curated = _curated_answers(config) if needs_curated else {}
    examples = []
    lacking = []
    for prompt in prompts:
        if parent is not None:
            found, source = parent.get(prompt.text, ((), ""))
        elif prompt.references:
            found, source = prompt.references, prompt.source
        elif template:
            found, source = _from_template(prompt, template, where), prompt.source
        else:
            found, source = curated.get(prompt.text, ((), ""))
        if not found:
            lacking.append(prompt.line)
        reference, *further = found or ("",)
        examples.append(Example(prompt.text, reference, prompt.inputs, source, further=tuple(further)))
    if lacking and not is_open(config):
        columns = " and ".join(placeholders(config["template"], "task.template"))
        what = f"{len(lacking)} of {len(prompts)} rows have no reference"
        if references:
            raise UserError(
                f"parent.references={references}: {what} in it, the first is line {lacking[0]} of "
                f"task.data={config['data']}; add them to the file (columns {columns} and reference)"
            )
        if template:
            raise LacksReferencesError(
                f"{where}: {what}, the first is line {lacking[0]}: task.reference={template!r} is empty there; fill its columns"
            )
        raise LacksReferencesError(
            f"{where}: {what}, the first is line {lacking[0]}; add a `reference` column, "
            f"or set parent.references=FILE, a JSONL with {columns} and reference"
        )
    return examples


_Answers = dict[str, tuple[tuple[str, ...], str]]  # prompt -> (references, source)


def _refuse_bad_lists(prompts: list[_Prompt], where: str) -> None:
    problem = next((prompt.problem for prompt in prompts if prompt.problem), None)
    if problem is not None:
        raise UserError(f"{where}: {problem}")


def _answers(config: Mapping[str, Any], data: str, key: str) -> _Answers:
    """The answers of a file with the prompt's columns and `reference`."""
    return {prompt.text: (prompt.references, prompt.source) for prompt in _read_prompts(config, data, key)}


def _parent_answers(config: Mapping[str, Any], references: str) -> _Answers:
    """The answers of `parent.references`, none of which is what no reference can be."""
    prompts = _read_prompts(config, references, "parent.references")
    _refuse_bad_lists(prompts, f"parent.references={references}")
    for prompt in prompts:
        for reference in prompt.references:
            problem = reference_problem(reference, prompt.inputs, config)
            if problem is not None:
                raise UserError(
                    f"parent.references={references}: line {prompt.line}: the reference of {prompt.text!r} {problem}: "
                    f"{reference[:60]!r}; correct it"
                )
    return {prompt.text: (prompt.references, prompt.source) for prompt in prompts}


def _curated_answers(config: Mapping[str, Any]) -> _Answers:
    """The answers of `task.curated`; none where a template of the user's own asks for other columns."""
    if not config.get("curated"):
        return {}
    columns = read_table(find_data(config["curated"], "task.curated"), "task.curated")[0].values
    names = placeholders(config["template"], "task.template")
    if any(find_column(name, columns) is None for name in names):
        return {}
    return _answers(config, config["curated"], "task.curated")


def _split_key(prompt: _Prompt) -> str:
    return hashlib.sha256(json.dumps(sorted(prompt.used)).encode()).hexdigest()


def _choose_holdout(keys: list[str], share: float, data: str) -> set[str]:
    """The split keys to hold out: in hash order until `share` of the prompts, at least one, are out."""
    held_out: set[str] = set()
    if share == 0:
        return held_out
    wanted = max(1, round(share * len(keys)))
    out = 0
    for key, prompts in sorted(Counter(keys).items()):
        if out >= wanted:
            break
        held_out.add(key)
        out += prompts
    if out == len(keys):
        raise UserError(
            f"task.holdout={share}: leaves none of the {counted(len(keys), 'prompt')} of task.data={data} to train on; "
            "lower it or add prompts"
        )
    return held_out


def is_open(config: Mapping[str, Any]) -> bool:
    """Whether nothing is a right or wrong answer to the task (`task.checker=null`), so that it needs no references."""
    return "checker" in config and config["checker"] is None


def _make_checker(config: Mapping[str, Any]) -> Checker | None:
    if is_open(config):
        return None
    checker = config.get("checker")
    if checker is None:
        return NormalizedEquality()
    if not callable(checker):
        from hydra.utils import instantiate

        checker = instantiate(checker)
    made: Checker = checker
    return made


def task_digest(train: list[Example], holdout: list[Example]) -> str:
    """SHA-256 (hex) of prompts, references, errors and split."""
    split = {
        name: [
            [
                e.prompt,
                e.reference,
                e.inputs,
                *([] if e.error is None else [e.error]),
                *([list(e.further)] if e.further else []),
            ]
            for e in examples
        ]
        for name, examples in (("train", train), ("holdout", holdout))
    }
    return hashlib.sha256(json.dumps(split, sort_keys=True).encode()).hexdigest()
