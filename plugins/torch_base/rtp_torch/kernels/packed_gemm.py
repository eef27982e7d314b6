"""x times a packed weight. Codes are multiplied as they are, exactly; each group's sum is then scaled.

The weight is the first operand, so that few rows of x leave no matrix instruction half empty. Few rows are bound by
the reading of the weight: K is then split over programs, whose sums a second kernel adds in a fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from rtp_torch.kernels.packed_weight import GROUP, PackedWeight
from rtp_torch.kernels.tile import Tile

# Of x. Each tile of rows reads and unpacks the weight anew, so past one tile (two narrow ones) it is unpacked once, for
# the library's product: many rows do not wait for weights. Where the border is has not been measured on a GPU.
FEW_ROWS = 64
MIN_STEPS = 8  # that are worth a program of their own
MAX_SPLITS = 16
SUM_TILE = Tile(1, 1024, 4)


def tile_of(rows: int, *, narrow: bool = False) -> Tile:
    """Rows of x and columns of the result."""
    if narrow:
        return Tile(16, 64, 4, stages=2) if rows <= 16 else Tile(32, 64, 4)
    if rows <= 16:
        return Tile(16, 64, 4, stages=4)
    return Tile(32, 64, 4, stages=3) if rows <= 32 else Tile(64, 128, 8, stages=3)


def num_splits(rows: int, weight: PackedWeight, processors: int, *, narrow: bool = False) -> int:
    """Into how many programs K is cut: so many that all `processors` have work, as long as each has enough."""
    steps, columns, _ = weight.codes.shape
    tile = tile_of(rows, narrow=narrow)
    programs = triton.cdiv(rows, tile.rows) * triton.cdiv(columns, tile.columns)
    return max(1, min(2 * processors // max(1, programs), steps // MIN_STEPS, MAX_SPLITS))


def scratch_size(rows: int, weight: PackedWeight, splits: int) -> int:
    """Floats of work space that `packed_gemm` wants."""
    return 0 if splits == 1 else splits * rows * weight.codes.shape[1]


def packed_gemm(
    x: Tensor,
    weight: PackedWeight,
    bias: Tensor | None,
    *,
    splits: int,
    scratch: Tensor,
    out: Tensor,
    narrow: bool = False,
) -> None:
    """out = x @ weight.T + bias. x: [M, K]; bias: [N]; out: [M, N]; rows any stride apart; scratch: float32."""
    rows, columns = out.shape
    if not rows:
        return
    tile, has_bias = tile_of(rows, narrow=narrow), bias is not None
    steps = weight.codes.shape[0]
    result, result_row = (out, out.stride(0)) if splits == 1 else (scratch, columns)
    any_bias = weight.scales if bias is None else bias
    any_zeros = weight.scales if weight.zeros is None else weight.zeros
    _packed_gemm[(triton.cdiv(columns, tile.columns), triton.cdiv(rows, tile.rows), splits)](
        x, weight.codes, weight.scales, any_zeros, any_bias, result, rows, columns, weight.columns, steps,
        x.stride(0), result_row,
        HAS_HALVES=weight.has_halves, OFFSET=weight.offset, HAS_ZEROS=weight.zeros is not None,
        HAS_BIAS=has_bias and splits == 1, GROUP=GROUP, ROWS=tile.rows, COLUMNS=tile.columns, SPLITS=splits,
        **tile.options,
    )  # fmt: skip
    if splits > 1:
        _add_splits[(rows, triton.cdiv(columns, SUM_TILE.columns))](
            scratch, any_bias, out, rows, columns, out.stride(0),
            HAS_BIAS=has_bias, COLUMNS=SUM_TILE.columns, SPLITS=splits, **SUM_TILE.options,
        )  # fmt: skip


@triton.jit
def _packed_gemm(
    x_ptr, codes_ptr, scales_ptr, zeros_ptr, bias_ptr, out_ptr, num_rows, num_columns, width, num_steps, x_row, out_row,
    HAS_HALVES: tl.constexpr, OFFSET: tl.constexpr, HAS_ZEROS: tl.constexpr, HAS_BIAS: tl.constexpr,
    GROUP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """A tile of the result, turned: [COLUMNS, ROWS]; with several splits, of one part of the sum."""
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    rows, split = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.program_id(2)
    is_row, is_column = rows < num_rows, columns < num_columns
    weight = (scales_ptr, zeros_ptr, columns, num_columns)
    operand = (x_ptr + rows.to(tl.int64) * x_row, is_row, width)
    total = tl.zeros([COLUMNS, ROWS], tl.float32)
    piece = tl.cdiv(num_steps, SPLITS)
    for step in range(split * piece, tl.minimum((split + 1) * piece, num_steps)):
        place = (tl.cast(step, tl.int64) * num_columns + columns)[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
        codes = tl.load(codes_ptr + place, mask=is_column[:, None], other=0)
        if HAS_HALVES:
            low, high = (codes & 15).to(tl.int8) - OFFSET, (codes >> 4).to(tl.int8) - OFFSET
            total = _add_group(total, low, 2 * step, weight, operand, HAS_ZEROS, GROUP)
            total = _add_group(total, high, 2 * step + 1, weight, operand, HAS_ZEROS, GROUP)
        else:
            total = _add_group(total, codes, step, weight, operand, HAS_ZEROS, GROUP)
    if HAS_BIAS:
        total += tl.load(bias_ptr + columns, mask=is_column, other=0.0).to(tl.float32)[:, None]
    place = (split * num_rows + rows).to(tl.int64)[None, :] * out_row + columns[:, None]
    tl.store(out_ptr + place, total.to(out_ptr.dtype.element_ty), mask=is_column[:, None] & is_row[None, :])


@triton.jit
def _add_group(total, codes, group, weight, operand, HAS_ZEROS: tl.constexpr, GROUP: tl.constexpr):
    """total + scales * (codes @ x) + zeros * sum(x), of one group's columns of x. codes: [COLUMNS, GROUP]."""
    scales_ptr, zeros_ptr, columns, num_columns = weight
    x_ptr, is_row, width = operand
    inner = group * GROUP + tl.arange(0, GROUP)
    x = tl.load(x_ptr[None, :] + inner[:, None], mask=(inner < width)[:, None] & is_row[None, :], other=0.0)
    place, is_column = tl.cast(group, tl.int64) * num_columns + columns, columns < num_columns
    scales = tl.load(scales_ptr + place, mask=is_column, other=0.0).to(tl.float32)
    total += tl.dot(codes.to(x.dtype), x, input_precision="ieee") * scales[:, None]
    if HAS_ZEROS:
        zeros = tl.load(zeros_ptr + place, mask=is_column, other=0.0).to(tl.float32)
        total += zeros[:, None] * tl.sum(x.to(tl.float32), 0)[None, :]
    return total


@triton.jit
def _add_splits(
    parts_ptr, bias_ptr, out_ptr, num_rows, num_columns, out_row,
    HAS_BIAS: tl.constexpr, COLUMNS: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    row, columns = tl.program_id(0).to(tl.int64), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_ours = columns < num_columns
    total = tl.zeros([COLUMNS], tl.float32)
    for split in range(SPLITS):
        total += tl.load(parts_ptr + (split * num_rows + row) * num_columns + columns, mask=is_ours, other=0.0)
    if HAS_BIAS:
        total += tl.load(bias_ptr + columns, mask=is_ours, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * out_row + columns, total.to(out_ptr.dtype.element_ty), mask=is_ours)
