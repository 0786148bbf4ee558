"""Search sweepers: what a run is worth to them, Optuna's search with its interruptions and failures, and another's sweeper.

Training is played here by a function of the learning rate that writes a run's folder; the last test trains.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict

from pgsrm.config.compose import plan_words
from pgsrm.launch.optuna_search import Space, _name
from pgsrm.launch.search import intermediate, objective, searched_keys
from pgsrm.record import RunFolder
from pgsrm.util.errors import UserError
from pgsrm.util.paths import conf_folder

RATE = "ppo.actor_lr=tag(log,interval(1e-5,1e-2))"
METRIC = "eval/train_exact_match"


def worth(rate: float) -> float:
    """1 at a learning rate of 1e-3, and less on either side."""
    return 1 - abs(math.log10(rate) + 3) / 4


class Trainer:
    """In the place of processes that train: each run comes to `worth`, or to what `fate` says of how many there were before."""

    def __init__(self) -> None:
        self.trained: list[str] = []
        self.fate: dict[int, str] = {}
        self.watches = True  # False: runs end before anybody looks at what they have come to

    def __call__(self, plans: Sequence[Any], slots: Sequence[Any], table: Any, prune: Any = None) -> None:
        for plan in plans:
            fate = self.fate.get(len(self.trained), "finished")
            self.trained.append(plan.folder.name)
            assert plan.folder.acquire()
            value = math.nan if fate == "diverged" else worth(plan.config["ppo"]["actor_lr"])
            state = "finished" if fate == "diverged" else fate
            for update in range(5):
                line = {"update": update, "episodes": 4 * update, "reward/mean": update / 8, METRIC: value * update / 4}
                plan.folder.append_metrics(line)
                if prune is not None and self.watches and prune(plan.folder):
                    state = "stopped"
                    break
            reason = {"failed": "loss is not finite", "stopped": "stopped by a signal"}.get(state)
            plan.folder.write_status(state=state, reason=reason, update=4)
            plan.folder.release()


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    playing = Trainer()
    monkeypatch.setattr("pgsrm.launch.local._train", playing)
    return playing


@pytest.fixture
def search(call_cli: Callable[..., Any], small: Sequence[str], trainer: Trainer) -> Callable[..., Any]:
    """`search(*words)`: the command with Optuna's sweeper, two trials at a time."""

    def run(*words: str) -> Any:
        given = {word.partition("=")[0] for word in words}
        slots = [] if "hydra/launcher=basic" in words else ["hydra.launcher.slots=2"]
        usual = [word for word in [*small, *slots] if word.partition("=")[0] not in given]
        return call_cli("-m", "hydra/sweeper=search", *usual, *words)

    return run


def test_a_search_ends_with_its_best_values_and_the_same_command_repeats_nothing(
    search: Callable[..., Any], trainer: Trainer, tmp_path: Path
) -> None:
    first = search(RATE, "task=color,antonym", "hydra.sweeper.trials=6")
    assert first.code == 0, first.err
    assert len(trainer.trained) == len(set(trainer.trained)) == 6
    assert all("actor_lr=" in name for name in trainer.trained)  # what is searched, also where a batch has it in common
    assert {name.split("-")[0] for name in trainer.trained} == {"antonym", "color"}
    lines = first.out.splitlines()
    assert lines[:3] == [
        f"search: maximize {METRIC} in 6 trials, 2 at a time, of",
        "  ppo.actor_lr: 1e-5 to 0.01, all between, by the logarithm",
        "  task: color, antonym",
    ]
    table = [line.split() for line in lines if line.split()[:1] and line.split()[0].isdigit()]
    assert len(table) == 6
    values = [float(row[3]) for row in table]
    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(worth(float(table[0][1])), abs=1e-3)
    assert f"best of 6 trials: {METRIC}={table[0][3]} with ppo.actor_lr={table[0][1]} task={table[0][2]}" in lines
    assert lines[-2] == f"runs: {tmp_path}/outputs/runs"
    again = search(RATE, "task=color,antonym", "hydra.sweeper.trials=6")
    assert again.code == 0 and len(trainer.trained) == 6
    assert again.out.splitlines()[3].endswith("optuna.db, 6 trials done") and again.out.splitlines()[-3:] == lines[-3:]
    longer = search(RATE, "task=color,antonym", "hydra.sweeper.trials=7")
    assert longer.code == 0 and len(trainer.trained) == 7


def test_other_data_or_settings_are_another_search(small: Sequence[str]) -> None:
    def name(*words: str, direction: str = "maximize") -> str:
        space = Space.read([*small, *words])
        return _name(space, [plan_words(*corner) for corner in space.corners()], direction)

    assert re.fullmatch(r"actor_lr-[0-9a-f]{8}", name(RATE)) and name(RATE) == name(RATE, "threads=2")
    others = [name(RATE, "ppo.kl_coef=0.5"), name(RATE, direction="minimize"), name(RATE, "objective=reward/mean")]
    others += [name("ppo.actor_lr=interval(1e-5,1e-2)"), name(RATE, "task=antonym")]
    assert len({name(RATE), *others}) == 6


def test_an_interrupted_search_resumes_the_trials_that_it_had_begun(
    search: Callable[..., Any], trainer: Trainer
) -> None:
    command = (RATE, "hydra.sweeper.trials=6")
    trainer.fate = {2: "stopped", 3: "stopped"}
    stopped = search(*command)
    assert stopped.code == 2
    assert stopped.err.splitlines()[-1].endswith("stopped; the same command resumes the search")
    begun = trainer.trained[2:]
    assert len(begun) == 2
    trainer.fate = {}
    resumed = search(*command)
    assert resumed.code == 0 and "2 trials done, 2 to resume" in resumed.out
    assert trainer.trained[4:6] == begun and len(set(trainer.trained)) == 6
    interrupted = [name for place, name in enumerate(trainer.trained) if place not in (2, 3)]
    trainer.trained = []
    assert search(*command, "hydra.sweeper.study=undisturbed").code == 0
    assert trainer.trained == [] and len(interrupted) == 6  # it drew the same values, whose runs have finished


def test_runs_that_fail_or_diverge_are_failed_trials(search: Callable[..., Any], trainer: Trainer) -> None:
    trainer.fate = {0: "failed", 3: "diverged"}
    done = search(RATE, "hydra.sweeper.trials=4")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert sum("failed (" in line and "loss is not finite" in line for line in lines) == 1
    assert sum("failed (" in line and f"{METRIC} is nan" in line for line in lines) == 1
    assert [line.split()[-1] for line in lines if line.split()[0].isdigit()][2:] == ["failed", "failed"]
    trainer.fate = dict.fromkeys(range(4, 10), "failed")
    none = search(RATE, "hydra.sweeper.trials=6", "seed=1")
    assert none.code == 2 and len(trainer.trained) == 6  # one batch, and not all of them
    assert none.err.splitlines()[-1] == "pgsrm: all 2 trials so far failed, for the reasons above; the search ends here"


def outcomes(done: Any) -> list[str]:
    return [line for line in done.out.splitlines() if line.startswith(("trial ", "best of ")) and ":" in line]


@pytest.mark.slow
def test_pruning_gives_up_what_is_below_the_median_whether_or_not_anybody_looked(
    search: Callable[..., Any], trainer: Trainer, tmp_path: Path
) -> None:
    from pgsrm.launch.status import table

    words = (RATE, "hydra.sweeper.trials=8", "hydra.sweeper.prune=true", "hydra.sweeper.prune_after=2")
    seen = search(*words, "hydra.sweeper.study=seen")
    assert seen.code == 0, seen.err
    pruned = [line for line in outcomes(seen) if line.endswith("pruned by the search at 4 episodes")]
    assert pruned and sum(line.endswith("  pruned") for line in seen.out.splitlines()) == len(pruned)
    assert not any(": " in line and "pruned" in line for line in outcomes(seen)[:2])  # nothing to compare with
    folders = [RunFolder(path) for path in (tmp_path / "outputs/runs").iterdir()]
    stopped = [folder for folder in folders if folder.state() == "stopped"]
    assert len(stopped) == len(pruned) and f"{len(stopped)} stopped" in table(folders)
    count = len(trainer.trained)
    again = search(*words, "hydra.sweeper.study=seen")
    assert again.code == 0 and len(trainer.trained) == count and outcomes(again) == outcomes(seen)[-1:]
    assert f"{8 - len(pruned)} trials done, {len(pruned)} pruned" in again.out
    trainer.watches = False
    late = search(*words, "hydra.sweeper.study=late", f"paths.outputs={tmp_path / 'late'}")
    assert outcomes(late) == outcomes(seen)


def test_a_process_whose_run_is_given_up_writes_a_checkpoint_and_the_reason(small: Sequence[str]) -> None:
    from pgsrm.launch.local import run_batch

    words = [word for word in small if not word.startswith("ppo.episodes")]
    this = plan_words(*words, "ppo.episodes=40000")

    def prune(folder: RunFolder) -> str | None:
        return "pruned by a test" if (folder.last_metrics() or {}).get("update", 0) > 0 else None

    run_batch([this], slots=1, prune=prune)
    assert this.folder.state() == "stopped" and (this.folder.status() or {})["reason"] == "pruned by a test"
    assert list(this.folder.checkpoints.iterdir())


def test_what_a_run_has_come_to_is_of_evaluations_or_whole_tenths(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    folder.write_status(state="running", updates=40)
    for update in range(11):
        evaluated = {METRIC: update / 40} if update % 5 == 0 else {}
        folder.append_metrics({"update": update, "episodes": 2 * update, "reward/mean": float(update), **evaluated})
    assert intermediate(folder, METRIC) == {0: 0.0, 10: 0.125, 20: 0.25}
    assert intermediate(folder, "reward/mean") == {8: 2.5, 16: 6.5}


WRONG = [
    (["seed=3"], r"hydra/sweeper=search: nothing to search; give a key several values"),
    ([RATE, "hydra.sweeper.trials=0"], r"hydra\.sweeper\.trials=0: expected a whole number >= 1"),
    (
        [RATE, "hydra.sweeper.direction=up"],
        r"hydra\.sweeper\.direction=up: not an option; there are maximize, minimize",
    ),
    ([RATE, "hydra.sweeper.sampler=Grid"], r"hydra\.sweeper\.sampler=Grid: not an option; there are TPESampler"),
    ([RATE, "dry_run=true"], r"dry_run=true: a search chooses its runs by the results of those before"),
    ([RATE, "objective=eval/holdout_exact_match"], r"objective=eval/holdout_exact_match: no prompts are held out"),
    ([RATE, "objective=eval/train_other_reward"], r"objective=eval/train_other_reward: there is no second embedder"),
    ([RATE, "ppo.gamma=interval(0.5,1.5)"], r"ppo\.gamma=1\.5: "),
    (
        ["ppo.actor_lr=tag(log,interval(0.0,1.0))"],
        r"ppo\.actor_lr=tag\(log,interval\(0\.0,1\.0\)\): .*correct the ends",
    ),
    ([RATE, "hydra.sweeper.prune=maybe"], r"hydra\.sweeper\.prune=maybe: expected true or false"),
    ([RATE, "hydra.sweeper.prune_after=0"], r"hydra\.sweeper\.prune_after=0: expected a whole number >= 1"),
    (
        [
            RATE,
            "hydra.sweeper.prune=true",
            "hydra/launcher=slurm",
            "hydra.launcher.slots=2",
            "hydra.launcher.wait=true",
        ],
        r"hydra\.sweeper\.prune=true: hydra/launcher=slurm gives no run up",
    ),
    ([RATE, "hydra/launcher=slurm", "hydra.launcher.slots=2"], r"hydra/launcher=slurm: .*hydra\.launcher\.wait=true"),
    (
        [RATE, "hydra/launcher=basic"],
        r"hydra/launcher=basic: hydra/sweeper=search has the results of local and slurm alone",
    ),
    (["ppo.epochs=interval(1,4)"], r"ppo\.epochs=1\.0: expected `int`"),
]


@pytest.mark.parametrize(("words", "says"), WRONG, ids=range(len(WRONG)))
def test_what_a_search_cannot_do_is_one_line_before_anything_is_made(
    search: Callable[..., Any], trainer: Trainer, tmp_path: Path, words: list[str], says: str
) -> None:
    done = search(*words)
    assert done.code == 2
    assert re.match(f"pgsrm: {says}", done.error_line), done.error_line
    assert not (tmp_path / "outputs/runs").exists() and not (tmp_path / "outputs/optuna.db").exists()


def test_a_metric_that_no_run_has_ends_the_search_after_its_first_runs(
    search: Callable[..., Any], trainer: Trainer
) -> None:
    done = search(RATE, "objective=reward/typo")
    assert done.code == 2 and len(trainer.trained) == 2
    assert done.err.splitlines()[-1].startswith("pgsrm: objective=reward/typo: ")
    assert done.err.splitlines()[-1].endswith(f"has no such metric; there are {METRIC}, reward/mean")


def test_the_objective_is_the_last_evaluation_or_the_last_tenth(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    folder.write_status(state="finished", updates=40)
    for update in range(41):
        evaluated = {METRIC: update / 40} if update % 15 == 0 else {}
        folder.append_metrics({"update": update, "reward/mean": float(update), **evaluated})
    assert objective(folder, METRIC) == 30 / 40
    assert objective(folder, "reward/mean") == (37 + 38 + 39 + 40) / 4


def test_a_space_is_what_hydras_grammar_says() -> None:
    space = Space.read(
        [
            "seed=3",
            "ppo.epochs=int(interval(1,4))",
            "ppo.gamma=interval(0,1)",
            RATE,
            "ppo.minibatches=range(2,9,2)",
            "task.data='a b.csv','c=d.csv'",
            "ppo.kl_coef=1e-3,0.01",
        ]
    )
    assert space.fixed == ["seed=3"]
    assert space.lines() == [
        "  ppo.epochs: 1 to 4, whole numbers",
        "  ppo.gamma: 0.0 to 1.0, all between",
        "  ppo.actor_lr: 1e-5 to 0.01, all between, by the logarithm",
        "  ppo.minibatches: 2 to 8, whole numbers in steps of 2",
        "  task.data: 'a b.csv', 'c=d.csv'",
        "  ppo.kl_coef: 0.001, 0.01",
    ]
    first, second = space.corners()
    assert first[0] == second[0] == "seed=3" and first[5:] == ["task.data='a b.csv'", "ppo.kl_coef=0.001"]
    assert [word.partition("=")[2] for word in first[1:5]] == ["1", "0.0", "1e-5", "2"]
    assert [word.partition("=")[2] for word in second[1:5]] == ["4", "1.0", "0.01", "8"]
    assert Space.read(["seed=1,2", "seed=4", "ppo.epochs=1,2"]).fixed == ["seed=4"]  # the later word counts


# Another's sweeper


@pytest.fixture
def launcher(small: Sequence[str]) -> Iterator[Any]:
    """The local launcher as Hydra sets it up for a sweeper of another package."""
    from hydra_plugins.pgsrm_local.launcher import LocalLauncher

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        config = hydra.compose_config(
            "config", overrides=[*small, RATE], run_mode=RunMode.MULTIRUN, with_log_configuration=False
        )
        with open_dict(config):
            config.hydra.sweeper = {
                "_target_": "hydra_plugins.theirs.Sweeper",
                "params": {"ppo.kl_coef": "interval(0,1)"},
            }
        made = LocalLauncher(slots=2)
        made.setup(hydra_context=SimpleNamespace(config_loader=hydra.config_loader), task_function=print, config=config)
        yield made
        GlobalHydra.instance().clear()


def test_another_sweeper_gets_each_runs_objective(
    launcher: Any, small: Sequence[str], trainer: Trainer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong version: no return value at all, by whose number a sweeper of Hydra's divides."""

    def jobs(*rates: float) -> list[list[str]]:
        return [[*small, f"ppo.actor_lr={rate}", "ppo.kl_coef=0.5"] for rate in rates]

    trainer.fate = {1: "failed"}
    good, bad = launcher.launch(jobs(1e-3, 1e-4), initial_job_idx=0)
    assert good.return_value == pytest.approx(1.0)
    with pytest.raises(UserError, match="loss is not finite"):
        _ = bad.return_value
    first = capsys.readouterr().out.splitlines()
    # One run trained once for two equal jobs; a run of before is not trained again.
    same = launcher.launch(jobs(1e-2, 1e-2, 1e-3), initial_job_idx=2)
    assert [outcome.return_value for outcome in same] == pytest.approx([0.75, 0.75, 1.0])
    assert len(trainer.trained) == 3
    second = capsys.readouterr().out.splitlines()
    assert [line.split("=")[0] for line in first[-2:]] == ["color-pgsrm-gpt2-sound-actor_lr"] * 2
    assert first[0].startswith("runs: ") and len(first) == 4
    assert len(second) == 2 and not any(line.startswith(("runs:", "report:")) for line in second)
    assert all("actor_lr=" in name and "kl_coef=0.5" in name and "batch_size" not in name for name in trainer.trained)


def test_what_a_search_varies() -> None:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("config", overrides=["seed=1"], return_hydra_config=True)
    OmegaConf.set_readonly(config.hydra, False)
    with open_dict(config):
        config.hydra.overrides.task = ["seed=1", RATE, "task=color,copy"]
        config.hydra.sweeper.params = {"ppo.epochs": "1,2"}
    assert searched_keys(config) == {"ppo.actor_lr", "task", "ppo.epochs"}


def test_a_search_that_trains(run_cli: Callable[..., Any], small: Sequence[str], tmp_path: Path) -> None:
    words = ["hydra/sweeper=search", "hydra.sweeper.trials=2", "hydra.launcher.slots=2", "objective=policy/entropy"]
    done = run_cli("-m", *small, *words, "ppo.actor_lr=interval(1e-4,1e-3)")
    assert done.code == 0, done.err
    values = [objective(RunFolder(path), "policy/entropy") for path in (tmp_path / "outputs/runs").iterdir()]
    assert len(values) == 2 and f"best of 2 trials: policy/entropy={max(values):.4g} with " in done.out
