"""Operands for kernels and for core's reference device, and how close results must come.

Both get the same numbers, which the kernel's dtype can hold; the reference computes with them in float32 throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rtp_core.plugin import AttentionBatch, Buffer, Device, DType, dtypes

Array = NDArray[Any]
FLOATS = (dtypes.float32, dtypes.float16, dtypes.bfloat16)
TORCH = {dtypes.float32: torch.float32, dtypes.float16: torch.float16, dtypes.bfloat16: torch.bfloat16}
OURS = {theirs: ours for ours, theirs in TORCH.items()}
# Relative: two sums in another order for float32, half a step or more for the others.
TOLERANCE = {dtypes.float32: 5e-6, dtypes.float16: 1e-3, dtypes.bfloat16: 8e-3}


def rounded(array: Array, dtype: DType) -> Array:
    """As float32, what `dtype` can hold."""
    return np.asarray(array, np.float32).astype(dtype.numpy).astype(np.float32)


def put(array: Array, dtype: DType) -> Tensor:
    """A tensor with a gap of three elements after each row, so that strides matter; the gaps hold NaN."""
    width = array.shape[-1]
    padded = np.full((*array.shape[:-1], width + 3), np.nan, np.float32)
    padded[..., :width] = array
    return torch.from_numpy(padded).to(TORCH[dtype])[..., :width]


def room(shape: Sequence[int], dtype: DType) -> Tensor:
    """A strided place for a result: NaN, so that what is not written shows."""
    return put(np.full(shape, np.nan, np.float32), dtype)


def lent(device: Device, array: Array) -> Buffer:
    return device.upload(np.asarray(array, np.float32), "test")


def ints(values: Array) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.int32).copy())


def assert_close(got: Tensor, expected: Buffer, dtype: DType, *, scale: float = 1.0) -> None:
    """Within the dtype's tolerance, relative to the element or to `scale`, whichever is larger; NaN and inf exact."""
    assert got.dtype == TORCH[dtype]
    actual, wanted = got.double().numpy(), np.asarray(expected.numpy(), np.float64)
    assert actual.shape == wanted.shape
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(actual[~finite], wanted[~finite])
    bound = TOLERANCE[dtype] * np.maximum(np.abs(wanted[finite]), scale)
    worst = np.max(np.abs(actual[finite] - wanted[finite]) / bound, initial=0)
    assert worst <= 1, f"{worst:.2f} times the tolerance"


@dataclass(frozen=True)
class Step:
    """A batch of requests over blocks in no order, decode requests first, in both forms."""

    batch: AttentionBatch
    context_lens: Tensor
    query_starts: Tensor
    block_tables: Tensor
    positions: Tensor
    slots: Tensor


def step_of(device: Device, queries: Sequence[int], contexts: Sequence[int], num_decode: int, block: int) -> Step:
    """Requests with these numbers of query tokens and context tokens."""
    starts = np.concatenate([[0], np.cumsum(queries)]).astype(np.int32)
    width = max([1, *(-(-c // block) for c in contexts)])
    tables = np.random.default_rng(3).permutation(len(queries) * width).reshape(-1, width).astype(np.int32)
    positions = [p for q, c in zip(queries, contexts, strict=True) for p in range(c - q, c)]
    owners = np.repeat(np.arange(len(queries)), queries)
    slots = [tables[r, p // block] * block + p % block for r, p in zip(owners, positions, strict=True)]
    for r, c in enumerate(contexts):
        tables[r, -(-c // block) :] = 1 << 30  # never to be read
    arrays = starts, np.array(contexts, np.int32), tables, np.array(positions, np.int32), np.array(slots, np.int32)
    up = [device.upload(array, "test") for array in arrays]
    batch = AttentionBatch(num_decode, starts, arrays[1], *up)
    query_starts, context_lens, block_tables, *rest = map(ints, arrays)
    return Step(batch, context_lens, query_starts, block_tables, *rest)


def caches(
    device: Device, blocks: int, heads: int, block: int, dim: int, dtype: DType, order: str
) -> tuple[Tensor, Buffer]:
    """A cache [N, 2, K, B, D] as a view of two layers' blocks, in either layout; full of NaN."""
    shape = (blocks, 2, 2, heads, block, dim) if order == "KBD" else (blocks, 2, 2, block, heads, dim)
    empty = np.full(shape, np.nan, np.float32)
    ours, theirs = torch.from_numpy(empty).to(TORCH[dtype])[:, 1], lent(device, empty)[:, 1]
    if order == "KBD":
        return ours, theirs
    return ours.transpose(2, 3), theirs.transpose(0, 1, 3, 2, 4)


def fill(device: Device, kv: tuple[Tensor, Buffer], step: Step, rng: np.random.Generator) -> None:
    """Random keys and values for the whole context of every request."""
    ours, theirs = kv
    _, _, heads, block, dim = ours.shape
    for r, length in enumerate(step.batch.context_lens):
        k, v = (rounded(rng.standard_normal((length, heads, dim)), OURS[ours.dtype]) for _ in range(2))
        t = np.arange(length)
        blocks, offsets = step.block_tables.numpy()[r, t // block], t % block
        slots = device.upload((blocks * block + offsets).astype(np.int32), "slots")
        device.kv_write(theirs, lent(device, k), lent(device, v), slots)
        for part, x in enumerate((k, v)):
            ours[blocks, part, :, offsets] = torch.from_numpy(x).to(ours.dtype)
