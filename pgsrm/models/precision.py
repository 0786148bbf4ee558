"""Types of the arithmetic: what autocast to bfloat16 would do slowly on a CPU, and TF32 on a GPU."""

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from pgsrm.util.errors import UserError


def attend_in_float32(model: Any) -> None:
    """Let a model's attention, and that alone, compute in float32; for bfloat16 on a CPU.

    There the backward pass of torch's bfloat16 attention takes ten times as long as float32's, and attention is one
    hundredth of an update's arithmetic at a prompt's length. Models without torch's attention stay as they are.
    """

    def attend(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> Any:
        kind = query.dtype
        with torch.autocast(query.device.type, enabled=False):
            out, weights = sdpa_attention_forward(module, query.float(), key.float(), value.float(), mask, **options)
        return out.to(kind), weights

    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register("sdpa_float32", attend)
        AttentionMaskInterface.register("sdpa_float32", sdpa_mask)
        model.set_attn_implementation("sdpa_float32")


def multiply_in_tf32(device: torch.device, wanted: bool) -> None:
    """Let an NVIDIA GPU multiply float32 matrices in TF32, whose factors have 10 bits behind the point and not 23, or not.

    That goes for all products of the process from here on.
    """
    if device.type != "cuda":
        if wanted:
            raise UserError(
                f"model.dtype=tfloat32: only NVIDIA GPUs have it, the device is {device.type}; set model.dtype=float32"
            )
        return
    if torch.backends.cuda.matmul.allow_tf32 != wanted:
        torch.backends.cuda.matmul.allow_tf32 = wanted


def without_cudnn_attention(device: torch.device) -> None:
    """Let torch take another attention than cuDNN's on a GPU: in bfloat16 its backward pass makes NaN (pytorch issue 196678)."""
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)
