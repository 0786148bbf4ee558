"""What a user did wrong, in one line."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from pgsrm.util.secrets import without_user


class UserError(ValueError):
    """Bad input: the message names the key, the value and the remedy, and is shown without a traceback."""


class ParameterError(UserError):
    """The same of one parameter of an object that a config names: `model=...: no such classifier`.

    Where the object stands in the config, only its holders know (`under`).
    """


@contextmanager
def under(key: str) -> Iterator[None]:
    """Around what the object at a config's `key` does: its errors get the whole key, `task.extrinsic.model=...`."""
    try:
        yield
    except ParameterError as error:
        raise ParameterError(f"{key}.{error}") from error.__cause__


@contextmanager
def of_a_parameter() -> Iterator[None]:
    """Around a check that is told the parameter's name as its key: what it raises is a ParameterError."""
    try:
        yield
    except UserError as error:
        raise ParameterError(str(error)) from error.__cause__


def unwritable(key: str, place: object, error: OSError, remedy: str = "name a folder of yours") -> UserError:
    """The line for a place, named by the user's `key`, that can't be written."""
    return UserError(f"{key}={place}: can't be written ({error.strerror or reason(error)}); {remedy}")


@contextmanager
def writing_to(key: str, place: object, remedy: str = "name a folder of yours") -> Iterator[None]:
    """Around what writes to a place that the user's `key` names, and does nothing else with files: `unwritable`."""
    try:
        yield
    except OSError as error:
        raise unwritable(key, place, error, remedy) from error


def reason(error: BaseException) -> str:
    """What another library's error says, as far as one line has room: its first line, at most 120 characters, or its kind."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


def end_with_line(command: str, line: str) -> NoReturn:
    """End a command with exit code 2 and one line on standard error, in which an address shows no password."""
    sys.stdout.flush()
    print(f"{command}: {without_user(line)}", file=sys.stderr, flush=True)
    sys.exit(2)
