"""`rtp mem`: what a saved memory snapshot shows. Every command reads one file, or two."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rtp_core.cli.console import harmless, note, plain, write, write_file, write_json
from rtp_core.cli.group import command_group
from rtp_core.cli.options import Debug, Json, option
from rtp_core.errors import ConfigError

if TYPE_CHECKING:
    from rtp_core.memory.report.difference import Difference, DifferenceBeside
    from rtp_core.memory.report.memory_map import MemoryMap
    from rtp_core.memory.snapshot import Snapshot

app = command_group("Memory, as `rtp generate --trace-memory FILE` has recorded it.")

File = Annotated[str, typer.Argument(help="A memory snapshot.", show_default=False)]
At = Annotated[Literal["peak", "oom", "now"], option("--at", "The peak, when memory ran out, or the end.")]
Out = Annotated[str, typer.Option("-o", "--out", help="The file to write.", show_default=False)]


@app.command("map")
def show_map(file: File, at: At = "peak", as_json: Json = False, debug: Debug = False) -> None:
    """Every range of a device's memory in address order, its layout, totals per tag, and the largest holes."""
    from rtp_core.memory.report.as_text import as_text
    from rtp_core.memory.report.memory_map import MemoryMap

    found = MemoryMap.of(_read(file), at)
    if as_json:
        write_json(_map_document(found))
    else:
        write(harmless(as_text(found, shutil.get_terminal_size((100, 24)).columns)) + "\n")


@app.command("trace")
def show_trace(
    trace: Annotated[int, typer.Argument(help="A number of the column TRACE.", show_default=False)],
    file: File,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Where in the code the allocations of one trace come from, and what they took."""
    snapshot = _read(file)
    if not 0 <= trace < len(snapshot.traces):
        raise ConfigError(
            f"no trace {trace}",
            where=file,
            why=f"there are 0 to {len(snapshot.traces) - 1}" if snapshot.traces else "there are none",
            hint=f"rtp mem map {file}",
        )
    facts = _trace_document(snapshot, trace)
    if as_json:
        write_json(facts)
    else:
        write("\n".join(_trace_lines(facts)) + "\n")


@app.command("diff")
def diff(
    before: Annotated[str, typer.Argument(help="A memory snapshot.", show_default=False)],
    after: Annotated[str, typer.Argument(help="Another one.", show_default=False)],
    at: At = "peak",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """What is new, gone, grown or shrunk from one snapshot to another, by tag and stack."""
    from rtp_core.memory.report.difference import differences, differences_beside

    snapshots = _read(before), _read(after)
    found, beside = differences(*snapshots, at), differences_beside(*snapshots)
    if as_json:
        rows = [{"change": d.change, **_difference(d)} for d in found]
        write_json({"at": at, "differences": rows, "beside": [asdict(d) for d in beside]})
    else:
        write("\n".join(_difference_lines(found) + _beside_lines(beside)) + "\n")


@app.command("html")
def html(file: File, out: Out, debug: Debug = False) -> None:
    """One page that needs no network: address against time, stacks on hover, KV blocks, search."""
    from rtp_core.memory.report.page import memory_page

    write_file(out, memory_page(_read(file)))
    note(f"open {Path(out).resolve().as_uri()} in a browser")


@app.command("perfetto")
def perfetto(file: File, out: Out, debug: Debug = False) -> None:
    """A trace that ui.perfetto.dev opens: steps, allocations with their stacks, bytes per tag."""
    from rtp_core.memory.report.perfetto import perfetto_trace

    write_file(out, json.dumps(perfetto_trace(_read(file))))
    note("open it at https://ui.perfetto.dev")


def _read(file: str) -> Snapshot:
    from rtp_core.memory.snapshot import Snapshot

    return Snapshot.read(file)


def _map_document(found: MemoryMap) -> dict[str, Any]:
    return {
        "device": found.device,
        "model": found.model,
        "at": found.at,
        "time_s": found.time_ns / 1e9,
        "step": None if found.step is None else found.step.number,
        "phase": None if found.step is None else found.step.phase,
        "requests": [] if found.step is None else list(found.step.blocks),
        "asked": None if found.asked is None else {"bytes": found.asked[0], "tag": found.asked[1]},
        "start": found.start,
        "total_bytes": found.total_bytes,
        "used_bytes": found.used_bytes,
        "free_bytes": found.free_bytes,
        "largest_hole_bytes": found.largest_hole_bytes,
        "fragmented_bytes": found.fragmented_bytes,
        "rows": [
            {
                "address": r.address,
                "bytes": r.nbytes,
                "avail": "FREE" if r.tag is None else "USED",
                "trace": r.trace,
                "tag": r.tag,
                "lifetime": r.lifetime,
            }
            for r in found.ranges
        ],
        "tags": [{"tag": t.tag, "bytes": t.nbytes, "count": t.count, "largest_bytes": t.largest} for t in found.totals],
        "holes": [{"address": h.address, "bytes": h.nbytes, "before": h.before, "after": h.after} for h in found.holes],
        "table": found.table,
        "beside": dict(found.beside),
    }


def _trace_document(snapshot: Snapshot, trace: int) -> dict[str, Any]:
    made = [event for event in snapshot.events if event[2] and event[3] == trace]
    return {
        "trace": trace,
        "tag": snapshot.traces[trace].tag,
        "stack": [frame._asdict() for frame in snapshot.frames_of(trace)],
        "recorded": {
            "allocations": len(made),
            "bytes": sum(event[2] for event in made),
            "largest_bytes": max((event[2] for event in made), default=0),
        },
        "held": {
            when: {
                "allocations": sum(row[2] == trace for row in moment.held),
                "bytes": sum(row[1] for row in moment.held if row[2] == trace),
            }
            for when, moment in snapshot.moments.items()
        },
    }


def _trace_lines(facts: dict[str, Any]) -> list[str]:
    from rtp_core.memory.budget import format_bytes

    lines = [f"trace {facts['trace']}: {plain(facts['tag'])}"]
    recorded = facts["recorded"]
    if recorded["allocations"]:
        lines.append(
            f"  {recorded['allocations']} allocations, the largest of {format_bytes(recorded['largest_bytes'])}"
        )
    for when, held in facts["held"].items():
        lines.append(f"  held ({when}): {format_bytes(held['bytes'])} in {held['allocations']}")
    lines += [f"    {plain(f['function'])}  {plain(f['file'])}:{f['line']}" for f in facts["stack"]]
    if not facts["stack"]:
        lines.append("  no stack was kept (rtp generate --trace-memory FILE keeps them)")
    return lines


def _difference(found: Difference) -> dict[str, Any]:
    return {**asdict(found), "frames": [frame._asdict() for frame in found.frames]}


def _difference_lines(found: list[Difference]) -> list[str]:
    from rtp_core.cli.lines import as_columns
    from rtp_core.memory.budget import format_bytes

    if not found:
        return ["no difference"]
    rows = [["CHANGE", "TAG", "BEFORE", "AFTER", "FROM"]]
    for d in found:
        inner = d.frames[1] if len(d.frames) > 1 else None
        where = "" if inner is None else f"{inner.function} {inner.file}:{inner.line}"
        before, after = (
            f"{format_bytes(nbytes)} in {count}"
            for nbytes, count in ((d.bytes_before, d.count_before), (d.bytes_after, d.count_after))
        )
        rows.append([d.change, plain(d.tag), before, after, plain(where)])
    return as_columns(rows).splitlines()


def _beside_lines(found: list[DifferenceBeside]) -> list[str]:
    from rtp_core.memory.budget import format_bytes

    return [
        f"beside the arena at the end: {plain(d.holder)}, {format_bytes(d.bytes_before)} before and "
        f"{format_bytes(d.bytes_after)} after"
        for d in found
    ]
