"""HandheldDevice: memory behind handles, and the fifteen primitives, in plain arithmetic of the card.

T tokens, H heads, D head_dim, N blocks, K kv heads, B block size: the letters of rtp_core's docstrings.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

import numpy as np

from rtp_core.plugin import (
    Buffer,
    Device,
    DeviceError,
    DType,
    Manifest,
    MemorySpace,
    QBuffer,
    QuantScheme,
    Region,
    dtypes,
)
from rtp_handheld.card import FIRST_HANDLE, Card
from rtp_handheld.plugin import MANIFEST, MEMORY_BYTES

Array: TypeAlias = np.ndarray[Any, Any]
Maybe: TypeAlias = Buffer | None  # an operand that may be left out
UNPACKED = "handheld.unpacked"  # the layout of prepared weights: the payload holds the numbers, [N, K] float32

_erf = np.frompyfunc(math.erf, 1, 1)
ACTIVATION: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: x * (1 + np.asarray(_erf(x * math.sqrt(0.5)), np.float32)) / 2,
    "gelu_tanh": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))) / 2,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: (1 + np.tanh(x / 2)) / 2,
    "silu": lambda x: x * (1 + np.tanh(x / 2)) / 2,
    "tanh": np.tanh,
}


class HandheldDevice(Device):
    """One card. All composites are the defaults that core makes of the primitives below."""

    manifest: ClassVar[Manifest] = MANIFEST
    space = MemorySpace("handheld:0", host_addressable=False)

    def memory_info(self) -> tuple[int, int]:
        return MEMORY_BYTES, MEMORY_BYTES

    def reserve(self, nbytes: int) -> Region:
        self._card = Card(nbytes)
        return Region(self.space, FIRST_HANDLE, nbytes)

    def copy(self, dst: Buffer, src: Buffer) -> None:
        if dst.shape != src.shape or dst.dtype is not src.dtype:
            raise DeviceError(f"cannot copy {src!r} to {dst!r}", why="shapes and dtypes must be equal")
        to, source = (x.numpy() if x.space.host_addressable else self._see(x) for x in (dst, src))
        to[...] = source

    def prepare_weight(self, weight: Buffer, tag: str) -> Buffer:
        """Quantized weights are unpacked once, at load."""
        plain = super().prepare_weight(weight, tag)
        if not isinstance(plain, QBuffer):
            return plain
        shape = (plain.shape[0], plain.shape[1])
        numbers = self.dequantize(plain, dtype=dtypes.float32, out=self.alloc(shape, dtypes.float32, tag))
        return QBuffer(plain.scheme, shape, numbers, plain.scales, plain.zeros, layout=UNPACKED)

    def _see(self, x: Buffer) -> Array:
        if x.space != self.space:
            raise DeviceError(f"{x!r} is not in the memory of {self.info.id}", hint="device.copy brings it there")
        return self._card.see(x.address, x.shape, x.strides, x.dtype.numpy)

    def _f32(self, x: Buffer) -> Array:
        """The numbers of any operand in float32: all arithmetic is done in it."""
        if not isinstance(x, QBuffer) or x.layout == UNPACKED:
            return self._see(x.payload if isinstance(x, QBuffer) else x).astype(np.float32, copy=False)
        codes = self._see(x.payload).view(np.uint8)  # [N, groups, bytes]
        if x.scheme.packing == "halves":
            numbers = np.concatenate([codes & 15, codes >> 4], axis=-1).astype(np.float32) - x.scheme.offset
        else:
            numbers = codes.view(np.int8).astype(np.float32)
        numbers *= self._see(x.scales).astype(np.float32)[..., None]
        if x.zeros is not None:
            numbers += self._see(x.zeros).astype(np.float32)[..., None]
        return numbers.reshape(x.shape)

    def _store(self, out: Maybe, numbers: Array, dtype: DType, op: str) -> Buffer:
        """Numbers in `out`, or where the caller gave none in a new buffer under the op's name."""
        result = self.alloc(numbers.shape, dtype, op) if out is None else out
        with np.errstate(over="ignore"):  # too large for a narrow float is infinite there
            self._see(result)[...] = numbers.astype(result.dtype.numpy, copy=False)
        return result

    def gather_rows(self, table: Buffer, ids: Buffer, *, dtype: DType | None = None, out: Maybe = None) -> Buffer:
        rows = self._see(ids)
        numbers = (self._f32(table) if isinstance(table, QBuffer) else self._see(table))[rows]
        return self._store(out, numbers, dtype or table.dtype, "gather_rows")

    def gemm(self, a: Buffer, b: Buffer, *, bias: Maybe = None, trans_b: bool = False, out: Maybe = None) -> Buffer:
        right = self._f32(b)
        product = self._f32(a) @ (right.swapaxes(-1, -2) if trans_b else right)
        return self._store(out, product if bias is None else product + self._f32(bias), a.dtype, "gemm")

    def add(self, a: Buffer, b: Buffer, *, out: Maybe = None) -> Buffer:
        return self._store(out, self._f32(a) + self._f32(b), a.dtype, "add")

    def mul(self, a: Buffer, b: Buffer, *, out: Maybe = None) -> Buffer:
        return self._store(out, self._f32(a) * self._f32(b), a.dtype, "mul")

    def rms_norm(self, x: Buffer, weight: Buffer, *, eps: float, out: Maybe = None) -> Buffer:
        y = self._f32(x)
        y = y / np.sqrt((y * y).mean(-1, keepdims=True) + np.float32(eps))
        return self._store(out, y * self._f32(weight), x.dtype, "rms_norm")

    def layer_norm(self, x: Buffer, weight: Buffer, bias: Buffer, *, eps: float, out: Maybe = None) -> Buffer:
        y = self._f32(x)
        y = y - y.mean(-1, keepdims=True)
        y = y / np.sqrt((y * y).mean(-1, keepdims=True) + np.float32(eps))
        return self._store(out, y * self._f32(weight) + self._f32(bias), x.dtype, "layer_norm")

    def activation(self, x: Buffer, *, kind: str, out: Maybe = None) -> Buffer:
        return self._store(out, ACTIVATION[kind](self._f32(x)), x.dtype, "activation")

    def softmax(
        self, x: Buffer, *, scale: float = 1.0, softcap: float | None = None, mask: Maybe = None, out: Maybe = None
    ) -> Buffer:
        y = self._f32(x) * np.float32(scale)
        y = y if softcap is None else np.tanh(y / np.float32(softcap)) * np.float32(softcap)
        y = y if mask is None else y + self._f32(mask)
        # A row of only -inf gives zeros: the lowest float32 as its maximum keeps the difference defined.
        e = np.exp(y - y.max(-1, keepdims=True, initial=np.finfo(np.float32).min))
        return self._store(out, e / np.maximum(e.sum(-1, keepdims=True), 1e-30), x.dtype, "softmax")

    def rope(self, x: Buffer, cos: Buffer, sin: Buffer, positions: Buffer, *, out: Maybe = None) -> Buffer:
        at, n, y = self._see(positions), cos.shape[1], self._f32(x)
        c, s = self._see(cos)[at][:, None], self._see(sin)[at][:, None]  # [T, 1, n]: alike for all heads
        first, second = y[..., :n], y[..., n : 2 * n]
        turned = np.concatenate([first * c - second * s, second * c + first * s, y[..., 2 * n :]], axis=-1)
        return self._store(out, turned, x.dtype, "rope")

    def kv_write(self, kv: Buffer, k: Buffer, v: Buffer, slots: Buffer) -> None:
        block, offset = np.divmod(self._see(slots), kv.shape[3])
        cache = self._see(kv)  # [N, 2, K, B, D]
        cache[block, 0, :, offset], cache[block, 1, :, offset] = self._see(k), self._see(v)

    def kv_gather(self, kv: Buffer, block_table: Buffer, num_tokens: int) -> tuple[Buffer, Buffer]:
        at = np.arange(num_tokens)
        tokens = self._see(kv)[self._see(block_table)[at // kv.shape[3]], :, :, at % kv.shape[3]]  # [tokens, 2, K, D]
        k, v = tokens.transpose(1, 2, 0, 3)
        return self._store(None, k, kv.dtype, "kv_gather"), self._store(None, v, kv.dtype, "kv_gather")

    def top_k(self, x: Buffer, k: int) -> tuple[Buffer, Buffer]:
        ids = np.argsort(-self._f32(x), axis=1, kind="stable")[:, :k]
        values = np.take_along_axis(self._see(x), ids, axis=1)
        return self._store(None, values, x.dtype, "top_k"), self._store(None, ids, dtypes.int32, "top_k")

    def cast(self, x: Buffer, dtype: DType, *, out: Maybe = None) -> Buffer:
        return self._store(out, self._see(x), dtype, "cast")

    def quantize(self, x: Buffer, scheme: QuantScheme) -> QBuffer:
        groups = self._f32(x).reshape(x.shape[0], x.shape[1] // scheme.group, scheme.group)
        low, high = groups.min(-1), groups.max(-1)
        if not scheme.symmetric:
            step = (high - low) / (2**scheme.bits - 1)
        elif scheme.offset:  # the value of largest magnitude becomes code 0
            step = np.where(-low >= high, low, high) / -scheme.offset
        else:
            step = np.maximum(-low, high) / (2 ** (scheme.bits - 1) - 1)
        base = np.zeros_like(low) if scheme.symmetric else low
        codes = np.rint((groups - base[..., None]) / np.where(step == 0, 1, step)[..., None]) + scheme.offset
        if scheme.packing == "halves":
            nibbles = codes.clip(0, 15).astype(np.uint8)
            half = scheme.group // 2
            payload = nibbles[..., :half] | nibbles[..., half:] << 4
        else:
            payload = codes.astype(np.int8).view(np.uint8)
        parts = [self._store(None, payload, dtypes.uint8, "quantize")]
        parts += [self._store(None, y, dtypes.float16, "quantize") for y in (step, base)[: 2 - scheme.symmetric]]
        return QBuffer(scheme, (x.shape[0], x.shape[1]), *parts)

    def dequantize(self, x: QBuffer, *, dtype: DType, out: Maybe = None) -> Buffer:
        return self._store(out, self._f32(x), dtype, "dequantize")
