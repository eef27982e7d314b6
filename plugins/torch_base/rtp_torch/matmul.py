"""Products of strided matrices by torch's library, and of weights that are not stored as the library wants them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from rtp_torch.scratch import Scratch
from rtp_torch.tensor_ops import widened

BLOCK_BYTES = 32 << 20  # of a weight that is unpacked, or packed, at once

Unpack = Callable[[int, int, Tensor, Scratch], None]


def gemm(a: Tensor, b: Tensor, bias: Tensor | None, out: Tensor, scratch: Scratch) -> None:
    """out = a @ b + bias. a: [..., M, K]; b: [..., K, N]; bias: [N]; of any float dtypes."""
    if a.dtype == b.dtype == out.dtype:
        _multiply(a, b, None if bias is None else _like(bias, a, scratch), out)
        return
    result = out if out.dtype == torch.float32 else scratch(out.shape)
    bias = None if bias is None else widened(bias, scratch)
    _multiply(widened(a, scratch), widened(b, scratch), bias, result)
    if result is not out:
        out.copy_(result)


def gemm_in_blocks(
    a: Tensor, rows: int, dtype: torch.dtype, unpack: Unpack, bias: Tensor | None, out: Tensor, scratch: Scratch
) -> None:
    """out = a @ b.T + bias for a b [N, K] of which `unpack(start, stop, into, scratch)` writes rows in `dtype`."""
    columns = a.shape[-1]
    for start, stop in blocks(rows, columns * dtype.itemsize):
        own = scratch.fresh()
        part = own((stop - start, columns), dtype)
        unpack(start, stop, part, own)
        gemm(a, part.t(), None if bias is None else bias[start:stop], out[..., start:stop], own)


def blocks(rows: int, row_bytes: int, *, unit: int = 1) -> Iterator[tuple[int, int]]:
    """From which row to which a weight is unpacked, or packed, at once: multiples of `unit`."""
    step = max(unit, BLOCK_BYTES // max(1, row_bytes) // unit * unit)
    return ((start, min(start + step, rows)) for start in range(0, rows, step))


def widening(weight: Tensor) -> Unpack:
    """Of a weight in another float dtype."""

    def unpack(start: int, stop: int, into: Tensor, scratch: Scratch) -> None:
        into.copy_(weight[start:stop])

    return unpack


def _like(x: Tensor, other: Tensor, scratch: Scratch) -> Tensor:
    return x if x.dtype == other.dtype else scratch(x.shape, other.dtype).copy_(x)


def _multiply(a: Tensor, b: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """Of one dtype. The library takes one leading axis; the shorter of two is walked, so that nothing is copied."""
    if out.ndim == 2:
        if bias is None:
            torch.mm(a, b, out=out)
        else:
            torch.addmm(bias, a, b, out=out)
        return
    b = b.expand(*a.shape[:-2], *b.shape[-2:])
    if out.ndim == 3:
        if bias is None:
            torch.bmm(a, b, out=out)
        else:
            torch.baddbmm(bias, a, b, out=out)
        return
    axis = 0 if a.shape[0] <= a.shape[1] else 1
    for x, w, y in zip(a.unbind(axis), b.unbind(axis), out.unbind(axis), strict=True):
        _multiply(x, w, bias, y)
