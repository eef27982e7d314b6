"""RTP-LLM's table of device memory: every range in address order, held or free, with its trace and its tag."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rtp_core.memory.budget import format_bytes
from rtp_core.memory.tracer import Held, Site

HEADER = "|        ADDR |         size (     hex) | AVAIL| TRACE|              TAG |"
_LINE = "-" * len(HEADER)


def memory_table(name: str, span: tuple[int, int], held: Mapping[int, Held], sites: Sequence[Site]) -> str:
    """The table of what was `held`, by address, in the region [start, end) of `name`.

    Source: the columns of RTP-LLM's memory tracker, and its status lines. Its fragments are the holes but the last one.
    """
    rows: list[str] = []
    fragments: list[int] = []
    last_hole = 0
    for address, nbytes, site in ranges(span, held):
        if site is None:
            rows.append(f"| {address:#x} | {nbytes:>12} ({nbytes:>8x}) | FREE |      |                  |")
            fragments += [last_hole] if last_hole else []
            last_hole = nbytes
        else:
            rows.append(f"| {address:#x} | {nbytes:>12} ({nbytes:>8x}) | USED | {site:>4} | {sites[site].tag:>16} |")
    used = sum(h.nbytes for h in held.values())
    return "\n".join(
        [
            f"Memory Tracker [{name}] Status:",
            f"allocated {len(held)} chunks, size: {used}",
            f"available {span[1] - span[0] - used} bytes, with {len(fragments)} fragments of size: {sum(fragments)}",
            _LINE,
            HEADER,
            _LINE,
            *rows,
            _LINE,
        ]
    )


def ranges(span: tuple[int, int], held: Mapping[int, Held]) -> Iterator[tuple[int, int, int | None]]:
    """(address, bytes, site) of every range in address order; the site of a free one is None."""
    at = span[0]
    for address in sorted(held):
        if address > at:
            yield at, address - at, None
        yield address, held[address].nbytes, held[address].site
        at = address + held[address].nbytes
    if at < span[1]:
        yield at, span[1] - at, None


def held_beside(beside: Mapping[str, int]) -> str:
    """What a device's libraries hold beside its arena, in one line; empty where they hold nothing that is known."""
    return ", ".join(f"{holder} {format_bytes(nbytes)}" for holder, nbytes in beside.items())


def with_beside(table: str, beside: Mapping[str, int]) -> str:
    """The table of an arena, and below it what is held beside that."""
    return f"{table}\nbeside the arena: {held_beside(beside)}" if beside else table
