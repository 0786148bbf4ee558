"""`python -m pgsrm.embedder download numberbatch [--out DIR]` and `python -m pgsrm.embedder check task=...`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main() -> None:
    """The command line; every error that a user can mend is one line, without a traceback."""
    from pgsrm.config.messages import exit_with_line

    parser = argparse.ArgumentParser(prog="python -m pgsrm.embedder", description="Embedders, apart from a run.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="how well an embedder tells a task's right answers from others")
    check.add_argument(
        "overrides", nargs="*", metavar="key=value", help="as python -m pgsrm.run takes them; task=a,b for several"
    )
    download = commands.add_parser("download", help="fetch published word vectors")
    download.add_argument("name", choices=["numberbatch"])
    download.add_argument("--out", type=Path, default=Path(), help="folder (default: this one)")
    options, others = parser.parse_known_args()
    if others and options.command != "check":  # which takes --config-dir too
        parser.error(f"{others[0]}: unknown")
    try:
        if options.command == "check":
            from pgsrm.reward.check import check_command

            check_command(options.overrides + others)
        else:
            _download(options.name, options.out)
    except KeyboardInterrupt:
        print("pgsrm: interrupted; the same command goes on with what it has so far", file=sys.stderr, flush=True)
        sys.exit(130)
    except Exception as error:
        exit_with_line(error, "pgsrm")


def _download(name: str, out: Path) -> None:
    from pgsrm.embedder.download import PUBLISHED, download

    path, sha256 = download(PUBLISHED[name], out)
    print(f"{path}: {path.stat().st_size:,} bytes, SHA-256 {sha256}")
    print(f"python -m pgsrm.run embedder={name} embedder.path={path}")


if __name__ == "__main__":
    main()
