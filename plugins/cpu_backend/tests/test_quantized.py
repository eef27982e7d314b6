import numpy as np
import pytest
from cpu_oracle import FLOATS, TOLERANCE, put, rounded, wide

from rtp_core.device import reference_ops
from rtp_core.plugin import Q4_0, Q4_1, Q8_0, Device, DeviceError, DType, Linear, QBuffer, QuantScheme, dtypes

SCHEMES = [Q4_0, Q4_1, Q8_0]
by_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.name)


def weight(device: Device, rng: np.random.Generator, scheme: QuantScheme, n: int, k: int) -> tuple[QBuffer, np.ndarray]:
    """A plain weight with every code there is, and its numbers [n, k]."""
    payload = rng.integers(0, 256, (n, k // 32, scheme.payload_bytes), dtype=np.uint8)
    scales = rng.uniform(-0.1, 0.1, (n, k // 32)).astype(np.float16)
    zeros = None if scheme.symmetric else rng.uniform(-1, 1, (n, k // 32)).astype(np.float16)
    parts = [part for part in (payload, scales, zeros) if part is not None]
    values = reference_ops.dequantize(parts, scheme)
    return QBuffer.of_parts(scheme, (n, k), [device.upload(part, "weight") for part in parts]), values


def as_int8_groups(a: np.ndarray) -> np.ndarray:
    """What is left of activations once they are int8 in groups of 32."""
    groups = a.astype(np.float32).reshape(a.shape[0], a.shape[1] // 32, 32)
    top = np.abs(groups).max(axis=-1, keepdims=True)
    inverse = np.divide(np.float32(127), top, out=np.zeros_like(top), where=top > 0)
    return (np.rint(groups * inverse) * wide(top / np.float32(127))).reshape(a.shape)


@by_scheme
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(
    ("m", "n", "k"), [(1, 1, 32), (1, 50, 96), (3, 16, 64), (8, 33, 32), (31, 47, 128), (0, 5, 32)]
)
def test_gemm_of_a_prepared_weight_is_exact_but_for_the_activations(
    device: Device, rng: np.random.Generator, scheme: QuantScheme, m: int, n: int, k: int, dtype: DType
) -> None:
    plain, values = weight(device, rng, scheme, n, k)
    a, bias = rounded(rng.standard_normal((m, k)), dtype), rng.standard_normal(n).astype(np.float32)
    prepared = device.prepare_weight(plain, "weight")
    assert isinstance(prepared, QBuffer)
    assert prepared.layout == "rows16"
    expected = as_int8_groups(a) @ wide(values).T + wide(bias)
    size = np.abs(as_int8_groups(a)) @ np.abs(wide(values)).T + np.abs(bias)
    for b in (prepared, plain):
        got = device.gemm(put(device, a), b, bias=put(device, bias), trans_b=True)
        assert got.dtype is dtype
        assert np.all(np.abs(wide(got.numpy()) - expected) <= 4e-6 * size + TOLERANCE[dtype] * np.abs(expected))


@by_scheme
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("rows", [0, 1, 7, 13])
def test_lm_head_sees_sixteen_bits_of_the_activations(
    device: Device, rng: np.random.Generator, scheme: QuantScheme, rows: int, dtype: DType
) -> None:
    plain, values = weight(device, rng, scheme, 50, 96)
    a = rounded(rng.standard_normal((rows, 96)), dtype)
    got = device._lm_head(put(device, a), Linear(device.prepare_weight(plain, "lm_head")))
    assert got.dtype is dtypes.float32
    # Per group the second level's step is amax / 127 / 254, and rounding to it is off by half of that at most.
    groups = np.abs(wide(a)).reshape(rows, 3, 32)
    half_step = np.broadcast_to(groups.max(axis=-1, keepdims=True) / 127 / 254 / 2, groups.shape).reshape(rows, 96)
    bound = half_step @ np.abs(wide(values)).T + 4e-6 * np.abs(wide(a)) @ np.abs(wide(values)).T
    assert np.all(np.abs(wide(got.numpy()) - wide(a) @ wide(values).T) <= bound)


@by_scheme
def test_the_extreme_codes_do_not_saturate(device: Device, scheme: QuantScheme) -> None:
    k = 64
    payload = np.full((16, k // 32, scheme.payload_bytes), 0x80 if scheme is Q8_0 else 0xFF, np.uint8)
    ones = np.ones((16, k // 32), np.float16)
    parts = [device.upload(p, "w") for p in (payload, ones, ones)]
    plain = QBuffer(scheme, (16, k), parts[0], parts[1], None if scheme.symmetric else parts[2])
    value = {"q4_0": 7, "q4_1": 16, "q8_0": -128}[scheme.name]
    for sign in (1, -1):
        a = np.full((1, k), sign * 127, np.float32)
        got = device.gemm(put(device, a), device.prepare_weight(plain, "w"), trans_b=True)
        np.testing.assert_array_equal(got.numpy(), np.full((1, 16), sign * 127.0 * k * value))


@by_scheme
def test_a_row_does_not_depend_on_the_rows_beside_it(
    device: Device, rng: np.random.Generator, scheme: QuantScheme
) -> None:
    prepared = device.prepare_weight(weight(device, rng, scheme, 70, 96)[0], "weight")
    a = rng.standard_normal((45, 96)).astype(np.float32)
    together = device.gemm(put(device, a), prepared, trans_b=True).numpy()
    alone = [device.gemm(put(device, a[i : i + 1]), prepared, trans_b=True).numpy()[0] for i in range(45)]
    np.testing.assert_array_equal(together, np.stack(alone))


@by_scheme
def test_nan_and_infinity_make_their_row_nan_and_no_other(
    device: Device, rng: np.random.Generator, scheme: QuantScheme
) -> None:
    prepared = device.prepare_weight(weight(device, rng, scheme, 20, 64)[0], "weight")
    a = rng.standard_normal((4, 64)).astype(np.float32)
    a[1, 5], a[2, 40], a[3] = np.nan, -np.inf, 0
    y = device.gemm(put(device, a), prepared, trans_b=True).numpy()
    assert np.all(np.isfinite(y[0])) and np.all(y[3] == 0)
    assert np.all(np.isnan(y[1:3]))


@by_scheme
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_rows_of_a_prepared_and_of_a_plain_weight_are_its_numbers(
    device: Device, rng: np.random.Generator, scheme: QuantScheme, dtype: DType
) -> None:
    plain, values = weight(device, rng, scheme, 37, 96)
    ids = np.array([36, 0, 17, 17], np.int32)
    for table in (plain, device.prepare_weight(plain, "weight")):
        assert isinstance(table, QBuffer)
        rows = device.gather_rows(table, device.upload(ids, "ids"), dtype=dtype)
        np.testing.assert_array_equal(rows.numpy(), values[ids].astype(dtype.numpy))
        np.testing.assert_array_equal(device.dequantize(table, dtype=dtype).numpy(), values.astype(dtype.numpy))
        with pytest.raises(DeviceError, match="outside its table"):
            device.gather_rows(table, device.upload(np.array([37], np.int32), "ids"), dtype=dtype)


@by_scheme
@pytest.mark.parametrize("shape", [(0, 32), (1, 32), (9, 160)], ids=str)
def test_quantize_gives_the_codes_of_the_definition(
    device: Device, rng: np.random.Generator, scheme: QuantScheme, shape: tuple[int, int]
) -> None:
    x = rng.standard_normal(shape).astype(np.float32)
    x[:1] = 0
    expected = reference_ops.quantize(x, scheme)
    got = device.quantize(put(device, x), scheme)
    for part, wanted in zip(got.parts, expected, strict=True):
        np.testing.assert_array_equal(part.numpy().view(wanted.dtype), wanted)


@by_scheme
def test_slices_of_a_plain_weight_can_be_prepared(
    device: Device, rng: np.random.Generator, scheme: QuantScheme
) -> None:
    plain, values = weight(device, rng, scheme, 40, 64)
    part = device.prepare_weight(plain[3:24], "weight")
    assert isinstance(part, QBuffer)
    np.testing.assert_array_equal(device.dequantize(part, dtype=dtypes.float32).numpy(), values[3:24])
