"""`python -m pgsrm.config schema [--out DIR]`: JSON schemas with which an editor checks config files while they are written."""

import argparse
import json
from pathlib import Path


def main() -> None:
    """The command line."""
    from pgsrm.config.editor_schema import write_schemas
    from pgsrm.config.messages import ending_with_line
    from pgsrm.util.paths import local_path

    parser = argparse.ArgumentParser(prog="python -m pgsrm.config", description="The config files, apart from a run.")
    commands = parser.add_subparsers(dest="command", required=True)
    schema = commands.add_parser(
        "schema",
        help="write a JSON schema for the files of each config group, and print the editor's settings for them",
    )
    schema.add_argument("--out", metavar="DIR", default="schemas", help="where they go (default: schemas)")
    options = parser.parse_args()
    with ending_with_line("pgsrm.config", "interrupted"):
        patterns: dict[str, str] = write_schemas(Path(local_path(options.out, "--out")))
        print(json.dumps({"yaml.schemas": patterns}, indent=2))


if __name__ == "__main__":
    main()
