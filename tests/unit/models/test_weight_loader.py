"""Matrices merged on the host mean what each of them means, rows one after the other."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rtp_core.checkpoint.gguf_blocks import TENSOR_TYPES, TensorType, stored_buffer
from rtp_core.device import reference_ops
from rtp_core.memory.buffer import Buffer
from rtp_core.memory.qbuffer import QBuffer, QuantScheme
from rtp_core.models.weight_loader import _merged

QUANTIZED = [kind for kind in TENSOR_TYPES.values() if isinstance(kind.stored, QuantScheme)]
IN_BLOCKS = {"Q4_0", "Q4_1", "Q8_0"}  # which are read where they lie
each = pytest.mark.parametrize("kind", QUANTIZED, ids=lambda kind: kind.name)


def stored(kind: TensorType, rows: int, seed: int) -> QBuffer:
    """[rows, 2 blocks] of small random bytes: numbers are finite."""
    nbytes = rows * 2 * kind.block_bytes
    raw = np.random.default_rng(seed).integers(0, 0x40, nbytes, np.uint8)
    found = stored_buffer(kind, (rows, 2 * kind.block), raw)
    assert isinstance(found, QBuffer)
    return found


def numbers(matrix: Buffer) -> NDArray[np.float32]:
    assert isinstance(matrix, QBuffer)
    return reference_ops.dequantize([part.numpy() for part in matrix.parts], matrix.scheme)


@each
def test_rows_follow_each_other(kind: TensorType) -> None:
    matrices = [stored(kind, rows, seed) for seed, rows in enumerate((3, 1, 4))]
    merged = _merged(list(matrices), "qkv")
    assert merged.shape == (8, 2 * kind.block)
    np.testing.assert_array_equal(numbers(merged), np.concatenate([numbers(m) for m in matrices]))


@each
def test_whole_blocks_stay_blocks(kind: TensorType) -> None:
    """One run of bytes is copied at the speed of memory; parts that lie among others are not."""
    merged = _merged([stored(kind, 2, 0), stored(kind, 3, 1)], "up")
    assert isinstance(merged, QBuffer)
    assert (len({id(part.storage) for part in merged.parts}) == 1) == (kind.name in IN_BLOCKS)


@each
def test_some_rows_of_a_matrix_are_not_all_of_it(kind: TensorType) -> None:
    whole, other = stored(kind, 5, 0), stored(kind, 2, 1)
    merged = _merged([whole[1:3], other], "up")
    np.testing.assert_array_equal(numbers(merged), np.concatenate([numbers(whole)[1:3], numbers(other)]))


def test_floats_are_joined_as_they_are() -> None:
    parts = [np.arange(n * 4, dtype=np.float32).reshape(n, 4) for n in (2, 3)]
    merged = _merged([Buffer.borrow(part) for part in parts], "qkv")
    np.testing.assert_array_equal(merged.numpy(), np.concatenate(parts))
