"""What the memory page is made of: spans out of events, text that stays text, and a policy that lets nothing in."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import pytest

from rtp_core.errors import OutOfMemoryError
from rtp_core.memory.arena import Arena
from rtp_core.memory.report.page import Span, memory_page, spans
from rtp_core.memory.snapshot import SavedMoment, SavedSite, Snapshot
from rtp_core.memory.space import MemorySpace, Region

START, UNIT = 1 << 44, 64


def told(*events: tuple[int, int, int, int], now: tuple[tuple[int, int, int], ...] = ()) -> Snapshot:
    """Events of (time, units from the start, units, trace), and what is held after them, of (units, units, trace)."""
    held = tuple((START + at * UNIT, size * UNIT, trace, 0, "public") for at, size, trace in now)
    return Snapshot(
        device="acme:0",
        start=START,
        end=START + 100 * UNIT,
        alignment=UNIT,
        level="tags",
        frames=(),
        traces=tuple(SavedSite(tag=tag) for tag in ("a", "b", "c")),
        moments={"now": SavedMoment(time_ns=1000, step=0, held=held)},
        steps=(),
        events=tuple((time, START + at * UNIT, size * UNIT, trace) for time, at, size, trace in events),
    )


def spans_of(snapshot: Snapshot) -> list[tuple[int, int, int, int, int | None]]:
    return [(s.offset // UNIT, s.nbytes // UNIT, s.trace, s.begin_ns, s.end_ns) for s in spans(snapshot)]


def test_a_span_goes_from_an_allocation_to_its_return_or_to_the_last() -> None:
    snapshot = told((1, 0, 4, 0), (2, 4, 2, 1), (5, 4, 0, 0), (6, 4, 3, 2), now=((0, 4, 0), (4, 3, 2)))
    assert spans_of(snapshot) == [(0, 4, 0, 1, None), (4, 2, 1, 2, 5), (4, 3, 2, 6, None)]
    assert spans(snapshot)[0] == Span(0, 4 * UNIT, 0, 1, None, "public")
    assert spans(snapshot)[1].lifetime is None, "no moment saw it"


def test_what_began_before_the_first_event_is_left_out_where_it_ends_and_begins_with_it_where_it_stays() -> None:
    snapshot = told((7, 50, 0, 0), (8, 0, 4, 0), now=((0, 4, 0), (60, 2, 1)))
    assert spans_of(snapshot) == [(60, 2, 1, 7, None), (0, 4, 0, 8, None)]


def test_no_two_spans_hold_the_same_bytes_at_one_time_whatever_the_events_say() -> None:
    snapshot = told((1, 0, 10, 0), (2, 5, 10, 1), (3, 0, 0, 0), (4, 2, 4, 2), now=((2, 4, 2),))
    for i, one in enumerate(found := spans(snapshot)):
        for other in found[i + 1 :]:
            apart_in_place = one.offset + one.nbytes <= other.offset or other.offset + other.nbytes <= one.offset
            ends = [1 << 62 if end is None else end for end in (one.end_ns, other.end_ns)]
            assert apart_in_place or ends[0] <= other.begin_ns or ends[1] <= one.begin_ns


def test_the_spans_of_a_real_arena_hold_at_every_moment_what_the_arena_held() -> None:
    arena = Arena(Region(MemorySpace("acme:0", host_addressable=False), START, 100 * UNIT), name="acme:0")
    arena.trace("tags")
    kept = [arena.allocate(3 * UNIT, "weights")]
    for size in (5, 9, 2, 9):
        temporary = arena.allocate(size * UNIT, "step")
        kept.append(arena.allocate(UNIT, "kept"))
        del temporary
    with pytest.raises(OutOfMemoryError):
        arena.allocate(1000 * UNIT, "too much")
    snapshot = Snapshot.of(arena)
    for moment in snapshot.moments.values():
        at = moment.time_ns
        alive = {s.offset + START for s in spans(snapshot) if s.begin_ns <= at and (s.end_ns is None or at < s.end_ns)}
        assert alive == {row[0] for row in moment.held}
    del kept


def test_without_events_there_are_no_spans() -> None:
    assert spans(told(now=((0, 1, 0),))) == []


HOSTILE = ("</script><img src=x onerror=alert(1)>", "<b>&amp;\u2028\u202e\x00", "'\"`${x}", "$title $data")


def test_text_of_a_snapshot_never_ends_its_script_and_never_becomes_markup() -> None:
    snapshot = told((1, 0, 1, 0)).model_copy(
        update={
            "device": HOSTILE[1],
            "model": HOSTILE[0],
            "traces": tuple(SavedSite(tag=tag) for tag in HOSTILE),
            "beside": {HOSTILE[0]: 7},
        }
    )
    page = memory_page(snapshot)
    page.encode("utf-8")
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert len(found) == 1
    data = json.loads(found[0])
    assert "<" not in found[0] and data["tags"][0] == HOSTILE[0] and data["tags"][3] == HOSTILE[3]
    assert data["beside"] == [[HOSTILE[0], 7]]
    assert data["tags"][1] == "<b>&amp;\\u2028\\u202e\\x00", "what cannot be printed is written as an escape"
    assert "<img" not in page and "<b>&amp;\u2028" not in page


def test_the_policy_lets_through_the_pages_own_script_and_style_and_nothing_else() -> None:
    page = memory_page(told())
    policy = re.findall(r'http-equiv="Content-Security-Policy" content="(.*?)"', page)[0]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    for element, directive in (("script", "script-src"), ("style", "style-src")):
        (body,) = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    assert not re.findall(r'(?:src|href)="', page)
