"""`python -m pgsrm.run [-m] task=... reward=... [key=value ...]`: compose, check, train.

With -m every combination of the comma-separated values is a run, dispatched by `hydra/launcher`.
"""

import os
import sys

import hydra
from omegaconf import DictConfig

from pgsrm.paths import conf_folder

_failures: list[Exception] = []  # Hydra prints a line of its own about an exception that leaves the function below


@hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")
def _main(config: DictConfig) -> None:
    try:
        _run_one(config)
    except Exception as error:
        _failures.append(error)


def _run_one(config: DictConfig) -> None:
    """One run, in this process."""
    from hydra.core.hydra_config import HydraConfig

    from pgsrm.plan import plan
    from pgsrm.record.summary import end_of_run_line, summarise
    from pgsrm.sweep import SweepFailed, group_choices, prepare_tracking, print_where

    choices = {str(group): option for group, option in HydraConfig.get().runtime.choices.items()}
    this = plan(config, group_choices(choices))
    this.freeze()
    experiment = prepare_tracking(this.config["tracking"])
    if this.folder.state() != "finished":
        from pgsrm.train import run

        run(this.folder)
    print(end_of_run_line(summarise(this.folder)))
    print_where(this.config, experiment)
    if this.folder.state() != "finished":
        raise SweepFailed((this.folder.status() or {}).get("reason"))


def main() -> None:
    """The command line; every error that a user can mend is one line, without a traceback."""
    from pgsrm.cli import one_line

    wants_traceback = bool(os.environ.get("HYDRA_FULL_ERROR"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises, and the line below is ours
    try:
        _main()
        if _failures:
            raise _failures[0]
    except Exception as error:
        line = one_line(error)
        if line is None or wants_traceback:
            raise
        print(f"pgsrm: {line}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
