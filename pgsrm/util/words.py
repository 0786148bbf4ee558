"""Lists of words with a label each, in clear or as hashes, and texts in which such words are not shown.

A line is `positive lovely`, or `toxic #` and 16 hexadecimal digits: the beginning of the SHA-256 of the word in lower case and
UTF-8. So a list of offensive words can be kept, and passed on, without anybody reading them.
"""

import hashlib
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from pgsrm.util.digest import content_digest
from pgsrm.util.errors import UserError
from pgsrm.util.paths import PACKAGE, local_path

WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
SHIPPED = PACKAGE / "critic"  # lexicon.txt, toxic.txt, offensive.txt
_HASH = re.compile(r"#[0-9a-f]{16}")
_REMEDY = "give a text file with a label and a word per line, as `positive lovely`"


class WordList:
    """The words of a file: a path, or the name of a shipped list.

    labels: word in lower case, or `#` and its hash -> label. Raises UserError, naming `key`, for a file that is no such list.
    """

    def __init__(self, name: str, key: str) -> None:
        self.file = find_words(name, key)
        self.labels = _read(self.file, key)
        self._hashed = any(word.startswith("#") for word in self.labels)

    @property
    def digest(self) -> str:
        """Hash of the file."""
        return content_digest([self.file])

    def label(self, word: str) -> str | None:
        """The label of a word in any case; None where the list does not have it."""
        lower = word.lower()
        return self.labels.get(lower) or (self.labels.get(hashed(lower)) if self._hashed else None)

    def masked(self, text: str) -> str:
        """The text, of the same length, with the first letter and asterisks in the place of each listed word.

        Of a word with an apostrophe that is not listed itself, each listed part is hidden, as in a possessive.
        """
        return WORD.sub(lambda match: self._shown(match[0]), text)

    def _shown(self, word: str) -> str:
        if self.label(word):
            return _hidden(word)
        return "'".join(_hidden(part) if self.label(part) else part for part in word.split("'"))


def mask_of(name: str | None) -> Callable[[str], str]:
    """What texts are shown through: with the words of the list `task.mask` masked, or, for None, as they are."""
    return str if name is None else WordList(name, "task.mask").masked


def _hidden(word: str) -> str:
    return word[0] + "*" * (len(word) - 1)


@lru_cache(maxsize=1 << 16)
def hashed(word: str) -> str:
    """`#` and the first 16 hexadecimal digits of the SHA-256 of a word in lower case."""
    return "#" + hashlib.sha256(word.lower().encode()).hexdigest()[:16]


def find_words(name: str, key: str) -> Path:
    """The file that a name means: a path, else a shipped list. Raises UserError, naming `key`, where it is neither."""
    path = local_path(name, key)
    shipped = SHIPPED / name
    if path.exists() or name != Path(name).name or not shipped.is_file():
        return path
    return shipped


def _read(file: Path, key: str) -> dict[str, str]:
    names = ", ".join(sorted(path.name for path in SHIPPED.glob("*.txt")))
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{key}={file}: can't be read ({error}); {_REMEDY}, or a shipped list: {names}") from error
    labels: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        label, _, word = line.strip().partition(" ")
        if not line.strip():
            continue
        if WORD.fullmatch(word) is None and _HASH.fullmatch(word) is None:
            raise UserError(f"{key}={file}: line {number}: {line[:40]!r} is no label and word; {_REMEDY}")
        labels[word.lower()] = label
    if not labels:
        raise UserError(f"{key}={file}: is empty; {_REMEDY}")
    return labels
