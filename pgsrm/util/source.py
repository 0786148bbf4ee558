"""Hashes of the source of a user's own code, so that a changed reward or checker makes another run.

The hash covers the file of the module that a `_target_` names. It also covers the modules that this one imports from
the user's own folder, that is, from below the folder where Python finds it. Imports are read from the source text, also
those within functions. The hash does not cover installed packages, modules imported by a computed name, or data files.
"""

import ast
import hashlib
import importlib
import inspect
import sys
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pgsrm.util.errors import UserError

PACKAGE_NAME = "pgsrm"
_INSTALLED = {Path(sysconfig.get_path(key)).resolve() for key in ("stdlib", "platstdlib", "purelib", "platlib")}
_seen: dict[str, tuple[Any, str]] = {}  # module -> its import (a spec) and what its file's hash was then


def source_digests(node: Any) -> dict[str, str]:
    """Hash (hex) of the source of each `_target_` in a config node and below it, if that is a user's own code.

    Raises:
        UserError: a module's file has changed since this process imported it, so that the old code would run.
    """
    targets = sorted(target for target in set(_targets(node)) if target.partition(".")[0] != PACKAGE_NAME)
    return {target: digest for target in targets if (digest := _source_digest(target)) is not None}


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from _targets(value)


def _source_digest(target: str) -> str | None:
    """None for what has no source (compiled)."""
    name = _module_of(target)
    if name is None:
        return None
    path = _file_of(sys.modules[name])
    if path is None:
        return _typed_digest(sys.modules[name], target.removeprefix(f"{name}."))
    root = path.parents[name.count(".") + (path.name == "__init__.py")]
    files = _with_imports(name, path, root)
    parts = []
    for module, file in sorted(files.items()):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        _refuse_stale(module, file, digest)
        parts.append(f"{module} {digest}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _typed_digest(module: Any, name: str) -> str | None:
    """Of a function or class that was typed into a notebook."""
    try:
        for part in name.split("."):
            module = getattr(module, part)
        return hashlib.sha256(inspect.getsource(module).encode()).hexdigest()
    except (AttributeError, OSError, TypeError, SyntaxError, tokenize.TokenError):  # typed where no file has it
        return None


def _module_of(target: str) -> str | None:
    """The longest beginning of a dotted name that is a module."""
    parts = target.split(".")
    for length in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:length])
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and not f"{name}.".startswith(f"{error.name}."):
                raise  # the module is there, and something that it imports is not
        else:
            return name
    return None


def _file_of(module: Any) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).absolute() if file is not None and file.endswith(".py") else None


def _with_imports(name: str, path: Path, root: Path) -> dict[str, Path]:
    """Module -> file, of the module and all that it imports, directly or not, from below `root`."""
    top, installed = name.partition(".")[0], root.resolve() in _INSTALLED
    files, waiting = dict[str, Path](), [(name, path), *_packages(root, name)]
    while waiting:
        module, file = waiting.pop()
        if module in files:
            continue
        files[module] = file
        for imported in _imports(module, file):
            first = imported.partition(".")[0]
            if first != PACKAGE_NAME and (first == top or not installed):
                waiting += _packages(root, imported)
    return files


def _packages(root: Path, name: str) -> Iterator[tuple[str, Path]]:
    """Of a.b.c the modules below `root` among a, a.b and a.b.c: importing the last one runs all of them."""
    parts = name.split(".")
    for length in range(1, len(parts) + 1):
        place = root.joinpath(*parts[:length])
        for file in (place.with_name(f"{place.name}.py"), place / "__init__.py"):
            if file.is_file():
                yield ".".join(parts[:length]), file
                break


def _imports(module: str, file: Path) -> Iterator[str]:
    """The dotted names that a source file imports, `from a import b` as both a and a.b."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    try:
        tree = ast.parse(file.read_bytes())
    except SyntaxError:  # beside the module and never imported: it would have failed
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".") if package else []
            base = above[: len(above) - node.level + 1] if node.level else []
            names = [*base, *(node.module.split(".") if node.module else [])]
            yield from (".".join([*names, alias.name]) for alias in node.names)
            if names:
                yield ".".join(names)


def _refuse_stale(module: str, file: Path, digest: str) -> None:
    spec = getattr(sys.modules.get(module), "__spec__", None)
    if spec is None:
        return
    imported, then = _seen.setdefault(module, (spec, digest))
    if imported is not spec:  # imported once more, as by importlib.reload
        _seen[module] = spec, digest
    elif then != digest:
        raise UserError(
            f"{file}: has changed since this Python session imported it, which would run what it was before; "
            "restart the session, or call importlib.reload"
        )
