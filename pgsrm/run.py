"""`python -m pgsrm.run [-m] task=... reward=... [key=value ...]`: compose, check, train.

With -m every combination of the comma-separated values is a run, dispatched by `hydra/launcher`.
"""

import os
import sys
from typing import TYPE_CHECKING

from pgsrm.util.errors import UserError
from pgsrm.util.paths import conf_folder

if TYPE_CHECKING:
    from omegaconf import DictConfig


def _compose_and_run() -> None:
    """A plain run is composed here: Hydra's own command line would do it twice, to learn first that it is no sweep."""
    from hydra import compose, initialize_config_dir

    from pgsrm.config.command_line import check_hydra_words, one_experiment, plain_run, search_path

    words = sys.argv[1:]
    one_experiment(words)
    overrides, folder = plain_run(words, hydra=True)
    if overrides is None:
        _run_hydra()
        return
    check_hydra_words(overrides)
    from pgsrm.config.libyaml import reading_by_libyaml

    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        with reading_by_libyaml():
            config = compose("config", overrides + search_path(folder), return_hydra_config=True)
        _run_one(config)


def _run_hydra() -> None:
    import hydra

    from pgsrm.config.command_line import options_first
    from pgsrm.config.libyaml import reading_by_libyaml

    sys.argv[1:] = options_first(sys.argv[1:])
    failures: list[Exception] = []  # Hydra prints a line of its own about an exception that leaves the function below

    @hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")
    def with_config(config: "DictConfig") -> None:
        from hydra.core.hydra_config import HydraConfig
        from omegaconf import open_dict

        whole = config.copy()
        with open_dict(whole):  # Hydra hands its own node over apart
            whole.hydra = HydraConfig.get()
        try:
            _run_one(whole)
        except Exception as error:
            failures.append(error)

    with reading_by_libyaml():
        with_config()
    if failures:
        raise failures[0]


def _run_one(config: "DictConfig") -> None:
    """One run, in this process, from a config with its `hydra` node."""
    from pgsrm.config.command_line import log_as_asked, refuse_sweep
    from pgsrm.config.compose import plan_run

    refuse_sweep(config)
    if config.hydra.runtime.choices["hydra/launcher"] == "slurm":
        raise UserError("hydra/launcher=slurm: submits sweeps, of one run too; add -m")
    log_as_asked(config.hydra.verbose)
    this = plan_run(config)
    from pgsrm.launch.sweep import (
        SweepFailed,
        launching,
        outputs_of,
        prepare_tracking,
        print_where,
        send_the_rest,
        survey,
    )
    from pgsrm.record.summary import end_of_run_line, summarise

    if this.settings.dry_run:
        print(survey([this]).lines())
        return
    with launching(outputs_of([this])):
        (need,) = survey([this]).needs
        if need == "queued":
            raise UserError(f"{this.folder.name}: waits in Slurm's queue; scancel its job to train it here")
        this.freeze()
    experiment = prepare_tracking(this.config["tracking"])
    ended = this.folder.state()
    if ended == "finished":
        send_the_rest([this.folder])
    else:
        from pgsrm.train import run

        ended = run(this.folder)
    print(end_of_run_line(summarise(this.folder)))
    print_where(this.config, experiment)
    if ended == "running":
        raise SweepFailed(f"{this.folder.name}: running; another process trains it")
    if ended != "finished":
        raise SweepFailed((this.folder.status() or {}).get("reason") or f"{this.folder.name}: {ended}")


def main() -> None:
    """The command line; every error that a user can mend is one line, without a traceback."""
    from pgsrm.config.command_line import HELP, help_text
    from pgsrm.config.messages import ending_with_line

    wants_traceback = bool(os.environ.get("HYDRA_FULL_ERROR"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises, and the line below is ours
    # Ctrl-C before a run's own handlers are set, or after; a sweep's runs are other processes.
    interrupted = "interrupted; the same command starts or resumes what has not finished"
    with ending_with_line("pgsrm", interrupted, wants_traceback):
        if any(word in HELP for word in sys.argv[1:]):
            print(help_text(sys.argv))
        else:
            _compose_and_run()


if __name__ == "__main__":
    main()
