"""What is kept of the past: sites, stacks, steps, events, and the moments of the peak and of exhaustion."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rtp_core.errors import ConfigError, OutOfMemoryError
from rtp_core.memory import tracer as tracing
from rtp_core.memory.arena import Arena
from rtp_core.memory.snapshot import Snapshot
from rtp_core.memory.space import MemorySpace, Region
from rtp_core.memory.storage import Storage
from rtp_core.memory.tracer import TraceLevel, Tracer, check_level

UNIT = 64


@pytest.fixture
def arena() -> Arena:
    return Arena(Region(MemorySpace("imaginary:0", host_addressable=False), 1 << 40, 100 * UNIT))


def tags(arena: Arena, when: tracing.When) -> list[str]:
    """Of all that was held, in address order."""
    moment = arena.moment(when)
    assert moment is not None
    return [arena.tracer.sites[held.site].tag for _, held in sorted(moment.held.items())]


def test_the_peak_is_kept_as_it_was_however_much_comes_and_goes_after_it(arena: Arena) -> None:
    weights = arena.allocate(10 * UNIT, "weights")
    first, second = arena.allocate(30 * UNIT, "first"), arena.allocate(20 * UNIT, "second")
    del first
    third = arena.allocate(25 * UNIT, "third")  # five less than the peak
    assert tags(arena, "peak") == ["weights", "first", "second"]
    assert tags(arena, "now") == ["weights", "third", "second"]
    del second, third
    assert tags(arena, "peak") == ["weights", "first", "second"]
    fourth = arena.allocate(60 * UNIT, "fourth")
    assert tags(arena, "peak") == ["weights", "fourth"] == tags(arena, "now")
    del weights, fourth


def test_the_peak_is_the_highest_also_when_it_is_reached_in_a_rise_that_goes_on(arena: Arena) -> None:
    held = [arena.allocate(UNIT, f"rung {i}") for i in range(5)]
    held[2].free()
    held += [arena.allocate(2 * UNIT, "top")]
    assert len(tags(arena, "peak")) == 5
    assert "rung 2" not in tags(arena, "peak")


def test_exhaustion_is_a_moment_of_its_own_with_what_was_asked(arena: Arena) -> None:
    assert arena.moment("oom") is None
    weights = arena.allocate(90 * UNIT, "weights")
    with pytest.raises(OutOfMemoryError) as caught:
        arena.allocate(11 * UNIT, "logits")
    assert caught.value.arena is arena
    weights.free()
    moment = arena.moment("oom")
    assert moment is not None
    assert moment.asked == (11 * UNIT, "logits")
    assert tags(arena, "oom") == ["weights"]


def test_a_trace_is_a_tag_and_with_stacks_also_the_place_in_the_code(arena: Arena) -> None:
    def one() -> Storage:
        return arena.allocate(UNIT, "gemm")

    def other() -> Storage:
        return arena.allocate(UNIT, "gemm")

    held = [one(), other()]
    assert [site.tag for site in arena.tracer.sites] == ["gemm"]
    assert arena.tracer.sites[0].frames == ()
    arena.trace("stacks")
    for _ in range(3):  # one line, three times
        held += [one(), other()]
    sites = arena.tracer.sites[1:]
    assert [site.tag for site in sites] == ["gemm", "gemm"]
    assert [site.frames[0].function.rpartition(".")[2] for site in sites] == ["one", "other"]
    for site, function in zip(sites, (one, other), strict=True):
        assert site.frames[0].file == __file__
        assert site.frames[0].line == function.__code__.co_firstlineno + 1
        assert site.frames[1].function.startswith("test_a_trace_is")


def test_stacks_are_told_apart_up_to_the_frame_that_began_the_step_and_shown_whole(arena: Arena) -> None:
    def step(work: int) -> Storage:
        arena.begin_step("decode", {}, step.__code__)
        return arena.allocate(UNIT, f"work {work % 1}")

    def caller() -> Storage:
        return step(1)

    arena.trace("stacks")
    held = [step(0), caller()]
    assert len(arena.tracer.sites) == 1, "what is above the step is the same in every step"
    assert arena.tracer.sites[0].frames[0].function.endswith(".step")
    assert len(arena.tracer.sites[0].frames) > 3
    del held


def test_a_step_that_goes_as_the_last_one_did_is_not_walked_again_and_one_that_turns_off_is(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks: list[str] = []
    walk = Tracer._site_of_stack
    monkeypatch.setattr(Tracer, "_site_of_stack", lambda self, tag: (walks.append(tag), walk(self, tag))[1])

    def alloc(tag: str, units: int) -> Storage:  # what a device's alloc is between an op and the arena
        return arena.allocate(units * UNIT, tag)

    def op(tag: str, units: int = 1) -> Storage:
        return alloc(tag, units)

    def one(tag: str, units: int = 1) -> Storage:
        return op(tag, units)

    def step(*calls: Callable[[], Storage]) -> tuple[list[str], list[int]]:
        walks.clear()
        arena.begin_step("decode", {}, step.__code__)
        held = [call() for call in calls]
        moment = arena.moment("now")
        assert moment is not None
        sites = [moment.held[storage.address].site for storage in held]
        return [*walks], sites

    arena.trace("stacks")
    first = step(lambda: one("a"), lambda: one("b"), lambda: one("c"))
    assert first[0] == ["a", "b", "c"]
    calls = [lambda: one("a"), lambda: one("b"), lambda: one("c")]
    taught, again = step(*calls), step(*calls)
    assert again == ([], taught[1])
    assert step(*calls[:2]) == ([], taught[1][:2])
    assert step(*calls) == ([], taught[1]), "a shorter step forgets nothing"
    turned = step(calls[0], lambda: one("b", 2), calls[2])
    assert turned[0] == ["b", "c"]


def test_events_are_kept_from_the_first_on_and_what_was_there_before_opens_them(arena: Arena) -> None:
    before = arena.allocate(UNIT, "before")
    gone = arena.allocate(UNIT, "gone")
    del gone
    arena.trace("tags")
    during = arena.allocate(2 * UNIT, "during")
    address = during.address
    del during
    after = arena.allocate(2 * UNIT, "after")
    names = [(arena.tracer.sites[site].tag, nbytes) for _, _, nbytes, site in arena.tracer.events if nbytes]
    assert names == [("before", UNIT), ("during", 2 * UNIT), ("after", 2 * UNIT)]
    returned = [at for _, at, nbytes, _ in arena.tracer.events if nbytes == 0]
    assert returned == [address]
    times = [time for time, *_ in arena.tracer.events]
    assert times == sorted(times)
    arena.trace("off")
    count = len(arena.tracer.events)
    del before, after
    arena.stats()
    assert len(arena.tracer.events) == count


def test_the_ring_forgets_the_older_half_between_steps(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "MAX_EVENTS", 8)
    arena.trace("tags")
    held = [arena.allocate(UNIT, f"n{i}") for i in range(20)]
    assert len(arena.tracer.events) == 20 and not arena.tracer.has_dropped
    arena.begin_step("decode", {})
    assert [arena.tracer.sites[event.site].tag for event in arena.tracer.events] == ["n17", "n18", "n19"]
    assert arena.tracer.has_dropped
    arena.begin_step("decode", {})
    assert len(arena.tracer.events) == 3
    del held


def test_past_so_many_stacks_allocations_count_under_their_tag(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "MAX_SITES", 2)
    arena.trace("stacks")
    held = [arena.allocate(UNIT, "a"), arena.allocate(UNIT, "a"), arena.allocate(UNIT, "a"), arena.allocate(UNIT, "a")]
    held += [arena.allocate(UNIT, "a") for _ in range(5)]
    assert len(arena.tracer.sites) == 3
    assert arena.tracer.sites[2].path == ()
    assert {site.tag for site in arena.tracer.sites} == {"a"}
    del held


def test_allocations_belong_to_the_step_in_which_they_are_made(arena: Arena) -> None:
    weights = arena.allocate(UNIT, "weights")
    arena.begin_step("prefill", {"request-0": (3, 4)})
    hidden = arena.allocate(UNIT, "hidden")
    arena.begin_step("decode", {"request-0": (3, 4), "request-1": (5,)})
    moment = arena.moment("now")
    assert moment is not None
    assert [held.step for _, held in sorted(moment.held.items())] == [0, 1]
    assert [(step.number, step.phase, list(step.blocks)) for step in arena.tracer.steps] == [
        (0, "open", []),
        (1, "prefill", ["request-0"]),
        (2, "decode", ["request-0", "request-1"]),
    ]
    del weights, hidden


@pytest.mark.parametrize(("level", "kept"), [("off", 4), ("tags", 9)])
def test_steps_are_bounded_and_a_moment_keeps_its_step(
    level: TraceLevel, kept: int, arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "FEW_STEPS", 4)
    monkeypatch.setattr(tracing, "MAX_STEPS", 9)
    arena.trace(level)
    arena.begin_step("prefill", {"request-0": (1,)})
    highest = arena.allocate(50 * UNIT, "highest")
    del highest
    for step in range(20):
        arena.begin_step("decode", {"request-0": tuple(range(1, 2 + step // 10))})
    steps = list(arena.tracer.steps)
    assert [step.number for step in steps] == list(range(22 - kept, 22))
    peak = arena.moment("peak")
    assert peak is not None and (peak.step.number, peak.step.phase) == (1, "prefill")
    saved = Snapshot.of(arena)
    assert [step.number for step in saved.steps] == [1, *range(22 - kept, 22)]
    assert [step.blocks["request-0"] for step in saved.steps[:2]] == [(0, (1,)), (1, (2,))]


def test_levels_that_there_are_not_are_an_error() -> None:
    with pytest.raises(ConfigError, match="trace_memory is 'all': expected off, tags, stacks"):
        check_level("all")
