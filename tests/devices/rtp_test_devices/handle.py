"""A device whose memory the host cannot address, with arithmetic of its own.

Its buffers have handles for addresses: an offset from BASE into memory that only this class sees. What
it computes, it computes by other formulas than the reference, so that agreement between them means something.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rtp_core.plugin import (
    YES,
    Buffer,
    Device,
    DeviceError,
    DType,
    Manifest,
    MemorySpace,
    No,
    QBuffer,
    QuantScheme,
    Region,
    Shape,
    dtypes,
    overrides,
    reserve_host,
)
from rtp_test_devices.handle_plugin import MANIFEST, TOTAL_BYTES

BASE = 0x7000_0000_0000
UNPACKED = "handle.unpacked"  # the layout of prepared weights: the payload holds the numbers, [N, K] float32

Array = NDArray[Any]
Doubles = NDArray[np.float64]

_erfc = np.frompyfunc(math.erfc, 1, 1)

ACTIVATION: dict[str, Callable[[Doubles], Array]] = {
    "gelu": lambda x: x / 2 * _erfc(-x * math.sqrt(0.5)).astype(np.float64),
    "gelu_tanh": lambda x: x * _logistic(math.sqrt(8 / math.pi) * x * (1 + 0.044715 * x * x)),
    "relu": lambda x: np.where(x > 0, x, 0),
    "sigmoid": lambda x: _logistic(x),
    "silu": lambda x: x * _logistic(x),
    "tanh": lambda x: 2 * _logistic(2 * x) - 1,
}


def _logistic(x: Doubles) -> Doubles:
    half: Doubles = np.tanh(x / 2) / 2 + 0.5
    return half


class HandleDevice(Device):
    """Float64 where that is cheap, float32 products of prepared weights, and one override."""

    manifest: ClassVar[Manifest] = MANIFEST
    space = MemorySpace("handle:0", host_addressable=False)

    # -- services ------------------------------------------------------------------------------------------------

    def memory_info(self) -> tuple[int, int]:
        return TOTAL_BYTES, TOTAL_BYTES

    def reserve(self, nbytes: int) -> Region:
        self._memory = reserve_host(nbytes)  # private: the region tells the host neither address nor bytes
        return Region(self.space, BASE, nbytes)

    def copy(self, dst: Buffer, src: Buffer) -> None:
        if dst.shape != src.shape or dst.dtype is not src.dtype:
            raise DeviceError(f"cannot copy {src!r} to {dst!r}", why="shapes and dtypes must be equal")
        source = src.numpy() if src.space.host_addressable else self._see(src)
        (dst.numpy() if dst.space.host_addressable else self._see(dst))[...] = source

    def prepare_weight(self, weight: Buffer, tag: str) -> Buffer:
        plain = super().prepare_weight(weight, tag)
        if not isinstance(plain, QBuffer):
            return plain
        shape = (plain.shape[0], plain.shape[1])
        numbers = self.dequantize(plain, dtype=dtypes.float32, out=self.alloc(shape, dtypes.float32, tag))
        return QBuffer(plain.scheme, shape, numbers, plain.scales, plain.zeros, layout=UNPACKED)

    # -- primitives ----------------------------------------------------------------------------------------------

    def gather_rows(
        self, table: Buffer, ids: Buffer, *, dtype: DType | None = None, out: Buffer | None = None
    ) -> Buffer:
        rows = np.take(self._numbers(table), self._see(ids), axis=0)
        return self._store(out, rows, dtype or table.dtype, "gather_rows")

    def gemm(
        self, a: Buffer, b: Buffer, *, bias: Buffer | None = None, trans_b: bool = False, out: Buffer | None = None
    ) -> Buffer:
        x, w = self._numbers(a), self._numbers(b)
        if w.ndim == 2:  # a weight, too large to widen; from the left it is read in its own order
            w, flat = w.astype(np.float32, copy=False), x.reshape(-1, x.shape[-1]).astype(np.float32, copy=False)
            y = ((w if trans_b else w.T) @ flat.T).T.reshape(*x.shape[:-1], b.shape[0 if trans_b else 1])
        else:
            w = w.astype(np.float64)
            y = x.astype(np.float64) @ (w.swapaxes(-1, -2) if trans_b else w)
        return self._store(out, y if bias is None else y + self._doubles(bias), a.dtype, "gemm")

    def add(self, a: Buffer, b: Buffer, *, out: Buffer | None = None) -> Buffer:
        return self._store(out, self._doubles(a) + self._doubles(b), a.dtype, "add")

    def mul(self, a: Buffer, b: Buffer, *, out: Buffer | None = None) -> Buffer:
        return self._store(out, self._doubles(a) * self._doubles(b), a.dtype, "mul")

    def rms_norm(self, x: Buffer, weight: Buffer, *, eps: float, out: Buffer | None = None) -> Buffer:
        y = self._doubles(x)
        power = np.einsum("...e,...e->...", y, y)[..., None] / y.shape[-1]
        return self._store(out, y * (power + eps) ** -0.5 * self._doubles(weight), x.dtype, "rms_norm")

    def layer_norm(self, x: Buffer, weight: Buffer, bias: Buffer, *, eps: float, out: Buffer | None = None) -> Buffer:
        y = self._doubles(x)
        mean, square = y.sum(-1, keepdims=True) / y.shape[-1], (y * y).sum(-1, keepdims=True) / y.shape[-1]
        slope = (np.maximum(square - mean * mean, 0) + eps) ** -0.5 * self._doubles(weight)
        return self._store(out, y * slope + (self._doubles(bias) - mean * slope), x.dtype, "layer_norm")

    def activation(self, x: Buffer, *, kind: str, out: Buffer | None = None) -> Buffer:
        return self._store(out, ACTIVATION[kind](self._doubles(x)), x.dtype, "activation")

    def softmax(
        self,
        x: Buffer,
        *,
        scale: float = 1.0,
        softcap: float | None = None,
        mask: Buffer | None = None,
        out: Buffer | None = None,
    ) -> Buffer:
        y = self._doubles(x) * scale
        if softcap is not None:
            y = np.tanh(y / softcap) * softcap
        if mask is not None:
            y = y + self._doubles(mask)
        # The floor keeps a row of -inf finite: its sum is zero, and so is the row.
        e = np.exp(y - y.max(axis=-1, keepdims=True, initial=np.finfo(np.float64).min))
        return self._store(out, e / np.maximum(e.sum(axis=-1, keepdims=True), 1e-300), x.dtype, "softmax")

    def rope(self, x: Buffer, cos: Buffer, sin: Buffer, positions: Buffer, *, out: Buffer | None = None) -> Buffer:
        y, n, at = self._doubles(x), cos.shape[1], self._see(positions)
        turned = (y[..., :n] + 1j * y[..., n : 2 * n]) * (self._see(cos) + 1j * self._see(sin))[at][:, None, :]
        y = np.concatenate([turned.real, turned.imag, y[..., 2 * n :]], axis=-1)
        return self._store(out, y, x.dtype, "rope")

    def kv_write(self, kv: Buffer, k: Buffer, v: Buffer, slots: Buffer) -> None:
        at = self._see(slots)
        tokens = self._see(kv).transpose(0, 3, 1, 2, 4)  # [N, B, 2, K, D]
        tokens[at // kv.shape[3], at % kv.shape[3]] = np.stack([self._see(k), self._see(v)], axis=1)

    def kv_gather(self, kv: Buffer, block_table: Buffer, num_tokens: int) -> tuple[Buffer, Buffer]:
        at = np.arange(num_tokens)
        tokens = self._see(kv)[self._see(block_table)[at // kv.shape[3]], :, :, at % kv.shape[3]]  # [S, 2, K, D]
        k, v = tokens.transpose(1, 2, 0, 3)
        return self._store(None, k, kv.dtype, "kv_gather"), self._store(None, v, kv.dtype, "kv_gather")

    def top_k(self, x: Buffer, k: int) -> tuple[Buffer, Buffer]:
        columns = np.broadcast_to(np.arange(x.shape[1], dtype=np.int32), x.shape)
        indices = np.lexsort((columns, -self._doubles(x)), axis=-1)[:, :k]  # equals in order of their column
        values = np.take_along_axis(self._see(x), indices, axis=1)
        return self._store(None, values, x.dtype, "top_k"), self._store(None, indices, dtypes.int32, "top_k")

    def cast(self, x: Buffer, dtype: DType, *, out: Buffer | None = None) -> Buffer:
        return self._store(out, self._see(x), dtype, "cast")

    def quantize(self, x: Buffer, scheme: QuantScheme) -> QBuffer:
        groups = self._doubles(x).reshape(scheme.grouped(x.shape[0], x.shape[1]))
        low, high = groups.min(-1, initial=np.inf), groups.max(-1, initial=-np.inf)
        low = np.minimum(low, 0) if scheme.super_group and not scheme.symmetric else low
        zeros = None if scheme.symmetric else low
        if zeros is not None:
            steps = (high - low) / (2**scheme.bits - 1)
        elif scheme.offset:
            steps = np.where(high > -low, high, low) / -scheme.offset
        else:
            steps = np.maximum(high, -low) / scheme.largest_code
        stored = [steps] if zeros is None else [steps, zeros]
        if scheme.super_group:
            limits = (-128, 127) if zeros is None else (0, 63)
            whole = [self._whole(numbers, limits, scheme) for numbers in stored]
            stored = [part for parts in zip(*(parts for _, *parts in whole), strict=True) for part in parts]
            steps, zeros = whole[0][0], None if zeros is None else whole[1][0]
        centred = groups - (0 if zeros is None else zeros[..., None])
        codes = centred / np.where(steps == 0, np.inf, steps)[..., None]
        if scheme.codes == "int":
            codes = np.floor(codes + 0.5).astype(np.int64) + scheme.offset
        if scheme.bits < 8:
            codes = np.clip(codes, 0, 2**scheme.bits - 1)
        if scheme.packing == "halves":
            codes = codes[..., : scheme.group // 2] + 16 * codes[..., scheme.group // 2 :]
        forms = scheme.parts(x.shape[0], x.shape[1]).values()
        parts = [
            self._store(None, part, dtype, "quantize") for part, (_, dtype) in zip((codes, *stored), forms, strict=True)
        ]
        return QBuffer.of_parts(scheme, (x.shape[0], x.shape[1]), parts)

    def dequantize(self, x: QBuffer, *, dtype: DType, out: Buffer | None = None) -> Buffer:
        return self._store(out, self._numbers(x), dtype, "dequantize")

    # -- an override ---------------------------------------------------------------------------------------------

    @overrides(
        "gated_activation",
        impl="handle.gated_activation",
        when=lambda s: YES if s.dtype == "float32" else No(f"dtype {s.dtype}"),
    )
    def _gated_activation(self, x: Buffer, *, kind: str, out: Buffer | None = None) -> Buffer:
        gate, up = np.split(self._doubles(x), 2, axis=1)
        return self._store(out, ACTIVATION[kind](gate) * up, x.dtype, "gated_activation")

    # -- private memory ------------------------------------------------------------------------------------------

    def _see(self, x: Buffer) -> Array:
        """This class's own view of a buffer, from its handle and strides."""
        if x.space != self.space:
            raise DeviceError(f"{x!r} is not in the memory of {self.info.id}", hint="device.copy brings it there")
        strides = [stride * x.dtype.itemsize for stride in x.strides]
        return np.ndarray(x.shape, x.dtype.numpy, self._memory.bytes, x.address - BASE, strides)

    def _doubles(self, x: Buffer) -> Doubles:
        return self._see(x).astype(np.float64)

    def _numbers(self, x: Buffer) -> Array:
        """What a buffer stands for, in the dtype it is stored in, or in float32 where it is quantized."""
        if not isinstance(x, QBuffer) or x.layout == UNPACKED:
            return self._see(x.payload if isinstance(x, QBuffer) else x)
        codes = self._see(x.payload)  # [N, groups, bytes]
        if x.scheme.packing == "halves":
            whole = codes.view(np.uint8)
            codes = np.concatenate([whole % 16, whole // 16], axis=-1)
        elif x.scheme.codes == "int":
            codes = codes.view(np.int8)
        codes = codes.astype(np.float32)
        y = (codes - x.scheme.offset) * self._scaled(x.scales, x.scale_factors)
        if x.zeros is not None:
            y += self._scaled(x.zeros, x.zero_factors)
        return y.reshape(x.shape)

    def _scaled(self, numbers: Buffer, factors: Buffer | None) -> Array:
        """Scales or zeros of groups [N, groups, 1] in float32."""
        own = self._see(numbers).astype(np.float32)
        if factors is None:
            return own[..., None]
        near = own.reshape(*factors.shape, numbers.shape[1] // max(factors.shape[1], 1))
        return (near * self._see(factors).astype(np.float32)[..., None]).reshape(*numbers.shape, 1)

    @staticmethod
    def _whole(numbers: Doubles, limits: tuple[int, int], scheme: QuantScheme) -> tuple[Doubles, Array, Array]:
        """Numbers [N, groups] as multiples of a float16 factor per super-group: what they then are, codes, factors."""
        per_factor = scheme.super_group // scheme.group
        near = numbers.reshape(numbers.shape[0], numbers.shape[1] // per_factor, per_factor)
        low, high = near.min(-1, initial=0), near.max(-1, initial=0)
        largest = np.where(high >= -low, high, low)
        factors = (largest / (limits[0] or limits[1])).astype(np.float16).astype(np.float64)
        exact = near / np.where(factors == 0, np.inf, factors)[..., None]
        codes = np.clip(np.floor(exact + 0.5), *limits)
        return (codes * factors[..., None]).reshape(numbers.shape), codes.reshape(numbers.shape), factors

    def _store(self, out: Buffer | None, y: Array, dtype: DType, tag: str) -> Buffer:
        if out is None:
            shape: Shape = y.shape
            out = self.alloc(shape, dtype, tag)
        with np.errstate(over="ignore"):  # too large for a narrow float is infinite there
            self._see(out)[...] = y.astype(out.dtype.numpy, copy=False)
        return out
