"""Where a run that was found through symbolic links lies: its name and its outputs folder are those of that place."""

from pathlib import Path

from pgsrm.record.config_file import read_config


def run_path(folder: Path) -> Path:
    """A run's folder without the links that lead to it from elsewhere; what is written about it then goes beside the run itself.

    As it is given, where no link hides the run's name or its outputs folder: that folder may be a link itself, and so may
    its runs/, if the run was made there (`paths.outputs` of its config).
    """
    real = folder.resolve()
    if real == folder.absolute():
        return folder
    above = folder.absolute().parent.parent
    paths = read_config(folder / "config.yaml").get("paths")
    made_in = paths.get("outputs") if isinstance(paths, dict) else None
    outputs = {real.parent.parent, *([Path(made_in).resolve()] if isinstance(made_in, str) else [])}
    return folder if folder.name == real.name and above.resolve() in outputs else real
