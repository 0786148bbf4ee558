"""`python -m pgsrm.embedder download numberbatch [--out DIR]` and `python -m pgsrm.embedder check task=...`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def main() -> None:
    """The command line; every error that a user can mend is one line, without a traceback."""
    from pgsrm.config.command_line import add_words, parse_words
    from pgsrm.config.messages import ending_with_line
    from pgsrm.util.paths import local_path

    parser = argparse.ArgumentParser(prog="python -m pgsrm.embedder", description="Embedders, apart from a run.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="how well an embedder tells a task's right answers from others")
    add_words(check, "as python -m pgsrm.run takes them; task=a,b for several")
    download = commands.add_parser("download", help="fetch published word vectors")
    download.add_argument("name", choices=["numberbatch"])
    download.add_argument("--out", type=Path, default=Path(), help="folder (default: this one)")
    options, words = parse_words(parser)
    if words and options.command != "check":
        parser.error(f"{words[0]}: unknown")
    with ending_with_line("pgsrm", "interrupted; the same command resumes with what it has so far"):
        if options.command == "check":
            check_command(words)
        else:
            _download(options.name, local_path(options.out, "--out"))


def check_command(overrides: Sequence[str]) -> None:
    """Compose the config as a run does, for each of `task=a,b`; print the tables, draw the picture under paths.outputs."""
    from pgsrm.config.compose import compose_tasks
    from pgsrm.reward.check import plot, table
    from pgsrm.util.errors import writing_to

    composed = compose_tasks(overrides, "python -m pgsrm.embedder check")
    checks = {}
    for config, choices in composed:
        title = " ".join(f"{group}={choices.get(group)}" for group in ("task", "embedder", "reward"))
        checks[title] = _check(config)
        print(f"{title}\n{table(checks[title])}", flush=True)
    config, choices = composed[0]
    tasks = "-".join(dict.fromkeys(str(task_choices.get("task")) for _, task_choices in composed))
    name = "-".join([tasks, *(str(choices.get(group)) for group in ("embedder", "reward"))])
    outputs = config["paths"]["outputs"]
    with writing_to("paths.outputs", outputs):
        files = plot(checks, Path(outputs) / "embedder" / name)
    here = Path.cwd()
    print(*(file.relative_to(here) if file.is_relative_to(here) else file for file in files))


def _check(config: dict[str, Any]) -> Any:
    from pgsrm.config.plan import build_objects, standardise_outside_run
    from pgsrm.reward.calling import check_before
    from pgsrm.reward.check import check_comparable, check_reward, with_reference
    from pgsrm.util.errors import under

    task, reward = build_objects(config)
    with under("reward"):
        check_before(reward, [example.references for example in task.train + task.holdout])
    check_comparable(reward)
    standardise_outside_run(config, task, reward)
    return check_reward(reward, with_reference(task, "rank"))


def _download(name: str, out: Path) -> None:
    from pgsrm.embedder.download import PUBLISHED, download
    from pgsrm.util.shell import override

    path, sha256 = download(PUBLISHED[name], out)
    print(f"{path}: {path.stat().st_size:,} bytes, SHA-256 {sha256}")
    print(f"python -m pgsrm.run embedder={name} {override('embedder.path', str(path))}")


if __name__ == "__main__":
    main()
