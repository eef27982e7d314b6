from __future__ import annotations

import numpy as np
import pytest
import torch
from kernel_oracle import FLOATS, assert_close, lent, put, room, rounded

from rtp_core.device.reference import ReferenceDevice
from rtp_core.memory.qbuffer import SCHEMES
from rtp_core.plugin import DType, QBuffer, dtypes
from rtp_torch.kernels import packed_gemm
from rtp_torch.kernels.packed_weight import PackedWeight
from rtp_torch.memory import TORCH_DTYPES
from rtp_torch.packed import forms, pack, weight_of
from rtp_torch.quantized import StoredWeight

f32 = dtypes.float32
SERVED = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")


def packed(weight: QBuffer) -> PackedWeight:
    scheme, (rows, columns) = weight.scheme, weight.shape
    parts = {
        name: torch.full(shape, 77, dtype=TORCH_DTYPES[dtype])
        for name, (shape, dtype) in forms(scheme, rows, columns).items()
    }
    into = weight_of(scheme, columns, parts)
    plain = StoredWeight(scheme, {name: torch.from_numpy(part.numpy()) for name, part in weight.named_parts.items()})
    pack(plain, into, lambda shape, dtype: torch.full(shape, 77, dtype=dtype))
    return into


def product(x: np.ndarray, weight: PackedWeight, bias: np.ndarray | None, dtype: DType, splits: int) -> torch.Tensor:
    rows, columns = len(x), weight.codes.shape[1]
    out = room((rows, columns), dtype)
    scratch = torch.full((packed_gemm.scratch_size(rows, weight, splits),), torch.nan)
    place = None if bias is None else torch.from_numpy(bias)
    packed_gemm.packed_gemm(put(x, dtype), weight, place, splits=splits, scratch=scratch, out=out)
    return out


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("scheme", SERVED)
@pytest.mark.parametrize("shape", [(1, 1, 32, 1), (3, 70, 96, 2), (33, 130, 160, 1)])  # rows, columns, width, splits
def test_x_times_a_packed_weight(
    ref: ReferenceDevice, rng: np.random.Generator, shape: tuple[int, int, int, int], scheme: str, dtype: DType
) -> None:
    rows, columns, width, splits = shape
    x = rounded(rng.standard_normal((rows, width)) / 8, dtype)
    weight = ref.quantize(lent(ref, rng.standard_normal((columns, width))), SCHEMES[scheme])
    bias = rng.standard_normal(columns).astype(np.float32)
    expected = ref.gemm(lent(ref, x), weight, bias=lent(ref, bias), trans_b=True)
    assert_close(product(x, packed(weight), bias, dtype, splits), expected, dtype)


@pytest.mark.parametrize("splits", [1, 2])
def test_without_a_bias_and_with_rows_that_are_not_finite(
    ref: ReferenceDevice, rng: np.random.Generator, splits: int
) -> None:
    x = rng.standard_normal((3, 64)).astype(np.float32)
    x[1, 5] = np.nan
    weight = ref.quantize(lent(ref, rng.standard_normal((5, 64))), SCHEMES["q8_0"])
    got = product(x, packed(weight), None, f32, splits)
    assert_close(got, ref.gemm(lent(ref, x), weight, trans_b=True), f32, scale=4)


def test_every_code_is_where_it_belongs(ref: ReferenceDevice) -> None:
    """One column of ones at a time: the product is the weight."""
    rng = np.random.default_rng(1)
    for scheme in SERVED:
        weight = ref.quantize(lent(ref, rng.standard_normal((3, 96))), SCHEMES[scheme])
        got = product(np.eye(96, dtype=np.float32), packed(weight), None, f32, 1)
        np.testing.assert_allclose(got.numpy().T, ref.dequantize(weight, dtype=f32).numpy(), rtol=1e-6, atol=1e-7)


def test_an_odd_group_is_packed_with_an_empty_one(ref: ReferenceDevice) -> None:
    weight = packed(ref.quantize(lent(ref, np.ones((2, 96))), SCHEMES["q4_1"]))
    assert weight.codes.shape == (2, 2, 32) and weight.columns == 96
    assert weight.zeros is not None
    assert not weight.scales[3].any() and not weight.zeros[3].any()


def test_splits_are_as_many_as_pay(ref: ReferenceDevice) -> None:
    weight = PackedWeight(torch.empty(56, 4096, 32, dtype=torch.uint8), torch.empty(0), None, 3584, 8)
    assert packed_gemm.num_splits(1, weight, 132) == 4
    assert packed_gemm.num_splits(1, weight, 1000) == 7  # 8 steps each
    assert packed_gemm.num_splits(2048, weight, 132) == 1


def test_no_rows_are_no_launch(ref: ReferenceDevice) -> None:
    weight = packed(ref.quantize(lent(ref, np.ones((2, 32))), SCHEMES["q8_0"]))
    assert product(np.zeros((0, 32), np.float32), weight, None, f32, 1).shape == (0, 2)
