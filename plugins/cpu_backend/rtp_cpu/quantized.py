"""Quantized weights: the layout rows16 that `prepare_weight` makes, and the ops that read it or the plain one.

rows16 is one run of bytes: 16 rows interleaved, scales and zeros beside their codes (see csrc/rows16.h).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rtp_core.plugin import (
    Buffer,
    ContractError,
    Device,
    DeviceError,
    FfnWeights,
    Linear,
    QBuffer,
    QuantScheme,
    dtypes,
)
from rtp_cpu._native import ffi, lib
from rtp_cpu.native import DTYPES, KINDS, NULL, SCHEMES, Native, mismatch, pointer
from rtp_cpu.views import matrices, rows_of

ROWS16 = "rows16"
ROWS = 16  # of a group
FEW_ROWS = (
    24  # of activations: they wait for the weights, and gate's and up's in turn come slower than one after the other
)

_cast = ffi.cast
_TYPES = {
    "payload": "uint8_t *", "scales": "void *", "zeros": "void *",
    "scale_factors": "uint16_t *", "zero_factors": "uint16_t *",
}  # fmt: skip


def _code(scheme: QuantScheme) -> int:
    try:
        return SCHEMES[scheme.name]
    except KeyError:
        raise DeviceError(f"no kernels for scheme {scheme.name}", why=f"there are {', '.join(SCHEMES)}") from None


def _plain(device: Device, x: QBuffer) -> tuple[Any, tuple[Buffer, ...]]:
    """The parts as the kernels see them, rows without gaps, and the buffers that keep them alive."""
    if x.layout != "plain":
        raise ContractError(f"cannot read layout {x.layout!r}", why="expected plain")
    if block_bytes := _block_bytes(x):
        return _view(x.named_parts, block_bytes), x.parts
    parts = []
    for part in x.parts:
        if not part.is_contiguous and part.storage.is_borrowed:  # of a file: what it takes to load is not the device's
            part = Buffer.borrow(np.ascontiguousarray(part.numpy()))
        elif not part.is_contiguous:
            whole = device.alloc(part.shape, part.dtype, "contiguous")
            device.copy(whole, part)
            part = whole
        parts.append(part)
    return _view(dict(zip(x.scheme.part_names, parts, strict=True))), tuple(parts)


def _block_bytes(x: QBuffer) -> int:
    """From each group to the next, where a checkpoint has scales, zeros and codes of a group side by side; else 0."""
    if x.scheme.super_group:
        return 0
    row, nbytes = x.payload.shape[1] * x.payload.strides[1], x.payload.strides[1]
    is_regular = all((2 * part.strides[0], 2 * part.strides[1]) == (row, nbytes) for part in x.parts[1:])
    return nbytes if is_regular and x.payload.strides == (row, nbytes, 1) and nbytes > x.scheme.payload_bytes else 0


def _view(parts: Mapping[str, Buffer], block_bytes: int = 0) -> Any:
    fields = {name: _cast(_TYPES[name], pointer(part)) for name, part in parts.items()}
    return ffi.new("rtp_cpu_plain *", {**fields, "block_bytes": block_bytes})


def prepare(device: Device, native: Native, weight: QBuffer, tag: str) -> QBuffer:
    """A plain weight in layout rows16, under `tag`."""
    code, (n, k) = _code(weight.scheme), weight.shape
    packed = device.alloc((lib.rtp_cpu_rows16_bytes(code, n, k),), dtypes.uint8, tag)
    plain, _alive = _plain(device, weight)
    if status := lib.rtp_cpu_rows16_pack(native.handle, code, pointer(packed), plain, n, k):
        native.fail(status, "prepare_weight", weight)
    none = Buffer(packed.storage, dtypes.float16, (0,))  # scales and zeros live among the codes
    return QBuffer(weight.scheme, (n, k), packed, none, layout=ROWS16)


def gemm(device: Device, native: Native, a: Buffer, b: QBuffer, bias: Buffer | None, out: Buffer) -> None:
    """out = a @ b.T + bias, a quantized to int8 on the way. A plain b is prepared first, each time."""
    n, k = b.shape
    if a.shape[-1] != k or out.shape != (*a.shape[:-1], n) or (bias is not None and bias.shape != (n,)):
        raise mismatch("gemm", a, b, bias, out)
    if b.layout != ROWS16:
        b = prepare(device, native, b, "gemm")
    bias_code, bias_pointer = (0, NULL) if bias is None else (DTYPES[bias.dtype], pointer(bias))
    for x, rows, y, to in matrices(a, out):
        if status := lib.rtp_cpu_gemm_rows16(
            native.handle, SCHEMES[b.scheme.name], DTYPES[x.dtype], pointer(y), pointer(x), pointer(b),
            bias_code, bias_pointer, rows.number, n, k, to.stride, rows.stride,
        ):  # fmt: skip
            native.fail(status, "gemm", x, b, bias, y)


def can_gate(x: Buffer, ffn: FfnWeights) -> bool:
    """Whether `gated_gemm` takes these and pays: gate and up in one matrix, whose halves are whole groups of rows."""
    if not ffn.is_gated or len(ffn.up) != 1 or x.shape[0] <= FEW_ROWS:
        return False
    weight = ffn.up[0].weight
    is_packed = isinstance(weight, QBuffer) and weight.layout == ROWS16 and weight.shape[0] % (2 * ROWS) == 0
    return is_packed and x.dtype in DTYPES and rows_of(x) is not None


def gated_gemm(native: Native, a: Buffer, linear: Linear, activation: str, out: Buffer) -> None:
    """out [M, F] = activation(a @ gate.T) * (a @ up.T), each with its bias; `linear` is both, [2F, K]."""
    b, bias = linear.weight, linear.bias
    rows, to = rows_of(a), rows_of(out)
    f = b.shape[0] // 2
    if (
        rows is None
        or to is None
        or rows.width != b.shape[1]
        or out.shape != (rows.number, f)
        or (bias is not None and bias.shape != (2 * f,))
    ):
        raise mismatch("ffn_layer", a, b, bias, out)
    assert isinstance(b, QBuffer)
    bias_code, bias_pointer = (0, NULL) if bias is None else (DTYPES[bias.dtype], pointer(bias))
    if status := lib.rtp_cpu_gated_gemm_rows16(
        native.handle, SCHEMES[b.scheme.name], KINDS[activation], DTYPES[a.dtype], pointer(out), pointer(a), pointer(b),
        bias_code, bias_pointer, rows.number, f, b.shape[1], to.stride, rows.stride,
    ):  # fmt: skip
        native.fail(status, "ffn_layer", a, b, bias, out)


def unpack(device: Device, native: Native, x: QBuffer, ids: Buffer | None, out: Buffer) -> Buffer:
    """Rows `ids` of x, or all, as numbers in out [T, K], whose rows are contiguous."""
    code, (n, k) = _code(x.scheme), x.shape
    count, chosen = (n, NULL) if ids is None else (ids.shape[0], pointer(ids))
    if out.shape != (count, k) or out.dtype not in DTYPES:
        raise mismatch("dequantize", x, ids, out)
    dtype, target, sizes = DTYPES[out.dtype], pointer(out), (chosen, count, n, k, out.strides[0])
    if x.layout == ROWS16:
        status = lib.rtp_cpu_rows16_unpack(native.handle, code, dtype, target, pointer(x), *sizes)
    else:
        plain, _alive = _plain(device, x)
        status = lib.rtp_cpu_dequantize(native.handle, code, dtype, target, plain, *sizes)
    if status:
        native.fail(status, "dequantize", x, ids, out)
    return out


def quantize(device: Device, native: Native, x: Buffer, scheme: QuantScheme) -> QBuffer:
    """x [N, K] without gaps as a plain QBuffer."""
    code, (n, k) = _code(scheme), x.shape
    if k % scheme.unit:
        raise mismatch(f"quantize to {scheme.name}", x)
    parts = {name: device.alloc(shape, dtype, "quantize") for name, (shape, dtype) in scheme.parts(n, k).items()}
    if status := lib.rtp_cpu_quantize(native.handle, code, DTYPES[x.dtype], _view(parts), pointer(x), n, k, k):
        native.fail(status, "quantize", x)
    return QBuffer.of_parts(scheme, (n, k), parts.values())
