"""The Python front door: `import pgsrm` and what it gives, in one process, with nothing left behind."""

import functools
import gc
import importlib
import inspect
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from conftest import environment, interrupt_again, interrupt_at

import pgsrm
from pgsrm.record import RunFolder
from pgsrm.record.measured import is_measured
from pgsrm.util.errors import UserError


def shortness(*, responses: list[str], most: float = 10.0, **_: Any) -> list[float]:
    """A reward of one's own."""
    return [max(0.0, 1 - len(text) / most) for text in responses]


class Constant:
    def __call__(self, *, responses: list[str], **_: Any) -> list[float]:
        return [0.5] * len(responses)


def python(code: str, folder: Path) -> str:
    """Standard output of Python code in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# import pgsrm


def test_importing_the_package_loads_nothing_that_takes_time(tmp_path: Path) -> None:
    code = "import sys, pgsrm; dir(pgsrm); pgsrm.__version__; print(*{'torch', 'hydra', 'pandas', 'numpy'} & set(sys.modules))"
    assert python(code, tmp_path) == ""


def test_every_public_name_is_there_and_listed() -> None:
    assert set(pgsrm.__all__) <= set(dir(pgsrm))
    for name in pgsrm.__all__:
        assert getattr(pgsrm, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pgsrm.nothing  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "statements",
    [
        "import pgsrm; f = pgsrm.train",
        "from pgsrm import train as f",
        "import pgsrm.train; f = pgsrm.train",
        "from pgsrm.train import run; import pgsrm; f = pgsrm.train",
        "import pgsrm; pgsrm.train; from pgsrm.train import run; f = pgsrm.train",
        "import pgsrm.api; from pgsrm import train as f",
        "import pgsrm.launch.local; from pgsrm import train as f",
    ],
)
def test_train_is_a_function_and_a_module_in_any_order_of_imports(statements: str, tmp_path: Path) -> None:
    code = f"""
{statements}
import sys
import pgsrm.train as module
assert module is sys.modules["pgsrm.train"] is f and callable(module.run)
try:
    f("-m")
except Exception as error:
    print(type(error).__name__, error)
"""
    assert python(code, tmp_path).startswith("UserError -m: ")


def test_the_callable_module_has_the_functions_signature() -> None:
    from pgsrm.api import train

    called, meant = inspect.signature(pgsrm.train), inspect.signature(train)
    assert [(p.name, p.kind, p.default) for p in called.parameters.values()] == [
        (p.name, p.kind, p.default) for p in meant.parameters.values()
    ]


# compose


def test_compose_returns_the_checked_config_with_its_choices() -> None:
    config = pgsrm.compose("task=antonym", "ppo=textbook", "seed=7")
    assert config.seed == 7 and config.choices.task == "antonym" and config.choices.ppo == "textbook"
    assert "hydra" not in config


def test_a_changed_config_is_composed_again_and_checked() -> None:
    config = pgsrm.compose("task=antonym")
    config.ppo.batch_size = 0
    with pytest.raises(UserError, match=r"ppo.batch_size=0: expected `int` >= 1"):
        pgsrm.load_task(config)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["seed=0,1"], "seed=0,1: several values are several runs, and this is one; write a loop"),
        (["task=color,copy"], "task=color,copy: several values are several runs"),
        (["experiment=alpha"], "is a sweep over .*; give each one value"),
        (["task=colour"], "task=colour: unknown task; there are antonym, category, color"),
        (["task=null"], "task=null: not an option of task; there are"),
        (["ppo.batch_siz=3"], "ppo.batch_siz=3: unknown key"),
        (["ppo.batch_size=many"], "ppo.batch_size=many: expected `int`"),
        (["--multirun"], "--multirun: is the command line's"),
        (["hydra.verbose=true"], "hydra.verbose=true: is the command line's"),
        (["dry_run=true"], "dry_run=true: is the command line's"),
        ([3], "int: expected overrides such as 'seed=3'"),
    ],
)
def test_what_is_wrong_is_one_line(words: list[Any], line: str, small: Sequence[str]) -> None:
    with pytest.raises(UserError, match=line) as caught:
        pgsrm.train(*small, *words)
    assert "\n" not in str(caught.value)


def test_a_program_that_uses_hydra_itself_keeps_its_state(tmp_path: Path) -> None:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    (tmp_path / "theirs.yaml").write_text("mine: 1\n")
    with initialize_config_dir(str(tmp_path), version_base="1.2"):
        assert pgsrm.compose("task=copy").choices.task == "copy"
        with pytest.raises(UserError):
            pgsrm.compose("task=nope")
        assert compose("theirs").mine == 1
    GlobalHydra.instance().clear()
    pgsrm.compose("task=color")
    assert not GlobalHydra.instance().is_initialized()


def test_tasks_and_rewards_can_be_had_alone() -> None:
    task = pgsrm.load_task("task=color", "task.holdout=0.2")
    assert task.train and task.holdout
    reward: Any = pgsrm.build_reward("task=color")
    example = task.train[0]
    batch = {
        "prompts": [example.prompt],
        "references": ["purple"],
        "inputs": [{}],
        "token_ids": [[5]],
        "offsets": [[(0, 6)]],
    }
    rewards, _ = reward(responses=["purple"], **batch)
    assert rewards == pytest.approx([1.0])


# A reward of one's own


def test_a_reward_of_ones_own_is_named_in_the_config() -> None:
    config = pgsrm.compose("task=copy", reward=functools.partial(shortness, most=5.0))
    assert config.reward == {"_target_": f"{__name__}.shortness", "most": 5.0, "_partial_": True}
    assert config.choices.reward == "shortness"
    built: Any = pgsrm.build_reward("task=copy", reward=functools.partial(shortness, most=5.0))
    assert built(responses=["a", "abcdefgh"]) == [0.8, 0.0]
    assert pgsrm.compose("task=copy", reward=Constant).reward == {"_target_": f"{__name__}.Constant"}


@pytest.mark.parametrize(
    ("reward", "words", "line"),
    [
        (lambda **_: [1.0], [], "stands at the top of a module or notebook"),
        (Constant(), [], "stands at the top of a module or notebook"),
        (functools.partial(shortness, []), [], "give them by keyword"),
        (shortness, ["reward=binary"], "given twice"),
    ],
)
def test_a_reward_that_no_config_can_name_is_refused(reward: Any, words: list[str], line: str) -> None:
    with pytest.raises(UserError, match=line):
        pgsrm.compose("task=copy", *words, reward=reward)


# train


def test_a_run_has_its_record_as_frames_and_its_model(small: Sequence[str]) -> None:
    run = pgsrm.train(*small, "task=antonym", reward=shortness, progress=False)
    assert run.state == "finished" and run.name.startswith("antonym-shortness-")
    assert list(run.metrics["update"]) == [1, 2, 3, 4] and list(run.metrics["episodes"]) == [4, 8, 12, 16]
    assert run.metrics["reward/mean"].between(0, 1).all()
    assert not any(name.startswith("eval/") for name in run.metrics)
    assert list(run.evaluations["update"]) == [0, 2, 4] and run.evaluations.filter(like="eval/").notna().all(axis=None)
    assert run.evaluations["equilibrium/temperature"].iloc[0] == 1.5
    assert set(run.samples["update"]) == {2, 4} and len(run.samples) == 6
    assert run.config.choices.task == "antonym" and run.config.seed == 0
    assert "finished" in repr(run) and "antonym" in repr(run)
    prompt = run.tokenizer("The opposite of 'hot' is", return_tensors="pt")
    assert run.model.generate(**prompt, max_new_tokens=2, pad_token_id=0).shape[0] == 1


def test_the_same_config_is_the_same_run_and_is_not_trained_twice(
    small: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pgsrm.train(*small, "task=antonym", "seed=4", progress=False)
    lines = (first.folder / "metrics.jsonl").read_bytes()
    monkeypatch.setattr("pgsrm.api.run", lambda *_, **__: pytest.fail("trained again"))
    config = pgsrm.compose(*small, "task=antonym", "seed=4")
    assert pgsrm.train(config).folder == first.folder
    assert (first.folder / "metrics.jsonl").read_bytes() == lines


def test_the_callers_process_is_as_it_was(small: Sequence[str]) -> None:
    import numpy as np
    import torch

    def state() -> list[Any]:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
        generators = [random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()]  # type: ignore[index]
        return [*(signal.getsignal(number) for number in numbers), *generators, torch.get_num_threads()]

    before = state()
    pgsrm.train(*small, "task=antonym", "seed=5", "ppo.episodes=4", progress=False)
    assert state() == before


def test_it_trains_in_a_thread_that_is_not_the_main_one(small: Sequence[str]) -> None:
    runs: list[pgsrm.Run] = []
    thread = threading.Thread(
        target=lambda: runs.append(pgsrm.train(*small, "task=antonym", "ppo.episodes=4", progress=False))
    )
    thread.start()
    thread.join(120)
    assert [run.state for run in runs] == ["finished"]


def test_an_interrupt_ends_the_run_with_a_checkpoint_and_the_same_call_resumes_it(
    small: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*small, "task=antonym", "seed=6"]
    whole, folder = (run := pgsrm.train(*words, progress=False)).metrics, run.folder
    interrupt_again(folder, words, 1, monkeypatch)
    cut = pgsrm.Run(folder)
    assert cut.state == "stopped" and list(cut.metrics["update"]) == [1, 2]
    with pytest.raises(UserError, match="has no final model, it is stopped"):
        _ = cut.model
    resumed = pgsrm.train(*words, progress=False)
    assert resumed.folder == folder and resumed.state == "finished"
    without_times = [name for name in whole if not is_measured(name)]
    assert resumed.metrics[without_times].equals(whole[without_times])


def test_a_second_interrupt_ends_the_run_at_once(small: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    interrupt_at(1, monkeypatch, times=2)
    words = [*small, "task=antonym", "seed=8"]
    with pytest.raises(KeyboardInterrupt):
        pgsrm.train(*words, progress=False)
    (folder,) = (Path(pgsrm.compose(*words).paths.outputs) / "runs").iterdir()
    assert pgsrm.Run(folder).state == "stopped" and list(pgsrm.Run(folder).metrics["update"]) == [1]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_that_another_process_trains_is_left_to_it(small: Sequence[str], tmp_path: Path) -> None:
    from pgsrm.config.compose import plan_words

    words = [*small, "task=antonym", "seed=9"]
    plan = plan_words(*words)
    plan.freeze()
    folder = plan.folder
    folder.acquire()
    try:
        with pytest.raises(UserError, match="another process trains it"):
            pgsrm.train(*words, progress=False)
    finally:
        folder.release()


def test_a_run_that_fails_says_why_in_one_line(small: Sequence[str]) -> None:
    with pytest.raises(UserError, match=r"antonym-nonsense-.*reward"):
        pgsrm.train(*small, "task=antonym", reward=nonsense, progress=False)


def nonsense(*, responses: list[str], **_: Any) -> list[float]:
    return [float("nan")] * len(responses)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run's folder"):
        pgsrm.Run(tmp_path)


def test_frames_of_a_run_that_has_not_begun_are_empty_and_have_their_columns(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "waiting")
    folder.create()
    folder.config.write_text("seed: 0\n")
    run = pgsrm.Run(folder.path)
    assert run.state == "waiting" and run.metrics.empty and run.evaluations.empty and run.samples.empty
    assert list(run.metrics) == ["update", "episodes"] and "response" in run.samples


# A loop of one's own


def test_a_loop_of_ones_own_learns_what_the_packages_loop_learns(small: Sequence[str]) -> None:
    words = [*small, "task=antonym", "seed=2"]
    trainer = pgsrm.Trainer.build(*words)
    folder = trainer.folder.path
    lines = []
    while not trainer.done:
        rollout = trainer.sample(trainer.draw_prompts())
        scored = trainer.score(rollout)
        lines.append(trainer.record(rollout, scored, trainer.learn(rollout, scored), started=0.0))
    assert not (Path(pgsrm.compose(*words).paths.outputs) / "runs").exists()
    run = pgsrm.train(*words, progress=False)
    assert [line["reward/mean"] for line in lines] == list(run.metrics["reward/mean"])
    assert [line["policy/entropy"] for line in lines] == list(run.metrics["policy/entropy"])
    del trainer
    gc.collect()
    assert not folder.exists()


def test_a_trainer_writes_where_it_is_told(small: Sequence[str], tmp_path: Path) -> None:
    trainer = pgsrm.Trainer.build(*small, "task=antonym", folder=tmp_path / "mine")
    trainer.record_evaluation()
    del trainer
    gc.collect()
    assert list(pgsrm.Run(tmp_path / "mine").evaluations["update"]) == [0]


# A notebook


def test_a_notebooks_worth_of_python(small: Sequence[str], tmp_path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from transformers import pipeline

    runs = {name: pgsrm.train(*small, "task=antonym", f"reward={name}", progress=False) for name in ("pgsrm", "binary")}
    frame = pgsrm.load_runs(tmp_path / "outputs")
    assert set(frame["reward"]) == set(runs) and len(frame) == 2 * 5
    axes = frame.pivot_table(index="episodes", columns="reward", values="reward/mean", observed=True).plot()
    axes.figure.savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
    run = runs["pgsrm"]
    generate = pipeline("text-generation", model=run.model, tokenizer=run.tokenizer)
    (answer,) = generate("The opposite of 'hot' is", max_new_tokens=2)
    assert answer["generated_text"].startswith("The opposite of 'hot' is")


class Kernel:
    """What a notebook's IPython has, as far as progress uses it: lines that are displayed, and rewritten in place."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cells: list[list[str]] = []
        ipython, display = ModuleType("IPython"), ModuleType("IPython.display")
        ipython.get_ipython = lambda: SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
        display.display = self.display  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        monkeypatch.setitem(sys.modules, "IPython.display", display)

    def display(self, data: dict[str, str], *, raw: bool, display_id: bool) -> Any:
        assert raw and display_id
        self.cells.append([data["text/plain"]])
        return SimpleNamespace(update=lambda data, raw: self.cells[-1].append(data["text/plain"]))


def test_a_notebook_shows_one_line_that_is_rewritten(
    small: Sequence[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    kernel = Kernel(monkeypatch)
    pgsrm.train(*small, "task=antonym", "seed=10")
    (lines,) = kernel.cells
    assert "antonym-pgsrm-" in lines[-1] and "4/4  reward" in lines[-1]
    assert "4/4" not in "".join(capfd.readouterr())


def test_no_progress_is_shown_when_none_is_wanted(small: Sequence[str], capfd: pytest.CaptureFixture[str]) -> None:
    pgsrm.train(*small, "task=antonym", "seed=11", "ppo.episodes=4", progress=False)
    assert capfd.readouterr() == ("", "")


# The page and the example

ROOT = Path(__file__).parents[1]


@pytest.fixture
def shortened(small: Sequence[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All runs of this process are tiny, whatever their words say, and write below tmp_path."""
    import matplotlib

    from pgsrm.config.compose import compose_run

    def compose(words: Sequence[Any], reward: Any = None, data: Any = None) -> Any:
        return compose_run([*words, *small] if all(isinstance(word, str) for word in words) else words, reward, data)

    matplotlib.use("Agg")
    for module in ("api", "config.compose"):  # load_task and compose; train and Trainer.build
        monkeypatch.setattr(f"pgsrm.{module}.compose_run", compose)
    monkeypatch.chdir(tmp_path)


def test_the_snippets_of_the_page_run_one_after_another(
    shortened: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    snippets = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "python.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(snippets) == 8
    notebook = ModuleType("notebook")
    monkeypatch.setitem(sys.modules, "notebook", notebook)  # whose functions a run finds by module and name
    for snippet in snippets:
        exec(compile(snippet, "docs/python.md", "exec"), notebook.__dict__)
    assert "purple" in capsys.readouterr().out
    assert notebook.run.name.startswith("copy-short-") and notebook.shorter.config.reward.most == 5
    assert notebook.own.state == "finished"
    assert set(notebook.own.samples.reference) <= {"cold", "young", "small"}


def test_the_example_of_a_reward_of_ones_own_draws_its_picture(
    shortened: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    example: Any = importlib.import_module("own_reward")
    assert example.spelling(references=["cold", "up"], responses=[" cold", ""]) == [1.0, 0.0]
    runs = example.main([], tmp_path / "own_reward.png")
    assert {run.state for run in runs.values()} == {"finished"}
    assert (tmp_path / "own_reward.png").stat().st_size > 1000
