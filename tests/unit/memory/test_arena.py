"""The arena against a naive model of it, under random allocations, returns and dropped references."""

from __future__ import annotations

import gc
from typing import get_args

import numpy as np
import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from rtp_core import dtypes
from rtp_core.errors import ConfigError, DoubleFreeError, OutOfMemoryError
from rtp_core.memory.arena import Arena
from rtp_core.memory.buffer import Buffer
from rtp_core.memory.space import MemorySpace, Region, reserve_host
from rtp_core.memory.storage import Storage
from rtp_core.memory.tracer import Lifetime

ALIGNMENT = 64
TOTAL = 64 * ALIGNMENT
IMAGINARY = MemorySpace("imaginary:0", host_addressable=False)
LIFETIMES = st.sampled_from(get_args(Lifetime))


def imaginary_arena(nbytes: int = TOTAL, address: int = 1 << 40, alignment: int = ALIGNMENT) -> Arena:
    return Arena(Region(IMAGINARY, address, nbytes), alignment)


class Units:
    """The naive model: which allocation holds each unit of the region, in a plain list; and what waits for its like."""

    def __init__(self) -> None:
        self.owners: list[int | None] = [None] * (TOTAL // ALIGNMENT)
        self.private: set[int] = set()  # allocations
        self.waiting: dict[int, list[int]] = {}  # units -> first units, the last one given back last

    @property
    def line(self) -> int:
        """The first unit of all that is private."""
        return next((i for i, owner in enumerate(self.owners) if owner in self.private), len(self.owners))

    def holes(self, start: int, end: int) -> list[tuple[int, int]]:
        """(units, first unit) of every maximal hole in [start, end)."""
        holes, first = [], None
        for i, owner in enumerate([*self.owners[start:end], -1], start):
            if owner is None and first is None:
                first = i
            elif owner is not None and first is not None:
                holes.append((i - first, first))
                first = None
        return holes

    def place(self, units: int, lifetime: Lifetime) -> int | None:
        """The first unit of the next allocation: what waits, the smallest hole that does, or the far end."""
        if lifetime == "public" and self.waiting.get(units):
            return self.waiting[units].pop()
        self.waiting.clear()
        line = self.line
        if lifetime == "private":
            inner = [hole for hole in self.holes(line, len(self.owners)) if hole[0] >= units]
            if inner:
                return min(inner)[1]
            last = [hole for hole in self.holes(0, line) if sum(hole) == line and hole[0] >= units]
            return line - units if last else None
        fitting = [hole for hole in self.holes(0, line) if hole[0] >= units]
        return min(fitting)[1] if fitting else None

    def give(self, start: int, units: int, owner: int, lifetime: Lifetime) -> None:
        assert all(o is None for o in self.owners[start : start + units]), "two allocations overlap"
        self.owners[start : start + units] = [owner] * units
        self.private |= {owner} if lifetime == "private" else set()

    def take_back(self, owner: int, lifetime: Lifetime) -> None:
        start, units = self.owners.index(owner), self.owners.count(owner)
        if lifetime == "public":
            self.waiting.setdefault(units, []).append(start)
        self.owners = [None if o == owner else o for o in self.owners]
        self.private.discard(owner)


class ArenaMachine(RuleBasedStateMachine):
    """References are storage, buffers and views of buffers; storage goes back when the last of its own is dropped.

    Nobody looks at the arena unless the rule `look` does: what was given back waits meanwhile.
    """

    references = Bundle("references")

    def __init__(self) -> None:
        super().__init__()
        self.arena = imaginary_arena()
        self.units = Units()
        self.held: dict[int, int] = {}  # allocation -> references to it
        self.lifetimes: dict[int, Lifetime] = {}
        self.objects: dict[int, tuple[int, Storage | Buffer]] = {}  # reference -> (allocation, what holds it)
        self.names = iter(range(1 << 30))
        self.peak = self.top = 0
        self.lowest_line = self.units.line

    def _refer(self, allocation: int, holder: Storage | Buffer) -> int:
        reference = next(self.names)
        self.objects[reference] = allocation, holder
        self.held[allocation] = self.held.get(allocation, 0) + 1
        return reference

    @rule(target=references, nbytes=st.integers(0, TOTAL // 3), lifetime=LIFETIMES)
    def allocate(self, nbytes: int, lifetime: Lifetime) -> int:
        units = -(-max(nbytes, 1) // ALIGNMENT)
        expected = self.units.place(units, lifetime)
        with self.arena.lifetime(lifetime):
            if expected is None:
                with pytest.raises(OutOfMemoryError) as caught:
                    self.arena.allocate(nbytes, "one too many")
                assert caught.value.table == self.arena.table()
                return -1
            storage = self.arena.allocate(nbytes, f"tag {nbytes}")
        assert storage.address == (1 << 40) + expected * ALIGNMENT
        assert storage.nbytes == nbytes
        allocation = next(self.names)
        self.lifetimes[allocation] = lifetime
        self.units.give(expected, units, allocation, lifetime)
        self.peak = max(self.peak, self._used())
        self.lowest_line = min(self.lowest_line, self.units.line)
        if lifetime != "private":
            self.top = max(self.top, expected + units)
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
            self.units.take_back(allocation, self.lifetimes[allocation])

    @rule(reference=consumes(references))
    def free(self, reference: int) -> None:
        if reference not in self.objects:
            return
        allocation, holder = self.objects[reference]
        storage = holder if isinstance(holder, Storage) else holder.storage
        storage.free()
        with pytest.raises(DoubleFreeError):
            storage.free()
        self.units.take_back(allocation, self.lifetimes[allocation])
        del self.held[allocation]
        self.objects = {r: (a, h) for r, (a, h) in self.objects.items() if a != allocation}

    @rule()
    def reset_peak(self) -> None:
        self.arena.reset_peak()
        self.units.waiting.clear()
        self.peak, self.lowest_line = self._used(), self.units.line
        last = [units for units, start in self.units.holes(0, self.units.line) if units + start == self.units.line]
        self.top = self.units.line - sum(last)

    @rule()
    def look(self) -> None:
        """Whoever looks sees holes that are all merged."""
        self.arena.check_integrity()
        self.units.waiting.clear()
        stats, line, end = self.arena.stats(), self.units.line, len(self.units.owners)
        public, inner = self.units.holes(0, line), self.units.holes(line, end)
        last = sum(units for units, start in public if units + start == line)
        assert stats.used_bytes == self._used()
        assert stats.largest_hole_bytes == max([*public, *inner], default=(0, 0))[0] * ALIGNMENT
        assert stats.last_hole_bytes == last * ALIGNMENT
        assert stats.fragmented_bytes == stats.total_bytes - stats.used_bytes - last * ALIGNMENT
        assert stats.peak_bytes == self.peak
        assert stats.peak_reach_bytes == (self.top + end - self.lowest_line) * ALIGNMENT
        assert sum(self.arena.totals().values()) == stats.used_bytes
        by_lifetime = {
            lifetime: sum(self.lifetimes[o] == lifetime for o in self.units.owners if o is not None) * ALIGNMENT
            for lifetime in ("public", "persistent", "private")
        }
        assert by_lifetime == {
            "public": stats.public_bytes,
            "persistent": stats.persistent_bytes,
            "private": stats.private_bytes,
        }

    def _used(self) -> int:
        return sum(owner is not None for owner in self.units.owners) * ALIGNMENT

    def teardown(self) -> None:
        self.objects.clear()
        if self.arena.stats().used_bytes:
            gc.collect()  # a failure's traceback may still hold some
        self.arena.check_integrity()
        assert self.arena.stats().used_bytes == 0, self.arena.table()
        assert self.arena.stats().largest_hole_bytes == TOTAL


class WatchedArenaMachine(ArenaMachine):
    """The same, looked at after every step."""

    @invariant()
    def arena_agrees_with_the_model(self) -> None:
        self.look()


SETTINGS = settings(max_examples=40, stateful_step_count=40, deadline=None, derandomize=True)
TestArena, TestWatchedArena = ArenaMachine.TestCase, WatchedArenaMachine.TestCase
TestArena.settings = TestWatchedArena.settings = SETTINGS


def test_what_was_given_back_serves_the_next_of_its_size_and_merges_for_any_other() -> None:
    arena = imaginary_arena()
    first, second = arena.allocate(ALIGNMENT, "a"), arena.allocate(2 * ALIGNMENT, "b")
    places = first.address, second.address
    del first, second
    again = arena.allocate(2 * ALIGNMENT, "c")  # the smallest merged hole starts at the first
    assert again.address == places[1]
    del again
    assert arena.allocate(3 * ALIGNMENT, "d").address == places[0]


def test_private_memory_comes_from_the_far_end_and_public_memory_stays_out_of_its_holes() -> None:
    arena = imaginary_arena()
    end = arena.span[1]
    with arena.lifetime("private"):
        high, middle, low = (arena.allocate(ALIGNMENT, "graph") for _ in range(3))
    assert [high.address, middle.address, low.address] == [end - n * ALIGNMENT for n in (1, 2, 3)]
    middle_address = middle.address
    middle.free()
    everything = arena.allocate(TOTAL - 3 * ALIGNMENT, "public")
    with pytest.raises(OutOfMemoryError):
        arena.allocate(ALIGNMENT, "public")
    with arena.lifetime("private"):
        again = arena.allocate(ALIGNMENT, "graph")
    assert again.address == middle_address
    everything.free()
    low.free()
    assert arena.stats().last_hole_bytes == TOTAL - 2 * ALIGNMENT, "what lies below all private memory is everybody's"


def test_trim_gives_up_the_end_but_for_what_is_to_be_kept() -> None:
    arena = imaginary_arena()
    held = arena.allocate(4 * ALIGNMENT, "weights")
    arena.trim(3 * ALIGNMENT - 1)
    assert arena.stats().total_bytes == 7 * ALIGNMENT
    arena.check_integrity()
    with arena.lifetime("private"):
        graph = arena.allocate(ALIGNMENT, "graph")
    arena.trim(0)
    assert arena.stats().total_bytes == 7 * ALIGNMENT, "private memory stays where it is"
    assert graph.address == held.address + 6 * ALIGNMENT


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
    assert table.count("| FREE |") == 2


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
