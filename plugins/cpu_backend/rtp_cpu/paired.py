"""bf16 weights: the layout pairs16 that `prepare_weight` makes, and the ops that read it (see csrc/pairs16.h)."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from rtp_core.plugin import Buffer, ConfigError, Device, dtypes
from rtp_cpu._native import lib
from rtp_cpu.native import DTYPES, NULL, Native, mismatch, pointer
from rtp_cpu.views import matrices, rows_of

LAYOUT = "pairs16"
UNREADABLE = (0, 0)  # strides: an op that knows nothing of the layout wants a copy first, which is refused


class PairedWeight(Buffer):
    """A bf16 weight [N, K] in layout pairs16: 16 rows interleaved, so that it has neither views nor an array."""

    __slots__ = ()

    @property
    def nbytes(self) -> int:
        """Bytes with what rows and columns are filled up with."""
        return int(lib.rtp_cpu_pairs16_bytes(*self.shape))

    def numpy(self) -> NoReturn:
        raise ConfigError(f"cannot read {self!r} as an array", why=f"its layout is {LAYOUT}", hint="gather_rows")

    def _view(self, shape: Any, strides: Any, offset: int) -> NoReturn:
        raise ConfigError(f"cannot take a view of {self!r}", why=f"its layout is {LAYOUT}")


def prepare(device: Device, native: Native, weight: Buffer, tag: str) -> PairedWeight:
    """A bf16 weight [N, K] in layout pairs16, under `tag`."""
    rows = rows_of(weight)
    if rows is None:  # of the host: what it takes to load is not the device's
        return prepare(device, native, Buffer.borrow(np.ascontiguousarray(weight.numpy())), tag)
    n, k = weight.shape
    packed = device.alloc((lib.rtp_cpu_pairs16_bytes(n, k),), dtypes.uint8, tag)
    if status := lib.rtp_cpu_pairs16_pack(native.handle, pointer(packed), pointer(weight), n, k, rows.stride):
        native.fail(status, "prepare_weight", weight)
    return PairedWeight(packed.storage, dtypes.bfloat16, (n, k), UNREADABLE)


def gemm(native: Native, a: Buffer, b: PairedWeight, bias: Buffer | None, out: Buffer) -> None:
    """out = a @ b.T + bias; a and out have contiguous rows and one dtype."""
    n, k = b.shape
    if a.shape[-1] != k or out.shape != (*a.shape[:-1], n) or (bias is not None and bias.shape != (n,)):
        raise mismatch("gemm", a, b, bias, out)
    bias_code, bias_pointer = (0, NULL) if bias is None else (DTYPES[bias.dtype], pointer(bias))
    for x, rows, y, to in matrices(a, out):
        if status := lib.rtp_cpu_gemm_pairs16(
            native.handle, DTYPES[x.dtype], pointer(y), pointer(x), pointer(b), bias_code, bias_pointer,
            rows.number, n, k, to.stride, rows.stride,
        ):  # fmt: skip
            native.fail(status, "gemm", x, b, bias, y)


def gather_rows(native: Native, table: PairedWeight, ids: Buffer, out: Buffer) -> Buffer:
    """Rows `ids` of the table, as numbers in out [T, K], whose rows are contiguous."""
    n, k = table.shape
    if out.shape != (ids.shape[0], k):
        raise mismatch("gather_rows", table, ids, out)
    if status := lib.rtp_cpu_pairs16_unpack(
        native.handle, DTYPES[out.dtype], pointer(out), pointer(table), pointer(ids), ids.shape[0], n, k,
        out.strides[0],
    ):  # fmt: skip
        native.fail(status, "gather_rows", table, ids, out)
    return out
