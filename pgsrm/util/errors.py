"""What a user did wrong, in one line."""

import sys
from typing import NoReturn


class UserError(ValueError):
    """Bad input: the message names the key, the value and the remedy, and is shown without a traceback."""


def end_with_line(command: str, line: str) -> NoReturn:
    """End a command with exit code 2 and one line on standard error."""
    sys.stdout.flush()
    print(f"{command}: {line}", file=sys.stderr, flush=True)
    sys.exit(2)
