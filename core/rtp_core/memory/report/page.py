"""The page: a memory snapshot as one HTML file, which needs no network, no server and no other file.

Nothing of a snapshot is trusted to be markup: it travels as JSON in which no tag can end, its strings without anything
that is not printable, and the page may run no script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from bisect import bisect_left, insort
from collections.abc import Iterable
from importlib.resources import files
from string import Template
from typing import Any, NamedTuple, get_args

from rtp_core.memory.snapshot import SavedMoment, Snapshot
from rtp_core.memory.tracer import Lifetime

_SCRIPTS = ("page_data.js", "page_timeline.js", "page_panels.js", "page.js")
_LIFETIMES: tuple[Lifetime, ...] = get_args(Lifetime)


class Span(NamedTuple):
    """One allocation over time. `offset` is from the start of the region; `end_ns` None: held to the last.

    `lifetime` None: not known, as events do not say.
    """

    offset: int
    nbytes: int
    trace: int
    begin_ns: int
    end_ns: int | None
    lifetime: Lifetime | None = None


def memory_page(snapshot: Snapshot) -> str:
    """The whole page. Write it as UTF-8."""
    style, script = _part("page.css"), "\n".join(map(_part, _SCRIPTS))
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'"
    title = f"Memory of {snapshot.device}" + (f" ({snapshot.model})" if snapshot.model else "")
    return Template(_part("page.html")).substitute(
        policy=policy, title=html.escape(_printable(title)), style=style, script=script, data=_json(_data(snapshot))
    )


def spans(snapshot: Snapshot) -> list[Span]:
    """What the events tell, by beginning. No two of the spans overlap in both time and address.

    An allocation whose beginning was dropped is left out where it was returned, and where it is still held it begins
    with the first event.
    """
    if not snapshot.events:
        return []
    now = snapshot.moments.get("now")
    held = {} if now is None else now.by_address()
    last_ns = max(snapshot.events[-1][0], 0 if now is None else now.time_ns)
    open_spans = _Open(snapshot.start)
    done: list[Span] = []
    for time_ns, address, nbytes, trace in snapshot.events:
        if not nbytes:
            done += open_spans.end(address, address + 1, time_ns)
        elif open_spans.find(address) != (nbytes, trace):  # else it is told again, as where tracing begins anew
            done += open_spans.end(address, address + nbytes, time_ns)  # their returns went untraced
            open_spans.begin(address, nbytes, trace, time_ns)
    for address in list(open_spans.addresses):
        if now is not None and address not in held:
            done += open_spans.end(address, address + 1, last_ns)
    for address, row in held.items():
        if not open_spans.overlaps(address, address + row.nbytes):
            open_spans.begin(address, row.nbytes, row.site, snapshot.events[0][0])
    done += open_spans.rest()
    known = [(moment.time_ns, moment.by_address()) for moment in snapshot.moments.values()]
    return sorted((_with_lifetime(span, snapshot.start, known) for span in done), key=lambda span: span.begin_ns)


class _Open:
    """The allocations that have begun and not ended, by address."""

    def __init__(self, start: int) -> None:
        self.addresses: list[int] = []
        self._start = start
        self._begun: dict[int, tuple[int, int, int]] = {}  # address -> (bytes, trace, time)

    def find(self, address: int) -> tuple[int, int] | None:
        """(bytes, trace) of what begins there."""
        found = self._begun.get(address)
        return None if found is None else found[:2]

    def begin(self, address: int, nbytes: int, trace: int, time_ns: int) -> None:
        insort(self.addresses, address)
        self._begun[address] = nbytes, trace, time_ns

    def overlaps(self, start: int, end: int) -> list[int]:
        """Addresses of what has a byte in [start, end)."""
        first = bisect_left(self.addresses, start)
        if first and self.addresses[first - 1] + self._begun[self.addresses[first - 1]][0] > start:
            first -= 1
        return self.addresses[first : bisect_left(self.addresses, end)]

    def end(self, start: int, end: int, time_ns: int) -> list[Span]:
        """The spans of what has a byte in [start, end), which ends now."""
        ended = []
        for address in self.overlaps(start, end):
            del self.addresses[bisect_left(self.addresses, address)]
            nbytes, trace, begin_ns = self._begun.pop(address)
            ended.append(Span(address - self._start, nbytes, trace, begin_ns, time_ns))
        return ended

    def rest(self) -> Iterable[Span]:
        for address, (nbytes, trace, begin_ns) in self._begun.items():
            yield Span(address - self._start, nbytes, trace, begin_ns, None)


def _with_lifetime(span: Span, start: int, known: Iterable[tuple[int, Any]]) -> Span:
    """A moment in which the span was held knows its lifetime."""
    for time_ns, held in known:
        row = held.get(start + span.offset)
        if row is None or row[:2] != (span.nbytes, span.trace):
            continue
        if span.begin_ns <= time_ns and (span.end_ns is None or time_ns <= span.end_ns):
            return span._replace(lifetime=row.lifetime)
    return span


# -- what the page gets ------------------------------------------------------------------------------------------


def _data(snapshot: Snapshot) -> dict[str, Any]:
    """Names become numbers wherever they come often; what there are many of comes as columns."""
    tags = {trace.tag: 0 for trace in snapshot.traces}
    tags = {tag: number for number, tag in enumerate(tags)}
    requests = {request: 0 for step in snapshot.steps for request in step.blocks}
    requests = {request: number for number, request in enumerate(requests)}
    return {
        "device": _printable(snapshot.device),
        "model": _printable(snapshot.model or ""),
        "start": hex(snapshot.start),
        "bytes": snapshot.end - snapshot.start,
        "level": snapshot.level,
        "dropped": snapshot.has_dropped,
        "tags": [_printable(tag) for tag in tags],
        "frames": [(_printable(file), line, _printable(function)) for file, line, function in snapshot.frames],
        "traces": [(tags[trace.tag], trace.frames) for trace in snapshot.traces],
        "lifetimes": _LIFETIMES,
        "spans": _columns(spans(snapshot)),
        "moments": {when: _moment(moment, snapshot.start) for when, moment in snapshot.moments.items()},
        "requests": [_printable(request) for request in requests],
        "steps": [
            (
                step.number,
                _printable(step.phase),
                step.time_ns,
                [(requests[request], kept, ids) for request, (kept, ids) in step.blocks.items()],
            )
            for step in snapshot.steps
        ],
        "kv": None
        if snapshot.kv is None
        else {
            "offset": snapshot.kv.address - snapshot.start,
            "blocks": snapshot.kv.num_blocks,
            "bytes": snapshot.kv.block_nbytes,
            "tokens": snapshot.kv.block_size,
        },
        "beside": [(_printable(holder), nbytes) for holder, nbytes in snapshot.beside.items()],
    }


def _columns(rows: list[Span]) -> dict[str, list[int | None]]:
    return {
        "offset": [span.offset for span in rows],
        "bytes": [span.nbytes for span in rows],
        "trace": [span.trace for span in rows],
        "begin": [span.begin_ns for span in rows],
        "end": [span.end_ns for span in rows],
        "lifetime": [None if span.lifetime is None else _LIFETIMES.index(span.lifetime) for span in rows],
    }


def _moment(moment: SavedMoment, start: int) -> dict[str, Any]:
    asked = moment.asked
    return {
        "time": moment.time_ns,
        "step": moment.step,
        "held": [
            (address - start, nbytes, trace, step, _LIFETIMES.index(lifetime))
            for address, nbytes, trace, step, lifetime in moment.held
        ],
        "asked": None if asked is None else (asked[0], _printable(asked[1])),
    }


def _printable(text: str) -> str:
    """Controls, line separators, what turns the direction of writing and lone surrogates, as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _json(document: dict[str, Any]) -> str:
    """JSON in ASCII that can stand in a script element: `<` begins neither its end nor a comment."""
    return json.dumps(document, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _part(name: str) -> str:
    return files("rtp_core.memory.report").joinpath(name).read_text(encoding="utf-8").strip("\n")


def _hash(text: str) -> str:
    """As a content security policy names the one inline script or style that it lets through."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
