"""Float matrix products: strides and broadcast leading axes as the kernel wants them."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any

from rtp_core.plugin import Buffer, Device
from rtp_cpu._native import lib
from rtp_cpu.native import DTYPES, NULL, Native, int64s, mismatch, pointer


def gemm(device: Device, native: Native, a: Buffer, b: Buffer, bias: Buffer | None, trans_b: bool, out: Buffer) -> None:
    """out = a @ b + bias; a and out have contiguous rows and one dtype."""
    m, k = a.shape[-2:]
    n = b.shape[-2 if trans_b else -1]
    if (
        b.shape[-1 if trans_b else -2] != k
        or out.shape != (*a.shape[:-1], n)
        or (bias is not None and bias.shape != (n,))
    ):
        raise mismatch("gemm", a, b, bias, out)
    b, b_row, is_transposed = _as_rows(device, b, trans_b)
    offsets: Any = NULL
    batch = prod(a.shape[:-2])
    if len(a.shape) > 2:
        offsets = int64s(_offsets(a, b, out))
    elif len(b.shape) > 2:
        raise mismatch("gemm", a, b, bias, out)
    bias_code, bias_pointer = (0, NULL) if bias is None else (DTYPES[bias.dtype], pointer(bias))
    if status := lib.rtp_cpu_gemm(
        native.handle, DTYPES[a.dtype], pointer(out), pointer(a), DTYPES[b.dtype], pointer(b), bias_code, bias_pointer,
        is_transposed, m, n, k, out.strides[-2], a.strides[-2], b_row, batch, offsets,
    ):  # fmt: skip
        native.fail(status, "gemm", a, b, bias, out)


def _as_rows(device: Device, b: Buffer, trans_b: bool) -> tuple[Buffer, int, bool]:
    """b with one of its last two axes contiguous, the stride of the other, and whether K is the contiguous one.

    A b whose first of the two is contiguous is the other kind of b.
    """
    row, column = b.strides[-2:]
    if column == 1 or b.shape[-1] <= 1:
        return b, row, trans_b
    if row == 1 or b.shape[-2] <= 1:
        return b, column, not trans_b
    copied = device.alloc(b.shape, b.dtype, "gemm")
    device.copy(copied, b)
    return copied, copied.strides[-2], trans_b


def _offsets(a: Buffer, b: Buffer, out: Buffer) -> list[int]:
    """Where product i begins in out, a and b: [batch, 3], in elements. Axes of extent 1 in b stand still."""
    leading = a.shape[:-2]
    padding = len(leading) - (len(b.shape) - 2)
    if padding < 0:
        raise mismatch("gemm", a, b, out)
    b_strides = [0] * padding
    for extent, stride, wanted in zip(b.shape[:-2], b.strides[:-2], leading[padding:], strict=True):
        if extent not in (1, wanted):
            raise mismatch("gemm", a, b, out)
        b_strides.append(0 if extent == 1 else stride)
    strides = list(zip(out.strides[:-2], a.strides[:-2], b_strides, strict=True))
    result: list[int] = []
    for index in product(*map(range, leading)):
        for operand in range(3):
            result.append(sum(i * axis[operand] for i, axis in zip(index, strides, strict=True)))
    return result
