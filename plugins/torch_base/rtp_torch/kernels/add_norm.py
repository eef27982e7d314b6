"""A residual sum and its norm, a row a program: the row stays in registers between the two."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from rtp_torch.kernels.tile import row_tile


def add_norm(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None, *, eps: float, out: Tensor) -> None:
    """residual += x; out = norm(residual): a layer norm with a bias, a root mean square norm without.

    x, residual, out: [T, E], rows any stride apart; weight, bias: [E]. The norm is of the sum as it is stored.
    """
    rows, width = x.shape
    if not rows:
        return
    tile = row_tile(width)
    _add_norm[(rows,)](
        x, residual, weight, weight if bias is None else bias, out, eps, x.stride(0), residual.stride(0), out.stride(0),
        WIDTH=width, COLUMNS=tile.columns, IS_LAYER_NORM=bias is not None, **tile.options,
    )  # fmt: skip


@triton.jit
def _add_norm(
    x_ptr, residual_ptr, weight_ptr, bias_ptr, out_ptr, eps, x_row, residual_row, out_row,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, IS_LAYER_NORM: tl.constexpr,
):  # fmt: skip
    row, columns = tl.program_id(0).to(tl.int64), tl.arange(0, COLUMNS)
    is_ours = columns < WIDTH
    x = tl.load(x_ptr + row * x_row + columns, mask=is_ours, other=0.0).to(tl.float32)
    residual = tl.load(residual_ptr + row * residual_row + columns, mask=is_ours, other=0.0).to(tl.float32)
    total = (x + residual).to(residual_ptr.dtype.element_ty)
    tl.store(residual_ptr + row * residual_row + columns, total, mask=is_ours)
    y = total.to(tl.float32)
    if IS_LAYER_NORM:
        y = tl.where(is_ours, y - tl.sum(y, 0) / WIDTH, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(y * y, 0) / WIDTH + eps)
    y = y * scale * tl.load(weight_ptr + columns, mask=is_ours, other=0.0).to(tl.float32)
    if IS_LAYER_NORM:
        y += tl.load(bias_ptr + columns, mask=is_ours, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * out_row + columns, y.to(out_ptr.dtype.element_ty), mask=is_ours)
