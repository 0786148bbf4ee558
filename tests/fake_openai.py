"""A server on loopback that speaks the OpenAI protocol, and misbehaves as it is told to.

with FakeOpenAI(answer=str.upper, failures={"500": 0.2}, seed=1) as server:
    Server(base_url=server.url).chat(...)

`python tests/fake_openai.py antonym --failures 0.1` serves a task's shipped references and the vectors of an embedder of this
package, for whole runs without a provider.
"""

import argparse
import hashlib
import json
import math
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

# Each can be had for both endpoints, but for the last, which are for embeddings alone.
FAILURES = (
    "timeout",  # no answer within `slow` seconds
    "429",  # with a Retry-After
    "500",
    "503",
    "reset",  # the connection, before an answer
    "truncated",  # body shorter than its Content-Length
    "cut",  # JSON that ends too early, with a Content-Length that fits
    "html",  # no JSON at all
    "missing",  # JSON without the field that counts
)
VECTOR_FAILURES = ("fewer", "more", "twice", "shorter", "nan", "null", "zeros")
MODERATION_FAILURES = ("one less", "one more", "not a number", "out of range", "no scores")


def vector(text: str, dimension: int) -> list[float]:
    """What the server answers for a text: a unit vector that depends on nothing else."""
    draw = random.Random(hashlib.sha256(text.encode()).digest())
    numbers = [draw.gauss(0, 1) for _ in range(dimension)]
    length = math.sqrt(sum(number * number for number in numbers))
    return [number / length for number in numbers]


class FakeOpenAI(ThreadingHTTPServer):
    """A context manager; `url` is the base_url.

    answer: the user's message -> what the assistant says, before it is put into {"OUTPUT": ...}. failures: name -> its share
    of the requests, drawn with `seed`. key: the only one let in, None = anyone. schema: whether response_format is known
    (otherwise 400). plain: the answer as it is, without JSON, where no schema is asked for; raw: always. delay: seconds
    that an answer takes. slow: those of a "timeout". retry_after: that of a 429. dimension: of vectors where none is asked for.
    finish: the finish_reason of every answer. intercept: (path, body) -> (status, content) in the place of the usual answer, or
    None for that one: a provider's limits and errors.
    embed: texts -> vectors, instead of `vector`. port: 0 = a free one. moderate: a text -> its scores by category.

    It counts: `requests` (all), `failed` (by name), `asked` (user messages or texts answered well), `most_at_once`.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self,
        answer: Callable[[str], str] = str.upper,
        failures: Mapping[str, float] | None = None,
        seed: int = 0,
        key: str | None = None,
        schema: bool = True,
        plain: bool = False,
        raw: bool = False,
        delay: float = 0.0,
        slow: float = 2.0,
        retry_after: str = "0.02",
        dimension: int = 8,
        embed: Callable[[Sequence[str]], Sequence[Sequence[float]]] | None = None,
        port: int = 0,
        finish: str | None = "stop",
        intercept: Callable[[str, dict[str, Any]], tuple[int, Any] | None] | None = None,
        moderate: Callable[[str], Mapping[str, float | None]] | None = None,
    ) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.embed, self.finish, self.intercept, self.moderate = embed, finish, intercept, moderate
        self.answer, self.key, self.schema, self.plain, self.raw = answer, key, schema, plain, raw
        self.delay, self.slow, self.retry_after, self.dimension = delay, slow, retry_after, dimension
        self.failures = dict(failures or {})
        assert set(self.failures) <= {*FAILURES, *VECTOR_FAILURES, *MODERATION_FAILURES}
        self.requests = 0
        self.failed: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.heads: list[dict[str, str]] = []
        self.waits: list[float] = []  # when each request came, in seconds of time.monotonic
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self._draw = random.Random(seed)
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """A client that went away is no news."""

    def draw_failure(self) -> str | None:
        with self.lock:
            point = self._draw.random()
            for name, share in self.failures.items():
                point -= share
                if point < 0:
                    self.failed[name] += 1
                    return name
            return None


class _Handler(BaseHTTPRequestHandler):
    server: FakeOpenAI
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.requests += 1
            server.bodies.append(body)
            server.heads.append({name.lower(): value for name, value in self.headers.items()})
            server.waits.append(time.monotonic())
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            time.sleep(server.delay)
            self._answer(body)
        finally:
            with server.lock:
                server.at_once -= 1

    def _answer(self, body: dict[str, Any]) -> None:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.server.key is not None and given != self.server.key:
            # As OpenAI does, which repeats a part of it; here all.
            self._error(401, f"Incorrect API key provided: {given}", "invalid_api_key")
            return
        instead = self.server.intercept(self.path, body) if self.server.intercept else None
        if instead is not None:
            status, content = instead
            is_bytes = isinstance(content, bytes)
            self._send_bytes(content if is_bytes else json.dumps(content).encode(), status=status)
            return
        endpoints = {"/v1/chat/completions": self._chat, "/v1/embeddings": self._embeddings}
        if self.server.moderate is not None:
            endpoints["/v1/moderations"] = self._moderations
        endpoint = endpoints.get(self.path)
        if endpoint is None:
            self._error(404, f"no such path: {self.path}")
            return
        if body.get("model") == "unknown":
            self._error(404, "The model `unknown` does not exist", "model_not_found")
            return
        if "response_format" in body and not self.server.schema:
            self._error(400, "response_format is not supported", "invalid_request_error")
            return
        failure = self.server.draw_failure()
        if failure is None or failure in (*VECTOR_FAILURES, *MODERATION_FAILURES):
            endpoint(body, failure)
        else:
            self._fail(failure)

    def _chat(self, body: dict[str, Any], _: str | None) -> None:
        asked = body["messages"][-1]["content"]
        text = self.server.answer(asked)
        if not self.server.raw and ("response_format" in body or not self.server.plain):
            text = json.dumps({"OUTPUT": text})
        with self.server.lock:
            self.server.asked[asked] += 1
        tokens = sum(len(message["content"].split()) for message in body["messages"])
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": self.server.finish}
        usage = {"prompt_tokens": tokens, "completion_tokens": 5, "total_tokens": tokens + 5}
        self._send({"object": "chat.completion", "model": body["model"], "choices": [choice], "usage": usage})

    def _embeddings(self, body: dict[str, Any], failure: str | None) -> None:
        texts: Sequence[str] = [body["input"]] if isinstance(body["input"], str) else body["input"]
        if not all(texts):
            self._error(400, "input cannot be an empty string", "invalid_request_error")
            return
        vectors: list[list[Any]]
        if self.server.embed is None:
            vectors = [vector(text, body.get("dimensions") or self.server.dimension) for text in texts]
        else:
            vectors = [list(map(float, each)) for each in self.server.embed(texts)]
        data = [{"object": "embedding", "index": i, "embedding": each} for i, each in enumerate(vectors)]
        if failure is None:
            with self.server.lock:
                self.server.asked.update(texts)
        else:
            _spoil(data, failure)
        tokens = sum(len(text.split()) for text in texts)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        # Servers may answer in any order; the index says which is whose.
        self._send({"object": "list", "model": body["model"], "data": data[::-1], "usage": usage})

    def _moderations(self, body: dict[str, Any], failure: str | None) -> None:
        texts: Sequence[str] = [body["input"]] if isinstance(body["input"], str) else body["input"]
        assert self.server.moderate is not None
        results: list[dict[str, Any]] = [
            {"flagged": False, "category_scores": dict(self.server.moderate(t))} for t in texts
        ]
        first = results[0]["category_scores"]
        if failure is None:
            with self.server.lock:
                self.server.asked.update(texts)
        elif failure == "one less":
            results.pop()
        elif failure == "one more":
            results.append(results[0])
        elif failure == "no scores":
            results[0]["category_scores"] = {}
        else:
            first[next(iter(first))] = math.nan if failure == "not a number" else 1.5
        self._send({"id": "modr-1", "model": body.get("model"), "results": results})

    def _fail(self, failure: str) -> None:
        if failure == "timeout":
            time.sleep(self.server.slow)
        elif failure == "429":
            self._error(429, "Rate limit reached", "rate_limit_exceeded", {"Retry-After": self.server.retry_after})
            return
        elif failure in ("500", "503"):
            self._error(int(failure), "The server had an error")
            return
        elif failure == "reset":
            # Close with a RST instead of a FIN.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        elif failure == "truncated":
            self._send_bytes(b'{"data": [], "choices": [{"mess', stated=500)
        elif failure == "cut":
            self._send_bytes(b'{"data": [{"index": 0, "embedding": [0.1, ')
            return
        elif failure == "html":
            self._send_bytes(b"<html>Bad gateway</html>", kind="text/html")
            return
        elif failure == "missing":
            self._send({"object": "list", "model": "m", "usage": {"prompt_tokens": 1}})
            return
        self.close_connection = True

    def _error(
        self, status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        self._send({"error": {"message": message, "type": "error", "code": code}}, status, headers)

    def _send(self, content: dict[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self._send_bytes(json.dumps(content).encode(), status=status, headers=headers)

    def _send_bytes(
        self,
        content: bytes,
        status: int = 200,
        stated: int | None = None,
        kind: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(stated or len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


def _spoil(data: list[dict[str, Any]], failure: str) -> None:
    first = data[0]["embedding"]
    if failure == "fewer":
        data.pop()
    elif failure == "more":
        data.append({**data[0], "index": len(data)})
    elif failure == "twice":
        data.append(data[0])
    elif failure == "shorter":
        first.pop()
    elif failure == "nan":
        first[0] = math.nan
    elif failure == "null":
        first[0] = None
    elif failure == "zeros":
        first[:] = [0.0] * len(first)


def serve(task: str, embedder: str, port: int, failures: float) -> FakeOpenAI:
    """A server, not yet started, that answers as the task's own references do and embeds with the `embedder` of conf/."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from pgsrm.parent.question import Questions
    from pgsrm.task import load_task
    from pgsrm.util.paths import conf_folder

    config: Any = OmegaConf.to_container(OmegaConf.load(conf_folder() / "task" / f"{task}.yaml"))
    references = [example.reference for example in load_task(config | {"holdout": 0}).train]
    answers = dict(zip(Questions(config).asked, references, strict=True))
    vectors = instantiate(OmegaConf.load(conf_folder() / "embedder" / f"{embedder}.yaml"))

    def embed(texts: Sequence[str]) -> list[Sequence[float]]:
        """A real server knows no text without a vector."""
        rows = vectors.embed(texts)
        return [row if row.any() else vector(text, len(row)) for row, text in zip(rows, texts, strict=True)]

    kinds = [kind for kind in (*FAILURES, *VECTOR_FAILURES) if kind != "timeout"]
    shares = dict.fromkeys(kinds, failures / len(kinds))
    return FakeOpenAI(answers.__getitem__, shares, embed=embed, port=port)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("task", help="whose references it answers with")
    parser.add_argument("--embedder", default="static", help="whose vectors it answers with")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--failures", type=float, default=0.0, help="share of the requests that fail in some way")
    args = parser.parse_args()
    server = serve(args.task, args.embedder, args.port, args.failures)
    print(server.url, flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print(f"{server.requests} requests, failed: {dict(server.failed)}")


if __name__ == "__main__":
    main()
