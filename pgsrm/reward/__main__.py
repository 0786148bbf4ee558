"""`python -m pgsrm.reward probe ...`: what a reward pays for wrong answers; `export ...`: a reward for another trainer."""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgsrm.reward.best_of import Best, Favourite
    from pgsrm.task import Task

PROMPTS = 20  # to which samples are drawn


def main() -> None:
    """The command line; every error that a user can mend is one line, without a traceback."""
    from pgsrm.config.command_line import add_words, parse_words
    from pgsrm.config.messages import ending_with_line
    from pgsrm.reward.export import FORMS
    from pgsrm.util.paths import local_path

    parser = argparse.ArgumentParser(prog="python -m pgsrm.reward", description="Rewards, apart from a run.")
    commands = parser.add_subparsers(dest="command", required=True)
    probe = commands.add_parser("probe", help="what a reward pays for wrong answers that look like the right one")
    add_words(probe, "as python -m pgsrm.run takes them; task=a,b for several")
    probe.add_argument("--out", metavar="FILE.csv", help="also write the numbers to a CSV file, and a figure beside it")
    probe.add_argument(
        "--samples",
        type=int,
        default=0,
        metavar="N",
        help="also the best of up to N samples of the model to each prompt",
    )
    export = commands.add_parser("export", help="a Python file from which another trainer takes this reward")
    export.add_argument("trainer", choices=sorted(FORMS))
    add_words(export)
    export.add_argument("--out", metavar="FILE.py", required=True, help="the file; it must not be there yet")
    options, words = parse_words(parser)
    with ending_with_line("pgsrm", "interrupted"):
        out = None if options.out is None else local_path(options.out, "--out")
        if options.command == "probe":
            probe_command(words, out, options.samples)
        elif out is not None:
            export_command(options.trainer, words, out)


def probe_command(words: Sequence[str], out: Path | None = None, samples: int = 0) -> None:
    """Compose the config as a run does, for each of `task=a,b`; print the tables, write `out` and the figure beside it.

    samples: to each of `PROMPTS` prompts so many samples of the model are drawn, where it is not 0.
    """
    from pgsrm.config.compose import compose_tasks
    from pgsrm.config.plan import build_objects, standardise_outside_run
    from pgsrm.reward.best_of import table
    from pgsrm.reward.check import check_comparable, with_reference
    from pgsrm.reward.probes import markdown, probe, rows, summary
    from pgsrm.util.errors import UserError

    if out is not None:
        _check_file(out)
    if samples < 0:
        raise UserError(f"--samples={samples}: is no number of samples; give one from 1, or leave it out")
    results, best, lines = {}, {}, []
    for config, choices in compose_tasks(words, "python -m pgsrm.reward probe"):
        title, name = _title(config, choices, words), str(choices.get("task"))
        task, reward = build_objects(config)
        check_comparable(reward)
        with_reference(task, "make probes of")  # both before a model is loaded
        standardise_outside_run(config, task, reward)
        result = probe(task, reward)
        print(f"### {title}\n\n{markdown(result)}\n", flush=True)
        results[name] = result
        lines += [{"config": title, **row} for row in rows(result)]
        if samples:
            best[name], favourites = _best_of(config, task, reward, samples)
            print(f"{table(best[name], favourites)}\n", flush=True)
            lines += [_as_row(title, row, len(favourites)) for row in best[name]]
    if len(results) > 1:
        print(f"### Mean reward, and share of prompts for which a probe is paid\n\n{summary(results)}")
    if out is not None:
        _write(out, lines)
        from pgsrm.reward.probe_plot import plot

        chosen = " ".join(part for part in title.split() if not part.startswith("task="))
        print(*plot(results, best, chosen, out))


def _best_of(config: dict[str, Any], task: Task, reward: Any, samples: int) -> tuple[list[Best], list[Favourite]]:
    """The best of the configured model's samples by the reward, judged by the checker and by `evaluation.embedder`."""
    import random

    from omegaconf import OmegaConf

    from pgsrm.config.schema import read_settings
    from pgsrm.evaluation import other_reward
    from pgsrm.models.settings import check_model
    from pgsrm.policy.sampling import Sampling
    from pgsrm.reward.best_of import best_of
    from pgsrm.reward.check import NoPolicy, with_reference
    from pgsrm.reward_model.samples import draw
    from pgsrm.util.errors import under
    from pgsrm.util.objects import as_before, attach_object

    settings = read_settings(OmegaConf.create(config))
    check_model(settings.model)
    other = other_reward(settings.evaluation.embedder)
    examples = with_reference(task, "draw samples beside")
    examples = random.Random(0).sample(examples, min(PROMPTS, len(examples)))
    how = Sampling(task.max_new_tokens, settings.ppo.temperature, settings.ppo.top_k)
    drawn = draw(settings.model, examples, how, samples, settings.seed, task.min_new_tokens)
    with as_before(reward), under("reward"):
        attach_object(reward, NoPolicy(), NoPolicy())
        return best_of(reward, task.checker, other, examples, drawn)


def _as_row(title: str, best: Best, prompts: int) -> dict[str, Any]:
    return {
        "config": title,
        "probe": f"best of {best.n} samples",
        "prompts": prompts,
        "mean": best.reward,
        "accepted": best.right,
        "second_embedder": best.other,
    }


def _write(out: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    columns = list(dict.fromkeys(key for line in lines for key in line))
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
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
    """A word that names files or folders, alone or in a list, with their whole paths: the other trainer may run elsewhere."""
    key, equals, value = word.partition("=")
    return key + equals + re.sub(r"""[^\[\],'"]+""", lambda name: _whole_path(name[0]), value)


def _whole_path(name: str) -> str:
    """The absolute path of what is here and is called like a file or a path; other texts as they are."""
    return str(Path(name).absolute()) if ("/" in name or "." in name) and Path(name).exists() else name


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
