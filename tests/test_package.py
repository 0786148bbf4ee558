"""The built wheel: all of conf/ and the data are in it, and it trains, reports and works from Python outside the checkout."""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the sdist that `python -m build` makes first: so both are whole."""
    out = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)], ROOT)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter with the wheel installed, and beside it what this one has, except the checkout.

    A folder named in a .pth file is searched, but its own .pth files, an editable install's among them, are not read.
    """
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, symlinks=True)
    interpreter = str(folder / "bin" / "python")
    own = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    (own / "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    pip = [sys.executable, "-m", "pip", "--python", interpreter, "--disable-pip-version-check"]
    run([*pip, "install", "--quiet", "--no-deps", "--no-index", "--force-reinstall", str(wheel)], folder)
    return interpreter


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained GPT-2 of one layer with a byte-level tokenizer, in the hub's layout."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([], vocab_size=257, special_tokens=["<|endoftext|>"], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<|endoftext|>")
    tokenizer.save_pretrained(folder)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=128, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def command(python: str) -> str:
    """The console script beside an interpreter."""
    return str(Path(python).with_name("pgsrm"))


def run(command: list[str], folder: Path) -> str:
    """Standard output of a command that must succeed, on one thread and without this process's PYTHONPATH."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files(folder: Path) -> set[str]:
    """Relative paths of a folder's files, without what Python compiles."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }


def test_all_of_package_conf_and_launcher_are_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"pgsrm/{name}" for name in files(ROOT / "pgsrm")}
    expected |= {f"pgsrm/conf/{name}" for name in files(ROOT / "conf")}
    expected |= {f"hydra_plugins/{name}" for name in files(ROOT / "launchers" / "hydra_plugins")}
    assert {"pgsrm/py.typed", "pgsrm/analysis/report.html.j2"} <= expected
    assert "pgsrm/conf/config.yaml" in expected and "pgsrm/task/data/color.jsonl" in expected
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_sdist_holds_what_a_checkout_does(wheel: Path) -> None:
    with tarfile.open(next(wheel.parent.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    project = {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "CITATION.cff", "Makefile"}
    assert (
        project | {"Dockerfile", "pyproject.toml", "requirements.lock", "requirements-extras.lock", ".ci/run"} <= names
    )
    for name in ("docs", "tests", "conf", "examples", "benchmarks", "launchers", "analysis"):
        assert any(path.startswith(f"{name}/") for path in names), name


def test_it_is_the_wheel_that_is_imported(python: str, tmp_path: Path) -> None:
    code = "import pgsrm, hydra_plugins.pgsrm_local.launcher as plugin; print(pgsrm.__file__, plugin.__file__)"
    for path in run([python, "-c", code], tmp_path).split():
        assert Path(path).is_relative_to(Path(python).parent.parent)


def test_the_installed_wheel_composes_its_own_conf(python: str, tmp_path: Path) -> None:
    config = run([command(python), "run", "task=antonym", "--cfg", "job"], tmp_path)
    assert "The opposite of" in config
    assert not list(tmp_path.iterdir())


def test_the_installed_wheel_trains_a_sweep(python: str, tiny_model: Path, tmp_path: Path) -> None:
    sizes = ["ppo.episodes=8", "ppo.batch_size=4", "tracking=none", "seed=1"]
    sweep = ["-m", "task=color", "reward=pgsrm,binary", f"model.path={tiny_model}", *sizes]
    printed = run([python, "-m", "pgsrm.run", *sweep], tmp_path)
    folders = sorted((tmp_path / "outputs" / "runs").iterdir())
    assert [folder.name.split("-")[1] for folder in folders] == ["binary", "pgsrm"]
    for folder in folders:
        assert json.loads((folder / "status.json").read_text())["state"] == "finished"
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [line["update"] for line in lines] == [0, 1, 2]
    assert str(tmp_path / "outputs" / "runs") in printed


def test_the_version_is_the_same_everywhere(python: str, tmp_path: Path) -> None:
    code = "import pgsrm, importlib.metadata; print(pgsrm.__version__, importlib.metadata.version('pgsrm'))"
    name, version = run([command(python), "--version"], tmp_path).split()
    assert name == "pgsrm" and {*run([python, "-c", code], tmp_path).split()} == {version, citation_version()}


def citation_version() -> str:
    return str(yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"])


def test_the_installed_wheel_works_from_python_and_reports(python: str, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        f"""
import pgsrm

def short(*, responses, **_):
    return [1 / (1 + len(text)) for text in responses]

for seed in (0, 1):
    sizes = ["ppo.episodes=8", "ppo.batch_size=4", "tracking=none", f"seed={{seed}}"]
    run = pgsrm.train("task=antonym", "model.path={tiny_model}", *sizes, reward=short, progress=False)
print(run.state, len(run.metrics), type(run.model).__name__, len(pgsrm.load_runs("outputs")))
"""
    )
    assert run([python, "mine.py"], tmp_path) == "finished 2 GPT2LMHeadModel 6\n"
    run([command(python), "report", "--out", "figures", "--formats", "png"], tmp_path)
    assert list((tmp_path / "figures").glob("*.png")) and (tmp_path / "figures" / "report.html").is_file()
