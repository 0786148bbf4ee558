"""How a run ends where something is in the way: a full disk, a tracker that does not answer, Ctrl-C at a bad moment."""

import errno
import signal
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import interrupt_at

import pgsrm
from pgsrm.config.compose import plan_words
from pgsrm.config.messages import ending_with_line
from pgsrm.launch.local import _note_crash
from pgsrm.launch.sweep import SweepFailed, prepare_tracking, report
from pgsrm.record import RunFolder
from pgsrm.record.files import disk_full
from pgsrm.trainer import Trainer
from pgsrm.util.errors import UserError


def test_a_final_model_is_whole_or_not_there(small: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong version: what a full disk left of the model was taken for one, and `pgsrm push` would have given it away."""

    def part(self: Trainer, model: Any, folder: Path) -> None:
        model.config.save_pretrained(folder)
        raise OSError(errno.ENOSPC, "No space left on device")

    whole = Trainer._save
    monkeypatch.setattr(Trainer, "_save", part)
    with pytest.raises(UserError, match="the disk is full"):
        pgsrm.train(*small, progress=False)
    folder = plan_words(*small).folder
    assert folder.state() == "failed" and not folder.model.exists()
    with pytest.raises(UserError, match="has no final model, it is failed; train it to its end first"):
        folder.saved_model()
    monkeypatch.setattr(Trainer, "_save", whole)
    run = pgsrm.train(*small, progress=False)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in folder.saved_model().iterdir()
    }
    assert run.model.config.vocab_size and not list(run.folder.glob(".*.tmp"))


def test_a_disk_without_room_for_the_end_is_no_other_process(
    small: Sequence[str], call_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = RunFolder.write_status

    def without_room(self: RunFolder, **fields: Any) -> None:
        if fields.get("state") in ("finished", "failed"):
            raise disk_full(self.path)
        write(self, **fields)

    monkeypatch.setattr(RunFolder, "write_status", without_room)
    result = call_cli(*small, "checkpoint.updates=1")
    assert plan_words(*small).folder.checkpoints.is_dir()  # what the same command resumes from
    assert result.code == 2 and "another process" not in result.err
    assert result.err.splitlines()[-1].endswith(
        "the disk is full or the quota used up; free some space, then the same command resumes it"
    )


def test_a_finished_runs_command_sends_what_its_trackers_lack(
    small: Sequence[str], call_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("pgsrm.launch.sync.sync", asked.append)
    assert call_cli(*small).code == 0 and asked == []  # the run's own threads have sent it, or said that they did not
    assert call_cli(*small).code == 0
    assert [folder.path.name for (folder,) in asked] == [plan_words(*small).folder.name]


@pytest.mark.parametrize("times", [1, 2])
def test_a_second_ctrl_c_does_not_wait_for_a_tracker(
    small: Sequence[str], times: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ended: list[Any] = []

    class Waiting:
        def start(self) -> None: ...

        def finish(self, state: str, reason: str | None, patience: float | None = None) -> None:
            ended.append((state, patience))

    monkeypatch.setattr("pgsrm.record.trackers.trackers_of", lambda config: ["mlflow"])
    monkeypatch.setattr("pgsrm.record.trackers.make_mirror", lambda *given: Waiting())
    interrupt_at(1, monkeypatch, times)
    with pytest.raises(KeyboardInterrupt, match="the same call resumes it"):
        pgsrm.train(*small, progress=False)
    assert ended == [("stopped", None if times == 1 else 0)]
    assert (
        capfd.readouterr().err.count("stopping after this update, with a checkpoint; Ctrl-C again ends it at once") == 1
    )


@pytest.mark.parametrize(
    ("code", "state"), [(-signal.SIGTERM, "stopped"), (-signal.SIGINT, "stopped"), (-signal.SIGKILL, "failed")]
)
def test_a_process_that_was_asked_to_stop_while_it_started_has_not_failed(
    small: Sequence[str], code: int, state: str
) -> None:
    plan = plan_words(*small)
    plan.freeze()
    plan.folder.write_status(state="running", pid=2**22)
    _note_crash(SimpleNamespace(returncode=code), plan.folder)  # type: ignore[arg-type]
    status = plan.folder.status() or {}
    assert status["state"] == state
    assert status["reason"].startswith(
        "stopped by a signal; the same command" if state == "stopped" else "killed by SIGKILL"
    )


def test_an_error_of_a_library_after_ctrl_c_is_an_interruption(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end, ending_with_line("pgsrm", "interrupted; again"):
        try:
            raise KeyboardInterrupt
        finally:
            raise AttributeError("'NoneType' object has no attribute '_invalidate_flags_cache'")
    assert end.value.code == 130 and capsys.readouterr().err == "pgsrm: interrupted; again\n"


def test_a_sweep_that_was_stopped_says_why(small: Sequence[str]) -> None:
    """Wrong version: the reason of the first that did not finish, and a run that only waits has none: "None"."""
    plans = [plan_words(*small, f"seed={seed}") for seed in (0, 1)]
    for plan in plans:
        plan.freeze()
    with pytest.raises(SweepFailed, match=rf"2 of 2 runs did not finish \({plans[0].folder.name}: waiting\)"):
        report(plans, None)
    plans[1].folder.write_status(state="stopped", reason="stopped by a signal; the same command resumes it")
    with pytest.raises(SweepFailed, match=rf"2 of 2 runs did not finish \({plans[1].folder.name}: stopped by a signal"):
        report(plans, None)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_that_meets_a_callback_ends_the_command_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As SQLAlchemy's, while MLflow makes its database. Python prints such an exception and goes on."""
    went_on = []

    def prepare(_: Any) -> str:
        held = {0}
        watched = weakref.ref(held, lambda _: signal.raise_signal(signal.SIGINT))
        del held
        went_on.append(watched)
        return "1"

    monkeypatch.setattr("pgsrm.record.mlflow_store.prepare", prepare)
    came: list[str] = []
    # a shell that starts tests in the background has SIGINT ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            prepare_tracking({})
        assert went_on and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.signal(signal.SIGINT, lambda *_: came.append("to the caller"))
        assert prepare_tracking({}) == "1" and came == ["to the caller"]
    finally:
        signal.signal(signal.SIGINT, before)
    monkeypatch.setattr("pgsrm.record.mlflow_store.prepare", lambda _: "1")
    assert prepare_tracking({}) == "1"
