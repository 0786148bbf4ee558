"""The two forward passes that everything is made of: prompts first (prefill), then response tokens on top of them (extend).

Gradient checkpointing has one instead, over prompts and responses at once (read_whole): a layer that is computed again in
the backward pass can't fill a cache.

Shapes: B rows, S shared prefix tokens, P padded prompt tokens, T response tokens, N response tokens without padding,
V vocabulary, D width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pgsrm.child.batch import PaddedBatch, positions
from pgsrm.child.gradients import take_rows
from pgsrm.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Prefill:
    """Prompts after their forward pass: what a response's tokens attend to and where they start from."""

    keys_values: tuple[tuple["Tensor", "Tensor"], ...]  # a layer: (B, heads, S + P, head width) each
    mask: "Tensor"  # (B, S + P) bool
    logits: "Tensor"  # (B, V) of the first response token
    hidden: "Tensor"  # (B, D) last layer at the last position

    def rows(self, index: "Tensor") -> "Prefill":
        """The rows `index` (n,)."""
        return Prefill(
            tuple((take_rows(keys, index), take_rows(values, index)) for keys, values in self.keys_values),
            self.mask[index],
            take_rows(self.logits, index),
            take_rows(self.hidden, index),
        )

    @staticmethod
    def join(parts: "Sequence[Prefill]") -> "Prefill":
        """The rows of several prefills of equal width, one below the other."""
        import torch

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

    def cache(self) -> Any:
        """A new cache that begins with these keys and values; filling it up leaves them as they are."""
        from transformers import DynamicCache

        return DynamicCache(ddp_cache_data=self.keys_values)


class Reader:
    """A model that reads tokens, with a pre-hook of its output layer: keeps the hidden states, and chooses what goes in.

    Response tokens go in as one dense block, without padding and with the prompts' last states before them: one product,
    and no logits at padding.
    """

    def __init__(self, model: Any, bfloat16: bool = False, layers_too: bool = True) -> None:
        from pgsrm.child.matrices import Matrices

        self.matrices = Matrices(model, bfloat16, layers_too)
        self.before: Tensor | None = None  # (B, 1, D), put before the hidden states of the next forward pass
        self.mask: Tensor | None = None  # (B, T) bool: the N states of which the next forward pass makes logits
        self.start = 0  # the first position of the next forward pass whose hidden states are kept
        self.hidden: Tensor | None = None
        model.get_output_embeddings().register_forward_pre_hook(self._keep)

    def _keep(self, module: Any, arguments: tuple["Tensor", ...]) -> tuple["Tensor", ...]:
        import torch

        hidden = arguments[0][:, self.start :]
        self.hidden = hidden.contiguous() if self.before is None else torch.cat([self.before, hidden], dim=1)
        entering = self.hidden
        if self.mask is not None:
            entering = self.hidden[:, : self.mask.shape[1]][self.mask].unsqueeze(0)  # (1, N, D)
        self.before, self.mask, self.start = None, None, 0
        return (entering, *arguments[1:])

    def run(self, **inputs: Any) -> Any:
        """The model's forward pass."""
        return self.matrices.run(inputs)

    def take(self) -> "Tensor":
        """The hidden states of the forward pass just made, which are then let go."""
        hidden, self.hidden = self.hidden, None
        assert hidden is not None
        return hidden


def prefill(reader: Reader, batch: PaddedBatch) -> Prefill:
    """Run the prompts of `batch`. The prefix that they share is computed once; its gradient is summed over the rows."""
    import torch

    shared = len(batch.prefix_ids)
    mask = torch.cat([batch.prompt_mask.new_ones(len(batch), shared), batch.prompt_mask], dim=1)
    cache = None
    if shared:
        reader.mask = mask.new_zeros(1, shared)  # its logits are of no use
        cache = reader.run(input_ids=batch.prefix_ids.unsqueeze(0), use_cache=True).past_key_values
        for layer in cache.layers:
            layer.keys = layer.keys.expand(len(batch), -1, -1, -1)
            layer.values = layer.values.expand(len(batch), -1, -1, -1)
    out = reader.run(
        input_ids=batch.prompt_ids,
        attention_mask=mask.long(),
        position_ids=positions(mask, batch.padding)[:, shared:],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    keys_values = tuple((layer.keys, layer.values) for layer in out.past_key_values.layers)
    return Prefill(keys_values, mask, out.logits[:, -1].float(), reader.take()[:, -1])


def extend(reader: Reader, prompts: Prefill, batch: PaddedBatch, fed: int) -> tuple["Tensor", "Tensor"]:
    """Logits (N, V) of the tokens in `batch.response_mask`, and hidden states (B, fed + 1, D) from the prompts' last on.

    A first token's logits come from the prompt's last position, token t's from the model having read the tokens before
    it: `fed` of each response are read, at least all but the last.
    """
    import torch

    first = prompts.hidden.unsqueeze(1)
    if fed == 0:
        return prompts.logits, first
    mask = torch.cat([prompts.mask, batch.response_mask[:, :fed]], dim=1)
    reader.before, reader.mask = first, batch.response_mask
    out = reader.run(
        input_ids=batch.response_ids[:, :fed],
        attention_mask=mask.long(),
        position_ids=positions(mask, batch.padding)[:, -fed:],
        past_key_values=prompts.cache(),
        use_cache=True,
    )
    return out.logits.flatten(0, 1).float(), reader.take()  # a view: the gradient of [0] would be a filled copy


def read_whole(reader: Reader, batch: PaddedBatch, fed: int) -> tuple["Tensor", "Tensor"]:
    """What `extend` returns, from one forward pass over prefix, prompts and responses without a cache."""
    import torch

    prefix = batch.prefix_ids.expand(len(batch), -1)
    ids = torch.cat([prefix, batch.prompt_ids, batch.response_ids[:, :fed]], dim=1)
    read = [torch.ones_like(prefix, dtype=torch.bool), batch.prompt_mask, batch.response_mask[:, :fed]]
    mask = torch.cat(read, dim=1)
    reader.start, reader.mask = ids.shape[1] - fed - 1, batch.response_mask
    out = reader.run(
        input_ids=ids,
        attention_mask=mask.long(),
        position_ids=positions(mask, batch.padding),
        use_cache=False,
    )
    return out.logits.flatten(0, 1).float(), reader.take()


def checkpointable_layers(model: Any) -> list[Any]:
    """The layers of a model that can be computed again in the backward pass; raises UserError where there are none."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(
            f"model.gradient_checkpointing=true: {type(model).__name__} has no layers for it; set it to false"
        )
    return layers


@contextmanager
def checkpointing(layers: Sequence[Any]) -> Iterator[None]:
    """Within it, each of `layers` keeps its input alone for the backward pass, and is computed again there.

    transformers' own switch needs layers in training mode, which turns dropout on where a layer calls it by itself (OPT).
    """
    from functools import partial

    from torch.utils.checkpoint import checkpoint

    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's again
