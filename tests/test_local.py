"""The slots of a sweep on this machine: CPU threads and GPUs, without either being there."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from pgsrm.launch import local
from pgsrm.util.errors import UserError


def plans(count: int, device: str = "auto", threads: int | None = None, processes: int = 1) -> list[Any]:
    config = {"model": {"device": device}, "threads": threads}
    return [SimpleNamespace(config=config, settings=SimpleNamespace(processes=processes)) for _ in range(count)]


@pytest.mark.parametrize(
    ("given", "count", "gpus", "runs_per_gpu", "expected"),
    [
        (plans(9), None, "", 1, [(1, None)] * 8),
        (plans(3), None, "", 1, [(2, None)] * 3),
        (plans(9, threads=4), None, "", 1, [(4, None)] * 2),
        (plans(9, processes=2), None, "", 1, [(1, None)] * 4),
        (plans(9, processes=16), None, "", 1, [(1, None)]),
        (plans(9), 2, "", 1, [(4, None)] * 2),
        (plans(9), None, "023", 1, [(2, "0"), (2, "2"), (2, "3")]),
        (plans(9), None, "01", 2, [(2, "0"), (2, "1"), (2, "0"), (2, "1")]),
        (plans(9), 1, "01", 1, [(8, "0")]),
        (plans(9, device="cpu"), None, "01", 1, [(1, None)] * 8),
        (plans(9, processes=2), None, "0123", 1, [(2, "0,1"), (2, "2,3")]),
        (plans(9, processes=2), None, "012", 1, [(4, "0,1")]),
    ],
)
def test_slots(
    monkeypatch: pytest.MonkeyPatch,
    given: list[Any],
    count: int | None,
    gpus: Sequence[str],
    runs_per_gpu: int,
    expected: list[tuple[int, str | None]],
) -> None:
    monkeypatch.setattr(local, "_cores", lambda: 8)
    slots = local.make_slots(given, count, list(gpus), runs_per_gpu)
    assert [(slot.threads, slot.gpus) for slot in slots] == expected


@pytest.mark.parametrize(
    ("given", "count", "gpus", "line"),
    [
        (plans(9), 3, "01", "hydra.launcher.slots=3: 2 GPUs take 2 runs;"),
        (plans(9, processes=2), 2, "01", "hydra.launcher.slots=2: 2 GPUs take 1 run;"),
        (plans(9), 2, "0", "hydra.launcher.slots=2: 1 GPU takes 1 run;"),
        (plans(9, processes=3), None, "01", "processes=3: there are 2 GPUs;"),
        (plans(9, processes=2), None, "0", "processes=2: there is 1 GPU;"),
    ],
)
def test_more_than_the_gpus_have_room_for(given: list[Any], count: int | None, gpus: str, line: str) -> None:
    with pytest.raises(UserError, match=line):
        local.make_slots(given, count, list(gpus), 1)


def test_a_slots_run_sees_its_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert local.Slot(2, "5").environment()["CUDA_VISIBLE_DEVICES"] == "5"
    assert local.Slot(2).environment()["CUDA_VISIBLE_DEVICES"] == "4,5,6"
    assert local.Slot(2).environment()["OMP_NUM_THREADS"] == "3"  # the user's own
    assert local.Slot(2).environment()["MKL_NUM_THREADS"] == "2"
