"""`python -m pgsrm.downstream RUN ... [--best]`: what training did to the rest of the model, as a table for each trained task.

The saved models of finished runs, and the untrained one, answer the task's prompts, the same in other wordings, and those of other
tasks. docs/downstream.md says what else is measured.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgsrm.analysis.runs import Run
    from pgsrm.analysis.tables import Cell, Table
    from pgsrm.analysis.variants import Variant
    from pgsrm.config.schema import Settings
    from pgsrm.evaluation.downstream import Answered, Asked, Question
    from pgsrm.evaluation.kept_answers import KeptAnswers
    from pgsrm.models.settings import ModelSettings
    from pgsrm.task import Example, Task

TASKS = ("antonym", "category", "color", "copy", "sentiment")
KEPT = "answered.jsonl"  # beside the tables
HOW_COMPUTED = ("path", "revision", "device", "policy", "shard")  # of a model, with the same answers up to rounding
WORDINGS = Path(__file__).parent / "evaluation/wordings.yaml"


@dataclass(frozen=True)
class Options:
    """tasks: those that are asked besides a run's own; wordings: of a run's own task, besides the shipped ones.

    best: whether the models of the runs' best evaluations (`stop.keep_best`) are asked, and not the final ones.
    """

    tasks: Sequence[str] = TASKS
    wordings: Sequence[str] = ()
    text: str = "austen.txt"
    samples: int = 4
    best: bool = False


@dataclass(frozen=True)
class Trained:
    """Variants that began as one model and were trained on the same prompts: they are asked the same."""

    variants: Sequence[Variant]
    settings: Settings
    config: Mapping[str, Any]

    @property
    def task(self) -> str:
        """The choice of the group `task`."""
        return self.variants[0].task

    @functools.cached_property
    def own(self) -> Task:
        """The task as it was trained on."""
        return self.in_wording(self.config["task"]["template"])

    def in_wording(self, wording: str) -> Task:
        """The task with the same split, its prompts by another template, which may show other columns."""
        from pgsrm.task import load_task

        task = self.config["task"]
        return load_task({**task, "template": wording}, self.config["parent"]["references"], task["template"])


def downstream(folders: Sequence[Path], options: Options, out: Path | None = None) -> list[Table]:
    """Ask the models of all finished runs below `folders`, and the untrained ones.

    out: a folder that is made before any model is asked, and only where nothing is wrong with the rest. What each model has
    answered is kept there, so that a later call asks only the others.

    Raises:
        UserError: no finished run with such a model; no such task; a wording that asks for columns that the data does not have;
            a folder that can't be written.
    """
    from pgsrm.analysis.runs import print_notes
    from pgsrm.analysis.variants import load_variants
    from pgsrm.evaluation import read_text
    from pgsrm.evaluation.kept_answers import KeptAnswers
    from pgsrm.util.errors import UserError, writing_to

    text = read_text(options.text)
    others = _other_tasks(options.tasks)
    variants, notes = load_variants(folders, (), "RUN")
    saved, lacking = _with_models(variants, options.best)
    if not saved:
        print_notes(notes)
        raise UserError(
            lacking[0] if lacking else f"{' '.join(map(str, folders))}: no finished run; name one of outputs/runs"
        )
    print_notes([*notes, *(f"{reason}; it is left out" for reason in lacking)])
    groups = _together(saved)
    asked = [
        _asked(trained, others, options, text) for trained in groups
    ]  # every mistake is told before a model is loaded
    if out is not None:
        with writing_to("--out", out):
            out.mkdir(parents=True, exist_ok=True)
    kept = KeptAnswers(None if out is None else out / KEPT)
    untrained: Untrained | None = None
    tables: dict[str, Table] = {}
    for trained, what in zip(groups, asked, strict=True):
        if untrained is None or trained.settings.model != untrained.settings:
            untrained = None  # one model at a time; runs of several tasks mostly began as one
            untrained = Untrained(trained.settings.model)
        table = _table(trained, what, untrained, options.best, kept)
        alike = sum(name.startswith(table.name) for name in tables)  # the same task and model, and other prompts
        table = replace(table, name=f"{table.name}_{alike + 1}") if alike else table
        tables[table.name] = table
    return list(tables.values())


def _with_models(variants: Sequence[Variant], best: bool) -> tuple[list[Variant], list[str]]:
    """The variants with those of their finished runs that have the model which is asked for; why others are left out."""
    from pgsrm.record import RunFolder
    from pgsrm.util.errors import UserError

    having, lacking = [], []
    for variant in variants:
        runs: list[Run] = []
        for run in variant.complete:
            try:
                RunFolder(run.folder).saved_model(best)
                runs.append(run)
            except UserError as error:
                lacking.append(str(error))
        if runs:
            having.append(replace(variant, runs=tuple(runs)))
    return having, lacking


def _together(variants: Sequence[Variant]) -> list[Trained]:
    """The variants by what they are asked."""
    from pgsrm.config.plan import load_settings
    from pgsrm.record import RunFolder
    from pgsrm.record.model_name import deciding_model

    groups: dict[str, Trained] = {}
    for variant in variants:
        settings, config = load_settings(RunFolder(variant.runs[0].folder))
        new = Trained([variant], settings, config)
        how = [settings.task.max_new_tokens, settings.ppo.temperature, settings.ppo.top_k]
        key = json.dumps([variant.task, deciding_model(config), how, new.own.digest], sort_keys=True)
        known = groups.get(key)
        groups[key] = replace(known, variants=[*known.variants, variant]) if known else new
    return list(groups.values())


def _other_tasks(names: Sequence[str]) -> dict[str, tuple[Task, Mapping[str, Any]]]:
    """By their choices in the group `task`, with their configs."""
    from pgsrm.config.compose import compose_tasks
    from pgsrm.config.plan import build_task

    if not names:
        return {}
    composed = compose_tasks([f"task={','.join(names)}"], "python -m pgsrm.downstream")
    return {str(choices["task"]): (build_task(config), config["task"]) for config, choices in composed}


def _asked(
    trained: Trained, others: Mapping[str, tuple[Task, Mapping[str, Any]]], options: Options, text: str
) -> Asked:
    import yaml

    from pgsrm.evaluation.downstream import Asked, Question
    from pgsrm.policy.sampling import Sampling
    from pgsrm.util.errors import UserError
    from pgsrm.util.objects import digest_of
    from pgsrm.util.source import source_digests

    shipped = yaml.safe_load(WORDINGS.read_text(encoding="utf-8")).get(trained.task, [])
    questions: list[Question] = []

    def add(
        name: str, wording: str, task: Task, config: Mapping[str, Any], splits: Mapping[str, Sequence[Example]]
    ) -> None:
        checker = task.checker
        if checker is not None:  # else nothing is right or wrong
            checked_by = json.dumps([config["checker"], digest_of(checker), source_digests(config["checker"])])
            questions.extend(
                Question(name, wording, prompts, examples, checker, checked_by, task.max_new_tokens)
                for prompts, examples in splits.items()
                if examples
            )

    own = trained.config["task"]["template"]
    for wording in dict.fromkeys([own, *shipped, *options.wordings]):
        try:
            task = trained.in_wording(wording)
        except UserError as error:
            raise UserError(f"--wording={wording!r}: {error}") from error
        add(trained.task, wording, task, trained.config["task"], {"trained": task.train, "held out": task.holdout})
    for name, (task, config) in others.items():
        if name != trained.task:
            add(name, "its own", task, config, {"all": [*task.train, *task.holdout]})
    ppo, task = trained.settings.ppo, trained.own
    sampling = Sampling(task.max_new_tokens, ppo.temperature, ppo.top_k)
    return Asked(questions, task.holdout or task.train, sampling, task.min_new_tokens, options.samples, text)


class Untrained:
    """A model before any training, loaded when it is first needed."""

    def __init__(self, settings: ModelSettings) -> None:
        self.settings = settings

    @functools.cached_property
    def model(self) -> Any:
        """As transformers has it."""
        from pgsrm.models.load import load_model, resolve_device

        return load_model(self.settings, resolve_device(self.settings.device))


def _table(trained: Trained, asked: Asked, untrained: Untrained, best: bool, kept: KeptAnswers) -> Table:
    """A row for each question and measure, a column for the untrained model and one for each variant's final or best models."""
    import msgspec

    from pgsrm.analysis.tables import Table
    from pgsrm.evaluation.downstream import ask, ask_loaded
    from pgsrm.models.settings import identify_model
    from pgsrm.record import RunFolder
    from pgsrm.record.model_name import model_name

    model = trained.settings.model
    how = {name: value for name, value in msgspec.to_builtins(model).items() if name not in HOW_COMPUTED}

    def answers(name: str, models: Sequence[ModelSettings], ask_it: Callable[[], Answered]) -> Answered:
        key = kept.key([how, *map(identify_model, models)], asked)
        known = kept.get(key)
        print(
            f"{'asking' if known is None else 'answered before:'} {trained.task}: {name}", file=sys.stderr, flush=True
        )
        return kept.add(key, ask_it()) if known is None else known

    def answers_after(run: Run) -> Answered:
        path = str(RunFolder(run.folder).saved_model(best))
        saved = msgspec.structs.replace(model, path=path, revision=None, lora=None)
        return answers(run.folder.name, [saved, model], lambda: ask(saved, asked, untrained.model))

    before = answers("the untrained model", [model], lambda: ask_loaded(untrained.model, model, asked))
    after = [[answers_after(run) for run in variant.runs] for variant in trained.variants]
    titles = [variant.title for variant in trained.variants]
    seeds = "; ".join(f"{v.title}: {len(v.runs)}" for v in trained.variants)
    which = "Of each run this is the model of its best evaluation (stop.keep_best). " if best else ""
    return Table(
        f"downstream_{trained.task}_{model_name(trained.config)}{'_best' if best else ''}",
        f"{trained.task}: right greedy answers, and other measures, before and after training",
        ["task, or measure", "wording", "prompts", "before", *titles],
        list(_rows(asked, before, after)),
        left=3,
        formats=dict.fromkeys(["before", *titles], ".2f"),
        notes=[f"{which}Runs: {seeds}. In brackets is Student's 95 % interval over seeds."],
    )


def _rows(asked: Asked, before: Answered, after: Sequence[Sequence[Answered]]) -> Iterator[list[Cell]]:
    from pgsrm.analysis.intervals import Estimate, mean_interval
    from pgsrm.evaluation.downstream import VARIETY

    for place, question in enumerate(asked.questions):
        cells = [mean_interval([answered.matches[place] for answered in seeds]) for seeds in after]
        prompts = f"{question.prompts}: {len(question.examples)}"
        yield [question.task, question.wording, prompts, Estimate(before.matches[place]), *cells]
    names = dict.fromkeys(name for seeds in after for answered in seeds for name in answered.measures)
    for name in dict.fromkeys([*before.measures, *names]):
        if name == VARIETY["empty"] and not any(a.measures[name] for a in chain([before], *after)):
            continue  # usually each answer has words
        cells = [mean_interval([a.measures[name] for a in seeds if name in a.measures]) for seeds in after]
        yield [name, "", "", Estimate(before.measures.get(name, math.nan)), *cells]


def main() -> None:
    """The command line."""
    from pgsrm.config.messages import ending_with_line
    from pgsrm.util.paths import local_path

    parser = argparse.ArgumentParser(
        prog="python -m pgsrm.downstream", description="What training did to the rest of a model."
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of finished runs, or folders above them")
    parser.add_argument(
        "--tasks", default=",".join(TASKS), metavar="A,B", help=f"other tasks (default: {','.join(TASKS)})"
    )
    parser.add_argument(
        "--wording", action="append", default=[], metavar="TEMPLATE", help="a further wording of the runs' own task"
    )
    parser.add_argument(
        "--text", default=Options.text, metavar="FILE", help="plain text for the perplexity (default: the shipped one)"
    )
    parser.add_argument(
        "--samples", type=int, default=Options.samples, metavar="N", help="sampled answers to each prompt (default: 4)"
    )
    parser.add_argument(
        "--best", action="store_true", help="the models of the best evaluations, of runs with stop.keep_best"
    )
    parser.add_argument(
        "--out", default="outputs/downstream", metavar="DIR", help="where the tables go (default: outputs/downstream)"
    )
    args = parser.parse_args()
    if args.samples < 1:
        parser.error(f"--samples={args.samples}: must be 1 or more")
    with ending_with_line("pgsrm", "interrupted; the same command asks the models that have not answered yet"):
        from pgsrm.analysis.tables import write

        runs = [local_path(run, "RUN") for run in args.runs]
        out = local_path(args.out, "--out")
        others = [name for name in args.tasks.split(",") if name]
        options = Options(others, args.wording, args.text, args.samples, args.best)
        for table in downstream(runs, options, out):
            print(f"### {table.title}\n\n{table.markdown()}\n{' '.join(table.notes)}\n")
            for path in write(table, out):
                print(path, flush=True)


if __name__ == "__main__":
    main()
