"""The arena: one region, from which every buffer of a device comes.

Best fit; a hole is split on allocation and merged with its neighbours on return, so after every
call the holes are maximal. It owns who holds which bytes under which tag; not what is in them.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rtp_core.errors import ConfigError, DoubleFreeError, OutOfMemoryError
from rtp_core.memory.space import MemorySpace, Region


class _HeldBytes:
    """Bytes with the storage that must outlive them: NumPy holds on to the object whose interface it reads."""

    __slots__ = ("__array_interface__", "_data", "_storage")

    def __init__(self, storage: Storage, data: NDArray[np.uint8]) -> None:
        self.__array_interface__ = data.__array_interface__
        self._storage, self._data = storage, data


class Storage:
    """The bytes behind one or more buffers. Goes back to its arena when the last holder lets go.

    Storage that borrows memory from elsewhere has no arena and frees nothing.
    """

    __slots__ = ("_arena", "_bytes", "address", "nbytes", "space", "tag")

    def __init__(
        self,
        space: MemorySpace,
        address: int,
        nbytes: int,
        tag: str,
        arena: Arena | None = None,
        borrowed: NDArray[np.uint8] | None = None,
    ) -> None:
        self.space, self.address, self.nbytes, self.tag = space, address, nbytes, tag
        self._arena, self._bytes = arena, borrowed

    @property
    def is_borrowed(self) -> bool:
        return self._arena is None

    def host_bytes(self) -> NDArray[np.uint8] | None:
        """The bytes as the host sees them [nbytes], or None where it cannot. The array holds this storage."""
        if self._arena is None:
            return self._bytes
        data = self._arena.host_bytes(self.address, self.nbytes)
        return None if data is None else np.asarray(_HeldBytes(self, data))

    def free(self) -> None:
        """Give the bytes back now. Raises DoubleFreeError the second time."""
        if self._arena is None:
            raise DoubleFreeError(f"storage {self.tag!r} at {self.address:#x} is borrowed or already free")
        arena, self._arena, self._bytes = self._arena, None, None
        arena.release(self.address)

    def __del__(self) -> None:
        if self._arena is not None:
            self._arena.abandon(self.address)


@dataclass(frozen=True, slots=True)
class ArenaStats:
    """All in bytes. `fragmented_bytes` is what is free but outside the largest hole."""

    total_bytes: int
    used_bytes: int
    peak_bytes: int
    largest_hole_bytes: int

    @property
    def free_bytes(self) -> int:
        return self.total_bytes - self.used_bytes

    @property
    def fragmented_bytes(self) -> int:
        return self.free_bytes - self.largest_hole_bytes


class Arena:
    """Allocates from one region. `alignment` (bytes, a power of two) holds for address and size."""

    def __init__(self, region: Region, alignment: int = 64) -> None:
        if alignment <= 0 or alignment & (alignment - 1):
            raise ConfigError(f"arena alignment is {alignment}", why="expected a power of two")
        start = -(-region.address // alignment) * alignment
        end = (region.address + region.nbytes) // alignment * alignment
        if end <= start:
            raise ConfigError(f"a region of {region.nbytes} bytes is too small for an arena")
        self.space = region.space
        self.alignment = alignment
        self._region = region
        self._start, self._end = start, end
        self._holes: list[tuple[int, int]] = [(end - start, start)]  # (bytes, address), sorted: best fit is one bisect
        self._hole_at: dict[int, int] = {start: end - start}  # address -> bytes
        self._hole_ending_at: dict[int, int] = {end: start}  # end -> address
        self._held: dict[int, tuple[int, str]] = {}  # address -> (bytes, tag)
        # Storage may die inside a garbage collection, in the middle of an allocation or on another thread:
        # its address only queues here (append is atomic) and is taken back before the arena's next act.
        self._abandoned: deque[int] = deque()
        self._used = self._peak = 0

    def allocate(self, nbytes: int, tag: str) -> Storage:
        """Take at least `nbytes` bytes, under a tag that is never blank.

        Raises OutOfMemoryError, carrying the table, when no hole is large enough.
        """
        if nbytes < 0 or not tag:
            raise ConfigError(f"cannot allocate {nbytes} bytes under tag {tag!r}", why="expected a size >= 0 and a tag")
        if self._abandoned:
            self._collect()
        size = -(-max(nbytes, 1) // self.alignment) * self.alignment
        holes = self._holes
        index = bisect_left(holes, (size, 0))
        if index == len(holes):
            raise self._exhausted(nbytes, tag)
        hole_size, address = holes.pop(index)
        del self._hole_at[address]
        if hole_size == size:
            del self._hole_ending_at[address + size]
        else:
            rest, rest_size = address + size, hole_size - size
            insort(holes, (rest_size, rest))
            self._hole_at[rest] = rest_size
            self._hole_ending_at[address + hole_size] = rest
        self._held[address] = (size, tag)
        self._used += size
        if self._used > self._peak:
            self._peak = self._used
        return Storage(self.space, address, nbytes, tag, self)

    def release(self, address: int) -> None:
        """Take the allocation at `address` back. Raises DoubleFreeError where there is none."""
        try:
            size, _ = self._held.pop(address)
        except KeyError:
            raise DoubleFreeError(f"nothing is allocated at {address:#x}") from None
        self._used -= size
        start, end = address, address + size
        before = self._hole_ending_at.pop(start, None)
        if before is not None:
            self._drop_hole(before, start - before)
            start = before
        after = self._hole_at.get(end)
        if after is not None:
            del self._hole_ending_at[end + after]
            self._drop_hole(end, after)
            end += after
        insort(self._holes, (end - start, start))
        self._hole_at[start] = end - start
        self._hole_ending_at[end] = start

    def abandon(self, address: int) -> None:
        """Note that nobody holds the allocation at `address` any more. Never raises; safe anywhere."""
        self._abandoned.append(address)

    def _collect(self) -> None:
        while self._abandoned:
            self.release(self._abandoned.popleft())

    def host_bytes(self, address: int, nbytes: int) -> NDArray[np.uint8] | None:
        """The host's view of a range of this arena, or None where it has none."""
        if self._region.bytes is None:
            return None
        start = address - self._region.address
        return self._region.bytes[start : start + nbytes]

    def stats(self) -> ArenaStats:
        self._collect()
        return ArenaStats(self._end - self._start, self._used, self._peak, self._holes[-1][0] if self._holes else 0)

    def totals(self) -> dict[str, int]:
        """Bytes held per tag, largest first."""
        self._collect()
        totals: dict[str, int] = {}
        for size, tag in self._held.values():
            totals[tag] = totals.get(tag, 0) + size
        return dict(sorted(totals.items(), key=lambda item: -item[1]))

    def table(self) -> str:
        """Every range in address order: address, bytes, free or held, and the tag."""
        self._collect()
        rows = [(a, size, "free", "") for a, size in self._hole_at.items()]
        rows += [(a, size, "held", tag) for a, (size, tag) in self._held.items()]
        lines = [f"{'ADDR':>14}  {'bytes':>14}  state  tag"]
        lines += [f"{a:>14x}  {size:>14}  {state:<5}  {tag}" for a, size, state, tag in sorted(rows)]
        return "\n".join(lines)

    def check_integrity(self) -> None:
        """Assert that holes and allocations tile the region, and that no two holes touch."""
        self._collect()
        tiles = sorted(
            [(a, size, True) for a, size in self._hole_at.items()]
            + [(a, size, False) for a, (size, _) in self._held.items()]
        )
        at, was_hole = self._start, False
        for address, size, is_hole in tiles:
            assert address == at, f"gap or overlap at {at:#x}: next range starts at {address:#x}"
            assert size > 0 and size % self.alignment == 0 and address % self.alignment == 0
            assert not (was_hole and is_hole), f"two holes touch at {address:#x}"
            at, was_hole = address + size, is_hole
        assert at == self._end, f"ranges end at {at:#x}, the arena at {self._end:#x}"
        assert self._holes == sorted((size, a) for a, size in self._hole_at.items())
        assert self._hole_ending_at == {a + size: a for a, size in self._hole_at.items()}
        assert self._used == sum(size for size, _ in self._held.values()) <= self._peak

    def _drop_hole(self, address: int, size: int) -> None:
        del self._hole_at[address]
        del self._holes[bisect_left(self._holes, (size, address))]

    def _exhausted(self, nbytes: int, tag: str) -> OutOfMemoryError:
        stats = self.stats()
        largest = ", ".join(f"{tag} {size}" for tag, size in list(self.totals().items())[:3]) or "nothing"
        return OutOfMemoryError(
            f"out of memory: cannot allocate {nbytes} bytes for {tag!r}",
            where=f"the arena of {self.space.name}",
            why=(
                f"{stats.free_bytes} of {stats.total_bytes} bytes are free, the largest hole has "
                f"{stats.largest_hole_bytes}; most is held by {largest}"
            ),
            hint="raise --memory-budget, or lower --max-model-len or --max-num-seqs",
            table=self.table(),
        )
