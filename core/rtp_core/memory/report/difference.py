"""What two moments differ in, by where allocations come from: tag and stack."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from rtp_core.memory.report.memory_map import moment_of
from rtp_core.memory.snapshot import Snapshot
from rtp_core.memory.tracer import Frame, When

Change = Literal["new", "gone", "grown", "shrunk"]


@dataclass(frozen=True, slots=True)
class Difference:
    """Of one origin: bytes and number of allocations, before and after."""

    tag: str
    frames: tuple[Frame, ...]
    bytes_before: int
    bytes_after: int
    count_before: int
    count_after: int

    @property
    def change(self) -> Change:
        if self.count_before == 0:
            return "new"
        if self.count_after == 0:
            return "gone"
        return "grown" if self.bytes_after > self.bytes_before else "shrunk"


@dataclass(frozen=True, slots=True)
class DifferenceBeside:
    """Of one holder beside the arena: bytes at the end of either snapshot, 0 where it held nothing."""

    holder: str
    bytes_before: int
    bytes_after: int


_Origin = tuple[str, tuple[Frame, ...]]


def differences(before: Snapshot, after: Snapshot, at: When = "peak") -> list[Difference]:
    """The largest change first; what takes as much in as many pieces is left out. Raises as `moment_of` does."""
    old_bytes, old_counts = _by_origin(before, at)
    new_bytes, new_counts = _by_origin(after, at)
    found = [
        Difference(*origin, old_bytes[origin], new_bytes[origin], old_counts[origin], new_counts[origin])
        for origin in {**old_bytes, **new_bytes}
        if (old_bytes[origin], old_counts[origin]) != (new_bytes[origin], new_counts[origin])
    ]
    return sorted(found, key=lambda d: (-abs(d.bytes_after - d.bytes_before), d.tag))


def differences_beside(before: Snapshot, after: Snapshot) -> list[DifferenceBeside]:
    """In the holders' order; one that holds as much as before is left out."""
    found = (
        DifferenceBeside(holder, before.beside.get(holder, 0), after.beside.get(holder, 0))
        for holder in {**before.beside, **after.beside}
    )
    return [d for d in found if d.bytes_before != d.bytes_after]


def _by_origin(snapshot: Snapshot, at: When) -> tuple[Counter[_Origin], Counter[_Origin]]:
    nbytes, count = Counter[_Origin](), Counter[_Origin]()
    for _, size, trace, *_ in moment_of(snapshot, at).held:
        origin = snapshot.traces[trace].tag, tuple(snapshot.frames_of(trace))
        nbytes[origin] += size
        count[origin] += 1
    return nbytes, count
