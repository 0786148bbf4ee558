"""Embedders: the shipped word vectors, Numberbatch's format, the embedding rule, damaged files."""

import gzip
import json
import pickle
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pgsrm.embedder import WordVectors, auto
from pgsrm.embedder.distill import centre_and_reduce, read_lines, save, vocabulary
from pgsrm.embedder.vector_files import read_vectors
from pgsrm.embedder.word_vectors import SHIPPED
from pgsrm.util.errors import UserError
from pgsrm.util.paths import PACKAGE
from pgsrm.util.text import words_of

# Three directions of a plane; east is five times as long, to see that each word counts the same.
TOY = "3 2\neast 5 0\nnorth 0 1\nsouthwest -0.6 -0.8\n"


def toy(folder: Path, text: str = TOY, name: str = "toy.txt") -> WordVectors:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return WordVectors(str(path))


@pytest.fixture(scope="module")
def shipped() -> WordVectors:
    return WordVectors()


def cosine(embedder: WordVectors, a: str, b: str) -> float:
    first, second = embedder.embed([a, b])
    return float(first @ second)


class TestEmbed:
    def test_is_the_mean_of_the_words_unit_vectors_at_unit_length(self, tmp_path: Path) -> None:
        rows = toy(tmp_path).embed(["east", "East north", "southwest east"])
        # (-0.6, -0.8) + (1, 0) = (0.4, -0.8), whose length is sqrt(0.8)
        expected = [[1.0, 0.0], [0.5**0.5, 0.5**0.5], [0.4 / 0.8**0.5, -0.8 / 0.8**0.5]]
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows, expected, atol=5e-4)

    def test_a_word_counts_as_often_as_it_occurs(self, tmp_path: Path) -> None:
        np.testing.assert_allclose(toy(tmp_path).embed(["north north east"]), [[1 / 5**0.5, 2 / 5**0.5]], atol=5e-4)

    def test_unknown_words_do_not_count(self, tmp_path: Path) -> None:
        np.testing.assert_allclose(toy(tmp_path).embed(["north of 12 unheard-of places"]), [[0, 1]], atol=5e-4)

    @pytest.mark.parametrize("text", ["", "   ", "42 %", "unheard", "\ufffd\n"])
    def test_a_text_without_a_known_word_is_a_zero_row(self, tmp_path: Path, text: str) -> None:
        rows = toy(tmp_path).embed([text, "north"])
        assert rows[0].tolist() == [0, 0]
        assert np.linalg.norm(rows[1]) == pytest.approx(1)

    def test_a_text_embeds_the_same_in_any_batch(self, shipped: WordVectors) -> None:
        texts = ["dark red", "", "a lion is an animal", "cold"]
        alone = np.concatenate([shipped.embed([text]) for text in texts])
        np.testing.assert_array_equal(shipped.embed(texts), alone)

    def test_no_texts_no_rows(self, tmp_path: Path) -> None:
        assert toy(tmp_path).embed([]).shape == (0, 2)


class TestShipped:
    def test_is_gensims_format_in_float16_at_most_8_mb(self) -> None:
        from gensim.models import KeyedVectors

        vectors = KeyedVectors.load(str(SHIPPED))
        assert len(vectors) >= 20_000
        assert vectors.vectors.dtype == np.float16
        assert [path.name for path in SHIPPED.parent.iterdir()] == ["static.kv"]
        assert SHIPPED.stat().st_size <= 8_000_000

    def test_every_key_can_be_found(self, shipped: WordVectors) -> None:
        keys, vectors = read_vectors(SHIPPED)
        rows = shipped.embed(keys)
        np.testing.assert_allclose(rows, vectors.astype(np.float32), atol=1e-3)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)

    def test_is_centred(self) -> None:
        vectors = read_vectors(SHIPPED)[1].astype(np.float32)
        assert np.linalg.norm(vectors.mean(axis=0)) < 0.02
        shifted = np.roll(vectors, 7_001, axis=0)  # pairs of words that have nothing to do with each other
        assert abs((vectors * shifted).sum(axis=1).mean()) < 0.01

    @pytest.mark.parametrize(
        ("a", "b", "low", "high"),
        [
            ("purple", "violet", 0.4, 0.6),
            ("dog", "animal", 0.6, 0.9),
            ("hot", "cold", 0.25, 0.5),
            ("apple", "fruit", 0.3, 0.5),
            ("cold", "table", -0.1, 0.1),
            ("hammer", "fruit", -0.15, 0.1),
        ],
    )
    def test_related_words_are_near_and_others_are_not(
        self, shipped: WordVectors, a: str, b: str, low: float, high: float
    ) -> None:
        assert low < cosine(shipped, a, b) < high

    def test_knows_every_word_of_the_shipped_tasks_and_facts(self) -> None:
        data = PACKAGE / "task" / "data"
        # A reward compares with references: openings of comments have none, and of a story it is the summary.
        apart = (data / "detox.jsonl", data / "summary.jsonl")
        files = [*(path for path in data.glob("*.jsonl") if path not in apart), PACKAGE / "nano" / "facts.jsonl"]
        texts = [line for path in files for line in read_lines(path)]
        texts += [json.loads(line)["reference"] for line in apart[1].read_text(encoding="utf-8").splitlines()]
        needed = {word for text in texts for word in words_of(text)}
        assert len(files) >= 6
        assert needed - set(read_vectors(SHIPPED)[0]) == set()

    def test_names_no_place_and_no_time(self) -> None:
        assert not re.search(rb"/home|/work|/tmp|Linux|20\d\d-\d\d|endoftext", SHIPPED.read_bytes())

    def test_loads_lazily_and_imports_nothing_heavy(self) -> None:
        code = (
            "import sys; from pgsrm.embedder import WordVectors; WordVectors();"
            "print({'numpy', 'gensim', 'torch'} & set(sys.modules))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=PACKAGE.parent
        )
        assert (done.stdout, done.stderr) == ("set()\n", "")


class TestTextFormat:
    @pytest.mark.parametrize("name", ["numberbatch-en.txt", "numberbatch-en.txt.gz"])
    def test_reads_numberbatch(self, tmp_path: Path, name: str) -> None:
        text = "4 3\n##_foot 1 0 0\ncold 0.6000 0.8000 0.0000\nhot_dog 0 1 0\nhot 0.0 0.0 -1.0\n"
        embedder = toy(tmp_path, text, name)
        assert embedder.dimension == 3
        np.testing.assert_allclose(
            embedder.embed(["cold", "hot", "foot"]), [[0.6, 0.8, 0.0], [0.0, 0.0, -1.0], [0.0] * 3], atol=5e-4
        )
        assert cosine(embedder, "hot dog", "hot") == pytest.approx(1)  # a phrase's vector is no word's

    def test_of_a_multilingual_file_takes_the_english_words(self, tmp_path: Path) -> None:
        text = "3 2\n/c/de/hot 1 0\n/c/en/hot 0 1\n/c/fr/chaud 1 0\n"
        np.testing.assert_allclose(
            toy(tmp_path, text, "all.txt.gz").embed(["hot", "chaud"]), [[0, 1], [0, 0]], atol=1e-6
        )

    def test_needs_no_first_line(self, tmp_path: Path) -> None:
        np.testing.assert_allclose(
            toy(tmp_path, "hot 0 2 \ncold 3 0 \n").embed(["cold", "hot"]), [[1, 0], [0, 1]], atol=1e-6
        )

    def test_of_two_spellings_the_first_counts(self, tmp_path: Path) -> None:
        np.testing.assert_allclose(toy(tmp_path, "May 0 1\nmay 1 0\n").embed(["may"]), [[0, 1]], atol=1e-6)

    def test_agrees_with_gensims_reader(self, tmp_path: Path) -> None:
        from gensim.models import KeyedVectors

        embedder = toy(tmp_path, "2 3\nhot 0.0295 -0.0118 0.3\ncold -0.1 0.25 0.0079\n")
        reference = KeyedVectors.load_word2vec_format(str(tmp_path / "toy.txt"))
        expected = reference.vectors / np.linalg.norm(reference.vectors, axis=1, keepdims=True)
        np.testing.assert_allclose(embedder.embed(["hot", "cold"]), expected, atol=5e-4)


class TestKeys:
    """Which keys can be found, and that nothing else is."""

    @pytest.mark.parametrize("tag", ["_ADJ", "#a", "1", "/n"])
    def test_no_usable_key_is_an_error_that_shows_one(self, tmp_path: Path, tag: str) -> None:
        embedder = toy(tmp_path, f"cold{tag} 1 0\nhot{tag} 0 1\n")
        message = (
            rf"embedder\.path=.*toy\.txt: none of its 2 keys \(such as 'cold{tag}'\) is usable; keys must be words"
        )
        with pytest.raises(UserError, match=message):
            embedder.embed(["cold"])

    @pytest.mark.parametrize("text", ["", "-", "unspeakably", "northernmost", "no", "\x00", "n\u200b"])
    def test_what_is_no_key_has_no_vector(self, tmp_path: Path, text: str) -> None:
        """Also where a text is longer than every key, or empty."""
        embedder = toy(tmp_path, "north 0 1\n##ing 1 0\n_ 1 1\n")
        assert embedder.embed([text, "north"]).any(axis=1).tolist() == [False, True]

    def test_a_reward_of_over_long_and_empty_words_is_0(self, tmp_path: Path) -> None:
        from pgsrm.reward import SemanticReward

        reward = SemanticReward(toy(tmp_path))
        rewards, _ = reward(references=["north"] * 4, responses=["unspeakably", "", "n" * 99, "north"])
        assert rewards == pytest.approx([0, 0, 0, 1])

    def test_keys_may_hold_spaces(self, tmp_path: Path) -> None:
        """The numbers are counted from the right."""
        text = "5 2\nNew York 1 0\n. . . 0 1\ncatch 22 0.5 0.5\ncold 0.6 0.8\n\u00a0 1 0\n"
        np.testing.assert_allclose(toy(tmp_path, text).embed(["cold", "York"]), [[0.6, 0.8], [0, 0]], atol=5e-4)

    def test_keys_with_spaces_in_a_file_without_a_first_line(self, tmp_path: Path) -> None:
        embedder = toy(tmp_path, "catch 22 0.5 0.5\nhot dog 1.0 0.0\ncold\t0.6\t0.8\n")
        assert embedder.dimension == 2
        np.testing.assert_allclose(embedder.embed(["cold"]), [[0.6, 0.8]], atol=5e-4)

    def test_one_form_of_unicode_for_keys_and_texts(self, tmp_path: Path) -> None:
        nfd = unicodedata.normalize("NFD", "café")
        embedder = toy(tmp_path, f"{nfd} 1 0\nhôtel 0 1\nहिन्दी 0.6 0.8\n")
        rows = embedder.embed(
            ["café", nfd, "CAFÉ", unicodedata.normalize("NFD", "hôtel"), "हिन्दी", "ca\u00adfé", "cafe"]
        )
        np.testing.assert_allclose(rows, [[1, 0], [1, 0], [1, 0], [0, 1], [0.6, 0.8], [1, 0], [0, 0]], atol=5e-4)

    def test_half_a_character_in_a_response_is_no_word(self, tmp_path: Path) -> None:
        np.testing.assert_allclose(toy(tmp_path).embed(["north \ud83d", "\udc00"]), [[0, 1], [0, 0]], atol=1e-6)

    def test_a_file_in_another_encoding(self, tmp_path: Path) -> None:
        for encoding, problem in [("latin-1", "the key of line 2 is not UTF-8"), ("utf-16", "it is in UTF-16")]:
            (tmp_path / "other.txt").write_bytes("cold 1 0\ncafé 0 1\n".encode(encoding))
            with pytest.raises(UserError, match=rf"embedder\.path=.*other\.txt: {problem}; save the file as UTF-8"):
                WordVectors(str(tmp_path / "other.txt")).embed(["cold"])

    def test_a_few_damaged_keys_are_passed_over(self, tmp_path: Path) -> None:
        lines = [
            f"word{'abcdefghij'[n % 10]}{'abcdefghijklmnopqrstuvwxyz'[n // 10]} {n + 1} 1\n".encode()
            for n in range(200)
        ]
        (tmp_path / "good.txt").write_bytes(b"\xff\xfa\xb1 1 0\n".join([b"".join(lines), b"cold 0 1\n"]))
        np.testing.assert_allclose(WordVectors(str(tmp_path / "good.txt")).embed(["cold"]), [[0, 1]], atol=1e-6)


class TestNumbers:
    """Very long and very short vectors keep their direction: they have length 1 before they are float16."""

    @pytest.mark.parametrize(
        ("form", "scale"),
        [
            *product(["toy.txt"], ["e5", "e30", "e200", "e-9", "e-30", "e-200"]),
            *product(["toy.bin", "toy.kv"], ["e5", "e30", "e-9", "e-30"]),  # float32 ends there
        ],
    )
    def test_direction_is_kept(self, tmp_path: Path, form: str, scale: str) -> None:
        east, south = [float(f"3{scale}"), float(f"4{scale}")], [0.0, -float(f"7{scale}")]
        vectors, path = np.array([east, south]), tmp_path / form
        if form == "toy.txt":
            path.write_text(
                "".join(f"{word} {a!r} {b!r}\n" for word, (a, b) in zip(["ab", "cd"], vectors.tolist(), strict=True))
            )
        else:
            from gensim.models import KeyedVectors

            keyed = KeyedVectors(2)
            keyed.add_vectors(["ab", "cd"], vectors.astype(np.float32))
            keyed.save_word2vec_format(str(path), binary=True) if form == "toy.bin" else keyed.save(str(path))
        np.testing.assert_allclose(WordVectors(str(path)).embed(["ab", "cd"]), [[0.6, 0.8], [0, -1]], atol=5e-4)

    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            ("north 0,5 1,0", "'0,5' has a comma, write a decimal point"),
            ("north 0 inf", "'inf' is not a finite number"),
            ("north -NaN 1", "'-NaN' is not a finite number"),
            ("north 0 1 2", "it has 3"),
            ("north 0", "it has 1"),
            ("north 0 one", "'one' is no number"),
            ("north 1e400 1", "not a word and 2 numbers"),
            ("north 0 1_0", "not a word and 2 numbers"),
        ],
    )
    def test_what_is_wrong_with_a_line_is_said(self, tmp_path: Path, line: str, problem: str) -> None:
        for header in ("3 2\n", ""):
            with pytest.raises(UserError, match=rf"embedder\.path=.*: line {3 if header else 2} .*{problem}"):
                toy(tmp_path, f"{header}east 1 0\n{line}\nsouth 0 1\n").embed(["east"])


SAVED = [
    "whole.model",
    "parts.model",
    "vectors.kv",
    "packed.kv.gz",
    "vectors.bin",
    "packed.bin.gz",
    "unnamed",
    "fast.model",
]


class TestWhatGensimReads:
    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        from gensim.models import FastText, KeyedVectors, Word2Vec

        folder = tmp_path_factory.mktemp("gensim")
        sentences = [["hot", "cold", "warm"], ["cold", "hot"]] * 4
        model = Word2Vec(sentences, vector_size=6, min_count=1, workers=1, seed=1, epochs=1)
        model.save(str(folder / "whole.model"))
        model.save(str(folder / "parts.model"), sep_limit=0)
        model.wv.save(str(folder / "vectors.kv"))
        model.wv.save(str(folder / "packed.kv.gz"), sep_limit=0)
        for name in ("vectors.bin", "packed.bin.gz", "unnamed"):
            model.wv.save_word2vec_format(str(folder / name), binary=True)
        fast_text = FastText(sentences, vector_size=6, min_count=1, workers=1, seed=1, epochs=1, bucket=50)
        fast_text.save(str(folder / "fast.model"))
        np.savez(folder / "expected", w2v=model.wv["hot"], fast=fast_text.wv.vectors[fast_text.wv.key_to_index["hot"]])
        assert isinstance(KeyedVectors.load_word2vec_format(str(folder / "vectors.bin"), binary=True), KeyedVectors)
        return folder

    @pytest.mark.parametrize("name", SAVED)
    def test_gives_the_same_vectors(self, folder: Path, name: str) -> None:
        expected = np.load(folder / "expected.npz")["fast" if name.startswith("fast") else "w2v"]
        embedder = WordVectors(str(folder / name))
        assert embedder.dimension == 6
        np.testing.assert_allclose(embedder.embed(["Hot"])[0], expected / np.linalg.norm(expected), atol=5e-4)

    def test_arrays_beside_a_file_are_part_of_its_digest(self, folder: Path) -> None:
        digest, part = WordVectors(str(folder / "parts.model")).digest, folder / "parts.model.wv.vectors.npy"
        part.write_bytes(part.read_bytes()[:-4] + b"\0\0\0\0")
        assert WordVectors(str(folder / "parts.model")).digest != digest

    def test_fasttexts_own_model_and_archives_are_named(self, tmp_path: Path) -> None:
        for name, magic, problem in [
            ("a.bin", b"\xba\x16\x4f\x2f", "fastText's own model"),
            ("a.zip", b"PK\x03\x04", "a zip archive"),
        ]:
            (tmp_path / name).write_bytes(magic + bytes(99))
            with pytest.raises(UserError, match=rf"embedder\.path=.*{name}: this is {problem}"):
                WordVectors(str(tmp_path / name))

    def test_a_binary_file_that_is_cut_or_longer(self, folder: Path) -> None:
        whole = (folder / "vectors.bin").read_bytes()
        for content, problem in [
            (whole[:-1], "announces 3 words, 2 whole ones follow"),
            (whole + b"hot 1", "more follow"),
        ]:
            (folder / "damaged.bin").write_bytes(content)
            with pytest.raises(UserError, match=problem):
                WordVectors(str(folder / "damaged.bin")).embed(["hot"])

    def test_a_number_that_is_not_finite(self, tmp_path: Path) -> None:
        from gensim.models import KeyedVectors

        keyed = KeyedVectors(2)
        keyed.add_vectors(["hot", "cold"], np.array([[0, 1], [np.nan, 1]], dtype=np.float32))
        keyed.save(str(tmp_path / "a.kv"))
        keyed.save_word2vec_format(str(tmp_path / "a.bin"), binary=True)
        for name in ("a.kv", "a.bin"):
            with pytest.raises(UserError, match=r"embedder\.path=.*cold.*not finite"):
                WordVectors(str(tmp_path / name)).embed(["hot"])


class TestKeyedVectors:
    def test_large_ones_lie_in_two_files(self, tmp_path: Path) -> None:
        from gensim.models import KeyedVectors

        vectors = KeyedVectors(2)
        vectors.add_vectors(["hot", "cold"], np.array([[0, 2], [1, 0]], dtype=np.float32))
        vectors.save(str(tmp_path / "large.kv"), sep_limit=0)
        assert (tmp_path / "large.kv.vectors.npy").exists()
        rows = WordVectors(str(tmp_path / "large.kv")).embed(["cold", "hot"])
        np.testing.assert_allclose(rows, [[1, 0], [0, 1]], atol=1e-6)

    def test_runs_nothing_that_a_file_holds(self, tmp_path: Path) -> None:
        class Attack:
            def __reduce__(self) -> tuple[object, ...]:
                return Path.touch, (tmp_path / "ran",)

        (tmp_path / "attack.kv").write_bytes(pickle.dumps(Attack()))
        with pytest.raises(UserError, match=r"embedder\.path=.*attack\.kv: .*which word vectors have no need of"):
            WordVectors(str(tmp_path / "attack.kv")).embed(["hot"])
        assert not (tmp_path / "ran").exists()

    def test_a_damaged_one_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "cut.kv").write_bytes(SHIPPED.read_bytes()[:100_000])
        with pytest.raises(UserError, match=r"embedder\.path=.*cut\.kv: it can't be read as gensim KeyedVectors"):
            WordVectors(str(tmp_path / "cut.kv")).embed(["hot"])


class TestBadPath:
    """What can be seen in a file's first bytes is reported at once, the rest when the vectors are read."""

    def test_missing(self, tmp_path: Path) -> None:
        for path in (tmp_path / "none.kv", tmp_path / "none.txt", tmp_path):
            with pytest.raises(UserError, match=rf"embedder\.path={path}: there is no such file"):
                WordVectors(str(path))

    @pytest.mark.parametrize("text", ["", "Once upon a time\n", "word\n", "three 3\n"])
    def test_not_word_vectors(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(UserError, match=r"embedder\.path=.*toy\.txt: line 1 is neither"):
            toy(tmp_path, text)

    def test_not_keyed_vectors(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"embedder\.path=.*toy\.kv: this is no gensim KeyedVectors file"):
            toy(tmp_path, name="toy.kv")

    def test_not_gzip(self, tmp_path: Path) -> None:
        (tmp_path / "plain.txt.gz").write_text(TOY)
        with pytest.raises(UserError, match=r"embedder\.path=.*plain\.txt\.gz: it can't be read"):
            WordVectors(str(tmp_path / "plain.txt.gz"))

    @pytest.mark.parametrize("line", ["north 0", "north 0 1 2", "north 0 one", "north 0 nan", "north"])
    def test_a_bad_line_is_named_by_its_number(self, tmp_path: Path, line: str) -> None:
        with pytest.raises(UserError, match=r"embedder\.path=.*: line 3 is not a word and 2 numbers"):
            toy(tmp_path, f"2 2\neast 1 0\n{line}\n").embed(["east"])

    def test_fewer_lines_than_announced(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"line 1 announces 9 words, 1 follow"):
            toy(tmp_path, "9 2\neast 1 0\n").embed(["east"])

    def test_a_cut_download(self, tmp_path: Path) -> None:
        lines = "".join(f"word{i} {i} 1\n" for i in range(9_999))
        (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(lines.encode())[:-1_000])
        with pytest.raises(UserError, match=r"cut\.txt\.gz: it can't be read to its end"):
            WordVectors(str(tmp_path / "cut.txt.gz")).embed(["word"])

    def test_no_english(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"no word of embedder\.language=en"):
            toy(tmp_path, "/c/de/kalt 1 0\n").embed(["kalt"])


class TestDistill:
    def test_vocabulary_is_what_is_required_and_then_the_most_frequent(self) -> None:
        required = ["Zebra x"]
        corpus = ["the cat <|endoftext|> don't t the", "don't café the cat dont <|endoftext|>", "rare"]
        # "t" is a remain, "café" is beyond a-z; "don't" is how "dont" is written most often
        expected = {"zebra": "zebra", "x": "x", "the": "the", "dont": "don't", "cat": "cat"}
        assert vocabulary(required, corpus, size=5) == expected

    def test_all_required_words_are_in_however_small_the_size(self) -> None:
        assert list(vocabulary(["one two three"], ["four"], size=2)) == ["one", "two", "three"]

    def test_of_jsonl_reads_the_values(self, tmp_path: Path) -> None:
        (tmp_path / "data.jsonl").write_text('{"word": "hot", "reference": "cold", "weight": 1}\n')
        assert list(read_lines(tmp_path / "data.jsonl")) == ["hot cold"]

    def test_centres_reduces_and_brings_to_unit_length(self) -> None:
        # Four points around (10, 10, 10), far apart along x, less along y, not at all along z.
        points = np.array([[13, 10, 10], [7, 10, 10], [10, 11, 10], [10, 9, 10]], dtype=np.float32)
        reduced = centre_and_reduce(points, dimension=2)
        assert reduced.dtype == np.float16
        np.testing.assert_allclose(np.abs(reduced), [[1, 0], [1, 0], [0, 1], [0, 1]], atol=1e-3)
        np.testing.assert_allclose(reduced.sum(axis=0), [0, 0], atol=1e-3)

    def test_what_it_saves_can_be_read_and_is_the_same_each_time(self, tmp_path: Path) -> None:
        vectors = np.array([[0.6, 0.8], [1, 0]], dtype=np.float16)
        for name in ("a.kv", "b.kv"):
            save(tmp_path / name, ["hot", "cold"], vectors)
        assert (tmp_path / "a.kv").read_bytes() == (tmp_path / "b.kv").read_bytes()
        np.testing.assert_allclose(WordVectors(str(tmp_path / "a.kv")).embed(["cold", "hot"]), vectors[::-1], atol=1e-3)


class TestAuto:
    """embedder=auto: word vectors where every reference has one, else the sentence transformer."""

    @pytest.mark.parametrize(("reference", "chosen"), [("cold", "static"), ("4711", "sentence_transformer")])
    def test_has_the_identity_of_what_it_chooses(
        self, tmp_path: Path, call_cli: Callable[..., Any], reference: str, chosen: str
    ) -> None:
        (tmp_path / "d.csv").write_text(f"word,reference\nhot,{reference}\n")
        words = ("task=antonym", "task.data=d.csv", "task.holdout=0", "tracking=none", "dry_run=true")
        runs = [
            re.findall(r"antonym-pgsrm\S+-s0-(\w+)", call_cli(*words, f"embedder={name}").out)
            for name in ("auto", chosen)
        ]
        assert runs[0] == runs[1] != []

    def test_without_the_library_a_line_leads_there(
        self, tmp_path: Path, call_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(auto, "find_spec", lambda name: None)
        (tmp_path / "d.csv").write_text("word,reference\nhot,4711\n")
        line = call_cli("task=antonym", "task.data=d.csv", "task.holdout=0", "embedder=auto", "dry_run=true").error_line
        assert "embedder=auto: the reference '4711' has no word vector" in line
        assert "pip install 'pgsrm[sentence-transformers]'" in line

    def test_chooses_for_the_reward_alone(self, call_cli: Callable[..., Any]) -> None:
        line = call_cli("task=antonym", "embedder@evaluation.embedder=auto", "dry_run=true").error_line
        assert "only the reward's own embedder can be chosen so" in line

    def test_a_reference_without_a_vector_names_the_embedder_that_has_one(
        self, tmp_path: Path, call_cli: Callable[..., Any]
    ) -> None:
        (tmp_path / "d.csv").write_text("word,reference\nhot,4711\n")
        line = call_cli("task=antonym", "task.data=d.csv", "task.holdout=0", "dry_run=true").error_line
        assert "the reference '4711' has no vector" in line
        assert "embedder=sentence_transformer" in line


@pytest.mark.parametrize("value", ["static", "", "3"])
def test_a_word_is_no_embedder(call_cli: Callable[..., Any], value: str) -> None:
    result = call_cli("task=antonym", f"reward.embedder='{value}'", "dry_run=true")
    assert result.code == 2
    assert f"reward.embedder='{value}': is no embedder; choose one by embedder=" in result.error_line
