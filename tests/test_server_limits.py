"""Servers that differ: limits of a request, options that some don't know, errors in every shape, what the environment names."""

import base64
import logging
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_openai import FakeOpenAI, vector
from test_server import KEY, chat, client, refusal

from pgsrm.embedder import OpenAIEmbeddings
from pgsrm.embedder.download import download
from pgsrm.models.server import RequestRefused, Server, ServerError
from pgsrm.util.errors import UserError

PROXIES = [name for kind in ("all", "http", "https", "no") for name in (f"{kind}_proxy", f"{kind}_proxy".upper())]


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "SSL_CERT_FILE", "SSL_CERT_DIR", *PROXIES):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as server:
        yield server


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


# Texts of a request


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize("most", [1, 10, 32])
def test_a_server_that_takes_fewer_texts_gets_fewer(
    fake: FakeOpenAI, caplog: pytest.LogCaptureFixture, most: int, status: int
) -> None:
    def limit(path: str, body: dict[str, Any]) -> tuple[int, Any] | None:
        problem = f"batch size {len(body['input'])} > maximum allowed batch size {most}"
        return (status, {"error": problem, "error_type": "Validation"}) if len(body["input"]) > most else None

    fake.intercept = limit
    server, texts = client(fake), [f"text {number}" for number in range(50)]
    assert server.embeddings(texts, "tiny") == [vector(text, 8) for text in texts]
    sizes = [len(body["input"]) for body in fake.bodies]
    assert max(sizes[sizes.index(max(size for size in sizes if size <= most)) :]) <= most  # remembered within the call
    fake.bodies.clear()
    assert server.embeddings(texts, "tiny") == [vector(text, 8) for text in texts]
    assert max(len(body["input"]) for body in fake.bodies) <= most
    (line,) = told(caplog)
    assert "takes fewer texts per request (batch size" in line and f"maximum allowed batch size {most})" in line


def test_a_text_that_is_refused_alone_is_no_limit(fake: FakeOpenAI) -> None:
    long = "x" * 99

    def limit(path: str, body: dict[str, Any]) -> tuple[int, Any] | None:
        return (413, {"detail": "input too long"}) if long in body["input"] else None

    fake.intercept = limit
    server = client(fake)
    assert "refused (413: input too long)" in refusal(RequestRefused, server.embeddings, [long, "a", "b", "c"], "tiny")
    fake.bodies.clear()
    assert len(server.embeddings(["a", "b", "c", "d"], "tiny")) == 4 and len(fake.bodies) == 1


def test_batch_size_is_an_option(fake: FakeOpenAI, tmp_path: Path) -> None:
    embedder = OpenAIEmbeddings("m", base_url=fake.url, batch_size=3, cache=str(tmp_path))
    assert embedder.embed([f"t{number}" for number in range(7)]).shape == (7, 8)
    assert [len(body["input"]) for body in fake.bodies] == [3, 3, 1]


# Options


def without(*options: str, named: bool = True, status: int = 400) -> Any:
    def refuse(path: str, body: dict[str, Any]) -> tuple[int, Any] | None:
        unknown = [option for option in options if option in body]
        if not unknown:
            return None
        return status, {"detail": f"{unknown[0]}: not supported" if named else "Bad Request"}

    return refuse


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("status", [400, 422])
def test_what_a_server_does_not_know_is_left_out_and_said_once(
    fake: FakeOpenAI, caplog: pytest.LogCaptureFixture, named: bool, status: int
) -> None:
    fake.intercept = without("dimensions", "encoding_format", named=named, status=status)
    server = client(fake, section="embedder")
    for texts in (["a"], ["b", "c"]):
        assert server.embeddings(texts, "tiny", dimensions=3) == [vector(text, 8) for text in texts]
    assert sum(len(body["input"]) == 2 for body in fake.bodies) == 1  # the second call knows
    assert [line.split(" (")[0] for line in sorted(told(caplog))] == [
        "embedder: the server refuses dimensions",
        "embedder: the server refuses encoding_format",
    ]
    fake.intercept = without("response_format", named=named, status=status)
    for _ in range(2):
        assert chat(server, response_format={"type": "json_object"}, max_tokens=5).text
    assert "max_tokens" in fake.bodies[-1] and "response_format" not in fake.bodies[-1]
    assert len(told(caplog)) == 3


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("known", ["max_tokens", "max_completion_tokens"])
def test_the_limit_of_tokens_goes_by_either_name(fake: FakeOpenAI, known: str, named: bool) -> None:
    other = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}[known]
    fake.intercept = without(other, named=named)
    server = client(fake)
    for _ in range(2):
        chat(server, **{other: 7}, response_format={"type": "json_object"})
    assert fake.bodies[-1][known] == 7 and other not in fake.bodies[-1]
    assert "response_format" in fake.bodies[-1]  # which it knows
    assert fake.requests == (3 if named else 4)


def test_several_unknown_options_at_once(fake: FakeOpenAI) -> None:
    fake.intercept = without("response_format", "max_tokens", named=False)
    chat(client(fake), max_tokens=7, response_format={"type": "json_object"})
    assert fake.bodies[-1]["max_completion_tokens"] == 7 and "response_format" not in fake.bodies[-1]


def test_a_refusal_of_something_else_is_told_as_it_came(fake: FakeOpenAI, caplog: pytest.LogCaptureFixture) -> None:
    fake.intercept = lambda path, body: (400, {"error": {"message": "temperature must be 1"}})
    message = refusal(RequestRefused, lambda: chat(client(fake), temperature=0, max_tokens=5))
    assert message.endswith("refused (400: temperature must be 1); parent.temperature=null leaves it out")
    assert not told(caplog)


def test_vectors_in_base64(fake: FakeOpenAI) -> None:
    def encoded(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        numbers = struct.pack("<3f", 0.5, -2, 0.25)
        return 200, {"data": [{"index": 0, "embedding": base64.b64encode(numbers).decode()}]}

    fake.intercept = encoded
    assert client(fake).embeddings(["a"], "tiny", encoding_format="base64") == [[0.5, -2, 0.25]]
    assert fake.bodies[-1]["encoding_format"] == "base64"
    fake.intercept = lambda path, body: (200, {"data": [{"index": 0, "embedding": "not base64"}]})
    assert "a vector that is text" in refusal(ServerError, client(fake).embeddings, ["a"], "tiny")


def test_answers_in_parts(fake: FakeOpenAI) -> None:
    parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "co"}, {"type": "text", "text": "ld"}]
    choice = {"message": {"content": parts}, "finish_reason": "stop"}
    fake.intercept = lambda path, body: (200, {"choices": [choice]})
    assert chat(client(fake)).text == "cold"


def test_half_a_character_is_sent_as_no_character(fake: FakeOpenAI) -> None:
    server = client(fake)
    assert len(server.embeddings(["a\ud83d"], "tiny")) == 1 and fake.bodies[-1]["input"] == ["a\ufffd"]
    assert chat(server, "b\udc00").text and fake.bodies[-1]["messages"][0]["content"] == "b\ufffd"


# Errors of every shape


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"error": {"message": "out of cards"}}, "out of cards"),
        ({"error": "out of cards", "error_type": "overloaded"}, "out of cards"),
        ({"error": {"error": {"message": "out of cards"}}}, "out of cards"),
        ({"detail": "out of cards"}, "out of cards"),
        (
            {"detail": [{"loc": ["body", "input", 0], "msg": "out of cards", "type": "x"}, {"msg": "and time"}]},
            "body.input.0: out of cards; and time",
        ),
        ({"detail": {"error": "out of cards"}}, "out of cards"),
        ({"object": "error", "message": "out of cards", "code": 40303}, "out of cards"),
        ({"errors": ["out of cards"]}, "out of cards"),
        ([{"error": {"message": "out of cards", "status": "X"}}], "out of cards"),
        ("out of cards", "out of cards"),
        ({"what": 1}, '{"what": 1}'),
        (b"out of\ncards", "out of cards"),
        (
            b"<html><head><title>502</title><style>p {}</style></head><body><h1>Out&nbsp;of cards</h1></body></html>",
            "a page of HTML: 502 Out of cards",
        ),
        (b"", "no reason given"),
        (b"\xff\xfe", "��"),
        (b"[" * 9000, "[" * 199 + "…"),
    ],
)
def test_the_servers_reason_is_kept(fake: FakeOpenAI, body: Any, reason: str) -> None:
    for status, form in (
        (404, "refused (404: {})"),
        (500, "the server's error 500: {};"),
        (429, "rate limit (429: {});"),
    ):
        fake.intercept = lambda path, _, status=status: (status, body)
        assert form.format(reason) in refusal(ServerError, lambda: chat(client(fake, retries=0)))


@pytest.mark.parametrize(
    ("body", "message", "requests"),
    [
        ({"error": {"message": "out of cards", "code": 503}}, "the server's error 503: out of cards; try later", 3),
        ({"error": {"message": "slower", "code": "429"}}, "rate limit (429: slower)", 3),
        ({"error": {"message": "no such model", "code": 404}}, "refused (404: no such model)", 1),
        ({"error": {"message": "no such key", "code": 401}}, "not let in (401, no key given: no such key)", 1),
        ({"error": {"message": "bad", "type": "invalid_request_error"}}, "refused (400: bad)", 1),
        ({"error": "out of cards"}, "an error in its answer: out of cards; try later", 3),
        ({"detail": "out of cards"}, "an error in its answer: out of cards; try later", 3),
        ({"object": "error", "message": "out of cards"}, "an error in its answer: out of cards", 3),
        (
            {"choices": [{"error": {"message": "out of cards"}, "finish_reason": "error"}]},
            "its answer: out of cards",
            3,
        ),
        (b"", "a wrong answer: Input data was truncated, the answer is empty", 3),
        (b"<html><h1>Log in</h1></html>", "it says: a page of HTML: Log in; check that the server speaks", 3),
    ],
)
def test_an_error_with_a_good_status(fake: FakeOpenAI, body: Any, message: str, requests: int) -> None:
    fake.intercept = lambda path, _: (200, body)
    assert message in refusal(ServerError, chat, client(fake))
    assert fake.requests == requests


def test_an_answer_with_an_empty_error_is_an_answer(fake: FakeOpenAI) -> None:
    choice = {"message": {"content": '"error" is a message'}, "finish_reason": "stop", "error": None}
    fake.intercept = lambda path, body: (200, {"choices": [choice], "error": None})
    assert chat(client(fake)).text == '"error" is a message'


def test_a_key_in_any_error_is_left_out(fake: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for status, body in (
        (401, {"detail": f"no {KEY}"}),
        (500, KEY.encode()),
        (200, {"error": f"{KEY[:12]}… is no key"}),
    ):
        fake.intercept = lambda path, _, status=status, body=body: (status, body)
        message = refusal(ServerError, lambda: chat(client(fake, retries=0)))
        assert KEY[:12] not in message and "***" in message
    monkeypatch.setenv("OPENAI_API_KEY", "e")
    assert "The model `unknown` does not exist" in refusal(
        ServerError, client(fake_again(fake)).embeddings, ["a"], "unknown"
    )


def fake_again(fake: FakeOpenAI) -> FakeOpenAI:
    fake.intercept = None
    return fake


# What the environment names


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "ALL_PROXY",
            "socks5://me:p@ss@localhost:1",
            r"ALL_PROXY=socks5://\*\*\*@localhost:1: needs a library; pip install",
        ),
        ("https_proxy", "socks4://localhost:1", r"https_proxy=socks4://localhost:1: "),
        ("HTTPS_PROXY", "gopher://localhost:1", r"HTTPS_PROXY=gopher://localhost:1: not usable as a proxy"),
        ("HTTP_PROXY", "http://localhost:port", r"HTTP_PROXY=http://localhost:port: not usable as a proxy"),
        ("SSL_CERT_FILE", "/nowhere.pem", r"SSL_CERT_FILE=/nowhere.pem: can't be read \(No such file"),
    ],
)
def test_what_cannot_be_used(name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"^{message}") as caught:
        Server("https://models.example/v1").check()
    assert "\n" not in str(caught.value) and "p@ss" not in str(caught.value)
    Server("http://localhost:1/v1").check()  # no proxy is for this machine


def test_certificates_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(UserError, match=r"^SSL_CERT_FILE=.*ca\.pem: can't be read"):
        Server("https://models.example/v1").check()


def test_a_proxy_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:9")
    server = Server("http://models.example/v1", retries=0)
    message = refusal(ServerError, chat, server)
    assert "check parent.base_url and the network, and the proxy of http_proxy=http://***@127.0.0.1:9" in message


@pytest.mark.parametrize(
    "url",
    ["http://me:p@ss@host/v1", "http://me:p/w@host/v1", "me:secret@host/v1", "http://me@host", "http://:pw@host"],
)
def test_a_password_in_an_address_is_not_repeated(url: str) -> None:
    message = refusal(UserError, Server, url)
    assert message == "parent.base_url: has a user name or password in it; give the key by parent.api_key_env"


@pytest.mark.parametrize(
    "url", ["http://host:port/v1", "http://[::1/v1", "http://ho st/v1", "ftp://host/v1", "http:///v1"]
)
def test_what_is_no_address(url: str) -> None:
    assert refusal(UserError, Server, url) == f"parent.base_url={url}: not a URL; write it as http://localhost:8000/v1"


def test_a_download_names_the_variable_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:9")
    message = refusal(UserError, download, "http://vectors.example/v.gz", tmp_path)
    assert "check the network, and the proxy of http_proxy=http://***@127.0.0.1:9; the same command resumes" in message
