import numpy as np
import pytest
from cpu_oracle import FLOATS, TOLERANCE, put, rounded, wide

from rtp_core.plugin import Buffer, Device, DeviceError, DType, dtypes

SIZES = [
    (1, 1, 1),
    (0, 3, 2),
    (1, 33, 70),
    (4, 31, 67),
    (5, 33, 16),
    (13, 64, 1),
    (29, 17, 130),
    (130, 96, 64),
    (3, 5, 0),
]


def assert_product(got: Buffer, a: np.ndarray, b: np.ndarray, bias: np.ndarray | None, dtype: DType) -> None:
    expected, size = wide(a) @ wide(b), np.abs(wide(a)) @ np.abs(wide(b)) + 1e-3
    if bias is not None:
        expected, size = expected + wide(bias), size + np.abs(wide(bias))
    assert got.dtype is dtype
    assert got.shape == expected.shape
    accumulated = 1e-7 * (8 + a.shape[-1] / 4) * size  # float32 sums, relative to the sum of magnitudes
    assert np.all(np.abs(wide(got.numpy()) - expected) <= accumulated + TOLERANCE[dtype] * np.abs(expected))


@pytest.mark.parametrize("b_dtype", FLOATS, ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_gemm_multiplies_with_both_kinds_of_b(
    device: Device, rng: np.random.Generator, size: tuple[int, int, int], dtype: DType, b_dtype: DType
) -> None:
    m, n, k = size
    a, b = rounded(rng.standard_normal((m, k)), dtype), rounded(rng.standard_normal((n, k)), b_dtype)
    bias = rounded(rng.standard_normal(n), b_dtype)
    assert_product(device.gemm(put(device, a), put(device, b), trans_b=True), a, b.T, None, dtype)
    assert_product(
        device.gemm(put(device, a), put(device, b), bias=put(device, bias), trans_b=True), a, b.T, bias, dtype
    )
    plain = np.ascontiguousarray(b.T)
    assert_product(device.gemm(put(device, a), put(device, plain), bias=put(device, bias)), a, plain, bias, dtype)


def test_gemm_takes_b_in_any_strides(device: Device, rng: np.random.Generator) -> None:
    a, b = rng.standard_normal((7, 20)).astype(np.float32), rng.standard_normal((20, 9)).astype(np.float32)
    turned = device.upload(np.ascontiguousarray(b.T), "b").transpose(1, 0)
    assert_product(device.gemm(put(device, a), turned), a, b, None, dtypes.float32)
    sparse = device.upload(np.repeat(b, 2, axis=1), "b")[:, ::2]
    assert_product(device.gemm(put(device, a), sparse), a, b, None, dtypes.float32)
    assert_product(device.gemm(put(device, a), sparse.transpose(1, 0), trans_b=True), a, b, None, dtypes.float32)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("trans_b", [False, True])
def test_gemm_broadcasts_leading_axes_of_b_and_writes_strided_results(
    device: Device, rng: np.random.Generator, trans_b: bool, dtype: DType
) -> None:
    tokens, heads, groups, dim, context = 6, 2, 3, 16, 11
    a = rounded(rng.standard_normal((tokens, heads, groups, dim)), dtype)
    b = rounded(rng.standard_normal((heads, 1, dim, context)), dtype)
    stored = np.ascontiguousarray(b.swapaxes(-1, -2)) if trans_b else b
    out = device.upload(np.zeros((tokens, heads, groups, context), dtype.numpy), "out").transpose(1, 2, 0, 3)
    device.gemm(put(device, a).transpose(1, 2, 0, 3), put(device, stored), trans_b=trans_b, out=out)
    assert_product(out, a.transpose(1, 2, 0, 3), b, None, dtype)


def test_a_gemm_into_a_wider_dtype_keeps_its_precision(device: Device, rng: np.random.Generator) -> None:
    a, b = rounded(rng.standard_normal((3, 40)), dtypes.bfloat16), rng.standard_normal((5, 40)).astype(np.float32)
    out = device.alloc((3, 5), dtypes.float32, "out")
    assert_product(device.gemm(put(device, a), put(device, b), trans_b=True, out=out), a, b.T, None, dtypes.float32)


def test_gemm_refuses_sizes_that_do_not_meet(device: Device) -> None:
    a, b = device.upload(np.zeros((2, 3), np.float32), "a"), device.upload(np.zeros((2, 4), np.float32), "b")
    with pytest.raises(DeviceError, match="gemm cannot take"):
        device.gemm(a, b, trans_b=True)
    with pytest.raises(DeviceError, match="gemm cannot take"):
        device.gemm(a.view(2, 1, 3), a.view(1, 2, 3), trans_b=True, bias=b)


def test_nan_and_infinity_reach_exactly_the_results_they_touch(device: Device) -> None:
    a = np.ones((6, 40), np.float32)
    a[2, 7], a[4, 0] = np.nan, np.inf
    y = device.gemm(put(device, a), put(device, np.ones((33, 40), np.float32)), trans_b=True).numpy()
    assert np.all(np.isnan(y[2]))
    assert np.all(np.isposinf(y[4]))
    assert np.all(y[[0, 1, 3, 5]] == 40)
