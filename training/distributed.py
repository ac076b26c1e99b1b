"""The processes that torchrun starts, and what they tell each other; without it there is one, which tells nothing."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Processes:
    """This process's `rank` of `world`, and its `local_rank` on this machine."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def main(self) -> bool:
        """Whether this is the one process that writes files and draws the bar."""
        return self.rank == 0


@contextlib.contextmanager
def join_processes() -> Iterator[Processes]:
    """Join the group that torchrun's environment variables describe: NCCL for CUDA tensors, Gloo for the CPU's."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Processes()
        return
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=timedelta(minutes=30))
    try:
        yield Processes(dist.get_rank(), world, local_rank)
    finally:
        # Waiting for peers that died would hang; the operating system closes the connections.
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()


def wait_for_main(processes: Processes) -> None:
    """Wait until every process has come here."""
    if processes.world > 1:
        dist.barrier()


def sum_over(processes: Processes, values: list[float]) -> list[float]:
    """Element-wise sum of `values` over all processes, in float64."""
    if processes.world == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(tensor)
    return tensor.tolist()


def gather(processes: Processes, item: Any) -> list:
    """`item` of every process, in the order of ranks, on every process."""
    if processes.world == 1:
        return [item]
    items = [None] * processes.world
    dist.all_gather_object(items, item)
    return items


def share_network(processes: Processes, network: torch.nn.Module) -> None:
    """Give every process the main one's weights and batch-norm statistics, as they are saved and tested."""
    if processes.world > 1:
        for tensor in network.state_dict().values():
            dist.broadcast(tensor, src=0)
