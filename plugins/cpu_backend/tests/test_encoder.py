"""Encoder layers with weights in q8_0, in one native call, against NumPy in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from cpu_oracle import put, wide

from rtp_core.device import reference_ops
from rtp_core.plugin import (
    ACTIVATIONS,
    Q8_0,
    AttentionWeights,
    Device,
    DeviceError,
    FfnWeights,
    LayerWeights,
    Linear,
    Norm,
    QBuffer,
    dtypes,
)
from rtp_cpu import encoder

EPS = 1e-6
CLOSE = 0.015  # of the root mean square of a row: what int8 activations may move it by
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Layer:
    """A layer and the numbers of its parts: matrices [n, k] with biases [n], norms (weight, bias or None)."""

    weights: LayerWeights
    numbers: dict[str, tuple[Array, Array | None]]


@dataclass(frozen=True)
class Sizes:
    heads: int = 3
    kv_heads: int = 3
    dim: int = 32
    inner: int = 160


SMALL = Sizes()


def random_layer(
    device: Device,
    rng: np.random.Generator,
    sizes: Sizes = SMALL,
    *,
    activation: str = "gelu",
    has_bias: bool = True,
    silent: Sequence[int] = (),
) -> Layer:
    """`silent`: columns of zeros in the matrices that read the layer's hidden states."""
    heads, kv_heads, dim, inner = sizes.heads, sizes.kv_heads, sizes.dim, sizes.inner
    hidden = heads * dim
    numbers: dict[str, tuple[Array, Array | None]] = {}

    def linear(name: str, n: int, k: int) -> Linear:
        values = rng.standard_normal((n, k)).astype(np.float32) / np.sqrt(k)
        values[:, [] if name in ("o", "down") else list(silent)] = 0
        parts = reference_ops.quantize(values, Q8_0)
        bias = rng.standard_normal(n).astype(np.float32) if has_bias else None
        numbers[name] = wide(reference_ops.dequantize(parts, Q8_0)), bias
        plain = QBuffer.of_parts(Q8_0, (n, k), [device.upload(part, name) for part in parts])
        return Linear(device.prepare_weight(plain, name), None if bias is None else device.upload(bias, name))

    def norm(name: str) -> Norm:
        weight, bias = (rng.uniform(0.5, 1.5, hidden).astype(np.float32) for _ in range(2))
        numbers[name] = weight, bias if has_bias else None
        return Norm(device.upload(weight, name), EPS, device.upload(bias, name) if has_bias else None)

    qkv, o = linear("qkv", (heads + 2 * kv_heads) * dim, hidden), linear("o", hidden, hidden)
    up, down = linear("up", inner, hidden), linear("down", hidden, inner)
    attention = AttentionWeights((qkv,), o, heads, kv_heads, dim)
    ffn = FfnWeights((up,), down, activation, is_gated=False)
    return Layer(LayerWeights(attention, norm("attention_norm"), ffn, norm("ffn_norm")), numbers)


def expected(layer: Layer, x: Array, lengths: tuple[int, ...]) -> Array:
    attention, ffn = layer.weights.attention, layer.weights.ffn
    assert isinstance(ffn, FfnWeights)
    heads, kv_heads, dim = attention.num_heads, attention.num_kv_heads, attention.head_dim

    def linear(name: str, x: Array) -> Array:
        weight, bias = layer.numbers[name]
        return x @ weight.T + (0 if bias is None else bias)

    def norm(name: str, x: Array) -> Array:
        weight, bias = layer.numbers[name]
        if bias is not None:
            x = x - x.mean(1, keepdims=True)
        return x / np.sqrt((x**2).mean(1, keepdims=True) + EPS) * weight + (0 if bias is None else bias)

    qkv = linear("qkv", wide(x)).reshape(len(x), heads + 2 * kv_heads, dim)
    attended = np.zeros((len(x), heads, dim))
    start = 0
    for length in lengths:
        some = qkv[start : start + length]
        for h in range(heads):
            k, v = some[:, heads + h * kv_heads // heads], some[:, heads + kv_heads + h * kv_heads // heads]
            scores = some[:, h] @ k.T * attention.scale
            p = np.exp(scores - scores.max(1, keepdims=True, initial=-np.inf))
            attended[start : start + length, h] = p / p.sum(1, keepdims=True) @ v
        start += length
    x = norm("attention_norm", x + linear("o", attended.reshape(len(x), heads * dim)))
    h = reference_ops.activation(linear("up", x).astype(np.float32), ffn.activation)
    return norm("ffn_norm", x + linear("down", wide(h)))


def ran(device: Device, layer: Layer, x: Array, lengths: tuple[int, ...]) -> Array:
    place = put(device, x)
    assert encoder.is_native(device, place, layer.weights)
    got = device._encoder_layer_int8(place, layer.weights, lengths)
    assert got is place
    return wide(got.numpy())


def errors(got: Array, expected: Array) -> Array:
    """Of each row, relative to its size."""
    return np.sqrt(((got - expected) ** 2).mean(1) / (expected**2).mean(1))


def tokens(rng: np.random.Generator, num: int, width: int) -> Array:
    return rng.standard_normal((num, width)).astype(np.float32)


@pytest.mark.parametrize("lengths", [(1,), (), (0, 2), (3, 0, 4), (13, 1, 30), (97, 104)], ids=str)
@pytest.mark.parametrize(
    "sizes",
    [SMALL, Sizes(4, 2, 24, 96), Sizes(1, 1, 32, 32)],
    ids=["mha", "gqa", "small"],
)
def test_a_layer_is_its_definition(
    device: Device, rng: np.random.Generator, sizes: Sizes, lengths: tuple[int, ...]
) -> None:
    layer = random_layer(device, rng, sizes)
    x = tokens(rng, sum(lengths), layer.numbers["o"][0].shape[0])
    assert np.all(errors(ran(device, layer, x, lengths), expected(layer, x, lengths)) < CLOSE)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_every_activation(device: Device, rng: np.random.Generator, activation: str) -> None:
    layer = random_layer(device, rng, activation=activation)
    x = tokens(rng, 7, 96)
    assert np.all(errors(ran(device, layer, x, (7,)), expected(layer, x, (7,))) < CLOSE)


def test_without_biases_norms_are_of_the_root_mean_square(device: Device, rng: np.random.Generator) -> None:
    layer = random_layer(device, rng, has_bias=False)
    x = tokens(rng, 7, 96)
    assert np.all(errors(ran(device, layer, x, (4, 3)), expected(layer, x, (4, 3))) < CLOSE)


def test_numbers_far_beyond_the_rest_take_no_precision_from_it(device: Device, rng: np.random.Generator) -> None:
    """Where they say nothing themselves: in int8 groups alone they would leave the others next to nothing."""
    far = [5, 40, 41, 95]
    layer = random_layer(device, rng, has_bias=False, silent=far)
    x = tokens(rng, 8, 96)
    x[:, far] = rng.uniform(100, 300, (8, len(far))) * rng.choice([-1, 1], (8, len(far)))
    others = np.setdiff1d(np.arange(96), far)
    got, true = ran(device, layer, x, (8,)), expected(layer, x, (8,))
    assert np.all(errors(got[:, others], true[:, others]) < CLOSE)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_spoils_its_own_request_alone(
    device: Device, rng: np.random.Generator, bad: float
) -> None:
    layer = random_layer(device, rng)
    x = tokens(rng, 9, 96)
    clean = ran(device, layer, x, (4, 5))
    x[2, 17] = bad
    got = ran(device, layer, x, (4, 5))
    assert np.all(np.isnan(got[2]))
    np.testing.assert_array_equal(got[4:], clean[4:])


def test_zeros_and_tiny_numbers(device: Device, rng: np.random.Generator) -> None:
    layer = random_layer(device, rng)
    x = np.zeros((3, 96), np.float32)
    x[1], x[2] = 1e-38, 1e-42
    assert np.all(errors(ran(device, layer, x, (1, 2)), expected(layer, x, (1, 2))) < CLOSE)


def test_a_request_in_a_batch_is_the_request_alone(device: Device, rng: np.random.Generator) -> None:
    layer = random_layer(device, rng)
    x, lengths = tokens(rng, 130, 96), (1, 5, 24, 100)
    together, start = ran(device, layer, x, lengths), 0
    for length in lengths:
        alone = ran(device, layer, x[start : start + length], (length,))
        np.testing.assert_array_equal(alone, together[start : start + length])
        start += length


def test_what_the_call_cannot_take_goes_the_way_of_floats(device: Device, rng: np.random.Generator) -> None:
    layer = random_layer(device, rng)
    x = tokens(rng, 5, 96)
    gated = replace(layer.weights, ffn=replace(layer.weights.ffn, is_gated=True))
    assert not encoder.is_native(device, put(device, x), gated)
    assert not encoder.is_native(device, put(device, x, dtypes.bfloat16), layer.weights)
    plain = device.upload(x, "x")
    half_bias = replace(layer.weights.attention.o, bias=device.upload(np.zeros(96, np.float16), "bias"))
    weights = replace(layer.weights, attention=replace(layer.weights.attention, o=half_bias))
    assert not encoder.is_native(device, plain, weights)
    layer.numbers["o"] = layer.numbers["o"][0], None
    got = device._encoder_layer_int8(plain, weights, (5,))
    assert np.all(errors(wide(got.numpy()), expected(layer, x, (5,))) < CLOSE)


def test_lengths_that_are_not_those_of_the_rows(device: Device, rng: np.random.Generator) -> None:
    layer = random_layer(device, rng)
    for x, lengths in ((tokens(rng, 5, 96), (4,)), (tokens(rng, 5, 64), (5,))):
        with pytest.raises(DeviceError, match="encoder_layer"):
            device._encoder_layer_int8(put(device, x), layer.weights, lengths)
