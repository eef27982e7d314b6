"""Primitives on loan: a vendor runs models before writing one kernel, then replaces them one by one.

Every operand is copied to the host, NumPy computes, and the result is copied back: right on any memory that
`copy` reaches, and slow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rtp_core import dtypes
from rtp_core.device import reference_ops as ops
from rtp_core.device.device import PRIMITIVES, Device
from rtp_core.dtypes import DType
from rtp_core.errors import ContractError
from rtp_core.memory.buffer import Buffer, Shape
from rtp_core.memory.qbuffer import QBuffer, QuantScheme

# What every decoder calls comes first, from the easiest to the ones with a shape of their own; then loading, then
# what only some models need.
WRITING_ORDER = (
    "add",
    "mul",
    "activation",
    "rms_norm",
    "softmax",
    "gemm",
    "gather_rows",
    "rope",
    "kv_write",
    "kv_gather",
    "dequantize",
    "cast",
    "layer_norm",
    "top_k",
    "quantize",
)

Array = NDArray[Any]
F = TypeVar("F", bound=Callable[..., Any])


def _borrowed(function: F) -> F:
    function.__rtp_borrowed__ = True  # type: ignore[attr-defined]
    return function


class BorrowedPrimitives(Device):
    """A device whose primitives are the reference's until a subclass defines its own: see `Device.borrowed`.

    The subclass needs `copy`, and `reserve` and `memory_info` where its memory is not the host's. Quantized
    weights stay "plain": with a layout of its own, it has `gemm`, `gather_rows` and `dequantize` of its own.
    """

    @_borrowed
    def gather_rows(
        self, table: Buffer, ids: Buffer, *, dtype: DType | None = None, out: Buffer | None = None
    ) -> Buffer:
        rows = self.download(ids)
        if isinstance(table, QBuffer):
            y = ops.dequantize([part[rows] for part in self._parts(table)], table.scheme)
        else:
            y = self.download(table)[rows]
        return self._put(out, y, dtype or table.dtype, "gather_rows")

    @_borrowed
    def gemm(
        self, a: Buffer, b: Buffer, *, bias: Buffer | None = None, trans_b: bool = False, out: Buffer | None = None
    ) -> Buffer:
        y = ops.gemm(self._get(a), self._get(b), None if bias is None else self._get(bias), trans_b)
        return self._put(out, y, a.dtype, "gemm")

    @_borrowed
    def add(self, a: Buffer, b: Buffer, *, out: Buffer | None = None) -> Buffer:
        return self._put(out, ops.f32(self._get(a)) + ops.f32(self._get(b)), a.dtype, "add")

    @_borrowed
    def mul(self, a: Buffer, b: Buffer, *, out: Buffer | None = None) -> Buffer:
        return self._put(out, ops.f32(self._get(a)) * ops.f32(self._get(b)), a.dtype, "mul")

    @_borrowed
    def rms_norm(self, x: Buffer, weight: Buffer, *, eps: float, out: Buffer | None = None) -> Buffer:
        return self._put(out, ops.rms_norm(self._get(x), self._get(weight), eps), x.dtype, "rms_norm")

    @_borrowed
    def layer_norm(self, x: Buffer, weight: Buffer, bias: Buffer, *, eps: float, out: Buffer | None = None) -> Buffer:
        y = ops.layer_norm(self._get(x), self._get(weight), self._get(bias), eps)
        return self._put(out, y, x.dtype, "layer_norm")

    @_borrowed
    def activation(self, x: Buffer, *, kind: str, out: Buffer | None = None) -> Buffer:
        return self._put(out, ops.activation(self._get(x), kind), x.dtype, "activation")

    @_borrowed
    def softmax(
        self,
        x: Buffer,
        *,
        scale: float = 1.0,
        softcap: float | None = None,
        mask: Buffer | None = None,
        out: Buffer | None = None,
    ) -> Buffer:
        y = ops.softmax(self._get(x), scale, softcap, None if mask is None else self._get(mask))
        return self._put(out, y, x.dtype, "softmax")

    @_borrowed
    def rope(self, x: Buffer, cos: Buffer, sin: Buffer, positions: Buffer, *, out: Buffer | None = None) -> Buffer:
        y = ops.rope(self._get(x), self._get(cos), self._get(sin), self._get(positions))
        return self._put(out, y, x.dtype, "rope")

    @_borrowed
    def kv_write(self, kv: Buffer, k: Buffer, v: Buffer, slots: Buffer) -> None:
        rows = [self._get(x).astype(kv.dtype.numpy) for x in (k, v)]
        for token, slot in enumerate(self._get(slots).tolist()):
            block, offset = divmod(slot, kv.shape[3])
            for which in (0, 1):  # slot by slot: the cache is far too large to copy to the host and back
                self.copy(kv[block, which, :, offset], Buffer.borrow(rows[which][token], "kv_write"))
        self.synchronize()  # a copy may still read the rows

    @_borrowed
    def kv_gather(self, kv: Buffer, block_table: Buffer, num_tokens: int) -> tuple[Buffer, Buffer]:
        _, _, heads, block_size, dim = kv.shape
        result = tuple(self.alloc((heads, num_tokens, dim), kv.dtype, "kv_gather") for _ in range(2))
        table = self._get(block_table).tolist()
        for i, start in enumerate(range(0, num_tokens, block_size)):
            stop = min(start + block_size, num_tokens)
            for which in (0, 1):
                self.copy(result[which][:, start:stop], kv[table[i], which, :, : stop - start])
        return result[0], result[1]

    @_borrowed
    def top_k(self, x: Buffer, k: int) -> tuple[Buffer, Buffer]:
        values, indices = ops.top_k(self._get(x), k)
        return self._put(None, values, x.dtype, "top_k"), self._put(None, indices, dtypes.int32, "top_k")

    @_borrowed
    def cast(self, x: Buffer, dtype: DType, *, out: Buffer | None = None) -> Buffer:
        return self._put(out, self._get(x), dtype, "cast")

    @_borrowed
    def quantize(self, x: Buffer, scheme: QuantScheme) -> QBuffer:
        parts = [
            self._put(None, part, dtypes.of_numpy(part.dtype), "quantize")
            for part in ops.quantize(self._get(x), scheme)
        ]
        return QBuffer.of_parts(scheme, (x.shape[0], x.shape[1]), parts)

    @_borrowed
    def dequantize(self, x: QBuffer, *, dtype: DType, out: Buffer | None = None) -> Buffer:
        return self._put(out, self._get(x), dtype, "dequantize")

    def _get(self, x: Buffer) -> Array:
        """The numbers of an operand on the host."""
        if not isinstance(x, QBuffer):
            return self.download(x)
        return ops.dequantize(self._parts(x), x.scheme)

    def _parts(self, x: QBuffer) -> list[Array]:
        if x.layout != "plain":
            raise ContractError(
                f"borrowed primitives of {self.kind} cannot read layout {x.layout!r}",
                why="what prepare_weight returns, only gemm, gather_rows and dequantize of its own can read",
                hint=f"rtp plugin todo {self.kind}",
            )
        return [self.download(part) for part in x.parts]

    def _put(self, out: Buffer | None, y: Array, dtype: DType, tag: str) -> Buffer:
        """Host numbers in a buffer of this device: the one given, or a new one."""
        if out is None:
            shape: Shape = y.shape
            out = self.alloc(shape, dtype, tag)
        with np.errstate(over="ignore"):  # too large for a narrow float is infinite there
            stored = np.ascontiguousarray(y, out.dtype.numpy)
        self.copy(out, Buffer.borrow(stored, tag))
        self.synchronize()  # the copy may still read `stored`
        return out


def still_borrowed(device: Device | type[Device]) -> tuple[str, ...]:
    """The primitives that a device borrows, in the order in which to write them."""
    return tuple(name for name in WRITING_ORDER if name in device.borrowed)


def meaning(primitive: str) -> str:
    """What a primitive computes: the first sentence of its docstring."""
    words = (getattr(Device, primitive).__doc__ or "").split()
    return " ".join(words).partition(". ")[0].rstrip(".")


def borrowed_notice(device: Device) -> str:
    """One line for whoever runs a model on a device that borrows; nothing for any other."""
    names = still_borrowed(device)
    if not names:
        return ""
    return (
        f"{device.kind}: {len(names)} of {len(PRIMITIVES)} primitives are borrowed from the reference, and slow: "
        f"{', '.join(names)} (rtp plugin todo {device.kind})"
    )
