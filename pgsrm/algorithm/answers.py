"""What a policy says of answers that are given. Shapes: B answers, N their tokens in all."""

from torch import Tensor

from pgsrm.policy.batch import Contexts, PaddedBatch


def answer_logprobs(logits: Tensor, contexts: Contexts, batch: PaddedBatch) -> Tensor:
    """Log-probabilities (N,) of the answers' tokens under `logits` (C, V), row by row."""
    mask = batch.response_mask
    return logits.log_softmax(-1)[contexts.place[mask], batch.response_ids[mask]]


def summed_by_row(values: Tensor, batch: PaddedBatch) -> Tensor:
    """The sums (B,) of the answers' tokens (N,)."""
    mask = batch.response_mask
    return values.new_zeros(mask.shape).masked_scatter(mask, values).sum(-1)
