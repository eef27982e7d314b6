"""The map of one moment: who holds what, where the holes are, and how it all adds up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from rtp_core.errors import ConfigError
from rtp_core.memory.snapshot import SavedMoment, SavedStep, Snapshot
from rtp_core.memory.table import memory_table, ranges
from rtp_core.memory.tracer import Site, When

_MAX_HOLES = 5  # that a report names


@dataclass(frozen=True, slots=True)
class Range:
    """`trace` and `tag` are None where it is free; `lifetime` too."""

    address: int
    nbytes: int
    trace: int | None
    tag: str | None
    lifetime: str | None


@dataclass(frozen=True, slots=True)
class TagTotal:
    """Bytes of all allocations under one tag."""

    tag: str
    nbytes: int
    count: int
    largest: int


@dataclass(frozen=True, slots=True)
class Hole:
    """A free range with the tags before and after it; None at the ends of the region."""

    address: int
    nbytes: int
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class MemoryMap:
    """`ranges` tile [start, end). `step` is the one it was taken in, None where the snapshot no longer has it.

    `beside` is of the end, whatever the moment: nobody asks for it in between.
    """

    device: str
    model: str | None
    at: When
    start: int
    end: int
    time_ns: int
    step: SavedStep | None
    asked: tuple[int, str] | None
    ranges: tuple[Range, ...]
    table: str
    beside: Mapping[str, int]

    @classmethod
    def of(cls, snapshot: Snapshot, at: When = "peak") -> Self:
        """Raises ConfigError for a moment that the snapshot does not have."""
        moment = moment_of(snapshot, at)
        held, span = moment.by_address(), (snapshot.start, snapshot.end)
        tags = [trace.tag for trace in snapshot.traces]
        found = tuple(
            Range(address, nbytes, None, None, None)
            if trace is None
            else Range(address, nbytes, trace, tags[trace], held[address].lifetime)
            for address, nbytes, trace in ranges(span, held)
        )
        return cls(
            device=snapshot.device,
            model=snapshot.model,
            at=at,
            start=snapshot.start,
            end=snapshot.end,
            time_ns=moment.time_ns,
            step=next((step for step in snapshot.steps if step.number == moment.step), None),
            asked=moment.asked,
            ranges=found,
            table=memory_table(snapshot.device, span, held, [Site(tag) for tag in tags]),
            beside=snapshot.beside,
        )

    @property
    def total_bytes(self) -> int:
        return self.end - self.start

    @property
    def used_bytes(self) -> int:
        return sum(r.nbytes for r in self.ranges if r.tag is not None)

    @property
    def free_bytes(self) -> int:
        return self.total_bytes - self.used_bytes

    @property
    def largest_hole_bytes(self) -> int:
        return max((r.nbytes for r in self.ranges if r.tag is None), default=0)

    @property
    def fragmented_bytes(self) -> int:
        """Free, but not in the last hole, which ends where private memory begins."""
        below = len(self.ranges)
        below = next((i for i, r in enumerate(self.ranges) if r.lifetime == "private"), below)
        last = self.ranges[below - 1] if below else None
        return self.free_bytes - (last.nbytes if last is not None and last.tag is None else 0)

    @property
    def totals(self) -> list[TagTotal]:
        """By tag, the largest first."""
        nbytes, count, largest = Counter[str](), Counter[str](), Counter[str]()
        for r in self.ranges:
            if r.tag is not None:
                nbytes[r.tag] += r.nbytes
                count[r.tag] += 1
                largest[r.tag] = max(largest[r.tag], r.nbytes)
        return [TagTotal(tag, n, count[tag], largest[tag]) for tag, n in nbytes.most_common()]

    @property
    def holes(self) -> list[Hole]:
        """The largest ones."""
        found = []
        for i, r in enumerate(self.ranges):
            if r.tag is None:
                before = self.ranges[i - 1].tag if i else None
                after = self.ranges[i + 1].tag if i + 1 < len(self.ranges) else None
                found.append(Hole(r.address, r.nbytes, before, after))
        return sorted(found, key=lambda hole: -hole.nbytes)[:_MAX_HOLES]


def moment_of(snapshot: Snapshot, at: When) -> SavedMoment:
    """Raises ConfigError for a moment that the snapshot does not have."""
    moment = snapshot.moments.get(at)
    if moment is None:
        why = "memory never ran out" if at == "oom" else "nothing was ever allocated"
        raise ConfigError(f"no moment {at!r}", where="the snapshot", why=why, hint="--at peak")
    return moment
