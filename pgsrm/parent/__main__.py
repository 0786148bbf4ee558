"""`python -m pgsrm.parent task=... parent=openai|transformers [key=value ...]`: a task's references, once and offline."""

import os
import shlex
import sys
from pathlib import Path
from typing import Any

USAGE = """\
python -m pgsrm.parent task=NAME parent=openai|transformers [key=value ...]

Asks a parent for the references of a task's prompts and writes them to parent.references (null: a file under
paths.outputs/references). The same command goes on with what is missing. A run then reads them:
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

    config, _ = compose_words(words, "python -m pgsrm.parent")
    settings = read_settings(config)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    path = make_references(plain, settings.parent)
    print(f"references: {_near(path)}")
    print(f"train on them: python -m pgsrm.run {shlex.join(words)}")


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
        print("pgsrm.parent: interrupted; the same command goes on from here", file=sys.stderr, flush=True)
        os._exit(130)  # answers are on the disk; threads that wait for the server would hold up a plain exit
    except Exception as error:
        exit_with_line(error, "pgsrm.parent", wants_traceback)


if __name__ == "__main__":
    main()
