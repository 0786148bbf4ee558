"""Runs of an MLflow server or database, as if they had been read from folders. No other module of `analysis` imports MLflow."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgsrm.analysis.runs import NoRunsError, Run, examine, has_choices
from pgsrm.analysis.variants import Variant, group_runs
from pgsrm.record.mlflow_store import sqlite_file
from pgsrm.util.numbers import counted

if TYPE_CHECKING:
    import numpy as np
    from mlflow.entities import Run as MlflowRun
    from mlflow.tracking import MlflowClient

STATES = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "stopped", "RUNNING": "running", "SCHEDULED": "waiting"}
PAGE = 1000
LARGEST = 1.7e308  # MLflow keeps an infinity as the largest float


def load_mlflow_variants(uri: str, columns: Sequence[str]) -> tuple[list[Variant], list[str]]:
    """Read every run below `uri` that has the tags task and reward; returns variants and notes, as load_variants does.

    MLflow has no commits, versions and samples; the report says nothing of them.

    Raises:
        NoRunsError: if there is no such run, or no answer.
    """
    client = _client(uri)
    try:
        experiments = client.search_experiments()
        mlflow_runs = _search(client, [experiment.experiment_id for experiment in experiments])
        runs, notes = [], []
        for mlflow_run in mlflow_runs:
            run, problems = _read(client, uri, mlflow_run, columns)
            notes += problems
            if run:
                runs.append(run)
    except Exception as error:  # whatever a server or a database says
        lines = str(error).splitlines() or [type(error).__name__]
        raise NoRunsError(f"--tracking={uri}: can't be read ({lines[0][:200]}); check that it answers") from error
    if not runs:
        raise NoRunsError(
            f"--tracking={uri}: no run of pgsrm in it ({counted(len(mlflow_runs), 'run')} looked at); check the address"
        )
    variants, mixed = group_runs(runs)
    return variants, notes + mixed


def _client(uri: str) -> MlflowClient:
    scheme, _, _ = uri.partition("://")
    scheme = scheme.partition("+")[0]
    if scheme not in ("sqlite", "http", "https"):
        raise NoRunsError(f"--tracking={uri}: is no address; give sqlite:///outputs/mlflow.db or http://host:5000")
    # MLflow would make a database that is not there.
    if scheme == "sqlite" and not (sqlite_file(uri) or Path()).is_file():
        raise NoRunsError(f"--tracking={uri}: no such database; three slashes and a path: sqlite:///outputs/mlflow.db")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _search(client: MlflowClient, experiments: Sequence[str]) -> list[MlflowRun]:
    runs: list[MlflowRun] = []
    token = None
    while experiments:
        page = client.search_runs(list(experiments), max_results=PAGE, page_token=token)
        runs += page
        token = page.token
        if not token:
            break
    return runs


def _read(client: MlflowClient, uri: str, run: MlflowRun, columns: Sequence[str]) -> tuple[Run | None, list[str]]:
    name = run.info.run_name or run.info.run_id
    config = _config(run)
    if not has_choices(config):
        return None, [f"{uri}/{name}: left out, it has no tags task and reward"]
    metrics, problems = _metrics(client, run, columns)
    read, notes = examine(
        Run(Path(name), config, _status(run, config, metrics), metrics, _link(uri, run)), f"{uri}/{name}"
    )
    return read, [*(f"{uri}/{name}: {problem}" for problem in problems), *notes]


def _config(run: MlflowRun) -> dict[str, Any]:
    """The composed config as the run's parameters have it, and its choices as the tags have them."""
    config: dict[str, Any] = {}
    for name, text in run.data.params.items():
        *above, key = name.split(".")
        if not above and key != "seed":  # the choices again, under the names of their sections
            continue
        place = config
        for part in above:
            place = place.setdefault(part, {})
        place[key] = _value(text)
    tags = {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")}
    return {**config, "choices": {key: value for key, value in tags.items() if key not in ("sweep", "reason")}}


def _value(text: str) -> Any:
    """A parameter as the config had it: MLflow keeps what Python's str() made of it."""
    if text in ("None", "null", "True", "False", "true", "false"):
        return {"n": None, "t": True, "f": False}[text[0].lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _metrics(client: MlflowClient, run: MlflowRun, columns: Sequence[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """The columns as Run.metrics has them, and one line for each that holds what is no finite number."""
    import numpy as np

    points = {
        name: {point.step: point.value for point in client.get_metric_history(run.info.run_id, name)}
        for name in ("episodes", *columns)
        if name in run.data.metrics
    }
    notes = []
    for name, values in points.items():
        finite = {step: value for step, value in values.items() if abs(value) < LARGEST}
        if len(finite) < len(values):
            notes.append(f"{name} is no finite number in {counted(len(values) - len(finite), 'update')}, left out")
        points[name] = finite | dict.fromkeys(values.keys() - finite.keys(), float("nan"))
    updates = sorted({step for values in points.values() for step in values})
    table = {
        name: np.array([values.get(u, np.nan) for u in updates])
        for name, values in points.items()
        if name == "episodes" or np.isfinite(list(values.values())).any()
    }
    table["update"] = np.array(updates, dtype=float)
    table["episodes"] = np.where(table["update"] == 0, 0.0, table.get("episodes", np.full(len(updates), np.nan)))
    return table, notes


def _status(run: MlflowRun, config: Mapping[str, Any], metrics: Mapping[str, np.ndarray]) -> dict[str, Any]:
    ppo = config.get("ppo")
    episodes, batch = (ppo.get(key) if isinstance(ppo, dict) else None for key in ("episodes", "batch_size"))
    planned = episodes // batch if isinstance(episodes, int) and isinstance(batch, int) and batch else None
    seconds = (run.info.end_time - run.info.start_time) / 1000 if run.info.end_time else None
    state, reason = STATES.get(run.info.status, "unknown"), run.data.tags.get("reason")
    return {
        "state": state,
        "reason": reason,
        "stopped_early": state == "finished" and bool(reason),  # the only reason that a finished run has
        "update": int(max(metrics["update"], default=0)),
        "updates": planned,
        "seconds": seconds,
    }


def _link(uri: str, run: MlflowRun) -> str:
    if not uri.startswith("http"):
        return ""
    return f"{uri.rstrip('/')}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
