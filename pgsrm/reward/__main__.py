"""`python -m pgsrm.reward probe ...`: what a reward pays for wrong answers; `export ...`: a reward for another trainer."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def main() -> None:
    """The command line; every error that a user can mend is one line, without a traceback."""
    from pgsrm.config.messages import ending_with_line
    from pgsrm.reward.export import FORMS
    from pgsrm.util.paths import local_path

    parser = argparse.ArgumentParser(prog="python -m pgsrm.reward", description="Rewards, apart from a run.")
    commands = parser.add_subparsers(dest="command", required=True)
    probe = commands.add_parser("probe", help="what a reward pays for wrong answers that look like the right one")
    probe.add_argument(
        "overrides", nargs="*", metavar="key=value", help="as python -m pgsrm.run takes them; task=a,b for several"
    )
    probe.add_argument("--out", metavar="FILE.csv", help="also write the numbers to a CSV file")
    export = commands.add_parser("export", help="a Python file from which another trainer takes this reward")
    export.add_argument("trainer", choices=sorted(FORMS))
    export.add_argument("overrides", nargs="*", metavar="key=value", help="as python -m pgsrm.run takes them")
    export.add_argument("--out", metavar="FILE.py", required=True, help="the file; it must not be there yet")
    options, others = parser.parse_known_args()  # --config-dir is Hydra's
    words = options.overrides + others
    with ending_with_line("pgsrm", "interrupted"):
        out = None if options.out is None else local_path(options.out, "--out")
        if options.command == "probe":
            probe_command(words, out)
        elif out is not None:
            export_command(options.trainer, words, out)


def probe_command(words: Sequence[str], out: Path | None = None) -> None:
    """Compose the config as a run does, for each of `task=a,b`; print the tables, write `out`."""
    from pgsrm.config.compose import compose_tasks
    from pgsrm.config.plan import build_objects
    from pgsrm.reward.probes import markdown, probe, rows, summary

    if out is not None:
        _check_file(out)
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


def export_command(trainer: str, words: Sequence[str], out: Path) -> None:
    """Check the config as a run does, then write the file."""
    from pgsrm.reward.export import exported
    from pgsrm.text_reward import TextReward
    from pgsrm.util.errors import UserError

    TextReward(*words)
    if out.exists():
        raise UserError(f"--out={out}: is there already; name a new file")
    _check_file(out)
    out.write_text(exported(trainer, [_from_anywhere(word) for word in words]), encoding="utf-8")
    print(f"wrote {out}")


def _from_anywhere(word: str) -> str:
    """A word that names a file or folder, with its whole path: the other trainer may run elsewhere."""
    key, equals, value = word.partition("=")
    return f"{key}={Path(value).absolute()}" if equals and "/" in value and Path(value).exists() else word


def _title(config: Mapping[str, Any], choices: Mapping[str, Any], words: Sequence[str]) -> str:
    """The choices that decide the numbers, and whatever else was set."""
    embeds = {"embedder", "parts"} & set(config["reward"])
    chosen = [f"{group}={choices.get(group)}" for group in ("task", "reward", *(["embedder"] if embeds else []))]
    others = [word for word in words if not word.startswith(("task=", "reward=", "embedder="))]
    return " ".join([*chosen, *others])


def _check_file(out: Path) -> None:
    from pgsrm.util.errors import UserError
    from pgsrm.util.paths import check_writable

    if out.is_dir():
        raise UserError(f"--out={out}: is a folder; name a file")
    check_writable(out, "--out")


if __name__ == "__main__":
    main()
