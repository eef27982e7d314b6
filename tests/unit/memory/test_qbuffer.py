"""Quantized buffers against the `gguf` package and NumPy, and the proof that a new kind of buffer needs no new op."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray

from rtp_core import dtypes
from rtp_core.checkpoint.gguf_blocks import TENSOR_TYPES, TensorType, stored_buffer
from rtp_core.device.plan import Demand, resolve
from rtp_core.device.reference import ReferenceDevice
from rtp_core.errors import ConfigError
from rtp_core.memory.buffer import Buffer
from rtp_core.memory.outline import outline
from rtp_core.memory.qbuffer import (
    FP8_CHANNEL,
    INT8_CHANNEL,
    Q4_0,
    Q4_1,
    Q4_K,
    Q5_0,
    Q5_1,
    Q5_K,
    Q6_K,
    Q8_0,
    SCHEMES,
    QBuffer,
    QuantScheme,
)
from rtp_core.plugin import OPS, Device, FfnWeights, Linear

EACH = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=lambda s: s.name)
WRITTEN = pytest.mark.parametrize("scheme", [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0], ids=lambda s: s.name)  # by `gguf`, too
ROWS, UNITS = 6, 3
SIGN_AND_EXPONENT = 0xBB  # what keeps the high byte of a float16 finite, and below 1


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def quantized(scheme: QuantScheme) -> tuple[QBuffer, NDArray[np.float32]]:
    """A host QBuffer of random codes, and what they mean: by `gguf`, or where it has no such scheme by NumPy."""
    if not scheme.group:
        return in_channels(scheme)
    kind = next(t for t in TENSOR_TYPES.values() if t.stored is scheme)
    blocks = np.random.default_rng(0).integers(0, 256, (ROWS, UNITS, kind.block_bytes), np.uint8)
    for at in scales_at(kind):
        blocks[..., at + 1] &= SIGN_AND_EXPONENT
    x = stored_buffer(kind, (ROWS, UNITS * kind.block), blocks.reshape(-1))
    assert isinstance(x, QBuffer)
    return x, gguf.quants.dequantize(blocks.reshape(ROWS, -1), GGMLQuantizationType[kind.name])


def in_channels(scheme: QuantScheme) -> tuple[QBuffer, NDArray[np.float32]]:
    """One row after the other; every code but the two that are NaN in float8_e4m3fn."""
    dtype = {"int8_channel": np.int8, "fp8_channel": ml_dtypes.float8_e4m3fn}[scheme.name]
    every = np.array([code for code in range(256) if code & 0x7F != 0x7F], np.uint8).view(dtype)
    codes = np.random.default_rng(0).permuted(np.tile(every, (ROWS, 1)), axis=1)
    scales = np.abs(normal(ROWS, 1))
    parts = [Buffer.borrow(codes[:, None]), Buffer.borrow(scales)]
    return QBuffer.of_parts(scheme, (ROWS, 254), parts), codes.astype(np.float32) * scales


def scales_at(kind: TensorType) -> tuple[int, ...]:
    """Where in a block the float16 numbers lie."""
    return (208,) if kind.name == "Q6_K" else (0, 2) if kind.stored in (Q4_1, Q5_1, Q4_K, Q5_K) else (0,)


def dequantized(device: Device, x: QBuffer) -> NDArray[np.float32]:
    return device.download(device.dequantize(x, dtype=dtypes.float32))


@EACH
def test_schemes_mean_what_others_say(device: Device, scheme: QuantScheme) -> None:
    x, numbers = quantized(scheme)
    prepared = device.prepare_weight(x, "weight")
    assert isinstance(prepared, QBuffer)
    assert prepared.scheme is scheme
    np.testing.assert_array_equal(dequantized(device, prepared), numbers)


@EACH
@pytest.mark.parametrize("rows", [slice(1, 3), slice(None, None, 2), slice(4, 4), slice(-1, None)])
def test_sliced_rows_keep_their_scales(ref_device: Device, scheme: QuantScheme, rows: slice) -> None:
    x, numbers = quantized(scheme)
    part = x[rows]
    assert part.shape == numbers[rows].shape
    assert part.scales.shape == (part.shape[0], x.shape[1] // scheme.group if scheme.group else 1)
    np.testing.assert_array_equal(dequantized(ref_device, part), numbers[rows])


@EACH
def test_size_counts_all_parts(scheme: QuantScheme) -> None:
    x, _ = quantized(scheme)
    bits = {"q4_0": 4.5, "q4_1": 5, "q4_k": 4.625, "q5_0": 8.5, "q5_1": 9, "q5_k": 8.625, "q6_k": 8.5625, "q8_0": 8.5}
    assert 8 * x.nbytes / x.size == bits.get(scheme.name, 8 + 32 / 254)
    assert sum(part.nbytes for part in x.parts) == x.nbytes


@WRITTEN
def test_codes_written_by_a_device_are_as_good_as_those_of_gguf(device: Device, scheme: QuantScheme) -> None:
    numbers, kind = normal(ROWS, 96), GGMLQuantizationType[scheme.name.upper()]
    ours = dequantized(device, device.quantize(device.upload(numbers, "x"), scheme))
    theirs = gguf.quants.dequantize(gguf.quants.quantize(numbers, kind), kind)
    assert np.abs(ours - numbers).mean() <= 1.01 * np.abs(theirs - numbers).mean()
    np.testing.assert_allclose(ours, theirs, atol=0.5)


@pytest.mark.parametrize(("scheme", "narrower"), [(Q4_K, Q4_1), (Q5_K, Q5_1), (Q6_K, Q5_K)], ids=lambda s: s.name)
def test_codes_against_super_groups_are_about_as_good(
    device: Device, scheme: QuantScheme, narrower: QuantScheme
) -> None:
    """As those with a float16 scale a group: rounding scales to six bits costs some, a bit more a code gains more."""
    numbers = normal(ROWS, 512)
    errors = [
        np.abs(dequantized(device, device.quantize(device.upload(numbers, "x"), s)) - numbers).mean()
        for s in (scheme, narrower)
    ]
    assert errors[0] <= 1.15 * errors[1]


@EACH
def test_constant_groups_quantize_without_a_division_by_zero(device: Device, scheme: QuantScheme) -> None:
    numbers = np.zeros((2, 2 * scheme.unit), np.float32)
    numbers[1, : scheme.unit] = 0.5
    ours = dequantized(device, device.quantize(device.upload(numbers, "x"), scheme))
    np.testing.assert_allclose(ours, numbers, atol=1e-3)


def parts(scheme: QuantScheme) -> dict[str, Any]:
    x, _ = quantized(scheme)
    return {"shape": x.shape, **x.named_parts}


@pytest.mark.parametrize(
    ("scheme", "change"),
    [
        (Q4_0, {"shape": (ROWS, 97)}),
        (Q4_0, {"shape": (ROWS + 1, 96)}),
        (Q4_0, {"payload": Buffer.borrow(np.zeros((ROWS, 3, 32), np.uint8))}),
        (Q4_0, {"payload": Buffer.borrow(np.zeros((ROWS, 3, 16), np.float32))}),
        (Q8_0, {"scales": Buffer.borrow(np.zeros((ROWS, 2), np.float16))}),
        (Q4_1, {"zeros": None}),
        (Q4_1, {"zeros": Buffer.borrow(np.zeros((ROWS, 4), np.float16))}),
        (Q4_0, {"zeros": Buffer.borrow(np.zeros((ROWS, 3), np.float16))}),
        (Q4_0, {"scale_factors": Buffer.borrow(np.zeros((ROWS, 3), np.float16))}),
        (Q4_K, {"shape": (ROWS, 768 + 32)}),
        (Q4_K, {"scales": Buffer.borrow(np.zeros((ROWS, 24), np.float16))}),
        (Q4_K, {"scales": Buffer.borrow(np.zeros((ROWS, 24), np.int8))}),
        (Q4_K, {"zeros": None}),
        (Q4_K, {"scale_factors": None}),
        (Q4_K, {"scale_factors": Buffer.borrow(np.zeros((ROWS, 24), np.float16))}),
        (Q4_K, {"zero_factors": Buffer.borrow(np.zeros((ROWS, 3), np.float32))}),
        (Q6_K, {"scales": Buffer.borrow(np.zeros((ROWS, 48), np.uint8))}),
        (Q6_K, {"zero_factors": Buffer.borrow(np.zeros((ROWS, 3), np.float16))}),
        (FP8_CHANNEL, {"shape": (ROWS, 253)}),
        (FP8_CHANNEL, {"scales": Buffer.borrow(np.zeros((ROWS, 1), np.float16))}),
        (FP8_CHANNEL, {"scales": Buffer.borrow(np.zeros((ROWS, 2), np.float32))}),
        (INT8_CHANNEL, {"payload": Buffer.borrow(np.zeros((ROWS, 2, 127), np.int8))}),
        (INT8_CHANNEL, {"zeros": Buffer.borrow(np.zeros((ROWS, 1), np.float32))}),
    ],
)
def test_parts_that_do_not_fit_together_are_rejected(scheme: QuantScheme, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"for {scheme.name} of shape"):
        QBuffer(scheme, **(parts(scheme) | change))


@EACH
def test_parts_move_together(scheme: QuantScheme, ref_device: Device) -> None:
    """Into a device's memory, into an outline, and out of a layout that has fewer of them."""
    x, _ = quantized(scheme)
    told, prepared = outline(x.shape, scheme), ref_device.prepare_weight(x, "weight")
    assert isinstance(told, QBuffer) and isinstance(prepared, QBuffer)
    for other in (told, prepared):
        assert {n: (p.shape, p.dtype) for n, p in other.named_parts.items()} == scheme.parts(*x.shape)
    packed = QBuffer(scheme, x.shape, x.payload, x.scales, layout="acme.tiles")
    assert ref_device.prepare_weight(packed, "weight").named_parts.keys() == {"payload", "scales"}


def test_views_that_would_tear_codes_from_scales_are_rejected() -> None:
    x, _ = quantized(Q4_1)
    for tear in (lambda: x[0], lambda: x[:, :32], lambda: x.view(-1), lambda: x.transpose(1, 0)):
        with pytest.raises(ConfigError, match="quantized buffer"):
            tear()


def test_rows_of_a_layout_of_a_devices_own_are_not_for_slicing() -> None:
    x, _ = quantized(Q4_0)
    packed = QBuffer(x.scheme, (ROWS, 96), x.payload, x.scales, layout="acme.tiles")
    with pytest.raises(ConfigError, match=r"acme\.tiles"):
        packed[:2]


# -- a kind of buffer that core has never heard of -----------------------------------------------------------------


class SparseBuffer(Buffer):
    """A matrix [N, K] of which only the nonzeros are stored: values, their columns, and where each row starts."""

    __slots__ = ("columns", "row_starts", "values")

    def __init__(self, shape: tuple[int, int], values: Buffer, columns: Buffer, row_starts: Buffer) -> None:
        super().__init__(values.storage, values.dtype, shape, None, values.offset)
        self.values, self.columns, self.row_starts = values, columns, row_starts


class SparseDevice(ReferenceDevice):
    """The reference, whose gemm also takes a SparseBuffer."""

    def gemm(
        self, a: Buffer, b: Buffer, *, bias: Buffer | None = None, trans_b: bool = False, out: Buffer | None = None
    ) -> Buffer:
        if not isinstance(b, SparseBuffer):
            return super().gemm(a, b, bias=bias, trans_b=trans_b, out=out)
        assert trans_b
        x, values, columns, starts = (part.numpy() for part in (a, b.values, b.columns, b.row_starts))
        products = x[:, columns] * values
        y = np.stack([products[:, i:j].sum(axis=1) for i, j in pairwise(starts)], axis=1)
        return self._store(out, y if bias is None else y + bias.numpy(), a.dtype, "gemm")


def sparse(device: Device, dense: NDArray[np.float32]) -> SparseBuffer:
    rows, columns = np.nonzero(dense)
    starts = np.searchsorted(rows, np.arange(dense.shape[0] + 1)).astype(np.int32)
    arrays = dense[rows, columns], columns.astype(np.int32), starts
    values, indices, row_starts = (device.upload(array, "sparse") for array in arrays)
    return SparseBuffer((dense.shape[0], dense.shape[1]), values, indices, row_starts)


def test_a_new_kind_of_buffer_goes_through_linear_and_ffn_layer_with_no_signature_touched(make_device: Any) -> None:
    device = make_device(SparseDevice)
    before = {name: spec.parameters for name, spec in OPS.items()}
    up, down = normal(48, 16, seed=1), normal(16, 24, seed=2)
    up[np.abs(up) < 1], down[np.abs(down) < 1] = 0, 0
    x, bias = device.upload(normal(5, 16), "x"), device.upload(normal(16, seed=3), "bias")

    def ffn(weight: Any) -> FfnWeights:
        return FfnWeights((Linear(weight(device, up)),), Linear(weight(device, down), bias), "silu")

    def dense(device: Device, array: NDArray[np.float32]) -> Buffer:
        return device.upload(array, "dense")

    ops = resolve(device, Demand("float32")).ops("prefill")
    for op, operands in (("linear", lambda w: (x, Linear(w(device, up)))), ("ffn_layer", lambda w: (x, ffn(w)))):
        got, expected = (device.download(getattr(ops, op)(*operands(weight))) for weight in (sparse, dense))
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    assert {name: spec.parameters for name, spec in OPS.items()} == before
