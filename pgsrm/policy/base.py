"""What the two policies have in common: a model and its reference, answers to any number of prompts, and a text's loss."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pgsrm.models.lengths import position_limit
from pgsrm.models.precision import without_cudnn_attention
from pgsrm.policy.batch import Side
from pgsrm.policy.protocol import Sampled
from pgsrm.policy.sampling import Sampling

ROWS_AT_ONCE = 256  # prompts in one forward pass without gradient, whatever the number of a task's prompts
WINDOWS_AT_ONCE = 4  # of 128 tokens: 100 MB of logits on a vocabulary of 50,000


def greedily(prompts: int, max_new_tokens: int) -> tuple[Tensor, Sampling]:
    """The draws of `Policy.answers` that take the most probable token at every step."""
    return torch.zeros(prompts, max_new_tokens, dtype=torch.float64), Sampling(max_new_tokens, top_k=1)


class BasePolicy(ABC):
    """A model and its reference. `reference` None: the model has adapters, and is its own reference without them.

    `eos` are the ids that end a response; the first one pads. `padding` is the side on which prompts are padded when
    they are scored (docs/fidelity.md, D4).
    """

    def __init__(self, model: Any, reference: Any | None, eos: Sequence[int], padding: Side = "left") -> None:
        self.model = model.eval()
        self.reference = model if reference is None else reference.eval().requires_grad_(False)
        self.eos = tuple(eos)
        self.padding: Side = padding
        self.device: torch.device = next(model.parameters()).device
        without_cudnn_attention(self.device)  # a model of the caller's own, which `load_model` has not seen
        self.in_one_order = False  # any model may have an operation that a GPU has no such kernel for

    @property
    def width(self) -> int:
        """Size W of the last hidden state, which the output layer takes; an embedding may be narrower."""
        layer = self.model.get_output_embeddings()
        return (self.model.get_input_embeddings() if layer is None else layer).weight.shape[-1]

    @property
    def positions(self) -> int | None:
        """Most tokens of prompt and response together; None where the model's config names no limit."""
        return position_limit(self.model.config)

    @abstractmethod
    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        uniforms: Tensor,
        how: Sampling,
        with_graph: bool = False,
        share: Tensor | None = None,
    ) -> Sampled:
        """As `Policy.sample`."""

    @abstractmethod
    def _text_logits(self, ids: Tensor) -> Tensor:
        """The policy's logits (W, L, V) after every token of ids (W, L)."""

    def greedy(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        """The most probable token at every step."""
        return self.answers(prompts, [greedily(len(prompts), max_new_tokens)])[0]

    def answer(self, prompts: Sequence[Sequence[int]], uniforms: Tensor, how: Sampling) -> list[list[int]]:
        """As `sample`, for any number of prompts, without gradient and dropout; the responses' token ids alone."""
        return self.answers(prompts, [(uniforms, how)])[0]

    def answers(
        self, prompts: Sequence[Sequence[int]], draws: Sequence[tuple[Tensor, Sampling]]
    ) -> list[list[list[int]]]:
        """As `answer`, for each of `draws`; the prompts are read once for all of them where the policy can."""
        responses: list[list[list[int]]] = [[] for _ in draws]
        with self.without_dropout():
            for start in range(0, len(prompts), ROWS_AT_ONCE):
                rows = slice(start, start + ROWS_AT_ONCE)
                here = [(uniforms[rows], how) for uniforms, how in draws]
                for answered, sampled in zip(responses, self._sample_each(prompts[rows], here), strict=True):
                    answered += sampled
        return responses

    def _sample_each(
        self, prompts: Sequence[Sequence[int]], draws: Sequence[tuple[Tensor, Sampling]]
    ) -> list[list[list[int]]]:
        return [self.sample(prompts, uniforms, how).responses for uniforms, how in draws]

    def text_logprob(self, windows: Tensor) -> float:
        """Mean log-probability of each token but the first of its row, given those before it, of token ids (W, L), L >= 2."""
        total, targets = 0.0, windows[:, 1:].numel()
        with torch.no_grad(), self.without_dropout():
            for ids in windows.to(self.device).split(WINDOWS_AT_ONCE):
                logits = self._text_logits(ids)[:, :-1].float()
                total -= cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum").item()
        return total / targets

    def set_reference(self, weights: dict[str, Tensor]) -> None:
        """Give the reference other weights (a state dict)."""
        self.reference.load_state_dict(weights)

    @contextmanager
    def without_dropout(self) -> Iterator[None]:
        """Within it, the policy's dropout is off."""
        was_training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(was_training)

    @contextmanager
    def without_adapters(self) -> Iterator[None]:
        """Within it, the policy is its own reference, if it is to be: without adapters and dropout."""
        if self.reference is not self.model:
            yield
            return
        with self.without_dropout(), self.model.disable_adapter():
            yield
