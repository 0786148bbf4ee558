"""The Python front door: what `python -m pgsrm.run` does for one run, as functions that return objects.

The words are those of the command line: `train("task=antonym", "ppo.episodes=2000")`. A run is the same run from either
side: the same config finds the same folder, one that has finished is returned at once, one that was cut off resumes.
"""

import functools
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict

from pgsrm.config.compose import compose_run, plan_words
from pgsrm.config.plan import Plan, build_objects, resolve
from pgsrm.launch.sweep import launching, outputs_of, prepare_tracking, survey
from pgsrm.record import RunFolder
from pgsrm.record.links import run_path
from pgsrm.record.run_folder import parse_lines
from pgsrm.record.summary import end_of_run_line, summarise
from pgsrm.train import Signals, in_main_thread, run
from pgsrm.util.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from pgsrm.reward import Reward
    from pgsrm.task import Task


def compose(*overrides: str, reward: Callable[..., Any] | None = None, data: Any = None) -> DictConfig:
    """The checked config of one run, with the choice of each group under `choices`.

    It can be looked at, changed and given to `train`, `load_task`, `build_reward` or `Trainer.build` in place of overrides.

    Args:
        overrides: the words of the command line: `task=antonym`, `ppo.batch_size=8`, `--config-dir=mine`.
        reward: as in `train`.
        data: as in `train`.

    Raises:
        UserError: for a word that is wrong, with the key, the value and the remedy in one line.
    """
    config, choices = compose_run(overrides, reward, data)
    with open_dict(config):
        config["choices"] = dict(sorted(choices.items()))
    return config


def load_task(*overrides: str | DictConfig, data: Any = None) -> "Task":
    """The task of a config: prompts, references, the split into train and holdout, the checker. data: as in `train`."""
    return build_objects(resolve(*compose_run(overrides, data=data)))[0]


def build_reward(*overrides: str | DictConfig, reward: Callable[..., Any] | None = None) -> "Reward":
    """The reward of a config, to be called with a batch of responses (`pgsrm.reward.Reward`)."""
    built: Reward = build_objects(resolve(*compose_run(overrides, reward)))[1]
    return built


def train(
    *overrides: str | DictConfig,
    reward: Callable[..., Any] | None = None,
    data: Any = None,
    progress: bool = True,
) -> "Run":
    """Train one run to its end, in this process, and return it.

    The same config is the same run: one that has finished is returned at once, one that was cut off resumes. Several runs
    are a loop; runs side by side, on GPUs or on a cluster, are the command line's (`python -m pgsrm.run -m`).

    Ctrl-C, or a notebook's stop button, ends the run after the update that is under way, with a checkpoint; a second one
    ends it at once. Signals, random states and torch's number of threads are afterwards as they were. In a thread that
    is not the main one no signal is touched.

    Args:
        overrides: the words of the command line, or one config that `compose` returned.
        reward: a reward of your own instead of a choice by `reward=`: a function or class that stands at the top of a
            module or notebook, or `functools.partial` of one with keywords. `pgsrm.reward.Reward` says what it is
            called with.
        data: the task's prompts as a pandas data frame (or what has `to_pandas`, or a list of dicts) instead of `task.data`.
            Its columns are those of a data file. It is written to `outputs/data`, named by its content.
        progress: show a bar in a terminal, a line in a notebook, and a line for each tenth of the run elsewhere.

    Raises:
        UserError: for what you can mend, in one line.
        KeyboardInterrupt: after Ctrl-C; the same call resumes the run.
    """
    this = plan_words(*overrides, reward=reward, data=data)
    _check_here(this)
    with launching(outputs_of([this])):
        (need,) = survey([this]).needs
        if need == "queued":
            raise UserError(f"{this.folder.name}: waits in Slurm's queue; scancel its job to train it here")
        this.freeze()
    prepare_tracking(this.config["tracking"])
    state = this.folder.state()
    if state != "finished":
        with _as_it_was():
            state = run(this.folder, show_progress=progress, stop=None if in_main_thread() else _Unstoppable())
    if state == "stopped":
        raise KeyboardInterrupt(f"{this.folder.name}: stopped; the same call resumes it")
    if state == "running":
        raise UserError(f"{this.folder.name}: another process trains it; wait for it, or stop it")
    if state != "finished":
        raise UserError(f"{this.folder.name}: {(this.folder.status() or {}).get('reason')}")
    return Run(this.folder.path)


def _check_here(this: Plan) -> None:
    """Raise UserError for a config that this process can't train."""
    if this.settings.dry_run:
        raise UserError("dry_run=true: is the command line's; pgsrm.compose returns the config without training")
    target = str(this.config["reward"]["_target_"])
    if this.settings.processes > 1 and target.startswith("__main__."):
        raise UserError(
            f"processes={this.settings.processes}: the run's other processes can't import {target}; "
            "move the reward into a module"
        )


class _Unstoppable(Signals):
    """In a thread: nothing asks the run to stop."""

    def __init__(self) -> None:
        self.ending = self._checkpoint = False


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Give the caller's process back as it was: signal handlers, random states, torch's threads."""
    import numpy as np
    import torch

    handled = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2) if in_main_thread() else ()
    handlers = {number: signal.getsignal(number) for number in handled}
    random_states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        random.setstate(random_states[0])
        np.random.set_state(random_states[1])
        torch.set_rng_state(random_states[2])
        torch.set_num_threads(threads)


class Run:
    """A run, read from its folder. Every access reads the files again, so that a run that is under way can be watched."""

    def __init__(self, folder: str | Path) -> None:
        """`folder`: outputs/runs/NAME. Raises UserError where there is no run."""
        self._folder = RunFolder(run_path(Path(folder)))
        self._folder.check_is_run()

    @property
    def folder(self) -> Path:
        """The run's folder (docs/runs.md)."""
        return self._folder.path

    @property
    def name(self) -> str:
        """The folder's name: what was varied or set, the seed, and eight digits of the run's identity."""
        return self._folder.name

    @property
    def state(self) -> str:
        """One of waiting, running, cut off, finished, failed and stopped."""
        return self._folder.state()

    @property
    def config(self) -> DictConfig:
        """The frozen config, with the choice of each group under `choices`."""
        config = OmegaConf.load(self._folder.config)
        assert isinstance(config, DictConfig)
        return config

    @property
    def metrics(self) -> "pd.DataFrame":
        """A row for each update: update, episodes, and the training's metrics (docs/metrics.md)."""
        frame = self._lines()
        return _frame(frame.loc[frame["update"] > 0, [name for name in frame if not name.startswith("eval/")]])

    @property
    def evaluations(self) -> "pd.DataFrame":
        """A row for each evaluation, the one before training (update 0) first: update, episodes and `eval/...`.

        That first row also has `equilibrium/...`, where the policy would go without a reward.
        """
        frame = self._lines()
        measured = [name for name in frame if name.startswith("eval/")]
        predicted = [name for name in frame if name.startswith("equilibrium/")]
        rows = frame[measured].notna().any(axis=1)
        return _frame(frame.loc[rows, ["update", "episodes", *measured, *predicted]])

    @property
    def samples(self) -> "pd.DataFrame":
        """A row for each sampled response that was kept: update, prompt, reference, response, reward, exact_match ..."""
        import pandas as pd

        path = self._folder.samples
        rows = [row for _, row in parse_lines(path.read_bytes())] if path.exists() else []
        return pd.DataFrame(rows, columns=None if rows else ["update", "prompt", "reference", "response", "reward"])

    @functools.cached_property
    def model(self) -> Any:
        """The trained model, loaded by transformers on the CPU. Raises UserError before the run has finished."""
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(self._folder.saved_model())

    @functools.cached_property
    def best_model(self) -> Any:
        """The model of the best evaluation, loaded as `model` is. Raises UserError where the run has not kept it."""
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(self._folder.saved_model(best=True))

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer, loaded by transformers. Raises UserError before the run has finished."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self._folder.saved_model())

    def __repr__(self) -> str:
        return f"<Run {end_of_run_line(summarise(self._folder))}>"

    def _lines(self) -> "pd.DataFrame":
        import pandas as pd

        from pgsrm.analysis.frames import read_lines

        lines = read_lines(self._folder)
        return pd.DataFrame(lines, columns=None if lines else _FIRST)


_FIRST = ["update", "episodes"]


def _frame(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Rows counted from 0, with whole numbers as such."""
    return rows.reset_index(drop=True).astype({"update": int, "episodes": int})
