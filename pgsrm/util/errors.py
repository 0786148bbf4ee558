"""What a user did wrong, in one line."""

import sys
from typing import NoReturn


class UserError(ValueError):
    """Bad input: the message names the key, the value and the remedy, and is shown without a traceback."""


def reason(error: BaseException) -> str:
    """What another library's error says, as far as one line has room: its first line, at most 120 characters, or its kind."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


def end_with_line(command: str, line: str) -> NoReturn:
    """End a command with exit code 2 and one line on standard error."""
    sys.stdout.flush()
    print(f"{command}: {line}", file=sys.stderr, flush=True)
    sys.exit(2)
