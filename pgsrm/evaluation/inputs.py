"""What an evaluation takes besides the run: a plain text, an embedder and measures that the run is not trained on."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgsrm.util.errors import ParameterError, UserError, under
from pgsrm.util.paths import local_path

if TYPE_CHECKING:
    from pgsrm.reward import Reward, SemanticReward

SHIPPED = Path(__file__).parent
AUSTEN = "austen.txt"  # "Pride and Prejudice" (1813, public domain): chapter 1, and a part of chapter 3


@dataclass(frozen=True)
class Evaluated:
    """What a run is evaluated with: a plain text for the perplexity, PGSRM's reward under another embedder, and measures.

    measures: rewards by name, one number per response, that judge `continuations` sampled answers to each held-out prompt.
    prompts: at most so many of each split are evaluated, None: all.
    """

    text: str | None = None
    other: "SemanticReward | None" = None
    measures: "Mapping[str, Reward]" = field(default_factory=dict)
    continuations: int = 4
    prompts: int | None = None


def read_text(name: str) -> str:
    """The text of a file, or of the shipped one of that name; raises UserError where there is none."""
    path = local_path(name, "evaluation.text")
    if not path.is_file() and name == AUSTEN:
        path = SHIPPED / AUSTEN
    remedy = f"give a file of plain text, {AUSTEN} (shipped), or null for no perplexity"
    try:
        text = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UserError(f"evaluation.text={name}: can't be read ({error.strerror}); {remedy}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"evaluation.text={name}: not UTF-8; save the file as UTF-8") from error
    if len(text.split()) < 2:
        raise UserError(f"evaluation.text={name}: has less than two words; {remedy}")
    return text


def other_reward(embedder: dict[str, Any] | None) -> "SemanticReward | None":
    """PGSRM's reward with its defaults (cosine, affine, alpha 4) under `evaluation.embedder`; None without one.

    Its shape does not follow the run's own reward, so that runs under any reward are compared by one measure.
    """
    if embedder is None:
        return None
    from pgsrm.reward import SemanticReward

    return SemanticReward(build_object(embedder, "evaluation.embedder"))


def build_object(node: Mapping[str, Any], key: str) -> Any:
    """The object that a config node's `_target_` names; raises UserError, naming the config's `key`, where it can't be made."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        # A sum's parts come in a plain dict: OmegaConf's own would turn an object that is a dataclass into a config.
        return instantiate(node, **({} if "_convert_" in node else {"_convert_": "all"}))
    except InstantiationException as error:
        if isinstance(error.__cause__, ParameterError):  # Hydra's message ends with where in the node it is
            inner = re.search(r"^full_key: (\S+)$", str(error), re.MULTILINE)
            with under(f"{key}.{inner[1]}" if inner else key):
                raise error.__cause__ from None
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(f"{key}: {node['_target_']} can't be made ({reason})") from error
