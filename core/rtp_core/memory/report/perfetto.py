"""A snapshot as a trace that Perfetto and other viewers of Chrome's trace events open.

Source: the Trace Event Format (JSON object form): "X" complete, "b"/"e" nestable async, "C" counter, "i" instant.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from rtp_core.memory.snapshot import Snapshot
from rtp_core.memory.table import held_beside

_PROCESS, _STEPS, _MOMENTS = 1, 1, 2


def perfetto_trace(snapshot: Snapshot) -> dict[str, Any]:
    """Steps as slices, allocations as async slices with their stacks, bytes per tag as counters. Times in us."""
    return {
        "displayTimeUnit": "ms",
        "otherData": {
            "device": snapshot.device,
            "model": snapshot.model or "",
            "beside the arena": held_beside(snapshot.beside),
        },
        "traceEvents": [
            _named("process_name", f"memory of {snapshot.device}"),
            _named("thread_name", "steps", _STEPS),
            _named("thread_name", "moments", _MOMENTS),
            *_steps(snapshot),
            *_allocations(snapshot),
            *_moments(snapshot),
        ],
    }


def _named(what: str, name: str, thread: int = 0) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": _PROCESS, "tid": thread, "args": {"name": name}}


def _steps(snapshot: Snapshot) -> list[dict[str, Any]]:
    ends = [step.time_ns for step in snapshot.steps[1:]] + [_end(snapshot)]
    return [
        {
            "ph": "X",
            "name": step.phase,
            "cat": "step",
            "ts": step.time_ns / 1e3,
            "dur": max(0, end - step.time_ns) / 1e3,
            "pid": _PROCESS,
            "tid": _STEPS,
            "args": {"step": step.number, "requests": ", ".join(step.blocks)},
        }
        for step, end in zip(snapshot.steps, ends, strict=True)
    ]


def _allocations(snapshot: Snapshot) -> list[dict[str, Any]]:
    """A return whose allocation the ring has lost is left out: nobody knows what it was."""
    found: list[dict[str, Any]] = []
    held: dict[int, tuple[int, int, int]] = {}  # address -> (id, bytes, trace)
    totals = Counter[str]()
    for number, (time_ns, address, nbytes, trace) in enumerate(snapshot.events):
        if nbytes:
            held[address] = number, nbytes, trace
        elif address not in held:
            continue
        identity, size, origin = held[address] if nbytes else held.pop(address)
        tag = snapshot.traces[origin].tag
        totals[tag] += size if nbytes else -size
        event: dict[str, Any] = {
            "ph": "b" if nbytes else "e",
            "cat": "allocation",
            "id": identity,
            "name": tag,
            "ts": time_ns / 1e3,
            "pid": _PROCESS,
            "tid": 0,
        }
        if nbytes:
            stack = [f"{f.function} ({f.file}:{f.line})" for f in snapshot.frames_of(origin)]
            event["args"] = {"address": hex(address), "bytes": size, "trace": origin, "stack": "\n".join(stack)}
        found.append(event)
        found.append(
            {"ph": "C", "name": f"bytes {tag}", "ts": time_ns / 1e3, "pid": _PROCESS, "args": {"bytes": totals[tag]}}
        )
    return found


def _moments(snapshot: Snapshot) -> list[dict[str, Any]]:
    return [
        {
            "ph": "i",
            "s": "p",
            "name": "out of memory" if when == "oom" else "peak",
            "ts": moment.time_ns / 1e3,
            "pid": _PROCESS,
            "tid": _MOMENTS,
            "args": {"used_bytes": moment.used_bytes},
        }
        for when, moment in snapshot.moments.items()
        if when != "now"
    ]


def _end(snapshot: Snapshot) -> int:
    last_event = snapshot.events[-1][0] if snapshot.events else 0
    return max([last_event, *(moment.time_ns for moment in snapshot.moments.values())])
