"""bf16 weights as prepare_weight leaves them: products, rows, and what they refuse."""

import numpy as np
import pytest
from cpu_oracle import FLOATS, TOLERANCE, put, rounded, wide

from rtp_core.plugin import Buffer, ConfigError, DeviceError, DType, dtypes
from rtp_cpu.device import CpuDevice
from rtp_cpu.paired import PairedWeight

SIZES = [(0, 3, 2), (2, 0, 3), (3, 5, 0), (1, 1, 1), (1, 33, 70), (4, 31, 67), (5, 33, 16), (13, 64, 1), (29, 17, 130)]
SIZES += [(130, 96, 64), (16, 48, 1026)]


def prepared(device: CpuDevice, values: np.ndarray) -> PairedWeight:
    weight = device.prepare_weight(Buffer.borrow(rounded(values, dtypes.bfloat16)), "weight")
    assert isinstance(weight, PairedWeight)
    return weight


def multiplied(device: CpuDevice, a: np.ndarray) -> np.ndarray:
    """Activations as products see them."""
    return wide(rounded(a, dtypes.bfloat16) if device._native.isa == "avx512bf16" else a)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_gemm_of_a_prepared_weight(
    device: CpuDevice, rng: np.random.Generator, size: tuple[int, int, int], dtype: DType
) -> None:
    m, n, k = size
    a, w = rounded(rng.standard_normal((m, k)), dtype), rounded(rng.standard_normal((n, k)), dtypes.bfloat16)
    bias, weight = rng.standard_normal(n).astype(np.float32), prepared(device, w)
    for added in (None, bias):
        got = device.gemm(put(device, a), weight, bias=None if added is None else put(device, added), trans_b=True)
        expected = multiplied(device, a) @ wide(w).T + (0 if added is None else wide(added))
        sizes = np.abs(multiplied(device, a)) @ np.abs(wide(w)).T + np.abs(wide(bias))
        assert got.dtype is dtype and got.shape == (m, n)
        accumulated = 1e-7 * (8 + k / 4) * sizes  # float32 sums, relative to the sum of magnitudes
        assert np.all(np.abs(wide(got.numpy()) - expected) <= accumulated + TOLERANCE[dtype] * np.abs(expected))


def test_a_row_does_not_depend_on_the_rows_beside_it(device: CpuDevice, rng: np.random.Generator) -> None:
    weight, a = prepared(device, rng.standard_normal((70, 101))), rng.standard_normal((61, 101)).astype(np.float32)
    together = device.gemm(put(device, a), weight, trans_b=True).numpy()
    alone = [device.gemm(put(device, a[i : i + 1]), weight, trans_b=True).numpy()[0] for i in range(61)]
    np.testing.assert_array_equal(together, np.stack(alone))


def test_activations_and_results_may_have_leading_axes_and_any_strides(
    device: CpuDevice, rng: np.random.Generator
) -> None:
    a, w = rng.standard_normal((3, 4, 20)).astype(np.float32), rounded(rng.standard_normal((9, 20)), dtypes.bfloat16)
    weight, expected = prepared(device, w), multiplied(device, a) @ wide(w).T
    out = device.alloc((4, 3, 9), dtypes.float32, "out").transpose(1, 0, 2)
    for x in (put(device, a), put(device, a.transpose(1, 0, 2)).transpose(1, 0, 2), put(device, np.repeat(a, 2, 2))):
        some = x[:, :, ::2] if x.shape[2] == 40 else x
        np.testing.assert_allclose(device.gemm(some, weight, trans_b=True).numpy(), expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(
            device.gemm(some, weight, trans_b=True, out=out).numpy(), expected, rtol=1e-5, atol=1e-5
        )


def test_nan_and_infinity_reach_exactly_the_results_they_touch(device: CpuDevice) -> None:
    a = np.ones((6, 41), np.float32)
    a[2, 7], a[4, 40] = np.nan, np.inf
    y = device.gemm(put(device, a), prepared(device, np.ones((33, 41))), trans_b=True).numpy()
    assert np.all(np.isnan(y[2]))
    assert np.all(np.isposinf(y[4]))
    assert np.all(y[[0, 1, 3, 5]] == 41)
    w = np.ones((33, 41), np.float32)
    w[3, 0], w[17, 40] = np.nan, -np.inf
    y = device.gemm(put(device, np.ones((2, 41), np.float32)), prepared(device, w), trans_b=True).numpy()
    assert np.all(np.isnan(y[:, 3])) and np.all(np.isneginf(y[:, 17]))
    assert np.all(np.delete(y, [3, 17], axis=1) == 41)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("k", [1, 2, 67, 1030])
def test_rows_of_a_prepared_weight_are_its_numbers(
    device: CpuDevice, rng: np.random.Generator, k: int, dtype: DType
) -> None:
    w = rounded(rng.standard_normal((37, k)), dtypes.bfloat16)
    weight, ids = prepared(device, w), np.array([36, 0, 17, 17], np.int32)
    for some in (ids, ids.astype(np.int64)):
        rows = device.gather_rows(weight, device.upload(some, "ids"), dtype=dtype)
        np.testing.assert_array_equal(rows.numpy(), w[ids].astype(np.float32).astype(dtype.numpy))
    for wrong in (37, -1):
        with pytest.raises(DeviceError, match="outside its table"):
            device.gather_rows(weight, device.upload(np.array([wrong], np.int32), "ids"))


def test_rows_of_a_weight_in_the_host_s_memory_can_be_prepared(device: CpuDevice, rng: np.random.Generator) -> None:
    w = rounded(rng.standard_normal((40, 34)), dtypes.bfloat16)
    every = device.upload(np.arange(17, dtype=np.int32), "ids")
    for view, values in ((Buffer.borrow(w)[3:20], w[3:20]), (Buffer.borrow(w)[3:20, ::2], w[3:20, ::2])):
        rows = device.gather_rows(device.prepare_weight(view, "weight"), every)
        np.testing.assert_array_equal(rows.numpy().view(np.uint16), np.ascontiguousarray(values).view(np.uint16))


def test_only_bfloat16_is_interleaved(device: CpuDevice, rng: np.random.Generator) -> None:
    w = rng.standard_normal((20, 30)).astype(np.float32)
    for values in (w, w.astype(np.float16)):
        weight = device.prepare_weight(Buffer.borrow(values), "weight")
        assert type(weight) is Buffer
        np.testing.assert_array_equal(weight.numpy(), values)


def test_a_prepared_weight_takes_what_it_says_and_hides_how_it_lies(device: CpuDevice) -> None:
    weight = prepared(device, np.ones((17, 5)))
    assert (weight.shape, weight.dtype, weight.tag) == ((17, 5), dtypes.bfloat16, "weight")
    assert weight.nbytes == weight.storage.nbytes == 32 * 6 * 2
    for access in (
        lambda: weight[3:5],
        lambda: weight.view(5, 17),
        lambda: weight.transpose(1, 0),
        weight.numpy,
        lambda: np.asarray(weight),
        lambda: device.download(weight),
        lambda: device.copy(weight, put(device, np.ones((17, 5)), dtypes.bfloat16)),
        lambda: device.cast(weight, dtypes.float32),
        lambda: device.add(weight, weight),
    ):
        with pytest.raises(ConfigError, match="its layout is pairs16"):
            access()


def test_a_prepared_weight_refuses_sizes_that_do_not_meet(device: CpuDevice) -> None:
    weight, x = prepared(device, np.ones((4, 4))), put(device, np.ones((2, 4), np.float32))
    ids = device.upload(np.zeros(2, np.int32), "ids")
    for call in (
        lambda: device.gemm(x, weight),
        lambda: device.gemm(x[:, :3], weight, trans_b=True),
        lambda: device.gemm(x, weight, trans_b=True, bias=x[0, :3]),
        lambda: device.gemm(x, weight, trans_b=True, out=device.alloc((2, 5), dtypes.float32, "out")),
        lambda: device.gather_rows(weight, ids, out=device.alloc((2, 5), dtypes.float32, "out")),
    ):
        with pytest.raises(DeviceError, match="cannot take these operands"):
            call()
