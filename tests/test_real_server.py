"""llama.cpp's server as parent, critic and embedder: what the loopback server of the other tests can't say about a real one.

`make test-real` runs these.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pgsrm.config.compose import plan_words
from pgsrm.critic import RemoteCritic
from pgsrm.embedder import OpenAIEmbeddings
from pgsrm.models.download import PUBLISHED
from pgsrm.models.server import RequestRefused, Server, ServerError
from pgsrm.models.settings import local_files
from pgsrm.parent.question import RESPONSE_FORMAT

pytestmark = pytest.mark.real
WORDS = ("hot", "up", "old", "full", "big", "early", "happy", "light")
INSTRUCTION = 'Give the opposite of the word. Output: {"OUTPUT": "<word>"}'


class RealServer:
    """A process with llama.cpp's server; `url` ends in /v1."""

    def __init__(self, *options: str) -> None:
        self._options = options
        self.start()

    def start(self, *more: str) -> None:
        folder = local_files("smollm2")
        assert folder is not None
        file = folder / PUBLISHED["smollm2"].file
        assert file.is_file(), "python -m pgsrm.models download smollm2"
        command = [sys.executable, str(Path(__file__).parent / "real_server.py"), str(file), *self._options, *more]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        lines = iter(self._process.stdout.readline, "")
        address = next((line.strip() for line in lines if line.startswith("http")), None)
        assert address is not None, "the server did not start; `make test-real` installs xllamacpp"
        self.url = f"{address}/v1"

    @property
    def port(self) -> str:
        return self.url.rpartition(":")[2].partition("/")[0]

    def stop(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.communicate()


@pytest.fixture(scope="module")
def real() -> Iterator[RealServer]:
    server = RealServer("--embeddings")
    yield server
    server.stop()


def asked(tmp_path: Path, url: str, *more: str, words: Sequence[str] = WORDS) -> list[str]:
    """The words of a command that asks the server for opposites."""
    data = tmp_path / "words.jsonl"
    data.write_text("".join(json.dumps({"word": word}) + "\n" for word in words))
    task = ["task=antonym", f"task.data={data}", "task.curated=null", "task.holdout=0"]
    task.append(f"task.instruction='{INSTRUCTION}'")
    parent = [
        "parent=openai",
        f"parent.base_url={url}",
        "parent.model=smollm2",
        f"parent.references={tmp_path}/made.jsonl",
    ]
    return [*task, *parent, "parent.backoff=0.01", "parent.retries=1", *more]


def test_the_schema_holds_every_answer_to_its_form(real: RealServer) -> None:
    """A model of this size keeps to no form by itself; the grammar that the server makes of the schema does it."""
    client = Server(real.url)
    messages = [[{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": word}] for word in WORDS]
    held = [client.chat(m, "any", max_tokens=64, temperature=0.0, response_format=RESPONSE_FORMAT) for m in messages]
    assert all(list(json.loads(answer.text)) == ["OUTPUT"] for answer in held)
    assert {answer.finish for answer in held} == {"stop"}
    assert all(answer.prompt_tokens and answer.completion_tokens for answer in held)
    assert client.budget.calls == len(WORDS) and client.budget.input_tokens == sum(a.prompt_tokens or 0 for a in held)
    cut = client.chat(messages[0], "any", max_tokens=2, temperature=0.0, response_format=RESPONSE_FORMAT)
    assert cut.finish == "length"
    with pytest.raises(RequestRefused, match=r"refused \(400: .*exceeds the available context size"):
        client.chat([{"role": "user", "content": "hot " * 5000}], "any", max_tokens=8)


def test_references_from_the_server(real: RealServer, tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    """Wrong answers are SmolLM2's own; each is a word in the form that was asked for, and a run trains on them."""
    made = run_cli(*asked(tmp_path, real.url), module="pgsrm.parent", timeout=300)
    lines = [json.loads(line) for line in (tmp_path / "made.answers.jsonl").read_text().splitlines()]
    assert len(lines) >= len(WORDS) // 2, made.err  # the others are refused with the reason
    kept = [line["asked"] for line in lines]
    again = run_cli(*asked(tmp_path, real.url, words=kept), module="pgsrm.parent", timeout=300)
    assert again.code == 0 and f"answers: {len(kept)}, distinct " in again.out, again.err
    calls = [json.loads(line)["call"] for line in (tmp_path / "made.spending.jsonl").read_text().splitlines()]
    provenance = json.loads((tmp_path / "made.provenance.json").read_text())
    assert provenance["server"] == real.url.split("/")[2] and provenance["completion_tokens"] > 0
    assert len(set(calls)) <= 3 * len(WORDS)  # nothing was asked for again but what was refused
    plan = plan_words(*asked(tmp_path, real.url, words=kept), f"paths.outputs={tmp_path}/outputs", "tracking=none")
    assert plan.config["parent"]["references"] == str(tmp_path / "made.jsonl")


def test_a_server_that_dies_and_comes_back(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    server = RealServer()
    try:
        words = asked(tmp_path, server.url, "parent.concurrency=1", words=WORDS[:3])
        assert run_cli(*words, "parent.max_calls=1", module="pgsrm.parent").err.count("max_calls=1: all made") == 1
        server.stop()
        dead = run_cli(*words, module="pgsrm.parent")
        assert dead.code == 2 and "connection failed" in dead.err and "Traceback" not in dead.err
        server.start("--port", server.port)
        back = run_cli(*words, module="pgsrm.parent", timeout=300)
        assert "answered before (" in back.out and "Traceback" not in back.err
        assert len((tmp_path / "made.answers.jsonl").read_text().splitlines()) >= 1
    finally:
        server.stop()


def test_a_critic_behind_the_server(real: RealServer, tmp_path: Path) -> None:
    """SmolLM2 is no critic; its replies have the form that was asked for, and are paid for once."""
    texts = [" wonderful, and never dull.", " a tedious mess.", " lovely."]
    prompts = ["The film is"] * len(texts)
    words = {"model": "smollm2", "base_url": real.url, "cache": str(tmp_path / "cache"), "max_tokens": 100}
    critic = RemoteCritic(**words)
    critiques = critic(prompts=prompts, responses=texts, extrinsic=None)
    assert {critique.outcome for critique in critiques} <= {"parsed", "clean", "unparsed"}
    assert sum(critique.outcome != "unparsed" for critique in critiques) >= 2  # a long reply may be cut off
    for text, critique in zip(texts, critiques, strict=True):
        assert all(0 <= span.start < span.end <= len(text) for span in critique.spans)
    assert critic.budget.calls == len(texts) and critic.budget.input_tokens > 0
    again = RemoteCritic(**words)
    assert again(prompts=prompts, responses=texts, extrinsic=None) == critiques and again.budget.calls == 0


def test_vectors_from_the_server(
    real: RealServer, tmp_path: Path, small: Sequence[str], resume: Callable[..., None]
) -> None:
    """More texts than the server has slots, in one request; what it does not know of the options changes no vector."""
    texts = [f"{word} {number}" for word in WORDS for number in range(16)]
    embedder = OpenAIEmbeddings("smollm2", base_url=real.url, cache=str(tmp_path / "cache"))
    vectors = embedder.embed(texts)
    assert vectors.shape == (len(texts), 576)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    alone = OpenAIEmbeddings("smollm2", base_url=real.url, cache=str(tmp_path / "other"), encoding_format="base64")
    assert np.allclose(alone.embed(texts[5:6]), vectors[5:6], atol=1e-3)
    words = [*small, "task=antonym", "embedder=openai", f"embedder.base_url={real.url}", "embedder.model=smollm2"]
    plan = plan_words(*words, f"embedder.cache={tmp_path}/cache", "ppo.episodes=8")
    plan.freeze()
    resume(plan.folder)
    assert all(0 <= row["reward/mean"] <= 1 for row in plan.folder.read_metrics() if row["update"])


def test_a_server_without_embeddings_says_so(tmp_path: Path) -> None:
    server = RealServer()
    try:
        with pytest.raises(ServerError, match="does not support embeddings"):
            Server(server.url, section="embedder", retries=0).embeddings(["hot", "cold"], "smollm2")
    finally:
        server.stop()
