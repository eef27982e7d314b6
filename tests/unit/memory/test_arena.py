"""The arena against a naive model of it, under random allocations, returns and dropped references."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from rtp_core import dtypes
from rtp_core.errors import ConfigError, DoubleFreeError, OutOfMemoryError
from rtp_core.memory.arena import Arena, Storage
from rtp_core.memory.buffer import Buffer
from rtp_core.memory.space import MemorySpace, Region, reserve_host

ALIGNMENT = 64
TOTAL = 64 * ALIGNMENT
IMAGINARY = MemorySpace("imaginary:0", host_addressable=False)


def imaginary_arena(nbytes: int = TOTAL, address: int = 1 << 40, alignment: int = ALIGNMENT) -> Arena:
    return Arena(Region(IMAGINARY, address, nbytes), alignment)


class Units:
    """The naive model: which allocation holds each unit of the region, in a plain list."""

    def __init__(self) -> None:
        self.owners: list[int | None] = [None] * (TOTAL // ALIGNMENT)

    def holes(self) -> list[tuple[int, int]]:
        """(units, first unit) of every maximal hole."""
        holes, start = [], None
        for i, owner in enumerate([*self.owners, -1]):
            if owner is None and start is None:
                start = i
            elif owner is not None and start is not None:
                holes.append((i - start, start))
                start = None
        return holes

    def best_fit(self, units: int) -> int | None:
        """The first unit of the smallest hole that is large enough; of equal ones the lowest."""
        fitting = [hole for hole in self.holes() if hole[0] >= units]
        return min(fitting)[1] if fitting else None

    def give(self, start: int, units: int, owner: int) -> None:
        assert all(o is None for o in self.owners[start : start + units]), "two allocations overlap"
        self.owners[start : start + units] = [owner] * units

    def take_back(self, owner: int) -> None:
        self.owners = [None if o == owner else o for o in self.owners]


class ArenaMachine(RuleBasedStateMachine):
    """References are storage, buffers and views of buffers; storage goes back when the last of its own is dropped."""

    references = Bundle("references")

    def __init__(self) -> None:
        super().__init__()
        self.arena = imaginary_arena()
        self.units = Units()
        self.held: dict[int, int] = {}  # allocation -> references to it
        self.objects: dict[int, tuple[int, Storage | Buffer]] = {}  # reference -> (allocation, what holds it)
        self.names = iter(range(1 << 30))
        self.peak = 0

    def _refer(self, allocation: int, holder: Storage | Buffer) -> int:
        reference = next(self.names)
        self.objects[reference] = allocation, holder
        self.held[allocation] = self.held.get(allocation, 0) + 1
        return reference

    @rule(target=references, nbytes=st.integers(0, TOTAL // 3))
    def allocate(self, nbytes: int) -> int:
        units = -(-max(nbytes, 1) // ALIGNMENT)
        expected = self.units.best_fit(units)
        if expected is None:
            with pytest.raises(OutOfMemoryError) as caught:
                self.arena.allocate(nbytes, "one too many")
            assert caught.value.table == self.arena.table()
            return -1
        storage = self.arena.allocate(nbytes, f"tag {nbytes}")
        assert storage.address == (1 << 40) + expected * ALIGNMENT
        assert storage.nbytes == nbytes
        allocation = next(self.names)
        self.units.give(expected, units, allocation)
        self.peak = max(self.peak, self._used())
        return self._refer(allocation, storage)

    @rule(target=references, reference=references)
    def view(self, reference: int) -> int:
        if reference not in self.objects:
            return -1
        allocation, holder = self.objects[reference]
        if isinstance(holder, Storage):
            return self._refer(allocation, Buffer(holder, dtypes.uint8, (holder.nbytes,)))
        return self._refer(allocation, holder[len(holder) // 2 :])

    @rule(reference=consumes(references))
    def drop(self, reference: int) -> None:
        if reference not in self.objects:
            return
        allocation, _ = self.objects.pop(reference)
        self.held[allocation] -= 1
        if not self.held[allocation]:
            del self.held[allocation]
            self.units.take_back(allocation)

    @rule(reference=consumes(references))
    def free(self, reference: int) -> None:
        if reference not in self.objects:
            return
        allocation, holder = self.objects[reference]
        storage = holder if isinstance(holder, Storage) else holder.storage
        storage.free()
        with pytest.raises(DoubleFreeError):
            storage.free()
        self.units.take_back(allocation)
        del self.held[allocation]
        self.objects = {r: (a, h) for r, (a, h) in self.objects.items() if a != allocation}

    def _used(self) -> int:
        return sum(owner is not None for owner in self.units.owners) * ALIGNMENT

    @invariant()
    def arena_agrees_with_the_model(self) -> None:
        self.arena.check_integrity()
        stats = self.arena.stats()
        assert stats.used_bytes == self._used()
        assert stats.largest_hole_bytes == max(self.units.holes(), default=(0, 0))[0] * ALIGNMENT
        assert stats.fragmented_bytes == stats.total_bytes - stats.used_bytes - stats.largest_hole_bytes
        assert stats.peak_bytes == self.peak
        assert sum(self.arena.totals().values()) == stats.used_bytes

    def teardown(self) -> None:
        self.objects.clear()
        gc.collect()
        self.arena.check_integrity()
        assert self.arena.stats().used_bytes == 0, self.arena.table()


TestArena = ArenaMachine.TestCase
TestArena.settings = settings(max_examples=40, stateful_step_count=30, deadline=None, derandomize=True)


def test_best_fit_takes_the_smallest_hole_that_is_large_enough() -> None:
    arena = imaginary_arena()
    blocks = [arena.allocate(units * ALIGNMENT, "block") for units in (4, 1, 2, 1, 3, 1)]
    for index in (0, 2, 4):
        blocks[index].free()
    assert arena.allocate(2 * ALIGNMENT, "exact").address == blocks[2].address
    assert arena.allocate(3 * ALIGNMENT - 1, "rounded up").address == blocks[4].address


def test_address_and_size_are_aligned_even_where_the_region_is_not() -> None:
    arena = imaginary_arena(nbytes=1000, address=1001, alignment=128)
    storage = arena.allocate(1, "byte")
    assert storage.address % 128 == 0
    assert arena.stats().used_bytes == 128
    assert arena.stats().total_bytes == 1920 - 1024
    arena.check_integrity()


def test_exhaustion_says_what_was_asked_what_is_free_and_who_holds_the_rest() -> None:
    arena = imaginary_arena()
    weights = arena.allocate(TOTAL - 3 * ALIGNMENT, "weights")
    gap, last = arena.allocate(ALIGNMENT, "gap"), arena.allocate(ALIGNMENT, "last")
    gap.free()
    with pytest.raises(OutOfMemoryError) as caught:
        arena.allocate(2 * ALIGNMENT, "logits")
    message = str(caught.value)
    assert f"cannot allocate {2 * ALIGNMENT} bytes for 'logits'" in message
    assert f"{2 * ALIGNMENT} of {TOTAL} bytes are free, the largest hole has {ALIGNMENT};" in message
    assert f"weights {weights.nbytes}" in message
    table = caught.value.table
    assert f"{weights.address:x}" in table
    assert f"{last.address:x}" in table
    assert table.count("free") == 2


def test_failed_allocation_changes_nothing() -> None:
    arena = imaginary_arena()
    before = arena.table()
    with pytest.raises(OutOfMemoryError):
        arena.allocate(TOTAL + 1, "too much")
    assert arena.table() == before
    assert arena.stats().peak_bytes == 0


def test_dropped_storage_serves_the_very_next_allocation() -> None:
    arena = imaginary_arena()
    storage = arena.allocate(TOTAL, "all")
    del storage
    again = arena.allocate(TOTAL, "all again")
    assert again.nbytes == TOTAL


def test_release_of_an_address_nobody_holds_raises() -> None:
    arena = imaginary_arena()
    storage = arena.allocate(2 * ALIGNMENT, "held")
    with pytest.raises(DoubleFreeError, match="nothing is allocated"):
        arena.release(storage.address + ALIGNMENT)


def test_borrowed_storage_cannot_be_freed() -> None:
    buffer = Buffer.borrow(np.zeros(4, np.float32))
    assert buffer.storage.is_borrowed
    with pytest.raises(DoubleFreeError):
        buffer.storage.free()


@pytest.mark.parametrize(("nbytes", "tag"), [(-1, "negative"), (16, "")])
def test_negative_sizes_and_blank_tags_are_rejected(nbytes: int, tag: str) -> None:
    with pytest.raises(ConfigError):
        imaginary_arena().allocate(nbytes, tag)


@pytest.mark.parametrize("alignment", [0, -64, 48])
def test_alignment_is_a_power_of_two(alignment: int) -> None:
    with pytest.raises(ConfigError, match="power of two"):
        imaginary_arena(alignment=alignment)


def test_region_smaller_than_its_alignment_is_rejected() -> None:
    with pytest.raises(ConfigError, match="too small"):
        imaginary_arena(nbytes=64, address=1)


def test_reserving_more_host_memory_than_addresses_exist_raises_out_of_memory() -> None:
    with pytest.raises(OutOfMemoryError, match="cannot reserve"):
        reserve_host(1 << 62)


def test_totals_are_by_tag_with_the_largest_first() -> None:
    arena = imaginary_arena()
    held = [arena.allocate(size, tag) for size, tag in ((64, "a"), (256, "b"), (64, "a"))]
    assert list(arena.totals().items()) == [("b", 256), ("a", 128)]
    assert len(held) == 3
