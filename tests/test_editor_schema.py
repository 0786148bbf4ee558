"""The JSON schemas for editors: they take every shipped file, and refuse what a run refuses."""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from omegaconf import OmegaConf

from pgsrm.config.__main__ import main
from pgsrm.config.editor_schema import GROUPS, group_schemas
from pgsrm.util.paths import conf_folder

SCHEMAS = group_schemas()
FILES = [path for group in GROUPS for path in sorted((conf_folder() / group).glob("*.yaml"))]
SHORTHANDS = ("fidelity", "ablation", "baseline")  # groups of whole sections
FILES += [path for group in SHORTHANDS for path in (conf_folder() / group).glob("*.yaml")]
FILES += (ROOT / "examples").glob("*/*/*.yaml")
TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": int | float,
    "null": type(None),
}
SILENT = {"$schema", "title", "description", "default", "definitions", "properties", "required"}


def takes(schema: Mapping[str, Any], value: Any, root: Mapping[str, Any]) -> bool:
    """Whether a value is valid: JSON Schema, draft 7, as far as these schemas use it; another keyword is a KeyError."""
    if "$ref" in schema:
        return takes(root["definitions"][schema["$ref"].removeprefix("#/definitions/")], value, root)
    is_text, is_number = isinstance(value, str), isinstance(value, int | float) and not isinstance(value, bool)
    names, items = (value if isinstance(value, dict) else {}), (value if isinstance(value, list) else [])
    known = schema.get("properties", {})
    rules = {
        "type": lambda kind: isinstance(value, TYPES[kind]) and (kind == "boolean") == isinstance(value, bool),
        "enum": lambda options: value in options,
        "anyOf": lambda members: any(takes(member, value, root) for member in members),
        "pattern": lambda pattern: not is_text or re.search(pattern, value) is not None,
        "minLength": lambda least: not is_text or len(value) >= least,
        "minimum": lambda bound: not is_number or value >= bound,
        "maximum": lambda bound: not is_number or value <= bound,
        "exclusiveMinimum": lambda bound: not is_number or value > bound,
        "exclusiveMaximum": lambda bound: not is_number or value < bound,
        "items": lambda inner: all(takes(inner, item, root) for item in items),
        "additionalProperties": lambda inner: all(
            inner is not False and (inner is True or takes(inner, item, root))
            for name, item in names.items()
            if name not in known
        ),
    }
    inside = all(takes(known[name], item, root) for name, item in names.items() if name in known)
    return inside and all(rules[key](rule) for key, rule in schema.items() if key not in SILENT)


def valid(group: str, content: Any) -> bool:
    return takes(SCHEMAS[group], content, SCHEMAS[group])


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_shipped_file_is_valid(path: Path) -> None:
    group = path.parent.name if path.parent.name in GROUPS else "experiment"  # its files are whole sections too
    assert valid(group, OmegaConf.to_container(OmegaConf.load(path), resolve=False))


def test_every_group_that_a_user_writes_files_for_has_a_schema() -> None:
    folders = {path.name for path in conf_folder().iterdir() if path.is_dir()}
    assert folders - {"hydra", *SHORTHANDS} == set(GROUPS) == set(SCHEMAS)


@pytest.mark.parametrize(
    ("group", "content"),
    [
        ("task", {"data": "mine.csv"}),  # the rest may come from defaults
        ("task", {"defaults": ["color", "_self_"], "holdout": "${mine}"}),
        ("task", {"holdout": "???", "skip": ["empty"], "min_new_tokens": None}),
        ("ppo", {"actor_lr": 1e-5, "epochs": 2}),
        ("experiment", {"defaults": [{"override /task": "color"}], "ppo": {"batch_size": 8}, "hydra": {"sweeper": {}}}),
        ("model", {"model": {"path": "mine"}, "ppo": {"actor_lr": "${oc.select:task.nano.actor_lr,1e-5}"}}),
        ("reward", {"_target_": "my_rewards.brevity", "_partial_": True, "weight": 0.01}),
    ],
)
def test_what_a_user_may_write(group: str, content: Any) -> None:
    assert valid(group, content)


@pytest.mark.parametrize(
    ("group", "content"),
    [
        ("task", {"templte": "{word}: "}),
        ("task", {"holdout": 1}),
        ("task", {"holdout": "much"}),
        ("task", {"skip": ["emty"]}),
        ("task", {"keep": {"colum": "score"}}),
        ("task", {"critic": {"values": {"positive": "high"}}}),
        ("task", {"max_new_tokens": 0}),
        ("task", {"max_new_tokens": True}),
        ("task", {"template": ""}),
        ("ppo", {"batch_size": 2.5}),
        ("ppo", {"baseline": "mean"}),
        ("ppo", {"actor_lr": 0}),
        ("ppo", {"model": {"path": "mine"}}),
        ("experiment", {"ppo": {"actor_lrr": 1e-5}}),
        ("experiment", {"actor_lr": 1e-5}),
        ("model", {"lora": {"rank": 0}}),
        ("model", {"pth": "mine"}),
        ("reward", {"_target_": 3}),
        ("reward", ["my_rewards.brevity"]),
    ],
)
def test_what_is_marked(group: str, content: Any) -> None:
    assert not valid(group, content)


def test_fields_have_the_help_text_of_the_settings() -> None:
    fields = SCHEMAS["task"]["properties"]
    assert fields["holdout"]["description"] == "Share of prompts kept out of training."
    assert fields["holdout"]["default"] == 0
    two_lines = SCHEMAS["ppo"]["definitions"]["TaskSettings"]["properties"]["skip"]["description"]
    assert two_lines.startswith("Kinds of rows that are left out") and two_lines.endswith("as in a row before.")


def test_the_command_writes_a_file_for_each_group(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pgsrm.config", "schema", "--out", "mine/schemas"])
    main()
    printed = json.loads(capsys.readouterr().out)["yaml.schemas"]
    assert printed["mine/schemas/task.json"] == "**/task/*.yaml"
    assert {json.loads(Path(file).read_text(encoding="utf-8"))["title"] for file in printed} == {
        f"pgsrm: {group}" for group in GROUPS
    }


def test_a_folder_that_cannot_be_made_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("")
    monkeypatch.setattr(sys, "argv", ["pgsrm.config", "schema", "--out", str(tmp_path / "taken")])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    expected = f"pgsrm.config: --out={tmp_path / 'taken'}: can't be written (File exists); name a folder of yours\n"
    assert capsys.readouterr().err == expected
