"""`pgsrm COMMAND ...`: what `python -m pgsrm.COMMAND ...` does, under a shorter name.

This file imports nothing that takes time, so that help and a misspelt command are answered at once.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from pgsrm import __version__

# Command -> the module that `python -m` runs, and what it does.
COMMANDS = {
    "run": ("pgsrm.run", "compose, check and train one run, or with -m a sweep"),
    "train": ("pgsrm.train", "train or resume the run of a folder"),
    "status": ("pgsrm.status", "how far the runs are, and why one waits or failed"),
    "sync": ("pgsrm.sync", "send MLflow what it has not got"),
    "push": ("pgsrm.push", "a finished run's model with a model card, to a folder or the hub"),
    "report": ("pgsrm.analysis", "figures, tables, statistics, claims and report.html"),
    "parent": ("pgsrm.parent", "a task's reference answers, from a server or a model"),
    "embedder": ("pgsrm.embedder", "check an embedder before training; fetch word vectors"),
    "reward": ("pgsrm.reward", "what a reward pays for wrong answers; a reward for another trainer"),
    "critic": ("pgsrm.critic", "ask a critic about texts, or check how good it is"),
    "models": ("pgsrm.models", "fetch a published model"),
    "completion": ("pgsrm.completion", "completion of commands, choices and keys in bash, zsh or fish"),
    "config": ("pgsrm.config", "JSON schemas with which an editor checks config files"),
    "evaluation": ("pgsrm.evaluation", "evaluate finished runs again"),
    "downstream": ("pgsrm.downstream", "what training did to the rest of a model"),
    "algorithm": ("pgsrm.algorithm", "what is not PPO: supervised fine-tuning, the best of n samples"),
    "reward_model": ("pgsrm.reward_model", "preference pairs, and reward models trained on them"),
}
HELP = ("-h", "--help", "help")
USAGE = """\
pgsrm COMMAND ...

{commands}

  pgsrm COMMAND --help   what a command takes
  pgsrm --version        the version

`pgsrm COMMAND` is `python -m pgsrm.COMMAND`, and `pgsrm report` is `python -m pgsrm.analysis`. For example:
  pgsrm run -m task=color,antonym reward=pgsrm,binary
  pgsrm report"""


def usage() -> str:
    """The commands, a line each."""
    width = max(len(name) for name in COMMANDS)
    lines = (f"  {name:{width}}  {does}" for name, (_, does) in COMMANDS.items())
    return USAGE.format(commands="\n".join(lines))


def unknown(word: str) -> str:
    """The line for a first word that is not a command."""
    from difflib import get_close_matches

    if "=" in word or word.startswith("-"):
        return f"{word}: not a command; did you mean `pgsrm run {word}`? `pgsrm --help` lists all"
    called = {name: name for name in COMMANDS} | {module.split(".")[1]: name for name, (module, _) in COMMANDS.items()}
    near = get_close_matches(word.lower().removeprefix("pgsrm."), called, n=1, cutoff=0.5)
    meant = f"did you mean `pgsrm {called[near[0]]}`? `pgsrm --help` lists all" if near else "`pgsrm --help` lists all"
    return f"{word}: not a command; {meant}"


def main() -> int:
    """The command line; a command's own exit code is passed on as it is."""
    words = sys.argv[1:]
    if not words or words[0] in HELP:
        print(usage())
    elif words[0] == "--version":
        print(f"pgsrm {__version__}")
    elif words[0] in COMMANDS:
        _run_module(COMMANDS[words[0]][0], words[1:])
    else:
        print(f"pgsrm: {unknown(words[0])}", file=sys.stderr)
        return 2
    return 0


def _run_module(module: str, words: Sequence[str]) -> None:
    """`python -m MODULE WORDS`, in this process.

    `python -m` finds modules in the working directory too: a reward of the user's own. A console script does not.
    """
    from runpy import run_module

    if not sys.flags.safe_path:
        with suppress(OSError):  # the working directory was removed
            if os.getcwd() not in sys.path:
                sys.path.insert(0, os.getcwd())
    sys.argv[1:] = words
    run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    sys.exit(main())
