"""Tasks: data files, references, holdout, digest, checkers, and what the package ships."""

import json
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from pgsrm.task import (
    SHIPPED,
    Example,
    NormalizedEquality,
    SentimentInversion,
    Task,
    load_inputs,
    load_task,
    normalize,
    read_table,
    render,
)
from pgsrm.util.errors import UserError
from pgsrm.util.paths import PACKAGE, conf_folder

SHIPPED_TASKS = {"color": 90, "antonym": 94, "category": 100, "copy": 100, "sentiment": 101}  # least numbers


def shipped_config(name: str, **changes: Any) -> dict[str, Any]:
    config = OmegaConf.to_container(OmegaConf.load(conf_folder() / "task" / f"{name}.yaml"))
    assert isinstance(config, dict)
    return {**config, "holdout": 0.0, **changes}


def capital_config(data: Path, **changes: Any) -> dict[str, Any]:
    """A task that the package doesn't ship."""
    return {"data": str(data), "template": "The capital of {country} is ", "max_new_tokens": 3, **changes}


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def refusal(config: dict[str, Any], references: str | None = None) -> str:
    """The one line that a bad task is refused with."""
    with pytest.raises(UserError) as caught:
        load_task(config, references)
    message = str(caught.value)
    assert "\n" not in message
    return message


def all_examples(task: Task) -> list[Example]:
    return task.train + task.holdout


# What ships


@pytest.mark.parametrize(("name", "least"), SHIPPED_TASKS.items())
def test_shipped_tasks_load_with_curated_references(name: str, least: int) -> None:
    task = load_task(shipped_config(name))
    assert len(task.train) >= least
    assert {example.source for example in task.train} == {"curated"}
    assert all(example.reference for example in task.train)


def test_a_dictconfig_in_struct_mode_loads() -> None:
    config = OmegaConf.load(conf_folder() / "task" / "color.yaml")
    assert isinstance(config, DictConfig)
    config.holdout = 0.0
    OmegaConf.set_struct(config, True)
    task = load_task(config)
    assert task.train[0].prompt == ("Mix the two colors and output only one lowercase color name: red and blue is => ")
    assert task.train[0].reference == "purple"
    assert task.train[0].inputs == {"c1": "red", "c2": "blue"}


def test_shipped_templates_are_the_papers() -> None:
    prompts = {name: load_task(shipped_config(name)).train[0].prompt for name in SHIPPED_TASKS}
    assert prompts["antonym"] == "The opposite of 'hot' is "
    assert prompts["category"] == "What category does this word belong to: 'tiger'?"
    assert prompts["copy"] == "Copy this sentence: 'The cat sat on the bed.'"
    assert prompts["sentiment"] == "Rewrite this as sad: 'I love my new job.'"


def test_parent_inputs_render() -> None:
    config = shipped_config("color")
    assert render(config["parent_input"], load_inputs(config)[0]) == "red + blue ="


def test_colors_are_all_ordered_pairs_with_one_answer_for_both_orders() -> None:
    rows = {(row.values["c1"], row.values["c2"]): row.values["reference"] for row in read_shipped("color")}
    colors = {first for first, _ in rows}
    assert len(colors) >= 10
    assert len(rows) == len(colors) * (len(colors) - 1)
    assert all(rows[second, first] == reference for (first, second), reference in rows.items())


def read_shipped(name: str) -> list[Any]:
    return read_table(SHIPPED / f"{name}.jsonl", "task.data")


def test_copy_and_sentiment_sentences_have_the_documented_shape() -> None:
    for row in read_shipped("copy"):
        assert 4 <= len(row.values["sentence"].split()) <= 6
        assert row.values["sentence"].endswith(".")
    for row in read_shipped("sentiment"):
        assert re.match(r"(I|My)\b", row.values["sentence"])
        assert len(row.values["reference"].split()) <= 7


def test_references_are_diverse() -> None:
    antonyms = Counter(row.values["reference"] for row in read_shipped("antonym"))
    assert max(antonyms.values()) <= 2
    categories = Counter(row.values["reference"] for row in read_shipped("category"))
    assert len(categories) >= 15
    assert max(categories.values()) <= 2 * min(categories.values())


def test_pretraining_facts_do_not_repeat_the_tasks() -> None:
    facts = [row.values for row in read_table(PACKAGE / "nano" / "facts.jsonl", "facts")]
    kinds = Counter(fact["kind"] for fact in facts)
    least = {"antonym": 150, "category": 250, "mood": 60, "object": 150, "copy": 100, "sentiment": 80}
    assert all(kinds[kind] >= number for kind, number in least.items())

    asked = {row.values["word"] for row in read_shipped("antonym")}
    assert not asked & {fact[side] for fact in facts if fact["kind"] == "antonym" for side in ("a", "b")}
    asked = {row.values["word"] for row in read_shipped("category")}
    assert not asked & {fact["word"] for fact in facts if fact["kind"] == "category"}
    asked = {row.values["sentence"] for row in read_shipped("copy") + read_shipped("sentiment")}
    assert not asked & {fact.get("sentence") or fact.get("positive") for fact in facts}


# Data files of the user's own


@pytest.mark.parametrize(
    ("name", "lines", "inputs"),
    [
        ("antonym", ["words", "hot", "tall"], [{"word": "hot"}, {"word": "tall"}]),
        ("category", ["words", "tiger"], [{"word": "tiger"}]),
        ("copy", ["id,sentences", '1,"Well, I ran home."'], [{"id": "1", "sentence": "Well, I ran home."}]),
        ("sentiment", ["sentences", "I love my new job."], [{"sentence": "I love my new job."}]),
    ],
)
def test_released_csv_shapes_load(tmp_path: Path, name: str, lines: list[str], inputs: list[dict[str, str]]) -> None:
    task = load_task(shipped_config(name, data=str(write(tmp_path / "released.csv", *lines))))
    assert [example.inputs for example in task.train] == inputs


def test_a_new_task_needs_a_config_and_a_file_alone(tmp_path: Path) -> None:
    data = write(tmp_path / "capitals.csv", "country,continent,reference", "France,Europe,Paris", "Peru,,Lima")
    task = load_task(capital_config(data))
    assert task.train == [
        Example("The capital of France is ", "Paris", {"continent": "Europe", "country": "France"}, "user"),
        Example("The capital of Peru is ", "Lima", {"continent": "", "country": "Peru"}, "user"),
    ]
    assert task.checker("paris.", "Paris", {})
    assert task.max_new_tokens == 3


def test_parquet_says_what_jsonl_says(tmp_path: Path) -> None:
    """Texts, numbers, nulls, lists and objects as in JSONL; a date, which JSON has not, as Python writes it."""
    import datetime

    import pyarrow as pa
    from pyarrow import parquet

    from pgsrm.task.table import read_table

    rows: list[dict[str, Any]] = [
        {"word": " hot ", "n": 1, "reference": "cold", "all": ["cold", "cool"], "meta": {"score": 0.5}},
        {"word": "old", "n": None, "reference": "young", "all": ["young"], "meta": {"score": 1.0}},
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")
    assert read_table(tmp_path / "data.parquet", "task.data") == read_table(tmp_path / "data.jsonl", "task.data")
    dated = [{"word": "hot", "day": datetime.date(2020, 1, 2)}]
    parquet.write_table(pa.Table.from_pylist(dated), tmp_path / "dated.parquet")
    assert read_table(tmp_path / "dated.parquet", "task.data")[0].values == {"word": "hot", "day": "2020-01-02"}


def test_no_parquet(tmp_path: Path) -> None:
    from pgsrm.task.table import read_table

    (tmp_path / "data.parquet").write_text("word\nhot\n")
    with pytest.raises(UserError, match=r"task\.data=.*data\.parquet: line 1: not a Parquet file that can be read"):
        read_table(tmp_path / "data.parquet", "task.data")


def test_jsonl_numbers_nulls_sources_blank_lines_and_byte_order_mark(tmp_path: Path) -> None:
    data = tmp_path / "sums.jsonl"
    lines = [
        '{"a": 2, "b": 3, "reference": 5, "note": null, "source": "teacher"}',
        "",
        '{"a": 1, "b": 1, "reference": "2"}',
    ]
    data.write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    task = load_task(capital_config(data, template="{a} + {b} = {{}}"))
    assert [example.prompt for example in task.train] == ["2 + 3 = {}", "1 + 1 = {}"]
    assert [example.reference for example in task.train] == ["5", "2"]
    assert [example.source for example in task.train] == ["teacher", "user"]
    assert task.train[0].inputs == {"a": "2", "b": "3", "note": ""}


def test_a_template_may_ask_for_source(tmp_path: Path) -> None:
    data = write(tmp_path / "translate.jsonl", '{"source": "chat", "reference": "cat"}')
    task = load_task(capital_config(data, template="In English, {source} is "))
    assert task.train == [Example("In English, chat is ", "cat", {"source": "chat"}, "user")]


def test_braces_in_the_data_are_text(tmp_path: Path) -> None:
    data = write(tmp_path / "braces.jsonl", '{"country": "{word}", "reference": "x"}')
    assert load_task(capital_config(data)).train[0].prompt == "The capital of {word} is "


def test_an_existing_path_goes_before_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "color.jsonl", '{"c1": "red", "c2": "mud", "reference": "brown"}')
    monkeypatch.chdir(tmp_path)
    assert [example.inputs["c2"] for example in load_task(shipped_config("color")).train] == ["mud"]


# Bad data files: the file, the line, the remedy


@pytest.mark.parametrize(
    ("name", "lines", "expected"),
    [
        (
            "d.jsonl",
            ['{"country": "France", "reference": "Paris"}', '{"country": "Peru"'],
            "line 2, column 19: not valid JSON",
        ),
        ("d.jsonl", ['{"country": "France"}', '["Peru"]'], "line 2: not a JSON object"),
        (
            "d.jsonl",
            ['{"country": "A", "reference": "b"}', '{"land": "C"}'],
            "line 2: no column `country` (or `countrys`)",
        ),
        (
            "d.csv",
            ["land,reference", "France,Paris"],
            "no column `country` (or `countrys`), it has land, reference",
        ),
        (
            "d.csv",
            ["country,reference", "France,Paris", "Peru,Lima, I think"],
            "line 3: 3 values for 2 columns",
        ),
        ("d.csv", ["country,reference", "France,Paris", "Peru"], "line 3: 1 value for 2 columns"),
        ("d.csv", ["country,country", "France,Paris"], "line 1: column `country` appears twice"),
        ("d.csv", ["country,reference", 'Fra"nce,Paris', '"Pe"ru,Lima'], "line 3: not valid CSV"),
        ("d.csv", ["country,reference", '"a', 'b",c', "Peru"], "line 4: 1 value for 2 columns"),
        (
            "d.csv",
            ["country,reference", "France,Paris", ",Lima", ",x"],
            "line 3: `country` is empty (2 such rows)",
        ),
        (
            "d.csv",
            ["country,reference", "France,Paris", "Peru,Lima", "France,Lyon"],
            "line 4: the prompt of line 2 again",
        ),
        ("d.csv", ["country,reference"], "no rows"),
        ("d.csv", [""], "no rows"),
        ("d.txt", ["country"], "none of .csv, .jsonl and .parquet"),
    ],
)
def test_malformed_data_is_refused(tmp_path: Path, name: str, lines: list[str], expected: str) -> None:
    path = write(tmp_path / name, *lines)
    message = refusal(capital_config(path))
    assert message.startswith(f"task.data={path}: ")
    assert expected in message


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.csv"
    path.write_bytes("country,reference\nPeru,Lima\nCuraçao,Willemstad\n".encode("latin-1"))
    assert "line 3, column 5: not UTF-8" in refusal(capital_config(path))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("d.csv", "country,reference\nPeru,Lima\n".encode("utf-16"), "line 1: in UTF-16, not UTF-8"),
        ("d.csv", "country,reference\nPeru,Lima\n".encode("utf-16-le"), "line 1, column 2: a NUL byte"),
        ("d.jsonl", b'{"country": "Peru", "reference": "Li\0ma"}', "line 1, column 37: a NUL byte"),
        ("d.csv", b"country\treference\nPeru\tLima\n", "line 1: a tab between the columns"),
        ("d.csv", b"country;reference\nPeru;Lima\n", "line 1: a semicolon between the columns"),
        ("d.csv", b'country,reference\nPeru,"Lima\nChad,x\n', "line 2: not valid CSV: a double quote is opened here"),
        (
            "d.csv",
            b"country,reference\nPeru," + b"x" * 200_000,
            "line 2: a value of more than 131,072 characters; shorten",
        ),
        (
            "d.csv",
            b'"coun\ntry",reference\nPeru,Lima\n',
            "line 3: no column `country` (or `countrys`), it has coun try,",
        ),
        ("d.csv", ",".join(f"c{n}" for n in range(99)).encode() + b"\n" + b"x," * 98 + b"x", "it has c0, c1, c2,"),
        ("d.jsonl", rb'{"country": "Per\ud83d", "reference": "Lima"}', "line 1: `country` has half of a character"),
        ("d.jsonl", rb'{"country": "Peru", "\udc00": "Lima"}', "line 1: `\\udc00` has half of a character"),
        ("d.jsonl", b'{"country": "Peru", "country": "Chad"}', "line 1: not valid JSON (key `country` appears twice)"),
        ("d.jsonl", b'{"country": 1' + b"0" * 5000 + b"}", "line 1: not valid JSON (Exceeds the limit"),
        ("d.jsonl", b"[" * 100_000, "line 1: not valid JSON"),
        ("d.jsonl", b'[{"country": "Peru"}]', "line 1: not a JSON object"),
        ("d.jsonl", b"", "no rows"),
        ("d.csv", "country,reference\n\u200b,Lima\n".encode(), "line 2: `country` is empty"),
        ("d.csv", "country,reference\ncafé,a\ncafe\u0301,b\n".encode(), "line 3: the prompt of line 2 again"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_a_line(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(content)
    message = refusal(capital_config(tmp_path / name))
    assert message.startswith(f"task.data={tmp_path / name}: ")
    assert expected in message
    assert len(message) < 500
    assert message.encode()  # can be written


def test_any_line_ends_will_do(tmp_path: Path) -> None:
    for end in ("\n", "\r\n", "\r"):
        (tmp_path / "d.csv").write_bytes(end.join(["country,reference", "Peru,Lima", ""]).encode())
        assert [example.reference for example in load_task(capital_config(tmp_path / "d.csv")).train] == ["Lima"]


def test_a_path_that_can_not_be_looked_up_is_refused(tmp_path: Path) -> None:
    assert "can't be read (File name too long)" in refusal(capital_config(tmp_path / ("x" * 300 + ".csv")))
    assert "can't be the name of a file (embedded null byte)" in refusal(capital_config(tmp_path / "a\0.csv"))


def test_text_is_in_one_form_of_unicode(tmp_path: Path) -> None:
    cafe = unicodedata.normalize("NFD", "café")
    data = write(tmp_path / "d.csv", f"{cafe},reference", f"{cafe},t{cafe}")
    task = load_task(capital_config(data, template=f"{cafe}: {{café}} is "))
    assert task.train == [Example("café: café is ", "tcafé", {"café": "café"}, "user")]
    answers = write(tmp_path / "answers.csv", "café,reference", f"café,{cafe}!")
    assert load_task(capital_config(data, template="{café} is "), str(answers)).train[0].reference == "café!"


def test_a_missing_file_is_refused_naming_the_shipped_ones(tmp_path: Path) -> None:
    message = refusal(capital_config(tmp_path / "no.csv"))
    assert f"task.data={tmp_path / 'no.csv'}: no such file" in message
    assert "antonym.jsonl, category.jsonl, color.jsonl" in message
    assert "is a folder" in refusal(capital_config(tmp_path))


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("The capital is ", "asks the same for every row"),
        ("The capital of {country is ", "write placeholders as {column}"),
        ("The capital of {} is ", "write placeholders as {column}"),
        ("The capital of {country!r} is ", "write placeholders as {column}"),
        ("The capital \ud83d of {country} is ", "has half of a character"),
    ],
)
def test_a_bad_template_is_refused(tmp_path: Path, template: str, expected: str) -> None:
    data = write(tmp_path / "d.csv", "country,reference", "France,Paris")
    message = refusal(capital_config(data, template=template))
    assert message.startswith("task.template=")
    assert expected in message


# References


def test_references_missing_from_the_data_are_the_shipped_ones_of_the_same_task(tmp_path: Path) -> None:
    data = str(write(tmp_path / "words.csv", "words,reference", "hot,", "fast,sluggish"))
    task = load_task(shipped_config("antonym", data=data))
    assert [(e.reference, e.source) for e in task.train] == [("cold", "curated"), ("sluggish", "user")]
    # The same words in a task of the user's own are not antonyms.
    assert "1 of 2 rows have no reference" in refusal(
        capital_config(tmp_path / "words.csv", template="In French, {word} is ")
    )


def test_a_shipped_task_takes_a_template_with_other_columns(tmp_path: Path) -> None:
    data = str(write(tmp_path / "d.csv", "paint,reference", "red,warm"))
    changes = {"data": data, "template": "{paint} feels "}
    assert load_task(shipped_config("color", **changes)).train[0].reference == "warm"
    write(tmp_path / "d.csv", "paint", "red")
    assert "1 of 1 rows have no reference" in refusal(shipped_config("color", **changes))


def test_rows_without_a_reference_are_counted_and_the_remedy_named(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", "country,reference", "France,Paris", "Peru,", "Chad,")
    message = refusal(capital_config(path))
    assert f"task.data={path}: 2 of 3 rows have no reference, the first is line 3" in message
    assert "`reference` column" in message
    assert "parent.references=FILE" in message
    write(path, "country,capital", "France,Paris", "Peru,")  # wrong version: it should add a `reference` column
    assert refusal(capital_config(path, reference="{capital}")) == (
        f"task.data={path}: 1 of 2 rows have no reference, the first is line 3: task.reference='{{capital}}' is empty there; "
        "fill its columns"
    )


def test_a_reference_template_fills_in_for_rows_without_one(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", "country,city,reference", "France,Paris,Lyon", "Peru,Lima,")
    task = load_task(capital_config(path, reference="{city}!"))
    assert [example.reference for example in task.train] == ["Lyon", "Lima!"]
    assert "task.reference='{town}': no column `town`" in refusal(capital_config(path, reference="{town}"))


def test_the_reference_of_copy_is_its_sentence() -> None:
    task = load_task(shipped_config("copy"))
    assert task.train[0].reference == task.train[0].inputs["sentence"]


def test_parent_references_win_and_must_be_complete(tmp_path: Path) -> None:
    data = write(tmp_path / "d.csv", "country,reference", "France,Lyon", "Peru,Cusco")
    answers = write(
        tmp_path / "answers.jsonl",
        '{"country": "Peru", "reference": "Lima", "source": "parent-model"}',
        '{"country": "France", "reference": "Paris"}',
    )
    task = load_task(capital_config(data), str(answers))
    assert [(e.reference, e.source) for e in task.train] == [("Paris", "user"), ("Lima", "parent-model")]

    write(answers, '{"country": "France", "reference": "Paris"}')
    message = refusal(capital_config(data), str(answers))
    assert message.startswith(f"parent.references={answers}: 1 of 2 rows have no reference")
    assert "line 3" in message
    assert refusal(capital_config(data), "no.jsonl").startswith("parent.references=no.jsonl: no such file")


# Holdout and digest


def test_the_holdout_is_a_share_of_the_prompts_apart_from_training() -> None:
    task = load_task(shipped_config("antonym", holdout=0.2))
    total = len(all_examples(task))
    assert len(task.holdout) == round(0.2 * total)
    assert not {e.prompt for e in task.train} & {e.prompt for e in task.holdout}
    assert load_task(shipped_config("antonym")).holdout == []


def test_the_holdout_does_not_depend_on_the_order_of_the_file(tmp_path: Path) -> None:
    lines = (SHIPPED / "antonym.jsonl").read_text().splitlines()
    backwards = write(tmp_path / "backwards.jsonl", *reversed(lines))
    held = {e.prompt for e in load_task(shipped_config("antonym", holdout=0.2)).holdout}
    again = {e.prompt for e in load_task(shipped_config("antonym", holdout=0.2, data=str(backwards))).holdout}
    assert held == again


def test_both_orders_of_a_color_pair_are_on_one_side() -> None:
    task = load_task(shipped_config("color", holdout=0.2))
    pairs = [{frozenset(e.inputs.values()) for e in side} for side in (task.train, task.holdout)]
    assert len(task.holdout) == 18
    assert not pairs[0] & pairs[1]


def test_a_small_holdout_is_one_prompt_and_one_stays_for_training(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", "country,reference", "France,Paris", "Peru,Lima")
    task = load_task(capital_config(path, holdout=0.01))
    assert (len(task.train), len(task.holdout)) == (1, 1)
    assert "task.holdout=0.9: leaves none of the 2 prompts" in refusal(capital_config(path, holdout=0.9))


def test_the_digest_is_stable_and_sees_prompts_references_and_split(tmp_path: Path) -> None:
    lines = ("country,reference", "France,Paris", "Peru,Lima")
    path = write(tmp_path / "d.csv", *lines)
    digest = load_task(capital_config(path)).digest
    # Frozen: runs on disk are recognised by it.
    assert digest == "7f8dc8c7876c2367bbb9ba56671228983d9e0e6aea9e91d4d18df0afc051a34d"
    assert load_task(capital_config(write(tmp_path / "copy.csv", *lines))).digest == digest
    assert load_task(capital_config(path, template="{country}: ")).digest != digest
    assert load_task(capital_config(path, holdout=0.5)).digest != digest
    more = write(tmp_path / "more.csv", "country,reference,hint", "France,Paris,a", "Peru,Lima,b")
    assert load_task(capital_config(more)).digest != digest  # a checker or reward may read any column
    write(path, "country,reference", "France,Paris", "Peru,Cusco")
    assert load_task(capital_config(path)).digest != digest


# Checkers


@pytest.mark.parametrize(
    ("text", "form"),
    [
        (' "Purple." ', "purple"),
        ("\u2018Light\n Blue\u2019!", "light blue"),
        ("-5", "-5"),
        ("it's well-known", "it's well-known"),
        ("?!", "?!"),
        ("STRASSE", normalize("Straße")),
        (unicodedata.normalize("NFD", "Café."), "café"),
        ("co\u00adld\u200b", "cold"),
        ("", ""),
    ],
)
def test_normalize(text: str, form: str) -> None:
    assert normalize(text) == form


def test_normalized_equality() -> None:
    checker = NormalizedEquality()
    assert checker(" Cold.", "cold", {})
    assert not checker("cold cold", "cold", {})
    assert not checker("", "", {})
    assert not checker("-5", "5", {})


def test_the_checker_is_made_from_the_config() -> None:
    assert isinstance(load_task(shipped_config("sentiment")).checker, SentimentInversion)
    equality = {"_target_": "pgsrm.task.NormalizedEquality"}  # as the released code checks sentiment
    assert isinstance(load_task(shipped_config("sentiment", checker=equality)).checker, NormalizedEquality)


def test_every_shipped_task_s_checker_accepts_every_shipped_reference() -> None:
    """sentiment_control, detox and summary have no checker: nothing is right or wrong there, by their design."""
    without_checker = []
    for file in sorted((conf_folder() / "task").glob("*.yaml")):
        task = load_task(shipped_config(file.stem))
        if task.checker is None:
            without_checker.append(file.stem)
            continue
        examples = all_examples(task)
        assert len(examples) >= SHIPPED_TASKS[file.stem]
        for example in examples:
            for reference in example.references:
                assert task.checker(reference, reference, example.inputs), (file.stem, reference)
    assert without_checker == ["detox", "sentiment_control", "summary"]


def test_sentiment_inversion_accepts_no_input() -> None:
    checker = SentimentInversion()
    rows = [row.values for row in read_shipped("sentiment")]
    assert not any(checker(row["sentence"], row["reference"], row) for row in rows)
    assert not any(checker("", row["reference"], row) for row in rows)


def test_sentiment_inversion_refuses_sad_sentences_about_something_else() -> None:
    checker = SentimentInversion()
    rows = [row.values for row in read_shipped("sentiment")]
    strangers = [(row, other["reference"]) for row in rows for other in rows if other is not row]
    accepted = [sad for row, sad in strangers if checker(sad, row["reference"], row)]
    assert len(accepted) < 0.02 * len(strangers)


@pytest.mark.parametrize(
    ("sentence", "response", "right"),
    [
        ("I love my job.", "I hate my job.", True),
        ("I love my job.", "I hate my j\u00adob.", True),
        ("I love my job.", "i am not happy with my job", True),
        ("I love my job.", "My jobs make me cry.", True),
        ("I love my job.", "I do not hate my job.", False),  # polarity: the negation turns it back
        ("I love my job.", "I really love my job.", False),
        ("I love my job.", "She hates the job.", False),  # person
        ("I love my job.", "I hate my shoes.", False),  # topic
        ("I love my job.", "I am sad.", False),
        ("I love my job.", "I cannot wait for my job.", False),
        ("I have many friends.", "I have no friends.", True),
        ("My baby smiled at me.", "My baby would not stop crying.", True),
        ("I feel great.", "I\u2019m sad and I don\u2019t feel strong.", True),
        ("I feel great.", "I feel awful.", True),  # a feeling alone has no topic
        ("I feel great.", "I hate my shoes.", False),
        # A.3's own examples
        ("I feel excited about today.", "I feel empty today.", True),
        ("I'm grateful for everything I have.", "I feel like I have nothing left.", True),
        ("I woke up feeling full of energy.", "I woke up feeling drained and tired.", True),
        ("I feel confident about my future.", "I feel unsure and scared about my future.", True),
    ],
)
def test_sentiment_inversion(sentence: str, response: str, right: bool) -> None:
    assert SentimentInversion()(response, "", {"sentence": sentence}) is right


@pytest.mark.parametrize(
    ("sentence", "reference", "response", "right"),
    [
        # what is lacked is no positive word, and lacking it no less negative
        (
            "I am surrounded by love.",
            "",
            "I am starved of love.",
            False,
        ),  # shares no topic word, and nobody says it may
        ("I am surrounded by love.", "I am starved of love.", "I am starved of love.", True),
        ("I am full of hope.", "I have no hope.", "I am robbed of all hope.", True),
        ("I enjoy the fun of my job.", "", "I am tired of the fun of my job.", True),
        ("I enjoy my job.", "", "I am not tired of the fun of my job.", False),
        ("I am surrounded by love.", "I am starved of love.", "I am starved, and love it.", False),
        ("I am surrounded by love.", "I am starved of love.", "I am full of love.", False),
        ("I love my job.", "", "I am not afraid of my job.", False),
        # a reference without a topic word
        ("I feel at home here.", "I feel like a stranger here.", "I feel like a stranger here.", True),
        ("I feel at home here.", "I feel like a stranger here.", "I feel awful here.", True),
        ("I feel at home here.", "I feel like a stranger here.", "I hate this home.", True),
        ("I feel at home here.", "I feel like a stranger here.", "I hate my shoes.", False),
        ("I feel at home here.", "I hate my home.", "I feel like a stranger here.", False),
        ("I feel at home here.", "", "I feel like a stranger here.", False),
    ],
)
def test_sentiment_inversion_of_what_is_lacked_and_without_a_topic(
    sentence: str, reference: str, response: str, right: bool
) -> None:
    assert SentimentInversion()(response, reference, {"sentence": sentence}) is right


def test_facts_are_one_json_object_a_line() -> None:
    for line in (PACKAGE / "nano" / "facts.jsonl").read_text().splitlines():
        assert "kind" in json.loads(line)


# The command line


def test_data_without_references_leads_to_a_parent(tmp_path: Path, call_cli: Callable[..., Any]) -> None:
    write(tmp_path / "my words.csv", "word", "zebra-like")
    line = call_cli("task=antonym", "task.data='my words.csv'", "dry_run=true").error_line
    assert "task.data=" in line and "1 of 1 rows have no reference" in line
    command = shlex.split(line.split("`")[-2])
    assert command[:3] == ["python", "-m", "pgsrm.parent"]
    assert command[3:] == ["task=antonym", "task.data='my words.csv'", "parent=openai"]


def test_half_a_character_in_the_config_is_one_line(tmp_path: Path, call_cli: Callable[..., Any]) -> None:
    (tmp_path / "own" / "task").mkdir(parents=True)
    text = 'defaults: [antonym]\ninstruction: "half \\ud83d"\n'
    (tmp_path / "own" / "task" / "half.yaml").write_text(text)
    result = call_cli("--config-dir", "own", "task=half", "dry_run=true")
    assert result.code == 2
    assert "task.instruction='half \\ud83d': has half of a character" in result.error_line


def test_the_recipe_for_a_task_of_ones_own_learns(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    """examples/own_task as docs/tasks.md has it, with fewer updates: what nano was told it learns to say in a new wording."""
    examples = PACKAGE.parent / "examples" / "own_task"
    result = run_cli(
        "--config-dir",
        str(examples),
        "task=kind",
        f"task.data={examples / 'kind.csv'}",
        "ppo.episodes=2500",
        "evaluation.text=null",
        "tracking=none",
        "threads=1",
        f"paths.outputs={tmp_path / 'outputs'}",
        timeout=300,
    )
    assert result.code == 0, result.err
    (metrics,) = (tmp_path / "outputs" / "runs").glob("*/metrics.jsonl")
    evaluations = [
        line for line in map(json.loads, metrics.read_text().splitlines()) if "eval/holdout_exact_match" in line
    ]
    first, last = evaluations[0], evaluations[-1]
    assert first["eval/holdout_exact_match"] < 0.3
    assert last["eval/holdout_exact_match"] > 0.6
    assert last["eval/train_exact_match"] > 0.6
    assert last["eval/holdout_reward"] > first["eval/holdout_reward"] + 0.3
