"""`python -m pgsrm.parent task=... parent=openai|transformers [key=value ...]`: a task's references, once and offline."""

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LEAST_FIRST = 0.9  # share of prompts whose own answer should earn more than every other

USAGE = """\
python -m pgsrm.parent task=NAME parent=openai|transformers [key=value ...]

Asks a parent for the references of a task's prompts and writes them to parent.references (null: a file under
paths.outputs/references). The same command resumes with what is missing. A run then reads them:
  python -m pgsrm.run task=NAME parent=openai

  parent.model, parent.base_url    who is asked
  parent.max_calls, parent.max_cost  limits over all starts
  task.parent_input='${task.template}'  the form of the released code
  --config-dir DIR                 more choices, of your own

conf/parent explains every key."""


def _make(words: list[str]) -> None:
    from omegaconf import OmegaConf

    from pgsrm.config.compose import compose_words
    from pgsrm.config.schema import read_settings
    from pgsrm.parent.make import make_references

    config, choices = compose_words(words, "python -m pgsrm.parent")
    settings = read_settings(config)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    path = make_references(plain, settings.parent)
    print(_told_apart({**plain, "parent": {**plain["parent"], "references": str(path)}}, choices, words))
    print(f"references: {_near(path)}")
    print(f"train on them: python -m pgsrm.run {shlex.join(words)}")


def _told_apart(config: dict[str, Any], choices: Mapping[str, Any], words: list[str]) -> str:
    """One line on how well the reward of the same words tells the answers apart; asks no server for it."""
    from pgsrm.config.plan import build_objects, standardise_outside_run
    from pgsrm.reward.check import EXACT, NEAREST, check_reward
    from pgsrm.util.errors import UserError

    who = f"embedder={choices.get('embedder')} reward={choices.get('reward')}"
    command = f"python -m pgsrm.embedder check {shlex.join(words)}"
    if "base_url" in (config["reward"].get("embedder") or {}):
        return f"{who}: not asked here; `{command}` says how it tells the answers apart"
    try:
        task, reward = build_objects(config)
        standardise_outside_run(config, task, reward)
        check = check_reward(reward, task.train + task.holdout)
    except UserError as error:
        return f"{who}: how it tells the answers apart is unknown ({error})"
    nearest = check.rewards[NEAREST]
    others = f", the best other answer {nearest.mean():.2f}" if nearest.size else ""
    line = f"{who}: an answer earns {check.rewards[EXACT].mean():.2f}{others}; it is first for {check.first:.0%} of the prompts"
    return (
        line
        if check.first >= LEAST_FIRST
        else f"{line}: this embedder or these answers can't teach; `{command}` shows more"
    )


def _near(path: Path) -> Path:
    here = Path.cwd()
    return path.absolute().relative_to(here) if path.absolute().is_relative_to(here) else path


def main() -> None:
    """The command line; every error that a user can mend is one line, without a traceback."""
    from pgsrm.config.command_line import HELP
    from pgsrm.config.messages import exit_with_line

    wants_traceback = bool(os.environ.get("HYDRA_FULL_ERROR"))
    try:
        if any(word in HELP for word in sys.argv[1:]):
            print(USAGE)
        else:
            _make(sys.argv[1:])
    except KeyboardInterrupt:
        print("pgsrm.parent: interrupted; the same command resumes from here", file=sys.stderr, flush=True)
        os._exit(130)  # answers are on the disk; threads that wait for the server would hold up a plain exit
    except Exception as error:
        exit_with_line(error, "pgsrm.parent", wants_traceback)


if __name__ == "__main__":
    main()
