"""Data that is no file: a data set of the hub, by a stand-in for `datasets`, and data frames from Python."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

import pgsrm
from pgsrm.task import load_task
from pgsrm.task.hub_data import hub_objects
from pgsrm.util.errors import UserError

WORDS = [
    {"word": "hot", "reference": "cold"},
    {"word": "old", "reference": "young"},
    {"word": "big", "reference": "small"},
]
CONFIG = {"template": "The opposite of '{word}' is", "max_new_tokens": 2, "checker": None}


class Library:
    """What `datasets.load_dataset` is asked, and gives."""

    def __init__(self, content: dict[str, list[dict[str, Any]]]) -> None:
        self.content = content
        self.asked: list[tuple[str, str | None, str | None]] = []

    def load_dataset(self, path: str, name: str | None = None, split: str | None = None) -> Any:
        self.asked.append((path, name, split))
        if path == "org/missing":
            raise FileNotFoundError("Dataset 'org/missing' doesn't exist on the Hub\nor cannot be accessed")
        return self.content if split is None else self.content[split]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    made = Library({"train": WORDS, "test": WORDS[:1]})
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=made.load_dataset))
    return made


def test_a_data_set_of_the_hub_is_the_same_task_as_its_file(library: Library, tmp_path: Path) -> None:
    file = tmp_path / "words.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in WORDS))
    from_file = load_task({**CONFIG, "data": str(file)})
    assert load_task({**CONFIG, "data": "hf:org/words"}).digest == from_file.digest
    assert load_task({**CONFIG, "data": "hf:org/words:train"}).digest == from_file.digest
    assert len(load_task({**CONFIG, "data": "hf:org/words:test:small"}).train) == 1
    library.content["train[:2]"] = WORDS[:2]
    assert len(load_task({**CONFIG, "data": "hf:org/words:train[:2]"}).train) == 2
    assert library.asked == [
        ("org/words", None, None),
        ("org/words", None, "train"),
        ("org/words", "small", "test"),
        ("org/words", None, "train[:2]"),
    ]


def test_without_a_split_it_is_train_or_the_only_one(library: Library) -> None:
    library.content = {"validation": WORDS}
    assert hub_objects("hf:org/words", "task.data")[0] == (1, WORDS[0])
    library.content = {"validation": WORDS, "test": WORDS}
    with pytest.raises(UserError, match=r"has the splits validation, test; choose one by hf:org/words:validation"):
        hub_objects("hf:org/words", "task.data")


def test_what_is_wrong_with_a_data_set_is_one_line(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(data: str) -> str:
        with pytest.raises(UserError) as error:
            load_task({**CONFIG, "data": data})
        assert "\n" not in str(error.value)
        return str(error.value)

    assert refused("hf:org/missing").startswith(
        "task.data=hf:org/missing: can't be loaded (Dataset 'org/missing' doesn't exist on the Hub); check its name"
    )
    assert refused("hf:org/words:a:b:c").startswith("task.data=hf:org/words:a:b:c: write hf:ORG/NAME")
    assert refused("hf:") == "task.data=hf:: write hf:ORG/NAME, hf:ORG/NAME:split or hf:ORG/NAME:split:config"
    library.content = {"train": [{"term": "hot"}]}
    assert refused("hf:org/words").startswith("task.data=hf:org/words: line 1: no column `word`")
    library.content = {"train": []}
    assert refused("hf:org/words").startswith("task.data=hf:org/words: no rows")
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert refused("hf:org/words") == (
        "task.data=hf:org/words: needs the datasets library; pip install 'pgsrm[datasets]'"
    )


def test_a_run_trains_on_a_data_set_of_the_hub(library: Library, small: Sequence[str]) -> None:
    run = pgsrm.train("task=antonym", *small, "task.data=hf:org/words", progress=False)
    assert run.config.task.data == "hf:org/words"
    assert {row.split("'")[1] for row in run.samples["prompt"]} <= {"hot", "old", "big"}


@pytest.mark.parametrize(
    "data",
    [pd.DataFrame(WORDS), WORDS, SimpleNamespace(to_pandas=lambda: pd.DataFrame(WORDS))],
    ids=["pandas", "list", "other"],
)
def test_a_data_frame_is_the_tasks_data(data: Any, small: Sequence[str], tmp_path: Path) -> None:
    task = pgsrm.load_task("task=antonym", *small, data=data)
    assert [(e.inputs["word"], e.reference) for e in task.train] == [tuple(row.values()) for row in WORDS]
    (file,) = (tmp_path / "outputs/data").iterdir()
    assert [json.loads(line) for line in file.read_text().splitlines()] == WORDS


def test_a_run_on_a_data_frame_is_the_same_run_again(small: Sequence[str], tmp_path: Path) -> None:
    frame = pd.DataFrame(WORDS, index=[7, 8, 9]).assign(weight=[0.1, None, 1e-12])
    run = pgsrm.train("task=antonym", *small, data=frame, progress=False)
    again = pgsrm.train(pgsrm.compose("task=antonym", *small, data=frame.reset_index(drop=True)), progress=False)
    assert run.folder == again.folder
    rows = [json.loads(line) for line in Path(run.config.task.data).read_text().splitlines()]
    assert [row["weight"] for row in rows] == [0.1, None, 1e-12] and "index" not in rows[0]
    other = pgsrm.train("task=antonym", *small, data=frame[:2], progress=False)
    assert other.folder != run.folder


def test_outputs_that_cannot_be_written_are_one_line(small: Sequence[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=r"^paths\.outputs=.*/file: can't be written \(Not a directory\); name a folder"
    ):
        pgsrm.load_task("task=antonym", *small, f"paths.outputs={tmp_path / 'file'}", data=WORDS)


def test_what_is_no_table_is_refused(small: Sequence[str]) -> None:
    def refused(data: Any, *words: str) -> str:
        with pytest.raises(UserError) as error:
            pgsrm.load_task("task=antonym", *small, *words, data=data)
        return str(error.value)

    assert refused("words.csv").startswith("data: str is no table; give a pandas data frame")
    assert refused([]).startswith("data: list is no table")
    assert refused(pd.DataFrame({"word": []})) == "data: has no rows; give at least one"
    assert refused(pd.DataFrame([["a", "b"]], columns=["word", "word"])).startswith("data: can't be written as JSON (")
    assert refused(pd.DataFrame(WORDS), "task.data=x.csv").startswith("data: given twice")


def test_the_messages_of_a_chat_are_no_prompt(tmp_path: Path) -> None:
    """They became a prompt of JSON, brackets and quotes and all, without a word."""
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hot"}]
    config = {**CONFIG, "template": "{prompt}", "holdout": 0.0}
    data = tmp_path / "chat.parquet"
    pd.DataFrame([{"prompt": chat, "reference": "cold"}]).to_parquet(data)
    with pytest.raises(
        UserError, match=r"line 1: `prompt` is a list of objects, .*; put the user's message into a column"
    ):
        load_task({**config, "data": str(data)})
    data = tmp_path / "numbers.jsonl"  # what else is no text stays as JSON writes it
    data.write_text(json.dumps({"prompt": [3, 1], "chat": chat, "reference": "1 3"}) + "\n")
    assert load_task({**config, "data": str(data)}).train[0].prompt == "[3, 1]"
