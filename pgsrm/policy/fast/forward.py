"""The two forward passes that everything is made of: prompts first (prefill), then response tokens on top of them (extend).

Gradient checkpointing has one instead, over prompts and responses at once (read_whole): a layer that is computed again in
the backward pass can't fill a cache.

Shapes: B rows, S shared prefix tokens, P padded prompt tokens, T response tokens, C contexts that logits are made for
(`Packing`), V vocabulary, W width.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pgsrm.policy.fast.batch import PaddedBatch, positions
from pgsrm.policy.fast.gradients import take_rows
from pgsrm.util.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Prefill:
    """Prompts after their forward pass: what a response's tokens attend to and where they start from."""

    keys_values: tuple[tuple["Tensor", "Tensor"], ...]  # a layer: (B, heads, S + P, head width) each
    mask: "Tensor"  # (B, S + P) bool
    logits: "Tensor"  # (B, V) of the first response token
    hidden: "Tensor"  # (B, W) last layer at the last position

    def rows(self, index: "Tensor") -> "Prefill":
        """The rows `index` (n,)."""
        return Prefill(
            self.keys_values_of(index), self.mask[index], take_rows(self.logits, index), take_rows(self.hidden, index)
        )

    def keys_values_of(self, index: "Tensor") -> tuple[tuple["Tensor", "Tensor"], ...]:
        """Those of the rows `index` (n,)."""
        return tuple((take_rows(keys, index), take_rows(values, index)) for keys, values in self.keys_values)

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


def filled(keys_values: "Sequence[tuple[Tensor, Tensor]]") -> Any:
    """A new cache that begins with these keys and values; filling it up leaves them as they are."""
    from transformers import DynamicCache

    return DynamicCache(ddp_cache_data=keys_values)


class Reader:
    """A model that reads tokens, with a pre-hook of its output layer: keeps the hidden states, and chooses what goes in.

    Response tokens go in as one dense block, without padding: one product, and no logits at padding.
    """

    def __init__(self, model: Any, bfloat16: bool = False, layers_too: bool = True) -> None:
        from pgsrm.policy.fast.matrices import Matrices

        self.matrices = Matrices(model, bfloat16, layers_too)
        self._last_mlp = last_mlp(model)
        self.at: tuple[Tensor, Tensor] | None = None  # rows (n,) and positions (n,) that the next pass makes logits of
        self.start = 0  # the first position of the next forward pass whose hidden states are kept
        self.hidden: Tensor | None = None
        model.get_output_embeddings().register_forward_pre_hook(self._keep)

    def _keep(self, module: Any, arguments: tuple["Tensor", ...]) -> tuple["Tensor", ...]:
        self.hidden = arguments[0][:, self.start :].contiguous()
        entering = self.hidden
        if self.at is not None:
            entering = self.hidden[self.at].unsqueeze(0)  # (1, n, W)
        self.at, self.start = None, 0
        return (entering, *arguments[1:])

    def run(self, **inputs: Any) -> Any:
        """The model's forward pass."""
        return self.matrices.run(inputs)

    def run_for_end(self, real: "Tensor | None" = None, **inputs: Any) -> Any:
        """The model's forward pass over tokens of which later ones see keys and values, and only the last is asked itself.

        What the last layer's MLP would make of the others goes nowhere, and is left out. So is what linear layers would make
        of padding, where `real` (B, P) bool says which positions are none.
        """
        if self._last_mlp is None:
            return self.matrices.run(inputs, real)
        self._last_mlp.forward = partial(_at_end, self._last_mlp.forward)
        try:
            return self.matrices.run(inputs, real)
        finally:
            del self._last_mlp.forward  # the class's again

    def take(self) -> "Tensor":
        """The hidden states of the forward pass just made, which are then let go."""
        hidden, self.hidden = self.hidden, None
        assert hidden is not None
        return hidden


def last_mlp(model: Any) -> Any | None:
    """The MLP of a model's last layer, where transformers' usual names lead to one: GPT-2, Llama, Qwen and most others."""
    from torch.nn import ModuleList

    count = getattr(model.config, "num_hidden_layers", None)
    stacks = [module for module in model.modules() if isinstance(module, ModuleList) and len(module) == count]
    return getattr(stacks[0][-1], "mlp", None) if len(stacks) == 1 else None


def _at_end(forward: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """An MLP's result at the last position of its input (B, L, W), and 0 at the others."""
    from torch import Tensor
    from torch.nn.functional import pad

    if len(arguments) != 1 or named:  # no plain function of the hidden states
        return forward(*arguments, **named)
    out = forward(arguments[0][:, -1:])
    return pad(out, (0, 0, arguments[0].shape[1] - 1, 0)) if isinstance(out, Tensor) else forward(*arguments)


def _one_a_row(logits: "Tensor") -> "Tensor":
    """(1, n, V) or (n, 1, V) as (n, V): a view, where the gradient of an index would be a filled copy."""
    return logits.flatten(0, 1).float()


def prefill(reader: Reader, batch: PaddedBatch) -> Prefill:
    """Run the prompts of `batch`. The prefix that they share is computed once; its gradient is summed over the rows."""
    import torch

    shared = len(batch.prefix_ids)
    mask = torch.cat([batch.prompt_mask.new_ones(len(batch), shared), batch.prompt_mask], dim=1)
    cache = None
    if shared:
        nowhere = batch.prefix_ids[:0]
        reader.at = nowhere, nowhere  # its logits are of no use
        cache = reader.run_for_end(input_ids=batch.prefix_ids.unsqueeze(0), use_cache=True).past_key_values
        for layer in cache.layers:
            layer.keys = layer.keys.expand(len(batch), -1, -1, -1)
            layer.values = layer.values.expand(len(batch), -1, -1, -1)
    out = reader.run_for_end(
        # on the right, a short prompt's last position is padding, and is asked (D4)
        real=batch.prompt_mask if batch.padding == "left" else None,
        input_ids=batch.prompt_ids,
        attention_mask=mask.long(),
        position_ids=positions(mask, batch.padding)[:, shared:],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    keys_values = tuple((layer.keys, layer.values) for layer in out.past_key_values.layers)
    return Prefill(keys_values, mask, _one_a_row(out.logits), reader.take()[:, -1])


def extend(
    reader: Reader, prompts: Prefill, prompt: "Tensor", batch: PaddedBatch, fed: int, at: tuple["Tensor", "Tensor"]
) -> tuple["Tensor", "Tensor"]:
    """Logits (n, V) after the tokens `at` (rows and positions, (n,) each), and hidden states (B, fed, W).

    The first `fed` tokens of the responses of `batch` are read, each on top of row `prompt` (B,) of `prompts`.
    """
    import torch

    if fed == 0:
        return prompts.logits[:0], prompts.hidden.new_zeros(len(batch), 0, prompts.hidden.shape[1])
    mask = torch.cat([prompts.mask[prompt], batch.response_mask[:, :fed]], dim=1)
    reader.at = at
    out = reader.run(
        input_ids=batch.response_ids[:, :fed],
        attention_mask=mask.long(),
        position_ids=positions(mask, batch.padding)[:, -fed:],
        past_key_values=filled(prompts.keys_values_of(prompt)),
        use_cache=True,
    )
    return _one_a_row(out.logits), reader.take()


def read_whole(
    reader: Reader, batch: PaddedBatch, fed: int, at: tuple["Tensor", "Tensor"]
) -> tuple["Tensor", "Tensor"]:
    """Logits (n, V) after so many response tokens, and hidden states (B, fed + 1, W) from the prompts' last on.

    `at` are rows and numbers of tokens, (n,) each. One forward pass over prefix, prompts and responses without a cache.
    """
    import torch

    prefix = batch.prefix_ids.expand(len(batch), -1)
    ids = torch.cat([prefix, batch.prompt_ids, batch.response_ids[:, :fed]], dim=1)
    read = [torch.ones_like(prefix, dtype=torch.bool), batch.prompt_mask, batch.response_mask[:, :fed]]
    mask = torch.cat(read, dim=1)
    reader.start, reader.at = ids.shape[1] - fed - 1, at
    out = reader.run(
        input_ids=ids,
        attention_mask=mask.long(),
        position_ids=positions(mask, batch.padding),
        use_cache=False,
    )
    return _one_a_row(out.logits), reader.take()


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
    from torch.utils.checkpoint import checkpoint

    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's again
