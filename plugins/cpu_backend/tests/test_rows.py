import numpy as np
import pytest
from cpu_oracle import FLOATS, assert_close, put, rounded, wide

from rtp_core.plugin import Buffer, Device, DeviceError, DType, Norm, dtypes

SHAPES = [(0, 5), (1, 1), (3, 17), (2, 1031), (70, 64)]


def rms(x: np.ndarray, w: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * w


def layer(x: np.ndarray, w: np.ndarray, b: np.ndarray, eps: float) -> np.ndarray:
    d = x - np.mean(x, axis=-1, keepdims=True)
    return d / np.sqrt(np.mean(d * d, axis=-1, keepdims=True) + eps) * w + b


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_norms_follow_their_definition(
    device: Device, rng: np.random.Generator, shape: tuple[int, int], dtype: DType
) -> None:
    x, w, b = (rounded(rng.standard_normal(s) + 0.5, dtype) for s in (shape, shape[1:], shape[1:]))
    px, pw, pb = put(device, x), put(device, w), put(device, b)
    assert_close(device.rms_norm(px, pw, eps=1e-5), rms(wide(x), wide(w), 1e-5), dtype)
    assert_close(device.layer_norm(px, pw, pb, eps=1e-3), layer(wide(x), wide(w), wide(b), 1e-3), dtype, scale=4)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("has_bias", [False, True])
def test_add_norm_writes_the_sum_over_the_residual(
    device: Device, rng: np.random.Generator, dtype: DType, has_bias: bool
) -> None:
    x, residual = (rounded(rng.standard_normal((5, 577)), dtype) for _ in range(2))
    w, b = (rng.standard_normal(577).astype(np.float32) for _ in range(2))
    place = put(device, residual)
    norm = Norm(put(device, w), 1e-5, put(device, b) if has_bias else None)
    normed, total = device._add_norm(put(device, x), place, norm)
    stored = wide(rounded(wide(x) + wide(residual), dtype))
    assert total.address == place.address
    np.testing.assert_array_equal(wide(total.numpy()), stored)
    expected = layer(stored, wide(w), wide(b), 1e-5) if has_bias else rms(stored, wide(w), 1e-5)
    assert_close(normed, expected, dtype, scale=4)


def test_norm_takes_heads_that_are_no_single_stride(device: Device, rng: np.random.Generator) -> None:
    qkv = rng.standard_normal((4, 3 * 16)).astype(np.float32)
    x = device.upload(qkv, "qkv")[:, 16:48].view(4, 2, 16)
    w = rng.standard_normal(16).astype(np.float32)
    assert device.rms_norm(x, put(device, w), eps=1e-6, out=x) is x
    assert_close(x, rms(wide(qkv[:, 16:48].reshape(4, 2, 16)), wide(w), 1e-6), dtypes.float32)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(0, 2, 3), (1, 1, 1), (3, 5, 7), (2, 3, 1100)], ids=str)
def test_softmax_scales_caps_and_masks(
    device: Device, rng: np.random.Generator, shape: tuple[int, ...], dtype: DType
) -> None:
    x = rounded(rng.standard_normal(shape) * 5, dtype)
    mask = np.where(rng.random(shape[1:]) < 0.3, -np.inf, 0).astype(np.float32)
    mask[0] = -np.inf
    mask[-1] = 0
    y = 3 * np.tanh(wide(x) * 0.25 / 3) + mask
    top = np.where(np.isneginf(y.max(axis=-1, keepdims=True)), 0, y.max(axis=-1, keepdims=True))
    e = np.exp(y - top)
    expected = e / np.where(e.sum(axis=-1, keepdims=True) == 0, 1, e.sum(axis=-1, keepdims=True))
    got = device.softmax(put(device, x), scale=0.25, softcap=3.0, mask=put(device, mask))
    assert_close(got, expected, dtype, scale=0.05)


def test_softmax_of_huge_scores_and_of_nan(device: Device) -> None:
    x = np.array([[1e30, 0, -1e30], [np.nan, 0, 1], [-1e4, -1e4, -2e4]], np.float32)
    y = device.softmax(device.upload(x, "x")).numpy()
    np.testing.assert_array_equal(y[0], [1, 0, 0])
    assert np.all(np.isnan(y[1]))
    np.testing.assert_array_equal(y[2], [0.5, 0.5, 0])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("dim", "half"), [(2, 1), (64, 32), (80, 16), (6, 0), (34, 17)])
def test_rope_rotates_pairs_in_place_and_leaves_the_rest(
    device: Device, rng: np.random.Generator, dim: int, half: int, dtype: DType
) -> None:
    x = rounded(rng.standard_normal((7, 3, dim)), dtype)
    angles = rng.random((50, half)) * 6
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    positions = rng.integers(0, 50, 7).astype(np.int32)
    c, s = wide(cos)[positions][:, None], wide(sin)[positions][:, None]
    expected = wide(x)
    first, second = expected[..., :half].copy(), expected[..., half : 2 * half].copy()
    expected[..., :half], expected[..., half : 2 * half] = first * c - second * s, second * c + first * s
    place = put(device, x)
    tables = device.upload(cos, "cos"), device.upload(sin, "sin"), device.upload(positions, "positions")
    assert_close(device.rope(place, *tables), expected, dtype)
    assert device.rope(place, *tables, out=place) is place
    assert_close(place, expected, dtype)


def test_rope_refuses_a_position_outside_its_tables(device: Device) -> None:
    x, table = device.upload(np.zeros((1, 1, 4), np.float32), "x"), device.upload(np.zeros((8, 2), np.float32), "t")
    for position in (8, -1):
        with pytest.raises(DeviceError, match="outside its table"):
            device.rope(x, table, table, device.upload(np.array([position], np.int32), "p"))


@pytest.mark.parametrize("stored", FLOATS, ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_gather_rows_picks_and_casts(device: Device, rng: np.random.Generator, stored: DType, dtype: DType) -> None:
    table = rounded(rng.standard_normal((11, 37)), stored)
    ids = np.array([10, 0, 3, 3], np.int32)
    got = device.gather_rows(put(device, table), device.upload(ids, "ids"), dtype=dtype)
    np.testing.assert_array_equal(got.numpy(), table[ids].astype(np.float32).astype(dtype.numpy))
    column = device.upload(np.stack([ids, ids], axis=1), "ids")[:, 1]
    np.testing.assert_array_equal(device.gather_rows(put(device, table), column).numpy(), table[ids])


def test_gather_rows_refuses_ids_outside_the_table(device: Device) -> None:
    table = device.upload(np.zeros((4, 2), np.float32), "table")
    for bad in (4, -1):
        with pytest.raises(DeviceError, match="outside its table"):
            device.gather_rows(table, device.upload(np.array([0, bad], np.int32), "ids"))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("shape", "k"), [((1, 1), 1), ((3, 50), 7), ((2, 1300), 50), ((2, 9), 9), ((2, 5), 0)])
def test_top_k_is_descending_with_the_lowest_index_first(
    device: Device, rng: np.random.Generator, shape: tuple[int, int], k: int, dtype: DType
) -> None:
    x = rounded(rng.integers(-9, 9, shape), dtype)  # many ties
    values, indices = device.top_k(put(device, x), k)
    order = np.argsort(-wide(x), axis=-1, kind="stable")[:, :k]
    np.testing.assert_array_equal(indices.numpy(), order)
    np.testing.assert_array_equal(values.numpy(), np.take_along_axis(x, order, axis=-1))


def test_top_k_puts_nan_last(device: Device) -> None:
    x = device.upload(np.array([[np.nan, 1, np.nan, -np.inf]], np.float32), "x")
    np.testing.assert_array_equal(device.top_k(x, 4)[1].numpy(), [[1, 3, 0, 2]])


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.int64])
def test_copy_moves_any_strides_and_widths(device: Device, rng: np.random.Generator, dtype: type) -> None:
    array = rng.integers(0, 100, (3, 1, 4, 5, 2, 6)).astype(dtype)
    source = device.upload(array, "source").transpose(5, 0, 2, 1, 4, 3)
    target = device.alloc(source.shape, source.dtype, "target")
    device.copy(target, source)
    np.testing.assert_array_equal(target.numpy(), array.transpose(5, 0, 2, 1, 4, 3))
    back = device.upload(np.zeros_like(array), "back")
    device.copy(back.transpose(5, 0, 2, 1, 4, 3), target)
    np.testing.assert_array_equal(back.numpy(), array)
    long = Buffer.borrow(np.arange(20001).astype(dtype))
    np.testing.assert_array_equal(device.download(long[::3]), np.arange(20001).astype(dtype)[::3])
    device.copy(device.alloc((0, 3), dtypes.int8, "none"), device.alloc((0, 3), dtypes.int8, "none"))
