"""One NumPy definition of every primitive: its meaning, the reference device and the oracle of its tests.

Plain arrays in, plain arrays out, computed in float32. Written to be read, not to be fast.
Letters as in `primitives`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtp_core.errors import ConfigError
from rtp_core.memory.qbuffer import QuantScheme

Array = NDArray[Any]
Floats = NDArray[np.float32]


def f32(x: Array) -> Floats:
    return x if x.dtype == np.float32 else x.astype(np.float32)


def gemm(a: Array, b: Array, bias: Array | None, trans_b: bool) -> Floats:
    y: Floats = f32(a) @ (f32(b).swapaxes(-1, -2) if trans_b else f32(b))
    return y if bias is None else y + f32(bias)


def rms_norm(x: Array, weight: Array, eps: float) -> Floats:
    y = f32(x)
    scaled: Floats = y / np.sqrt(np.mean(y * y, axis=-1, keepdims=True) + np.float32(eps))
    return scaled * f32(weight)


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Floats:
    y = f32(x) - np.mean(f32(x), axis=-1, keepdims=True)
    scaled: Floats = y / np.sqrt(np.mean(y * y, axis=-1, keepdims=True) + np.float32(eps))
    return scaled * f32(weight) + f32(bias)


def activation(x: Array, kind: str) -> Floats:
    """gelu is x * Phi(x); gelu_tanh is its approximation of arXiv:1606.08415, section 2."""
    y = f32(x)
    result: Floats
    match kind:
        case "silu":
            result = y * sigmoid(y)
        case "sigmoid":
            result = sigmoid(y)
        case "relu":
            result = np.maximum(y, np.float32(0))
        case "tanh":
            result = np.tanh(y)
        case "gelu":
            erf = np.vectorize(math.erf, otypes=[np.float32])
            result = np.float32(0.5) * y * (1 + erf(y * np.float32(math.sqrt(0.5)))) if y.size else y
        case "gelu_tanh":
            inner = np.float32(math.sqrt(2 / math.pi)) * (y + np.float32(0.044715) * y**3)
            result = np.float32(0.5) * y * (1 + np.tanh(inner))
        case _:
            raise ConfigError(f"unknown activation {kind!r}")
    return result


def sigmoid(y: Floats) -> Floats:
    """1 / (1 + exp(-y)), without overflow on either side."""
    e = np.exp(-np.abs(y))
    return np.where(y >= 0, 1 / (1 + e), e / (1 + e)).astype(np.float32)


def softmax(x: Array, scale: float, softcap: float | None, mask: Array | None) -> Floats:
    y = f32(x) * np.float32(scale)
    if softcap is not None:
        y = np.float32(softcap) * np.tanh(y / np.float32(softcap))
    if mask is not None:
        y = y + mask
    if not y.size:
        return y
    top = np.max(y, axis=-1, keepdims=True)
    e = np.exp(y - np.where(np.isneginf(top), np.float32(0), top))
    total = np.sum(e, axis=-1, keepdims=True)
    result: Floats = e / np.where(total == 0, np.float32(1), total)
    return result


def rope(x: Array, cos: Floats, sin: Floats, positions: Array) -> Floats:
    y = f32(x).copy()
    n = cos.shape[1]
    c, s = cos[positions][:, None, :], sin[positions][:, None, :]
    first, second = y[..., :n].copy(), y[..., n : 2 * n].copy()
    y[..., :n] = first * c - second * s
    y[..., n : 2 * n] = second * c + first * s
    return y


def top_k(x: Array, k: int) -> tuple[Array, NDArray[np.int32]]:
    order = np.argsort(-f32(x), axis=-1, kind="stable")[:, :k]
    return np.take_along_axis(x, order, axis=-1), order.astype(np.int32)


def quantize(x: Array, scheme: QuantScheme) -> tuple[Array, ...]:
    """The scheme's parts, in the order of its part names. x: [N, K], K a multiple of its unit.

    Source: quantize_row_q4_0_ref, _q4_1_ref and _q8_0_ref of llama.cpp give these scales: symmetric codes with an
    offset map the value of largest magnitude to code 0, asymmetric ones the range to all codes.
    """
    groups = f32(x).reshape(scheme.grouped(x.shape[0], x.shape[1]))
    low: Floats = groups.min(axis=-1) if groups.size else np.zeros(groups.shape[:2], np.float32)
    high: Floats = groups.max(axis=-1) if groups.size else np.zeros(groups.shape[:2], np.float32)
    base: Floats = np.zeros_like(low)
    step: Floats
    if not scheme.symmetric:
        base = np.minimum(low, np.float32(0)) if scheme.super_group else low  # whole zeros have no sign
        step = (high - base) / np.float32(2**scheme.bits - 1)
    elif scheme.offset:
        step = f32(np.where(-low >= high, low, high) / np.float32(-scheme.offset))
    else:
        step = f32(np.maximum(-low, high) / np.float32(scheme.largest_code))
    numbers: tuple[Array, ...] = tuple(y.astype(scheme.scale_dtype.numpy) for y in (step, base))
    if scheme.super_group:
        per_factor = scheme.super_group // scheme.group
        scales, scale_factors, step = _whole(step, per_factor, *((-128, 127) if scheme.symmetric else (63, 0)))
        zeros, zero_factors, base = _whole(base, per_factor, 63, 0)
        numbers = (scales, scale_factors) if scheme.symmetric else (scales, zeros, scale_factors, zero_factors)
    elif scheme.symmetric:
        numbers = numbers[:1]
    exact = _quotient(groups - base[..., None], step[..., None])
    codes: Array = (exact if scheme.code_dtype.is_floating else np.rint(exact)) + scheme.offset
    if scheme.bits == 8:
        return codes.clip(-scheme.largest_code, scheme.largest_code).astype(scheme.code_dtype.numpy), *numbers
    codes = codes.clip(0, 2**scheme.bits - 1).astype(np.uint8)
    half = scheme.group // 2
    return codes[..., :half] | (codes[..., half:] << 4) if scheme.packing == "halves" else codes, *numbers


def _whole(numbers: Floats, per_factor: int, extreme: int, other: int) -> tuple[Array, NDArray[np.float16], Floats]:
    """Numbers [N, groups] as whole ones, a float16 factor for each `per_factor` of them, and what these mean.

    The number of largest magnitude becomes `extreme`, the others lie between that and `other`.
    """
    rows, groups = numbers.shape
    near = numbers.reshape(rows, groups // per_factor, per_factor)
    largest = np.take_along_axis(near, np.abs(near).argmax(axis=-1, keepdims=True), axis=-1)
    factors = (largest / np.float32(extreme)).astype(np.float16)
    codes = np.rint(_quotient(near, f32(factors))).clip(min(extreme, other), max(extreme, other))
    stored = codes.astype(np.int8 if extreme < 0 else np.uint8)
    return stored.reshape(rows, groups), factors[..., 0], (f32(factors) * codes).reshape(rows, groups)


def _quotient(x: Floats, step: Floats) -> Floats:
    """x / step, and 0 where there is no step."""
    inverse = np.divide(1, step, out=np.zeros_like(step), where=step != 0)
    result: Floats = x * inverse
    return result


def dequantize(parts: Sequence[Array], scheme: QuantScheme) -> Floats:
    """parts: in the order of the scheme's part names, each [N, ...]; returns [N, K], exact in float32.

    Where there are factors, rounded as llama.cpp rounds: the factor times the scale first.
    """
    part = dict(zip(scheme.part_names, parts, strict=True))
    payload, scales, zeros = part["payload"], f32(part["scales"]), part.get("zeros")
    if scheme.packing == "halves":
        low, high = payload.view(np.uint8) & 15, payload.view(np.uint8) >> 4
        codes = np.concatenate([low, high], axis=-1).astype(np.float32)
    else:
        codes = payload.view(scheme.code_dtype.numpy).astype(np.float32)
    if scheme.super_group:
        per_factor = scheme.super_group // scheme.group
        scales = f32(part["scale_factors"]).repeat(per_factor, axis=1) * scales
        zeros = None if zeros is None else f32(part["zero_factors"]).repeat(per_factor, axis=1) * f32(zeros)
    y = scales[..., None] * (codes - np.float32(scheme.offset))
    if zeros is not None:
        y = y + f32(zeros)[..., None]
    return y.reshape(y.shape[0], y.shape[1] * y.shape[2])
