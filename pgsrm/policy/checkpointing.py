"""Gradient checkpointing: layers that are computed again in the backward pass instead of kept."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from pgsrm.util.errors import UserError


def checkpointable_layers(model: Any) -> list[Any]:
    """The layers of a model that can be computed again in the backward pass; raises UserError where there are none."""
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
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's again
