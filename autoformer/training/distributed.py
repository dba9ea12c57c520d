"""`World`: the processes that train together, one per GPU (or a few on CPUs), as `torchrun` starts them.

A process alone is a world of one, and all code is written for a world: what it asks of the others then costs nothing. Small
facts travel between the CPUs (gloo), gradients between the devices (NCCL on GPUs, gloo on CPUs).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from autoformer.errors import DataError, LostProcessError

Value = TypeVar("Value")
PATIENCE = timedelta(minutes=30)  # a process silent for longer counts as lost; evaluation of a large part fits in


@dataclass(frozen=True)
class World:
    """This process among those that train together."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Whether each of `flags` is true in any process. All must ask."""
        if self.size == 1:
            return flags
        found = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return tuple(map(bool, found.tolist()))

    def gather(self, values: Sequence[Value]) -> list[Value]:
        """The values of all processes, dealt back in turn: what `values[rank::size]` of one list becomes again."""
        if self.size == 1:
            return list(values)
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, list(values))
        longest = max(map(len, parts))
        return [part[index] for index in range(longest) for part in parts if index < len(part)]

    def from_leader(self, value: Value) -> Value:
        """The value that the leading process gives."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def with_shared_statistics(self, network: nn.Module) -> nn.Module:
        """The network with batch norms over the images of all processes; on CPUs, where there are none, each has its own."""
        if self.size == 1 or self.device.type != "cuda":
            return network
        shared: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return shared

    def wrap(self, network: nn.Module, *, some_unused: bool) -> nn.Module:
        """The network with its gradients averaged over the processes; `some_unused`: a step may use a part of the weights."""
        if self.size == 1:
            return network
        devices = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(network, devices, find_unused_parameters=some_unused)


@contextmanager
def joined(device: torch.device | None = None) -> Iterator[World]:
    """The world that `torchrun` describes in the environment, or one of this process alone on `device`."""
    if "WORLD_SIZE" not in os.environ or "RANK" not in os.environ:
        yield World(device=device or best_device())
        return
    local = int(os.environ.get("LOCAL_RANK", 0))
    if torch.cuda.is_available():
        if local >= torch.cuda.device_count():
            raise DataError(
                f"torchrun started process {local + 1} on a machine with {torch.cuda.device_count()} GPUs; one process per GPU: "
                f"--nproc-per-node={torch.cuda.device_count()}"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    device = device or torch.device("cpu")
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield World(dist.get_rank(), dist.get_world_size(), device)
    except RuntimeError as error:
        if dist.get_world_size() == 1 or not _is_loss_of_contact(error):
            raise
        raise LostProcessError(
            f"process {dist.get_rank()} of {dist.get_world_size()} lost contact with another one "
            f"({str(error).splitlines()[0][:200]}); the first message above says why that one ended; run the same command again "
            "to go on from the last checkpoint"
        ) from error
    finally:
        dist.destroy_process_group()


def _is_loss_of_contact(error: RuntimeError) -> bool:
    words = str(error).lower()
    named = any(word in words for word in ("gloo", "nccl", "connection", "peer", "timed out", "socket"))
    return isinstance(error, dist.DistError) or named


def best_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
