"""Text in one form, wherever it enters: data, references, vectors, a parent's answers, responses.

Unicode can write `é` as one character or as `e` and an accent. The two look the same and are not equal, so all text is
brought into one form (NFC) before it is compared, looked up or hashed.
"""

import re
import unicodedata

_ASCII_WORD = re.compile(r"[a-z]+")
_HALVES = re.compile("[\ud800-\udfff]")


def nfc(text: str) -> str:
    """The text in Unicode's form NFC; halves of characters (lone surrogates), which no file can hold, become U+FFFD."""
    if text.isascii():
        return text
    if _HALVES.search(text):  # two halves that belong together become their character
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return unicodedata.normalize("NFC", text)


def has_half_character(text: str) -> bool:
    """Whether the text holds a lone surrogate: half of a character, as a wrong escape in JSON makes one."""
    return not text.isascii() and _HALVES.search(text) is not None


def without_invisible(text: str) -> str:
    """The text without soft hyphens, zero-width and other formatting characters (Unicode's category Cf)."""
    if text.isascii():
        return text
    return "".join(character for character in text if unicodedata.category(character) != "Cf")


def plain(text: str) -> str:
    """Lower case, NFC, without apostrophes ("Don't" is "dont") and without invisible characters."""
    if text.isascii():
        return text.lower().replace("'", "")
    text = nfc(without_invisible(nfc(text)).lower())
    for apostrophe in ("'", "\u2019", "\u02bc"):
        text = text.replace(apostrophe, "")
    return text


def words_of(text: str) -> list[str]:
    """The words of a text: runs of letters and the marks on them, lower case, in NFC; no digits, no underscores.

    An apostrophe joins ("don't" is the word "dont"). Scripts that write marks as characters of their own (Devanagari, Thai,
    Arabic with vowels) keep them. A script without spaces between words gives one word per run of letters.
    """
    text = plain(text)
    if text.isascii():
        return _ASCII_WORD.findall(text)
    words: list[str] = []
    inside = False
    for character in text:
        kind = unicodedata.category(character)[0]
        if kind == "L" and not inside:
            words.append(character)
        elif inside and kind in "LM":
            words[-1] += character
        inside = kind == "L" or (inside and kind == "M")
    return words


def only_word(text: str) -> str | None:
    """The word that a text is, as `words_of` writes it; None for a text that is not one word and nothing else."""
    words = words_of(text)
    return words[0] if len(words) == 1 and words[0] == plain(text) else None
