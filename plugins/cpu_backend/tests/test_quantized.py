import numpy as np
import pytest
from cpu_oracle import FLOATS, TOLERANCE, put, rounded, wide

from rtp_core.device import reference_ops
from rtp_core.plugin import (
    Q4_0,
    Q4_1,
    Q4_K,
    Q5_0,
    Q5_1,
    Q5_K,
    Q6_K,
    Q8_0,
    Buffer,
    Device,
    DeviceError,
    DType,
    FfnWeights,
    Linear,
    QBuffer,
    QuantScheme,
    dtypes,
)
from rtp_cpu import quantized
from rtp_cpu.manifest import MANIFEST

SCHEMES = [Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0]
LARGEST = {"scales": 0.1, "zeros": 1.0, "scale_factors": 1e-3, "zero_factors": 1e-2}  # of floats in random weights
by_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.name)


def whole_range(scheme: QuantScheme, name: str, dtype: DType) -> tuple[int, int]:
    """The least and the largest whole number of a part."""
    if name == "payload" and scheme.packing == "whole" and scheme.bits < 8:
        return 0, 2**scheme.bits - 1
    limits = np.iinfo(dtype.numpy)
    return int(limits.min), int(limits.max)


def weight(device: Device, rng: np.random.Generator, scheme: QuantScheme, n: int, k: int) -> tuple[QBuffer, np.ndarray]:
    """A plain weight with every code there is, and its numbers [n, k]."""
    parts = []
    for name, (shape, dtype) in scheme.parts(n, k).items():
        if dtype is dtypes.float16:
            parts.append(rng.uniform(-LARGEST[name], LARGEST[name], shape).astype(np.float16))
        else:
            parts.append(rng.integers(*whole_range(scheme, name, dtype), shape, dtype.numpy, endpoint=True))
    values = reference_ops.dequantize(parts, scheme)
    return QBuffer.of_parts(scheme, (n, k), [device.upload(part, "weight") for part in parts]), values


def as_int8_groups(a: np.ndarray) -> np.ndarray:
    """What is left of activations once they are int8 in groups of 32."""
    groups = a.astype(np.float32).reshape(a.shape[0], a.shape[1] // 32, 32)
    top = np.abs(groups).max(axis=-1, keepdims=True)
    inverse = np.divide(np.float32(127), top, out=np.zeros_like(top), where=top > 0)
    return (np.rint(groups * inverse) * wide(top / np.float32(127))).reshape(a.shape)


def in_blocks(plain: QBuffer, gap: int) -> QBuffer:
    """The parts of a weight side by side, group by group: numbers, codes, and `gap` bytes that are nobody's."""
    payload, numbers = plain.payload.numpy().view(np.uint8), [part.numpy() for part in plain.parts[1:]]
    head = 2 * len(numbers)
    blocks = np.full((*payload.shape[:2], head + payload.shape[2] + gap), 0xAB, np.uint8)
    for i, part in enumerate(numbers):
        blocks[..., 2 * i : 2 * i + 2] = part[..., None].view(np.uint8)
    blocks[..., head : head + payload.shape[2]] = payload
    whole, (_, groups, nbytes) = Buffer.borrow(blocks).storage, blocks.shape
    strides = (groups * nbytes // 2, nbytes // 2)
    halves = [Buffer(whole, dtypes.float16, part.shape, strides, 2 * i) for i, part in enumerate(numbers)]
    codes = Buffer(whole, plain.payload.dtype, payload.shape, (groups * nbytes, nbytes, 1), head)
    return QBuffer.of_parts(plain.scheme, (plain.shape[0], plain.shape[1]), [codes, *halves])


@pytest.mark.parametrize("gap", [0, 2])
@pytest.mark.parametrize("scheme", [s for s in SCHEMES if not s.super_group], ids=lambda s: s.name)
def test_blocks_of_a_file_are_read_where_they_lie(
    device: Device, rng: np.random.Generator, scheme: QuantScheme, gap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, values = weight(device, rng, scheme, 19, 3 * scheme.unit)
    blocks = in_blocks(plain, gap)
    monkeypatch.setattr(np, "ascontiguousarray", lambda _: pytest.fail("copied"))
    for some, expected in ((slice(None), plain), (slice(2, 18), plain[2:18])):
        packed, as_parts = (device.prepare_weight(x[some], "weight") for x in (blocks, plain))
        assert packed.payload.numpy().tobytes() == as_parts.payload.numpy().tobytes()
        got = device.dequantize(blocks[some], dtype=dtypes.float32)
        np.testing.assert_array_equal(got.numpy(), device.dequantize(expected, dtype=dtypes.float32).numpy())
    np.testing.assert_array_equal(got.numpy(), values[2:18])


def test_there_are_kernels_for_every_scheme_of_the_manifest() -> None:
    assert {scheme.name for scheme in SCHEMES} == set(MANIFEST.schemes)


@by_scheme
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(
    ("m", "n", "units"),
    [
        (1, 1, 1),
        (1, 50, 3),
        (3, 16, 2),
        (5, 19, 1),
        (8, 33, 1),
        (16, 20, 1),
        (23, 17, 2),
        (31, 47, 2),
        (397, 18, 1),
        (0, 5, 1),
        (2, 5, 0),
        (30, 5, 0),
    ],
)
def test_gemm_of_a_prepared_weight_is_exact_but_for_the_activations(
    device: Device, rng: np.random.Generator, scheme: QuantScheme, m: int, n: int, units: int, dtype: DType
) -> None:
    k = units * scheme.unit
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
@pytest.mark.parametrize("rows", [24, 25, 96, 401])
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_gate_and_up_meet_in_their_product(
    device: Device, rng: np.random.Generator, scheme: QuantScheme, rows: int, activation: str
) -> None:
    inner, k = scheme.unit, 2 * scheme.unit
    both, values = weight(device, rng, scheme, 2 * inner, k)
    down, _ = weight(device, rng, scheme, k, inner)
    x, bias = rng.standard_normal((rows, k)).astype(np.float32), rng.standard_normal(2 * inner).astype(np.float32)
    up = Linear(device.prepare_weight(both, "up"), device.upload(bias, "up"))
    ffn = FfnWeights((up,), Linear(device.prepare_weight(down, "down")), activation)
    got, place = device._ffn_layer(put(device, x), ffn), put(device, x)
    np.testing.assert_array_equal(got.numpy(), device.linear(device._up(place, ffn), ffn.down).numpy())
    h = device.alloc((rows, inner), dtypes.float32, "h")
    quantized.gated_gemm(device._native, place, up, activation, h)
    gates, ups = np.split(as_int8_groups(x) @ wide(values).T + bias, 2, axis=1)
    gate_size, size = np.split(np.abs(as_int8_groups(x)) @ np.abs(wide(values)).T + np.abs(bias), 2, axis=1)
    activated = wide(reference_ops.activation(gates.astype(np.float32), activation))
    bound = 8e-6 * (gate_size * np.abs(ups) + size * np.abs(activated) + 1)  # no activation is steeper than 1.2
    assert np.all(np.abs(wide(h.numpy()) - activated * ups) <= bound)


@by_scheme
@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("end", [0, 1], ids=["least", "largest"])
def test_the_extreme_codes_do_not_saturate(device: Device, scheme: QuantScheme, end: int, rows: int) -> None:
    k = 2 * scheme.unit
    parts = []
    for name, (shape, dtype) in scheme.parts(16, k).items():
        extreme = 1 if dtype is dtypes.float16 else whole_range(scheme, name, dtype)[end]
        parts.append(np.full(shape, extreme, dtype.numpy))
    values = reference_ops.dequantize(parts, scheme)
    plain = QBuffer.of_parts(scheme, (16, k), [device.upload(part, "w") for part in parts])
    prepared = device.prepare_weight(plain, "w")
    for sign in (1, -1):
        a = np.full((rows, k), sign * 127, np.float32)
        expected = wide(a) @ wide(values).T
        np.testing.assert_array_equal(device.gemm(put(device, a), prepared, trans_b=True).numpy(), expected)


@by_scheme
def test_a_row_does_not_depend_on_the_rows_beside_it(
    device: Device, rng: np.random.Generator, scheme: QuantScheme
) -> None:
    k = 3 * scheme.unit
    prepared = device.prepare_weight(weight(device, rng, scheme, 70, k)[0], "weight")
    a = rng.standard_normal((45, k)).astype(np.float32)
    together = device.gemm(put(device, a), prepared, trans_b=True).numpy()
    alone = [device.gemm(put(device, a[i : i + 1]), prepared, trans_b=True).numpy()[0] for i in range(45)]
    np.testing.assert_array_equal(together, np.stack(alone))


@by_scheme
def test_nan_and_infinity_make_their_row_nan_and_no_other(
    device: Device, rng: np.random.Generator, scheme: QuantScheme
) -> None:
    k = 2 * scheme.unit
    prepared = device.prepare_weight(weight(device, rng, scheme, 20, k)[0], "weight")
    a = rng.standard_normal((4, k)).astype(np.float32)
    a[1, 5], a[2, 40], a[3] = np.nan, -np.inf, 0
    y = device.gemm(put(device, a), prepared, trans_b=True).numpy()
    assert np.all(np.isfinite(y[0])) and np.all(y[3] == 0)
    assert np.all(np.isnan(y[1:3]))


@by_scheme
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_rows_of_a_prepared_and_of_a_plain_weight_are_its_numbers(
    device: Device, rng: np.random.Generator, scheme: QuantScheme, dtype: DType
) -> None:
    plain, values = weight(device, rng, scheme, 37, 3 * scheme.unit)
    ids = np.array([36, 0, 17, 17], np.int32)
    for table in (plain, device.prepare_weight(plain, "weight")):
        assert isinstance(table, QBuffer)
        rows = device.gather_rows(table, device.upload(ids, "ids"), dtype=dtype)
        np.testing.assert_array_equal(rows.numpy(), values[ids].astype(dtype.numpy))
        np.testing.assert_array_equal(device.dequantize(table, dtype=dtype).numpy(), values.astype(dtype.numpy))
        with pytest.raises(DeviceError, match="outside its table"):
            device.gather_rows(table, device.upload(np.array([37], np.int32), "ids"), dtype=dtype)


@by_scheme
@pytest.mark.parametrize(("rows", "units"), [(0, 1), (1, 1), (9, 5)])
def test_quantize_gives_the_codes_of_the_definition(
    device: Device, rng: np.random.Generator, scheme: QuantScheme, rows: int, units: int
) -> None:
    x = rng.standard_normal((rows, units * scheme.unit)).astype(np.float32)
    x[:1] = 0
    expected = reference_ops.quantize(x, scheme)
    got = device.quantize(put(device, x), scheme)
    for part, wanted in zip(got.parts, expected, strict=True):
        np.testing.assert_array_equal(part.numpy().view(wanted.dtype), wanted)


@by_scheme
def test_numbers_quantized_and_back_are_near(device: Device, rng: np.random.Generator, scheme: QuantScheme) -> None:
    x = rng.standard_normal((6, 2 * scheme.unit)).astype(np.float32)
    units = x.reshape(6, 2, scheme.unit)
    back = device.dequantize(device.quantize(put(device, x), scheme), dtype=dtypes.float32).numpy()
    error = np.abs(back - x).reshape(units.shape).max(axis=-1)
    step = (units.max(axis=-1) - units.min(axis=-1)) / (2**scheme.bits - 1)
    assert np.all(error <= 1.5 * step)  # half of one, but at the end where symmetric codes lack one


@by_scheme
def test_slices_of_a_plain_weight_can_be_prepared(
    device: Device, rng: np.random.Generator, scheme: QuantScheme
) -> None:
    plain, values = weight(device, rng, scheme, 40, 2 * scheme.unit)
    part = device.prepare_weight(plain[3:24], "weight")
    assert isinstance(part, QBuffer)
    np.testing.assert_array_equal(device.dequantize(part, dtype=dtypes.float32).numpy(), values[3:24])
