"""JSON schemas of the config files, made from the typed settings: an editor completes keys, shows help and marks mistakes.

They say of a file what `schema.py` says of a whole config, with two differences. No key is required, since a file may be
completed by others (`defaults`). Any value may be an interpolation (`${task.nano.actor_lr}`) or `???`.
"""

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import msgspec

from pgsrm.algorithm.settings import Algorithm
from pgsrm.config.schema import Settings
from pgsrm.util.errors import writing_to

# Config group -> the struct that checks its files; of `algorithm` there are several, one for each name. Files of `experiment`
# hold sections of a whole config.
GROUPS = {
    "experiment": "Settings",
    "task": "TaskSettings",
    "model": "ModelSettings",
    "ppo": "PPOSettings",
    "algorithm": "Algorithm",
    "parent": "ParentSettings",
    "tracking": "TrackingSettings",
    "cluster": "ClusterSettings",
    "resources": "ResourceSettings",
    "reward": None,
    "embedder": None,
    "critic": None,
}
# Groups whose files may set other sections too, below `# @package _global_`: a model brings its learning rates,
# an algorithm the number of responses per prompt.
ALSO_SECTIONS = ("model", "tracking", "algorithm")

_DRAFT = "http://json-schema.org/draft-07/schema#"
_INTERPOLATION = {"type": "string", "pattern": r"\$\{|^\?\?\?$"}
_DEFAULTS = {"type": "array", "description": "Choices that this file builds on, as Hydra reads them.", "items": {}}
_TARGET = {
    "_target_": {"type": "string", "description": "The function or class, as package.module.name."},
    "_partial_": {"type": "boolean", "description": "true: a function that is called later, with each batch."},
}


def group_schemas() -> dict[str, dict[str, Any]]:
    """Config group -> the JSON schema (draft 7) of its files."""
    definitions = _definitions()
    sections = {
        **definitions["Settings"]["properties"],
        "hydra": {"type": "object", "description": "Hydra's own keys."},
    }
    definitions["Settings"]["properties"] = sections
    definitions["Algorithm"] = _any_of([definitions[struct.__name__] for struct in get_args(Algorithm)])
    schemas = {}
    for group, name in GROUPS.items():
        own = _target_object() if name is None else definitions[name]
        properties = {"defaults": _DEFAULTS, **own["properties"], **(sections if group in ALSO_SECTIONS else {})}
        used = {} if name is None else {"definitions": definitions}
        schemas[group] = {"$schema": _DRAFT, **own, "title": f"pgsrm: {group}", "properties": properties, **used}
    return schemas


def write_schemas(folder: Path) -> dict[str, str]:
    """Write FOLDER/GROUP.json for each group; returns file -> pattern of the files that it is for.

    Raises:
        UserError: the folder can't be written.
    """
    patterns = {}
    with writing_to("--out", folder):
        folder.mkdir(parents=True, exist_ok=True)
        for group, schema in group_schemas().items():
            file = folder / f"{group}.json"
            file.write_text(json.dumps(schema, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            patterns[file.as_posix()] = f"**/{group}/*.yaml"
    return patterns


def _any_of(schemas: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One schema for the files of a group whose structs are told apart by `name`: any key that one of them has."""
    names = [name for schema in schemas for name in schema["properties"]["name"]["anyOf"][0]["enum"]]
    keys = {key: value for schema in schemas for key, value in schema["properties"].items()}
    return {
        **schemas[0],
        "title": "Algorithm",
        "description": "How a run learns.",
        "properties": {**keys, "name": {"type": "string", "enum": names}},
    }


def _target_object() -> dict[str, Any]:
    """The schema of a configured object: what else it takes, its function says."""
    return {"type": "object", "properties": dict(_TARGET)}


def _definitions() -> dict[str, dict[str, Any]]:
    """Name of a struct of the settings -> its schema, with the help texts that stand above its fields."""
    _, components = msgspec.json.schema_components([Settings], ref_template="#/definitions/{name}")
    help_texts = {struct.__name__: _help_texts(struct) for struct in _structs(msgspec.inspect.type_info(Settings))}
    return {name: _of_a_part(component, help_texts[name]) for name, component in components.items()}


def _structs(info: Any) -> Iterator[type]:
    """The structs that a type of msgspec's consists of."""
    if isinstance(info, msgspec.inspect.StructType):
        yield info.cls
        for field in info.fields:
            yield from _structs(field.type)
    elif isinstance(info, msgspec.inspect.UnionType):
        for member in info.types:
            yield from _structs(member)


def _help_texts(struct: type) -> dict[str, str]:
    """Field -> the comment above it."""
    lines = textwrap.dedent(inspect.getsource(struct)).splitlines()
    (definition,) = ast.parse("\n".join(lines)).body
    assert isinstance(definition, ast.ClassDef)
    texts = {}
    for field in definition.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            above = list(_comment_above(lines, field.lineno - 1))
            if above:
                texts[field.target.id] = " ".join(reversed(above))
    return texts


def _comment_above(lines: list[str], place: int) -> Iterator[str]:
    """The lines of the comment that ends before `place`, the last one first."""
    for line in reversed(lines[:place]):
        if not line.strip().startswith("#"):
            return
        yield line.strip().lstrip("# ")


def _of_a_part(component: Mapping[str, Any], help_texts: Mapping[str, str]) -> dict[str, Any]:
    """The schema of an object of which a file may hold a part."""
    properties = {}
    for name, value in component["properties"].items():
        about = {"description": help_texts[name]} if name in help_texts else {}
        if not isinstance(value.get("default"), dict | list) and "default" in value:
            about["default"] = value["default"]
        properties[name] = {**_open(value), **about}
    return {**{key: value for key, value in component.items() if key != "required"}, "properties": properties}


def _open(value: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a value, or an interpolation in its place, at any depth."""
    core = {key: inner for key, inner in value.items() if key not in ("default", "description")}
    members = core.pop("anyOf", [core])
    if not all(members):  # anything is taken
        return {}
    return {"anyOf": [*(_with_open_items(member) for member in members), _INTERPOLATION]}


def _with_open_items(member: Mapping[str, Any]) -> dict[str, Any]:
    """The same for what a list or an object with free names holds."""
    held = {key: _open(member[key]) for key in ("items", "additionalProperties") if isinstance(member.get(key), dict)}
    return {**member, **held}
