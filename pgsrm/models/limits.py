"""What a server turned out not to take: learned from its refusals, said once, and kept to from then on.

Servers of one protocol differ: some take 10 texts per request and others 2048, some know an option and others answer 400 to it.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

REFUSALS = (400, 413, 422, 501)  # statuses of a request that may be taken in another form
# Options that a request can do without, or that go by another name with other servers. None = left out.
_OTHERWISE = {
    "response_format": None,
    "dimensions": None,
    "encoding_format": None,
    "max_tokens": "max_completion_tokens",
    "max_completion_tokens": "max_tokens",
}
_MEANT = {
    "response_format": "response_format|json_schema|structured|guided",
    "encoding_format": "encoding_format|encoding|base64",
    "dimensions": "dimensions|matryoshka",
}
_LEFT_OUT = {
    "response_format": "answers are held to their form by reading alone",
    "dimensions": "vectors have their full length",
    "encoding_format": "vectors come as the server writes them",
}

logger = logging.getLogger(__name__)


class Limits:
    """section: the config group, for messages. `texts`: the most that a request may have, as far as is known; None = any."""

    def __init__(self, section: str) -> None:
        self._section = section
        self.texts: int | None = None
        self._otherwise: dict[str, str | None] = {}

    def __contains__(self, option: str) -> bool:
        """Whether the server does without an option."""
        return option in self._otherwise

    def form(self, options: Mapping[str, Any], also: Mapping[str, str | None] | None = None) -> dict[str, Any]:
        """The options as this server takes them, with further changes tried."""
        changes = {**self._otherwise, **(also or {})}
        names = {name: changes.get(name, name) for name in options}
        return {new: options[name] for name, new in names.items() if new is not None}

    def names_an_option(self, options: Mapping[str, Any], reason: str) -> bool:
        """Whether a refusal's reason speaks of an option that can be changed."""
        return any(_speaks_of(name, reason) for name in self._changeable(options))

    def changes(self, options: Mapping[str, Any], reason: str) -> Iterator[dict[str, str | None]]:
        """Changes to try after a refusal: of the options that its reason names first, one option at a time first."""
        names = sorted(self._changeable(options), key=lambda name: not _speaks_of(name, reason))
        for count in range(1, len(names) + 1):
            for some in combinations(names, count):
                yield {name: _OTHERWISE[name] for name in some}

    def keep(self, changes: Mapping[str, str | None], reason: str) -> None:
        """From here on requests are changed so."""
        for name, new in changes.items():
            if name not in self._otherwise:
                does = f"is sent as {new}" if new else f"is left out, {_LEFT_OUT[name]}"
                logger.warning("%s: the server refuses %s (%s); it %s", self._section, name, reason, does)
        self._otherwise.update(changes)

    def keep_texts(self, texts: int, reason: str) -> None:
        """From here on no request has more texts."""
        if self.texts is None:
            logger.warning(
                "%s: the server takes fewer texts per request (%s); they are sent in parts", self._section, reason
            )
        self.texts = texts

    def _changeable(self, options: Mapping[str, Any]) -> list[str]:
        return [name for name in _OTHERWISE if name in options and name not in self._otherwise]


def _speaks_of(name: str, reason: str) -> bool:
    return re.search(rf"(?<![a-z_])(?:{_MEANT.get(name, name)})(?![a-z])", reason, re.IGNORECASE) is not None
