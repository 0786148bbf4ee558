"""How many multiply-adds an update cannot do without, and how fast this machine multiplies matrices."""

import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A GPT-2 by its sizes; or a Llama, whose keys have `key_heads` heads and whose gated MLP has `gated` hidden units."""

    layers: int
    width: int
    heads: int
    vocabulary: int
    positions: int
    key_heads: int | None = None  # None: a GPT-2
    gated: int | None = None

    @property
    def block_multiply_adds(self) -> int:
        """Of one token through all blocks: per layer 2 D^2 for queries and output, 2 D K for keys and values, and the MLP.

        K is D in a GPT-2.
        """
        keys = self.width * (self.key_heads or self.heads) // self.heads
        return self.layers * (2 * self.width**2 + 2 * self.width * keys + self.last_mlp_multiply_adds)

    @property
    def last_mlp_multiply_adds(self) -> int:
        """Of one token through the MLP of the last layer: two matrices of 4 D^2, or three of a gated one."""
        return 3 * self.width * self.gated if self.gated else 8 * self.width**2

    @property
    def logit_multiply_adds(self) -> int:
        """Of one position's logits."""
        return self.width * self.vocabulary


@dataclass(frozen=True)
class Work:
    """What one update passes through the model, in tokens (blocks) and positions (logits)."""

    trained_tokens: int  # through the blocks, forward and backward
    trained_for_keys: int  # of those, the ones that end at the last layer's keys and values
    read_tokens: int  # through the blocks, forward alone
    trained_logits: int
    read_logits: int

    def multiply_adds(self, shape: Shape) -> int:
        """Multiply-adds in all. A backward is two forwards: one product for the input's gradient, one for the weights'."""
        blocks = 3 * self.trained_tokens + self.read_tokens
        logits = 3 * self.trained_logits + self.read_logits
        spared = 3 * self.trained_for_keys * shape.last_mlp_multiply_adds
        return blocks * shape.block_multiply_adds + logits * shape.logit_multiply_adds - spared


def count_work(
    prefix: int, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], epochs: int = 1
) -> Work:
    """What an update on B prompts and their sampled responses (token ids) costs when nothing is computed twice.

    `prefix` tokens begin every prompt of the task. The policy reads them once, the rest of each distinct prompt once, and
    of each distinct (prompt, response) pair all response tokens but the last; its logits are made at the distinct prompts'
    ends, where sampling uses them too, and after those tokens. Of a prompt's other tokens the last layer's MLP is not
    needed. All that with gradient. Without: sampling feeds every row's tokens but the last, with logits at each; the
    reference, which knows the prompts from earlier updates, reads what the policy reads of the pairs. Each of the `epochs` is
    a gradient step on all rows; the policy that sampled is the first one's.

    Left out, so that the bound is one: attention's scores (1 % at 20 tokens), everything elementwise, the optimiser.
    """
    distinct = {tuple(prompt) for prompt in prompts}
    pairs = {(tuple(prompt), tuple(response)) for prompt, response in zip(prompts, responses, strict=True)}
    own = sum(len(prompt) - prefix for prompt in distinct)
    fed = sum(len(response) - 1 for _, response in pairs)
    sampled = sum(len(response) - 1 for response in responses)
    return Work(
        trained_tokens=epochs * (prefix + own + fed),
        trained_for_keys=epochs * (prefix + own - len(distinct)),
        read_tokens=sampled + fed,
        trained_logits=epochs * (len(distinct) + fed),
        read_logits=sampled + fed,
    )


def gemm_flops(rows: int, width: int, dtype: str, device: str, seconds: float = 0.5, cpu_time: bool = False) -> float:
    """Floating-point operations per second, best of several, of (rows, width) x (width, 4 width): the MLP's first product.

    By torch's own library or the package's choice, whichever is quicker; per second of CPU time if so wanted.
    """
    import torch

    from pgsrm.models.precision import multiply_in_tf32
    from pgsrm.policy.fast.matmul import multiply

    multiply_in_tf32(torch.device(device), dtype == "tfloat32")
    kind, clock = (
        torch.bfloat16 if dtype == "bfloat16" else torch.float32,
        time.process_time if cpu_time else time.perf_counter,
    )
    left, right = torch.randn(rows, width, dtype=kind, device=device), torch.randn(width, 4 * width, device=device)
    right = right.to(kind)
    repeats = max(
        1, int(1e9 // (rows * width * 4 * width))
    )  # about a millisecond or more between two looks at the clock
    best, end = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < end:
        for product in (torch.matmul, multiply):
            synchronize(device)
            started = clock()
            for _ in range(repeats):
                product(left, right)
            synchronize(device)
            best = min(best, (clock() - started) / repeats)
    return 2 * rows * width * 4 * width / best


def synchronize(device: str) -> None:
    """Wait for what a GPU still has to do; a CPU has done it."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize()
