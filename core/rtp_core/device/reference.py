"""The reference device: every primitive as `reference_ops` defines it, and no override.

Slow and always there; it shows how a device is written. `auto` never chooses it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rtp_core import dtypes
from rtp_core.device import reference_ops as ops
from rtp_core.device.device import Device
from rtp_core.device.manifest import Manifest
from rtp_core.device.reference_manifest import MANIFEST
from rtp_core.device.rehearsal import rehearsal_of
from rtp_core.dtypes import DType
from rtp_core.errors import ContractError
from rtp_core.memory.buffer import Buffer, Shape
from rtp_core.memory.qbuffer import QBuffer, QuantScheme


class ReferenceDevice(Device):
    """NumPy in host memory."""

    manifest: ClassVar[Manifest] = MANIFEST

    def rehearsal(self) -> Device | None:
        return rehearsal_of(self) if type(self) is ReferenceDevice else None  # a subclass may take more

    def gather_rows(
        self, table: Buffer, ids: Buffer, *, dtype: DType | None = None, out: Buffer | None = None
    ) -> Buffer:
        rows = ids.numpy()
        if isinstance(table, QBuffer):
            y = ops.dequantize([part.numpy()[rows] for part in table.parts], table.scheme)
        else:
            y = table.numpy()[rows]
        return self._store(out, y, dtype or table.dtype, "gather_rows")

    def gemm(
        self, a: Buffer, b: Buffer, *, bias: Buffer | None = None, trans_b: bool = False, out: Buffer | None = None
    ) -> Buffer:
        y = ops.gemm(a.numpy(), self._floats(b), None if bias is None else bias.numpy(), trans_b)
        return self._store(out, y, a.dtype, "gemm")

    def add(self, a: Buffer, b: Buffer, *, out: Buffer | None = None) -> Buffer:
        return self._store(out, ops.f32(a.numpy()) + ops.f32(b.numpy()), a.dtype, "add")

    def mul(self, a: Buffer, b: Buffer, *, out: Buffer | None = None) -> Buffer:
        return self._store(out, ops.f32(a.numpy()) * ops.f32(b.numpy()), a.dtype, "mul")

    def rms_norm(self, x: Buffer, weight: Buffer, *, eps: float, out: Buffer | None = None) -> Buffer:
        return self._store(out, ops.rms_norm(x.numpy(), weight.numpy(), eps), x.dtype, "rms_norm")

    def layer_norm(self, x: Buffer, weight: Buffer, bias: Buffer, *, eps: float, out: Buffer | None = None) -> Buffer:
        y = ops.layer_norm(x.numpy(), weight.numpy(), bias.numpy(), eps)
        return self._store(out, y, x.dtype, "layer_norm")

    def activation(self, x: Buffer, *, kind: str, out: Buffer | None = None) -> Buffer:
        return self._store(out, ops.activation(x.numpy(), kind), x.dtype, "activation")

    def softmax(
        self,
        x: Buffer,
        *,
        scale: float = 1.0,
        softcap: float | None = None,
        mask: Buffer | None = None,
        out: Buffer | None = None,
    ) -> Buffer:
        y = ops.softmax(x.numpy(), scale, softcap, None if mask is None else mask.numpy())
        return self._store(out, y, x.dtype, "softmax")

    def rope(self, x: Buffer, cos: Buffer, sin: Buffer, positions: Buffer, *, out: Buffer | None = None) -> Buffer:
        return self._store(out, ops.rope(x.numpy(), cos.numpy(), sin.numpy(), positions.numpy()), x.dtype, "rope")

    def kv_write(self, kv: Buffer, k: Buffer, v: Buffer, slots: Buffer) -> None:
        block, offset = np.divmod(slots.numpy(), kv.shape[3])
        cache = kv.numpy()
        cache[block, 0, :, offset] = k.numpy().astype(kv.dtype.numpy)
        cache[block, 1, :, offset] = v.numpy().astype(kv.dtype.numpy)

    def kv_gather(self, kv: Buffer, block_table: Buffer, num_tokens: int) -> tuple[Buffer, Buffer]:
        block_size = kv.shape[3]
        blocks = kv.numpy()[block_table.numpy()[: -(-num_tokens // block_size)]]  # [blocks, 2, K, B, D]
        size = blocks.shape[0] * block_size
        both = np.moveaxis(blocks, 0, 2).reshape(2, kv.shape[2], size, kv.shape[4])[:, :, :num_tokens]
        return self._store(None, both[0], kv.dtype, "kv_gather"), self._store(None, both[1], kv.dtype, "kv_gather")

    def top_k(self, x: Buffer, k: int) -> tuple[Buffer, Buffer]:
        values, indices = ops.top_k(x.numpy(), k)
        return self._store(None, values, x.dtype, "top_k"), self._store(None, indices, dtypes.int32, "top_k")

    def cast(self, x: Buffer, dtype: DType, *, out: Buffer | None = None) -> Buffer:
        return self._store(out, x.numpy(), dtype, "cast")

    def quantize(self, x: Buffer, scheme: QuantScheme) -> QBuffer:
        parts = [
            self._store(None, part, dtypes.of_numpy(part.dtype), "quantize") for part in ops.quantize(x.numpy(), scheme)
        ]
        return QBuffer.of_parts(scheme, (x.shape[0], x.shape[1]), parts)

    def dequantize(self, x: QBuffer, *, dtype: DType, out: Buffer | None = None) -> Buffer:
        return self._store(out, self._floats(x), dtype, "dequantize")

    def _floats(self, x: Buffer) -> NDArray[Any]:
        if not isinstance(x, QBuffer):
            return x.numpy()
        if x.layout != "plain":
            raise ContractError(f"{self.kind} has no layout {x.layout!r}", why="it was prepared for another device")
        return ops.dequantize([part.numpy() for part in x.parts], x.scheme)

    def _store(self, out: Buffer | None, y: NDArray[Any], dtype: DType, tag: str) -> Buffer:
        if out is None:
            shape: Shape = y.shape
            out = self.alloc(shape, dtype, tag)
        np.copyto(out.numpy(), y, casting="unsafe")
        return out
