"""Types of the arithmetic: what bfloat16 costs on a CPU, what autocast to it would do slowly there, and TF32 on a GPU."""

import sys
import time
from functools import cache
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from pgsrm.util.errors import UserError


@cache
def bfloat16_slowdown() -> float:
    """How many times as long as in float32 a matrix product takes in bfloat16 on this machine's CPU.

    Below 1 where the CPU has instructions for it (AVX512-BF16, AMX), 30 to 60 where torch goes without them. Measured once per
    process with one thread, in 5 to 250 milliseconds of its CPU time, as the fastest of three products of each type.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    fastest = {}
    for kind in (torch.float32, torch.bfloat16):
        left, right = torch.ones(64, 512, dtype=kind), torch.ones(512, 512, dtype=kind)
        seconds = []
        for _ in range(4):  # the first one warms up
            started = time.thread_time()
            left @ right
            seconds.append(time.thread_time() - started)
        fastest[kind] = min(seconds[1:])
    torch.set_num_threads(threads)
    return fastest[torch.bfloat16] / fastest[torch.float32]


@cache
def say_where_bfloat16_is_slow(key: str, device: torch.device) -> None:
    """Print a line, once, where bfloat16, which `key` asks for, takes longer than float32."""
    if device.type == "cpu" and (slowdown := bfloat16_slowdown()) > 1.2:
        print(
            f"{key}=bfloat16: a matrix product takes {slowdown:.2g} times as long as in float32 on this CPU; set {key}=float32",
            file=sys.stderr,
            flush=True,
        )


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
