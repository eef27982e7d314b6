"""Maps, differences and Perfetto traces of a snapshot."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from rtp_core.errors import ConfigError, OutOfMemoryError
from rtp_core.memory.arena import Arena
from rtp_core.memory.report.as_text import as_text, layout_bar
from rtp_core.memory.report.difference import DifferenceBeside, differences, differences_beside
from rtp_core.memory.report.memory_map import Hole, MemoryMap, TagTotal
from rtp_core.memory.report.perfetto import perfetto_trace
from rtp_core.memory.snapshot import Snapshot
from rtp_core.memory.space import MemorySpace, Region

UNIT = 64
BASE = 0x7F0000000000


def new_arena() -> Arena:
    return Arena(Region(MemorySpace("acme:0", host_addressable=False), BASE, 100 * UNIT), name="acme:0")


@pytest.fixture
def snapshot() -> Snapshot:
    """At the peak: weights 40, a hole of 10, kv 20, hidden 10; 15 free, scratch 5 at the far end. Then hidden goes."""
    arena = new_arena()
    arena.trace("tags")
    with arena.lifetime("persistent"):
        weights, gone = arena.allocate(40 * UNIT, "weights"), arena.allocate(10 * UNIT, "gone")
        cache = arena.allocate(20 * UNIT, "kv_cache")
    with arena.lifetime("private"):
        scratch = arena.allocate(5 * UNIT, "scratch")
    gone.free()
    arena.begin_step("decode", {"request-0": (1, 2)})
    small = arena.allocate(10 * UNIT, "small")  # into the hole
    hidden = arena.allocate(10 * UNIT, "hidden")
    small.free()
    with pytest.raises(OutOfMemoryError):
        arena.allocate(99 * UNIT, "logits")
    hidden.free()
    found = Snapshot.of(arena, model="acme-7b")
    del weights, cache, scratch
    return found


def test_a_map_tiles_the_region_and_adds_up(snapshot: Snapshot) -> None:
    found = MemoryMap.of(snapshot, "oom")
    layout = [((r.address - BASE) // UNIT, r.nbytes // UNIT, r.tag) for r in found.ranges]
    assert layout == [
        (0, 40, "weights"),
        (40, 10, None),
        (50, 20, "kv_cache"),
        (70, 10, "hidden"),
        (80, 15, None),
        (95, 5, "scratch"),
    ]
    assert (found.total_bytes, found.used_bytes) == (100 * UNIT, 75 * UNIT)
    assert found.largest_hole_bytes == 15 * UNIT
    assert found.fragmented_bytes == 10 * UNIT, "what is free, but not where private memory begins"
    assert found.totals[0] == TagTotal("weights", 40 * UNIT, 1, 40 * UNIT)
    assert found.holes == [
        Hole(BASE + 80 * UNIT, 15 * UNIT, "hidden", "scratch"),
        Hole(BASE + 40 * UNIT, 10 * UNIT, "weights", "kv_cache"),
    ]
    assert found.asked == (99 * UNIT, "logits")
    assert found.step is not None and list(found.step.blocks) == ["request-0"]


def test_the_peak_is_what_a_map_shows_by_default(snapshot: Snapshot) -> None:
    assert MemoryMap.of(snapshot).used_bytes == 85 * UNIT
    assert MemoryMap.of(snapshot, "now").used_bytes == 65 * UNIT


def test_a_moment_that_never_was_is_one_error() -> None:
    with pytest.raises(ConfigError, match=r"no moment 'oom' in the snapshot: memory never ran out \(--at peak\)"):
        MemoryMap.of(Snapshot.of(new_arena()), "oom")


def test_the_layout_bar_shows_shares_in_order(snapshot: Snapshot) -> None:
    found = MemoryMap.of(snapshot, "oom")
    letters = {"weights": "w", "kv_cache": "k", "hidden": "h", "scratch": "s"}
    assert layout_bar(found, letters, 22) == "[wwwwwwww..kkkkhh...s]"
    assert layout_bar(found, {}, 22) == "[********..******...*]"
    assert len(layout_bar(found, letters, 1)) == 22, "a terminal of one column is not believed"


def test_the_text_has_header_table_bar_totals_and_holes(snapshot: Snapshot) -> None:
    text = as_text(MemoryMap.of(snapshot, "oom"))
    assert "acme:0 acme-7b when it ran out: " in text
    assert "step 1 (decode of request-0)" in text
    assert "fragmented 640 B (40.0 % of what is free)" in text
    assert f"there was no room for {99 * UNIT} bytes of 'logits'" in text
    assert "|        ADDR |         size (     hex) | AVAIL| TRACE|              TAG |" in text
    assert "after weights, before kv_cache" in text


def held(*sizes: tuple[str, int]) -> Snapshot:
    arena = new_arena()
    storages = [arena.allocate(units * UNIT, tag) for tag, units in sizes]
    found = Snapshot.of(arena)
    del storages
    return found


def test_a_difference_names_what_is_new_gone_grown_and_shrunk() -> None:
    before = held(("same", 5), ("grows", 1), ("shrinks", 9), ("goes", 4))
    after = held(("same", 5), ("grows", 7), ("grows", 1), ("shrinks", 8), ("comes", 2))
    found = {d.tag: d for d in differences(before, after, "now")}
    assert {tag: d.change for tag, d in found.items()} == {
        "grows": "grown",
        "goes": "gone",
        "comes": "new",
        "shrinks": "shrunk",
    }
    assert [d.tag for d in differences(before, after, "now")] == ["grows", "goes", "comes", "shrinks"]
    assert (found["grows"].bytes_before, found["grows"].bytes_after) == (UNIT, 8 * UNIT)
    assert (found["grows"].count_before, found["grows"].count_after) == (1, 2)
    assert differences(before, before) == []


def test_one_tag_from_two_places_is_two_rows_of_a_difference() -> None:
    def one(arena: Arena) -> Any:
        return arena.allocate(UNIT, "gemm")

    def other(arena: Arena) -> Any:
        return arena.allocate(UNIT, "gemm")

    first, second = new_arena(), new_arena()
    first.trace("stacks"), second.trace("stacks")
    storages = [make(first) for make in (one,)] + [make(second) for make in (other,)]
    changes = {
        d.frames[0].function.rpartition(".")[2]: d.change for d in differences(*map(Snapshot.of, (first, second)))
    }
    assert changes == {"one": "gone", "other": "new"}
    del storages


def test_a_perfetto_trace_has_a_slice_for_every_allocation_and_counters_that_add_up(snapshot: Snapshot) -> None:
    trace = perfetto_trace(snapshot)
    events = trace["traceEvents"]
    phases = Counter(event["ph"] for event in events)
    begun = {event["id"]: event for event in events if event["ph"] == "b"}
    ended = {event["id"] for event in events if event["ph"] == "e"}
    assert {event["name"] for event in begun.values()} == {"weights", "gone", "kv_cache", "scratch", "small", "hidden"}
    assert {begun[identity]["name"] for identity in ended} == {"gone", "small", "hidden"}
    assert phases["C"] == phases["b"] + phases["e"]
    last = {event["name"]: event["args"]["bytes"] for event in events if event["ph"] == "C"}
    assert last["bytes weights"] == 40 * UNIT and last["bytes hidden"] == 0
    steps = [event for event in events if event["ph"] == "X"]
    assert [step["name"] for step in steps] == ["open", "decode"]
    assert all(step["dur"] >= 0 for step in steps) and steps[1]["args"]["requests"] == "request-0"
    assert {event["name"] for event in events if event["ph"] == "i"} == {"peak", "out of memory"}
    times = [event["ts"] for event in events if event["ph"] in "be"]
    assert times == sorted(times)


def test_what_is_held_beside_the_arena_stands_below_its_table_and_in_a_trace() -> None:
    arena = new_arena()
    kept = arena.allocate(UNIT, "weights")
    found = Snapshot.of(arena, beside={"libacme": 3 << 20, "graphs": 0})
    table = arena.table()
    assert f"{table}\nbeside the arena at the end: libacme 3.0 MiB, graphs 0 B\n" in as_text(MemoryMap.of(found))
    assert MemoryMap.of(found).table == table, "which is RTP-LLM's"
    assert perfetto_trace(found)["otherData"]["beside the arena"] == "libacme 3.0 MiB, graphs 0 B"
    assert "beside" not in as_text(MemoryMap.of(Snapshot.of(arena))), "nothing is said where nothing is known"
    del kept


def test_a_difference_beside_the_arena_is_told_by_holder() -> None:
    before, after = (
        Snapshot.of(new_arena(), beside=beside) for beside in ({"same": 1, "gone": 2}, {"same": 1, "new": 3})
    )
    assert differences_beside(before, after) == [DifferenceBeside("gone", 2, 0), DifferenceBeside("new", 0, 3)]
    assert differences_beside(before, before) == []
