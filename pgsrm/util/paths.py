"""Where the package's own files lie, in a checkout and in an installed wheel."""

from pathlib import Path

PACKAGE = Path(__file__).parent.parent


def conf_folder() -> Path:
    """The Hydra configuration: `pgsrm/conf` in an installed wheel, `conf/` beside the package in a checkout."""
    installed = PACKAGE / "conf"
    return installed if installed.is_dir() else PACKAGE.parent / "conf"
