"""Encoder layers in one native call: weights in q8_0, which the kernels know in layout rows16."""

from __future__ import annotations

from typing import Any

from rtp_core.plugin import Buffer, Device, FfnWeights, LayerWeights, Linear, Norm, QBuffer, dtypes
from rtp_cpu._native import ffi, lib
from rtp_cpu.native import KINDS, NULL, Native, mismatch, pointer
from rtp_cpu.quantized import ROWS16
from rtp_cpu.views import has_contiguous_rows

_new = ffi.new


def is_native(device: Device, x: Buffer, weights: LayerWeights) -> bool:
    """Whether `layer` can take these operands."""
    ffn, qkv = weights.ffn, weights.attention.qkv
    if not isinstance(ffn, FfnWeights) or ffn.is_gated or len(qkv) != 1 or device.communicator.world_size != 1:
        return False
    linears = qkv[0], weights.attention.o, ffn.up[0], ffn.down
    norms = weights.attention_norm, weights.ffn_norm
    vectors = (*(linear.bias for linear in linears), *(part for norm in norms for part in (norm.weight, norm.bias)))
    return (
        x.dtype is dtypes.float32
        and has_contiguous_rows(x)
        and all(isinstance(linear.weight, QBuffer) and linear.weight.layout == ROWS16 for linear in linears)
        and all(v is None or (v.dtype is dtypes.float32 and v.is_contiguous) for v in vectors)
    )


def layer(device: Device, native: Native, x: Buffer, weights: LayerWeights, lengths: tuple[int, ...]) -> Buffer:
    """x [T, E], written over by the layer's result."""
    if sum(lengths) != x.shape[0] or x.shape[1] != weights.attention.o.weight.shape[0]:
        raise mismatch("encoder_layer", x, weights.attention.o.weight)
    view = _view(weights)
    work = device.alloc((lib.rtp_cpu_encoder_layer_bytes(view, x.shape[0]),), dtypes.uint8, "encoder_layer")
    sizes = len(lengths), x.strides[0]
    if status := lib.rtp_cpu_encoder_layer(
        native.handle, view, pointer(x), pointer(work), *native.spans(lengths), *sizes
    ):
        native.fail(status, "encoder_layer", x)
    return x


def _view(weights: LayerWeights) -> Any:
    """A layer as the kernels see it."""
    attention, ffn = weights.attention, weights.ffn
    assert isinstance(ffn, FfnWeights)
    linears = [_linear(linear) for linear in (attention.qkv[0], attention.o, ffn.up[0], ffn.down)]
    norms = [_norm(norm) for norm in (weights.attention_norm, weights.ffn_norm)]
    sizes = attention.num_heads, attention.num_kv_heads, attention.head_dim
    return _new("rtp_cpu_encoder_weights *", (*linears, *norms, *sizes, KINDS[ffn.activation], attention.scale))


def _linear(linear: Linear) -> tuple[Any, Any, int, int]:
    weight, bias = linear.weight, linear.bias
    return pointer(weight), NULL if bias is None else pointer(bias), weight.shape[0], weight.shape[1]


def _norm(norm: Norm) -> tuple[Any, Any, float]:
    return pointer(norm.weight), NULL if norm.bias is None else pointer(norm.bias), norm.eps
