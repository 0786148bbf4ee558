"""Greedy continuations of many prompts that begin alike: their common beginning is read once, the rest of them in batches.

A task's prompts share the instruction, nearly all of their length. Its keys and values are computed for one row and repeated
for a batch; each row then reads its own few tokens, and leaves the batch when its answer is whole.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, StoppingCriteria, StoppingCriteriaList
from transformers.cache_utils import DynamicLayer


class GreedyDecoder:
    """Continues prompts that all begin with the `prefix`'s token ids (may be empty).

    Models that keep other things than keys and values of all positions (windows, states), or take no positions, read whole
    prompts by their own `generate`, those of one length together: padding could change their answers.
    """

    def __init__(self, model: Any, prefix: Sequence[int]) -> None:
        self._model, self._prefix = model, list(prefix)
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._cache = self._read_prefix()

    @torch.inference_mode()
    def __call__(
        self, prompts: Sequence[Sequence[int]], longest: int, is_whole: Callable[[list[int]], bool]
    ) -> list[list[int]]:
        """The likeliest next tokens of each prompt, at most `longest`, until `is_whole` says so of them."""
        if self._cache is None:
            return self._by_generate(prompts, longest, is_whole)
        shared, device = len(self._prefix), self._model.device
        rest = [list(prompt[shared:]) for prompt in prompts]
        width = max(map(len, rest))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in rest], device=device)  # (B, P), left padded
        real = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rest], device=device)
        mask = torch.cat([real.new_ones(len(rest), shared), real], dim=1)  # (B, S + P)
        position = (mask.cumsum(-1) - 1).clamp(min=0)[:, shared:]
        cache = self._repeated(len(rest))
        answers: list[list[int]] = [[] for _ in rest]
        live = list(range(len(rest)))
        for count in range(longest):
            logits = self._logits(ids, mask, position, cache)
            tokens = logits.argmax(-1)  # (L,)
            for row, token in zip(live, tokens.tolist(), strict=True):
                answers[row].append(token)
            going = [place for place, row in enumerate(live) if not is_whole(answers[row])]
            if not going or count + 1 == longest:
                break
            if len(going) < len(live):
                kept = torch.tensor(going, device=device)
                cache.batch_select_indices(kept)
                tokens, mask, position = tokens[kept], mask[kept], position[kept]
                live = [live[place] for place in going]
            ids, position = tokens[:, None], position[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=1)
        return answers

    @torch.inference_mode()
    def _read_prefix(self) -> DynamicCache | None:
        """Keys and values of the prefix, None for a model whose cache can't be repeated over a batch."""
        parameters = inspect.signature(self._model.forward).parameters
        if not {"position_ids", "attention_mask", "past_key_values"} <= parameters.keys():
            return None
        ids = torch.tensor([self._prefix or [0]], device=self._model.device)
        cache = self._model(input_ids=ids, use_cache=True, **self._last_alone).past_key_values
        if type(cache) is not DynamicCache or not all(type(layer) is DynamicLayer for layer in cache.layers):
            return None
        return cache

    def _repeated(self, rows: int) -> DynamicCache:
        repeated = DynamicCache()
        if self._prefix and self._cache is not None:
            layers: list[Any] = self._cache.layers
            for number, layer in enumerate(layers):
                repeated.update(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1), number)
        return repeated

    def _logits(self, ids: Tensor, mask: Tensor, position: Tensor, cache: DynamicCache) -> Tensor:
        """The next token's logits (L, V) of each row."""
        out = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            **self._last_alone,
        )
        return out.logits[:, -1]

    @property
    def _last_alone(self) -> dict[str, int]:
        """Only the last position's logits are needed: over a vocabulary they are most of a small model's work."""
        return {"logits_to_keep": 1} if self._keeps_logits else {}

    def _by_generate(
        self, prompts: Sequence[Sequence[int]], longest: int, is_whole: Callable[[list[int]], bool]
    ) -> list[list[int]]:
        answers: list[list[int]] = [[] for _ in prompts]
        for length in {len(prompt) for prompt in prompts}:
            places = [place for place, prompt in enumerate(prompts) if len(prompt) == length]
            ids = torch.tensor([list(prompts[place]) for place in places], device=self._model.device)
            stop = StoppingCriteriaList([_WhenWhole(length, is_whole)])
            made = self._model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=longest,
                stopping_criteria=stop,
                pad_token_id=0,
            )
            for place, row in zip(places, made[:, length:].tolist(), strict=True):
                whole = (count for count in range(1, len(row) + 1) if is_whole(row[:count]))
                answers[place] = row[: next(whole, len(row))]
        return answers


class _WhenWhole(StoppingCriteria):
    def __init__(self, start: int, is_whole: Callable[[list[int]], bool]) -> None:
        self._start, self._is_whole = start, is_whole

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        whole = [self._is_whole(row[self._start :]) for row in input_ids.tolist()]
        return torch.tensor(whole, device=input_ids.device)


def common_prefix(prompts: Sequence[Sequence[int]]) -> list[int]:
    """The token ids that all prompts begin with, at least one short of the shortest."""
    first, last = min(map(list, prompts)), max(map(list, prompts))
    shortest = min(map(len, prompts))
    length = next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), shortest)
    return first[: min(length, shortest - 1)]
