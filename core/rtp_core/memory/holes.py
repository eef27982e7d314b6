"""Holes: the free ranges of an arena. No two touch; the smallest that is large enough is one bisect away."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator


class Holes:
    """Ranges of addresses. All sizes in bytes."""

    __slots__ = ("_by_size", "_size_at", "_start_before", "total")

    def __init__(self) -> None:
        self._by_size: list[tuple[int, int]] = []  # (bytes, address), sorted
        self._size_at: dict[int, int] = {}  # address -> bytes
        self._start_before: dict[int, int] = {}  # end -> address
        self.total = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """(address, bytes) of each, in no order."""
        return iter(self._size_at.items())

    @property
    def largest(self) -> int:
        return self._by_size[-1][0] if self._by_size else 0

    def ending_at(self, end: int) -> int:
        """Bytes of the hole that ends there, or 0."""
        start = self._start_before.get(end)
        return 0 if start is None else end - start

    def take(self, size: int) -> int | None:
        """The start of the smallest hole that has `size` bytes, of equal ones the lowest; None where none has."""
        index = bisect_left(self._by_size, (size, 0))
        if index == len(self._by_size):
            return None
        hole_size, address = self._by_size.pop(index)
        del self._size_at[address], self._start_before[address + hole_size]
        self.total -= hole_size
        if hole_size > size:
            self._insert(address + size, hole_size - size)
        return address

    def take_end(self, size: int, end: int) -> int | None:
        """The last `size` bytes of the hole that ends at `end`; None where it has fewer."""
        start = self._start_before.get(end)
        if start is None or end - start < size:
            return None
        self._remove(start, end - start)
        if end - start > size:
            self._insert(start, end - start - size)
        return end - size

    def give(self, start: int, end: int) -> tuple[int, int]:
        """Add a range, merged with its neighbours; the range of the hole that it is now in."""
        before = self._start_before.get(start)
        if before is not None:
            self._remove(before, start - before)
            start = before
        after = self._size_at.get(end)
        if after is not None:
            self._remove(end, after)
            end += after
        self._insert(start, end - start)
        return start, end

    def check_integrity(self) -> None:
        """Assert that the three views agree."""
        assert self._by_size == sorted((size, address) for address, size in self._size_at.items())
        assert self._start_before == {address + size: address for address, size in self._size_at.items()}
        assert not self._start_before.keys() & self._size_at.keys(), "two holes touch"
        assert self.total == sum(self._size_at.values())

    def _insert(self, address: int, size: int) -> None:
        insort(self._by_size, (size, address))
        self._size_at[address] = size
        self._start_before[address + size] = address
        self.total += size

    def _remove(self, address: int, size: int) -> None:
        del self._by_size[bisect_left(self._by_size, (size, address))]
        del self._size_at[address], self._start_before[address + size]
        self.total -= size
