"""Hydra's and OmegaConf's errors in one line."""

import os
import re
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pgsrm.errors import UserError
from pgsrm.paths import conf_folder

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

Trains a child by PPO on a task's prompts under a reward. With -m, comma-separated values make a sweep:
  python -m pgsrm.run -m task=color,antonym reward=pgsrm,binary seed=0,1,2

Groups and their choices:
{groups}

  --cfg job          every key and its value, nothing runs
  --config-dir DIR   more choices, of your own: DIR/task/mine.yaml makes task=mine
  --hydra-help       Hydra's own options"""


def plain_run(words: Sequence[str]) -> tuple[list[str] | None, Path | None]:
    """The overrides of a plain run and its `--config-dir`; None for the overrides of anything else (-m, --cfg, ...)."""
    overrides, folder, rest = [], None, iter(words)
    for word in rest:
        if word in ("--config-dir", "-cd"):
            folder = Path(next(rest, ""))
        elif word.startswith("--config-dir="):
            folder = Path(word.partition("=")[2])
        elif word.startswith(("-", "hydra")):
            return None, folder
        else:
            overrides.append(word)
    if folder is not None and not folder.is_dir():
        raise UserError(f"--config-dir={folder}: no such folder; name one that holds task/, reward/ ... of your own")
    return overrides, folder


def options_first(words: Sequence[str]) -> list[str]:
    """The same words, options before overrides: Hydra refuses an option that stands between overrides."""
    options, overrides, rest = list[str](), list[str](), iter(words)
    for word in rest:
        (options if word.startswith("-") else overrides).append(word)
        if word in WITH_VALUE:
            options.append(next(rest, ""))
    return options + overrides


def one_experiment(words: Sequence[str]) -> None:
    """Raise UserError for several experiments in one command: the sweep that each may bring would be lost."""
    for word in words:
        name, _, value = word.partition("=")
        if name == "experiment" and re.search(r"[,(]", value):
            raise UserError(f"{word}: several experiments; give each a command of its own")


def refuse_sweep(config: "DictConfig") -> None:
    """Raise UserError for a single run of an experiment that is a sweep, unless every swept key has been given a value.

    `config`: composed with its `hydra` node.
    """
    given = {override.partition("=")[0] for override in config.hydra.overrides.task}
    lacking = [key for key in _experiment_params(config) if key not in given]
    if lacking:
        name = config.hydra.runtime.choices.get("experiment")
        raise UserError(f"experiment={name}: is a sweep over {', '.join(lacking)}; add -m, or give each one value")


def _experiment_params(config: "DictConfig") -> dict[str, Any]:
    params = config.hydra.sweeper.get("params")
    return {} if params is None else dict(params)


def help_text(arguments: Sequence[str]) -> str:
    """The usage and the choices of every group, read from the folders alone: composing them would take Hydra a second."""
    _, own = plain_run([word for word in arguments[1:] if word not in HELP])
    folders = [conf_folder(), *([own] if own else [])]
    choices: dict[str, set[str]] = {}
    for folder in folders:
        for file in folder.rglob("*.yaml"):
            if file.parent != folder:
                choices.setdefault(file.parent.relative_to(folder).as_posix(), set()).add(file.stem)
    return USAGE.format(
        groups="\n".join(f"  {group:16} {' '.join(sorted(names))}" for group, names in sorted(choices.items()))
    )


def one_line(error: BaseException) -> str | None:
    """What to tell the user, or None for an error that is ours and deserves its traceback."""
    from hydra.core.override_parser.overrides_parser import OverrideParseException
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    chain = _chain(error)
    for cause in chain:
        if isinstance(cause, UserError):
            return str(cause)
    text = " ".join(str(error).split())
    if isinstance(error, ValueError) and text.startswith("Config group override must be"):  # task=null, task=3
        return _without_option(sys.argv[1:]) or text
    if isinstance(error, OSError) and error.filename and not _in_our_code(error):  # Hydra makes the sweep's folder
        return f"paths.outputs={error.filename}: can't be written ({error.strerror}); name a folder of yours"
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    if isinstance(error, OverrideParseException):
        problem = text.partition(" See http")[0].removeprefix(f"Error parsing override '{error.override}' ")
        remedy = "write key=value, a value with commas, spaces or brackets in quotes"
        return f"{error.override}: can't be read ({problem}); {remedy}"
    key = re.fullmatch(r"Could not override '([^']+)'\. To append to your config use \+(.*)", text)
    if key:
        parents = [getattr(cause, "parent_node", None) for cause in chain]
        known = [str(name) for parent in parents if parent is not None for name in parent]
        near = _nearest(key[1].rpartition(".")[2], known)
        return f"{key[2]}: unknown key, `python -m pgsrm.run --cfg job` shows all{near}"
    option = re.search(r"Could not find '([^']+)/([^'/]+)'", text)
    if option:
        group, name = option.groups()
        known = re.findall(r"^\t(\S+)$", str(error), re.MULTILINE)
        return f"{group}={name}: unknown {group}; there are {', '.join(known)}{_nearest(name, known)}"
    return text


def exit_with_line(error: Exception, command: str, wants_traceback: bool = False) -> NoReturn:
    """End a command with exit code 2 and its one line on standard error; an error that is ours is raised again."""
    if isinstance(error, BrokenPipeError):  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    line = one_line(error)
    if line is None or wants_traceback:
        raise error
    sys.stdout.flush()
    print(f"{command}: {line}", file=sys.stderr, flush=True)
    sys.exit(2)


def _in_our_code(error: BaseException) -> bool:
    """Whether any frame between the command line and the error is this package's."""
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(name.startswith("pgsrm.") and name != "pgsrm.run" for name in modules)


def _without_option(overrides: list[str]) -> str | None:
    """The first choice of a config group that names none of its files."""
    for override in overrides:
        group, _, names = override.partition("=")
        known = sorted(path.stem for path in (conf_folder() / group).glob("*.yaml")) if group else []
        unknown = [name for name in names.split(",") if name not in known]
        if known and unknown:
            return f"{group}={unknown[0]}: not an option of {group}; there are {', '.join(known)}"
    return None


def _nearest(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
