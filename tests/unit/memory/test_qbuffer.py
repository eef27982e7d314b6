"""Quantized buffers against the `gguf` package, and the proof that a new kind of buffer needs no new op."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray

from rtp_core import dtypes
from rtp_core.device.plan import Demand, resolve
from rtp_core.device.reference import ReferenceDevice
from rtp_core.errors import ConfigError
from rtp_core.memory.buffer import Buffer
from rtp_core.memory.qbuffer import Q4_0, Q4_1, Q8_0, QBuffer, QuantScheme
from rtp_core.plugin import OPS, Device, FfnWeights, Linear

ORACLES = {
    "q4_0": GGMLQuantizationType.Q4_0,
    "q4_1": GGMLQuantizationType.Q4_1,
    "q8_0": GGMLQuantizationType.Q8_0,
}
SCHEMES = pytest.mark.parametrize("scheme", [Q4_0, Q4_1, Q8_0], ids=lambda s: s.name)
ROWS, COLUMNS = 6, 96


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def quantized(scheme: QuantScheme) -> tuple[QBuffer, NDArray[np.float32]]:
    """A host QBuffer over blocks that `gguf` wrote, and what `gguf` says they mean."""
    blocks = gguf.quants.quantize(normal(ROWS, COLUMNS), ORACLES[scheme.name])
    numbers = gguf.quants.dequantize(blocks, ORACLES[scheme.name])
    groups = COLUMNS // scheme.group
    blocks = blocks.reshape(ROWS, groups, -1)
    heads = blocks.shape[2] - scheme.payload_bytes  # bytes of 16-bit scale and minimum before the codes
    scales = Buffer.borrow(np.ascontiguousarray(blocks[..., :2]).view(np.float16).reshape(ROWS, groups))
    zeros = None
    if not scheme.symmetric:
        zeros = Buffer.borrow(np.ascontiguousarray(blocks[..., 2:4]).view(np.float16).reshape(ROWS, groups))
    payload = Buffer.borrow(np.ascontiguousarray(blocks[..., heads:]))
    return QBuffer(scheme, (ROWS, COLUMNS), payload, scales, zeros), numbers


def dequantized(device: Device, x: QBuffer) -> NDArray[np.float32]:
    return device.download(device.dequantize(x, dtype=dtypes.float32))


@SCHEMES
def test_schemes_mean_what_gguf_says(device: Device, scheme: QuantScheme) -> None:
    x, numbers = quantized(scheme)
    prepared = device.prepare_weight(x, "weight")
    assert isinstance(prepared, QBuffer)
    assert prepared.scheme is scheme
    np.testing.assert_array_equal(dequantized(device, prepared), numbers)


@SCHEMES
@pytest.mark.parametrize("rows", [slice(1, 3), slice(None, None, 2), slice(4, 4), slice(-1, None)])
def test_sliced_rows_keep_their_scales(ref_device: Device, scheme: QuantScheme, rows: slice) -> None:
    x, numbers = quantized(scheme)
    part = x[rows]
    assert part.shape == numbers[rows].shape
    assert part.scales.shape == (part.shape[0], COLUMNS // scheme.group)
    np.testing.assert_array_equal(dequantized(ref_device, part), numbers[rows])


@SCHEMES
def test_size_counts_codes_scales_and_zeros(scheme: QuantScheme) -> None:
    x, _ = quantized(scheme)
    bits = 8 * x.nbytes / (ROWS * COLUMNS)
    assert bits == {"q4_0": 4.5, "q4_1": 5.0, "q8_0": 8.5}[scheme.name]
    assert sum(part.nbytes for part in x.parts) == x.nbytes


@SCHEMES
def test_codes_written_by_a_device_are_as_good_as_those_of_gguf(device: Device, scheme: QuantScheme) -> None:
    numbers = normal(ROWS, COLUMNS)
    ours = dequantized(device, device.quantize(device.upload(numbers, "x"), scheme))
    theirs = quantized(scheme)[1]
    assert np.abs(ours - numbers).mean() <= 1.01 * np.abs(theirs - numbers).mean()
    np.testing.assert_allclose(ours, theirs, atol=0.5)


@SCHEMES
def test_constant_groups_quantize_without_a_division_by_zero(device: Device, scheme: QuantScheme) -> None:
    numbers = np.zeros((2, 64), np.float32)
    numbers[1, :32] = 0.5
    ours = dequantized(device, device.quantize(device.upload(numbers, "x"), scheme))
    np.testing.assert_allclose(ours, numbers, atol=1e-3)


def parts(scheme: QuantScheme) -> dict[str, Any]:
    x, _ = quantized(scheme)
    return {"shape": (ROWS, COLUMNS), "payload": x.payload, "scales": x.scales, "zeros": x.zeros}


@pytest.mark.parametrize(
    ("scheme", "change"),
    [
        (Q4_0, {"shape": (ROWS, COLUMNS + 1)}),
        (Q4_0, {"shape": (ROWS + 1, COLUMNS)}),
        (Q4_0, {"payload": Buffer.borrow(np.zeros((ROWS, 3, 32), np.uint8))}),
        (Q4_0, {"payload": Buffer.borrow(np.zeros((ROWS, 3, 16), np.float32))}),
        (Q8_0, {"scales": Buffer.borrow(np.zeros((ROWS, 2), np.float16))}),
        (Q4_1, {"zeros": None}),
        (Q4_1, {"zeros": Buffer.borrow(np.zeros((ROWS, 4), np.float16))}),
        (Q4_0, {"zeros": Buffer.borrow(np.zeros((ROWS, 3), np.float16))}),
    ],
)
def test_parts_that_do_not_fit_together_are_rejected(scheme: QuantScheme, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"for {scheme.name} of shape"):
        QBuffer(scheme, **(parts(scheme) | change))


def test_views_that_would_tear_codes_from_scales_are_rejected() -> None:
    x, _ = quantized(Q4_1)
    for tear in (lambda: x[0], lambda: x[:, :32], lambda: x.view(-1), lambda: x.transpose(1, 0)):
        with pytest.raises(ConfigError, match="quantized buffer"):
            tear()


def test_rows_of_a_layout_of_a_devices_own_are_not_for_slicing() -> None:
    x, _ = quantized(Q4_0)
    packed = QBuffer(x.scheme, (ROWS, COLUMNS), x.payload, x.scales, layout="acme.tiles")
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
