"""Supervised fine-tuning: a policy learns to write the references of a task, word for word.

The loss is the mean of -log p over the tokens of the references and the EOS behind each; the prompts' tokens are only read.
Left out: dropout, packing of several examples into one row, and a warm-up, which a few hundred steps at these rates did not
need.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from pgsrm.algorithm.answers import answer_logprobs
from pgsrm.algorithm.selection import Pair
from pgsrm.algorithm.settings import SFTSettings
from pgsrm.models.text import Codec
from pgsrm.models.tuning import tune as train_on
from pgsrm.policy.protocol import Policy
from pgsrm.task import Example
from pgsrm.util.errors import UserError

_ROWS = 16  # prompts in one forward pass without gradient


def encode_pairs(codec: Codec, examples: Sequence[Example]) -> list[Pair]:
    """The examples as a policy would meet them: their prompts as in training, and the references as it would sample them."""
    return [
        Pair(codec.encode(example.prompt), [*codec.encode_answer(example.prompt, example.taught), codec.eos[0]])
        for example in examples
    ]


def check_fit(pairs: Sequence[Pair], positions: int | None) -> None:
    """Raise UserError where a prompt and its answer have more tokens than the model has positions (None: no limit)."""
    longest = max(len(pair.prompt) + len(pair.answer) for pair in pairs)
    if positions and longest > positions:
        raise UserError(
            f"task.data: the longest prompt and its reference have {longest} tokens, and the model has {positions} positions; "
            "set task.max_input_words, shorten them, or choose another model"
        )


def mean_loss(policy: Policy, pairs: Sequence[Pair]) -> float:
    """Mean of -log p over the answers' tokens, in nats per token, without gradient."""
    total = 0.0
    with torch.no_grad(), policy.without_dropout():
        for start in range(0, len(pairs), _ROWS):
            total += _summed_loss(policy, pairs[start : start + _ROWS]).item()
    return total / _tokens(pairs)


def tune(
    policy: Policy,
    pairs: Sequence[Pair],
    settings: SFTSettings,
    seed: int,
    after_epoch: Callable[[int, float], None],
    after_step: Callable[[int], None],
) -> None:
    """Train the policy's model on the pairs, as `pgsrm.models.tuning` does.

    after_epoch: called with the number of epochs made and the mean loss of the last one, in nats per token.
    after_step: called with the number of gradient steps made.
    """

    def losses(rows: Sequence[int]) -> Iterator[Tensor]:
        return mean_losses(policy, [pairs[row] for row in rows], settings.micro_batch)

    def changed(made: int) -> None:
        policy.weights_changed()
        after_step(made)

    tokens = [len(pair.answer) for pair in pairs]
    train_on(policy.model, tokens, settings, seed, losses, "sft.lr", after_epoch, policy.in_one_order, changed)


def mean_losses(policy: Policy, pairs: Sequence[Pair], micro_batch: int | None) -> Iterator[Tensor]:
    """The mean of -log p over the answers' tokens, in parts that add up to it: one for each `micro_batch` pairs (None: all)."""
    size, tokens = micro_batch or len(pairs), _tokens(pairs)
    for start in range(0, len(pairs), size):
        yield _summed_loss(policy, pairs[start : start + size]) / tokens


def _summed_loss(policy: Policy, pairs: Sequence[Pair]) -> Tensor:
    """Sum of -log p over the answers' tokens."""
    batch = policy.pad([pair.prompt for pair in pairs], [pair.answer for pair in pairs])
    scores = policy.score(batch)
    return -answer_logprobs(scores.logits, scores.contexts, batch).sum()


def _tokens(pairs: Sequence[Pair]) -> int:
    return sum(len(pair.answer) for pair in pairs)
