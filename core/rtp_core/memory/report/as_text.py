"""A memory map for a terminal: the header, RTP-LLM's table, the layout as a bar, totals per tag, the largest holes."""

from __future__ import annotations

from string import ascii_letters

from rtp_core.memory.budget import format_bytes
from rtp_core.memory.report.memory_map import MemoryMap
from rtp_core.memory.table import held_beside

_MIN_WIDTH, _MAX_TAGS = 20, 20
_REST = "*"  # what stands for tags that have no letter


def as_text(found: MemoryMap, width: int = 100) -> str:
    """Several lines of at most about `width` characters; the table is as wide as it is."""
    letters = dict(zip((total.tag for total in found.totals), ascii_letters, strict=False))
    return "\n".join(
        [
            *_header(found),
            "",
            found.table,
            *([f"beside the arena at the end: {held_beside(found.beside)}"] if found.beside else []),
            "",
            layout_bar(found, letters, width),
            "",
            *_totals(found, letters),
            *_holes(found),
        ]
    )


def layout_bar(found: MemoryMap, letters: dict[str, str], width: int) -> str:
    """The region from start to end: each character stands for as many bytes, and for what holds the most of them."""
    cells = max(_MIN_WIDTH, width - 2)
    shares: list[dict[str, float]] = [{} for _ in range(cells)]
    scale = cells / found.total_bytes
    for r in found.ranges:
        symbol = "." if r.tag is None else letters.get(r.tag, _REST)
        first, last = (r.address - found.start) * scale, (r.address - found.start + r.nbytes) * scale
        for cell in range(int(first), min(cells, int(last) + 1)):
            share = min(last, cell + 1) - max(first, cell)
            shares[cell][symbol] = shares[cell].get(symbol, 0.0) + share
    return "[" + "".join(max(share, key=lambda symbol: share[symbol]) for share in shares) + "]"


def _header(found: MemoryMap) -> list[str]:
    title = " ".join(filter(None, (found.device, found.model)))
    when = {"peak": "at its peak", "oom": "when it ran out", "now": "at the end"}[found.at]
    step = ""
    if found.step is not None:
        requests = ", ".join(found.step.blocks)
        step = f", step {found.step.number} ({found.step.phase}{' of ' if requests else ''}{requests})"
    free = found.free_bytes
    share = 100 * found.fragmented_bytes / free if free else 0.0
    lines = [
        f"{title} {when}: {found.time_ns / 1e9:.3f} s{step}",
        f"total {format_bytes(found.total_bytes)}, used {format_bytes(found.used_bytes)}, free {format_bytes(free)}, "
        f"largest hole {format_bytes(found.largest_hole_bytes)}, "
        f"fragmented {format_bytes(found.fragmented_bytes)} ({share:.1f} % of what is free)",
    ]
    if found.asked is not None:
        lines.append(f"there was no room for {found.asked[0]} bytes of {found.asked[1]!r}")
    return lines


def _totals(found: MemoryMap, letters: dict[str, str]) -> list[str]:
    totals = found.totals
    lines = [f"   {'TAG':<24} {'TOTAL':>12} {'COUNT':>7} {'LARGEST':>12}"]
    for total in totals[:_MAX_TAGS]:
        letter = letters.get(total.tag, _REST)
        lines.append(
            f" {letter} {total.tag:<24} {format_bytes(total.nbytes):>12} {total.count:>7} "
            f"{format_bytes(total.largest):>12}"
        )
    rest = totals[_MAX_TAGS:]
    if rest:
        lines.append(f"   {f'{len(rest)} more':<24} {format_bytes(sum(t.nbytes for t in rest)):>12}")
    return lines


def _holes(found: MemoryMap) -> list[str]:
    lines = [
        f" {format_bytes(hole.nbytes):>12} at {hole.address:#x}, "
        f"after {hole.before or 'the start'}, before {hole.after or 'the end'}"
        for hole in found.holes
    ]
    return ["", "holes:", *lines] if lines else []
