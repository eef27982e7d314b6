import math

import numpy as np
import pytest
from cpu_oracle import FLOATS, assert_close, put, rounded, wide

from rtp_core.plugin import ACTIVATIONS, Device, DeviceError, DType, dtypes

SHAPES = [(0, 5), (1, 1), (3, 17), (2, 1031), (130, 64)]


def activated(x: np.ndarray, kind: str) -> np.ndarray:
    sigmoid = np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))
    match kind:
        case "silu":
            return x * sigmoid
        case "sigmoid":
            return sigmoid
        case "relu":
            return np.maximum(x, 0)
        case "tanh":
            return np.tanh(x)
        case "gelu":
            return 0.5 * x * (1 + np.array([math.erf(v / math.sqrt(2)) for v in x.ravel()]).reshape(x.shape))
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_add_and_mul_take_a_matrix_a_row_or_a_column(
    device: Device, rng: np.random.Generator, shape: tuple[int, int], dtype: DType
) -> None:
    a = rounded(rng.standard_normal(shape), dtype)
    for other in (shape, shape[1:], (shape[0], 1)):
        b = rounded(rng.standard_normal(other), dtype)
        assert_close(device.add(put(device, a), put(device, b)), wide(a) + wide(b), dtype)
        assert_close(device.mul(put(device, a), put(device, b)), wide(a) * wide(b), dtype)


def test_add_writes_over_its_first_operand_and_into_strided_views(device: Device, rng: np.random.Generator) -> None:
    a, b = rng.standard_normal((5, 70)), rng.standard_normal((5, 70))
    x = put(device, a, dtypes.float32)
    assert device.add(x, put(device, b, dtypes.float32), out=x) is x
    assert_close(x, wide(rounded(a, dtypes.float32)) + wide(rounded(b, dtypes.float32)), dtypes.float32)


def test_operands_of_mixed_dtypes_compute_in_float32(device: Device, rng: np.random.Generator) -> None:
    a, b = rounded(rng.standard_normal((4, 9)), dtypes.bfloat16), rng.standard_normal((4, 9)).astype(np.float32)
    out = device.alloc((4, 9), dtypes.float32, "test")
    assert_close(device.add(put(device, a), put(device, b), out=out), wide(a) + wide(b), dtypes.float32)


def test_add_refuses_shapes_that_do_not_broadcast(device: Device) -> None:
    a, b = device.upload(np.zeros((3, 4), np.float32), "a"), device.upload(np.zeros((2, 4), np.float32), "b")
    with pytest.raises(DeviceError, match="add cannot take"):
        device.add(a, b)


@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_activations_follow_their_definition(device: Device, rng: np.random.Generator, kind: str, dtype: DType) -> None:
    spread = np.concatenate([np.linspace(-12, 12, 997), rng.standard_normal(40) * 1e-3, [0.0, -60.0, 60.0]])
    x = rounded(spread.reshape(4, 260), dtype)
    assert_close(device.activation(put(device, x), kind=kind), activated(wide(x), kind), dtype, scale=0.1)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations_let_nan_and_infinity_through(device: Device, kind: str) -> None:
    y = device.activation(device.upload(np.array([[np.nan, np.inf]], np.float32), "x"), kind=kind).numpy()
    assert np.isnan(y[0, 0])
    assert y[0, 1] == (1 if kind in ("tanh", "sigmoid") else np.inf)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(1, 2), (3, 34), (2, 1154), (0, 8)], ids=str)
def test_gated_activation_multiplies_the_activated_first_half_with_the_second(
    device: Device, rng: np.random.Generator, shape: tuple[int, int], dtype: DType
) -> None:
    x = rounded(rng.standard_normal(shape), dtype)
    half = shape[1] // 2
    expected = activated(wide(x[:, :half]), "silu") * wide(x[:, half:])
    assert_close(device._gated_activation(put(device, x), kind="silu"), expected, dtype)


def test_casts_round_to_nearest_even_for_every_half_precision_pattern(device: Device) -> None:
    halves = np.arange(65536, dtype=np.uint16).view(np.float16).reshape(64, 1024)
    wide_again = device.cast(device.upload(halves, "x"), dtypes.float32)
    np.testing.assert_array_equal(wide_again.numpy(), halves.astype(np.float32))
    back = device.cast(wide_again, dtypes.float16).numpy()
    same = back.view(np.uint16) == halves.view(np.uint16)
    assert np.all(same | np.isnan(halves))
    with np.errstate(invalid="ignore"):  # signalling NaN among the patterns
        between = wide_again.numpy() * np.float32(1 + 2**-11)
    for dtype in (dtypes.float16, dtypes.bfloat16):
        with np.errstate(over="ignore"):
            expected = between.astype(dtype.numpy)
        got = device.cast(device.upload(between, "x"), dtype).numpy()
        is_nan = np.isnan(between)
        np.testing.assert_array_equal(got.view(np.uint16)[~is_nan], expected.view(np.uint16)[~is_nan])
        assert np.all(np.isnan(got[is_nan].astype(np.float32)))
