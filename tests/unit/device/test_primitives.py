"""Every primitive of every device that computes, against float64 and torch; no rows and strided operands included."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rtp_core.errors import DeviceError
from rtp_core.memory.qbuffer import SCHEMES as ALL_SCHEMES
from rtp_core.plugin import ACTIVATIONS, Buffer, Device, DType, QuantScheme, dtypes

Doubles = NDArray[np.float64]

FLOATS = pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.bfloat16, dtypes.float16], ids=lambda d: d.name)
LAYOUTS = pytest.mark.parametrize("is_strided", [False, True], ids=["contiguous", "strided"])
ROWS = pytest.mark.parametrize("rows", [0, 1, 5])
SCHEMES = pytest.mark.parametrize("scheme", ALL_SCHEMES.values(), ids=lambda s: s.name)

# Half a unit in the last place, with room for a float32 intermediate.
RELATIVE = {"float32": 1e-5, "bfloat16": 2.0**-8, "float16": 2.0**-10}


class Place:
    """Puts numbers in a device's memory, and keeps what they are there in float64."""

    def __init__(self, device: Device, dtype: DType = dtypes.float32, is_strided: bool = False, seed: int = 0) -> None:
        self.device, self.dtype, self.is_strided = device, dtype, is_strided
        self.rng = np.random.default_rng(seed)

    def normal(self, *shape: int) -> tuple[Buffer, Doubles]:
        return self.array(self.rng.standard_normal(shape))

    def array(self, numbers: Any, dtype: DType | None = None) -> tuple[Buffer, Doubles]:
        stored = np.ascontiguousarray(numbers, (dtype or self.dtype).numpy)
        buffer = self.empty(stored.shape, dtype)
        self.device.copy(buffer, Buffer.borrow(stored))
        return buffer, stored.astype(np.float64)

    def empty(self, shape: tuple[int, ...], dtype: DType | None = None) -> Buffer:
        """Undefined contents. Strided: every second row of wider ones, with contents around that must stay."""
        dtype = dtype or self.dtype
        if not self.is_strided or len(shape) < 2:
            return self.device.alloc(shape, dtype, "place")
        wide = self.device.alloc((2 * shape[0], *shape[1:-1], shape[-1] + 3), dtype, "place")
        return wide[(slice(0, None, 2), *[slice(None)] * (len(shape) - 2), slice(1, 1 + shape[-1]))]

    def ids(self, numbers: Any) -> Buffer:
        return self.device.upload(np.asarray(numbers, np.int32), "ids")

    def check(self, got: Buffer, expected: Doubles, dtype: DType | None = None) -> None:
        assert got.dtype is (dtype or self.dtype)
        assert got.shape == expected.shape
        tolerance = RELATIVE[got.dtype.name]
        limit = float(np.abs(expected[np.isfinite(expected)]).max(initial=0))
        numbers = self.device.download(got).astype(np.float64)
        np.testing.assert_allclose(numbers, expected, rtol=tolerance, atol=max(limit, 1) * tolerance / 8)


# -- rows, products, element-wise ----------------------------------------------------------------------------------


@FLOATS
@LAYOUTS
@pytest.mark.parametrize("ids", [[], [6], [0, 6, 6, 3, 0]])
def test_gather_rows(device: Device, dtype: DType, is_strided: bool, ids: list[int]) -> None:
    place = Place(device, dtype, is_strided)
    table, numbers = place.normal(7, 11)
    place.check(device.gather_rows(table, place.ids(ids)), numbers[ids])
    wide = device.gather_rows(table, place.ids(ids), dtype=dtypes.float32)
    place.check(wide, numbers[ids], dtypes.float32)


@SCHEMES
@pytest.mark.parametrize("is_prepared", [False, True], ids=["plain", "prepared"])
def test_quantized_weights_in_their_three_roles(device: Device, scheme: QuantScheme, is_prepared: bool) -> None:
    place = Place(device)
    columns = 2 * scheme.unit
    table = device.quantize(place.normal(10, columns)[0], scheme)
    numbers = device.download(device.dequantize(table, dtype=dtypes.float32)).astype(np.float64)
    if is_prepared:
        table = device.prepare_weight(table, "weight")
        place.check(device.dequantize(table, dtype=dtypes.float32), numbers)
    x, values = place.normal(3, columns)
    place.check(device.gemm(x, table, trans_b=True), values @ numbers.T)
    for ids in ([], [9, 0, 9]):
        rows = device.gather_rows(table, place.ids(ids), dtype=dtypes.float16)
        place.check(rows, numbers[ids], dtypes.float16)


@FLOATS
@LAYOUTS
@ROWS
@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
def test_gemm(device: Device, dtype: DType, is_strided: bool, rows: int, trans_b: bool, has_bias: bool) -> None:
    place = Place(device, dtype, is_strided)
    a, x = place.normal(rows, 13)
    b, w = place.normal(*((6, 13) if trans_b else (13, 6)))
    bias, shift = place.normal(6) if has_bias else (None, np.zeros(6))
    expected = x @ (w.T if trans_b else w) + shift
    out = place.empty((rows, 6))
    assert device.gemm(a, b, bias=bias, trans_b=trans_b, out=out) is out
    place.check(out, expected)
    place.check(device.gemm(a, b, bias=bias, trans_b=trans_b), expected)


@FLOATS
@pytest.mark.parametrize("trans_b", [False, True])
def test_gemm_shares_b_among_the_heads_of_a_group_in_place_of_any_strides(
    device: Device, dtype: DType, trans_b: bool
) -> None:
    place = Place(device, dtype)
    tokens, kv_heads, group, context, dim = 3, 2, 4, 5, 8
    q, x = place.normal(tokens, kv_heads, group, dim)
    kv, w = place.normal(context, kv_heads, dim) if trans_b else place.normal(dim, kv_heads, context)
    a, b = q.transpose(1, 2, 0, 3), kv.transpose(1, 0, 2).view(kv_heads, 1, *((context, dim)[:: 1 if trans_b else -1]))
    out = place.empty((tokens, kv_heads, group, context))
    device.gemm(a, b, trans_b=trans_b, out=out.transpose(1, 2, 0, 3))
    place.check(out, np.einsum("mkgd,skd->mkgs" if trans_b else "mkgd,dks->mkgs", x, w))


@pytest.mark.parametrize("stored", [dtypes.bfloat16, dtypes.float16], ids=lambda d: d.name)
def test_gemm_computes_in_float32_with_weights_stored_narrower(device: Device, stored: DType) -> None:
    place = Place(device)
    a, x = place.normal(4, 32)
    b, w = place.array(place.rng.standard_normal((5, 32)), stored)
    place.check(device.gemm(a, b, trans_b=True), x @ w.T)


@FLOATS
@LAYOUTS
@ROWS
@pytest.mark.parametrize("op", ["add", "mul"])
@pytest.mark.parametrize("other", ["same", "row", "column"])
def test_add_and_mul(device: Device, dtype: DType, is_strided: bool, rows: int, op: str, other: str) -> None:
    place = Place(device, dtype, is_strided)
    a, x = place.normal(rows, 9)
    b, y = place.normal(*{"same": (rows, 9), "row": (9,), "column": (rows, 1)}[other])
    expected = x + y if op == "add" else x * y
    place.check(getattr(device, op)(a, b), expected)
    assert getattr(device, op)(a, b, out=a) is a
    place.check(a, expected)


@FLOATS
@LAYOUTS
@ROWS
def test_norms(device: Device, dtype: DType, is_strided: bool, rows: int) -> None:
    place = Place(device, dtype, is_strided)
    (weight, w), (bias, b) = place.normal(12), place.normal(12)
    for shape in ((rows, 12), (rows, 3, 12)):
        x, numbers = place.normal(*shape)
        tensor = torch.from_numpy(numbers)
        rms = torch.nn.functional.rms_norm(tensor, (12,), torch.from_numpy(w), eps=1e-3).numpy()
        centred = numbers - numbers.mean(axis=-1, keepdims=True)
        layer = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-3) * w + b
        place.check(device.rms_norm(x, weight, eps=1e-3), rms)
        place.check(device.layer_norm(x, weight, bias, eps=1e-3), layer)
        place.check(device.rms_norm(x, weight, eps=1e-3, out=x), rms)


def test_norms_of_zeros_are_finite(device: Device) -> None:
    place = Place(device)
    (x, _), (one, _), (bias, b) = place.array(np.zeros((2, 8))), place.array(np.ones(8)), place.normal(8)
    place.check(device.rms_norm(x, one, eps=1e-6), np.zeros((2, 8)))
    place.check(device.layer_norm(x, one, bias, eps=1e-6), np.tile(b, (2, 1)))


TORCH_ACTIVATIONS: dict[str, Any] = {
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "silu": torch.nn.functional.silu,
    "tanh": torch.tanh,
}


@FLOATS
@LAYOUTS
@ROWS
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activation(device: Device, dtype: DType, is_strided: bool, rows: int, kind: str) -> None:
    place = Place(device, dtype, is_strided)
    x, numbers = place.array(place.rng.standard_normal((rows, 7)) * 4)
    place.check(device.activation(x, kind=kind), TORCH_ACTIVATIONS[kind](torch.from_numpy(numbers)).numpy())


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activation_is_finite_where_its_exponential_is_not(device: Device, kind: str) -> None:
    place = Place(device)
    x, numbers = place.array([[-1000.0, -89.0, 0.0, 89.0, 1000.0]])
    place.check(device.activation(x, kind=kind), TORCH_ACTIVATIONS[kind](torch.from_numpy(numbers)).numpy())


# -- softmax, rope, top_k, cast ------------------------------------------------------------------------------------


@FLOATS
@LAYOUTS
@ROWS
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("is_masked", [False, True], ids=["open", "masked"])
def test_softmax(
    device: Device, dtype: DType, is_strided: bool, rows: int, softcap: float | None, is_masked: bool
) -> None:
    place = Place(device, dtype, is_strided)
    x, numbers = place.array(place.rng.standard_normal((2, 3, rows, 6)) * 8)
    y = torch.from_numpy(numbers) * 0.5
    if softcap is not None:
        y = softcap * torch.tanh(y / softcap)
    mask, hidden = None, np.triu(np.full((rows, 6), -np.inf), k=1)
    if is_masked:
        mask = place.array(hidden, dtypes.float32)[0]
        y = y + torch.from_numpy(hidden)
    place.check(device.softmax(x, scale=0.5, softcap=softcap, mask=mask), torch.softmax(y, dim=-1).numpy())


def test_softmax_of_nothing_but_minus_infinity_is_zeros(device: Device) -> None:
    place = Place(device)
    x, _ = place.array([[1.0, 2.0], [3.0, 4.0]])
    mask, _ = place.array([[-np.inf, -np.inf], [0.0, -np.inf]])
    place.check(device.softmax(x, mask=mask), np.array([[0.0, 0.0], [1.0, 0.0]]))


def test_softmax_of_huge_scores_does_not_overflow(device: Device) -> None:
    place = Place(device)
    x, _ = place.array([[1e38, 1e38, -1e38], [1e4, 1e4 - 1, 0]])
    near = 1 / (1 + math.exp(-1))
    place.check(device.softmax(x), np.array([[0.5, 0.5, 0.0], [near, 1 - near, 0.0]]))


@FLOATS
@LAYOUTS
@ROWS
@pytest.mark.parametrize("rotated", [4, 8, 10], ids=lambda n: f"{n} of 10 dims")
def test_rope(device: Device, dtype: DType, is_strided: bool, rows: int, rotated: int) -> None:
    place = Place(device, dtype, is_strided)
    x, numbers = place.normal(rows, 3, 10)
    angles = np.outer(np.arange(20), 100.0 ** (-np.arange(0, rotated, 2) / rotated))
    cos, sin = (device.upload(f(angles).astype(np.float32), "rope") for f in (np.cos, np.sin))
    at = place.rng.integers(0, 20, rows)
    turn = np.concatenate([angles[at], angles[at]], axis=-1)[:, None, :]  # as Hugging Face writes it
    first, second, rest = np.split(numbers, [rotated // 2, rotated], axis=-1)
    turned = np.concatenate([first, second], -1) * np.cos(turn) + np.concatenate([-second, first], -1) * np.sin(turn)
    expected = np.concatenate([turned, rest], axis=-1)
    place.check(device.rope(x, cos, sin, place.ids(at)), expected)
    device.rope(x, cos, sin, place.ids(at), out=x)
    place.check(x, expected)


@FLOATS
@LAYOUTS
@ROWS
def test_top_k_is_descending_and_takes_the_lowest_of_equals(
    device: Device, dtype: DType, is_strided: bool, rows: int
) -> None:
    place = Place(device, dtype, is_strided)
    x, numbers = place.array(place.rng.integers(-3, 3, (rows, 17)))
    values, indices = device.top_k(x, 6)
    order = np.array([sorted(range(17), key=lambda i: (-row[i], i))[:6] for row in numbers], int).reshape(rows, 6)
    place.check(values, np.take_along_axis(numbers, order, axis=1))
    assert indices.dtype is dtypes.int32
    assert device.download(indices).tolist() == order.tolist()


def test_top_k_of_minus_infinities_takes_every_index_once(device: Device) -> None:
    x = device.upload(np.array([[-np.inf, 1, -np.inf, -np.inf]], np.float32), "x")
    assert device.download(device.top_k(x, 4)[1]).tolist() == [[1, 0, 2, 3]]


@LAYOUTS
@ROWS
@pytest.mark.parametrize("to", ["float32", "bfloat16", "float16"])
@FLOATS
def test_cast_rounds_to_nearest_even(device: Device, dtype: DType, to: str, is_strided: bool, rows: int) -> None:
    place = Place(device, dtype, is_strided)
    ties = 1 + np.arange(rows * 8).reshape(rows, 8) * 2.0**-12  # halfway between neighbours, for each narrow float
    x, numbers = place.array(ties)
    y = device.cast(x, dtypes.parse(to))
    assert y.dtype is dtypes.parse(to)
    expected = torch.from_numpy(numbers).to(getattr(torch, to)).double().numpy()
    np.testing.assert_array_equal(device.download(y).astype(np.float64), expected)


# -- quantization --------------------------------------------------------------------------------------------------


@SCHEMES
@LAYOUTS
@ROWS
def test_quantized_numbers_are_within_half_a_step(
    device: Device, scheme: QuantScheme, is_strided: bool, rows: int
) -> None:
    place = Place(device, is_strided=is_strided)
    columns = 3 * max(scheme.unit, 16)
    x, numbers = place.normal(rows, columns)
    q = device.quantize(x, scheme)
    assert q.layout == "plain"
    assert q.shape == (rows, columns)
    y = device.download(device.dequantize(q, dtype=dtypes.float32)).astype(np.float64)
    groups = numbers.reshape(scheme.grouped(rows, columns))
    if scheme.codes == "float8_e4m3fn":
        step = np.abs(groups) / 8  # each number's own: three bits follow the first
    elif scheme.symmetric:
        step = np.abs(groups).max(axis=-1, initial=0, keepdims=True) / (scheme.offset or 127)
    else:
        low, high = (f(axis=-1, initial=i, keepdims=True) for f, i in ((groups.min, 9), (groups.max, -9)))
        step = (high - low) / (2**scheme.bits - 1)
    error = np.abs(y - numbers).reshape(groups.shape)
    # 16-bit scales are coarse, and the positive end of a signed code with an offset is one step short.
    room = 1.01 if scheme.offset else 0.52
    if scheme.super_group:  # scales and zeros are themselves rounded, to a 126th of their largest neighbour's
        per_factor = scheme.unit // scheme.group
        widest = step.reshape(rows, 3, per_factor).max(axis=-1, initial=0).repeat(per_factor, axis=1)
        step = step + widest[..., None] / 126 * 2**scheme.bits
    assert (error <= room * step + 2e-3).all()


@SCHEMES
def test_dequantize_into_narrow_floats_rounds_once(device: Device, scheme: QuantScheme) -> None:
    place = Place(device)
    columns = 2 * scheme.unit
    q = device.quantize(place.normal(3, columns)[0], scheme)
    exact = device.download(device.dequantize(q, dtype=dtypes.float32))
    for dtype in (dtypes.bfloat16, dtypes.float16):
        out = place.empty((3, columns), dtype)
        assert device.dequantize(q, dtype=dtype, out=out) is out
        np.testing.assert_array_equal(device.download(out), exact.astype(dtype.numpy))


# -- KV ------------------------------------------------------------------------------------------------------------


@FLOATS
@pytest.mark.parametrize("order", ["KBD", "BKD"])
@pytest.mark.parametrize("num_tokens", [0, 1, 4, 11])
def test_kv_round_trips_through_scattered_blocks_of_either_order(
    device: Device, dtype: DType, order: str, num_tokens: int
) -> None:
    place = Place(device, dtype)
    blocks, kv_heads, block_size, dim = 6, 2, 4, 8
    if order == "KBD":
        kv = place.array(np.zeros((blocks, 3, 2, kv_heads, block_size, dim)))[0][:, 1]  # one of three layers
    else:
        kv = place.array(np.zeros((blocks, 3, 2, block_size, kv_heads, dim)))[0][:, 1].transpose(0, 1, 3, 2, 4)
    table = np.array([5, 0, 3])
    at = np.arange(num_tokens)
    slots = table[at // block_size] * block_size + at % block_size
    both, numbers = place.normal(num_tokens, 2 * kv_heads, dim)  # k and v are views of one buffer
    shuffled = place.rng.permutation(num_tokens)
    moved = place.array(numbers[shuffled])[0]
    device.kv_write(kv, moved[:, :kv_heads], moved[:, kv_heads:], place.ids(slots[shuffled]))
    k, v = device.kv_gather(kv, place.ids([*table, 1]), num_tokens)
    place.check(k, numbers[:, :kv_heads].transpose(1, 0, 2))
    place.check(v, numbers[:, kv_heads:].transpose(1, 0, 2))
    written = np.zeros((blocks, block_size), bool)
    written.reshape(-1)[slots] = True
    cache = device.download(kv).astype(np.float64)
    assert not cache.transpose(0, 3, 1, 2, 4)[~written].any(), "a slot of another request was written"
    assert both.shape == (num_tokens, 2 * kv_heads, dim)


# -- copies --------------------------------------------------------------------------------------------------------


def test_copy_moves_any_strides_between_host_and_device(device: Device) -> None:
    rng = np.random.default_rng(0)
    for to_host, from_host in itertools.product((False, True), repeat=2):
        numbers = rng.standard_normal((6, 8)).astype(np.float32)
        source = Buffer.borrow(numbers.copy()) if from_host else device.upload(numbers, "source")
        landing = np.zeros((5, 9), np.float32)
        target = Buffer.borrow(landing) if to_host else device.upload(landing, "target")
        device.copy(target[1:5, 2:8:2], source[1:4, ::2].transpose(1, 0))
        expected = landing.copy() * 0
        expected[1:5, 2:8:2] = numbers[1:4, ::2].T
        np.testing.assert_array_equal(device.download(target), expected)


def test_copy_between_two_shapes_or_dtypes_is_an_error(device: Device) -> None:
    place = Place(device)
    for shape, dtype in (((2, 3), dtypes.float32), ((3, 2), dtypes.float16)):
        with pytest.raises(DeviceError, match="must be equal"):
            device.copy(place.empty((3, 2)), place.empty(shape, dtype))


def test_non_blocking_copy_has_arrived_once_its_event_has_passed(device: Device) -> None:
    place = Place(device)
    source, numbers = place.normal(4, 4)
    target = place.empty((4, 4))
    event = device.non_blocking_copy(target, source)
    event.synchronize()
    place.check(target, numbers)


def test_the_handle_device_refuses_operands_in_host_memory(handle_device: Device) -> None:
    with pytest.raises(DeviceError, match="not in the memory of handle:0"):
        handle_device.activation(Buffer.borrow(np.zeros((1, 2), np.float32)), kind="relu")


def test_operands_stay_as_they_are_where_out_is_another_buffer(device: Device) -> None:
    place = Place(device)
    (a, x), (b, y) = place.normal(4, 4), place.normal(4, 4)
    for result in (device.gemm(a, b), device.add(a, b), device.softmax(a), device.activation(a, kind="silu")):
        assert result.storage is not a.storage
    place.check(a, x)
    place.check(b, y)
