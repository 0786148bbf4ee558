"""The two forward passes that everything is made of: prompts first (prefill), then response tokens on top of them (extend).

Gradient checkpointing has one instead, over prompts and responses at once (forward_whole): a layer that is computed again in
the backward pass can't fill a cache.

Shapes: B rows, S shared prefix tokens, P padded prompt tokens, T response tokens, C contexts that logits are made for
(`Packing`), V vocabulary, W width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import ModuleList
from torch.nn.functional import pad
from transformers import DynamicCache

from pgsrm.policy.batch import is_asynchronous
from pgsrm.policy.fast.batch import SharedBatch, positions
from pgsrm.policy.fast.matrices import Matrices
from pgsrm.policy.gradients import take_rows

Places = tuple[Tensor, Tensor] | tuple[slice, slice]  # rows (n,) and positions (n,), or all of some rows and positions


@dataclass(frozen=True)
class Prefill:
    """Prompts after their forward pass: what a response's tokens attend to and where they start from."""

    keys_values: tuple[tuple[Tensor, Tensor], ...]  # a layer: (B, heads, S + P, head width) each
    mask: Tensor  # (B, S + P) bool
    logits: Tensor  # (B, V) of the first response token
    hidden: Tensor  # (B, W) last layer at the last position

    def rows(self, index: Tensor) -> "Prefill":
        """The rows `index` (n,)."""
        return Prefill(
            self.keys_values_of(index), self.mask[index], take_rows(self.logits, index), take_rows(self.hidden, index)
        )

    def keys_values_of(self, index: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        """Those of the rows `index` (n,)."""
        return tuple((take_rows(keys, index), take_rows(values, index)) for keys, values in self.keys_values)

    @staticmethod
    def join(parts: Sequence["Prefill"]) -> "Prefill":
        """The rows of several prefills of equal width, one below the other."""
        layers = zip(*(part.keys_values for part in parts), strict=True)
        return Prefill(
            tuple((torch.cat([k for k, _ in layer]), torch.cat([v for _, v in layer])) for layer in layers),
            torch.cat([part.mask for part in parts]),
            torch.cat([part.logits for part in parts]),
            torch.cat([part.hidden for part in parts]),
        )

    def detach(self) -> "Prefill":
        """The same numbers without their graph."""
        keys_values = tuple((keys.detach(), values.detach()) for keys, values in self.keys_values)
        return Prefill(keys_values, self.mask, self.logits.detach(), self.hidden.detach())


def filled(keys_values: Sequence[tuple[Tensor, Tensor]]) -> Any:
    """A new cache that begins with these keys and values; filling it up leaves them as they are."""
    return DynamicCache(ddp_cache_data=keys_values)


class Forward:
    """A model's forward pass, which keeps the hidden states before the output layer and chooses which of them go into it.

    Those of response tokens go in as one dense block, without padding: one product, and no logits at padding.
    """

    def __init__(self, model: Any, bfloat16: bool = False, layers_too: bool = True) -> None:
        self.matrices = Matrices(model, bfloat16, layers_too)
        self._last_mlp = last_mlp(model)
        self._output_layer = model.get_output_embeddings()
        # transformers asks whether a mask leaves out anything, for which the host waits for a GPU; it takes a whole one as it is
        self._whole_masks = is_asynchronous(model.device) and model.config._attn_implementation == "sdpa"
        self._type = model.dtype
        self.at: Places | None = None  # what the next pass makes logits of; None: all
        self.start = 0  # the first position of the next forward pass whose hidden states are kept
        self.hidden: Tensor | None = None

    def attention(self, mask: Tensor, queries: int) -> Tensor:
        """What the model takes as `attention_mask`, of the positions that are no padding, `mask` (B, L) bool.

        The last `queries` of the L positions are computed, and look at themselves and what is before them.
        """
        if not self._whole_masks:
            return mask.long()
        length = mask.shape[1]
        causal = torch.ones(queries, length, dtype=torch.bool, device=mask.device).tril(length - queries)
        seen = causal & mask[:, None, None, :]  # (B, 1, queries, L)
        # padding that sees nothing sees itself: of nothing, some GPU kernels make NaN, which spreads through the gradients
        seen = seen | causal.triu(length - queries) & ~seen.any(-1, keepdim=True)
        # what attention's kernels take as it is; else each layer makes this of the mask again, and pads it to a multiple of 16
        kind = torch.bfloat16 if self.matrices.bfloat16 else self._type
        added = torch.zeros(len(mask), 1, queries, -(-length // 16) * 16, dtype=kind, device=mask.device)
        return added[..., :length].masked_fill_(~seen, float("-inf"))

    def alone(self, ids: Tensor) -> dict[str, Any]:
        """What the model takes besides `ids` (B, L) where these are whole and all there is.

        Left out, transformers looks whether the ids have padding, or are several texts in a row.
        """
        if not self._whole_masks:
            return {}
        mask = torch.ones_like(ids, dtype=torch.bool)
        return {"attention_mask": self.attention(mask, ids.shape[1]), "position_ids": positions(mask, "left")}

    def _keep(self, module: Any, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        self.hidden = arguments[0][:, self.start :].contiguous()
        entering = self.hidden
        if self.at is not None:
            entering = self.hidden[self.at].reshape(1, -1, self.hidden.shape[-1])  # (1, n, W)
        self.at, self.start = None, 0
        return (entering, *arguments[1:])

    def run(self, real: Tensor | None = None, **inputs: Any) -> Any:
        """The model's forward pass. `real` (B, P) bool says which positions are no padding: linear layers leave that out."""
        hook = self._output_layer.register_forward_pre_hook(self._keep)
        try:
            return self.matrices.run(inputs, real)
        finally:
            hook.remove()

    def run_for_end(self, real: Tensor | None = None, **inputs: Any) -> Any:
        """As `run`, over tokens of which later ones see keys and values, and only the last one's logits are asked for.

        What the last layer's MLP would make of the others goes nowhere, and is left out.
        """
        if self._last_mlp is None:
            return self.run(real, **inputs)
        self._last_mlp.forward = partial(_at_end, self._last_mlp.forward)
        try:
            return self.run(real, **inputs)
        finally:
            del self._last_mlp.forward  # the class's again

    def take(self) -> Tensor:
        """The hidden states of the forward pass just made, which are then let go."""
        hidden, self.hidden = self.hidden, None
        assert hidden is not None
        return hidden


def last_mlp(model: Any) -> Any | None:
    """The MLP of a model's last layer, where transformers' usual names lead to one: GPT-2, Llama, Qwen and most others."""
    count = getattr(model.config, "num_hidden_layers", None)
    stacks = [module for module in model.modules() if isinstance(module, ModuleList) and len(module) == count]
    return getattr(stacks[0][-1], "mlp", None) if len(stacks) == 1 else None


def _at_end(forward: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """An MLP's result at the last position of its input (B, L, W), and 0 at the others."""
    if len(arguments) != 1 or named:  # no plain function of the hidden states
        return forward(*arguments, **named)
    out = forward(arguments[0][:, -1:])
    return pad(out, (0, 0, arguments[0].shape[1] - 1, 0)) if isinstance(out, Tensor) else forward(*arguments)


def _one_a_row(logits: Tensor) -> Tensor:
    """(1, n, V) or (n, 1, V) as (n, V): a view, where the gradient of an index would be a filled copy."""
    return logits.flatten(0, 1).float()


def _shared_prefix(forward: Forward, batch: SharedBatch) -> Any | None:
    """A cache of the prefix, computed once and expanded over the rows of `batch`; None where they share none."""
    if not len(batch.prefix_ids):
        return None
    ids, nowhere = batch.prefix_ids.unsqueeze(0), batch.prefix_ids[:0]
    forward.at = nowhere, nowhere  # its logits are of no use
    cache = forward.run_for_end(input_ids=ids, use_cache=True, **forward.alone(ids)).past_key_values
    for layer in cache.layers:
        layer.keys = layer.keys.expand(len(batch), -1, -1, -1)
        layer.values = layer.values.expand(len(batch), -1, -1, -1)
    return cache


def prefill(forward: Forward, batch: SharedBatch) -> Prefill:
    """Run the prompts of `batch`. The prefix that they share is computed once; its gradient is summed over the rows."""
    shared = len(batch.prefix_ids)
    mask = torch.cat([batch.prompt_mask.new_ones(len(batch), shared), batch.prompt_mask], dim=1)
    cache = _shared_prefix(forward, batch)
    out = forward.run_for_end(
        # on the right, a short prompt's last position is padding, and is asked (docs/fidelity.md, D4)
        real=batch.prompt_mask if batch.padding == "left" else None,
        input_ids=batch.prompt_ids,
        attention_mask=forward.attention(mask, batch.prompt_ids.shape[1]),
        position_ids=positions(mask, batch.padding)[:, shared:],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    keys_values = tuple((layer.keys, layer.values) for layer in out.past_key_values.layers)
    return Prefill(keys_values, mask, _one_a_row(out.logits), forward.take()[:, -1])


def extend(
    forward: Forward, prefilled: Prefill, prompt: Tensor | None, batch: SharedBatch, fed: int, at: Places
) -> tuple[Tensor, Tensor]:
    """Logits (n, V) after the tokens `at`, rows and positions in the responses, and hidden states (B, fed, W).

    The first `fed` tokens of the responses of `batch` are computed, each on top of row `prompt` (B,) of `prefilled`,
    None: of its own.
    """
    if fed == 0:
        return prefilled.logits[:0], prefilled.hidden.new_zeros(len(batch), 0, prefilled.hidden.shape[1])
    before = prefilled.mask if prompt is None else prefilled.mask[prompt]
    mask = torch.cat([before, batch.response_mask[:, :fed]], dim=1)
    forward.at = at
    out = forward.run(
        input_ids=batch.response_ids[:, :fed],
        attention_mask=forward.attention(mask, fed),
        position_ids=positions(mask, batch.padding)[:, -fed:],
        past_key_values=filled(prefilled.keys_values if prompt is None else prefilled.keys_values_of(prompt)),
        use_cache=True,
    )
    return _one_a_row(out.logits), forward.take()


def forward_whole(forward: Forward, batch: SharedBatch, fed: int, at: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Logits (n, V) after so many response tokens, and hidden states (B, fed + 1, W) from the prompts' last on.

    `at` are rows and numbers of tokens, (n,) each. One forward pass over prefix, prompts and responses without a cache.
    """
    prefix = batch.prefix_ids.expand(len(batch), -1)
    ids = torch.cat([prefix, batch.prompt_ids, batch.response_ids[:, :fed]], dim=1)
    real = [torch.ones_like(prefix, dtype=torch.bool), batch.prompt_mask, batch.response_mask[:, :fed]]
    mask = torch.cat(real, dim=1)
    forward.start, forward.at = ids.shape[1] - fed - 1, at
    out = forward.run(
        input_ids=ids,
        attention_mask=forward.attention(mask, mask.shape[1]),
        position_ids=positions(mask, batch.padding),
        use_cache=False,
    )
    return _one_a_row(out.logits), forward.take()


def extend_rows(
    forward: Forward, prefilled: Prefill, prompt: Tensor | None, batch: SharedBatch, fed: int
) -> tuple[Tensor, Tensor]:
    """Logits (B * T, V) after 0 to T - 1 response tokens, row by row, and hidden states (B, fed + 1, W), as `extend`."""
    rows, length = batch.response_ids.shape
    later, hidden = extend(forward, prefilled, prompt, batch, fed, (slice(None), slice(length - 1)))
    logits, first = prefilled.logits, prefilled.hidden
    if prompt is not None:
        logits, first = logits[prompt], first[prompt]
    later = later.view(rows, length - 1, later.shape[-1])
    logits = torch.cat([logits.unsqueeze(1), later], dim=1).flatten(0, 1)
    return logits, torch.cat([first.unsqueeze(1), hidden], dim=1)


def forward_rows(forward: Forward, batch: SharedBatch, fed: int, count: int) -> tuple[Tensor, Tensor]:
    """Logits (B * count, V) after 0 to `count` - 1 response tokens, row by row, and hidden states (B, fed + 1, W).

    Every row is computed, padding and equal ones too: which they are has no say in what is computed. The shared prefix is
    computed once.
    """
    shared = len(batch.prefix_ids)
    ids = torch.cat([batch.prompt_ids, batch.response_ids[:, :fed]], dim=1)
    before = batch.prompt_mask.new_ones(len(batch), shared)
    mask = torch.cat([before, batch.prompt_mask, batch.response_mask[:, :fed]], dim=1)
    cache = _shared_prefix(forward, batch)
    forward.start, forward.at = batch.prompt_ids.shape[1] - 1, (slice(None), slice(count))
    out = forward.run(
        input_ids=ids,
        attention_mask=forward.attention(mask, ids.shape[1]),
        position_ids=positions(mask, batch.padding)[:, shared:],
        past_key_values=cache,
        use_cache=cache is not None,
    )
    return _one_a_row(out.logits), forward.take()
