"""Collectives over torch.distributed: NCCL among NVIDIA's GPUs, RCCL among AMD's, gloo among processors."""

from __future__ import annotations

from collections.abc import Callable

import torch.distributed as dist
from torch import Tensor

from rtp_core.plugin import Buffer, Communicator
from rtp_torch.scratch import Alloc, Scratch, View


class TorchCommunicator(Communicator):
    """The ranks of a process group: all call the same collectives in the same order, on their current streams."""

    def __init__(self, group: dist.ProcessGroup, alloc: Alloc, view: View) -> None:
        self._group, self._alloc, self._view = group, alloc, view
        self.rank, self.world_size = dist.get_rank(group), dist.get_world_size(group)

    def broadcast(self, x: Buffer, root: int = 0) -> Buffer:
        source = dist.get_global_rank(self._group, root)
        self._in_place(x, lambda numbers: dist.broadcast(numbers, source, group=self._group), "broadcast")
        return x

    def all_reduce(self, x: Buffer) -> Buffer:
        self._in_place(x, lambda numbers: dist.all_reduce(numbers, group=self._group), "all_reduce")
        return x

    def all_gather(self, x: Buffer) -> Buffer:
        tokens, columns = x.shape
        out = self._alloc((tokens, columns * self.world_size), x.dtype, "all_gather")
        scratch, numbers = Scratch(self._alloc, self._view, "all_gather"), self._view(x)
        mine = scratch((tokens, columns), numbers.dtype).copy_(numbers)
        all_of_them = scratch((self.world_size, tokens, columns), numbers.dtype)
        dist.all_gather_into_tensor(all_of_them.view(-1, columns), mine, group=self._group)
        self._view(out).view(tokens, self.world_size, columns).copy_(all_of_them.transpose(0, 1))
        return out

    def rehearsing(self, alloc: Alloc) -> Communicator:
        """One that asks for the memory of each collective, and calls none."""
        return _Rehearsing(self.rank, self.world_size, alloc)

    def _in_place(self, x: Buffer, collective: Callable[[Tensor], object], tag: str) -> None:
        """The libraries take memory without gaps."""
        numbers = self._view(x)
        if numbers.is_contiguous():
            collective(numbers)
            return
        scratch = Scratch(self._alloc, self._view, tag)
        dense = scratch(x.shape, numbers.dtype).copy_(numbers)
        collective(dense)
        numbers.copy_(dense)


class _Rehearsing(Communicator):
    def __init__(self, rank: int, world_size: int, alloc: Alloc) -> None:
        self.rank, self.world_size, self._alloc = rank, world_size, alloc

    def all_reduce(self, x: Buffer) -> Buffer:
        if not x.is_contiguous:
            self._alloc(x.shape, x.dtype, "all_reduce")
        return x

    def all_gather(self, x: Buffer) -> Buffer:
        tokens, columns = x.shape
        out = self._alloc((tokens, columns * self.world_size), x.dtype, "all_gather")
        work_space = [self._alloc(like.shape, x.dtype, "all_gather") for like in (x, out)]
        assert len(work_space) == 2  # held together, as the collective holds them
        return out
