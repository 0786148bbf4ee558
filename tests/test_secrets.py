"""What is masked in messages, logs and files, and what isn't."""

import pytest

from pgsrm.record.params import run_params
from pgsrm.util.secrets import without_secret, without_user

KEY = "sk-test-0123456789abcdef"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:secret@host:8000/v1", "http://***@host:8000/v1"),
        ("http://user:p@ss@host/v1", "http://***@host/v1"),
        ("http://user:p/a?s#s@host/v1", "http://***@host/v1"),
        ("http://user@host", "http://***@host"),
        ("postgresql://me:p@ss:w@host/db is down", "postgresql://***@host/db is down"),
        ("of 'http://a:b@h', then http://c:d@@i", "of 'http://***@h', then http://***@i"),
        ("http://host:8000/v1", "http://host:8000/v1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("https://host/folder@2/v1", "https://host/folder@2/v1"),
        ("a@b.org", "a@b.org"),
    ],
)
def test_users_in_addresses(text: str, shown: str) -> None:
    assert without_user(text) == shown
    assert run_params({"uri": text})["uri"] == shown


@pytest.mark.parametrize(
    ("text", "key", "shown"),
    [
        (f"no such key: {KEY}", KEY, "no such key: ***"),
        (f"no such key: {KEY[:12]}***, {KEY[:9]}…", KEY, "no such key: ***, ***"),
        (f"x{KEY}x", f" {KEY}\n", "x***x"),
        ("the axis of x", "x", "the axis of x"),
        ("EMPTY is not EMPTYING", "EMPTY", "*** is not EMPTYING"),
        ("no key at all", "", "no key at all"),
        ("a key of a.c*", "a.c*", "a key of ***"),
    ],
)
def test_keys(text: str, key: str, shown: str) -> None:
    assert without_secret(text, key) == shown
