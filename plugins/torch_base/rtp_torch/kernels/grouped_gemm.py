"""Rows in groups, each group times its own weight: experts and adapters.

Weights stay where they are: kernels read their addresses. Sizes of groups are read by the kernel, too, so that a
recorded launch serves any division of its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import numpy as np
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from rtp_torch.kernels.dot_dtype import TRITON, dot_dtype
from rtp_torch.kernels.row_groups import find_group, first_tile
from rtp_torch.kernels.tile import Tile

INNER = 32  # of K a pass
ALIGNMENT = 16  # bytes, of the widest load


def are_alike(weights: Sequence[Tensor]) -> bool:
    """Whether they are of one dtype, one shape and one stride, which the kernel knows of the first."""
    return len({(weight.dtype, weight.shape, weight.stride()) for weight in weights}) == 1


def weight_addresses(weights: Sequence[Tensor]) -> NDArray[np.int64]:
    """[G], where they lie. They must outlive it."""
    return np.array([weight.data_ptr() for weight in weights], np.int64)


def tile_of(rows: int, groups: int, itemsize: int, *, narrow: bool) -> Tile:
    """As many rows as a group has on average."""
    if rows <= 16 * groups:
        return Tile(16, 64, 4, stages=3)
    if itemsize == 4 or narrow or rows <= 64 * groups:
        return Tile(32, 64, 4, stages=2)
    return Tile(64, 128, 8, stages=3)


def grouped_gemm(
    x: Tensor,
    weights: Sequence[Tensor],
    addresses: Tensor,
    group_starts: Tensor,
    *,
    out: Tensor,
    narrow: bool = False,
) -> None:
    """out[rows of g] = x[rows of g] @ weights[g].T. x: [T, E]; out: [T, F]; rows any stride apart.

    weights: G of [F, E], alike; addresses: `weight_addresses` on the device; group_starts: [G + 1] int32, 0 first and
    T last.
    """
    (rows, width), weight, groups = x.shape, weights[0], len(weights)
    columns, alignment = weight.shape[0], gcd(ALIGNMENT, *(weight.data_ptr() for weight in weights))
    if not rows:
        return
    tile = tile_of(rows, groups, max(x.element_size(), weight.element_size()), narrow=narrow)
    _grouped_gemm[(triton.cdiv(rows, tile.rows) + groups, triton.cdiv(columns, tile.columns))](
        x, addresses, group_starts, out, groups, columns, width, x.stride(0), weight.stride(0), out.stride(0),
        WEIGHT=TRITON[weight.dtype], DOT=dot_dtype(x.dtype, weight.dtype),
        ALIGNMENT=alignment, ROWS=tile.rows, COLUMNS=tile.columns, INNER=INNER, **tile.options,
    )  # fmt: skip


@triton.jit
def _grouped_gemm(
    x_ptr, addresses_ptr, starts_ptr, out_ptr, groups, num_columns, width, x_row, weight_row, out_row,
    WEIGHT: tl.constexpr, DOT: tl.constexpr, ALIGNMENT: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """A tile of one group's rows, some columns of the result."""
    tile = tl.program_id(0)
    group = find_group(tile, starts_ptr, groups, ROWS)
    start, stop = tl.load(starts_ptr + group), tl.load(starts_ptr + group + 1)
    first = start + (tile - first_tile(start, group, ROWS)) * ROWS
    if first >= stop:
        return
    weight_ptr = tl.multiple_of(tl.load(addresses_ptr + group).to(tl.pointer_type(WEIGHT)), ALIGNMENT)
    rows = (first + tl.arange(0, ROWS)).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_row, is_column = (rows < stop)[:, None], (columns < num_columns)[None, :]
    x_rows = x_ptr + rows[:, None] * x_row
    weight_rows = weight_ptr + columns.to(tl.int64)[None, :] * weight_row
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for begins in range(0, width, INNER):
        inner = begins + tl.arange(0, INNER)
        x = tl.load(x_rows + inner[None, :], mask=is_row & (inner < width)[None, :], other=0.0)
        w = tl.load(weight_rows + inner[:, None], mask=is_column & (inner < width)[:, None], other=0.0)
        total = tl.dot(x.to(DOT), w.to(DOT), total, input_precision="ieee")
    place = out_ptr + rows[:, None] * out_row + columns[None, :]
    tl.store(place, total.to(out_ptr.dtype.element_ty), mask=is_row & is_column)
