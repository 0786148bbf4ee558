"""One run in several processes (torch.distributed): each answers and learns from its share of every batch.

All of them hold the same batch of prompts, responses and rewards and the same generators; what is divided is the model's
passes. Losses are sums over the whole batch's tokens, so that gradients added up over the processes are those of one
process, as they are over micro-batches. With `model.shard` weights, gradients and optimiser states are divided too, by
torch's FSDP; otherwise every process has them whole.

A process that `torchrun`, `accelerate launch` or `srun` started finds its place in the environment (RANK, WORLD_SIZE,
LOCAL_RANK, MASTER_ADDR, MASTER_PORT); else the first one starts the others on its machine (`together`).
"""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from pgsrm.util.errors import UserError
from pgsrm.util.numbers import counted

T = TypeVar("T")
_PLACE = ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK")  # where a process is among the others
GRACE = 5.0  # seconds for the others to end by themselves, after the first has


class Processes:
    """The `count` processes of a run, of which this is number `rank`. One alone needs no torch.distributed."""

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes the run's folder."""
        return self.rank == 0

    def share(self, rows: Tensor) -> Tensor:
        """This process's part of `rows` (n,), n a multiple of `count`."""
        return rows if self.count == 1 else rows.tensor_split(self.count)[self.rank]

    def join(self, share: Tensor) -> Tensor:
        """The shares (n / count, ...) of all processes, one below the other, without gradient."""
        if self.count == 1:
            return share.detach()

        parts = [torch.empty_like(share) for _ in range(self.count)]
        dist.all_gather(parts, share.detach().contiguous())
        return torch.cat(parts)

    def join_lists(self, share: Sequence[T]) -> list[T]:
        """The same for lists of anything that can be pickled."""
        if self.count == 1:
            return list(share)

        parts: list[Any] = [None] * self.count
        dist.all_gather_object(parts, list(share))
        return [item for part in parts for item in part]

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Add up every parameter's gradient over the processes, in place. FSDP has averaged those of sharded ones."""
        if self.count == 1:
            return

        for gradient in [p.grad for p in parameters if p.grad is not None]:
            if is_sharded(gradient):
                gradient.mul_(self.count)
            else:
                dist.all_reduce(gradient)

    def combine(self, totals: Mapping[str, Tensor], largest: str) -> dict[str, Tensor]:
        """Scalars added up over the processes; of those called `largest`, the largest."""
        if self.count == 1:
            return dict(totals)

        added, most = torch.stack([value.double() for value in totals.values()]), totals[largest].clone()
        dist.all_reduce(added)
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        return {**dict(zip(totals, added.unbind(), strict=True)), largest: most}

    def anyone(self, here: bool) -> bool:
        """Whether it is so in any process."""
        return here if self.count == 1 else any(self.join_lists([here]))

    def from_first(self, compute: Callable[[], T]) -> T:
        """What `compute` returns in the first process, which alone calls it; an error of it is raised in all."""
        if self.count == 1:
            return compute()

        outcome: list[Any] = [None, None]  # what it returned, what it raised
        if self.first:
            try:
                outcome[0] = compute()
            except Exception as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]


ALONE = Processes()


def is_sharded(tensor: Tensor) -> bool:
    """Whether FSDP has divided a tensor among the processes."""
    return isinstance(tensor, DTensor)


def undivided(tensor: Tensor) -> Tensor:
    """A tensor as one process would have it; all processes have to call this together."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def divided_as(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole `tensor` divided among the processes as `other` is, if it is."""
    if not is_sharded(other):
        return tensor
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements)  # type: ignore[attr-defined]


def shard(model: Any, device: torch.device, processes: Processes) -> Any:
    """Divide a transformers model's weights among the processes, layer by layer (torch.distributed.fsdp.fully_shard).

    A layer's weights are whole only while it computes, on `device`.
    """
    mesh = init_device_mesh(device.type, (processes.count,))
    for layer in [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def others() -> Processes | None:
    """This process's place among those of its launcher; None if nothing says that there are others."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    return Processes(int(os.environ["RANK"]), count) if count > 1 else None


@contextmanager
def together(count: int, command: Sequence[str]) -> Iterator[Processes]:
    """`count` processes that know each other; those that nobody started yet are started here with `command`.

    They are ended when the block ends, however it does.
    """
    if count == 1:
        yield Processes()
        return
    here, started, here_alone = others(), list[subprocess.Popen[bytes]](), False
    if here is None:
        here = Processes(0, count)
        place = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        os.environ |= {**place, "RANK": "0", "LOCAL_RANK": "0"}
        here_alone = True
        for rank in range(1, count):
            environment = {**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            started.append(subprocess.Popen([sys.executable, *command], env=environment, start_new_session=True))
    elif here.count != count:
        raise UserError(f"processes={count}: {here.count} were started (WORLD_SIZE); start {count}")

    try:
        dist.init_process_group(backend=None)  # NCCL for tensors on GPUs, gloo for those on CPUs
        yield here
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        if here_alone:  # another run of this process starts its own
            for name in _PLACE:
                os.environ.pop(name, None)
        for process in started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
            process.kill()
            process.wait()


def local_device(device: torch.device) -> torch.device:
    """`cuda` as this process's own GPU (LOCAL_RANK)."""
    if device.type != "cuda" or device.index is not None:
        return device
    own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if own.index >= torch.cuda.device_count():
        raise UserError(
            f"processes: {counted(torch.cuda.device_count(), 'GPU')} for process {own.index + 1}; one each is needed"
        )
    torch.cuda.set_device(own)
    return own


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
