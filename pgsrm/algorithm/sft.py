"""Supervised fine-tuning: a policy learns to write the references of a task, word for word.

The loss is the mean of -log p over the tokens of the references and the EOS behind each; the prompts' tokens are only read.
AdamW without weight decay, gradient norms clipped at 1, a learning rate that falls linearly. Left out: dropout, packing of
several examples into one row, and a warm-up, which a few hundred steps at these rates did not need.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from pgsrm.algorithm.settings import SFTSettings
from pgsrm.models.text import Codec
from pgsrm.policy.protocol import Policy
from pgsrm.task import Example
from pgsrm.util.errors import UserError

_LARGEST_NORM = 1.0
_ROWS = 16  # prompts in one forward pass without gradient


class Pair(NamedTuple):
    """Token ids of a prompt, and of the answer that it should get, EOS included."""

    prompt: list[int]
    answer: list[int]


def encode_pairs(codec: Codec, examples: Sequence[Example]) -> list[Pair]:
    """The examples as a policy would meet them: their prompts as in training, and the references as it would sample them.

    A blank is put between a prompt and its reference, unless the prompt ends with white space or is in a chat template.
    """
    pairs = []
    for example in examples:
        prompt = codec.encode(example.prompt)
        answer = example.reference if codec.has_chat or example.prompt[-1:].isspace() else f" {example.reference}"
        whole = codec.encode(example.prompt, answer)
        # where the tokens of both differ at the seam, the answer's own: a policy never samples across it
        rest = whole[len(prompt) :] if whole[: len(prompt)] == prompt else codec.encode_text(answer)
        pairs.append(Pair(prompt, [*rest, codec.eos[0]]))
    return pairs


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
) -> None:
    """Train the policy's model on the pairs; the same seed gives the same weights.

    after_epoch: called with the number of epochs made and the mean loss of the last one, in nats per token. Raises UserError
    for a gradient that is not finite.
    """
    order = torch.Generator().manual_seed(seed)
    trained = [parameter for parameter in policy.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=0.0, fused=True)
    steps = settings.epochs * math.ceil(len(pairs) / settings.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for epoch in range(1, settings.epochs + 1):
        total = 0.0
        for rows in torch.randperm(len(pairs), generator=order).split(settings.batch_size):
            total += _step(policy, [pairs[row] for row in rows.tolist()], settings, optimizer)
            schedule.step()
        after_epoch(epoch, total / _tokens(pairs))


def _step(policy: Policy, batch: Sequence[Pair], settings: SFTSettings, optimizer: Any) -> float:
    """One gradient step; returns the summed loss of the batch before it."""
    optimizer.zero_grad(set_to_none=True)
    size, tokens, total = settings.micro_batch or len(batch), _tokens(batch), 0.0
    for start in range(0, len(batch), size):
        loss = _summed_loss(policy, batch[start : start + size])
        (loss / tokens).backward()
        total += loss.item()
    norm = clip_grad_norm_(policy.model.parameters(), _LARGEST_NORM)
    if not bool(torch.isfinite(norm)):
        raise UserError(f"sft.lr={settings.lr:g}: the gradient is not finite; lower it")
    optimizer.step()
    policy.weights_changed()
    return total


def _summed_loss(policy: Policy, pairs: Sequence[Pair]) -> Tensor:
    """Sum of -log p over the answers' tokens."""
    batch = policy.pad([pair.prompt for pair in pairs], [pair.answer for pair in pairs])
    scores, mask = policy.score(batch), batch.response_mask
    logprobs = scores.logits.log_softmax(-1)  # (C, V)
    return -logprobs[scores.contexts.place[mask], batch.response_ids[mask]].sum()


def _tokens(pairs: Sequence[Pair]) -> int:
    return sum(len(pair.answer) for pair in pairs)
