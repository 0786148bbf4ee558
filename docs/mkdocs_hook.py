"""What the docs site has beside the pages of this folder: README as its first page, notebooks, and a reference of docstrings.

Links to files of the repository that are no page become plain text: the site stands without the repository.
"""

import json
import re
from collections.abc import Iterator
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
            "pgsrm.reward.RubricReward",
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
    """Add the first page, the notebooks and the reference."""
    files.append(File.generated(config, "index.md", content=_first_page()))
    for name, (title, objects) in REFERENCE.items():
        content = f"# {title}\n\n" + "\n\n".join(f"::: {target}" for target in objects) + "\n"
        files.append(File.generated(config, f"api/{name}.md", content=content))
    for notebook in sorted((ROOT / "examples").glob("*.ipynb")):
        content = "\n\n".join(_cells(json.loads(notebook.read_text(encoding="utf-8")))) + "\n"
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=content))
    return files


def _cells(notebook: dict[str, Any]) -> Iterator[str]:
    """The cells of a notebook as Markdown, with the outputs that are stored in it."""
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield source.replace(".ipynb)", ".md)")
            continue
        yield f"```python\n{source}\n```"
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                yield f"![What the cell above draws](data:image/png;base64,{''.join(data['image/png']).strip()})"
            elif text := "".join(output.get("text") or data.get("text/plain", "")):
                yield f"```text\n{text.rstrip()}\n```"


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
