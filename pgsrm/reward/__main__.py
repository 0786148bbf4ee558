"""`python -m pgsrm.reward probe task=... reward=... [--out FILE.csv]`: what a reward pays for wrong answers."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def main() -> None:
    """The command line; every error that a user can mend is one line, without a traceback."""
    from pgsrm.config.messages import exit_with_line
    from pgsrm.util.paths import local_path

    parser = argparse.ArgumentParser(prog="python -m pgsrm.reward", description="Rewards, apart from a run.")
    commands = parser.add_subparsers(dest="command", required=True)
    probe = commands.add_parser("probe", help="what a reward pays for wrong answers that look like the right one")
    probe.add_argument(
        "overrides", nargs="*", metavar="key=value", help="as python -m pgsrm.run takes them; task=a,b for several"
    )
    probe.add_argument("--out", metavar="FILE.csv", help="also write the numbers to a CSV file")
    options, others = parser.parse_known_args()  # --config-dir is Hydra's
    try:
        probe_command(options.overrides + others, None if options.out is None else local_path(options.out, "--out"))
    except KeyboardInterrupt:
        print("pgsrm: interrupted", file=sys.stderr, flush=True)
        sys.exit(130)
    except Exception as error:
        exit_with_line(error, "pgsrm")


def probe_command(words: Sequence[str], out: Path | None = None) -> None:
    """Compose the config as a run does, for each of `task=a,b`; print the tables, write `out`."""
    from pgsrm.config.compose import compose_tasks
    from pgsrm.config.plan import build_objects
    from pgsrm.reward.probes import markdown, probe, rows, summary

    if out is not None:
        _check_writable(out)
    results, lines = {}, []
    for config, choices in compose_tasks(words, "python -m pgsrm.reward probe"):
        title = _title(config, choices, words)
        result = probe(*build_objects(config))
        print(f"### {title}\n\n{markdown(result)}\n", flush=True)
        results[str(choices.get("task"))] = result
        lines += [{"config": title, **row} for row in rows(result)]
    if len(results) > 1:
        print(f"### Mean reward, and share of prompts for which a probe is paid\n\n{summary(results)}")
    if out is not None:
        with out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)


def _title(config: Mapping[str, Any], choices: Mapping[str, Any], words: Sequence[str]) -> str:
    """The choices that decide the numbers, and whatever else was set."""
    embeds = {"embedder", "parts"} & set(config["reward"])
    chosen = [f"{group}={choices.get(group)}" for group in ("task", "reward", *(["embedder"] if embeds else []))]
    others = [word for word in words if not word.startswith(("task=", "reward=", "embedder="))]
    return " ".join([*chosen, *others])


def _check_writable(out: Path) -> None:
    from pgsrm.util.errors import UserError

    if out.is_dir():
        raise UserError(f"--out={out}: is a folder; name a file")
    try:
        out.open("a").close()
    except OSError as error:
        raise UserError(f"--out={out}: can't be written ({error.strerror}); name another file") from error


if __name__ == "__main__":
    main()
