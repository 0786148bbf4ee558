"""`python -m pgsrm.critic ask data=FILE ...` and `python -m pgsrm.critic check ...`: a critic apart from a run."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ASK = """\
python -m pgsrm.critic ask data=FILE out=FILE.jsonl [critic=NAME] [batch=N] [key=value ...]

Asks a critic about the texts of a file and keeps what it says. The same command resumes with what is missing.

  data=FILE        .jsonl with response and, where there is one, prompt; .csv with these columns; .txt, a response a line
  out=FILE.jsonl   a line for each text: spans, outcome, reply, quotes
  batch=N          texts that the critic is given at a time (64)
  critic=NAME      who is asked; critic.key=value and all other words are those of python -m pgsrm.run"""

CHECK = """\
python -m pgsrm.critic check [critic=NAME] [against=NAME | data=FILE.jsonl] [texts=FILE] [out=DIR] [key=value ...]

How good a critic is: its marks beside those of a file or of another critic, and its habits.

  against=NAME     another critic; against.key=value sets its keys
  data=FILE.jsonl  marked texts: response, spans and, where there are some, prompt and rating
  texts=FILE       what both critics read, as data= of ask; left out: the task's prompts
  out=DIR          where check.json and check.png go; left out: a folder in paths.outputs/critic
  batch=N          texts that a critic is given at a time (64)
  critic=NAME      the critic; critic.key=value and all other words are those of python -m pgsrm.run"""


def main() -> None:
    """The command line; every error that a user can mend is one line, without a traceback."""
    from pgsrm.config.command_line import add_words, parse_words
    from pgsrm.config.messages import exit_with_line

    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m pgsrm.critic", description="A critic, apart from a run.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, usage in (("ask", ASK), ("check", CHECK)):
        first, _, rest = usage.partition("\n\n")
        command = commands.add_parser(
            name, usage=first, description=rest, formatter_class=raw, help=rest.split("\n")[0]
        )
        add_words(command)
    options, words = parse_words(parser)
    try:
        (ask_command if options.command == "ask" else check_command)(words)
    except KeyboardInterrupt:
        print("pgsrm.critic: interrupted; the same command resumes from here", file=sys.stderr, flush=True)
        os._exit(130)  # threads that wait for a server would hold up a plain exit
    except Exception as error:
        exit_with_line(error, "pgsrm.critic", bool(os.environ.get("HYDRA_FULL_ERROR")))


def ask_command(words: Sequence[str]) -> None:
    """Ask about `data`, keep the critiques in `out`, and say how the critic answered."""
    from pgsrm.config.command_line import own_words
    from pgsrm.critic.ask import BATCH, ask, summary
    from pgsrm.critic.marked import read_texts
    from pgsrm.util.errors import UserError
    from pgsrm.util.objects import check_object
    from pgsrm.util.paths import local_path

    own, others = own_words(words, ("data", "out", "batch"))
    for key, remedy in (("data", "name a file of texts"), ("out", "name a file that ends in .jsonl")):
        if not own.get(key):
            raise UserError(f"{key}: missing; {remedy}")
    out, data = local_path(own["out"], "out"), local_path(own["data"], "data")
    if out.suffix != ".jsonl":
        raise UserError(f"out={out}: the name must end in .jsonl, as what is written; rename it")
    if out.absolute() == data.absolute():
        raise UserError(f"out={out}: is the file that is read; name another")
    size = _positive(own.get("batch", BATCH), "batch")
    critic, config, _ = _critic(others, "ask")
    texts = read_texts(data, "data")
    check_object(critic)
    print(summary(ask(critic, texts, out, _identity(critic, config["critic"]), size)))
    print(out)


def check_command(words: Sequence[str]) -> None:
    """Compare the critic with a file or another critic; print the tables, write check.json and check.png."""
    from pgsrm.config.command_line import own_words
    from pgsrm.critic.ask import BATCH
    from pgsrm.critic.check import check, table
    from pgsrm.util.errors import UserError
    from pgsrm.util.paths import local_path

    own, others = own_words(words, ("data", "against", "texts", "out", "batch"))
    for one, two in (("data", "against"), ("data", "texts")):
        if own.get(one) and own.get(two):
            raise UserError(f"{one}={own[one]}: not together with {two}={own[two]}; give one of the two")
    size = _positive(own.get("batch", BATCH), "batch")
    others, second = _against(own, others)
    critic, config, name = _critic(others, "check")
    other = _critic(second, "check")[0] if second else None
    texts = _texts(own, config)
    marks, seconds, cost = _asked(critic, texts, size)
    sides = {name: marks}
    if own.get("data"):
        sides[_other_name(Path(own["data"]).stem, name)] = [text.critique for text in texts]
    if other is not None:
        sides[_other_name(own["against"], name)] = _asked(other, texts, size)[0]
    result = {**check(texts, sides), "seconds_per_1000_texts": seconds, "cost_per_1000_texts": cost}
    print(table(result), flush=True)
    default = Path(config["paths"]["outputs"]) / "critic" / "-".join(sides).replace(" ", "-")
    _write(local_path(own["out"], "out") if own.get("out") else default, result, texts, sides)


def _against(own: Mapping[str, str], words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words for the critic, and those for the one that it is compared with (none: there is no such)."""
    from pgsrm.util.errors import UserError

    meant = ("against.", "against@")
    theirs = [word for word in words if word.startswith(meant)]
    ours = [word for word in words if not word.startswith(meant)]
    if not own.get("against"):
        if theirs:
            raise UserError(f"{theirs[0]}: there is no other critic to set it for; add against=NAME")
        return ours, []
    common = [word for word in ours if not word.startswith(("critic=", "critic.", "critic@"))]
    renamed = [f"critic{word.removeprefix('against')}" for word in theirs]
    return ours, [*common, f"critic={own['against']}", *renamed]


def _other_name(name: str, first: str) -> str:
    return f"other {name}" if name == first else name


def _texts(own: Mapping[str, str], config: Mapping[str, Any]) -> Any:
    """The texts of `data` or `texts`, or else the prompts of the task."""
    from pgsrm.critic.marked import Marked, read_marked, read_texts
    from pgsrm.task import load_task
    from pgsrm.util.paths import local_path

    if own.get("data"):
        return read_marked(local_path(own["data"], "data"), "data")
    if own.get("texts"):
        return read_texts(local_path(own["texts"], "texts"), "texts")
    task = load_task(config["task"])
    return [Marked(example.prompt) for example in task.train + task.holdout]


def _asked(critic: Any, texts: Sequence[Any], size: int) -> tuple[list[Any], float | None, float | None]:
    """The critiques; seconds for a thousand texts; and what they cost.

    In the first batch models load, so that it is left out of the seconds. None of a single batch.
    """
    from pgsrm.critic.ask import in_batches
    from pgsrm.models.asking import estimates_of
    from pgsrm.util.objects import check_object

    check_object(critic)
    for estimate in estimates_of(critic, [text.prompt or "" for text in texts], [text.response for text in texts]):
        print(f"{estimate}, at most", file=sys.stderr, flush=True)
    before = _spent(critic)
    batches = list(in_batches(critic, texts, size))
    timed = batches[1:]
    seconds = 1000 * sum(each.seconds for each in timed) / sum(len(each.texts) for each in timed) if timed else None
    after = _spent(critic)
    cost = None if before is None or after is None else 1000 * (after - before) / len(texts)
    return [critique for batch in batches for critique in batch.critiques], seconds, cost


def _spent(critic: Any) -> float | None:
    """What the critic's calls have cost so far, where it has a budget with prices."""
    return getattr(getattr(critic, "budget", None), "spent", None)


def _write(folder: Path, result: Mapping[str, Any], texts: Sequence[Any], sides: Mapping[str, Any]) -> None:
    from pgsrm.critic.check_plot import plot
    from pgsrm.record.files import replace
    from pgsrm.util.errors import writing_to

    picture, numbers = folder / "check.png", folder / "check.json"
    with writing_to("out", folder):
        folder.mkdir(parents=True, exist_ok=True)
        replace(numbers, json.dumps(result, indent=1, ensure_ascii=False).encode() + b"\n")
        plot(result, texts, sides, picture)
    here = Path.cwd()
    print(*(file.relative_to(here) if file.is_relative_to(here) else file for file in (numbers, picture)))


def _positive(value: str | int, key: str) -> int:
    from pgsrm.util.errors import UserError

    if not str(value).isascii() or not str(value).isdigit() or int(value) < 1:
        raise UserError(f"{key}={value}: is no number of texts; give one from 1")
    return int(value)


def _critic(words: Sequence[str], command: str) -> tuple[Any, dict[str, Any], str]:
    """The critic of a checked config, the config, and the critic's name; the task is one that has critics unless words choose."""
    from omegaconf import OmegaConf

    from pgsrm.config.compose import compose_words
    from pgsrm.config.schema import read_settings
    from pgsrm.evaluation import build_object
    from pgsrm.util.errors import UserError

    task = [] if any(word.startswith("task=") for word in words) else ["task=sentiment_control"]
    config, choices = compose_words([*task, *words], f"python -m pgsrm.critic {command}")
    read_settings(config)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    if not plain["critic"]:
        raise UserError("critic=null: nobody to ask; choose one by critic=NAME")
    return build_object(plain["critic"], "critic"), plain, str(choices.get("critic", "critic"))


def _identity(critic: Any, node: Mapping[str, Any]) -> str:
    """Hash (hex) of what decides the critic's replies: a limit that was raised leaves it the same critic."""
    from pgsrm.config.identity import without_critics_options
    from pgsrm.util.objects import digest_of
    from pgsrm.util.source import source_digests

    deciding = without_critics_options({"critic": dict(node)})
    content = [deciding, digest_of(critic), source_digests(deciding)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


if __name__ == "__main__":
    main()
