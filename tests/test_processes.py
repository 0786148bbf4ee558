"""One run in several processes: the numbers of one process, whatever is divided among them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from several_processes import CASES, SHARDED, alone


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
