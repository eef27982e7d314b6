"""NumPy in float64: what the ops mean, and how close a result of some dtype must come."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtp_core.plugin import Buffer, Device, DType, dtypes

Array = NDArray[Any]
FLOATS = (dtypes.float32, dtypes.float16, dtypes.bfloat16)
TOLERANCE = {dtypes.float32: 3e-6, dtypes.float16: 1e-3, dtypes.bfloat16: 8e-3}  # relative; half a step or more


def rounded(array: Array, dtype: DType) -> Array:
    return np.asarray(array, np.float64).astype(np.float32).astype(dtype.numpy)


def put(device: Device, array: Array, dtype: DType | None = None) -> Buffer:
    """A device buffer with a gap of three elements after each row, so that strides matter."""
    array = np.asarray(array)
    if dtype is not None:
        array = rounded(array, dtype)
    if array.ndim < 2:
        return device.upload(array, "test")
    padded = np.zeros((*array.shape[:-1], array.shape[-1] + 3), array.dtype)
    padded[..., : array.shape[-1]] = array
    return device.upload(padded, "test")[(*[slice(None)] * (array.ndim - 1), slice(0, array.shape[-1]))]


def wide(x: Array) -> Array:
    return np.asarray(x).astype(np.float64)


def assert_close(got: Buffer, expected: Array, dtype: DType, scale: float = 1.0) -> None:
    """Within the dtype's tolerance, relative to the element or to `scale`, whichever is larger."""
    assert got.dtype is dtype, got
    actual = wide(got.numpy())
    assert actual.shape == expected.shape
    bound = TOLERANCE[dtype] * np.maximum(np.abs(expected), scale)
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~finite & ~np.isnan(expected)], expected[~finite & ~np.isnan(expected)])
    worst = np.max(np.abs(actual - np.where(finite, expected, 0))[finite] / bound[finite], initial=0)
    assert worst <= 1, f"{worst:.2f} times the tolerance"
