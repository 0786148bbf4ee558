"""MLflow as a mirror of the run folder, which stays the truth.

What was sent is remembered in mlflow.json only once MLflow has taken it, so that a dead server, a kill or a restart loses
nothing; after a restart MLflow is asked what it has, so that nothing is there twice. `pgsrm.record.mirror` says when it is sent.
"""

import json
import logging
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from pgsrm.record.mirror import Mirror, has_all, remembered
from pgsrm.record.mlflow_store import connect, experiment_id, has_lost, sqlite_file, tracking_uri, trouble, warn_once
from pgsrm.record.run_folder import RunFolder, parse_lines
from pgsrm.record.samples import samples_table
from pgsrm.util.secrets import without_user

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run
    from mlflow.tracking import MlflowClient

logger = logging.getLogger(__name__)

_METRICS_A_CALL = 1000  # MLflow's limit for log_batch
_PARAMS_A_CALL = 100  # likewise
_SAMPLES = "samples.json"
DESCRIPTION = "mlflow.note.content"
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


def is_complete(folder: RunFolder, uri: str | None = None) -> bool:
    """Whether MLflow has all of a run that has ended; else a mirror's `start` and `finish` send the rest.

    uri: MLflow's address now. If the run was sent to another address (as before `mv outputs`), this returns False, and if its
    SQLite database does not have the run: it was deleted since, and perhaps made anew.
    """
    sent = remembered(folder.mlflow)
    if uri is not None and (sent.get("tracking_uri") != without_user(uri) or has_lost(uri, sent.get("run_id"))):
        return False
    return has_all(folder, sent)


class MlflowMirror(Mirror):
    """Keeps one MLflow run in step with one run folder. A resumed run writes to the same MLflow run.

    Args:
        folder: the run; mlflow.json in it remembers the MLflow run and the last update sent.
        tracking: the config group `tracking`: `uri` and `experiment`.
        name: the MLflow run's name.
        params: flat, as `pgsrm.record.params.run_params` makes them.
        tags: `sweep` and the like; those that are None are left out.
    """

    def __init__(
        self,
        folder: RunFolder,
        tracking: Mapping[str, Any],
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, Any],
    ) -> None:
        super().__init__(folder, folder.mlflow)
        self._uri = tracking_uri(tracking)
        self._experiment = tracking["experiment"]
        self._name = name
        self._params = {key: str(value) for key, value in params.items()}
        self._tags = {key: str(value) for key, value in tags.items() if value is not None}
        self._client: MlflowClient | None = None
        self._started_ms = 0
        self._from_before = False  # the MLflow run was there, and what it has is not known yet

    def _problem(self, error: BaseException) -> str:
        return trouble(self._uri, error)

    def _warn(self, error: BaseException) -> None:
        """Once for all runs of this process, which send to one server."""
        warn_once(self._uri, error, f"training continues, what is in {self._folder.metrics} is sent once it answers")

    def _send(self) -> None:
        client = self._client or self._connect()
        whole, _ = self._tail.read()
        if self._from_before:
            self._skip_taken(client, whole)
        for rows in self._batches(whole):
            seconds, metrics = self._as_metrics(rows)
            for start in range(0, len(metrics), _METRICS_A_CALL):
                part = metrics[start : start + _METRICS_A_CALL]
                client.log_batch(self._sent["run_id"], metrics=part, synchronous=True)
            self._remember(update=rows[-1]["update"], seconds=seconds)
        self._tail.taken(whole)

    def _skip_taken(self, client: "MlflowClient", content: bytes) -> None:
        """After a restart: move on to what MLflow has, which may be more than was remembered before a kill.

        Updates that are computed again have other times, and MLflow would keep both points.
        """
        rows = next(self._batches(content), None)
        if rows is None:
            return
        name = next(name for name, value in rows[0].items() if name != "update" and isinstance(value, int | float))
        taken = client.get_metric_history(self._sent["run_id"], _metric_name(name))
        self._from_before = False
        last = max(taken, key=lambda point: point.step, default=None)
        if last is not None and last.step > self._sent["update"]:
            self._remember(update=last.step, seconds=(last.timestamp - self._started_ms) / 1000)

    def _batches(self, content: bytes) -> Iterator[list[dict[str, Any]]]:
        """The rows after the last update sent, in groups of about as many metrics as one call takes.

        After a resume the updates behind the checkpoint are computed again; MLflow keeps what it has of them.
        """
        last = self._sent["update"]
        rows: list[dict[str, Any]] = []
        size = 0
        for _, row in parse_lines(content):
            if row["update"] <= last:
                continue
            if rows and size + len(row) > _METRICS_A_CALL:
                yield rows
                rows, size = [], 0
            rows.append(row)
            size += len(row)
        if rows:
            yield rows

    def _as_metrics(self, rows: list[dict[str, Any]]) -> tuple[float, "list[Metric]"]:
        """Rows as MLflow's metrics, and the training seconds after them.

        The time stamp is the run's start plus its training time, not now: a row sent twice is the same twice.
        """
        from mlflow.entities import Metric

        seconds = self._sent["seconds"]
        metrics = []
        for row in rows:
            seconds += row.get("time/update") or 0.0
            at = self._started_ms + round(1000 * seconds)
            metrics += [
                Metric(_metric_name(name), float(value), at, row["update"])
                for name, value in row.items()
                if name != "update" and isinstance(value, int | float)
            ]
        return seconds, metrics

    def _send_end(self) -> None:
        self._send()
        assert self._client is not None and self._end is not None
        state, reason = self._end
        if reason or self._sent["reason"]:
            self._client.set_tag(self._sent["run_id"], "reason", (reason or "")[:5000])
        for tag, model in (("final_model", self._folder.model), ("best_model", self._folder.best)):
            if model.is_dir():
                self._client.set_tag(self._sent["run_id"], tag, str(model.absolute()))
        self._client.set_terminated(self._sent["run_id"], _STATUS[state])
        self._remember(state=state, reason=reason)
        self._send_samples(self._client)

    def _send_samples(self, client: "MlflowClient") -> None:
        """Samples as a table of MLflow's, in the place of the one that was sent before.

        The last thing, since artifacts may lie on another server than the metrics, which may not answer.
        """
        run = client.get_run(self._sent["run_id"])
        database = sqlite_file(self._uri)
        root = urlsplit(run.info.artifact_uri)
        if database is not None and not Path(unquote(root.path)).is_relative_to(database.absolute().parent):
            return  # the database was moved, and MLflow would write where it was
        table = samples_table(self._folder)
        if table is None:
            return
        try:
            client.log_text(run.info.run_id, json.dumps(table, ensure_ascii=False), _SAMPLES)
            client.set_tag(run.info.run_id, "mlflow.loggedArtifacts", json.dumps([{"path": _SAMPLES, "type": "table"}]))
        except Exception as error:  # of the artifacts' own server and its client library
            logger.warning(
                "MLflow did not take the samples (%s); they are in %s", type(error).__name__, self._folder.samples
            )

    def _connect(self) -> "MlflowClient":
        """Finds the MLflow run of this folder or makes it, and gives it its parameters."""
        client = connect(self._uri)
        # Importing MLflow took its time, and was not the server's fault.
        self._progress = self._progress or time.monotonic()
        experiment = experiment_id(client, self._experiment)
        run = self._run_from_before(client)
        if run is None:
            run = client.create_run(experiment, run_name=self._name, tags=self._tags)
            self._sent = {
                "run_id": run.info.run_id,
                "tracking_uri": without_user(self._uri),
                "experiment_id": experiment,
                "update": -1,
                "seconds": 0.0,
                "has_params": False,
                "state": None,
                "reason": None,
            }
            self._remember()
        else:
            self._from_before = True
            self._remember(tracking_uri=without_user(self._uri))
            if run.info.status != "RUNNING":
                client.update_run(run.info.run_id, status="RUNNING")
                self._remember(state=None)
            self._set_tags(client, run)
        self._started_ms = run.info.start_time
        if not self._sent["has_params"]:
            from mlflow.entities import Param

            params = [Param(key, value) for key, value in self._params.items()]
            for start in range(0, len(params), _PARAMS_A_CALL):
                part = params[start : start + _PARAMS_A_CALL]
                client.log_batch(run.info.run_id, params=part, synchronous=True)
            self._remember(has_params=True)
        self._client = client
        return client

    def _set_tags(self, client: "MlflowClient", run: "Run") -> None:
        """Those that a resumed run has otherwise, as the commit; what somebody wrote into the description stays."""
        from mlflow.entities import RunTag

        lacking = {
            key: value
            for key, value in self._tags.items()
            if run.data.tags.get(key) != value and not (key == DESCRIPTION and key in run.data.tags)
        }
        if lacking:
            client.log_batch(run.info.run_id, tags=[RunTag(key, value) for key, value in lacking.items()])

    def _run_from_before(self, client: "MlflowClient") -> "Run | None":
        """The MLflow run that an earlier start of this run wrote to, unless it is gone or in another store.

        It is asked for by its id, which no other store has: the address changes when a database is moved.
        """
        if "run_id" not in self._sent:
            return None
        from mlflow.exceptions import MlflowException

        try:
            run = client.get_run(self._sent["run_id"])
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return run if run.info.lifecycle_stage == "active" else None


def _metric_name(name: str) -> str:
    return re.sub(r"[^\w\-. /:]", "_", name)[:250]
