"""Runs as a data frame."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from analysis_runs import UPDATES, ramp, write_run

import pgsrm
from pgsrm.analysis.frames import load_runs
from pgsrm.util.errors import UserError


def test_a_row_an_update_with_config_keys_as_columns(tmp_path: Path) -> None:
    for alpha in (1.0, 8.0):
        write_run(
            tmp_path, "color", seed=3, config={"reward": {"alpha": alpha, "key": 7}, "x": {"list": [1], "no": None}}
        )
    write_run(tmp_path, "antonym", "binary", exact=(0.1, 0.8), state="failed", config={"reward": {"checker": "c"}})
    runs = load_runs(tmp_path)
    assert len(runs) == 3 * UPDATES + 1  # one has an evaluation before training
    assert list(runs.columns[:5]) == ["run", "folder", "state", "task", "reward"]
    of_alpha = runs[runs["reward.alpha"] == 8]
    assert len(of_alpha) == UPDATES and set(of_alpha["seed"]) == {3} and set(of_alpha["task"]) == {"color"}
    assert list(of_alpha["reward/mean"]) == pytest.approx(ramp(0.1, 0.7))
    assert set(of_alpha["x.list"]) == {"[1]"} and of_alpha["x.no"].isna().all()
    assert set(of_alpha["reward.key"]) == {"***"}
    binary = runs[runs["reward"] == "binary"]
    assert binary["reward.alpha"].isna().all() and set(binary["state"]) == {"failed"}
    assert binary.set_index("update").loc[0, "eval/train_exact_match"] == 0.1
    # The plot of one's own is one line.
    means = runs[runs["update"] > 90].groupby("reward.alpha")["reward/mean"].mean()
    assert means.to_dict() == pytest.approx({1.0: 0.7, 8.0: 0.7})
    assert isinstance(load_runs([tmp_path]), pd.DataFrame) and len(load_runs([tmp_path, tmp_path])) == len(runs)


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such folder"):
        load_runs(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no run folder in it"):
        load_runs(tmp_path)
    broken = write_run(tmp_path)
    with (broken / "metrics.jsonl").open("a") as file:
        file.write('{"update": 101, "rew')
    assert len(load_runs(broken)) == UPDATES
    lines = (broken / "metrics.jsonl").read_text().splitlines()
    (broken / "metrics.jsonl").write_text("\n".join([*lines[:5], lines[5][:20], *lines[6:], ""]))
    for read in (
        lambda: load_runs(broken),
        lambda: pgsrm.Run(broken).metrics,
    ):  # wrong version: a row less, without a word
        with pytest.warns(UserWarning, match=r"metrics.jsonl: 2 broken lines left out"):
            assert not {6, 101} & set(read()["update"])
    (broken / "metrics.jsonl").write_text("")
    with (
        pytest.warns(UserWarning, match="metrics.jsonl has no line"),
        pytest.raises(UserError, match="none of the run"),
    ):
        load_runs(broken)


@pytest.mark.filterwarnings("error")
def test_a_run_that_has_not_begun_has_no_row_and_no_warning(tmp_path: Path) -> None:
    """Wrong version: a warning for each run of a large sweep that has only just been started."""
    begun, waiting = (write_run(tmp_path / name) for name in ("begun", "waiting"))
    (waiting / "metrics.jsonl").write_text("")
    status = json.loads((waiting / "status.json").read_text())
    (waiting / "status.json").write_text(json.dumps(status | {"state": "waiting"}))
    assert load_runs(tmp_path)["folder"].unique().tolist() == [str(begun)]


def test_help_and_errors_import_neither_pandas_nor_matplotlib(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pgsrm.analysis.plot_figures import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'pandas', 'matplotlib', 'torch', 'mlflow', 'numpy'} & set(sys.modules)))"
    )
    for words in (["--help"], ["--runs", str(tmp_path / "none")], ["--formats", "gif"]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == "[]", (words, done.stderr)
