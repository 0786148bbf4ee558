"""The words of a command line, as far as Hydra does not read them itself, and its help text."""

import argparse
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgsrm.util.errors import UserError
from pgsrm.util.paths import conf_folder, local_path
from pgsrm.util.shell import for_hydra

if TYPE_CHECKING:
    from omegaconf import DictConfig

HELP = ("-h", "--help")
# Hydra's options whose value is the next word
WITH_VALUE = {
    "--cfg",
    "-c",
    "--package",
    "-p",
    "--config-path",
    "-cp",
    "--config-name",
    "-cn",
    "--config-dir",
    "-cd",
    "--info",
    "-i",
}
USAGE = """\
python -m pgsrm.run [-m] [group=choice ...] [key=value ...]

Trains a policy, by PPO or otherwise, on a task's prompts under a reward. With -m, comma-separated values make a sweep:
  python -m pgsrm.run -m task=color,antonym reward=pgsrm,binary seed=0,1,2

Groups and their choices:
{groups}

  ppo=sound          the algorithm as it should be (the default)
  ppo=paper          what the paper's text and tables say
  ppo=released       what the paper's published code does, faults included
  ppo=textbook       PPO as most libraries have it
  ppo=grpo, rloo     several responses per prompt, compared with each other
  algorithm=ppo      or sft, dpo, dpo_reward, best_of_n, distill: what to compare PPO with

  --cfg job          every key and its value, nothing runs
  --config-dir DIR   more choices, of your own: DIR/task/mine.yaml makes task=mine
  --hydra-help       Hydra's own options"""


def add_words(parser: argparse.ArgumentParser, what: str = "as python -m pgsrm.run takes them") -> None:
    """Let a command take a run's words. `--config-dir` is declared, since argparse would take its folder for one of them."""
    parser.add_argument("words", nargs="*", metavar="key=value", help=what)
    parser.add_argument("--config-dir", "-cd", metavar="DIR", help="more choices, of your own")


def parse_words(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, list[str]]:
    """The options of a command line, and the run's words among them (`add_words`), in an order that means the same."""
    options, others = parser.parse_known_args()  # others: words behind an option, and Hydra's flags
    folder = getattr(options, "config_dir", None)
    words = [*getattr(options, "words", ()), *others, *([] if folder is None else [f"--config-dir={folder}"])]
    return options, words


def own_words(words: Sequence[str], keys: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """A command's own keys with their values, and the words that are a run's. The last of equal keys counts, as there."""
    own, others = {}, []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in keys:
            own[key] = value
        else:
            others.append(word)
    return own, others


def plain_run(words: Sequence[str], hydra: bool = False) -> tuple[list[str] | None, Path | None]:
    """The overrides of a plain run and its `--config-dir`; None for the overrides of anything else (-m, --cfg, ...).

    hydra: whether Hydra's own keys are taken (`hydra.verbose=true`), all but its mode.
    """
    overrides: list[str] = []
    folder, rest = None, iter(words)
    for word in rest:
        if word in ("--config-dir", "-cd"):
            folder = local_path(next(rest, ""), "--config-dir")
        elif word.startswith("--config-dir="):
            folder = local_path(word.partition("=")[2], "--config-dir")
        elif word.startswith("-") or (word.startswith("hydra") and (not hydra or word.startswith("hydra.mode"))):
            return None, folder
        else:
            overrides.append(as_text(word))
    if folder is not None and not folder.is_dir():
        raise UserError(f"--config-dir={folder}: no such folder; name one that holds task/, reward/ ... of your own")
    return overrides, folder


def as_text(word: str) -> str:
    r"""`key=value`, the value in quotes where Hydra could not read it and it can only be a text: `task.data=~/a=b.csv`.

    A template (`task.template=Text: {document}\nShort:`) is such a text; `\n` in it is a line's end.
    """
    key, equals, value = word.partition("=")
    if equals and re.search(r"\{\w+\}", value) and not re.search(r"""['"$]|\{\w+:""", value):
        return f"{key}='" + value.replace("\\n", "\n") + "'"
    if not equals or re.search(r"""[]'"\\$(){}[]""", value) or not re.search(r"[=~#&;!`]|[^\x00-\x7f]", value):
        return word
    return f"{key}=" + ",".join(f"'{part}'" for part in value.split(","))


# What Hydra's keys would do that a run of this package does in its own way, and how.
_NOT_TAKEN = {
    "hydra.launcher": "is for sweeps; add -m, for a sweep of one run too",
    "hydra.sweep": "is for sweeps; add -m, for a sweep of one run too",
    "hydra.run.dir": "a run writes into its own folder below paths.outputs; set paths.outputs=...",
    "hydra.output_subdir": "a run's config is in its folder below paths.outputs; leave it out",
    "hydra.job.chdir": "a run stays in the working directory, and writes below paths.outputs; leave it out",
}


def check_hydra_words(words: Sequence[str]) -> None:
    """Raise UserError, for a run without -m, for a key of Hydra's that would do nothing."""
    for word in words:
        reason = next((why for key, why in _NOT_TAKEN.items() if re.match(rf"\+*{re.escape(key)}", word)), None)
        if reason:
            raise UserError(f"{word}: {reason}")


def log_as_asked(verbose: Any) -> None:
    """What `hydra.verbose` means in every program of Hydra's: true, or the names of loggers, are told in full."""
    if verbose is False:
        return
    logging.basicConfig(format="[%(asctime)s][%(name)s][%(levelname)s] - %(message)s")
    names = [None] if verbose is True else [verbose] if isinstance(verbose, str) else list(verbose)
    for name in names:
        logging.getLogger(name).setLevel(logging.DEBUG)


def search_path(folder: Path | None) -> list[str]:
    """The override by which Hydra finds choices of the user's own in `folder`, if there is one."""
    return [f"hydra.searchpath=[{for_hydra(f'file://{folder.absolute()}')}]"] if folder else []


def config_dir_of(hydra: Any) -> str | None:
    """The folder that `--config-dir` named, of a composed config's `hydra` node."""
    sources = hydra.runtime.config_sources
    return next((str(one.path) for one in sources if str(one.provider).endswith("command-line")), None)


def options_first(words: Sequence[str]) -> list[str]:
    """The same words, options before overrides: Hydra refuses an option that stands between overrides."""
    options, overrides, rest = list[str](), list[str](), iter(words)
    for word in rest:
        (options if word.startswith("-") else overrides).append(word)
        if word in WITH_VALUE:
            options.append(next(rest, ""))
    return options + [as_text(word) for word in overrides]


def one_experiment(words: Sequence[str]) -> None:
    """Raise UserError for several experiments in one command: the sweep that each may bring would be lost."""
    for word in words:
        name, _, value = word.partition("=")
        if name == "experiment" and re.search(r"[,(]", value):
            raise UserError(f"{word}: several experiments; give each a command of its own")


def refuse_sweep(config: "DictConfig", remedy: str = "add -m, or give each one value") -> None:
    """Raise UserError for a single run of an experiment that is a sweep, unless every swept key has been given a value.

    `config`: composed with its `hydra` node.
    """
    given = {override.partition("=")[0] for override in config.hydra.overrides.task}
    lacking = [key for key in _experiment_params(config) if key not in given]
    if lacking:
        name = config.hydra.runtime.choices.get("experiment")
        raise UserError(f"experiment={name}: is a sweep over {', '.join(lacking)}; {remedy}")


def _experiment_params(config: "DictConfig") -> dict[str, Any]:
    params = config.hydra.sweeper.get("params")
    return {} if params is None else dict(params)


def help_text(arguments: Sequence[str]) -> str:
    """The usage and the choices of every group, read from the folders alone: composing them would take Hydra a second."""
    choices = group_choices([word for word in arguments[1:] if word not in HELP])
    return USAGE.format(groups="\n".join(f"  {group:16} {' '.join(names)}" for group, names in choices.items()))


def config_folders(words: Sequence[str]) -> list[Path]:
    """Where config files lie: the package's folder, and the one that --config-dir names."""
    _, own = plain_run(words)
    return [conf_folder(), *([own] if own else [])]


def group_choices(words: Sequence[str]) -> dict[str, list[str]]:
    """Config group -> its choices, both in order, from the folders alone; words: with a --config-dir, perhaps."""
    choices: dict[str, set[str]] = {}
    for folder in config_folders(words):
        for file in folder.rglob("*.yaml"):
            if file.parent != folder:
                choices.setdefault(file.parent.relative_to(folder).as_posix(), set()).add(file.stem)
    return {group: sorted(names) for group, names in sorted(choices.items())}
