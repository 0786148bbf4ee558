"""Secrets left out of what is shown, logged or written."""

import re

MASK = "***"
# From "://" to the last "@" of the word: a password may hold "@", "/", "?" and "#". An address without a user, a port aside,
# has no ":" or "@" before its path, and is left as it is.
_USER_IN_ADDRESS = re.compile(r"(?<=://)(?=[^/?#\s]*[:@])\S*@")
_WHOLE_WORD = 4  # characters from which on a key is masked as a word of its own; shorter ones ("x") stand for no key
_ANYWHERE = 12  # characters from which on no other text holds a key by chance
_BEGINNING = 8  # characters of a long key by which a server may repeat it


def without_user(text: str) -> str:
    """`text` with user and password of each address in it masked, for messages, logs and files."""
    return _USER_IN_ADDRESS.sub(f"{MASK}@", text)


def without_secret(text: str, secret: str) -> str:
    """`text` with a key masked, and words that begin as a long key does.

    A short key is masked where it is a word of its own, and one of up to three characters, which servers without keys are
    given, not at all: it would blacken letters of other words, and keeps nothing secret.
    """
    secret = secret.strip()
    if len(secret) < _WHOLE_WORD:
        return text
    if len(secret) < _ANYWHERE:
        return re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", MASK, text)
    text = text.replace(secret, MASK)
    return re.sub(rf"{re.escape(secret[:_BEGINNING])}[\w\-.*…]*", MASK, text)
