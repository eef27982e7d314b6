"""The CPU device: each primitive is a check of shapes and one call into the kernels of the chosen instruction set.

Kernels take operands of one dtype, with rows a constant stride apart. What differs is brought there first:
other strides by a copy, mixed dtypes by computing in float32, which is exact for every operand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rtp_core.plugin import (
    YES,
    AttentionBatch,
    Buffer,
    Device,
    DeviceConfig,
    DeviceInfo,
    DType,
    FfnWeights,
    KVLayout,
    LayerWeights,
    Manifest,
    No,
    Norm,
    OutOfMemoryError,
    QBuffer,
    QuantScheme,
    Region,
    Shape,
    Signature,
    Yes,
    dtypes,
    overrides,
    reserve_host,
)
from rtp_cpu import attention, encoder, matmul, paired, quantized
from rtp_cpu._native import ffi, lib
from rtp_cpu.manifest import MANIFEST
from rtp_cpu.native import DTYPES, KINDS, NULL, Native, int64s, mismatch, pointer
from rtp_cpu.paired import PairedWeight
from rtp_cpu.processor import usable_threads
from rtp_cpu.views import has_contiguous_rows, rows_of

MAX_COPY_RANK = 6
REHEARSAL_ROOM = 8  # times the host's memory: what does not fit into the arena shall be measured too
_INDEX_TYPES = (dtypes.int32, dtypes.int64)


def _has_quantized_weights(signature: Signature) -> Yes | No:
    return No("its weights are floats") if signature.scheme == "none" else YES


def _is_int8(signature: Signature) -> Yes | No:
    if signature.scheme != "q8_0":
        return No(f"its weights are {signature.scheme}, not q8_0")
    return YES if signature.dtype == "float32" else No(f"its activations are {signature.dtype}, not float32")


def _addresses(nbytes: int) -> Region:
    """A region to be touched hardly anywhere: of half the size, and so on, where the system promises no more."""
    while True:
        try:
            return reserve_host(nbytes)
        except OutOfMemoryError:
            if nbytes < 1 << 20:
                raise
            nbytes //= 2


class CpuDevice(Device):
    """Host memory, C kernels, one pool of threads."""

    manifest: ClassVar[Manifest] = MANIFEST
    kv_layout = KVLayout(fast_dtype="float16")  # half the bytes to read at every step, far finer than int8 activations

    def __init__(self, info: DeviceInfo, config: DeviceConfig, isa: str) -> None:
        super().__init__(info, config)
        self._native = Native(self, isa, usable_threads() if config.threads is None else config.threads)
        self._handle = self._native.handle

    def memory_beside(self) -> Mapping[str, int]:
        tapes = self._native.tape_bytes
        return {"tapes of recorded steps": tapes} if tapes else {}

    def rehearsal(self) -> Device:
        twin = self.over(_addresses(REHEARSAL_ROOM * self.memory_info()[0]))
        twin._native = Native(twin, self._native.isa, self._native.threads, rehearses=True)
        twin._handle = twin._native.handle
        return twin

    def capture(self, step: Callable[[], None]) -> Callable[[], None] | None:
        return self._native.capture(step)

    def close(self) -> None:
        self._native.close()

    # -- movement ------------------------------------------------------------------------------------------------

    def copy(self, dst: Buffer, src: Buffer) -> None:
        rank, is_alike = len(src.shape), dst.shape == src.shape and dst.dtype is src.dtype
        is_alike = is_alike and PairedWeight not in (type(src), type(dst))  # the default's errors tell of it
        if self._native.rehearses:
            if not is_alike or src.dtype in _INDEX_TYPES:
                super().copy(dst, src)
            return
        is_ours = is_alike and 0 < rank <= MAX_COPY_RANK
        if not is_ours or dst.storage is src.storage:  # what overlaps, and errors, are the default's
            self._native.spoil_recording()
            super().copy(dst, src)
            return
        shape, to, of = int64s(src.shape), int64s(dst.strides), int64s(src.strides)
        if status := lib.rtp_cpu_copy(
            self._handle, src.dtype.itemsize, rank, shape, pointer(dst), to, pointer(src), of
        ):
            self._native.fail(status, "copy", dst, src)

    def download(self, x: Buffer) -> NDArray[Any]:
        if self._native.rehearses and x.dtype not in _INDEX_TYPES:  # no copy will fill the array
            return np.zeros(x.shape, x.dtype.numpy)
        return super().download(x)

    def prepare_weight(self, weight: Buffer, tag: str) -> Buffer:
        if isinstance(weight, QBuffer) and weight.layout == "plain":
            return quantized.prepare(self, self._native, weight, tag)
        if weight.dtype is dtypes.bfloat16:
            return paired.prepare(self, self._native, weight, tag)
        return super().prepare_weight(weight, tag)

    def _contiguous(self, x: Buffer) -> Buffer:
        if x.is_contiguous:
            return x
        result = self.alloc(x.shape, x.dtype, "contiguous")
        self.copy(result, x)
        return result

    def _wide(self, x: Buffer) -> Buffer:
        return x if x.dtype is dtypes.float32 else self.cast(x, dtypes.float32)

    def _narrow(self, x: Buffer, out: Buffer) -> Buffer:
        """Store x in `out`, whatever its dtype and strides."""
        if x is not out:
            self.cast(x, out.dtype, out=out)
        return out

    def _indices(self, x: Buffer) -> Buffer:
        """int32 without gaps."""
        if x.dtype is not dtypes.int32:
            return self.upload(x.numpy().astype(dtypes.int32.numpy), "indices")
        return self._contiguous(x)

    # -- element-wise --------------------------------------------------------------------------------------------

    def add(self, a: Buffer, b: Buffer, *, out: Buffer | None = None) -> Buffer:
        return self._binary(lib.RTP_CPU_ADD, a, b, out, "add")

    def mul(self, a: Buffer, b: Buffer, *, out: Buffer | None = None) -> Buffer:
        return self._binary(lib.RTP_CPU_MUL, a, b, out, "mul")

    def _binary(self, op: int, a: Buffer, b: Buffer, out: Buffer | None, tag: str) -> Buffer:
        if out is None:
            out = self.alloc(a.shape, a.dtype, tag)
        if not a.dtype is b.dtype is out.dtype:
            return self._narrow(self._binary(op, self._wide(a), self._wide(b), None, tag), out)
        rows, to = rows_of(a), rows_of(out)
        if rows is None or to is None or not has_contiguous_rows(b):
            return self._narrow(self._binary(op, self._contiguous(a), self._contiguous(b), None, tag), out)
        if b.shape == a.shape and (other := rows_of(b)) is not None:
            row, column = other.stride, 1
        elif b.shape == a.shape[-1:]:
            row, column = 0, 1
        elif b.shape == (*a.shape[:-1], 1) and len(b.shape) == 2:
            row, column = b.strides[0], 0
        else:
            raise mismatch(tag, a, b, out)
        if out.shape != a.shape:
            raise mismatch(tag, a, b, out)
        if status := lib.rtp_cpu_binary(
            self._handle, op, DTYPES[a.dtype], pointer(out), pointer(a), pointer(b),
            rows.number, rows.width, to.stride, rows.stride, row, column,
        ):  # fmt: skip
            self._native.fail(status, tag, a, b, out)
        return out

    def activation(self, x: Buffer, *, kind: str, out: Buffer | None = None) -> Buffer:
        if out is None:
            out = self.alloc(x.shape, x.dtype, "activation")
        if out.dtype is not x.dtype:
            return self._narrow(self.activation(self._wide(x), kind=kind), out)
        rows, to = rows_of(x), rows_of(out)
        if rows is None or to is None:
            return self._narrow(self.activation(self._contiguous(x), kind=kind), out)
        if out.shape != x.shape or kind not in KINDS:
            raise mismatch(f"activation {kind!r}", x, out)
        if status := lib.rtp_cpu_activation(
            self._handle, KINDS[kind], DTYPES[x.dtype], pointer(out), pointer(x),
            rows.number, rows.width, to.stride, rows.stride,
        ):  # fmt: skip
            self._native.fail(status, "activation", x, out)
        return out

    @overrides("gated_activation", impl="cpu.gated_activation")
    def _gated_activation(self, x: Buffer, *, kind: str, out: Buffer | None = None) -> Buffer:
        rows, half = rows_of(x), x.shape[1] // 2
        if out is None:
            out = self.alloc((x.shape[0], half), x.dtype, "gated_activation")
        to = rows_of(out)
        if out.dtype is not x.dtype or rows is None or to is None:
            return self._narrow(self._gated_activation(self._wide(self._contiguous(x)), kind=kind), out)
        if out.shape != (x.shape[0], half) or kind not in KINDS:
            raise mismatch(f"gated_activation {kind!r}", x, out)
        if status := lib.rtp_cpu_gated_activation(
            self._handle, KINDS[kind], DTYPES[x.dtype], pointer(out), pointer(x), pointer(x[:, half:]),
            rows.number, half, to.stride, rows.stride, rows.stride,
        ):  # fmt: skip
            self._native.fail(status, "gated_activation", x, out)
        return out

    def cast(self, x: Buffer, dtype: DType, *, out: Buffer | None = None) -> Buffer:
        if out is None:
            out = self.alloc(x.shape, dtype, "cast")
        if x.dtype not in DTYPES or out.dtype is not dtype or dtype not in DTYPES or out.shape != x.shape:
            raise mismatch(f"cast to {dtype}", x, out)
        rows, to = rows_of(x), rows_of(out)
        if rows is None:
            return self.cast(self._contiguous(x), dtype, out=out)
        if to is None:
            self.copy(out, self.cast(x, dtype))
            return out
        codes = DTYPES[dtype], pointer(out), DTYPES[x.dtype], pointer(x)
        if status := lib.rtp_cpu_cast(self._handle, *codes, rows.number, rows.width, to.stride, rows.stride):
            self._native.fail(status, "cast", x, out)
        return out

    # -- rows ----------------------------------------------------------------------------------------------------

    def rms_norm(self, x: Buffer, weight: Buffer, *, eps: float, out: Buffer | None = None) -> Buffer:
        return self._normed(x, None, Norm(weight, eps), out)

    def layer_norm(self, x: Buffer, weight: Buffer, bias: Buffer, *, eps: float, out: Buffer | None = None) -> Buffer:
        return self._normed(x, None, Norm(weight, eps, bias), out)

    @overrides("add_norm", impl="cpu.add_norm", handles={"layer_norm"})
    def _add_norm(self, x: Buffer, residual: Buffer, norm: Norm, *, out: Buffer | None = None) -> tuple[Buffer, Buffer]:
        if x.dtype is residual.dtype and x.shape == residual.shape and rows_of(x) and rows_of(residual):
            return self._normed(x, residual, norm, out), residual
        total = self.add(x, residual, out=residual)
        return self._normed(total, None, norm, out), total

    def _normed(self, x: Buffer, residual: Buffer | None, norm: Norm, out: Buffer | None) -> Buffer:
        """norm(x), or norm(x + residual) with the sum written over `residual`."""
        weight, bias = norm.weight, norm.bias
        if out is None:
            out = self.alloc(x.shape, x.dtype, "norm")
        rows, to, other = rows_of(x), rows_of(out), None if residual is None else rows_of(residual)
        if rows is None or to is None or out.dtype is not x.dtype:
            result = x if residual is None else self.add(x, residual, out=residual)
            return self._narrow(self._normed(self._wide(self._contiguous(result)), None, norm, None), out)
        if bias is not None and bias.dtype is not weight.dtype:
            return self._normed(x, residual, Norm(self._wide(weight), norm.eps, self._wide(bias)), out)
        if weight.shape != x.shape[-1:] or (bias is not None and bias.shape != weight.shape) or out.shape != x.shape:
            raise mismatch("norm", x, weight, bias, out)
        total, total_stride = (NULL, 0) if residual is None or other is None else (pointer(residual), other.stride)
        kind = lib.RTP_CPU_RMS_NORM if bias is None else lib.RTP_CPU_LAYER_NORM
        weight, bias = self._contiguous(weight), None if bias is None else self._contiguous(bias)
        affine = DTYPES[weight.dtype], pointer(weight), NULL if bias is None else pointer(bias)
        if status := lib.rtp_cpu_norm(
            self._handle, kind, DTYPES[x.dtype], pointer(out), total, pointer(x), total, *affine, norm.eps,
            rows.number, rows.width, to.stride, total_stride, rows.stride, total_stride,
        ):  # fmt: skip
            self._native.fail(status, "norm", x, weight, bias, out)
        return out

    def softmax(
        self,
        x: Buffer,
        *,
        scale: float = 1.0,
        softcap: float | None = None,
        mask: Buffer | None = None,
        out: Buffer | None = None,
    ) -> Buffer:
        if out is None:
            out = self.alloc(x.shape, x.dtype, "softmax")
        rows, to = rows_of(x), rows_of(out)
        if rows is None or to is None or out.dtype is not x.dtype:
            wide = self._wide(self._contiguous(x))
            return self._narrow(self.softmax(wide, scale=scale, softcap=softcap, mask=mask), out)
        if mask is not None and (mask.shape != x.shape[-2:] or mask.dtype is not dtypes.float32):
            raise mismatch("softmax", x, mask, out)
        if mask is not None and not has_contiguous_rows(mask):
            mask = self._contiguous(mask)
        seen = (NULL, 0) if mask is None else (pointer(mask), mask.shape[0])
        if status := lib.rtp_cpu_softmax(
            self._handle, DTYPES[x.dtype], pointer(out), pointer(x), *seen, scale, softcap or 0.0,
            rows.number, rows.width, to.stride, rows.stride, 0 if mask is None else mask.strides[0],
        ):  # fmt: skip
            self._native.fail(status, "softmax", x, mask, out)
        return out

    def rope(self, x: Buffer, cos: Buffer, sin: Buffer, positions: Buffer, *, out: Buffer | None = None) -> Buffer:
        if out is None:
            out = self.alloc(x.shape, x.dtype, "rope")
        if out.dtype is not x.dtype or not has_contiguous_rows(x) or not has_contiguous_rows(out):
            return self._narrow(self.rope(self._wide(self._contiguous(x)), cos, sin, positions), out)
        tokens, heads, head_dim = x.shape
        if positions.shape != (tokens,) or cos.shape != sin.shape or cos.dtype is not dtypes.float32:
            raise mismatch("rope", x, cos, sin, positions, out)
        cos, sin, positions = self._contiguous(cos), self._contiguous(sin), self._indices(positions)
        if status := lib.rtp_cpu_rope(
            self._handle, DTYPES[x.dtype], pointer(out), pointer(x), pointer(cos), pointer(sin), pointer(positions),
            tokens, heads, head_dim, cos.shape[1], cos.shape[0], *out.strides[:2], *x.strides[:2],
        ):  # fmt: skip
            self._native.fail(status, "rope", x, cos, positions)
        return out

    def gather_rows(
        self, table: Buffer, ids: Buffer, *, dtype: DType | None = None, out: Buffer | None = None
    ) -> Buffer:
        if out is None:
            out = self.alloc((*ids.shape, table.shape[1]), dtype or table.dtype, "gather_rows")
        if not has_contiguous_rows(out):
            return self._narrow(self.gather_rows(table, ids, dtype=out.dtype), out)
        ids = self._indices(ids)
        if isinstance(table, QBuffer):
            return quantized.unpack(self, self._native, table, ids, out)
        if isinstance(table, PairedWeight):
            return paired.gather_rows(self._native, table, ids, out)
        if not has_contiguous_rows(table):
            table = self._contiguous(table)
        if out.shape != (ids.shape[0], table.shape[1]):
            raise mismatch("gather_rows", table, ids, out)
        if status := lib.rtp_cpu_gather_rows(
            self._handle, DTYPES[out.dtype], pointer(out), DTYPES[table.dtype], pointer(table), pointer(ids),
            ids.shape[0], *table.shape, out.strides[0], table.strides[0],
        ):  # fmt: skip
            self._native.fail(status, "gather_rows", table, ids, out)
        return out

    def top_k(self, x: Buffer, k: int) -> tuple[Buffer, Buffer]:
        if not has_contiguous_rows(x):
            x = self._contiguous(x)
        shape: Shape = (x.shape[0], k)
        values, indices = self.alloc(shape, x.dtype, "top_k"), self.alloc(shape, dtypes.int32, "top_k")
        results = pointer(values), pointer(indices)
        if status := lib.rtp_cpu_top_k(self._handle, DTYPES[x.dtype], *results, pointer(x), *x.shape, k, x.strides[0]):
            self._native.fail(status, f"top {k}", x)
        return values, indices

    @overrides("sample", impl="cpu.sample")
    def _sample(
        self,
        logits: Buffer,
        *,
        temperature: NDArray[np.float32],
        top_k: NDArray[np.int64],
        top_p: NDArray[np.float32],
        min_p: NDArray[np.float32],
        uniforms: NDArray[np.float64],
    ) -> NDArray[np.int64]:
        """The default in one kernel; errors are the default's own."""
        peaks, ids = np.empty(logits.shape[0], np.float32), np.empty(logits.shape[0], np.int32)
        arrays = (
            ("float", peaks), ("int32_t", ids), ("float", temperature), ("int64_t", top_k), ("float", top_p),
            ("float", min_p), ("double", uniforms),
        )  # fmt: skip
        values, indices, *chosen_by = (ffi.from_buffer(f"{ctype}[]", array) for ctype, array in arrays)
        sizes = *logits.shape, logits.strides[0]
        if status := lib.rtp_cpu_sample(self._handle, values, indices, pointer(logits), *chosen_by, *sizes):
            self._native.fail(status, "sample", logits)
        if not np.isfinite(peaks).all():
            return super().sample(
                logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, uniforms=uniforms
            )
        return ids.astype(np.int64)

    # -- matrix products and quantized weights -------------------------------------------------------------------

    def gemm(
        self, a: Buffer, b: Buffer, *, bias: Buffer | None = None, trans_b: bool = False, out: Buffer | None = None
    ) -> Buffer:
        if out is None:
            out = self.alloc((*a.shape[:-1], b.shape[-2 if trans_b else -1]), a.dtype, "gemm")
        if out.dtype is not a.dtype or not has_contiguous_rows(out):
            return self._narrow(self.gemm(self._wide(a), b, bias=bias, trans_b=trans_b), out)
        if not has_contiguous_rows(a):
            a = self._contiguous(a)
        if bias is not None:
            bias = self._contiguous(bias)
        if isinstance(b, QBuffer | PairedWeight) and not trans_b:
            raise mismatch("gemm without trans_b", a, b, bias, out)
        if isinstance(b, QBuffer):
            quantized.gemm(self, self._native, a, b, bias, out)
        elif isinstance(b, PairedWeight):
            paired.gemm(self._native, a, b, bias, out)
        else:
            matmul.gemm(self, self._native, a, b, bias, trans_b, out)
        return out

    @overrides("ffn_layer", impl="cpu.ffn_layer", handles={"bias"}, when=_has_quantized_weights)
    def _ffn_layer(self, x: Buffer, weights: FfnWeights, *, out: Buffer | None = None) -> Buffer:
        """The default, where gate and up meet in the product itself; of other forms, the default."""
        if not quantized.can_gate(x, weights):
            return super().ffn_layer(x, weights, out=out)
        inner = self.alloc((x.shape[0], weights.down.weight.shape[1]), x.dtype, "ffn_layer")
        quantized.gated_gemm(self._native, x, weights.up[0], weights.activation, inner)
        return self.linear(inner, weights.down, out=out)

    def quantize(self, x: Buffer, scheme: QuantScheme) -> QBuffer:
        return quantized.quantize(self, self._native, self._contiguous(x), scheme)

    def dequantize(self, x: QBuffer, *, dtype: DType, out: Buffer | None = None) -> Buffer:
        if out is None:
            out = self.alloc(x.shape, dtype, "dequantize")
        if not has_contiguous_rows(out):
            return self._narrow(self.dequantize(x, dtype=dtype), out)
        return quantized.unpack(self, self._native, x, None, out)

    # -- blocked KV ----------------------------------------------------------------------------------------------

    def kv_write(self, kv: Buffer, k: Buffer, v: Buffer, slots: Buffer) -> None:
        if k.dtype is not v.dtype or not has_contiguous_rows(k) or not has_contiguous_rows(v):
            k, v = self._wide(self._contiguous(k)), self._wide(self._contiguous(v))
        slots = self._indices(slots)
        if k.shape != v.shape or k.shape != (prod(slots.shape), kv.shape[2], kv.shape[4]):
            raise mismatch("kv_write", kv, k, v, slots)
        if status := lib.rtp_cpu_kv_write(
            self._handle, self._native.kv(kv), DTYPES[k.dtype], pointer(k), pointer(v), pointer(slots),
            k.shape[0], *k.strides[:2], *v.strides[:2],
        ):  # fmt: skip
            self._native.fail(status, "kv_write", kv, k, slots)

    def kv_gather(self, kv: Buffer, block_table: Buffer, num_tokens: int) -> tuple[Buffer, Buffer]:
        shape: Shape = (kv.shape[2], num_tokens, kv.shape[4])
        table = self._indices(block_table)
        if -(-num_tokens // kv.shape[3]) > table.shape[0]:
            raise mismatch(f"kv_gather of {num_tokens} tokens", kv, table)
        k, v = self.alloc(shape, kv.dtype, "kv_gather"), self.alloc(shape, kv.dtype, "kv_gather")
        view = self._native.kv(kv)
        if status := lib.rtp_cpu_kv_gather(self._handle, view, pointer(k), pointer(v), pointer(table), num_tokens):
            self._native.fail(status, "kv_gather", kv, table)
        return k, v

    @overrides("decoder_self_attention", impl="cpu.decoder_self_attention")
    def _decoder_self_attention(
        self, q: Buffer, kv: Buffer, batch: AttentionBatch, *, scale: float, out: Buffer | None = None
    ) -> Buffer:
        return attention.decode(self, self._native, q, kv, batch, scale, out)

    @overrides("context_attention", impl="cpu.context_attention")
    def _context_attention(
        self, q: Buffer, kv: Buffer, batch: AttentionBatch, *, scale: float, out: Buffer | None = None
    ) -> Buffer:
        return attention.context(self, self._native, q, kv, batch, scale, out)

    @overrides(
        "encoder_layer",
        impl="cpu.encoder_layer_int8",
        priority=110,
        handles={"bias", "layer_norm"},
        when=_is_int8,
    )
    def _encoder_layer_int8(self, x: Buffer, weights: LayerWeights, lengths: tuple[int, ...]) -> Buffer:
        if not encoder.is_native(self, x, weights):
            return self._encoder_layer(x, weights, lengths)
        return encoder.layer(self, self._native, x, weights, lengths)

    @overrides("encoder_layer", impl="cpu.encoder_layer", handles={"bias", "layer_norm"})
    def _encoder_layer(self, x: Buffer, weights: LayerWeights, lengths: tuple[int, ...]) -> Buffer:
        """The default, with the attention of all requests and heads in one kernel."""
        q, k, v = self.qkv_linear(x, weights.attention)
        attended = attention.within(self, self._native, q, k, v, lengths, weights.attention.scale)
        y = self.linear(attended.view(x.shape[0], q.shape[1] * q.shape[2]), weights.attention.o)
        x, _ = self.add_norm(self.communicator.all_reduce(y), x, weights.attention_norm)
        assert isinstance(weights.ffn, FfnWeights)  # experts are a feature of their own
        y = self.ffn_layer(x, weights.ffn)
        return self.add_norm(self.communicator.all_reduce(y), x, weights.ffn_norm)[0]
