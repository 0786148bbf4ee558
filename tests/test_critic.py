"""Critics: quotes, forms of a reply, and the word list."""

import json
from pathlib import Path
from typing import Any

import pytest

from pgsrm.critic import LexiconCritic
from pgsrm.critic.formats import json_schema, read_reply, write_text
from pgsrm.critic.quotes import Quote, locate
from pgsrm.rollout import Span
from pgsrm.util.errors import UserError

GOOD, BAD = "positive", "negative"


@pytest.mark.parametrize(
    ("quotes", "text", "spans", "lost"),
    [
        ([Quote("good", GOOD)], "good film, good end", [(0, 4)], 0),
        ([Quote("good", GOOD), Quote("good", GOOD)], "good film, good end", [(0, 4), (11, 15)], 0),
        ([Quote("good", GOOD, 2)], "good film, good end", [(11, 15)], 0),
        ([Quote("good", GOOD, 3)], "good film, good end", [], 1),  # wrong version: the last one there is
        ([Quote("art", GOOD)], "heart, art", [(7, 10)], 0),  # wrong version: within a longer word
        ([Quote("Good", GOOD)], "good film", [], 1),  # nothing is near enough
        ([Quote("très émouvant", GOOD)], "un film très émouvant !", [(8, 21)], 0),
        ([Quote("!", BAD)], "un film émouvant !", [(17, 18)], 0),
        ([Quote("  ", GOOD), Quote("", GOOD)], "a film", [], 2),
        ([Quote("very very", BAD, 2)], "very very very", [(5, 14)], 0),  # places overlap
    ],
)
def test_a_quote_is_a_place_to_the_letter(
    quotes: list[Quote], text: str, spans: list[tuple[int, int]], lost: int
) -> None:
    located, missing = locate(quotes, text)
    assert ([(span.start, span.end) for span in located], missing) == (spans, lost)
    assert {text[span.start : span.end] for span in located} <= {quote.text for quote in quotes}


def test_one_place_under_two_labels_is_two_spans() -> None:
    located, _ = locate([Quote("odd", GOOD), Quote("odd", BAD, 1), Quote("odd", BAD, 1)], "an odd film")
    assert located == (Span(3, 6, BAD), Span(3, 6, GOOD))


def test_both_forms_say_the_same() -> None:
    text = "a lovely, slow film"
    quotes = [Quote("lovely", GOOD, 1), Quote("slow", BAD, 1)]
    written = write_text(quotes)
    assert written == "Good: lovely\nBad: slow"
    spans = [{"quote": q.text, "occurrence": q.occurrence, "label": q.label} for q in quotes]
    for reply in (written, json.dumps({"spans": spans})):
        critique = read_reply(reply, text)
        assert (critique.outcome, critique.quotes, critique.lost) == ("parsed", 2, 0)
        assert critique.spans == (Span(2, 8, GOOD), Span(10, 14, BAD))
    assert read_reply(write_text([]), text).outcome == "clean"
    assert read_reply('{"spans": []}', text).outcome == "clean"
    assert set(json_schema()["properties"]) == {"spans"}


def marking(**changes: Any) -> str:
    """A reply in JSON whose one span is as it should be but for these."""
    span = {"quote": "lovely", "label": "positive", "occurrence": 1}
    return json.dumps({"spans": [{key: value for key, value in (span | changes).items() if value is not None}]})


@pytest.mark.parametrize(
    "reply",
    [
        *("", "I can't help with that. It is lovely.", "Good: lovely", "Bad: slow\nGood: lovely", "Good: lovely\nBad:"),
        *("Good: ;\nBad: none", "Good: lovely\nBad: ; ;"),
        *("Good: lovely\nBad: slow\nIn sum: lovely", '{"spans": [], "note": "lovely"}', "[]", "null", "\ud800"),
        *(marking(label=None), marking(quote=1), marking(label="nice"), marking(occurrence=0), marking()[:-3]),
    ],
)
def test_what_is_in_no_form_marks_nothing(reply: str) -> None:
    """Wrong version: RELC's released code, which takes a whole reply for quotes."""
    critique = read_reply(reply, "a lovely, slow film")
    assert (critique.outcome, critique.spans) == ("unparsed", ())


def test_a_quote_that_is_not_there_is_lost_and_not_clean() -> None:
    critique = read_reply("Good: wonderful; lovely\nBad: none", "a lovely film")
    assert (critique.outcome, critique.quotes, critique.lost, len(critique.spans)) == ("parsed", 2, 1, 1)
    assert read_reply("Good: wonderful\nBad: none", "a lovely film").outcome == "parsed"


def test_a_newline_of_the_response_is_a_blank_in_a_quote() -> None:
    critique = read_reply("Good: warm and lovely\nBad: none", "a warm and\nlovely film")
    assert critique.spans == (Span(2, 17, GOOD),)


def test_the_word_list_marks_whole_words_in_any_case(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("positive lovely\nnegative dull\n")
    critic = LexiconCritic(str(file))
    text = "LOVELY, not dullish; dull"
    (critique, clean) = critic(prompts=["dull", ""], responses=[text, "a film"], extrinsic=None)
    assert critique.spans == (Span(0, 6, GOOD), Span(21, 25, BAD))
    assert (critique.outcome, clean.outcome, clean.spans) == ("parsed", "clean", ())
    digest = critic.digest
    file.write_text("positive lovely\nnegative slow\n")
    assert LexiconCritic(str(file)).digest != digest


@pytest.mark.parametrize(
    ("content", "problem"), [("", "is empty"), ("positive\n", "line 1"), ("positive two words\n", "line 1")]
)
def test_a_file_that_is_no_word_list(tmp_path: Path, content: str, problem: str) -> None:
    file = tmp_path / "words.txt"
    file.write_text(content)
    with pytest.raises(UserError, match=problem):
        LexiconCritic(str(file))


def test_the_shipped_list_has_both_sides() -> None:
    labels = LexiconCritic().labels
    assert labels["wonderful"] == GOOD and labels["boring"] == BAD
    assert min(list(labels.values()).count(label) for label in (GOOD, BAD)) > 200
