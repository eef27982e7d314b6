"""NumPy in float64: what the ops mean, and how close a result of some dtype must come. And operands for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtp_core.plugin import AttentionBatch, Buffer, Device, DType, dtypes

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


def batch_of(
    device: Device, queries: Sequence[int], contexts: Sequence[int], num_decode: int, block: int
) -> AttentionBatch:
    """Requests with these numbers of query tokens and context tokens, over blocks in no order."""
    starts = np.concatenate([[0], np.cumsum(queries)]).astype(np.int32)
    lengths = np.array(contexts, np.int32)
    width = max([1, *(-(-c // block) for c in contexts)])
    order = np.random.default_rng(3).permutation(len(queries) * width)
    tables = order.reshape(len(queries), width).astype(np.int32)
    slots, positions = [], []
    for r, (q, c) in enumerate(zip(queries, contexts, strict=True)):
        for position in range(c - q, c):
            positions.append(position)
            slots.append(tables[r, position // block] * block + position % block)
    for r, c in enumerate(contexts):
        tables[r, -(-c // block) :] = 1 << 30  # never to be read
    up = device.upload
    return AttentionBatch(
        num_decode, starts, lengths, up(starts, "starts"), up(lengths, "lengths"), up(tables, "tables"),
        up(np.array(positions, np.int32), "positions"), up(np.array(slots, np.int32), "slots"),
    )  # fmt: skip


def wide(x: Array) -> Array:
    return np.asarray(x).astype(np.float64)


def assert_close(
    got: Buffer, expected: Array, dtype: DType, scale: float = 1.0, *, precision: DType | None = None
) -> None:
    """Within the tolerance of `precision`, which is `dtype` or less, relative to the element or `scale` if larger."""
    assert got.dtype is dtype, got
    actual = wide(got.numpy())
    assert actual.shape == expected.shape
    bound = TOLERANCE[precision or dtype] * np.maximum(np.abs(expected), scale)
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~finite & ~np.isnan(expected)], expected[~finite & ~np.isnan(expected)])
    worst = np.max(np.abs(actual - np.where(finite, expected, 0))[finite] / bound[finite], initial=0)
    assert worst <= 1, f"{worst:.2f} times the tolerance"
