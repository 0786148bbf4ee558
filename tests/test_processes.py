"""One run in several processes: the numbers of one process, whatever is divided among them."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import Result
from several_processes import CASES, SHARDED, alone

from pgsrm.record.measured import is_measured


@pytest.fixture(scope="module")
def by_two(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Case -> what two processes computed together."""
    out = tmp_path_factory.mktemp("two") / "found.json"
    script = Path(__file__).with_name("several_processes.py")
    subprocess.run([sys.executable, str(script), str(tiny), str(out)], check=True, timeout=300)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.mark.parametrize("case", [*CASES, *(f"{name}, sharded" for name in SHARDED)])
def test_two_processes_learn_what_one_does(by_two: dict[str, Any], tiny: Path, case: str) -> None:
    one, two = alone(str(tiny), case.removesuffix(", sharded")), by_two[case]
    assert two["responses"] == one["responses"]
    for metrics, expected in zip(two["metrics"], one["metrics"], strict=True):
        assert metrics == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert two["weights"] == pytest.approx(one["weights"], rel=1e-4, abs=1e-5)


def metrics(outputs: Path) -> list[dict[str, float]]:
    """The metrics of the only run in `outputs`, without its times."""
    (file,) = outputs.glob("runs/*/metrics.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [{name: value for name, value in row.items() if not is_measured(name)} for row in rows]


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.slow
def test_a_run_of_two_processes_is_stopped_and_goes_on(
    run_cli: Callable[..., Result],
    start_cli: Callable[..., "subprocess.Popen[str]"],
    small: Sequence[str],
    tmp_path: Path,
    sharded: bool,
) -> None:
    def command(outputs: str, *more: str) -> list[str]:
        return [*small, f"paths.outputs={tmp_path / outputs}", "ppo.episodes=80", "task.holdout=0.2", *more]

    assert run_cli(*command("one")).code == 0
    two = command("two", "processes=2", f"model.shard={str(sharded).lower()}")
    first = start_cli(*two)
    until = time.monotonic() + 90
    while not (list((tmp_path / "two").glob("runs/*/metrics.jsonl")) and len(metrics(tmp_path / "two")) > 4):
        assert first.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    _, err = first.communicate(timeout=60)
    assert "stopped by a signal" in err and "Traceback" not in err
    assert 4 < len(metrics(tmp_path / "two")) < 21
    assert run_cli(*two).code == 0
    for row, expected in zip(metrics(tmp_path / "two"), metrics(tmp_path / "one"), strict=True):
        assert row == pytest.approx(expected, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("sharded", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_one_process_standardises_the_reward(
    run_cli: Callable[..., Result], small: Sequence[str], tmp_path: Path, sharded: bool
) -> None:
    """It may ask a server, or write a file. Wrong version: each process calls it."""
    (tmp_path / "mine.py").write_text(
        "import os\n"
        "class Mine:\n"
        "    def standardise(self, samples):\n"
        "        prompts, responses = samples()\n"
        "        assert len(prompts) == len(responses) == 512\n"
        "        with open('calls', 'a') as file:\n"
        "            file.write(f'standardise {os.getpid()}\\n')\n"
        "    def __call__(self, *, responses, **_):\n"
        "        with open('calls', 'a') as file:\n"
        "            file.write(f'call {os.getpid()}\\n')\n"
        "        return [0.1 * len(response) for response in responses]\n"
    )
    (tmp_path / "conf/reward").mkdir(parents=True)
    (tmp_path / "conf/reward/mine.yaml").write_text("_target_: mine.Mine\n")
    words = ["reward=mine", "processes=2", f"model.shard={str(sharded).lower()}", "ppo.episodes=4"]
    result = run_cli("--config-dir=conf", *small, *words, "evaluation.text=null", pythonpath=tmp_path)
    assert result.code == 0, result.err
    calls = [line.split() for line in (tmp_path / "calls").read_text().splitlines()]
    assert [what for what, _ in calls].count("standardise") == 1
    assert "call" in {what for what, _ in calls} and len({pid for _, pid in calls}) == 1


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["processes=3"], "processes=3: ppo.batch_size=4 in ppo.minibatches=1 can't be divided into equal shares"),
        (["processes=2", "ppo.dropout=true"], "processes=2: ppo.dropout=true would draw other masks"),
        (["model.shard=true"], "model.shard=true: needs processes > 1"),
        (["processes=2", "model.shard=true", "model.dtype=bfloat16"], "model.shard=true: needs model.dtype=float32"),
    ],
)
def test_what_cannot_be_divided_is_refused(
    call_cli: Callable[..., Result], small: Sequence[str], overrides: list[str], line: str
) -> None:
    result = call_cli(*small, *overrides)
    assert result.code == 2 and line in result.error_line
