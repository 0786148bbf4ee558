"""Text in one form: NFC, invisible characters, words."""

import unicodedata

import pytest

from pgsrm.util.text import has_half_character, nfc, only_word, without_invisible, words_of

CAFE_NFD = unicodedata.normalize("NFD", "café")


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("plain", "plain"),
        (CAFE_NFD, "café"),
        ("a\ud83d", "a\ufffd"),
        ("\udc80b", "\ufffdb"),
        ("\ud83d\ude00", "\U0001f600"),  # two halves that belong together
        ("ﬁ", "ﬁ"),  # NFC, not NFKC: what looks different stays different
    ],
)
def test_nfc(text: str, form: str) -> None:
    assert nfc(text) == form
    assert nfc(text).encode().decode() == form


def test_half_characters_are_seen() -> None:
    assert has_half_character("a\ud800")
    assert not has_half_character("\U0001f600é")


def test_invisible_characters_are_dropped() -> None:
    assert without_invisible("co\u00adld\u200b \u2060\ufeffé\u200d") == "cold é"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (" Don't PANIC: it\u2019s 'light-blue', 3 cafés_x\n", ["dont", "panic", "its", "light", "blue", "cafés", "x"]),
        (f"Le {CAFE_NFD}.", ["le", "café"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("น้ำ", ["น้ำ"]),
        ("co\u00adop\u200ber", ["cooper"]),
        ("❤\ufe0f love 1\u20e3", ["love"]),  # a mark without a letter is no word
        ("м\u02bcята", ["мята"]),
        ("42 %", []),
        ("\u200b", []),
    ],
)
def test_words_are_runs_of_letters_and_marks(text: str, words: list[str]) -> None:
    assert words_of(text) == words


@pytest.mark.parametrize(
    ("key", "word"),
    [
        ("Cold", "cold"),
        ("don't", "dont"),
        (CAFE_NFD, "café"),
        ("हिन्दी", "हिन्दी"),
        ("hot_dog", None),
        ("hot dog", None),
        ("cold_ADJ", None),
        ("##", None),
        ("2024", None),
        ("", None),
    ],
)
def test_only_word(key: str, word: str | None) -> None:
    assert only_word(key) == word
