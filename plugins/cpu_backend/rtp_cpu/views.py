"""How the kernels see a buffer: as rows of contiguous elements a constant stride apart, where it is that regular."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from rtp_core.plugin import Buffer


class Rows(NamedTuple):
    """`number` rows of `width` elements, `stride` elements apart."""

    number: int
    width: int
    stride: int


def rows_of(x: Buffer) -> Rows | None:
    """x [..., width] as rows, or None where its strides need a copy first."""
    shape, strides = x.shape, x.strides
    width = shape[-1]
    if strides[-1] != 1 and width > 1:
        return None
    if len(shape) == 2:
        return Rows(shape[0], width, strides[0])
    if 0 in shape:
        return Rows(0, width, width)  # no rows, whatever their strides
    number, stride, reach = 1, width, -1
    for axis in range(len(shape) - 2, -1, -1):
        extent = shape[axis]
        if extent != 1:
            if reach < 0:
                stride = strides[axis]
            elif strides[axis] != reach:
                return None
            reach = strides[axis] * extent
            number *= extent
    return Rows(number, width, stride)


def matrices(a: Buffer, out: Buffer) -> Iterator[tuple[Buffer, Rows, Buffer, Rows]]:
    """a [..., K] and out [..., N] as rows: once, or matrix by matrix where leading axes are no single stride."""
    rows, to = rows_of(a), rows_of(out)
    if rows is not None and to is not None:
        yield a, rows, out, to
        return
    for i in range(a.shape[0]):
        yield from matrices(a[i], out[i])


def has_contiguous_rows(x: Buffer) -> bool:
    """Whether the elements of the last axis are neighbours."""
    return x.strides[-1] == 1 or x.shape[-1] <= 1
