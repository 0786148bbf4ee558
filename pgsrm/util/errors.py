"""What a user did wrong, in one line."""


class UserError(ValueError):
    """Bad input: the message names the key, the value and the remedy, and is shown without a traceback."""
