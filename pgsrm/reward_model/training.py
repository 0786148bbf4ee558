"""Bradley-Terry training: the better response of a pair shall have the higher reward.

Without dropout. The options are those of TRL's RewardTrainer: a margin in the loss, and centring.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import AutoModelForSequenceClassification

from pgsrm.models.load import fuse_activations
from pgsrm.models.text import Codec
from pgsrm.models.tuning import tune as train_on
from pgsrm.policy.batch import pad_rows
from pgsrm.reward_model.settings import RewardModelSettings
from pgsrm.util.errors import UserError


class Encoded(NamedTuple):
    """A pair as token ids; margin: 0 where it is not known."""

    chosen: list[int]
    rejected: list[int]
    margin: float


def with_scalar_head(model: Any, codec: Codec, name: str | None) -> Any:
    """A sequence-classification model with one output on a loaded causal model's weights; the head is drawn at random.

    name: `model.path`, for the message. Raises UserError where transformers has no such model of this architecture.
    """
    config = model.config
    config.num_labels, config.problem_type = 1, "regression"
    own, rows = codec.tokenizer.pad_token_id, model.get_input_embeddings().num_embeddings
    # a padding token that was added to the tokenizer alone has no embedding
    config.pad_token_id = codec.eos[0] if own is None or own >= rows else own
    try:
        scalar: Any = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
        scalar.base_model.load_state_dict(model.base_model.state_dict())
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"model.path={name}: transformers has no model with one output of this architecture ({config.model_type}); "
            "name another"
        ) from error
    fuse_activations(scalar)
    return scalar.to(model.device).eval()  # eval: no dropout, in training too


def bradley_terry(chosen: Tensor, rejected: Tensor, margin: Tensor | float = 0.0, center: float = 0.0) -> Tensor:
    """The loss of n pairs (n,): -log sigmoid(r_w - r_l - margin) + center * (r_w + r_l)^2.

    chosen, rejected: the rewards r_w and r_l (n,). Bradley and Terry 1952; the margin is Llama 2's (arXiv:2307.09288, equation 2),
    the second term Eisenstein et al.'s (arXiv:2312.09244), which leaves no reward model free to add a constant.
    """
    return -logsigmoid(chosen - rejected - margin) + center * (chosen + rejected).square()


def tune(
    model: Any,
    pairs: Sequence[Encoded],
    settings: RewardModelSettings,
    seed: int,
    after_epoch: Callable[[int, float], None],
    after_step: Callable[[int], None],
) -> None:
    """Train a model with one output on the pairs, as `pgsrm.models.tuning` does.

    after_epoch: called with the number of epochs made and the mean loss of the last one.
    after_step: called with the number of gradient steps made.
    """

    def losses(rows: Sequence[int]) -> Iterator[Tensor]:
        size = settings.micro_batch or len(rows)
        for start in range(0, len(rows), size):
            part = [pairs[row] for row in rows[start : start + size]]
            yield _summed_loss(model, part, settings) / len(rows)

    train_on(model, [1] * len(pairs), settings, seed, losses, "reward_model.lr", after_epoch, after_step=after_step)


def _summed_loss(model: Any, batch: Sequence[Encoded], settings: RewardModelSettings) -> Tensor:
    rows = [*(pair.chosen for pair in batch), *(pair.rejected for pair in batch)]
    ids, mask = pad_rows(rows, model.config.pad_token_id, "right", model.device)
    chosen, rejected = model(input_ids=ids, attention_mask=mask.long()).logits[:, 0].chunk(2)
    margins = torch.tensor([pair.margin for pair in batch], device=model.device) if settings.margin else 0.0
    return bradley_terry(chosen, rejected, margins, settings.center_coef).sum()
