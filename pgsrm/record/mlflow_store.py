"""MLflow's store: its address, client and experiment, and how to open its page."""

import fcntl
import logging
import os
import re
import shlex
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pgsrm.record.mlflow_view import PAGE, set_view
from pgsrm.util.errors import UserError
from pgsrm.util.paths import local_path
from pgsrm.util.secrets import without_user
from pgsrm.util.shell import python, quoted

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_SERVERS = ("http", "https")
_SCHEMES = (*_SERVERS, "sqlite", "postgresql", "mysql", "mssql")

logger = logging.getLogger(__name__)
_told: set[str] = set()


def tracking_uri(tracking: Mapping[str, Any], outputs: str | Path | None = None) -> str:
    """MLflow's address for the config group `tracking`; a path to an SQLite file is made absolute.

    outputs: `paths.outputs`, where the file lies that `tracking.uri=null` means.

    Raises:
        UserError: an address that MLflow 3 has no store for.
    """
    if tracking["uri"] is None and outputs is not None:
        return sqlite_uri(Path(outputs) / "mlflow.db")
    uri = tracking["uri"] or "null"
    scheme, _, rest = uri.partition("://")
    if rest and scheme.split("+")[0] in _SCHEMES:
        # MLflow would take a relative path from wherever the process stands.
        file = sqlite_file(uri)
        return uri if file is None else sqlite_uri(local_path(file, "tracking.uri"), uri.partition("?")[2])
    raise UserError(
        f"tracking.uri={without_user(uri)}: not an address of MLflow; give http://host:port, "
        "sqlite:///file.db or another database's URI, or choose tracking=none"
    )


def refuse_password(uri: str | None) -> None:
    """Raise UserError for an address with a password in it: run folders keep their config, and are shared."""
    user, at, _ = (uri or "").partition("://")[2].rpartition("@")
    if at and ":" in user and sqlite_file(uri or "") is None:
        raise UserError(
            f"tracking.uri={without_user(uri or '')}: has a password in it, which every run's config.yaml would hold; give it in "
            "the environment: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or your database's own (PGPASSWORD)"
        )


def sqlite_uri(file: Path, query: str = "") -> str:
    """The address of an SQLite file, whatever characters its path has."""
    path = str(file.absolute())
    if not re.search(r"[^\w/.,:@=+ ~-]", path, re.ASCII):
        return f"sqlite:///{path}" + (f"?{query}" if query else "")
    from sqlalchemy import URL, make_url

    # By its driver's name: MLflow makes folders for what follows sqlite:///, and reads %3F there as it stands.
    uri = URL.create("sqlite+pysqlite", database=path).render_as_string() + (f"?{query}" if query else "")
    if make_url(uri).database != path:
        raise UserError(f"{path}: SQLAlchemy 2.1 or later has addresses for such a name; pip install -U sqlalchemy")
    return uri


def sqlite_file(uri: str) -> Path | None:
    """The file that an address names; None if it is no SQLite file's."""
    scheme, _, rest = uri.partition("://")
    if scheme.split("+")[0] != "sqlite":
        return None
    path = rest.removeprefix("/").partition("?")[0]
    if "%" not in path:
        return Path(path)
    from sqlalchemy import make_url

    return Path(make_url(uri).database or "")


def has_lost(uri: str, run_id: str | None) -> bool:
    """Whether an SQLite database does not have a run that was sent to it. A server is not asked, and False.

    One that can't be read counts as one that has lost the run: sending it again says what is wrong.
    """
    database = sqlite_file(uri)
    if database is None:
        return False
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute("SELECT 1 FROM runs WHERE run_uuid = ?", (run_id,)).fetchone() is None
    except sqlite3.Error:
        return True


def prepare(tracking: Mapping[str, Any]) -> str | None:
    """Makes the database and the experiment once, before runs are dispatched; returns the experiment's id.

    A server that does not answer gets one warning, and None is returned: the runs train and try it again themselves.

    Raises:
        UserError: a wrong address, or an experiment that was deleted in MLflow.
    """
    uri = tracking_uri(tracking)
    try:
        return experiment_id(connect(uri), tracking["experiment"])
    except UserError:
        raise
    except Exception as error:  # MLflow, SQLAlchemy and requests share no base class
        warn_once(uri, error, "the runs go on without it and send what they have once it answers")
        return None


def is_sqlite(tracking: Mapping[str, Any] | None) -> bool:
    """Whether MLflow's store is a file, which serves the processes of one machine."""
    return tracking is not None and sqlite_file(tracking["uri"]) is not None


def ui_hint(tracking: Mapping[str, Any], experiment: str | None) -> str:
    """One line: how to open the page with all curves at once. `experiment` is what `prepare` returned."""
    uri = tracking_uri(tracking)
    page = f"#/experiments/{experiment}/{PAGE}" if experiment else ""
    if urlsplit(uri).scheme in _SERVERS:
        return f"curves: {without_user(uri).rstrip('/')}/{page}"
    # Without job execution and with one worker: 2 processes and 0.5 GB instead of 15 and 2.6 GB.
    return (
        "curves: MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false "
        f"{python()} -m mlflow server --workers 1 "
        f"--backend-store-uri {shlex.quote(without_user(uri))}, then open http://127.0.0.1:5000/{page}"
    )


def connect(uri: str) -> "MlflowClient":
    """MLflow's client, without log lines and telemetry, and with short time-outs for a server that does not answer.

    What the user has set in the environment is left as it is.
    """
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # tracebacks of what is raised as well
    _have_a_home()
    from mlflow.tracking import MlflowClient

    database = sqlite_file(uri)
    if database is None:
        return MlflowClient(tracking_uri=uri)
    with _alone(database):
        if not database.exists():
            _make(database)
        return MlflowClient(tracking_uri=uri)


def _have_a_home() -> None:
    """MLflow asks for the home folder when it is imported, and a container's user may have none."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = tempfile.gettempdir()


def _make(database: Path) -> None:
    """A new SQLite file with MLflow's tables, complete or not there: one that a kill leaves half-made never opens again."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    half_made = database.with_name(f".{database.name}.new")
    half_made.unlink(missing_ok=True)
    store = SqlAlchemyStore(sqlite_uri(half_made), database.with_name("mlartifacts").as_uri())
    store.engine.dispose()
    os.rename(half_made, database)


@contextmanager
def _alone(database: Path) -> Iterator[None]:
    """One process at a time: of several that open a fresh SQLite file, MLflow lets one live."""
    database.parent.mkdir(parents=True, exist_ok=True)
    with open(database.with_name(f"{database.name}.lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def experiment_id(client: "MlflowClient", name: str) -> str:
    """The id of the experiment, made where it is not there yet."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            experiment = client.get_experiment(client.create_experiment(name, _artifacts(client.tracking_uri)))
        except MlflowException:
            # Another run may have made it in the meantime.
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage != "active":
        where = f"MLFLOW_TRACKING_URI={quoted(without_user(client.tracking_uri))}"
        restore = f"{where} {python()} -m mlflow experiments restore -x {experiment.experiment_id}"
        raise UserError(
            f"tracking.experiment={name}: was deleted in MLflow; restore it there (`{restore}`) or choose another name"
        )
    set_view(client, experiment)
    return str(experiment.experiment_id)


def _artifacts(uri: str) -> str | None:
    """Where a new experiment's artifacts lie: beside an SQLite file. MLflow would take the working directory."""
    database = sqlite_file(uri)
    return None if database is None else database.absolute().with_name("mlartifacts").as_uri()


def warn_once(uri: str, error: BaseException, then: str) -> None:
    """Warn of an address that does not answer and say what happens then: one line per process."""
    if uri not in _told:
        _told.add(uri)
        logger.warning("%s; %s", trouble(uri, error), then)


def trouble(uri: str, error: BaseException) -> str:
    """The message for an error of MLflow's: the beginning of one line, without secrets."""
    cause = error
    # What happened (connection refused) lies under what MLflow made of it, which fills a screen.
    while inner := cause.__cause__ or cause.__context__:
        cause = inner
    lines = str(cause).splitlines() or [type(cause).__name__]
    return f"MLflow at {without_user(uri)} does not answer ({without_user(lines[0])[:150]})"
