"""The arena: one region, from which every buffer of a device comes.

Best fit; holes are split and merged. What a step has just given back waits, unmerged, for the next request of its very
size, which in a transformer comes with the next layer; the waiting ranges are merged as soon as something does not
find its like, and before anybody looks. It owns who holds which bytes under which tag; not what is in them.

Three lifetimes. **Public**: until the last holder lets go. **Persistent**: the same, of weights and KV, so that what a
step leaves behind can be told from what is there for good. **Private**: from the far end, for work that remembers
addresses; where private memory has been given back between allocations still held, only private memory comes again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter_ns
from types import CodeType

import numpy as np
from numpy.typing import NDArray

from rtp_core.errors import ConfigError, DoubleFreeError, OutOfMemoryError
from rtp_core.memory.holes import Holes
from rtp_core.memory.space import MemorySpace, Region
from rtp_core.memory.storage import Storage
from rtp_core.memory.table import memory_table
from rtp_core.memory.tracer import NO_ADDRESS, NO_TIME, Held, HeldRow, Lifetime, Moment, TraceLevel, Tracer, When

_PUBLIC: Lifetime = "public"
_LARGEST_HOLDERS = 3  # named in an error


@dataclass(frozen=True, slots=True)
class ArenaStats:
    """All in bytes. `reach`: from the start to the end of the highest allocation that is not private, and the private
    ones: what a region must have. `fragmented`: free, but not in the last hole (RTP-LLM's definition). Peaks since the
    last `reset_peak`."""

    total_bytes: int
    used_bytes: int
    persistent_bytes: int
    private_bytes: int
    peak_bytes: int
    peak_reach_bytes: int
    largest_hole_bytes: int
    last_hole_bytes: int

    @property
    def free_bytes(self) -> int:
        return self.total_bytes - self.used_bytes

    @property
    def public_bytes(self) -> int:
        """What steps hold; nothing, between them."""
        return self.used_bytes - self.persistent_bytes - self.private_bytes

    @property
    def fragmented_bytes(self) -> int:
        return self.free_bytes - self.last_hole_bytes


class Arena:
    """Allocates from one region. `alignment` (bytes, a power of two) holds for address and size."""

    def __init__(self, region: Region, alignment: int = 64, *, name: str = "") -> None:
        if alignment <= 0 or alignment & (alignment - 1):
            raise ConfigError(f"arena alignment is {alignment}", why="expected a power of two")
        start = -(-region.address // alignment) * alignment
        end = (region.address + region.nbytes) // alignment * alignment
        if end <= start:
            raise ConfigError(f"a region of {region.nbytes} bytes is too small for an arena")
        self.name = name or region.space.name
        self.space: MemorySpace = region.space
        self.alignment = alignment
        self.tracer = Tracer()
        self.abandoned: deque[int] = deque()  # addresses of storage that nobody holds any more
        self._region = region
        self._start, self._end = start, end
        self._line = end  # private allocations, and the holes among them, lie from here on
        self._holes, self._private_holes = Holes(), Holes()
        self._holes.give(start, end)
        self._warm: dict[int, list[int]] = {}  # bytes -> addresses given back and not merged yet
        self._held: dict[int, HeldRow] = {}
        self._used = self._peak = self._top = 0
        self._lowest_line = end
        self._is_rising = False  # the peak is now, and no moment of it has been kept yet
        self._step = 0
        self._lifetime = _PUBLIC
        self._sizes: dict[Lifetime, int] = {"persistent": 0, "private": 0}  # bytes held
        self._events: list[int] | None = None  # the tracer's ring, where events are kept
        self._has_stacks = False

    # -- allocation ----------------------------------------------------------------------------------------------

    def allocate(self, nbytes: int, tag: str) -> Storage:
        """Take at least `nbytes` bytes, under a tag that is never blank.

        Raises OutOfMemoryError, carrying the table, when no hole is large enough.
        """
        if nbytes < 0 or not tag:
            raise ConfigError(f"cannot allocate {nbytes} bytes under tag {tag!r}", why="expected a size >= 0 and a tag")
        if self.abandoned:
            self._collect()
        alignment = self.alignment
        size = (nbytes + alignment - 1) & -alignment or alignment
        warm = self._warm.get(size)
        address = warm.pop() if warm and self._lifetime is _PUBLIC else self._place(size, nbytes, tag)
        if self._has_stacks:
            site = self.tracer.site_of_caller(nbytes, tag)
        else:
            found = self.tracer.site_of_tag.get(tag)
            site = self.tracer.new_site(tag) if found is None else found
        self._held[address] = size, site, self._step, self._lifetime
        self._used = used = self._used + size
        if used > self._peak:
            self._peak = used
            self._is_rising = True
        events = self._events
        if events is not None:
            events += perf_counter_ns(), address, size, site
        return Storage(self.space, address, nbytes, tag, self)

    def release(self, address: int) -> None:
        """Take the allocation at `address` back. Raises DoubleFreeError where there is none."""
        self._collect()
        if address not in self._held:
            raise DoubleFreeError(f"nothing is allocated at {address:#x}", where=f"the arena of {self.name}")
        self.abandoned.append(address)
        self._collect()

    def trim(self, keep_bytes: int) -> None:
        """Give up what is free at the end, but for `keep_bytes`: it stays reserved, and is never touched.

        Nothing changes where something private is held.
        """
        self._collect()
        self._settle()
        spare = (self._holes.ending_at(self._end) - keep_bytes) // self.alignment * self.alignment
        if spare > 0:
            self._holes.take_end(spare, self._end)
            self._end -= spare
            self._line = self._lowest_line = self._end

    @contextmanager
    def lifetime(self, lifetime: Lifetime) -> Iterator[None]:
        """What is allocated inside lives that long."""
        before, self._lifetime = self._lifetime, lifetime
        try:
            yield
        finally:
            self._lifetime = before

    def _place(self, size: int, nbytes: int, tag: str) -> int:
        """Where an allocation goes that finds no range of its own size waiting."""
        self._settle()
        if self._lifetime == "private":
            address = self._private_holes.take(size)
            if address is None:
                address = self._holes.take_end(size, self._line)
                self._line = self._line if address is None else address
                self._lowest_line = min(self._lowest_line, self._line)
        else:
            address = self._holes.take(size)
            self._top = self._top if address is None else max(self._top, address + size - self._start)
        if address is None:
            raise self._exhausted(nbytes, tag)
        if self._lifetime is not _PUBLIC:
            self._sizes[self._lifetime] += size
        return address

    def _collect(self) -> None:
        """Take back what was abandoned."""
        if self._is_rising:
            self._keep_peak()
        queue, events = self.abandoned, self._events
        while queue:
            address = queue.popleft()
            size, _, _, lifetime = self._held.pop(address)
            self._used -= size
            if lifetime is not _PUBLIC:
                self._sizes[lifetime] -= size
                self._merge(address, size)
            elif size in self._warm:
                self._warm[size].append(address)
            else:
                self._warm[size] = [address]
            if events is not None:
                events += NO_TIME, address, 0, 0

    def _settle(self) -> None:
        """Merge the ranges that wait for their like."""
        for size, addresses in self._warm.items():
            for address in addresses:
                self._merge(address, size)
        self._warm.clear()

    def _merge(self, address: int, size: int) -> None:
        if address < self._line:
            self._holes.give(address, address + size)
            return
        start, end = self._private_holes.give(address, address + size)
        if start == self._line:  # nothing private lies below any more: it is everybody's again
            self._private_holes.take_end(end - start, end)
            self._line = end
            self._holes.give(start, end)

    def _exhausted(self, nbytes: int, tag: str) -> OutOfMemoryError:
        self.tracer.moments["oom"] = self._moment((nbytes, tag))
        stats = self.stats()
        largest = ", ".join(f"{tag} {size}" for tag, size in list(self.totals().items())[:_LARGEST_HOLDERS])
        return OutOfMemoryError(
            f"out of memory: cannot allocate {nbytes} bytes for {tag!r}",
            where=f"the arena of {self.name}",
            why=(
                f"{stats.free_bytes} of {stats.total_bytes} bytes are free, the largest hole has "
                f"{stats.largest_hole_bytes}; most is held by {largest or 'nothing'}"
            ),
            hint="raise --memory-budget, or lower --max-model-len or --max-num-seqs",
            table=self.table(),
            arena=self,
        )

    # -- what is kept of the past --------------------------------------------------------------------------------

    def trace(self, level: TraceLevel) -> None:
        """Keep events from now on, with "stacks" also where in Python they come from; "off" keeps no more."""
        self.tracer.level = level
        self._has_stacks = level == "stacks"
        self._collect()
        self._events = None if level == "off" else self.tracer.ring
        if self._events is not None:
            now = perf_counter_ns()
            for address, held in self._holdings().items():
                self._events += now, address, held.nbytes, held.site

    def begin_step(self, phase: str, blocks: Mapping[str, Sequence[int]], outer: CodeType | None = None) -> None:
        """What is allocated from now on belongs to a new step of these requests, each with its KV blocks.

        Nothing waits for its like any more: where a step's memory lies does not depend on the steps before it.
        `outer` is the code of the caller whose own callers are the same in every step: stacks are told apart below it.
        """
        self._collect()
        self._settle()
        self._step = self.tracer.begin_step(phase, blocks, outer)

    def reset_peak(self) -> None:
        """The peaks are those of what is held now."""
        self._collect()
        self._settle()
        self._peak, self._is_rising = self._used, True
        self._top = self._end_of_public() - self._start
        self._lowest_line = self._line

    def moment(self, when: When) -> Moment | None:
        """All that is held now, or was at the peak or when memory last ran out; None where it never has."""
        self._collect()
        if when == "now":
            return self._moment()
        if when == "peak" and self._is_rising:
            self._keep_peak()
        return self.tracer.moments.get(when)

    def _keep_peak(self) -> None:
        self._is_rising = False
        self.tracer.moments["peak"] = self._moment()

    def _moment(self, asked: tuple[int, str] | None = None) -> Moment:
        now = perf_counter_ns()
        if self._events is not None:
            self._events += now, NO_ADDRESS, 0, 0  # what has been returned was so by now
        return Moment(now - self.tracer.started_ns, self.tracer.steps[-1], self._held.copy(), asked)

    # -- reports -------------------------------------------------------------------------------------------------

    @property
    def span(self) -> tuple[int, int]:
        """The addresses that it manages: [start, end)."""
        return self._start, self._end

    def host_bytes(self, address: int, nbytes: int) -> NDArray[np.uint8] | None:
        """The host's view of a range of this arena, or None where it has none."""
        if self._region.bytes is None:
            return None
        start = address - self._region.address
        return self._region.bytes[start : start + nbytes]

    def stats(self) -> ArenaStats:
        self._collect()
        self._settle()
        return ArenaStats(
            total_bytes=self._end - self._start,
            used_bytes=self._used,
            persistent_bytes=self._sizes["persistent"],
            private_bytes=self._sizes["private"],
            peak_bytes=self._peak,
            peak_reach_bytes=self._top + self._end - self._lowest_line,
            largest_hole_bytes=max(self._holes.largest, self._private_holes.largest),
            last_hole_bytes=self._holes.ending_at(self._line),
        )

    def totals(self) -> dict[str, int]:
        """Bytes held per tag, largest first."""
        self._collect()
        totals: dict[str, int] = {}
        for held in self._holdings().values():
            tag = self.tracer.sites[held.site].tag
            totals[tag] = totals.get(tag, 0) + held.nbytes
        return dict(sorted(totals.items(), key=lambda item: -item[1]))

    def table(self) -> str:
        """Every range in address order, held or free, as RTP-LLM prints it."""
        self._collect()
        return memory_table(self.name, self.span, self._holdings(), self.tracer.sites)

    def check_integrity(self) -> None:
        """Assert that holes and allocations tile the region, that no two holes touch, and that sums are right."""
        self._collect()
        self._settle()
        for holes in (self._holes, self._private_holes):
            holes.check_integrity()
        holdings = self._holdings()
        tiles = sorted(
            [*self._holes, *self._private_holes, *((address, held.nbytes) for address, held in holdings.items())]
        )
        at = self._start
        for address, size in tiles:
            assert address == at, f"gap or overlap at {at:#x}: next range starts at {address:#x}"
            assert size > 0 and size % self.alignment == 0 and address % self.alignment == 0
            at = address + size
        assert at == self._end, f"ranges end at {at:#x}, the arena at {self._end:#x}"
        for address, held in holdings.items():
            assert (held.lifetime == "private") == (address >= self._line), f"{held.lifetime} memory at {address:#x}"
        assert all(address + size <= self._line for address, size in self._holes), "a public hole among the private"
        assert self._line not in dict(self._private_holes), "a private hole below all private allocations"
        assert self._used == sum(held.nbytes for held in holdings.values()) <= self._peak
        for lifetime, size in self._sizes.items():
            assert size == sum(h.nbytes for h in holdings.values() if h.lifetime == lifetime)

    def _holdings(self) -> dict[int, Held]:
        return {address: Held(*row) for address, row in self._held.items()}

    def _end_of_public(self) -> int:
        return self._line - self._holes.ending_at(self._line)
