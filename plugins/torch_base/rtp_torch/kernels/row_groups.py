"""Rows in groups, cut into tiles that never cross a border: which group a tile is in, found by the kernel.

Group g of rows starts[g]:starts[g + 1] has its first tile at starts[g] // ROWS + g: every group gets at least the tiles
that it needs, and cdiv(rows, ROWS) + groups of them are enough for any sizes. So a grid knows only how many rows and
groups there are.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def first_tile(start, group, ROWS: tl.constexpr):
    return start // ROWS + group


@triton.jit
def find_group(tile, starts_ptr, groups, ROWS: tl.constexpr):
    """The last group whose first tile is not past `tile`. starts: [groups + 1], counted from starts[0]."""
    origin = tl.load(starts_ptr)
    low, high = 0, groups
    while high - low > 1:
        middle = (low + high) // 2
        is_past = first_tile(tl.load(starts_ptr + middle) - origin, middle, ROWS) > tile
        high = tl.where(is_past, middle, high)
        low = tl.where(is_past, low, middle)
    return low
