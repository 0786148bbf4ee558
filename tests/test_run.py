"""The whole command on a tiny model: one run, a sweep, what they leave behind, and resuming what was cut off."""

import contextlib
import json
import math
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import environment, whole_and_resumed
from safetensors.torch import load_file

from pgsrm.config.compose import plan_words
from pgsrm.config.plan import Plan
from pgsrm.record import RunFolder
from pgsrm.record.measured import is_measured
from pgsrm.util.errors import UserError

Train = Callable[..., RunFolder]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_times(folder: RunFolder) -> list[dict[str, Any]]:
    """metrics.jsonl but for what may differ between two equal runs."""
    return [{k: v for k, v in row.items() if not is_measured(k)} for row in rows(folder.metrics)]


def weights(folder: RunFolder) -> torch.Tensor:
    tensors = load_file(folder.model / "model.safetensors")
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


@pytest.fixture
def train_here(small: Sequence[str], tmp_path: Path, resume: Callable[..., None]) -> Train:
    """`train_here(*overrides, outputs="outputs", end="finished")`: a small run, trained in this process."""

    def train(*overrides: str, outputs: str = "outputs", end: str = "finished") -> RunFolder:
        given = {each.lstrip("+").partition("=")[0] for each in overrides}
        defaults = [each for each in small if each.partition("=")[0] not in {*given, "paths.outputs"}]
        made = plan_words(*defaults, f"paths.outputs={tmp_path / outputs}", *overrides)
        made.freeze()
        resume(made.folder, end)
        return made.folder

    return train


# A sweep, as a user starts it


@pytest.fixture(scope="module")
def sweep(model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two tasks x two rewards with MLflow, started twice in an empty folder."""
    import subprocess

    here = tmp_path_factory.mktemp("sweep")
    command = [sys.executable, "-m", "pgsrm.run", "-m", "task=color,antonym", "reward=pgsrm,binary"]
    command += [f"model.path={model_folders['gpt2']}", "threads=1", "hydra.launcher.slots=2", "task.holdout=0.2"]
    command += ["ppo.batch_size=4", "ppo.episodes=16"]
    command += ["evaluation.every=2", "evaluation.samples=3", "evaluation.text=null"]

    def start() -> Any:
        return subprocess.run(command, cwd=here, env=environment(), capture_output=True, text=True, timeout=240)

    first = start()
    folders = sorted((here / "outputs/runs").iterdir())
    before = {path: path.stat().st_mtime_ns for path in (here / "outputs/runs").rglob("*")}
    return {"here": here, "first": first, "folders": folders, "before": before, "second": start()}


def test_a_sweep_trains_every_combination(sweep: dict[str, Any]) -> None:
    assert sweep["first"].returncode == 0, sweep["first"].stderr
    names = [folder.name.rpartition("-s0-")[0] for folder in sweep["folders"]]
    assert names == [f"{task}-{reward}-gpt2-sound" for task in ("antonym", "color") for reward in ("binary", "pgsrm")]
    for path in sweep["folders"]:
        folder = RunFolder(path)
        status = folder.status()
        assert status is not None
        assert (status["state"], status["update"], status["updates"], status["episodes"]) == ("finished", 4, 4, 16)
        assert status["reason"] is None
        assert status["threads"] == 1
        assert len(status["identity"]) == len(status["variant"]) == 64
        assert not folder.checkpoints.exists()
        assert (folder.model / "model.safetensors").exists() and (folder.model / "tokenizer.json").exists()


def test_a_sweeps_metrics(sweep: dict[str, Any]) -> None:
    for path in sweep["folders"]:
        lines = rows(path / "metrics.jsonl")
        assert [line["update"] for line in lines] == [0, 1, 2, 3, 4]
        assert [line["episodes"] for line in lines] == [0, 4, 8, 12, 16]
        evaluated = [line["update"] for line in lines if "eval/train_exact_match" in line]
        assert evaluated == [0, 2, 4]
        assert all("eval/holdout_reward" in line for line in lines if "eval/train_reward" in line)
        documented = {"reward/mean", "reward/std", "reward/exact_match", "reward/no_signal", "policy/entropy"}
        documented |= {"policy/kl", "policy/kl_coef", "loss/policy", "loss/value", "response/length", "response/eos"}
        documented |= {"time/update", "time/left", "time/tokens_per_second", "memory/resident_peak"}
        assert all(documented <= line.keys() for line in lines[1:])
        assert all(isinstance(v, int | float) and math.isfinite(v) for line in lines for v in line.values())
        assert 0 < lines[1]["policy/entropy"] <= math.log(300)
        assert lines[1]["policy/kl"] == pytest.approx(0, abs=1e-5)
        for line in lines[1:]:
            tokens = line["response/length"] * 4
            assert line["time/tokens_per_second"] * line["time/update"] == pytest.approx(tokens)
            assert 0.1 < line["memory/resident_peak"] < 8
            assert (line["time/left"] > 0) == (line["update"] < 4)
        passed = lines[1]["time/update"] + lines[2]["time/update"]  # no evaluation between the first two updates
        assert lines[1]["time/left"] == pytest.approx(3 * lines[1]["time/update"])
        assert passed <= lines[2]["time/left"] < 2 * passed
        samples = rows(path / "samples.jsonl")
        assert [sample["update"] for sample in samples] == [2] * 3 + [4] * 3
        keys = {"update", "prompt", "reference", "response", "reward", "exact_match"}
        assert all(keys <= sample.keys() for sample in samples)


def test_a_sweep_is_mirrored_in_mlflow(sweep: dict[str, Any]) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{sweep['here'] / 'outputs/mlflow.db'}")
    experiment = client.get_experiment_by_name("pgsrm")
    runs = {Path(run.data.tags["folder"]).name: run for run in client.search_runs([experiment.experiment_id])}
    assert sorted(runs) == [folder.name for folder in sweep["folders"]]
    names = [f"{task} {reward} s0, gpt2 sound" for task in ("antonym", "color") for reward in ("binary", "pgsrm")]
    assert [runs[name].info.run_name for name in sorted(runs)] == names
    for folder in sweep["folders"]:
        run = runs[folder.name]
        assert run.info.status == "FINISHED"
        task, reward = folder.name.split("-")[:2]
        assert (run.data.params["task"], run.data.params["reward"]) == (task, reward)
        assert run.data.params["ppo.batch_size"] == "4"
        assert run.data.tags["sweep"]
        history = client.get_metric_history(run.info.run_id, "policy/entropy")
        assert {m.step: m.value for m in history} == {
            line["update"]: line["policy/entropy"] for line in rows(folder / "metrics.jsonl")[1:]
        }
    assert len({run.data.tags["sweep"] for run in runs.values()}) == 1


def test_a_sweep_ends_with_a_table_and_where_everything_is(sweep: dict[str, Any]) -> None:
    lines = sweep["first"].stdout.splitlines()
    assert lines[0] == "4 runs: 4 new"
    assert sum("finished" in line and "task=color reward=binary" in line for line in lines) == 1
    assert lines[-3] == f"runs: {sweep['here']}/outputs/runs"
    assert "mlflow.db" in lines[-2]
    assert lines[-1].startswith(f"report: {sweep['here']}/outputs/figures/report.html, which ")


def test_the_same_sweep_again_trains_nothing(sweep: dict[str, Any]) -> None:
    assert sweep["second"].returncode == 0, sweep["second"].stderr
    assert sweep["second"].stdout.splitlines()[0] == "4 runs: 4 finished"
    here = sweep["here"]
    assert {p: p.stat().st_mtime_ns for p in (here / "outputs/runs").rglob("*")} == sweep["before"]


def test_a_sweep_leaves_nothing_beside_its_outputs(sweep: dict[str, Any]) -> None:
    """Wrong version: Hydra's multirun.yaml, .hydra or logs in the working directory."""
    assert [path.name for path in sweep["here"].iterdir()] == ["outputs"]


# One run


def test_one_run_prints_its_end_and_is_skipped_the_second_time(
    run_cli: Callable[..., Any], small: Sequence[str], tmp_path: Path
) -> None:
    first = run_cli(*small, "reward=binary")
    assert first.code == 0, first.err
    assert first.out.splitlines()[0].startswith(
        "color-binary-gpt2-sound-batch_size=4-episodes=16-holdout=0-s0 finished in "
    )
    assert "4/4" in first.err
    (folder,) = (tmp_path / "outputs/runs").iterdir()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    second = run_cli(*small, "reward=binary")
    assert (second.code, second.err) == (0, "")
    assert second.out == first.out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_the_frozen_config_has_no_interpolations_left(train_here: Train) -> None:
    folder = train_here()
    assert "${" not in folder.config.read_text()
    assert "choices:" in folder.config.read_text()


def test_same_seed_same_numbers_bit_for_bit_and_another_seed_others(train_here: Train) -> None:
    first, again = train_here(outputs="a"), train_here(outputs="b")
    other = train_here("seed=1", outputs="a")
    assert without_times(first) == without_times(again)
    assert first.samples.read_text() == again.samples.read_text()
    assert torch.equal(weights(first), weights(again))
    assert first.name == again.name != other.name
    assert [r["prompt"] for r in rows(first.samples)] != [r["prompt"] for r in rows(other.samples)]
    assert without_times(first)[1:] != without_times(other)[1:]


def test_the_run_changes_the_policy(train_here: Train, tiny: Path) -> None:
    trained = load_file(train_here("ppo.actor_lr=1e-3").model / "model.safetensors")
    initial = load_file(tiny / "model.safetensors")
    assert trained.keys() == initial.keys()
    assert all((trained[name] - initial[name]).abs().max() < 0.01 for name in initial)
    assert max((trained[name] - initial[name]).abs().max().item() for name in initial) > 1e-3


@pytest.mark.parametrize("ppo", ["grpo", "rloo", "textbook"])
def test_the_fields_usual_algorithms(train_here: Train, ppo: str) -> None:
    """Each trains, and one with groups draws every prompt as often as its group is large."""
    each = ["evaluation.every=1", "evaluation.samples=4"]
    run = train_here(f"ppo={ppo}", "ppo.group_size=2" if ppo != "textbook" else "ppo.epochs=2", *each)
    metrics = [line for line in rows(run.metrics) if "loss/actor" in line]
    assert len(metrics) > 1
    assert all(math.isfinite(line["loss/actor"]) for line in metrics)
    prompts = [sample["prompt"] for sample in rows(run.samples) if sample["update"] == 1]
    if ppo != "textbook":
        assert prompts[::2] == prompts[1::2]


def test_16_micro_batches_change_no_draw(train_here: Train) -> None:
    """The same prompts and the same responses; numbers up to rounding."""
    whole, split = train_here(outputs="a"), train_here("ppo.micro_batch=1", outputs="a")
    assert whole.name != split.name
    assert [(r["prompt"], r["response"]) for r in rows(whole.samples)] == [
        (r["prompt"], r["response"]) for r in rows(split.samples)
    ]
    for mine, theirs in zip(without_times(whole), without_times(split), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-4)


def test_16_drawing_prompts_does_not_depend_on_sampling(train_here: Train) -> None:
    """Wrong version: one generator for both; a longer response would change which prompts are drawn."""
    short, long = train_here("task.max_new_tokens=1"), train_here("task.max_new_tokens=5")
    prompts = [[r["prompt"] for r in rows(folder.samples)] for folder in (short, long)]
    assert prompts[0] == prompts[1]


def test_holdout_is_evaluated_and_never_trained_on(
    train_here: Train, own_module: Callable[[str], str], tmp_path: Path
) -> None:
    module = own_module(
        "SEEN = []\n"
        "def reward(*, prompts, responses, **_):\n"
        "    SEEN.append(prompts)\n"
        "    return [len(response) / 9 for response in responses]\n"
    )
    folder = train_here(*own(module), "task.holdout=0.2", "ppo.episodes=40")
    batches = sys.modules[module].SEEN
    evaluations = [batch for batch in batches if len(batch) > 4]
    held_out = set(evaluations[1])
    assert set(evaluations[0]) | held_out == {*evaluations[0], *evaluations[1]}
    assert len(held_out) == 18  # a fifth of 90, both orders of a pair together
    trained = {prompt for batch in batches if len(batch) == 4 for prompt in batch}
    assert trained and not trained & held_out
    assert "eval/holdout_exact_match" in rows(folder.metrics)[-1]


# As a library


def test_help_and_a_folder_that_is_none(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    shown = run_cli("--help", module="pgsrm.train")
    assert shown.code == 0 and "FOLDER" in shown.out and shown.err == ""
    missing = run_cli("nowhere", module="pgsrm.train")
    assert missing.code == 2
    assert missing.error_line.startswith("pgsrm: nowhere: no run folder (no config.yaml)")
    assert not (tmp_path / "nowhere").exists()


def planned(small: Sequence[str]) -> RunFolder:
    made = plan_words(*small)
    made.freeze()
    return made.folder


def test_a_run_leaves_signals_and_threads_as_they_were(small: Sequence[str]) -> None:
    from pgsrm.train import run

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
    before = [signal.getsignal(number) for number in numbers]
    torch.set_num_threads(2)
    try:
        assert run(planned(small), show_progress=False) == "finished"
        assert torch.get_num_threads() == 2  # the run has threads=1
    finally:
        torch.set_num_threads(1)
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_run_in_a_thread_sets_no_handlers_and_shows_what_it_is_asked_to(small: Sequence[str]) -> None:
    """Python sets signal handlers in the main thread alone. Wrong version: ValueError."""
    import threading

    from pgsrm.train import run

    folder, states, shown = planned(small), list[str](), list[float]()
    thread = threading.Thread(target=lambda: states.append(run(folder, show=lambda m: shown.append(m["update"]))))
    thread.start()
    thread.join(60)
    assert states == ["finished"] and shown == [1, 2, 3, 4]


def test_a_second_interrupt_ends_a_run_at_once(
    small: Sequence[str], own_module: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one waits for the update, whose reward here takes long; both times the handlers are given back."""
    from pgsrm.train import run

    module = own_module(
        "import os, signal\n"
        "def reward(*, responses, **_):\n"
        "    if len(responses) == 4:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        raise AssertionError('went on')\n"
        "    return [0.0] * len(responses)\n"
    )
    before = signal.getsignal(signal.SIGINT)
    folder = planned([*small, *own(module)])
    assert run(folder, show_progress=False) == "stopped"
    assert signal.getsignal(signal.SIGINT) is before
    assert not folder.checkpoints.exists()


def test_ctrl_c_before_a_run_has_its_handlers_is_a_line(
    call_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """While a config is composed, a sweep is planned, figures are drawn. Wrong version: forty lines of traceback."""
    from pgsrm.analysis import plot_figures
    from pgsrm.launch import status, sync

    def pressed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pgsrm.config.compose.plan_run", pressed)
    monkeypatch.setattr("pgsrm.run._run_hydra", pressed)
    monkeypatch.setattr("pgsrm.launch.status.find_runs", pressed)
    monkeypatch.setattr("pgsrm.launch.sync.find_runs", pressed)
    monkeypatch.setattr("pgsrm.analysis.plot_figures._load", pressed)
    for words in ([], ["-m", "seed=0,1"]):
        result = call_cli("task=color", *words)
        told = "pgsrm: interrupted; the same command starts or resumes what has not finished\n"
        assert (result.code, result.err) == (130, told)
    for main in (status.main, sync.main, lambda: sys.exit(plot_figures.main([]))):
        monkeypatch.setattr(sys, "argv", ["pgsrm"])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 130
        assert re.fullmatch(r"pgsrm(\.analysis)?: interrupted.*\n", capfd.readouterr().err)


def test_a_config_that_was_emptied_or_cut_is_a_line(small: Sequence[str], resume: Callable[..., None]) -> None:
    """The run's command writes it again. Wrong version: KeyError: 'paths'."""
    from pgsrm.config.plan import load_settings

    folder = planned(small)
    whole = folder.config.read_text()
    for content in (
        "",
        "- a list\n",
        "task: [\n",
        *(whole[: whole.index(f"\n{key}:") + 1] for key in ("paths", "ppo")),
    ):
        folder.config.write_text(content)
        with pytest.raises(
            UserError, match=r"config.yaml: empty, cut off or broken \(no \w+ in it\); an unfinished run's"
        ):
            load_settings(folder)
    assert planned(small).config.read_text() == whole
    resume(folder)


# A reward of the user's own


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """`own_module(source)`: the name of a module with that source that can be imported, here and in runs."""
    made = []

    def write(source: str) -> str:
        name = f"own_reward_{len(made)}"
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        made.append(name)
        return name

    yield write
    for name in made:
        sys.modules.pop(name, None)


def own(module: str, name: str = "reward", partial: bool = True) -> list[str]:
    """Overrides that put `module.name` in the place of the reward."""
    node = f"{{_target_:{module}.{name}" + (",_partial_:true}" if partial else "}")
    return ["~reward", f"+reward={node}"]


CONTRACT = """
CALLS = []
def reward(*, prompts, references, responses, inputs, token_ids, offsets):
    CALLS.append(dict(prompts=prompts, references=references, responses=responses, inputs=inputs,
                      token_ids=token_ids, offsets=offsets))
    return [len(response) / 10 for response in responses], {"long": 0.5}
"""


def test_a_function_gets_what_the_contract_says(train_here: Train, own_module: Callable[[str], str]) -> None:
    module = own_module(CONTRACT)
    folder = train_here(*own(module))
    assert [line.get("reward/long") for line in rows(folder.metrics)] == [None, 0.5, 0.5, 0.5, 0.5]
    for call in sys.modules[module].CALLS:
        count = len(call["prompts"])
        assert {len(value) for value in call.values()} == {count}
        for prompt, reference, response, inputs, ids, offsets in zip(*call.values(), strict=True):
            assert prompt.endswith(f"one lowercase color name: {inputs['c1']} and {inputs['c2']} is => ")
            assert reference and "reference" not in inputs
            assert 1 <= len(ids) == len(offsets) <= 2
            assert "".join(response[start:end] for start, end in offsets) == response
    batch = sys.modules[module].CALLS[1]
    assert rows(folder.metrics)[1]["reward/mean"] == pytest.approx(sum(map(len, batch["responses"])) / 40)


def test_a_class_with_parameters(train_here: Train, own_module: Callable[[str], str]) -> None:
    module = own_module(
        "class Weighted:\n"
        "    def __init__(self, weight: float = 1.0) -> None:\n"
        "        self.weight = weight\n"
        "    def __call__(self, *, responses, **_):\n"
        "        return [self.weight for _ in responses]\n"
    )
    folder = train_here("~reward", f"+reward={{_target_:{module}.Weighted,weight:0.25}}")
    lines = rows(folder.metrics)[1:]
    assert [line["reward/mean"] for line in lines] == [0.25] * 4
    assert [line["reward/no_signal"] for line in lines] == [1.0] * 4  # nothing to learn from


@pytest.mark.parametrize(("ppo", "silent"), [("grpo", 1.0), ("rloo", 1.0), ("sound", 0.0)])
def test_a_group_of_equal_rewards_has_no_signal(
    train_here: Train, own_module: Callable[[str], str], ppo: str, silent: float
) -> None:
    """Each prompt's responses earn the same, and each prompt something else: no signal where a group is the baseline."""
    module = own_module(
        "def own(*, prompts, **_):\n    return [sum(map(ord, prompt)) % 97 / 97 for prompt in prompts]\n"
    )
    folder = train_here(
        "~reward", f"+reward={{_target_:{module}.own,_partial_:true}}", f"ppo={ppo}", "ppo.group_size=2"
    )
    lines = [line for line in rows(folder.metrics)[1:] if line["reward/std"] > 0]
    assert lines and [line["reward/no_signal"] for line in lines] == [silent] * len(lines)
    if silent:
        # rloo takes the KL from the reward, and that alone is left
        assert [line["advantage/std"] for line in lines] == pytest.approx([0.0] * len(lines), abs=1e-3)


def test_a_reward_a_token(train_here: Train, own_module: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A span's reward mapped onto tokens by offsets; what is trained on are the ids that were sampled."""
    import pgsrm.trainer
    from pgsrm.models.text import Codec

    module = own_module(
        "IDS, REWARDS = [], []\n"
        "def reward(*, responses, token_ids, offsets, **_):\n"
        "    rewards = [[0.5 if r[a:b].isalpha() else -0.25 for a, b in o] for r, o in zip(responses, offsets)]\n"
        "    if len(responses) == 4:\n"
        "        IDS.append(token_ids), REWARDS.append(rewards)\n"
        "    return rewards\n"
    )
    stepped, encoded = [], []
    step, encode = pgsrm.trainer.step, Codec.encode
    monkeypatch.setattr(pgsrm.trainer, "step", lambda *args: stepped.append(args[1:4]) or step(*args))
    monkeypatch.setattr(Codec, "encode", lambda self, text: encoded.append(text) or encode(self, text))
    folder = train_here(*own(module), "task.max_new_tokens=6")
    mine = sys.modules[module]
    assert [responses for _, responses, _ in stepped] == mine.IDS
    assert [rewards for _, _, rewards in stepped] == mine.REWARDS
    assert len({len(row) for batch in mine.IDS for row in batch}) >= 1
    assert all(text.startswith("Mix the two colors and ") for text in encoded)  # prompts alone
    totals = [sum(map(sum, batch)) / 4 for batch in mine.REWARDS]
    assert [line["reward/mean"] for line in rows(folder.metrics)[1:]] == pytest.approx(totals)
    samples = rows(folder.samples)
    of_second = [sample for sample in samples if sample["update"] == 2]
    assert [sample["token_rewards"] for sample in of_second] == mine.REWARDS[1][:3]
    assert [len(sample["offsets"]) for sample in of_second] == [len(ids) for ids in mine.IDS[1][:3]]
    for sample in samples:
        assert sample["reward"] == pytest.approx(sum(sample["token_rewards"]))
        pieces = [sample["response"][start:end] for start, end in sample["offsets"]]
        assert "".join(pieces) == sample["response"]
        assert [0.5 if piece.isalpha() else -0.25 for piece in pieces] == sample["token_rewards"]
        assert "annotations" not in sample
    assert all(
        {"reward/token_mean", "reward/token_std", "reward/token_share"} <= line.keys()
        for line in rows(folder.metrics)[1:]
    )


def test_annotations_are_in_the_samples_and_their_components_in_the_metrics(
    train_here: Train, own_module: Callable[[str], str]
) -> None:
    module = own_module(
        "def reward(*, responses, **_):\n"
        "    notes = [{'spans': [(0, len(r), 'all', 0.5)], 'components': {'long': len(r) / 10}} for r in responses]\n"
        "    return [0.5 + len(r) / 10 for r in responses], {}, notes\n"
    )
    folder = train_here(*own(module))
    for sample in rows(folder.samples):
        length = len(sample["response"])
        expected = {"spans": [[0, length, "all", 0.5]], "components": {"long": length / 10}}
        assert sample["annotations"] == expected
        assert "token_rewards" not in sample and "offsets" not in sample
    assert all(
        line["reward/component_long"] == pytest.approx(line["reward/mean"] - 0.5, abs=1e-6)
        and line["reward/spans"] == 1
        for line in rows(folder.metrics)[1:]
    )


# Data and tasks of the user's own


def test_data_of_the_users_own(train_here: Train, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("words,reference\nhot,cold\nup,down\nwet,dry\n")
    folder = train_here("task=antonym", f"task.data={tmp_path / 'mine.csv'}", "reward=binary")
    prompts = {row["prompt"] for row in rows(folder.samples)}
    assert prompts <= {f"The opposite of '{word}' is " for word in ("hot", "up", "wet")}


@pytest.mark.parametrize("mode", [[], ["-m"]], ids=["run", "sweep"])
def test_a_task_by_yaml_and_data_alone(
    run_cli: Callable[..., Any], small: Sequence[str], tmp_path: Path, mode: list[str]
) -> None:
    """The README's recipe: no code. The run knows the folder, for the command that the report prints."""
    (tmp_path / "conf/task").mkdir(parents=True)
    (tmp_path / "young.csv").write_text("animal,reference\ndog,puppy\ncat,kitten\nhen,chick\n")
    (tmp_path / "conf/task/young.yaml").write_text(
        "data: young.csv\n"
        'template: "A young {animal} is a "\n'
        "max_new_tokens: 3\n"
        "checker:\n  _target_: pgsrm.task.NormalizedEquality\n"
    )
    result = run_cli(*mode, "--config-dir=conf", *(word for word in small if "holdout" not in word), "task=young")
    assert result.code == 0, result.err
    (folder,) = (tmp_path / "outputs/runs").iterdir()
    assert folder.name.startswith("young-pgsrm-gpt2-sound-")
    assert (RunFolder(folder).status() or {})["config_dir"] == str(tmp_path / "conf")
    prompts = {row["prompt"] for row in rows(folder / "samples.jsonl")}
    assert prompts <= {f"A young {animal} is a " for animal in ("dog", "cat", "hen")}


# Identity


def test_what_decides_a_run_is_its_name(small: Sequence[str], tmp_path: Path) -> None:
    def names(*overrides: str) -> Plan:
        given = {each.partition("=")[0] for each in overrides}
        return plan_words(*[each for each in small if each.partition("=")[0] not in given], *overrides)

    plain = names()
    elsewhere = ["threads=2", "checkpoint.minutes=9", "tracking=mlflow", "model.device=cpu"]
    assert {names(each).identity for each in elsewhere} == {plain.identity}
    others = ["seed=1", "ppo.actor_lr=2e-5", "reward.alpha=3", "task.holdout=0.1", "ppo.episodes=20"]
    assert len({names(each).identity for each in others} | {plain.identity}) == len(others) + 1
    assert names("seed=1").variant == plain.variant != names("ppo.actor_lr=2e-5").variant
    assert not (tmp_path / "outputs").exists()  # planning makes nothing


def test_prompts_count_by_content_and_not_by_file(small: Sequence[str], tmp_path: Path) -> None:
    identities = []
    for name, answer in (("a.csv", "cold"), ("b.csv", "cold"), ("c.csv", "icy")):
        (tmp_path / name).write_text(f"word,reference\nhot,{answer}\n")
        identities.append(plan_words(*small, "task=antonym", f"task.data={tmp_path / name}").identity)
    assert identities[0] == identities[1] != identities[2]


# Cut off and resumed

INTERRUPTED = """
import os, random, signal
import numpy as np
CALLS = 0
def reward(*, responses, **_):
    # In a batch's call (evaluations have all prompts), sends this process the signals of INTERRUPT, "SIGKILL:3,...".
    global CALLS
    if len(responses) == 4:
        CALLS += 1
        for each in filter(None, os.environ.get("INTERRUPT", "").split(",")):
            name, _, call = each.partition(":")
            if CALLS == int(call):
                os.kill(os.getpid(), getattr(signal, name))
    noise = random.random() + np.random.random()
    return [len(set(response)) / 5 + noise / 100 for response in responses]
"""
STATEFUL = ["ppo.kl_control=ziegler", "ppo.kl_target=0.1", "ppo.kl_horizon=50", "ppo.kl_reference=previous"]
STATEFUL += ["ppo.kl_estimator=k3", "ppo.dropout=true", "ppo.minibatches=2", "ppo.clip_range=0.2"]


@pytest.mark.slow
def test_two_threads_resume_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On nano, whose products are large enough to be divided among threads. Slow where other tests use the second core."""
    words = ["task=color", "threads=2", "tracking=none", f"paths.outputs={tmp_path}", "task.holdout=0"]
    words += ["ppo.batch_size=32", "ppo.episodes=128", "evaluation.every=4", "evaluation.text=null"]
    whole, resumed = whole_and_resumed(words, monkeypatch)
    names = [name for name in whole if not is_measured(name)]
    assert len(whole) == 4 and resumed[names].equals(whole[names])


@pytest.mark.parametrize(
    ("signals", "minutes", "overrides"),
    [
        ("SIGKILL:4", "1e-9", STATEFUL),  # a checkpoint after every update, the last one after the third
        ("SIGUSR2:2,SIGKILL:5", "100", []),  # two lines of metrics are ahead of the only checkpoint
        ("SIGTERM:3", "100", STATEFUL),  # ends after the update, with a checkpoint
    ],
    ids=["kill", "kill-behind", "term"],
)
def test_a_run_that_is_cut_off_goes_on_as_if_nothing_had_happened(
    run_cli: Callable[..., Any],
    train_here: Train,
    resume: Callable[..., None],
    own_module: Callable[[str], str],
    small: Sequence[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    signals: str,
    minutes: str,
    overrides: list[str],
) -> None:
    module = own_module(INTERRUPTED)
    overrides = [*own(module), *overrides, f"checkpoint.minutes={minutes}", "ppo.actor_lr=1e-3"]
    command = [*[each for each in small if "episodes" not in each], "ppo.episodes=24", *overrides]
    undisturbed = train_here(*overrides, "ppo.episodes=24", outputs="undisturbed")

    monkeypatch.setenv("INTERRUPT", signals)
    cut = run_cli(*command, pythonpath=tmp_path)
    (folder,) = (RunFolder(path) for path in (tmp_path / "outputs/runs").iterdir())
    assert folder.name.rpartition("-")[2] == undisturbed.name.rpartition("-")[2]  # the same identity
    if signals.startswith("SIGTERM"):
        assert cut.code == 2
        assert folder.state() == "stopped"
        assert "the same command resumes it" in cut.err.splitlines()[-1]
        assert rows(folder.metrics)[-1]["update"] == 3
    else:
        assert cut.code == -signal.SIGKILL
        assert folder.state() == "cut off"
        assert 2 <= rows(folder.metrics)[-1]["update"] <= 4

    monkeypatch.delenv("INTERRUPT")
    resume(folder)
    assert folder.state() == "finished"
    if signals.startswith("SIGTERM"):
        assert (folder.status() or {})["began_at"] == 3
    assert without_times(folder) == without_times(undisturbed)
    assert folder.samples.read_text() == undisturbed.samples.read_text()
    assert torch.equal(weights(folder), weights(undisturbed))


def test_a_run_that_was_cut_off_before_its_first_checkpoint_begins_again(train_here: Train) -> None:
    undisturbed, again = train_here(outputs="a"), train_here(outputs="b")
    lines = again.metrics.read_bytes().splitlines(keepends=True)
    again.metrics.write_bytes(b"".join(lines[:3]) + lines[3][:20])  # as a kill leaves it
    again.write_status(state="running", pid=2**22)
    assert again.state() == "cut off"
    train_here(outputs="b")
    assert without_times(again) == without_times(undisturbed)
    assert again.samples.read_text() == undisturbed.samples.read_text()


@pytest.mark.parametrize(
    ("returns", "what"),
    [
        ("[1.0]", "it returned 1 reward for 90 responses; return one for each"),
        ("1 / 0", "ZeroDivisionError: division by"),
        ("__import__('sys').exit(3)", "SystemExit: 3"),
    ],
)
def test_a_reward_that_fails_is_the_reason_of_its_run(
    train_here: Train, own_module: Callable[[str], str], tmp_path: Path, returns: str, what: str
) -> None:
    """What a user can mend ends the run; anything else is also raised, for its traceback."""
    module = own_module(f"def reward(**_):\n    return {returns}\n")
    with contextlib.suppress(ZeroDivisionError, SystemExit):
        train_here(*own(module), end="failed")
    (folder,) = (RunFolder(path) for path in (tmp_path / "outputs/runs").iterdir())
    assert folder.state() == "failed"
    assert what in (folder.status() or {})["reason"]


def test_a_sweep_outlives_a_run_that_is_killed_and_stops_when_asked(
    start_cli: Callable[..., Any], small: Sequence[str], own_module: Callable[[str], str], tmp_path: Path
) -> None:
    """Of three runs one is killed, as by the kernel when memory runs out; the next one starts all the same.

    SIGTERM to the command then reaches it, and it writes a checkpoint; the last run waits.
    """
    module = own_module(
        "import os, pathlib, signal, time\n"
        "calls = []\n"
        "def reward(*, responses, fatal=False, **_):\n"
        "    if fatal:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    calls.append(1)\n"
        "    if len(calls) > 1:  # the first call is the evaluation before training\n"
        f"        pathlib.Path({str(tmp_path / 'begun')!r}).touch()\n"
        "    time.sleep(0.3)\n"
        "    return [len(response) / 5 for response in responses]\n"
    )
    runs = "+reward.fatal=true,false,0", "ppo.episodes=400"
    process = start_cli("-m", *small, *own(module), *runs, "hydra.launcher.slots=1", pythonpath=tmp_path)
    wait_for(lambda: (tmp_path / "begun").exists())
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "Traceback" not in err
    assert "3 of 3 runs did not finish" in err.splitlines()[-1]
    folders = {RunFolder(path).state(): RunFolder(path) for path in (tmp_path / "outputs/runs").iterdir()}
    assert set(folders) == {"failed", "stopped", "waiting"}
    assert "killed by SIGKILL; if memory ran out: a smaller hydra.launcher.slots or ppo.micro_batch" in out
    assert list(folders["stopped"].checkpoints.iterdir())


DELETES = """
import pathlib, shutil

calls = []


def reward(*, responses, **_):
    calls.append(1)
    if len(calls) > 1 and not (PLACE / "done").exists():  # the first call is the evaluation before training
        (PLACE / "done").touch()
        shutil.rmtree(PLACE / "outputs/runs")
    return [0.0] * len(responses)
"""


def test_a_folder_that_is_deleted_while_its_run_trains_is_a_line(
    train_here: Train, own_module: Callable[[str], str], tmp_path: Path
) -> None:
    """The same command then trains it, from its first update on."""
    words = [*own(own_module(DELETES.replace("PLACE", f"pathlib.Path({str(tmp_path)!r})"))), "checkpoint.updates=1"]
    with pytest.raises(UserError, match="was deleted while its run trained; the run's command begins it anew"):
        train_here(*words)
    assert [row["update"] for row in train_here(*words).read_metrics()] == [0, 1, 2, 3, 4]


def test_a_folder_that_is_deleted_while_a_sweep_trains_is_a_line(
    run_cli: Callable[..., Any], small: Sequence[str], own_module: Callable[[str], str], tmp_path: Path
) -> None:
    """Wrong version: a line that points to a file that is not there."""
    module = own_module(DELETES.replace("PLACE", f"pathlib.Path({str(tmp_path)!r})"))
    words = ["-m", *small, *own(module), "checkpoint.updates=1"]
    deleted, again = (run_cli(*words, pythonpath=tmp_path) for _ in range(2))
    assert (deleted.code, again.code) == (2, 0), (deleted.err, again.err)
    assert "Traceback" not in deleted.out + deleted.err
    assert "was deleted while its run trained" in deleted.err
    (run,) = (tmp_path / "outputs/runs").iterdir()
    assert [row["update"] for row in RunFolder(run).read_metrics()] == [0, 1, 2, 3, 4]


def test_a_config_that_is_deleted_while_its_run_trains_loses_nothing(
    train_here: Train, own_module: Callable[[str], str], tmp_path: Path
) -> None:
    """Wrong version: the folder is removed, with its checkpoint and its metrics."""
    module = own_module(
        "import pathlib\n"
        f"place = pathlib.Path({str(tmp_path)!r})\n"
        "calls = []\n"
        "def reward(*, responses, **_):\n"
        "    calls.append(1)\n"
        "    if len(calls) > 1 and not (place / 'done').exists():\n"
        "        (place / 'done').touch()\n"
        "        next((place / 'outputs/runs').glob('*/config.yaml')).unlink()\n"
        "    return [0.0] * len(responses)\n"
    )
    words = [*own(module), "checkpoint.updates=1"]
    with pytest.raises(UserError, match=r"config\.yaml: was deleted while its run trained"):
        train_here(*words)
    (run,) = (tmp_path / "outputs/runs").iterdir()
    written = (run / "metrics.jsonl").read_text()
    assert train_here(*words).path == run
    assert (run / "metrics.jsonl").read_text().startswith(written)


def test_a_second_ctrl_c_ends_the_runs_of_a_sweep_at_once(
    start_cli: Callable[..., Any], small: Sequence[str], own_module: Callable[[str], str], tmp_path: Path
) -> None:
    """The first waits for an update that never ends here. Wrong version: so does the second, and nothing says why."""
    module = own_module(
        "import pathlib, signal, time\n"
        "calls = []\n"
        "def reward(*, responses, **_):\n"
        "    calls.append(1)\n"
        "    while len(calls) > 1:  # the first call is the evaluation before training\n"
        f"        pathlib.Path({str(tmp_path / 'begun')!r}).touch()\n"
        "        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:\n"
        f"            pathlib.Path({str(tmp_path / 'asked')!r}).touch()\n"
        "        time.sleep(0.05)\n"
        "    return [0.0] * len(responses)\n"
    )
    process = start_cli("-m", *small, *own(module), "seed=0,1", "hydra.launcher.slots=1", pythonpath=tmp_path)
    for file in ("begun", "asked"):
        wait_for(lambda file=file: (tmp_path / file).exists())  # type: ignore[misc]
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2 and "Traceback" not in out + err
    assert "Ctrl-C again ends them at once" in err
    states = {RunFolder(path).state() for path in (tmp_path / "outputs/runs").iterdir()}
    assert states == {"stopped", "waiting"}


def wait_for(condition: Callable[[], bool], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
