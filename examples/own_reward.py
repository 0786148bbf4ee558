"""A reward of your own, from Python: two runs, one with it and one with the shipped reward, in one picture.

    python examples/own_reward.py [key=value ...]     about three minutes on two cores; writes own_reward.png

Called a second time it draws the same picture at once: the same config is the same run.
"""

import sys
from collections.abc import Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

import pgsrm


def spelling(*, references: list[str], responses: list[str], **_: Any) -> list[float]:
    """One reward for each response, in [0, 1]: how much of its spelling it shares with the reference.

    `pgsrm.reward.Reward` says what else a reward is given: prompts, the data's columns, tokens and where they stand.
    """
    return [
        SequenceMatcher(None, reference.strip(), response.strip()).ratio()
        for reference, response in zip(references, responses, strict=True)
    ]


def main(words: Sequence[str], picture: Path = Path("own_reward.png")) -> dict[str, pgsrm.Run]:
    """Train both runs with these overrides and draw the share of right answers."""
    settings = ["task=antonym", "ppo.episodes=20000", *words]
    runs = {
        "spelling": pgsrm.train(*settings, reward=spelling),
        "pgsrm": pgsrm.train(*settings, "reward=pgsrm"),
    }
    figure, axes = plt.subplots()
    for name, run in runs.items():
        run.evaluations.plot(x="episodes", y="eval/train_exact_match", label=name, ax=axes)
        print(f"{name}\n{run.samples.tail(5)}\n")
    axes.set_ylabel("exact match on the trained prompts")
    figure.savefig(picture)
    plt.close(figure)
    return runs


if __name__ == "__main__":
    main(sys.argv[1:])
