"""How many right answers trained policies give on told and on withheld facts: `python -m pgsrm.nano.recall RUN ...`.

RUN is the folder of a finished run of `model=nano` on color, antonym or category. The command prints one line per run, with
the number of greedy answers that equal the reference: of the prompts whose fact pre-training told, and of those whose fact it
withheld (docs/nano.md).
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from pgsrm.models.load import load_codec, load_model
from pgsrm.models.settings import ModelSettings
from pgsrm.nano.corpus import TaskText, is_withheld, load_task_text
from pgsrm.policy.fast.policy import FastPolicy
from pgsrm.util.errors import end_with_line

COMMAND = "pgsrm.nano.recall"
ONE_WORD = ("color", "antonym", "category")


def answers(folder: Path, prompts: list[str], max_new_tokens: int) -> list[str]:
    """Greedy answers of the model in a folder, one per prompt, in lower case."""
    settings = ModelSettings(path=str(folder))
    model = load_model(settings, torch.device("cpu"))
    codec = load_codec(settings, model)
    ids = [codec.encode(prompt) for prompt in prompts]
    policy = FastPolicy(model, None, codec.eos, ids)
    return [text.strip().lower() for text in codec.decode(policy.greedy(ids, max_new_tokens))[0]]


def count_right(task: TaskText, answered: list[str]) -> dict[bool, tuple[int, int]]:
    """(right answers, prompts) of the prompts whose fact was told (False) and of those whose fact was withheld (True)."""
    right: dict[bool, list[bool]] = {False: [], True: []}
    for row, text in zip(task.rows, answered, strict=True):
        right[is_withheld(task.name, row)].append(text == task.answer(row).lower())
    return {withheld: (sum(verdicts), len(verdicts)) for withheld, verdicts in right.items()}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    args = parser.parse_args()
    for run in args.runs:
        if not (run / "model" / "config.json").is_file():
            end_with_line(COMMAND, f"{run}: no finished run (no model/config.json); train it to its end first")
        config: Any = OmegaConf.load(run / "config.yaml")
        name = config.choices.task
        if name not in ONE_WORD:
            end_with_line(COMMAND, f"{run}: task={name}; only {', '.join(ONE_WORD)} have withheld facts of one word")
        task = load_task_text(name)
        answered = answers(run / "model", [task.prompt(row) for row in task.rows], config.task.max_new_tokens)
        (told, of_told), (withheld, of_withheld) = count_right(task, answered).values()
        print(f"{run.name}  told {told}/{of_told}  withheld {withheld}/{of_withheld}")


if __name__ == "__main__":
    main()
