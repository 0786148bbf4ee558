"""What a server's failures are told as: its own reason in one line, whatever form it came in, and the remedy."""

import json
import math
import os
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from html import unescape
from typing import Any
from urllib.parse import urlsplit

from pgsrm.util.errors import UserError
from pgsrm.util.secrets import without_user

_QUOTED = 200  # characters of a server's message that an error line repeats
# Where a server's reason may stand, the most telling first.
_REASONS = ("message", "detail", "error", "errors", "error_description", "msg", "reason", "title", "code", "type")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_LOCAL = ("localhost", "127.0.0.1", "::1")


class ServerError(UserError):
    """A server gave no right answer within the tries that were allowed. Nothing was made up in its place."""


class RequestRefused(ServerError):
    """The server understood the request and will not do it (400, 404, ...): its HTTP status, and the reason it gives."""

    def __init__(self, message: str, status: int, reason: str = "") -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


class Failure(Exception):
    """One try that failed and may be repeated: what happened, what to change, how long the server asks to wait.

    status: what the error would be in HTTP, for one that came with status 200. unreachable: whether there was no connection, so
    that nothing was asked.
    """

    def __init__(
        self,
        what: str,
        remedy: str,
        wait: float | None = None,
        status: int | None = None,
        unreachable: bool = False,
    ) -> None:
        super().__init__(what)
        self.what, self.remedy, self.wait, self.status, self.unreachable = what, remedy, wait, status, unreachable


def one_line(text: str) -> str:
    """A server's text in one short line."""
    line = " ".join(text.split())
    return line if len(line) <= _QUOTED else line[: _QUOTED - 1] + "…"


def reason_in(content: bytes) -> str:
    """What a body of an error says: OpenAI's object, an `error` or `detail` of text or a list, a page of HTML, plain text."""
    text = content.decode("utf-8", "replace").strip()
    if not text:
        return "no reason given"
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return _page(text)
    return _said(body) or text


def error_code_in(content: bytes) -> str:
    """The name that an error's body gives it ("insufficient_quota"), "" without one."""
    try:
        error = json.loads(content)
    except (ValueError, RecursionError):
        return ""
    error = error.get("error", error) if isinstance(error, Mapping) else {}
    return str(error.get("code") or "") if isinstance(error, Mapping) else ""


def error_in(content: bytes) -> Failure | None:
    """The failure that a body with status 200 tells of, None for one without an error in it."""
    if b"error" not in content and b"detail" not in content and b"message" not in content:
        return None
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, Mapping):
        return None
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], Mapping) else {}
    error = body.get("error") or first.get("error")
    if not error and not {"choices", "data"} & body.keys():
        error = body if body.keys() & {"error", "errors", "detail", "message"} else None
    if not error:
        return None
    return Failure(_said(error) or json.dumps(error), "", status=_status(error))


def shown_body(content: bytes) -> str:
    """A body that is no JSON, to follow what is wrong with it: empty, or the words of a page."""
    text = content.decode("utf-8", "replace").strip()
    if not text:
        return ", the answer is empty"
    return f"; it says: {one_line(_page(text))}" if text.startswith("<") else ""


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a Retry-After header asks to wait (a number, or a date), None without one that makes sense."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def is_local(url: str) -> bool:
    """Whether it is this machine's: a proxy is for the way out, and can't reach what listens here."""
    return (urlsplit(url).hostname or "") in _LOCAL


def on_the_way(url: str, reason: str) -> str:
    """The environment variable that may be to blame for a lost connection, to follow "check ..."; "" without one."""
    if "CERTIFICATE" in reason.upper():
        chosen = [name for name in _CERTIFICATES if os.environ.get(name)]
        return f", and the certificates of {chosen[0]}" if chosen else ", and set SSL_CERT_FILE to its certificates"
    proxy = None if is_local(url) else proxy_variable(url)
    return "" if proxy is None else f", and the proxy of {proxy}={without_user(os.environ[proxy])}"


def proxy_variable(url: str) -> str | None:
    """The environment variable with the proxy for a URL, None without one."""
    from urllib.request import getproxies, proxy_bypass  # a client of HTTP, which no config error needs

    parts = urlsplit(url)
    if parts.hostname is None or proxy_bypass(parts.hostname):
        return None
    for kind in (parts.scheme, "all"):
        if kind in getproxies():
            names = (f"{kind}_proxy", f"{kind}_proxy".upper())
            return next((name for name in names if os.environ.get(name)), None)
    return None


def unusable_environment(error: Exception) -> UserError:
    """What keeps a connection from being made at all: proxies and certificates that the environment names."""
    if isinstance(error, OSError):
        name = next((name for name in _CERTIFICATES if os.environ.get(name)), None)
        if name is not None:
            reason = error.strerror or str(error)
            remedy = "set it to a file of certificates, or unset it"
            return UserError(f"{name}={os.environ[name]}: can't be read ({one_line(reason)}); {remedy}")
    proxies = {
        name: os.environ[name]
        for kind in ("all", "https", "http", "no")
        for name in (f"{kind}_proxy", f"{kind}_proxy".upper())
        if os.environ.get(name)
    }
    socks = [name for name, value in proxies.items() if value.lower().startswith("socks")]
    if isinstance(error, ImportError) and socks:
        value = without_user(proxies[socks[0]])
        return UserError(f"{socks[0]}={value}: needs a library; pip install socksio, or unset the variable")
    if not proxies:
        return UserError(
            f"no connection can be made ({type(error).__name__}: {one_line(str(error))}); check openai's install"
        )
    wrong = [name for name, value in proxies.items() if not name.lower().startswith("no") and not _is_proxy(value)]
    name = (wrong or [name for name in proxies if name.lower().startswith("no")] or list(proxies))[0]
    reason = without_user(one_line(str(error)))
    return UserError(
        f"{name}={without_user(proxies[name])}: not usable as a proxy ({reason}); write http://host:port, or unset it"
    )


def _is_proxy(value: str) -> bool:
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        return parts.scheme in ("http", "https", "socks5", "socks5h") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _said(error: Any) -> str:
    """The words in an error of any shape, "" without any."""
    if isinstance(error, str | int | float) and not isinstance(error, bool):
        return str(error)
    if isinstance(error, list):
        return "; ".join(filter(None, map(_said, error[:3])))
    if not isinstance(error, Mapping):
        return ""
    reason = next((words for name in _REASONS if (words := _said(error.get(name)))), "")
    place = error.get("loc")  # FastAPI's: which field of the request
    return f"{'.'.join(map(str, place))}: {reason}" if reason and isinstance(place, list) and place else reason


def _status(error: Any) -> int | None:
    """An error object's HTTP status: its code, or what its type is known to be; None where it tells neither."""
    if not isinstance(error, Mapping):
        return None
    for name in ("code", "status", "status_code"):
        code = str(error.get(name) or "")
        if code.isdigit() and 400 <= int(code) < 600:
            return int(code)
    return 400 if error.get("type") in ("invalid_request_error", "BadRequestError") else None


def _page(text: str) -> str:
    """A page's words without its tags; plain text as it is."""
    if not re.search(r"<(?:!doctype|html|head|body|title|h1|center)\b", text, re.IGNORECASE):
        return text
    text = re.sub(r"<(script|style)\b.*?</\1>|<!--.*?-->", " ", text, flags=re.DOTALL | re.IGNORECASE)
    words = unescape(re.sub(r"<[^>]*>", " ", text)).split()
    return "a page of HTML: " + " ".join(words)
