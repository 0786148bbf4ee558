"""The config sections `algorithm` (how a run learns) and `sft` (a command of its own): checked without loading anything.

What the algorithms of runs share stays in `ppo`: how many responses an update samples and how, and the optimiser's settings.
"""

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from pgsrm.models.settings import ModelSettings
from pgsrm.ppo.settings import PPOSettings
from pgsrm.util.errors import UserError
from pgsrm.util.numbers import Count, Fraction, Positive

# Keys of `ppo` that every algorithm reads; all others belong to PPO alone.
SHARED = (
    "episodes", "batch_size", "group_size", "micro_batch", "weight_decay", "adam_eps", "max_grad_norm", "kl_estimator",
    "padding", "dropout", "temperature", "top_k",
)  # fmt: skip


# Those that are read besides: the default of algorithm.lr, and what `check_algorithm` refuses.
_OTHERWISE_READ = ("actor_lr", "epochs", "minibatches", "train_eos", "kl_reference")


class _Algorithm(msgspec.Struct, tag_field="name", forbid_unknown_fields=True, frozen=True, kw_only=True):
    @property
    def name(self) -> str:
        """As the config has it."""
        return str(self.__struct_config__.tag)

    @property
    def needs_samples(self) -> bool:
        """Whether it learns from the policy's own responses."""
        return True

    @property
    def needs_reward(self) -> bool:
        """Whether it learns from their rewards."""
        return True

    @property
    def needs_references(self) -> bool:
        """Whether it learns from the references themselves, whatever the reward does with them."""
        return False

    @property
    def needs_groups(self) -> bool:
        """Whether it compares several responses to one prompt."""
        return False


class PPOAlgorithm(_Algorithm, tag="ppo", frozen=True):
    """PPO, and what its settings make of it: RLOO, GRPO, the paper's variants."""


class SFTAlgorithm(_Algorithm, tag="sft", frozen=True):
    """Supervised fine-tuning on the references of the drawn prompts."""

    # AdamW learning rate of the policy.
    lr: Positive

    @property
    def needs_samples(self) -> bool:
        """It samples for its metrics alone."""
        return False

    @property
    def needs_reward(self) -> bool:
        """It asks for rewards for its metrics alone."""
        return False

    @property
    def needs_references(self) -> bool:
        """They are all that it learns from."""
        return True


class DPOAlgorithm(_Algorithm, tag="dpo", frozen=True):
    """Direct preference optimisation (Rafailov et al. 2023) on pairs that each update makes of its own samples."""

    # AdamW learning rate of the policy.
    lr: Positive
    # What a sample is compared with: the prompt's reference, which is preferred; or the other samples of its group by reward,
    # the best against the worst.
    pairs: Literal["reference", "reward"] = "reference"
    # How strongly the policy is held to the reference policy: the implicit reward is beta log(pi / pi_ref).
    beta: Positive = 0.1
    # Share of the pairs that are taken to be in the wrong order (conservative DPO).
    label_smoothing: Annotated[float, Meta(ge=0, lt=0.5)] = 0.0

    @property
    def needs_reward(self) -> bool:
        """Of pairs with the reference, the reference is preferred whatever the reward says."""
        return self.pairs == "reward"

    @property
    def needs_references(self) -> bool:
        """As one side of each pair."""
        return self.pairs == "reference"

    @property
    def needs_groups(self) -> bool:
        """To have a best and a worst response."""
        return self.pairs == "reward"


class BestOfNAlgorithm(_Algorithm, tag="best_of_n", frozen=True):
    """Supervised fine-tuning on the best of ppo.group_size samples of each prompt (RAFT, Dong et al. 2023)."""

    # AdamW learning rate of the policy.
    lr: Positive

    @property
    def needs_groups(self) -> bool:
        """To have a best response."""
        return True


class DistillAlgorithm(_Algorithm, tag="distill", frozen=True):
    """On-policy distillation (GKD, Agarwal et al. 2024; MiniLLM, Gu et al. 2024): a teacher's distribution on own samples."""

    # AdamW learning rate of the policy.
    lr: Positive
    # The teacher: what model.path takes, with the same vocabulary.
    teacher: Annotated[str, Meta(min_length=1)]
    # Which divergence, as TRL's GKD has it: 1 = KL(policy || teacher), 0 = KL(teacher || policy), between them the generalised
    # Jensen-Shannon divergence.
    beta: Fraction = 1.0

    @property
    def needs_reward(self) -> bool:
        """It asks for rewards for its metrics alone."""
        return False

    def model(self, of_policy: ModelSettings) -> ModelSettings:
        """The teacher as a model, which computes where and how the policy does."""
        return msgspec.structs.replace(
            of_policy,
            path=self.teacher,
            revision=None,
            gradient_checkpointing=False,
            shard=False,
            lora=None,
            chat_template=False,
            system_prompt=None,
        )


Other = SFTAlgorithm | DPOAlgorithm | BestOfNAlgorithm | DistillAlgorithm
Algorithm = PPOAlgorithm | Other


def check_algorithm(algorithm: Algorithm, ppo: PPOSettings, processes: int) -> None:
    """Raise UserError for what this algorithm does not have, or does not work without."""
    if isinstance(algorithm, PPOAlgorithm):
        return
    name = f"algorithm={algorithm.name}"
    if algorithm.needs_groups and ppo.group_size == 1:
        which = f"{name} with algorithm.pairs=reward" if isinstance(algorithm, DPOAlgorithm) else name
        raise UserError(f"ppo.group_size=1: {which} compares several responses to one prompt; set it to 2 or more")
    for key, value, needed, why in (
        ("processes", processes, 1, "learns in one process"),
        ("ppo.epochs", ppo.epochs, 1, "makes one gradient step per batch"),
        ("ppo.minibatches", ppo.minibatches, 1, "makes one gradient step per batch"),
        ("ppo.train_eos", ppo.train_eos, True, "learns where an answer ends"),
        ("ppo.kl_reference", ppo.kl_reference, "initial", "has the initial model as its reference"),
    ):
        if value != needed:
            raise UserError(f"{key}={_text(value)}: {name} {why}; set {key}={_text(needed)}, or algorithm=ppo")


def unread(algorithm: Algorithm, keys: Iterable[str]) -> list[str]:
    """Those of the dotted config keys that belong to PPO alone, where the algorithm is another."""
    if isinstance(algorithm, PPOAlgorithm):
        return []
    read = (*SHARED, *_OTHERWISE_READ)
    return [key for key in keys if key.startswith("ppo.") and key.removeprefix("ppo.") not in read]


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class SFTSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Supervised fine-tuning, `python -m pgsrm.algorithm sft`."""

    # Passes over the training prompts.
    epochs: Count = 3
    # Prompts per gradient step.
    batch_size: Count = 16
    # Prompts that a forward pass holds at once (memory); null = all of a batch. Results are equal up to rounding.
    micro_batch: Count | None = None
    # AdamW's learning rate at the first step; it falls linearly to 0 at the last.
    lr: Positive = 5e-5
