"""What the docs site has beside the pages of this folder: README as its first page, and the reference made of docstrings.

Links to files of the repository that are no page become plain text: the site stands without the repository.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent

# Page of the reference -> its title, and what it shows: a module or an object, with what is left out of it.
REFERENCE = {
    "front-door": (
        "The Python front door",
        ["pgsrm.api", "pgsrm.analysis.frames.load_runs", "pgsrm.util.errors.UserError"],
    ),
    "rewards": (
        "Rewards",
        [
            "pgsrm.reward.Reward",
            "pgsrm.reward.SemanticReward",
            "pgsrm.reward.BinaryReward",
            "pgsrm.reward.TextMetricReward",
            "pgsrm.reward.RougeReward",
            "pgsrm.reward.ClassifierReward",
            "pgsrm.reward.LearnedReward",
            "pgsrm.reward.CriticReward",
            "pgsrm.reward.SumReward",
            "pgsrm.reward.TRLReward",
            "pgsrm.rollout",
        ],
    ),
    "training": (
        "Training",
        [
            "pgsrm.trainer.Trainer",
            "pgsrm.policy.protocol",
            "pgsrm.ppo.update.step",
            "pgsrm.ppo.advantages",
            "pgsrm.ppo.losses",
        ],
    ),
    "elsewhere": ("In other trainers", ["pgsrm.trl", "pgsrm.text_reward"]),
}


def on_files(files: Files, config: Any) -> Files:
    """Add the first page and the reference."""
    files.append(File.generated(config, "index.md", content=_first_page()))
    for name, (title, objects) in REFERENCE.items():
        content = f"# {title}\n\n" + "\n\n".join(f"::: {target}" for target in objects) + "\n"
        files.append(File.generated(config, f"api/{name}.md", content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links that leave the folder become text."""
    return re.sub(r"\[([^\]]+)\]\(\.\./[^)]*\)", r"\1", markdown)


def _first_page() -> str:
    """README, its links as from within docs/."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"\]\(docs/", "](", text)
    text = re.sub(r'src="docs/', 'src="', text)
    return re.sub(r"\[([^\]]+)\]\((?!https?:|#|figures/)([^)#]+?)(#[^)]*)?\)", _kept, text)


def _kept(link: re.Match[str]) -> str:
    """A link of README's: to a page of docs/ as it is, to any other file its text alone."""
    return link.group(0) if (ROOT / "docs" / link.group(2)).exists() else link.group(1)
