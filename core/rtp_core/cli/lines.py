"""What `--json` prints, for people: facts as indented lines, rows as columns.

Plain text; a listing must not take longer to lay out than to find out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rtp_core.cli.console import plain


def as_lines(facts: Mapping[str, Any], indent: str = "") -> list[str]:
    """One fact a line. A mapping is indented under its key, a list of mappings is one such block each."""
    lines: list[str] = []
    for key, value in facts.items():
        blocks = value if isinstance(value, list) else [value]
        if blocks and all(isinstance(block, Mapping) and block for block in blocks):
            for block in blocks:
                lines += [f"{indent}{plain(str(key))}:", *as_lines(block, indent + "  ")]
        else:
            lines.append(f"{indent}{plain(str(key))}: {_as_text(value)}")
    return lines


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_as_text, value)) or "-"
    return "-" if value is None or value in ("", {}) else plain(str(value))


def as_columns(rows: Sequence[Sequence[str]], *, right: bool = False) -> str:
    """Rows of equal length, the first of them the titles, in aligned columns; `right` is for numbers."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) if right else cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip() + "\n")
    return "".join(lines)
