"""Files of marked texts, and a critic whose errors have known rates."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from pgsrm.critic import Critique, GoldCritic, LexiconCritic
from pgsrm.critic.marked import Marked, as_line, read_marked, read_texts, runs
from pgsrm.rollout import Span
from pgsrm.util.errors import UserError
from pgsrm.util.objects import digest_of

GOOD, BAD = "positive", "negative"
TEXT = "a lovely film with a dull end and a wonderful cast of nine people"
RIGHT = (Span(2, 8, GOOD), Span(21, 25, BAD), Span(36, 45, GOOD))


def write(file: Path, *lines: Any) -> str:
    file.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return str(file)


def spans(*marks: tuple[int, int, str]) -> list[dict[str, Any]]:
    return [{"start": start, "end": end, "label": label} for start, end, label in marks]


def ask(critic: Any, *responses: str, prompt: str = "") -> list[Critique]:
    return critic(prompts=[prompt] * len(responses), responses=list(responses), extrinsic=None)


@pytest.fixture
def words(tmp_path: Path) -> LexiconCritic:
    return LexiconCritic(write(tmp_path / "words.txt", "positive lovely", "negative dull", "positive wonderful"))


def test_rates_of_zero_and_one(words: LexiconCritic) -> None:
    (plain,) = ask(GoldCritic(words), TEXT)
    assert (plain.spans, plain.outcome) == (RIGHT, "parsed")
    (flipped,) = ask(GoldCritic(words, flipped=1), TEXT)
    other = {GOOD: BAD, BAD: GOOD}
    assert flipped.spans == tuple(Span(span.start, span.end, other[span.label]) for span in RIGHT)
    (dropped,) = ask(GoldCritic(words, dropped=1), TEXT)
    assert (dropped.spans, dropped.outcome, dropped.quotes) == ((), "clean", 0)
    (shifted,) = ask(GoldCritic(words, shifted=1), TEXT)
    quotes = [TEXT[span.start : span.end] for span in shifted.spans]
    assert len(quotes) == 3 and set(quotes) <= set(TEXT.split()) - {"lovely", "dull", "wonderful"}
    assert sorted(span.label for span in shifted.spans) == [BAD, GOOD, GOOD]


def test_a_shifted_span_is_as_long_in_words_and_dropped_where_there_is_no_room(tmp_path: Path) -> None:
    line = {"response": "so very dull, it was not it", "spans": spans((3, 12, BAD))}
    critic = GoldCritic(path=write(tmp_path / "m.jsonl", line), shifted=1)
    ((span,),) = [critique.spans for critique in ask(critic, line["response"])]
    assert line["response"][span.start : span.end] in ("it was", "was not", "not it")
    line = {"response": "so very dull", "spans": spans((3, 12, BAD))}
    critic = GoldCritic(path=write(tmp_path / "m.jsonl", line), shifted=1)
    assert ask(critic, line["response"])[0].outcome == "clean"


def test_rates_are_kept_and_errors_are_the_texts_own(words: LexiconCritic) -> None:
    critic = GoldCritic(words, dropped=0.2, flipped=0.3, seed=1)
    texts = [f"{TEXT} {number}" for number in range(1000)]
    critiques = ask(critic, *texts)
    marked = [span for critique in critiques for span in critique.spans]
    wrong = sum(span not in RIGHT for span in marked)
    assert len(marked) / 3000 == pytest.approx(0.8, abs=0.03) and wrong / 3000 == pytest.approx(0.3, abs=0.03)
    assert ask(critic, *reversed(texts)) == critiques[::-1]  # wrong version: drawn in the order of the calls
    assert ask(GoldCritic(words, dropped=0.2, flipped=0.3, seed=2), *texts) != critiques
    assert ask(critic, *texts, prompt="other") != critiques


def test_other_labels_are_flipped_into_one_that_occurs(tmp_path: Path) -> None:
    line = {"response": "a b c", "spans": spans((0, 1, "insult"), (2, 3, "threat"))}
    file = write(tmp_path / "m.jsonl", line)
    assert [span.label for span in ask(GoldCritic(path=file, flipped=1), "a b c")[0].spans] == ["threat", "insult"]
    file = write(tmp_path / "m.jsonl", {"response": "a b c", "spans": spans((0, 1, "insult"))})
    with pytest.raises(UserError, match=r"critic\.flipped=1: .*no label but 'insult'"):
        GoldCritic(path=file, flipped=1)


@pytest.mark.parametrize(
    ("rates", "says"),
    [
        ({"dropped": 1.5}, r"critic\.dropped=1\.5: is no rate; give a number from 0 to 1"),
        ({"shifted": float("nan")}, r"critic\.shifted=nan: is no rate"),
        ({"dropped": 0.6, "flipped": 0.5}, r"critic\.dropped=0\.6 \+ critic\.flipped=0\.5: more than 1 together"),
    ],
)
def test_what_can_be_no_rates(rates: dict[str, float], says: str) -> None:
    with pytest.raises(UserError, match=says):
        GoldCritic(**rates)


def test_a_file_answers_about_its_texts_alone(tmp_path: Path) -> None:
    anywhere = {"response": "dull", "spans": spans((0, 4, BAD))}
    here = {"prompt": "How?", "response": "dull", "spans": []}
    critic = GoldCritic(path=write(tmp_path / "m.jsonl", anywhere, here, here))
    assert [ask(critic, "dull", prompt=prompt)[0].outcome for prompt in ("How?", "Why?", "")] == [
        "clean",
        "parsed",
        "parsed",
    ]
    with pytest.raises(UserError, match=r"critic\.path=.*m\.jsonl: has no line with the response 'Dull' to 'How\?'"):
        ask(critic, "Dull", prompt="How?")
    before = digest_of(critic)
    again = GoldCritic(path=write(tmp_path / "m.jsonl", anywhere))
    assert before is not None and digest_of(again) != before
    with pytest.raises(UserError, match="lines 1 and 2 mark one text differently"):
        GoldCritic(path=write(tmp_path / "m.jsonl", anywhere, {**anywhere, "spans": []}))
    assert GoldCritic().digest == LexiconCritic().digest


def test_what_a_critic_said_is_read_back_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl"
    texts = [
        Marked("dull, dull", "How?", Critique((Span(6, 10, BAD),), "parsed", "Bad: x; dull", 2, 1), -1.5, 1),
        Marked("nice", None, Critique((), "unparsed", "I can't."), None, 2),
        Marked("nice", "", Critique((), "clean", "", 0, 0), 2.0, 3),
    ]
    write(file, *map(as_line, texts))
    assert read_marked(file, "data") == texts
    assert ask(GoldCritic(path=str(file), dropped=1), "nice", prompt="Why?")[0].outcome == "unparsed"


def test_quotes_of_a_file_are_found_in_it(tmp_path: Path) -> None:
    quotes = [{"quote": "dull", "label": BAD, "occurrence": 2}, {"quote": "an end", "label": GOOD}]
    write(tmp_path / "m.jsonl", {"response": "dull, dull, with an\nend", "quotes": quotes})
    (text,) = read_marked(tmp_path / "m.jsonl", "data")
    assert text.critique is not None
    assert text.critique.spans == (Span(6, 10, BAD), Span(17, 23, GOOD))


def test_offsets_follow_the_text_into_its_normal_form(tmp_path: Path) -> None:
    response = unicodedata.normalize("NFD", "très émouvant, naïf")
    start = response.index("nai")
    write(tmp_path / "m.jsonl", {"response": response, "spans": spans((start, len(response), BAD))})
    (text,) = read_marked(tmp_path / "m.jsonl", "data")
    assert text.critique is not None
    (span,) = text.critique.spans
    assert text.response[span.start : span.end] == "naïf"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"response": "dull"}, "line 2: has neither `spans` nor `quotes`"),
        ({"spans": []}, "line 2: object missing required field `response`; write it as {"),
        ({"response": "dull", "spans": spans((0, 5, BAD))}, "line 2: the span from 0 to 5 is not in a response of 4"),
        ({"response": "dull", "spans": spans((2, 2, BAD))}, "line 2: the span from 2 to 2"),
        (
            {"response": "dull", "spans": [{"start": -1, "end": 2, "label": BAD}]},
            r"line 2: expected `int` >= 0 .*start",
        ),
        ({"response": "dull", "spans": [[0, 4]]}, r"line 2: expected `object`, got `array` .*spans"),
        ({"response": "dull", "spans": [{"start": 0, "end": 2, "tag": BAD}]}, "line 2: .*unknown field `tag`"),
        ({"response": "dull", "quotes": [{"quote": "Dull", "label": BAD}]}, "line 2: the quote 'Dull' is not in the"),
        ({"response": "dull", "quotes": [{"quote": "dull", "label": BAD, "occurrence": 2}]}, "line 2: .*not as often"),
        ({"response": "dull", "spans": [], "quotes": []}, "line 2: has both"),
        ({"response": "dull", "spans": [], "rating": "good"}, "line 2: expected `float.*rating"),
        ('{"response": "dull", "spans": ]}', "line 2, column 31: not valid JSON"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: Any, says: str) -> None:
    file = Path(write(tmp_path / "m.jsonl", {"response": "nice", "spans": []}, line))
    with pytest.raises(UserError, match=rf"^data=.*m\.jsonl: {says}") as error:
        read_marked(file, "data")
    assert ";" in str(error.value) and "\n" not in str(error.value)


def test_texts_of_other_files(tmp_path: Path) -> None:
    csv, txt = tmp_path / "t.csv", tmp_path / "t.txt"
    csv.write_text("prompt,response\nHow?,dull\n")
    txt.write_text("dull\n\nnice \n")
    assert [(text.prompt, text.response) for text in read_texts(csv, "data")] == [("How?", "dull")]
    assert [(text.prompt, text.response) for text in read_texts(txt, "data")] == [(None, "dull"), (None, "nice ")]
    csv.write_text("text\ndull\n")
    with pytest.raises(UserError, match=r"has no column `response` \(there are: text\)"):
        read_texts(csv, "data")
    with pytest.raises(UserError, match=r"ends in none of \.jsonl, \.csv, \.txt"):
        read_texts(tmp_path / "t.xlsx", "data")


def test_marked_characters_are_runs() -> None:
    assert runs([9, 3, 4, 5, 4, 11, 10]) == [(3, 6), (9, 12)] and runs([]) == []
