"""Hydra's and OmegaConf's errors as the one line that a user is shown; `schema` words what its own checks refuse."""

import os
import re
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from pgsrm.config.known_keys import FREE_SECTIONS, NAMED_BY_USERS, TAKEN_OVER, algorithms_with, instead, meant
from pgsrm.util.errors import UserError, end_with_line, unwritable
from pgsrm.util.paths import conf_folder
from pgsrm.util.shell import override, quoted


def one_line(error: BaseException, words: Sequence[str] | None = None) -> str | None:
    """What to tell the user, or None for an error that is ours and deserves its traceback.

    `words` are the overrides that were composed, by default those of the command line.
    """
    from hydra.core.override_parser.overrides_parser import OverrideParseException
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    chain = _chain(error)
    for cause in chain:
        if isinstance(cause, UserError):
            return str(cause)
        if problem := _config_file_problem(cause):
            return problem
    text = " ".join(str(error).split())
    if isinstance(error, ValueError) and text.startswith("Config group override must be"):  # task=null, task=3
        return _without_option(sys.argv[1:] if words is None else words) or text
    if isinstance(error, ValueError) and text.startswith("Only one of --run"):
        return "-m, --cfg, --info: one of them at a time; --cfg job without -m shows the config of a single run"
    if isinstance(error, OSError) and error.filename and not _in_our_code(error):  # Hydra makes the sweep's folder
        path = Path(error.filename)
        return str(unwritable("paths.outputs", path.parent if path.name == "multirun.yaml" else path, error))
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    if isinstance(error, OverrideParseException):
        problem = text.partition(" See http")[0].removeprefix(f"Error parsing override '{error.override}' ")
        if problem.startswith("LexerNoViableAlt"):
            problem = "a character that Hydra takes between quotes alone"
        name, equals, value = str(error.override).partition("=")
        remedy = "write key=value"
        if equals and re.fullmatch(r"[+~]{0,2}[\w./@]+", name):
            remedy += f", or, if {name.lstrip('+~')} is this text as it stands, {override(name, value)}"
        return f"{error.override}: can't be read ({problem}); {remedy}"
    key = re.fullmatch(r"Could not override '([^']+)'\. To append to your config use \+(.*)", text)
    if key:
        parents = [getattr(cause, "parent_node", None) for cause in chain]
        known = [str(name) for parent in parents if parent is not None for name in parent]
        if having := algorithms_with(key[1]):
            return f"{key[2]}: not a key of the chosen algorithm; algorithm={' or '.join(having)} has it"
        if key[1].split(".")[0] not in FREE_SECTIONS and (hint := instead(key[1])):
            return f"{key[2]}: unknown key; {hint}"
        if taken := _below_what_is_taken(key[1], key[2], parents):
            return taken
        near = meant(key[1], known)
        if near == key[1]:
            section = key[1].split(".")[0]
            if key[1] in FREE_SECTIONS:
                return f"{key[2]}: {section} takes the name of a choice; ~{section} {shlex.quote(f'+{key[2]}')} sets an object"
            if section in FREE_SECTIONS:
                return f"{key[2]}: unknown key; another choice of {section} has it, the chosen one does not"
            return f"{key[2]}: not among the keys of the chosen config; +{key[2]} adds it"
        section = next((name for name in NAMED_BY_USERS if key[1].startswith(f"{name}.")), None)
        if section is not None and not (near or "").startswith(f"{section}."):
            return f"{key[2]}: {section} has no such name; +{key[2]} adds it"
        if below := _below_a_value(key[1], key[2], parents):
            return below
        suggestion = f"; did you mean {near}?" if near else ""
        return f"{key[2]}: unknown key, `python -m pgsrm.run --cfg job` shows all{suggestion}"
    option = re.search(r"Could not find '([^']+)/([^'/]+)'", text)
    if option:
        from pgsrm.record.trackers import PACKAGES  # run folders, which no other line needs

        group, name = option.groups()
        known = re.findall(r"^\t(\S+)$", str(error), re.MULTILINE)
        other = (
            f"; {name} is one of the trackers beside it: trackers=[{name}]"
            if group == "tracking" and name in PACKAGES
            else ""
        )
        return f"{group}={name}: unknown {group}; there are {', '.join(known)}{_nearest(name, known)}{other}"
    if text.startswith("Ambiguous value for argument") and (sweep := re.search(r"'(.+)' 1\. To", text)):
        name, _, values = sweep[1].partition("=")
        a_list = "" if (conf_folder() / name).is_dir() else f", or write {quoted(f'{name}=[{values}]')} for one list"
        return f"{sweep[1]}: several values make several runs; add -m{a_list}"
    return text


def _below_what_is_taken(key: str, word: str, parents: Sequence[Any]) -> str | None:
    """The line for a key below what the config takes from elsewhere, as `reward.embedder.path=x`; None for another key."""
    above, _, name = key.rpartition(".")
    source = TAKEN_OVER.get(above)
    if source is None or not _has_no_keys(above, parents):
        return None
    there = quoted(f"{source}.{name}={word.partition('=')[2]}")
    return f"{word}: {above} is taken from {source}; set {there}"


def _has_no_keys(key: str, parents: Sequence[Any]) -> bool:
    """Whether a key had one value, in whose place Hydra has put an empty mapping. parents: the nodes that errors speak of."""
    return any(parent is not None and not parent and parent._get_full_key("") == key for parent in parents)


def _below_a_value(key: str, word: str, parents: Sequence[Any]) -> str | None:
    """The line for a key below one that has none, as `model.lora.rank=4` where model.lora is null; None for another key."""
    from pgsrm.config.schema import Settings, annotation_at, struct_of  # as `known_keys`

    above, _, name = key.rpartition(".")
    if not above or not _has_no_keys(above, parents):
        return None
    annotation = annotation_at(Settings, above, {})
    takes_keys = annotation is Any or struct_of(annotation, None) or "dict" in str(annotation)
    if not takes_keys:
        return f"{word}: {above} is one value and has no keys; set {above}"
    value = word.partition("=")[2]
    return f"{word}: {above} has no keys until it is set; set it as a whole, {quoted(f'{above}={{{name}: {value}}}')}"


def _config_file_problem(error: BaseException) -> str | None:
    """What is wrong with a config file that can't be read as YAML, with its line and column; None for another error."""
    import yaml

    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark, problem = error.problem_mark, " ".join(str(error.problem).split())
        return f"{mark.name}: line {mark.line + 1}, column {mark.column + 1}: not valid YAML ({problem}); {_yaml_remedy(problem)}"
    if isinstance(error, yaml.reader.ReaderError):
        return f"{error.name}: has the character U+{error.character:04X}, which YAML has not; remove it"
    if isinstance(error, UnicodeDecodeError) and (file := _file_being_read(error)) is not None:
        content = Path(file).read_bytes()
        try:
            content.decode()
        except UnicodeDecodeError as first:
            line = content.count(b"\n", 0, first.start) + 1
            column = first.start - content.rfind(b"\n", 0, first.start)
            return f"{file}: line {line}, column {column}: not UTF-8; save the file as UTF-8"
    if (
        isinstance(error, OSError)
        and str(error).startswith("Invalid loaded object type")
        and (file := _file_being_read(error))
    ):
        return f"{file}: line 1: holds no key; write key: value, one per line"
    return None


def _yaml_remedy(problem: str) -> str:
    if "mapping values" in problem:
        return "put a value with a colon between quotes, and one key on a line"
    if "'\\t'" in problem:
        return "indent with spaces, not with tabs"
    if "duplicate key" in problem:
        return "keep one of the two"
    return "compare the line and those before it with a file in conf/"


def _file_being_read(error: BaseException) -> str | None:
    """The config file that Hydra was reading when it failed: the error itself does not say."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename.endswith("file_config_source.py"):
            path = frame.f_locals.get("full_path")
            if path is not None and Path(path).is_file():
                return str(path)
    return None


def exit_with_line(error: BaseException, command: str, wants_traceback: bool = False) -> NoReturn:
    """End a command with exit code 2 and its one line on standard error; an error that is ours is raised again."""
    if isinstance(error, BrokenPipeError):  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    line = one_line(error)
    if line is None or wants_traceback:
        raise error
    end_with_line(command, line)


@contextmanager
def ending_with_line(command: str, interrupted: str, wants_traceback: bool | None = None) -> Iterator[None]:
    """Around what a command does: an error ends it as `exit_with_line` does, Ctrl-C with exit code 130 and `interrupted`.

    wants_traceback: None asks HYDRA_FULL_ERROR.
    """
    try:
        yield
    except (KeyboardInterrupt, Exception) as error:
        # A library may fail in its own clearing up after Ctrl-C, as OmegaConf does.
        if any(isinstance(each, KeyboardInterrupt) for each in _chain(error)):
            print(f"{command}: {interrupted}", file=sys.stderr, flush=True)
            sys.exit(130)
        if wants_traceback is None:
            wants_traceback = bool(os.environ.get("HYDRA_FULL_ERROR"))
        exit_with_line(error, command, wants_traceback)


def _in_our_code(error: BaseException) -> bool:
    """Whether any frame between the command line and the error is this package's."""
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(name.startswith("pgsrm.") and name not in ("pgsrm.run", __name__) for name in modules)


def _without_option(overrides: Sequence[str]) -> str | None:
    """The first choice of a config group that names none of its files."""
    for word in overrides:
        group, _, names = word.partition("=")
        known = sorted(path.stem for path in (conf_folder() / group).glob("*.yaml")) if group else []
        unknown = [name for name in names.split(",") if name not in known]
        if known and unknown:
            return f"{group}={unknown[0]}: not an option of {group}; there are {', '.join(known)}"
    return None


def _nearest(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _chain(error: BaseException | None) -> list[BaseException]:
    errors: list[BaseException] = []
    while error is not None and error not in errors:
        errors.append(error)
        error = error.__cause__ or error.__context__
    return errors
