"""Which policy a model gets: the fast one, or the simple one where that refuses (`FastPolicy` says which it takes).

Small models that are trained on a GPU get the one of CUDA graphs.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch

from pgsrm.models.lengths import position_limit, too_long
from pgsrm.models.precision import multiply_in_tf32
from pgsrm.models.settings import ModelSettings
from pgsrm.policy.batch import Side
from pgsrm.policy.fast.policy import FastPolicy
from pgsrm.policy.graphed import GraphedPolicy
from pgsrm.policy.protocol import Policy
from pgsrm.policy.simple import SimplePolicy
from pgsrm.util.distributed import Processes
from pgsrm.util.errors import UserError

# Of `model_type`: what CUDA graphs were seen to compute as the other policies do, several times as soon (docs/performance.md).
SEEN_AS_GRAPHS = ("gpt2", "llama", "qwen2")
MOST_WEIGHTS = 600_000_000  # of a model that a GPU computes sooner than its host launches the kernels


def build_policy(
    model: Any,
    reference: Any | None,
    eos: Sequence[int],
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    settings: ModelSettings,
    padding: Side = "left",
    dropout: bool = False,
    sharded_with: Processes | None = None,
    trained_alone: bool = False,
) -> Policy:
    """The policy that `model.policy` names, which computes with what `model.dtype` names.

    `prompts` are the task's, tokenised. `sharded_with`: processes that the models' weights are divided among. `trained_alone`: many
    updates are to come, of one process, so that recording them as CUDA graphs pays.
    Raises UserError for a model that suits none, or not the one that is named.
    """
    check_lengths(position_limit(model.config), prompts, max_new_tokens)
    check_ids(model, prompts)
    options: dict[str, Any] = {
        "padding": padding,
        "bfloat16": settings.dtype == "bfloat16",
        "gradient_checkpointing": settings.gradient_checkpointing,
        "sharded_with": sharded_with,
    }

    def graphed() -> Policy:
        _check_graphed(model.device, padding, dropout)
        policy = GraphedPolicy(model, reference, eos, prompts, max_new_tokens, settings.dtype)
        policy.check_cache(max_new_tokens)
        return policy

    def fast() -> Policy:
        policy = FastPolicy(model, reference, eos, prompts, share=not dropout, **options)
        policy.check_cache(max_new_tokens)
        return policy

    def simple() -> Policy:
        policy = SimplePolicy(model, reference, eos, **options)
        policy.check(prompts, max_new_tokens)
        return policy

    def auto() -> Policy:
        if trained_alone and _suits_graphs(model, settings):
            with suppress(UserError):  # no GPU, or what it can't do
                return graphed()
        return _first(fast, simple)

    named = {"graphed": graphed, "fast": fast, "simple": simple, "auto": auto}
    multiply_in_tf32(model.device, False)  # what the policies check is compared in float32
    policy = named[settings.policy]()
    multiply_in_tf32(model.device, settings.dtype == "tfloat32")
    if sharded_with is not None:
        # a forward pass leaves FSDP's outermost weights whole, and an optimiser made next would hold those
        model.reshard()
    return policy


def _first(fast: Callable[[], Policy], simple: Callable[[], Policy]) -> Policy:
    """The fast policy, or the simple one, with a line that says why."""
    try:
        return fast()
    except UserError as error:
        reason = _reason(error)
    policy = simple()
    print(f"model.policy=simple takes the place of fast: {reason}", file=sys.stderr, flush=True)
    return policy


def _suits_graphs(model: Any, settings: ModelSettings) -> bool:
    """Whether a model is one that CUDA graphs were seen to serve, and its settings ask for nothing that was not seen."""
    if settings.lora is not None or settings.gradient_checkpointing or settings.shard:
        return False
    small = sum(parameter.numel() for parameter in model.parameters()) <= MOST_WEIGHTS
    return small and model.config.model_type in SEEN_AS_GRAPHS


def _has_graphs(device: torch.device) -> bool:
    return device.type == "cuda"


def _check_graphed(device: torch.device, padding: Side, dropout: bool) -> None:
    """Raise UserError for what CUDA graphs can't do."""
    if not _has_graphs(device):
        raise UserError("model.policy=graphed: needs an NVIDIA GPU, the device is cpu; set model.policy=auto")
    if padding == "right":
        raise UserError("model.policy=graphed: has no ppo.padding=right; set model.policy=fast")
    if dropout:
        raise UserError("model.policy=graphed: has no ppo.dropout=true; set model.policy=fast")


def check_lengths(positions: int | None, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    """Raise UserError where the longest prompt and its response exceed the model's positions (None: no limit)."""
    longest = max(map(len, prompts))
    if positions is not None and positions < longest + max_new_tokens:
        raise UserError(too_long(longest, max_new_tokens, positions))


def check_ids(model: Any, prompts: Sequence[Sequence[int]]) -> None:
    """Raise UserError where a prompt holds a token that was added to the tokenizer and not to the model."""
    rows, largest = model.get_input_embeddings().num_embeddings, max(map(max, prompts))
    if largest >= rows:
        raise UserError(
            f"model.path: a prompt holds the token {largest}, the model embeds {rows} tokens; "
            "resize its embeddings (resize_token_embeddings) and save it, or change the prompts"
        )


def _reason(error: UserError) -> str:
    """What is wrong, without the key before it and the remedy behind it."""
    return str(error).removeprefix("model.path: ").partition(";")[0]
