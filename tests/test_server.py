"""The client for servers of the OpenAI protocol, against a server on loopback that fails in every way it can."""

import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from typing import Any

import pytest
from fake_openai import FAILURES, VECTOR_FAILURES, FakeOpenAI, vector
from omegaconf import OmegaConf

from pgsrm.models.prices import prices
from pgsrm.models.server import Budget, BudgetExceeded, RequestRefused, Server, ServerError
from pgsrm.util.errors import UserError
from pgsrm.util.paths import conf_folder

KEY = "sk-test-0123456789abcdef"


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    with FakeOpenAI(slow=0.4) as server:
        yield server


def client(fake: FakeOpenAI, **options: Any) -> Server:
    return Server(fake.url, **{"timeout": 20, "retries": 2, "backoff": 0.01, **options})


def chat(server: Server, text: str = "hello", **options: Any) -> Any:
    return server.chat([{"role": "user", "content": text}], "tiny", **options)


def refusal(kind: type[Exception], call: Any, *arguments: Any) -> str:
    with pytest.raises(kind) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    return message


def test_who_waits_is_told_why(caplog: pytest.LogCaptureFixture) -> None:
    """Wrong version: half a minute without a word while nobody listens at the address."""
    server = Server("http://127.0.0.1:9/v1", retries=5, backoff=0.01, section="critic")
    refusal(ServerError, lambda: chat(server))
    refusal(ServerError, lambda: chat(server))  # within a minute
    (line,) = caplog.messages
    assert line.startswith("critic.base_url=http://127.0.0.1:9/v1: connection failed: ")
    assert line.endswith("; at most 4 more tries, with a pause before each")


def test_before_any_work_a_server_that_is_not_there_is_told_of_soon(fake: FakeOpenAI) -> None:
    """Wrong version: a check ends after all retries, half a minute later; or a run that has begun gives up as soon."""
    down = Server("http://127.0.0.1:9/v1", retries=6, backoff=0.01, section="critic")
    assert "failed after 7 tries, the last by connection failed" in refusal(ServerError, lambda: chat(down))
    down.check()
    assert "failed after 3 tries, the last by connection failed" in refusal(ServerError, lambda: chat(down))
    none = Server("http://127.0.0.1:9/v1", retries=0, section="critic")
    none.check()
    assert "failed after 1 try, " in refusal(ServerError, lambda: chat(none))

    server = client(fake, retries=6)
    server.check()
    chat(server)  # reached
    fake.shutdown()
    fake.server_close()
    server._client = None  # its open connection would still be answered
    assert "failed after 7 tries, the last by connection failed" in refusal(ServerError, lambda: chat(server))


def test_a_server_that_fails_before_any_work_is_waited_for(fake: FakeOpenAI) -> None:
    """It is there: it may be loading its model."""
    fake.failures = {"500": 1.0}
    server = client(fake, retries=6)
    server.check()
    assert "failed after 7 tries" in refusal(ServerError, lambda: chat(server))


def test_one_failure_is_nothing_to_tell(caplog: pytest.LogCaptureFixture) -> None:
    refusal(ServerError, lambda: chat(Server("http://127.0.0.1:9/v1", retries=1, backoff=0.01)))
    assert not caplog.messages


def test_answers(fake: FakeOpenAI) -> None:
    server = client(fake)
    completion = chat(server, temperature=0)
    assert (completion.text, completion.model, completion.finish) == ('{"OUTPUT": "HELLO"}', "tiny", "stop")
    assert (completion.prompt_tokens, completion.completion_tokens) == (1, 5)
    assert server.embeddings(["a", "b", "c"], "tiny") == [vector(text, 8) for text in "abc"]
    assert server.embeddings(["a"], "tiny", dimensions=3) == [vector("a", 3)]
    assert server.embeddings([], "tiny") == []
    assert (server.budget.calls, fake.requests) == (3, 3)


@pytest.mark.parametrize("failure", [*FAILURES, *VECTOR_FAILURES])
def test_each_failure_is_tried_again_then_told(fake: FakeOpenAI, failure: str) -> None:
    fake.failures, timeout = {failure: 1.0}, 0.2 if failure == "timeout" else 20
    server = client(fake, timeout=timeout)
    calls = [lambda: server.embeddings(["a", "b"], "tiny", 8)]
    if failure in FAILURES:
        calls.append(lambda: chat(server))
    for call in calls:
        message = refusal(ServerError, call)
        assert message.startswith(f"parent.base_url={fake.url}: failed after 3 tries, the last by ")
        assert "; " in message
    assert fake.requests == 3 * len(calls)

    fake.failures = {failure: 0.4}
    server = client(fake, retries=30, timeout=timeout)
    for _ in range(5):
        assert server.embeddings(["a", "b"], "tiny") == [vector("a", 8), vector("b", 8)]
        assert chat(server).text == '{"OUTPUT": "HELLO"}'


def test_a_length_that_changes_is_a_failure(fake: FakeOpenAI) -> None:
    server = client(fake)
    server.embeddings(["a"], "tiny")
    fake.dimension = 5
    assert "a vector of 5 numbers, not 8" in refusal(ServerError, server.embeddings, ["a"], "tiny")
    fake.dimension = 1
    assert "a vector of 1 number, not 8" in refusal(ServerError, server.embeddings, ["b"], "tiny")


def test_nothing_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        server = Server(f"http://127.0.0.1:{port}/v1", retries=1, backoff=0.01, section="embedder")
        message = refusal(ServerError, chat, server)
    assert message.startswith(
        f"embedder.base_url=http://127.0.0.1:{port}/v1: failed after 2 tries, the last by connection"
    )
    assert "check embedder.base_url" in message


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_waited_for(fake: FakeOpenAI, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    outcomes = iter(["429"])
    monkeypatch.setattr(fake, "draw_failure", lambda: next(outcomes, None))
    fake.retry_after = "0.3" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
    chat(client(fake))
    first, second = fake.waits
    assert second - first >= 0.3  # a date has whole seconds: 1 to 2 of them


def test_a_very_long_retry_after_ends_the_tries(fake: FakeOpenAI) -> None:
    fake.failures, fake.retry_after = {"429": 1.0}, "3600"
    told = refusal(ServerError, chat, client(fake))
    assert told.endswith("asks to wait 3600 s; wait that long, then the same command resumes")
    assert fake.requests == 1


@pytest.mark.parametrize(
    ("section", "remedy"),
    [
        ("parent", "lower parent.concurrency or raise parent.retries"),
        ("critic", "lower critic.concurrency or raise critic.retries"),
        ("embedder", "raise embedder.retries"),
    ],
)
def test_the_remedy_for_a_rate_limit_names_keys_that_there_are(fake: FakeOpenAI, section: str, remedy: str) -> None:
    """Wrong version: embedder.concurrency, which is no key."""
    fake.failures = {"429": 1.0}
    told = refusal(ServerError, client(fake, section=section, retries=1).embeddings, ["a"], "m")
    assert f", and asks to wait 0 s; {remedy}, then" in told
    config = OmegaConf.load(conf_folder() / section / "openai.yaml")
    assert all(key in config for key in re.findall(rf"{section}\.(\w+)", remedy))


def test_a_refused_request_is_not_repeated_and_quotes_the_server(fake: FakeOpenAI) -> None:
    server = client(fake)
    message = refusal(RequestRefused, server.embeddings, ["a"], "unknown")
    assert "refused (404: The model `unknown` does not exist); check parent.model" in message
    with pytest.raises(RequestRefused) as caught:
        server.embeddings([""], "tiny", encoding_format=None)
    assert caught.value.status == 400 and caught.value.reason == "input cannot be an empty string"
    assert fake.requests == 2


@pytest.mark.parametrize("set_to", [None, KEY])
def test_a_key_that_is_not_let_in(fake: FakeOpenAI, monkeypatch: pytest.MonkeyPatch, set_to: str | None) -> None:
    fake.key = "sk-another"
    if set_to:
        monkeypatch.setenv("MY_KEY", set_to)
    message = refusal(ServerError, chat, client(fake, api_key_env="MY_KEY"))
    assert (
        f"not let in (401, {'wrong key' if set_to else 'no key given'}: Incorrect API key provided: " in message
        and "; set the environment variable MY_KEY to a key for it" in message
    )
    assert KEY not in message
    assert fake.requests == 1


def test_the_right_key_is_let_in_and_in_no_attribute_of_ours(fake: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.key = KEY
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    server = client(fake)
    assert chat(server).text
    assert KEY not in repr(vars(server))
    fake.failures = {"500": 1.0}
    with pytest.raises(ServerError) as caught:
        chat(server)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


def test_a_key_that_the_server_repeats_is_left_out(fake: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "unknown")  # the message has `unknown` in it
    assert "The model `***` does not exist" in refusal(ServerError, client(fake).embeddings, ["a"], "unknown")


def test_what_can_be_found_without_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    message = refusal(UserError, Server().check)
    assert message.startswith(
        "parent.base_url=null: api.openai.com needs a key; set the environment variable OPENAI_API_KEY"
    )
    Server("http://localhost:1/v1").check()
    monkeypatch.setenv("OPENAI_API_KEY", "sk-clé")
    assert "clé" not in refusal(UserError, Server().check)
    assert "secret" not in refusal(UserError, Server, "http://user:secret@host/v1")
    assert refusal(UserError, Server, "localhost:8000").startswith("parent.base_url=localhost:8000: not a URL")
    monkeypatch.setattr("pgsrm.models.server.find_spec", lambda _: None)
    assert "pip install 'openai>=3'" in refusal(UserError, Server("http://localhost:1/v1").check)


def test_many_threads(fake: FakeOpenAI) -> None:
    names = ("429", "500", "reset", "truncated", "cut", "html", "missing")
    fake.failures, fake.delay = dict.fromkeys(names, 0.05), 0.01
    server = client(fake, concurrency=4, retries=20, timeout=5)
    texts = [f"text {number}" for number in range(60)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda text: chat(server, text).text, texts))
    assert answers == [f'{{"OUTPUT": "{text.upper()}"}}' for text in texts]
    assert fake.most_at_once <= 4
    assert fake.requests == server.budget.calls == 60 + sum(fake.failed.values())


def test_closing_ends_the_waiting(fake: FakeOpenAI) -> None:
    fake.failures, fake.retry_after = {"429": 1.0}, "60"
    server = client(fake)
    threading.Timer(0.2, server.close).start()
    began = time.monotonic()
    assert "stopped" in refusal(ServerError, chat, server)
    assert time.monotonic() - began < 5


# Budget


def test_max_calls(fake: FakeOpenAI) -> None:
    fake.failures = {"500": 0.3}
    budget = Budget(max_calls=10)
    server = client(fake, budget=budget, retries=9)

    def ask(number: int) -> bool:
        try:
            return bool(chat(server, str(number)))
        except BudgetExceeded as error:
            assert "parent.max_calls=10: all made" in str(error)
            return False

    with ThreadPoolExecutor(8) as pool:
        answered = sum(pool.map(ask, range(20)))
    assert fake.requests == budget.calls == 10
    assert answered == 10 - sum(fake.failed.values())


def test_max_cost(fake: FakeOpenAI) -> None:
    """Calls cost 1 + 5 tokens, and are held back while those under way could cost up to 23 + 10 + overhead."""
    fake.delay = 0.01
    budget = Budget(max_cost=200e-6, input_price=1.0, output_price=1.0)
    server = client(fake, budget=budget, concurrency=4)

    def ask(number: int) -> bool:
        try:
            return bool(chat(server, "x" * 7, max_tokens=10))
        except BudgetExceeded as error:
            assert "parent.max_cost=0.0002: " in str(error)
            return False

    with ThreadPoolExecutor(8) as pool:
        answered = sum(pool.map(ask, range(60)))
    assert budget.spent is not None and budget.spent <= 200e-6
    assert answered == fake.requests > 24  # all but what one call could cost is used


def test_a_lost_answer_counts_with_the_most_it_can_cost(fake: FakeOpenAI) -> None:
    fake.failures = {"cut": 1.0}
    budget = Budget(input_price=1.0, output_price=2.0)
    refusal(ServerError, lambda: chat(client(fake, budget=budget, retries=0), max_tokens=50))
    assert budget.output_tokens == 50 and budget.input_tokens >= len("hello")
    fake.failures = {"500": 1.0}
    refusal(ServerError, lambda: chat(client(fake, budget=budget, retries=0), max_tokens=50))
    assert (budget.output_tokens, budget.calls) == (50, 2)


def test_max_cost_needs_prices() -> None:
    assert "parent.max_cost=1: can't be kept, parent.output_price is null" in refusal(
        UserError, lambda: Budget(max_cost=1, input_price=0.15)
    )


@pytest.mark.parametrize(
    ("model", "base_url", "given", "right"),
    [
        ("gpt-4o-mini", None, (None, None), (0.15, 0.60)),
        ("gpt-4o-mini", "https://api.openai.com/v1/", (None, 0.3), (0.15, 0.3)),
        ("gpt-4o", None, (None, None), (None, None)),
        ("gpt-4o-mini", "http://localhost:8000/v1", (None, None), (None, None)),
        ("gpt-4o-mini", "http://localhost:8000/v1", (0.0, 0.0), (0.0, 0.0)),
    ],
)
def test_a_list_price_is_that_of_its_model_at_its_provider(
    model: str, base_url: str | None, given: tuple[float | None, float | None], right: tuple[float | None, float | None]
) -> None:
    """Wrong version: gpt-4o, or a server of one's own, at gpt-4o-mini's prices."""
    assert prices(model, base_url, *given) == right
